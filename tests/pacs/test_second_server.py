"""DCMTK's archive: no counts, no modalities of studies, no SOP classes, no commitment; success for what it lacks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from medsal.dicom.uids import derived_uid
from medsal.pacs import retrieve
from medsal.pacs.client import Wanted
from medsal.pacs.dimse import DimseClient
from medsal.pacs.objects import Path, file_name
from medsal.pacs.troubles import Problem, Trouble
from tests.pacs.made import PLANTED, clean, study_files
from tests.pacs.servers import Dcmqrscp

STUDY = derived_uid("second")
CT = "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"


@pytest.fixture(scope="module")
def filled(dcmqrscp, tmp_path_factory):
    """It has a study of MR slices, and one of CT."""
    files = study_files(tmp_path_factory.mktemp("sent"), 6, "second")
    ends = DimseClient(dcmqrscp.node).store([*files, Path(get_testdata_file("CT_small.dcm"))])
    assert [end.problem for end in ends] == [None] * 7
    return dcmqrscp


def test_echo_and_its_title(filled) -> None:
    DimseClient(filled.node).echo()
    with pytest.raises(Trouble) as caught:
        DimseClient(replace(filled.node, ae_title="NOBODY")).echo()
    assert caught.value.problem is Problem.NOT_ACCEPTED


def test_find_without_counts_and_modalities(filled) -> None:
    client = DimseClient(filled.node)
    (one,) = client.find(Wanted(patient_id=PLANTED[1]))
    assert (one.uid, one.instances, one.modalities) == (STUDY, None, ())
    assert {one.uid for one in client.find(Wanted())} == {STUDY, CT}
    assert [one.uid for one in client.find(Wanted(modality="CT"))] == [CT], "the series are asked"
    assert client.find(Wanted(study_uids=("1.2.3.4",))) == []
    assert client.instances(STUDY) == {derived_uid("second", "series", number) for number in range(1, 7)}


@pytest.mark.parametrize("way", ["get", "move"])
def test_fetch(filled, tmp_path, way) -> None:
    client = DimseClient(replace(filled.node, retrieve=way))
    assert client.fetch(STUDY, tmp_path) == 6
    (tmp_path / file_name(derived_uid("second", "series", 2))).unlink()
    assert client.fetch(STUDY, tmp_path) == 6
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("way", ["get", "move"])
def test_success_with_nothing_is_nothing_received(filled, tmp_path, way, monkeypatch) -> None:
    """It answers 0x0000 with no operation at all; even where it is not asked first, that is no success."""
    monkeypatch.setattr(retrieve, "holdings", lambda *_: None)
    with pytest.raises(Trouble) as caught:
        DimseClient(replace(filled.node, retrieve=way)).fetch("1.2.3.4", tmp_path)
    assert caught.value.problem is Problem.NOTHING_RECEIVED
    clean(caught.value)


def test_what_it_stores_compressed_comes_as_it_is_stored(tmp_path) -> None:
    """It cannot decompress: what was not sent without compression is asked for again with it."""
    path = Path(get_testdata_file("MR_small_RLE.dcm"))
    first = dcmread(path)
    server = Dcmqrscp(tmp_path / "server", "+xr", "-xr").start()
    try:
        assert [end.problem for end in DimseClient(server.node).store([path])] == [None]
        for way in ("get", "move"):
            folder = tmp_path / way
            client = DimseClient(replace(server.node, retrieve=way))
            assert client.fetch(str(first.StudyInstanceUID), folder) == 1
            again = dcmread(folder / file_name(first.SOPInstanceUID))
            assert again.file_meta.TransferSyntaxUID == first.file_meta.TransferSyntaxUID
            assert again.PixelData == first.PixelData
    finally:
        server.kill()


def test_confirmation_by_asking_what_it_holds(filled, caplog) -> None:
    uids = [derived_uid("second", "series", number) for number in range(1, 7)]
    for commit in (False, True):
        client = DimseClient(replace(filled.node, commit=commit))
        assert client.confirm(STUDY, [*uids, "1.2.3"]) == {"1.2.3"}
    client._classes.update(dict.fromkeys(uids, "1.2.840.10008.5.1.4.1.1.4"))
    assert client.confirm(STUDY, uids) == frozenset()
    assert caplog.text.count("no storage commitment") == 2
