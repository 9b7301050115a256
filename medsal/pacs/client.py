"""What can be asked of a node, however it is spoken to."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from medsal.dicom.uids import valid_uid
from medsal.errors import UsageError
from medsal.pacs.nodes import Node
from medsal.pacs.troubles import Problem

_DATES = re.compile(r"\d{8}|\d{8}-|-\d{8}|\d{8}-\d{8}")
_MODALITY = re.compile(r"[A-Z0-9_]{1,16}")


@dataclass(frozen=True)
class Study:
    """A study that a node has; nothing else of the patient is kept.

    Attributes:
        uid: study instance UID.
        instances: number of its objects; None where the node does not say.
        modalities: of its series; empty where the node does not say.
        date: YYYYMMDD; empty where unknown.
    """

    uid: str
    instances: int | None = None
    modalities: tuple[str, ...] = ()
    date: str = ""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Matching keys of a query; empty ones match everything.

    Attributes:
        study_uids: study instance UIDs.
        patient_id: patient's ID.
        accession: accession number.
        date: YYYYMMDD, or a range such as 20250101-20250131.
        modality: that a study must hold.
        description: of the study, with wildcards.
    """

    study_uids: tuple[str, ...] = ()
    patient_id: str = ""
    accession: str = ""
    date: str = ""
    modality: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        if not all(valid_uid(one) for one in self.study_uids):
            raise UsageError("study: wanted study instance UIDs, got something else")
        for name in ("patient_id", "accession", "description"):
            value = getattr(self, name)
            if len(value) > 64 or "\\" in value or not value.isprintable():
                raise UsageError(f"{name}: wanted at most 64 characters, no backslash and no control characters")
        if self.date and not _DATES.fullmatch(self.date):
            raise UsageError(f"date: wanted YYYYMMDD, or a range such as 20250101-20250131, got {self.date!r}")
        if self.modality and not _MODALITY.fullmatch(self.modality):
            raise UsageError(f"modality: wanted one such as MR, got {self.modality!r}")


@dataclass(frozen=True)
class Sent:
    """What became of one object that was to be sent.

    Attributes:
        uid: its SOP instance UID; empty where it has none.
        problem: None where the node has it now.
        detail: of it.
    """

    uid: str
    problem: Problem | None = None
    detail: str = ""


class Client(Protocol):
    """A node as the rest of medsal sees it. Every method raises `Trouble` and nothing else where the node fails."""

    node: Node

    def echo(self) -> None:
        """Ask whether the node is there and speaks with us."""

    def find(self, wanted: Wanted) -> list[Study]:
        """Look for studies.

        Args:
            wanted: matching keys.
        """

    def instances(self, study_uid: str) -> frozenset[str] | None:
        """The objects that the node holds of a study.

        Args:
            study_uid: study instance UID.

        Returns:
            Their SOP instance UIDs; None where it cannot be asked.
        """

    def patient(self, study_uid: str) -> str | None:
        """Whose study it is now; for comparison, never to be kept or said.

        Args:
            study_uid: study instance UID.

        Returns:
            The patient's ID; None where the node does not say it.
        """

    def fetch(self, study_uid: str, folder: Path) -> int:
        """Fetch a study, or what is missing of it.

        Args:
            study_uid: study instance UID.
            folder: where its files go, each there whole or not at all, under a pseudonym.

        Returns:
            Number of its objects that are in the folder.
        """

    def store(self, files: Sequence[Path], done: Callable[[Sent], None] | None = None) -> list[Sent]:
        """Send objects; one that cannot be sent does not stop the others.

        Args:
            files: DICOM files.
            done: told of each as it is known.

        Returns:
            What became of each, in the order of the files.
        """

    def confirm(self, study_uid: str, uids: Sequence[str]) -> frozenset[str]:
        """Ask whether the node keeps what was sent.

        Args:
            study_uid: study instance UID.
            uids: SOP instance UIDs.

        Returns:
            Those that it does not keep.
        """
