"""What a study has found so far, on the disk: each step a file that is there whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medsal.errors import MedsalError, UsageError
from medsal.files import json_bytes, write_file

_LOG = logging.getLogger("medsal")


class Records:
    """The folder of a study.

    Args:
        folder: where it lies; made where it is missing.
        setup: everything that results depend on, JSON-able.

    Raises:
        UsageError: if the folder holds another study.
        MedsalError: if it cannot be read or written.
    """

    def __init__(self, folder: str | Path, setup: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.fingerprint = hashlib.sha256(json.dumps(setup, sort_keys=True, default=str).encode()).hexdigest()
        self._unlocked = False
        known = self.folder / "study.json"
        if not known.is_file():
            with self.claim("study", wait=True):
                if not known.is_file():  # of several processes that begin at once, one says which study it is
                    write_file(known, json_bytes({"fingerprint": self.fingerprint, "setup": setup}))
        before = _read(known)
        if before.get("fingerprint") != self.fingerprint:
            differs = [key for key in setup if _text(before.get("setup", {}).get(key)) != _text(setup[key])]
            raise UsageError(
                f"{self.folder} holds another study (other {', '.join(differs) or 'settings'}); "
                "choose another output_dir, or give the same settings to go on with it"
            )

    def read(self, key: str) -> dict[str, Any] | None:
        """What a step found.

        Args:
            key: of the step.

        Returns:
            Its content; None where it was not done.

        Raises:
            MedsalError: if the file is broken.
        """
        path = self._path(key)
        return _read(path) if path.is_file() else None

    def write(self, key: str, content: Mapping[str, Any]) -> None:
        """Keep what a step found.

        Args:
            key: of the step.
            content: JSON-able; NaN becomes null.
        """
        write_file(self._path(key), json_bytes(content))

    def done(self, key: str) -> bool:
        """Tell whether a step was done.

        Args:
            key: of the step.

        Returns:
            True if its file is there.
        """
        return self._path(key).is_file()

    @contextlib.contextmanager
    def claim(self, key: str, *, wait: bool = False) -> Iterator[bool]:
        """Keep other processes away from a step; the system lets go of it when the process ends, however.

        Args:
            key: of the step.
            wait: for another process to let go of it.

        Yields:
            Whether the step is this process's own; always on a disk that has no locks.

        Raises:
            MedsalError: if the folder cannot be written.
        """
        path = self._path(key).with_suffix(".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except OSError as error:
            raise MedsalError(
                f"cannot write {path}: {error.strerror or error}; free some space or choose another output_dir"
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            except OSError as error:  # some disks of clusters have no locks
                if not self._unlocked:
                    _LOG.warning("%s: no locks (%s); let one process alone do this study", self.folder, error.strerror)
                self._unlocked = True
            yield True
            path.unlink(missing_ok=True)  # who has it open already finds the step done

    def _path(self, key: str) -> Path:
        return self.folder / "steps" / f"{key}.json"

    def write_maps(self, member: str, batch: int, maps: Mapping[str, Tensor]) -> None:
        """Keep maps of a trained network.

        Args:
            member: its name.
            batch: number of the batch.
            maps: method -> ``(B, 1, *space)``.
        """
        arrays = {f"m{number}": values.numpy() for number, values in enumerate(maps.values())}
        write_file(self._maps(member, batch), lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]  # of arrays alone

    def read_maps(self, member: str, batch: int, method: int) -> Tensor:
        """Maps of a trained network.

        Args:
            member: its name.
            batch: number of the batch.
            method: number of the method.

        Returns:
            ``(B, 1, *space)``.

        Raises:
            MedsalError: if the file is missing or broken.
        """
        path = self._maps(member, batch)
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return torch.from_numpy(arrays[f"m{method}"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise MedsalError(f"{path} cannot be read ({error}); remove the study's folder and start anew") from error

    def _maps(self, member: str, batch: int) -> Path:
        return self.folder / "maps" / f"{slug(member)}-{batch}.npz"


def slug(name: str) -> str:
    """A name as part of a file's name.

    Args:
        name: any.

    Returns:
        The same with what is no letter, digit, point or hyphen replaced.

    Example:
        >>> slug("inception_v3/0")
        'inception_v3-0'
    """
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)


def digest(network: nn.Module) -> str:
    """Digest of a network's weights and statistics.

    Args:
        network: any.

    Returns:
        sha256.
    """
    found = hashlib.sha256()
    for name, value in network.state_dict().items():
        found.update(f"{name}/{tuple(value.shape)}/{value.dtype}".encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def tensor_digest(values: Tensor) -> str:
    """Digest of a tensor's values.

    Args:
        values: any.

    Returns:
        sha256.
    """
    plain = values.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.sha256(plain.numpy().tobytes()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MedsalError(f"{path} cannot be read ({error}); remove it and start again") from error
    if not isinstance(found, dict):
        raise MedsalError(f"{path} cannot be read (no mapping); remove it and start again")
    return found


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
