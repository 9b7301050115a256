"""Objects into archives by C-STORE, whatever these do in the middle."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pynetdicom import AllStoragePresentationContexts, build_context, evt

from medsal.dicom.uids import derived_uid
from medsal.pacs import objects, retrieve
from medsal.pacs.client import Sent
from medsal.pacs.dimse import DimseClient
from medsal.pacs.troubles import Problem
from tests.pacs.made import saved, slices, study_files
from tests.pacs.peers import MR, STUDY, peer, trouble


@pytest.fixture
def archive(orthanc):
    orthanc.clear()
    return orthanc


def test_what_is_sent_arrives_as_it_is(archive, tmp_path) -> None:
    names = ["CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "SC_rgb_rle.dcm", "reportsi.dcm"]
    files = [objects.Path(get_testdata_file(name)) for name in names]
    told: list[Sent] = []
    ends = DimseClient(archive.node).store(files, told.append)
    assert [end.problem for end in ends] == [None] * 5
    assert sorted(told, key=str) == sorted(ends, key=str)
    assert archive.instances() == {end.uid for end in ends}
    for path, end in zip(files, ends, strict=True):
        stored = tmp_path / "back.dcm"
        stored.write_bytes(archive.file(end.uid))
        first, again = dcmread(path), dcmread(stored)
        assert again.file_meta.TransferSyntaxUID == first.file_meta.TransferSyntaxUID
        assert first.get("PixelData") == again.get("PixelData")


def test_sending_needs_leave(archive, tmp_path) -> None:
    node = replace(archive.node, write=False)
    assert trouble(DimseClient(node).store, study_files(tmp_path, 1)).problem is Problem.NOT_ALLOWED
    assert archive.instances() == frozenset()


def test_one_bad_object_does_not_stop_the_others(archive, tmp_path) -> None:
    files = study_files(tmp_path, 4)
    files[0].write_bytes(b"no DICOM")
    files[2].write_bytes(files[2].read_bytes()[:-50])
    torn = dcmread(files[1])
    torn.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    torn.save_as(files[1])
    ends = DimseClient(archive.node).store([*files, tmp_path / "none.dcm"])
    bad = Problem.BAD_OBJECT
    assert [end.problem for end in ends] == [bad, bad, bad, None, bad]
    assert archive.instances() == {derived_uid("study", "series", 4)}


def test_sending_again_changes_nothing(archive, tmp_path) -> None:
    files = study_files(tmp_path, 3)
    client = DimseClient(archive.node)
    for _ in range(2):
        assert [end.problem for end in client.store(files)] == [None] * 3
    assert len(archive.instances()) == 3


def storing(answer):
    """A peer's C-STORE handler that is told the number of the call."""
    calls: list[str] = []

    def handle(event):
        calls.append(str(event.request.AffectedSOPInstanceUID))
        return answer(len(calls), event)

    return calls, [(evt.EVT_C_STORE, handle)]


def test_an_abort_is_followed_by_another_association(tmp_path) -> None:
    def answer(number, event):
        if number == 2:
            event.assoc.abort()
        return 0x0000

    files = study_files(tmp_path, 4)
    calls, handlers = storing(answer)
    with peer(handlers) as node:
        ends = DimseClient(node).store(files)
    assert [end.problem for end in ends] == [None] * 4
    assert len(calls) == 5, "the one whose answer did not come was sent again"
    assert calls[1] == calls[2]


def test_the_object_that_a_peer_stumbles_over_is_left_out(tmp_path) -> None:
    files = study_files(tmp_path, 4)
    poison = derived_uid("study", "series", 2)

    def answer(number, event):
        if event.request.AffectedSOPInstanceUID == poison:
            event.assoc.abort()
        return 0x0000

    calls, handlers = storing(answer)
    with peer(handlers) as node:
        ends = DimseClient(node).store(files)
    assert [end.problem for end in ends] == [None, Problem.NO_STATUS, None, None]
    assert calls.count(poison) == 2


def test_two_bad_objects_in_a_row_are_left_out(tmp_path) -> None:
    files = study_files(tmp_path, 6)
    poison = {derived_uid("study", "series", number) for number in (3, 4)}

    def answer(number, event):
        if event.request.AffectedSOPInstanceUID in poison:
            event.assoc.abort()
        return 0x0000

    _, handlers = storing(answer)
    with peer(handlers) as node:
        ends = DimseClient(node).store(files)
    assert {end.uid for end in ends if end.problem} == poison


