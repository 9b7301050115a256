"""Files that are there whole or not at all: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import contextlib
import json
import math
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from medsal.errors import MedsalError


def write_file(path: Path, content: bytes | Callable[[IO[bytes]], None]) -> Path:
    """Write a file in one step, as far as anybody else can see; its folder is made where it is missing.

    Args:
        path: where it shall lie; a file that lies there already is replaced.
        content: its bytes, or a function that writes them to an open file.

    Returns:
        ``path``.

    Raises:
        MedsalError: if the disk is full or the folder cannot be written; nothing is left behind then.
    """
    part = path.with_name(f".{uuid.uuid4().hex[:12]}.part")  # short: the name itself may be as long as names can be
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
        part.replace(path)
    except OSError as error:
        raise MedsalError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another output_dir"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # it is the first error that counts
            part.unlink()
    return path


def json_bytes(value: Any) -> bytes:
    r"""Write JSON that every reader takes: UTF-8, and numbers that are not finite become null.

    Args:
        value: of plain types, arrays and tensors; anything else is written as text.

    Returns:
        One line.

    Example:
        >>> json_bytes({"gap": float("nan")})
        b'{"gap": null}\n'
    """
    return (json.dumps(_plain(value), ensure_ascii=False, allow_nan=False) + "\n").encode()


def _plain(value: Any) -> Any:
    """Replace what JSON cannot say."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)
