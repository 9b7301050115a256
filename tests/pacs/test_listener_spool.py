"""The spool: files whole or not at all, room, quiet studies, and order whatever was killed at whatever moment."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from medsal.dicom import Reason, Refusal
from medsal.dicom.uids import derived_uid
from medsal.pacs import Problem, Spool, Trouble, Work, object_name
from medsal.pacs.parts import Part, disk_trouble, move_into
from medsal.pacs.strays import ARRIVED
from tests.dicom.builders import film, save, slices_of

STUDY = derived_uid("study")


def spool_in(folder: Path, **work: float) -> Spool:
    return Spool(folder, Work(**{"free_gib": 0, "quiet_seconds": 0.2, **work}))


def coming(spool: Spool, number: int = 0, **values: object) -> Path:
    made = slices_of(number + 1)[number]
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return save(made, spool.incoming / f"coming{number}")


def test_taken_quiet_and_removed(tmp_path):
    spool = spool_in(tmp_path)
    assert spool.studies() == spool.quiet() == []
    for number in range(3):
        assert spool.take(coming(spool, number)).uid == STUDY
    (held,) = spool.studies()
    assert (held.files, held.folder) == (3, spool.study(STUDY))
    assert spool.quiet() == []
    time.sleep(0.25)
    assert spool.quiet() == [held]
    spool.take(coming(spool, 1))  # the same again: an arrival, and no file more
    assert spool.quiet() == []
    assert spool.remove(held) is False
    (held,) = spool.studies()
    assert held.files == 3
    assert spool.remove(held) is True
    assert list(spool.root.iterdir()) == []
    assert spool.remove(held) is True  # it is gone already
    with pytest.raises(Trouble) as caught:
        spool.study("../x")
    assert caught.value.problem is Problem.BAD_OBJECT


def test_a_study_from_before_the_clock_was_set_back_is_quiet_some_day(tmp_path):
    spool = spool_in(tmp_path)
    held, later = spool.take(coming(spool)), time.time() + 1e6
    os.utime(held.folder / ARRIVED, (later, later))
    assert spool.quiet() == []
    time.sleep(0.25)
    assert [one.uid for one in spool.quiet()] == [STUDY]


def test_what_arrives_while_a_study_is_removed_stays(tmp_path, monkeypatch):
    spool = spool_in(tmp_path)
    spool.take(coming(spool, 0))
    (held,) = spool.studies()
    rename, late = Path.replace, coming(spool, 1)

    def replace(path: Path, target: Path) -> Path:
        if str(target).endswith(".aside"):
            monkeypatch.undo()
            spool.take(late)  # just before the folder is put aside
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    assert spool.remove(held) is False
    (held,) = spool.studies()
    assert held.files == 2
    assert list(spool.root.iterdir()) == [held.folder]


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_study_is_removed_while_something_arrives(late, tmp_path, monkeypatch):
    spool = spool_in(tmp_path)
    spool.take(coming(spool, 0))
    (held,) = spool.studies()
    removed = []

    def moved(path: Path, place: Path) -> None:
        monkeypatch.undo()
        if late:
            move_into(path, place)
        removed.append(spool.remove(held))
        if not late:
            move_into(path, place)

    monkeypatch.setattr("medsal.pacs.spool.move_into", moved)
    arriving = coming(spool, 1)
    spool.take(arriving)
    assert removed == [False]
    assert [one.files for one in spool.studies()] == [2]


@pytest.mark.parametrize("end", ["aside", "trash"])
def test_killed_while_a_study_was_removed(end, tmp_path):
    """Put aside, it may hold something new and comes back; in the trash it was looked at, and half may be gone."""
    spool = spool_in(tmp_path)
    spool.take(coming(spool, 0))
    spool.take(coming(spool, 1))
    folder = spool.study(STUDY)
    folder.rename(folder.with_name(f"{folder.name}.{end}"))
    assert spool.studies() == []
    assert spool.adopt() == {}
    assert [one.files for one in spool.studies()] == ([2] if end == "aside" else [])
    assert len(list(spool.root.iterdir())) == (1 if end == "aside" else 0)


def test_order_after_a_kill_and_after_copies(tmp_path):
    spool = spool_in(tmp_path)
    spool.take(coming(spool, 0))
    folder = spool.study(STUDY)
    (folder / ".0123456789ab.part").write_bytes(b"half a file")
    (folder / "object-aaaaaaaaaaaa.dcm").write_bytes(b"\0" * 200)
    (folder / "notes.txt").write_bytes(b"notes")
    moved = film(StudyInstanceUID="1.2.3")
    save(moved, spool.root / "by hand" / "film.dcm")
    wrong = spool.root / "study-ffffffffffff"
    save(slices_of(2)[1], wrong / "object-ffffffffffff.dcm")
    (spool.root / "study-000000000000").mkdir()
    (spool.incoming / ".feedfeedfeed.part").write_bytes(b"x")
    assert spool.adopt() == {"not_dicom": 2}
    assert {one.uid: one.files for one in spool.studies()} == {STUDY: 2, "1.2.3": 1}
    assert len(list(spool.root.iterdir())) == 2
    assert (spool.study("1.2.3") / object_name(str(moved.SOPInstanceUID))).is_file()
    assert {path.name.rsplit("-", 1)[0] for path in spool.rejected.iterdir()} == {"not_dicom"}
    assert len(list(spool.incoming.iterdir())) == 1  # a listener may be at work
    spool.clear_incoming()
    assert list(spool.incoming.iterdir()) == []
    assert spool.adopt() == {}


def test_what_is_not_taken_stays_where_it_is(tmp_path):
    spool = spool_in(tmp_path)
    link = spool.incoming / "link"
    link.symlink_to(save(film(), tmp_path / "outside.dcm"))
    for path, reason in (
        (link, Reason.OUTSIDE),
        (save(film(SeriesInstanceUID=""), spool.incoming / "x"), Reason.INVALID_UID),
        (save(film(Rows=65535, Columns=65535), spool.incoming / "wide"), Reason.TOO_LARGE),
    ):
        with pytest.raises(Refusal) as caught:
            spool.take(path)
        assert caught.value.reason is reason
        assert path.exists()
    assert list(spool.root.iterdir()) == []

    def no(_: object) -> None:
        raise KeyError

    path = coming(spool)
    with pytest.raises(KeyError):
        spool.take(path, no)
    assert path.exists()


def test_room(tmp_path):
    spool = spool_in(tmp_path, spool_gib=0.001)
    assert spool.room() is None
    assert "spool holds" in str(spool.room(2**21))
    part = spool.part()
    part.write(b"\0" * 2**21)
    part.close()
    assert spool.room() is None  # it is counted again after a while
    assert spool_in(tmp_path, spool_gib=0.001).room().problem is Problem.DISK_FULL
    part.discard()
    assert spool_in(tmp_path, spool_gib=0.001).room() is None
    assert "free" in str(spool_in(tmp_path, free_gib=10.0**6).room())
    spool = spool_in(tmp_path, spool_gib=0.0001)
    assert spool.room() is None
    for number in range(5):
        spool.take(save(slices_of(5, rows=128, columns=128)[number], spool.incoming / str(number)))
    assert spool.room() is not None  # what it took itself it knows at once


def test_a_full_disk_is_said(tmp_path):
    part = Part(tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, part._file.fileno())
    os.close(full)
    with pytest.raises(Trouble) as caught:
        part.write(b"x" * 2**20)
    assert caught.value.problem is Problem.DISK_FULL
    assert os.strerror(errno.ENOSPC) in caught.value.detail
    part.discard()
    assert list(tmp_path.iterdir()) == []
    path, aim = tmp_path / "there", tmp_path / "folder" / "aim"
    path.write_bytes(b"x")
    with disk_trouble():
        move_into(path, aim)
    assert aim.read_bytes() == b"x"
    with pytest.raises(FileNotFoundError):
        move_into(path, aim)
