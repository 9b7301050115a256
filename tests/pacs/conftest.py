"""Archives and certificates for the tests of `medsal.pacs`; each server is started when the first test asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.pacs.servers import Authority, Dcmqrscp, Orthanc


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority with certificates for a server, a client, another host, and a stranger's."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def orthanc_factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Orthanc]]:
    """Makes private, running Orthancs: ``orthanc_factory(**configuration)``; all end with the session."""
    made: list[Orthanc] = []

    def make(tls: Authority | None = None, **options: Any) -> Orthanc:
        made.append(Orthanc(tmp_path_factory.mktemp("orthanc"), tls, **options))
        return made[-1].start()

    yield make
    for one in made:
        one.kill()


@pytest.fixture(scope="session")
def orthanc(orthanc_factory: Callable[..., Orthanc]) -> Orthanc:
    """The Orthanc that tests share: ``clear()`` it first, and leave it running."""
    return orthanc_factory()


@pytest.fixture(scope="session")
def tls(orthanc_factory: Callable[..., Orthanc], authority: Authority) -> Orthanc:
    """An Orthanc that speaks TLS over DIMSE and asks for certificates."""
    return orthanc_factory(authority)


@pytest.fixture(scope="session")
def dcmqrscp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dcmqrscp]:
    """DCMTK's archive, as a second server."""
    server = Dcmqrscp(tmp_path_factory.mktemp("dcmqrscp"))
    yield server.start()
    server.kill()
