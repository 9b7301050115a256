"""What happens inside the process that explains one study; it answers in JSON, and dies with who started it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsal._version import __version__
from medsal.bundle.exits import root_cause
from medsal.dicom.phi import CLEANER, quiet
from medsal.errors import MedsalError, UsageError
from medsal.files import json_bytes
from medsal.pacs.troubles import Problem, Trouble

if TYPE_CHECKING:
    from medsal.dicom.model import Model

BEGUN = b"begun"
"""First message: the process is in a group of its own, and the clock may run."""
_SPARE = 2  # times the memory limit; no single allocation may be larger, whoever watches
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_PATIENCE = 60.0  # seconds for a process that was left behind to end


def work(task: bytes, answer: Connection) -> None:
    """Do what is asked, answer, and end.

    Args:
        task: JSON: ``does`` and its arguments.
        answer: where the answer goes, as one message of JSON; if the other end is closed, this process ends.
    """
    os.setsid()
    _die_with_server()
    threading.Thread(target=_leash, args=(answer,), daemon=True).start()
    asked = json.loads(task)
    _silence(asked["log_level"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it would hold the patient's data
    _limit(asked["memory_gib"])
    answer.send_bytes(BEGUN)
    said = _said(asked)
    answer.send_bytes(json_bytes(said))
    sys.stdout.flush()
    os._exit(0)  # neither threads nor finalizers of libraries may keep it


def _said(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The answer, or why there is none: a problem, or words for whoever wrote the configuration."""
    try:
        with quiet():
            return _DOES[asked["does"]](asked)
    except BaseException as error:  # noqa: BLE001  whatever it is, its class is what may be told
        return _why(root_cause(error))


def _why(cause: BaseException) -> dict[str, Any]:
    """What may be told of an error."""
    if isinstance(cause, Trouble):
        return {"problem": cause.problem, "detail": cause.detail}
    said = CLEANER.clean(" ".join(str(cause).split())) if isinstance(cause, MedsalError) else type(cause).__name__
    if isinstance(cause, UsageError):
        return {"usage": said}
    logging.getLogger("medsal").debug("ended", exc_info=cause)
    problem = next((problem for problem, is_it in _SIGNS.items() if is_it(cause)), Problem.CRASHED)
    return {"problem": problem, "detail": said}


def _no_room(cause: BaseException) -> bool:
    from medsal.dicom.results_folder import DiskError

    origin = cause if isinstance(cause, OSError) else cause.__cause__
    return isinstance(cause, DiskError) or (isinstance(origin, OSError) and origin.errno in _NO_ROOM)


_SIGNS: dict[Problem, Callable[[BaseException], bool]] = {
    Problem.TOO_MUCH_MEMORY: lambda cause: isinstance(cause, MemoryError),
    Problem.DISK_FULL: _no_room,
    Problem.UNREADABLE: lambda cause: isinstance(cause, MedsalError),
}


def _die_with_server() -> None:
    """Have the system kill this process when the server that forked it ends, also where Python cannot run."""
    server = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != server:
        os._exit(1)


def _leash(answer: Connection) -> None:
    """Kill the whole group when the process that asked is gone."""
    with contextlib.suppress(EOFError, OSError):
        answer.recv_bytes()
    os.killpg(0, signal.SIGKILL)


def _silence(level: str) -> None:
    """Let only the log out, cleaned; what libraries print may hold anything."""
    handler = logging.StreamHandler(os.fdopen(os.dup(2), "w"))
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    handler.addFilter(CLEANER)
    logging.getLogger().handlers[:] = [logging.NullHandler()]
    own = logging.getLogger("medsal")
    own.handlers[:] = [handler]
    own.setLevel(level)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(nowhere, handle)


def _limit(gib: float) -> None:
    """Bound the writable memory that the process may add to what it was forked with."""
    import torch

    if sys.platform != "linux" or torch.cuda.is_available():  # drivers reserve more than they use
        return
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    most = pages * os.sysconf("SC_PAGE_SIZE") + int(_SPARE * gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _setup(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Digest of all that results depend on but the images."""
    from medsal.dicom.model import load_model

    return {"setup": _digest(asked, load_model(asked["bundle"], **asked["explain"]))}


def _digest(asked: Mapping[str, Any], model: Model) -> str:
    from medsal.dicom.select import load_rules

    rules = [asdict(rule) for rule in load_rules(_rules(asked))]
    return hashlib.sha256(json_bytes([model.setup, rules, asked["kinds"], __version__])).hexdigest()


def _model(asked: Mapping[str, Any]) -> Model:
    """The bundle, as it was when the run began."""
    from medsal.dicom.model import load_model

    model = load_model(asked["bundle"], **asked["explain"])
    if asked["setup"] and asked["setup"] != _digest(asked, model):
        raise UsageError("the bundle or the rules have changed since this run began; begin a new one")
    return model


def _rules(asked: Mapping[str, Any]) -> Any:
    from medsal.dicom.model import rules_of

    return asked["rules"] or rules_of(asked["bundle"])


def _select(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What would be taken of a study, and why not the rest."""
    from medsal.dicom import listing
    from medsal.dicom.select import select_series
    from medsal.dicom.units import find

    found = find(asked["source"])
    chosen = select_series(found.series, _rules(asked))
    return {"lines": [*listing.selection_lines(chosen), *listing.refused_lines(found.refused)]}


def _explain(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Explain what the rules take of a study."""
    from medsal.dicom.explaining import Job, plan
    from medsal.dicom.select import select_series
    from medsal.dicom.units import counts, find

    found = find(asked["source"])
    if not found.series:
        reasons = counts(found.refused) or {"missing": 1}
        raise Trouble(Problem.UNREADABLE, ", ".join(f"{number} {code}" for code, number in reasons.items()))
    chosen = select_series(found.series, _rules(asked))
    if not chosen.chosen:
        ends, results = list(plan(found, chosen)[1].values()), Path()
    else:
        results = Path(asked["results"])
        with _alone(results):
            job = Job(_model(asked), results, found, chosen, kinds=asked["kinds"])
            job.run()
        ends = list(job.ends.values())
    if any(end.reason == "MemoryError" or end.detail == "out of memory" for end in ends):
        raise Trouble(Problem.TOO_MUCH_MEMORY, "MemoryError")
    return {
        "ends": [{name: vars(end)[name] for name in ("status", "selected", "reason", "detail")} for end in ends],
        "refused_files": counts(found.refused),
        "results": [_result(results, name) for end in ends for name in end.files],
    }


def _result(folder: Path, name: str) -> dict[str, str]:
    import pydicom

    header = pydicom.dcmread(folder / name, specific_tags=["SOPInstanceUID"])
    return {"uid": str(header.SOPInstanceUID), "kind": Path(name).name.partition("-")[0], "file": name}


@contextlib.contextmanager
def _alone(results: Path) -> Iterator[None]:
    """Wait for a process of an earlier run that is about to end."""
    results.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + _PATIENCE
    with (results / ".worker.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Trouble(Problem.BUSY, "another process explains this study") from None
                time.sleep(0.1)
        yield


_DOES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "setup": _setup,
    "select": _select,
    "explain": _explain,
}
