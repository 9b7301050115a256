"""A server that dies in the middle: what is missing is done when it is there again, and nothing twice."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from medsal.dicom.uids import derived_uid
from medsal.pacs.client import Wanted
from medsal.pacs.dimse import DimseClient
from medsal.pacs.troubles import Problem, Trouble
from tests.pacs.made import clean, study_files

STUDY = derived_uid("study")
MANY = 150


@pytest.fixture
def archive(orthanc_factory):
    server = orthanc_factory()
    yield server
    server.kill()


def test_sending_goes_on_after_the_server_was_killed(archive, tmp_path) -> None:
    files = study_files(tmp_path, MANY)
    client = DimseClient(replace(archive.node, timeout=5))
    sent = []

    def killing(one) -> None:
        sent.append(one)
        if len(sent) == 40:
            archive.kill()

    ends = client.store(files, killing)
    assert len(ends) == MANY
    left = [path for path, end in zip(files, ends, strict=True) if end.problem]
    assert 0 < len(left) < MANY
    assert {end.problem for end in ends} - {None} <= {Problem.UNREACHABLE, Problem.NO_STATUS}
    with pytest.raises(Trouble) as caught:
        client.store(left)
    assert caught.value.problem is Problem.UNREACHABLE
    clean(caught.value)
    archive.start()
    assert {end.problem for end in client.store(left)} == {None}
    assert client.confirm(STUDY, [end.uid for end in ends]) == frozenset()
    assert len(archive.get("/instances")) == MANY


@pytest.mark.parametrize("way", ["get", "move"])
def test_fetching_goes_on_after_the_server_was_killed(archive, tmp_path, way) -> None:
    archive.upload(study_files(tmp_path / "sent", MANY))
    node = replace(archive.node, retrieve=way, timeout=3)
    folder = tmp_path / "got"
    client = DimseClient(node)

    def kill_half_way() -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end and (not folder.is_dir() or len(list(folder.glob("*.dcm"))) < 30):
            time.sleep(0.002)
        archive.kill()

    thread = threading.Thread(target=kill_half_way)
    thread.start()
    with pytest.raises(Trouble) as caught:
        client.fetch(STUDY, folder)
    thread.join()
    clean(caught.value)
    assert caught.value.problem is Problem.INCOMPLETE
    before = {path: path.stat().st_ino for path in folder.glob("*.dcm")}
    assert 30 <= len(before) < MANY
    with pytest.raises(Trouble) as caught:
        client.fetch(STUDY, folder)
    assert caught.value.problem is Problem.UNREACHABLE
    archive.start()
    assert client.fetch(STUDY, folder) == MANY
    assert len(list(folder.iterdir())) == MANY
    assert [one.instances for one in client.find(Wanted())] == [MANY]
