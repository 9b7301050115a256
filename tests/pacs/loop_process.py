"""A process that runs the loop and is killed: ``python -m tests.pacs.loop_process FOLDER BUNDLE NODE [warm]``.

With ``warm`` it imports everything once, and forks a process that runs the loop for every line that it reads; the
workers of those are forked too, as they would come from the server that is warm. It answers ``pid``, ``ready`` when
the loop begins, and ``end code``.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import sys
from pathlib import Path

from medsal.pacs import worker
from medsal.pacs.client import Wanted
from medsal.pacs.nodes import Node
from medsal.pacs.running import Run
from tests.pacs.archive import QUICK, site_of

WORK = dataclasses.replace(QUICK, seconds=3.0, memory_gib=2.0, tries=5, keep_results=False)


def loop(folder: str, bundle: str, node: str) -> int:
    site = site_of(Path(folder), Path(bundle), Node(**_node(json.loads(node))), WORK)
    with Run(site, "orthanc") as run:
        assert run.setup
        print("ready", flush=True)
        return run.run(Wanted())


def _node(given: dict) -> dict:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def warm(words: list[str]) -> None:
    import medsal.pacs.warm  # noqa: F401  imported for what it imports

    fork = multiprocessing.get_context("fork")
    worker.processes = lambda: fork
    print("warm", flush=True)
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                code = loop(*words)
            finally:
                os._exit(code)
        print(f"pid {child}", flush=True)
        print(f"end {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}", flush=True)


if __name__ == "__main__":
    if sys.argv[4:] == ["warm"]:
        warm(sys.argv[1:4])
    else:
        print(f"pid {os.getpid()}", flush=True)
        sys.exit(loop(*sys.argv[1:4]))
