"""What is looked at one by one: a series of slices, or one film; and which of them a part of an array job takes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medsal.dicom.film import FILMS
from medsal.dicom.phi import CLEANER, pseudonym
from medsal.dicom.reasons import Refusal
from medsal.dicom.safe import Opened
from medsal.dicom.scan import Series, scan_folder
from medsal.dicom.uids import is_own
from medsal.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """One part of several: whole studies, by the hash of their UID.

    Attributes:
        number: of this part, from 1.
        of: number of parts.
    """

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n``.

        Args:
            text: such as ``2/8``.

        Returns:
            The part.

        Raises:
            UsageError: if it is none.

        Example:
            >>> Shard.parse("2/8")
            Shard(number=2, of=8)
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"shard: wanted i/n with i from 1 to n, such as 2/8, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def takes(self, key: str) -> bool:
        """Whether something belongs to this part.

        Args:
            key: a study instance UID, or the path of a file that has none.

        Returns:
            True in exactly one of the parts.
        """
        return int(hashlib.sha256(key.encode()).hexdigest(), 16) % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True, eq=False)
class Found:
    """What a part of a job sees of a folder.

    Attributes:
        series: series of slices, and films one by one.
        refused: files that cannot be read.
    """

    series: tuple[Series, ...]
    refused: tuple[Refusal, ...]


def find(source: str | Path, shard: Shard | None = None, without: str | Path | None = None) -> Found:
    """Look through a folder.

    Args:
        source: a folder (with everything below), a DICOMDIR, or one file.
        shard: the part of the studies that is wanted; all of them if None.
        without: a folder that is not looked at, such as that of results.

    Returns:
        Its series, a film at a time, and what was refused.

    Raises:
        UsageError: there is no such folder or file.
    """
    if not Path(source).exists():
        raise UsageError(f"no folder or file {source}; wanted a folder of DICOM files, a DICOMDIR, or one file")
    scan, part = scan_folder(source), shard or Shard()
    away = Path(without).resolve() if without is not None else None

    def ours(path: Path | None) -> bool:
        return away is None or path is None or not path.resolve().is_relative_to(away)

    kept = [
        Series(one.uid, one.study_uid, files)
        for one in scan.series
        if part.takes(one.study_uid) and (files := tuple(file for file in one.files if ours(file.path)))
    ]
    refused = [one for one in scan.refused if ours(one.path) and part.takes(_relative(one.path, source))]
    return Found(tuple(unit for one in kept for unit in one_by_one(one)), tuple(refused))


def _relative(path: Path | None, source: str | Path) -> str:
    """A path that is the same wherever the folder is mounted."""
    root = Path(source)
    return str(path.relative_to(root)) if path is not None and path.is_relative_to(root) else str(path)


def one_by_one(series: Series) -> list[Series]:
    """Take the films of a series apart; slices stay together.

    Args:
        series: from `medsal.dicom.scan_folder`.

    Returns:
        It, or one series for each of its films. Results of medsal stay together, and so do other files under one UID,
        to be refused.
    """
    alone = len(series.files) < 2 or any(is_own(one.header) for one in series.files)
    if alone or any(one.text("SOPClassUID") not in FILMS for one in series.files):
        return [series]
    films: dict[str, list[Opened]] = {}
    for one in series.files:
        under = films.setdefault(one.uid, [])
        if not under or one.digest not in {other.digest for other in under}:  # copies of a file count once
            under.append(one)
    return [Series(series.uid, series.study_uid, tuple(files)) for files in films.values()]


def is_film(series: Series) -> bool:
    """Whether a series is of films.

    Args:
        series: one of `Found`.

    Returns:
        True by the SOP class of its first file.
    """
    return series.first.text("SOPClassUID") in FILMS


def unit_name(series: Series) -> str:
    """A name that says nothing about the patient, other for every film.

    Args:
        series: one of `Found`.

    Returns:
        ``film-`` or ``series-`` and a hash; a film under the UID of another, but of another series, has its own.
    """
    return pseudonym(f"{series.uid}|{series.first.uid}", "film") if is_film(series) else series.name


def begin(series: Series) -> None:
    """Keep the patient of a series out of what is logged from here on.

    Args:
        series: the one that is worked on.
    """
    CLEANER.forget()
    CLEANER.learn(*(one.header for one in series.files))


def counts(refused: Iterable[Refusal]) -> dict[str, int]:
    """How often each reason came.

    Args:
        refused: refusals.

    Returns:
        Code -> number.
    """
    found: dict[str, int] = {}
    for one in refused:
        found[one.reason.value] = found.get(one.reason.value, 0) + 1
    return dict(sorted(found.items()))
