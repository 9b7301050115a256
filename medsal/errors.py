"""The errors of medsal: each says what was wanted, what came, and what to do."""

from __future__ import annotations


class MedsalError(Exception):
    """Base of every error that medsal raises on purpose; its text is one line made to be read by a user."""


class UsageError(MedsalError):
    """An option, a configuration or a set of weights is wrong: nothing can be done before it is put right."""


class InputError(MedsalError):
    """One case cannot be read or explained; the other cases can."""


class NothingToDoError(UsageError):
    """There is no case to explain; a run ends with exit code 3."""