def test_a_peer_that_aborts_always_is_not_asked_for_ever(tmp_path) -> None:
    files = study_files(tmp_path, 30)
    calls, handlers = storing(lambda number, event: event.assoc.abort() or 0x0000)
    with peer(handlers) as node:
        ends = DimseClient(node).store(files)
    assert {end.problem for end in ends} == {Problem.NO_STATUS}
    assert len(ends) == 30
    assert len(calls) <= 6


@pytest.mark.parametrize(
    ("status", "problem"),
    [(0xA700, Problem.OUT_OF_RESOURCES), (0xA900, Problem.REJECTED), (0xC000, Problem.REJECTED), (0xB000, None)],
)
def test_a_status_belongs_to_its_object(tmp_path, status, problem) -> None:
    files = study_files(tmp_path, 3)
    _, handlers = storing(lambda number, event: status if number == 2 else 0x0000)
    with peer(handlers) as node:
        ends = DimseClient(node).store(files)
    assert [end.problem for end in ends] == [None, problem, None]
    assert ends[1].detail == f"0x{status:04X}"


def test_a_peer_that_never_answers_a_store(tmp_path) -> None:
    _, handlers = storing(lambda number, event: time.sleep(2.5) or 0x0000)
    with peer(handlers) as node:
        (end,) = DimseClient(replace(node, timeout=0.5)).store(study_files(tmp_path, 1))
    assert (end.problem, end.detail) == (Problem.TIMEOUT, "2 times")


def test_a_class_that_is_not_taken(tmp_path) -> None:
    files = [*study_files(tmp_path, 1), objects.Path(get_testdata_file("CT_small.dcm"))]
    _, handlers = storing(lambda number, event: 0x0000)
    with peer(handlers) as node:
        ends = DimseClient(node).store(files)
    assert [end.problem for end in ends] == [None, Problem.NOT_ACCEPTED]


def test_a_peer_of_implicit_little_endian_only(tmp_path) -> None:
    got = []

    def answer(number, event):
        got.append((event.context.transfer_syntax, event.dataset.PixelData))
        return 0x0000

    (path,) = study_files(tmp_path, 1)
    _, handlers = storing(answer)
    with peer(handlers, [build_context(MR, "1.2.840.10008.1.2")]) as node:
        (end,) = DimseClient(node).store([path])
    assert end.problem is None
    assert got == [("1.2.840.10008.1.2", dcmread(path).PixelData)]


def test_more_kinds_than_an_association_holds(tmp_path) -> None:
    """150 SOP classes need 300 presentation contexts: three associations."""
    classes = [str(one.abstract_syntax) for one in AllStoragePresentationContexts][:150]
    made = slices(1) * len(classes)
    paths = []
    for number, sop_class in enumerate(classes):
        one = made[number]
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = sop_class
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = derived_uid("kinds", number)
        paths += saved([one], tmp_path / str(number))
    associated = []
    calls, handlers = storing(lambda number, event: 0x0000)
    handlers.append((evt.EVT_ACCEPTED, associated.append))
    with peer(handlers, [build_context(one) for one in classes]) as node:
        ends = DimseClient(node).store(paths)
    assert [end.problem for end in ends] == [None] * 150
    assert [end.uid for end in ends] == [derived_uid("kinds", number) for number in range(150)]
    assert len(associated) == 3
    assert len(set(calls)) == 150


def test_retrieval_of_more_kinds_than_an_association_holds() -> None:
    classes = [f"1.2.3.{number}" for number in range(300)]
    parts = list(retrieve.groups(classes, 1))
    assert [len(part) for part in parts] == [127, 127, 46]
    assert {one for part in parts for one in part} == set(classes)
    (unknown,) = retrieve.groups([], 1)
    assert len(unknown) == 127
    assert set(retrieve.IMAGES) < set(unknown)
    assert max(len(part) for part in retrieve.groups([""], 13)) * 13 < 128


def test_confirm_says_what_is_missing(archive, tmp_path) -> None:
    client = DimseClient(archive.node)
    ends = client.store(study_files(tmp_path, 3))
    uids = [end.uid for end in ends]
    assert client.confirm(STUDY, uids) == frozenset()
    assert client.confirm(STUDY, [*uids, "1.2.3"]) == {"1.2.3"}
    assert client.confirm(STUDY, []) == frozenset()
