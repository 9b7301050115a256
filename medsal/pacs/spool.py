"""The studies that wait on disk, in one layout for what was sent to us and what was fetched.

::

    <folder>/spool/<study-...>/<object-...>.dcm    one file for each SOP instance, there whole or not at all
    <folder>/spool/<study-...>/.arrived            touched at each arrival
    <folder>/incoming/.<...>.part                  what the listener is receiving
    <folder>/rejected/<reason>-<hash>              files that are no DICOM or have no valid UIDs; a few, for a look

Names are pseudonyms; who they are stands in the files.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medsal.dicom.phi import pseudonym
from medsal.dicom.reasons import Reason, Refusal
from medsal.dicom.safe import LIMITS, Limits, Opened, open_file
from medsal.dicom.uids import valid_uid
from medsal.pacs.parts import Part, disk_trouble, move_into, private_folder
from medsal.pacs.settings import Work
from medsal.pacs.strays import ARRIVED, reject, remove_empty, strays
from medsal.pacs.troubles import Problem, Trouble
from medsal.pacs.usage import Usage

_GIB = 2**30


def object_name(sop_uid: str) -> str:
    """The file name of an object in the folder of its study.

    Args:
        sop_uid: SOP instance UID.

    Returns:
        ``object-<hash>.dcm``.
    """
    return f"{pseudonym(sop_uid, 'object')}.dcm"


@dataclass(frozen=True)
class Held:
    """A study in the spool.

    Attributes:
        uid: study instance UID, read from a file.
        folder: its folder.
        files: number of objects.
        arrived: seconds since the epoch, of the last arrival.
    """

    uid: str
    folder: Path
    files: int
    arrived: float


class Spool:
    """The spool of a site; several processes may put into it.

    Args:
        folder: of the site.
        work: its limits: ``spool_gib``, ``free_gib``, ``quiet_seconds``.
        limits: of files that are taken.
    """

    def __init__(self, folder: str | Path, work: Work, limits: Limits = LIMITS) -> None:
        self.root, self.incoming, self.rejected = (Path(folder) / name for name in ("spool", "incoming", "rejected"))
        self.work, self.limits = work, limits
        self._usage = Usage((self.root, self.incoming))
        with disk_trouble():
            for each in (self.root, self.incoming, self.rejected):
                private_folder(each)

    def study(self, study_uid: str) -> Path:
        """The folder of a study, whether it is there or not.

        Args:
            study_uid: study instance UID.

        Returns:
            Its path.

        Raises:
            Trouble: ``bad_object`` if it is no UID.
        """
        if not valid_uid(study_uid):
            raise Trouble(Problem.BAD_OBJECT, "StudyInstanceUID")
        return self.root / pseudonym(study_uid, "study")

    def room(self, coming: int = 0) -> Trouble | None:
        """Whether more may come.

        Args:
            coming: bytes that are expected.

        Returns:
            None, or ``disk_full`` with what is lacking.
        """
        held, most = self._usage.bytes() + coming, self.work.spool_gib * _GIB
        if held > most:
            return Trouble(Problem.DISK_FULL, f"the spool holds {held / _GIB:.2f} GiB of {self.work.spool_gib:g}")
        try:
            free = shutil.disk_usage(self.root).free - coming
        except OSError as error:
            return Trouble(Problem.DISK_FULL, error.strerror or type(error).__name__)
        if free < self.work.free_gib * _GIB:
            return Trouble(Problem.DISK_FULL, f"{free / _GIB:.2f} GiB free, wanted {self.work.free_gib:g}")
        return None

    def part(self) -> Part:
        """Begin a file that comes in.

        Returns:
            It; give its path to `take` when it is whole, or discard it.

        Raises:
            Trouble: ``disk_full``.
        """
        with disk_trouble():
            return Part(self.incoming)

    def take(self, path: Path, check: Callable[[Opened], None] | None = None) -> Held:
        """Move a whole file into its study. One that is there already, byte for byte, stays; another is replaced.

        Args:
            path: on the same disk.
            check: told of its header; the file stays where it is if that raises.

        Returns:
            The study, with 1 for the number of its files.

        Raises:
            Refusal: a link, no DICOM file, damaged, beyond the limits, or of UIDs that are none; it stays where it is.
            Trouble: ``disk_full``.
        """
        if path.is_symlink():
            raise Refusal(Reason.OUTSIDE, path=path)
        opened = open_file(path, self.limits)
        study_uid, sop_uid = opened.text("StudyInstanceUID"), opened.uid
        if not (valid_uid(study_uid) and valid_uid(sop_uid)):  # a DICOMDIR has none
            raise Refusal(Reason.INVALID_UID, "SOPInstanceUID", path)
        if check is not None:
            check(opened)
        place = self.study(study_uid) / object_name(sop_uid)
        with disk_trouble():
            size = path.stat().st_size
            arrived = _touch(place.parent)  # first, so that nobody takes the study for what it was and removes it
            if place != path and place.is_file() and filecmp.cmp(path, place, shallow=False):
                path.unlink()
            elif place != path:
                path.chmod(0o600)
                move_into(path, place)
                self._usage.add(size)
            return Held(study_uid, place.parent, 1, arrived)

    def reject(self, path: Path, reason: str) -> None:
        """Put a file that cannot be used aside, under the hash of its content.

        Args:
            path: of it.
            reason: a code.

        Raises:
            Trouble: ``disk_full``.
        """
        with disk_trouble():
            reject(path, self.rejected, reason)

    def adopt(self) -> dict[str, int]:
        """Put what lies in the spool in order: after a kill, or when somebody copied files into it.

        Parts of files are removed, files under other names than theirs are moved to their places, and what cannot be
        used is rejected. Nobody may fetch meanwhile; the listener may go on.

        Returns:
            How many files were rejected for which reason.

        Raises:
            Trouble: ``disk_full``.
        """
        with disk_trouble():
            for left in [*self.root.glob("*.trash"), *self.root.glob("**/.*.part")]:
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        found: Counter[str] = Counter()
        wrong = (folder for folder in self.root.glob("study-*") if not self._uid_of(folder))
        moved = (path for folder in wrong for path in folder.glob("object-*.dcm"))
        for path in dict.fromkeys([*strays(self.root), *moved]):
            try:
                self.take(path)
            except Refusal as refusal:
                found[refusal.reason.value] += 1
                self.reject(path, refusal.reason.value)
        remove_empty(self.root)
        return dict(sorted(found.items()))

    def clear_incoming(self) -> None:
        """Remove what a listener was receiving when it was killed; only the listener may call it, before it begins."""
        for left in self.incoming.glob(".*.part"):
            left.unlink(missing_ok=True)

    def studies(self) -> list[Held]:
        """What waits.

        Returns:
            The studies that have an object, by time of their last arrival.
        """
        uids = {folder: self._uid_of(folder) for folder in self.root.glob("study-*")}
        found = [
            Held(uid, folder, len(list(folder.glob("object-*.dcm"))), _arrived(folder))
            for folder, uid in uids.items()
            if uid
        ]
        return sorted(found, key=lambda one: one.arrived)

    def _uid_of(self, folder: Path) -> str:
        """The study of a folder, by the first file that can be read; empty where that belongs elsewhere."""
        files = sorted(folder.glob("object-*.dcm"))
        uid = next((uid for path in files if (uid := _value(path, "StudyInstanceUID", self.limits))), "")
        return uid if folder.name == pseudonym(uid, "study") else ""

    def quiet(self) -> list[Held]:
        """The studies that nothing was added to for ``quiet_seconds``.

        Returns:
            Those of `studies` that count as whole.
        """
        now = time.time()
        found = self.studies()
        for one in found:
            if one.arrived > now + 1.0:  # the clock was set back since; the wait begins anew
                _touch(one.folder)
        return [one for one in found if one.arrived <= now - self.work.quiet_seconds]

    def instances(self, study_uid: str) -> frozenset[str]:
        """Which objects of a study are there.

        Args:
            study_uid: study instance UID.

        Returns:
            SOP instance UIDs.
        """
        files = self.study(study_uid).glob("object-*.dcm")
        return frozenset(uid for path in files if (uid := _value(path, "SOPInstanceUID", self.limits)))

    def remove(self, held: Held) -> bool:
        """Remove a study, unless something arrived since.

        Args:
            held: as it was when it was looked at.

        Returns:
            Whether it is removed.
        """
        aside, trash = (held.folder.with_name(f"{held.folder.name}.{end}") for end in ("aside", "trash"))
        if not held.folder.is_dir() or _arrived(held.folder) != held.arrived:
            return not held.folder.is_dir()
        held.folder.replace(aside)  # what arrives from here on makes a new folder
        if _arrived(aside) == held.arrived:
            aside.replace(trash)
            shutil.rmtree(trash)
            self._usage.forget()
            return True
        for path in aside.glob("*.dcm"):
            move_into(path, held.folder / path.name)
        _touch(held.folder)
        shutil.rmtree(aside)
        return False


def _value(path: Path, keyword: str, limits: Limits) -> str:
    with contextlib.suppress(Refusal):  # it is looked at, and rejected, where it is adopted or explained
        return open_file(path, limits).text(keyword)
    return ""


def _touch(folder: Path) -> float:
    """Note an arrival, and say when it was."""
    mark, now = private_folder(folder) / ARRIVED, time.time_ns()
    mark.touch(mode=0o600)
    os.utime(mark, ns=(now, now))  # finer than the clock of the file system
    return mark.stat().st_mtime


def _arrived(folder: Path) -> float:
    for path in (folder / ARRIVED, folder):
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_mtime
    return 0.0
