"""Listeners for tests, each with a site of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medsal.pacs import Listener, Listening, Site, Spool, Work
from tests.pacs.servers import free_port


def site_of(folder: Path, work: dict[str, Any] | None = None, **options: Any) -> Site:
    port = options.pop("port", None) or free_port()
    return Site(
        folder=folder,
        work=Work(**{"free_gib": 0, "quiet_seconds": 0.3, **(work or {})}),
        listener=Listening(port=port, **{"idle_seconds": 20.0, **options}),
    )


class Started:
    """Makes listeners and ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, []

    def __call__(self, work: dict[str, Any] | None = None, **options: Any) -> Listener:
        listener = Listener(site_of(self.folder / f"site{len(self.made)}", work, **options))
        self.made.append(listener)
        return listener.start()

    def end(self) -> None:
        for one in self.made:
            one.stop()


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Started]:
    started = Started(tmp_path)
    yield started
    started.end()


def spool_of(listener: Listener) -> Spool:
    return Spool(listener.site.folder, listener.site.work)


def files_in(listener: Listener) -> list[Path]:
    """All that lies in the site but marks and locks."""
    return sorted(path for path in listener.site.folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def parts_in(listener: Listener) -> list[Path]:
    return sorted(listener.site.folder.rglob("*.part"))


def memory(pid: int, what: str = "VmHWM") -> int:
    """Most bytes that a process ever had in memory."""
    with Path(f"/proc/{pid}/status").open() as file:
        return next(int(line.split()[1]) for line in file if line.startswith(what)) * 1024


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with Path(f"/proc/{pid}/stat").open() as file:
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"
