"""What belongs to the patient stays out of logs, warnings and errors."""

from __future__ import annotations

import functools
import hashlib
import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from medsal.dicom.reasons import Reason, Refusal
from medsal.errors import MedsalError, UsageError

if TYPE_CHECKING:
    from pydicom import Dataset

P = ParamSpec("P")
T = TypeVar("T")

TALKATIVE = ("pydicom", "pynetdicom", "highdicom", "urllib3", "dicomweb_client")
"""Loggers of libraries that write values of elements or identifiers of queries below WARNING."""

WARNINGS: Counter[str] = Counter()
"""How many warnings of each class were dropped: their texts quote values of the patient's header."""

REMOVED = "[removed]"

_UID = re.compile(r"(?<![\d.])\d+(?:\.\d+){4,}(?![\d.])")
_PART = r"(?:\[removed\]|[^\s'\"=<>\[\](),;:^])"
_NAME = re.compile(rf"{_PART}+(?:\^{_PART}*)+")
_IDENTIFYING = (
    "PatientName PatientID OtherPatientIDs OtherPatientNames PatientBirthName PatientBirthDate PatientMotherBirthName "
    "PatientAddress PatientTelephoneNumbers IssuerOfPatientID AccessionNumber StudyID ReferringPhysicianName "
    "PerformingPhysicianName OperatorsName NameOfPhysiciansReadingStudy RequestingPhysician PhysiciansOfRecord "
    "InstitutionName InstitutionAddress StationName DeviceSerialNumber MedicalRecordLocator PatientComments"
).split()


def pseudonym(identifier: object, kind: str = "series") -> str:
    """A name for logs and files that says nothing about the patient, and is the same every time.

    Args:
        identifier: for example a series instance UID.
        kind: what it names.

    Returns:
        ``kind`` and twelve hexadecimal digits of the SHA-256.

    Example:
        >>> pseudonym("1.2.3")
        'series-c47f5b18b8a4'
    """
    return f"{kind}-{hashlib.sha256(str(identifier).encode()).hexdigest()[:12]}"


@contextmanager
def quiet() -> Iterator[None]:
    """Count the warnings of what runs inside instead of showing them, and keep talkative libraries at WARNING.

    Yields:
        Nothing. Loggers that were set stricter stay so; warnings are caught for the whole process meanwhile.
    """
    for name in TALKATIVE:
        logger = logging.getLogger(name)
        if logger.level < logging.WARNING:
            logger.setLevel(logging.WARNING)
    pydicom_logger = logging.getLogger("pydicom")
    before = pydicom_logger.disabled
    pydicom_logger.disabled = True  # its warnings quote values
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        pydicom_logger.disabled = before
    WARNINGS.update(warning.category.__name__ for warning in caught)


def contained(extra: str, instead: Callable[[Exception], MedsalError]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let nothing out of a function but its result and errors of medsal.

    What comes from elsewhere makes the libraries raise nearly every class of exception, and their texts quote values of
    the header.

    Args:
        extra: that installs what the function imports.
        instead: the error in place of one that is none of medsal's; it is not chained to it.

    Returns:
        A decorator: warnings are counted, errors replaced.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                with quiet():
                    return function(*args, **kwargs)
            except MedsalError:
                raise
            except ImportError as error:
                raise UsageError(
                    f"medsal.{extra}: no {error.name}; install it with: pip install 'medsal[{extra}]'"
                ) from None
            except Exception as error:  # noqa: BLE001  (damaged input raises ten classes and more; none may pass)
                found = instead(error)
            raise found  # outside of the handlers, so that no context carries the text on

        return wrapper

    return decorate


def _refusal(error: Exception) -> Refusal:
    """What an error of a file means."""
    if isinstance(error, MemoryError):
        return Refusal(Reason.TOO_LARGE, "out of memory")
    return (
        Refusal(Reason.MISSING)
        if isinstance(error, FileNotFoundError)
        else Refusal(Reason.BROKEN, type(error).__name__)
    )


sealed = contained("dicom", _refusal)
"""For functions that read something from DICOM."""


class PhiFilter(logging.Filter):
    """Takes patients' identifiers out of log records: attach it to handlers, as filters of loggers miss children.

    UIDs become pseudonyms, names in DICOM's form (``Family^Given``) and everything that `learn` was shown is removed,
    from the text as well as from tracebacks.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: set[str] = set()

    def learn(self, *datasets: Dataset) -> None:
        """Remember who the patient of a header is.

        Args:
            datasets: headers.
        """
        for dataset in datasets:
            for keyword in _IDENTIFYING:
                self._known.update(_spellings(dataset.get(keyword)))

    def forget(self) -> None:
        """Forget who was learnt, before the next patient: it takes time to look for many."""
        self._known.clear()

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean a record.

        Args:
            record: is changed.

        Returns:
            True: no record is dropped.
        """
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = f"{REMOVED} (a log record whose arguments do not fit)"
        record.msg, record.args = self.clean(message), ()
        if record.exc_info and not isinstance(record.exc_info, bool):
            record.exc_text = self.clean(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        if record.stack_info:
            record.stack_info = self.clean(record.stack_info)
        return True

    def clean(self, text: str) -> str:
        """Take identifiers out of a text.

        Args:
            text: any.

        Returns:
            It, without them.

        Example:
            >>> PhiFilter().clean("no slice of Doe^Jane in 1.2.840.113619.2.5.1")
            'no slice of [removed] in uid-437b5b8844da'
        """
        for known in sorted(self._known, key=len, reverse=True):
            text = re.sub(rf"(?<!\w){re.escape(known)}(?!\w)", REMOVED, text, flags=re.IGNORECASE)
        text = _NAME.sub(REMOVED, text)
        return _UID.sub(lambda found: pseudonym(found[0], "uid"), text)


CLEANER = PhiFilter()
"""Of the logs of medsal's own commands; it knows whose series they are working on."""


def _spellings(value: Any) -> set[str]:
    """A value as it may stand in a text: whole, its parts, its writings; single characters say nothing."""
    if value is None or value == "":
        return set()
    if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue":
        return set().union(*(_spellings(one) for one in value))
    whole = str(value).strip()
    parts = {part.strip() for part in re.split(r"[\^=]", whole)}
    spoken = {whole, " ".join(part for part in re.split(r"[\^=]", whole) if part), whole.replace("^", "_")}
    return {text for text in parts | spoken if len(text) > 1}
