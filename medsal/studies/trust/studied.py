"""What tables and figures read of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from medsal.studies.trust.cases import Batch, Cases
    from medsal.studies.trust.explainers import Explainers
    from medsal.studies.trust.randomisation import State
    from medsal.studies.trust.records import Records
    from medsal.studies.trust.settings import StudySettings
    from medsal.studies.trust.subject import Member


class Studied(Protocol):
    """A study whose steps are done, see ``medsal.studies.Study``.

    Attributes:
        settings: of the study.
        members: its networks.
        explainers: its methods.
        cases: its images.
        records: what its steps found.
    """

    settings: StudySettings
    members: list[Member]
    explainers: Explainers
    cases: Cases
    records: Records

    def key(self, kind: str, member: Member, batch: Batch) -> str:
        """Key of the step of a batch."""

    def states(self, member: Member) -> list[State]:
        """All states of a network, in order."""

    def distinct(self, member: Member) -> list[State]:
        """The states that differ."""
