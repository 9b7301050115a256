"""`medsal dicom deid`: research copies of every image of a folder, and what was not copied."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsal.bundle.exits import ALL_FAILED, DONE, NOTHING, SOME_FAILED
from medsal.dicom.deid import deidentify, refuse_shown
from medsal.dicom.phi import pseudonym
from medsal.dicom.progress import Lines
from medsal.dicom.reasons import Reason, Refusal
from medsal.dicom.units import Found, begin, counts, unit_name
from medsal.errors import UsageError


@dataclass(frozen=True)
class Copied:
    """What became of the files of a folder.

    Attributes:
        files: how many were copied, or would be.
        refused: the others.
    """

    files: int
    refused: tuple[Refusal, ...]

    @property
    def exit_code(self) -> int:
        """0 all copied, 3 nothing there, 4 some not, 5 none; files that are no DICOM do not count."""
        bad = sum(one.reason is not Reason.NOT_DICOM for one in self.refused)
        if not self.files:
            return ALL_FAILED if bad else NOTHING
        return SOME_FAILED if bad else DONE

    def as_dict(self) -> dict[str, Any]:
        """For a program.

        Returns:
            Plain types; nothing that ties a copy to its original.
        """
        return {"copied": self.files, "refused_files": counts(self.refused), "exit_code": self.exit_code}


def read_key(path: str | Path) -> bytes:
    """Read the secret that patients' numbers are made with.

    Args:
        path: of a file of at least 16 bytes.

    Returns:
        Its bytes, without blanks at the ends.

    Raises:
        UsageError: there is none, or it is too short.
    """
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        raise UsageError(
            f"key-file: cannot read {path} ({error.strerror}); make one with: head -c 32 /dev/urandom | base64 > {path}"
        ) from None
    if len(key) < 16:
        raise UsageError(f"key-file: wanted at least 16 bytes, {path} has {len(key)}")
    return key


def copy_all(found: Found, folder: str | Path, key: bytes, *, dry_run: bool = False) -> Copied:
    """Write a copy of every image without the patient's identity; again writes the same files.

    Args:
        found: what is copied.
        folder: where; one folder for each series, under new names.
        key: as `medsal.dicom.deidentify` takes it.
        dry_run: only say what is refused before it is opened.

    Returns:
        What became of them.
    """
    lines, copied, refused = Lines(len(found.series)), 0, list(found.refused)
    for series in found.series:
        begin(series)
        before = len(refused)
        for one in series.files:
            try:
                if dry_run:
                    refuse_shown(one)
                else:
                    deidentify(one, Path(folder) / keyed(series.uid, key), key)
                copied += 1
            except Refusal as refusal:
                refused.append(refusal)
        bad = refused[before:]
        lines.say(
            unit_name(series),
            f"refused: {', '.join(counts(bad))};" if bad else "would be copied" if dry_run else "copied",
        )
    return Copied(copied, tuple(refused))


def keyed(uid: str, key: bytes) -> str:
    """A name for the folder of a series that only who has the key can find.

    Args:
        uid: of the series.
        key: the secret.

    Returns:
        A pseudonym.
    """
    return pseudonym(hmac.new(key, uid.encode(), "sha256").hexdigest())
