"""Weights of a network: loaded strictly, without running code, and known by their sha256."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from medsal.bundle.fingerprint import file_sha256
from medsal.errors import UsageError

_LOADED: WeakKeyDictionary[nn.Module, dict[str, str]] = WeakKeyDictionary()
_WRAPPERS = ("state_dict", "model_state_dict", "model", "network")
_PREFIXES = ("module.", "model.", "network.", "net.")
_SHOWN = 3
UNTRAINED = "untrained"
"""In place of a file: weights drawn anew by the modules' own initialisation, seed 0, for the baseline of that name."""


def load_weights(network: nn.Module, path: str | Path, *, device: str | torch.device | None = None) -> nn.Module:
    """Load weights into a network: every key, every shape, or nothing.

    ``.safetensors`` is preferred; ``.pt``, ``.pth`` and ``.ckpt`` are read with ``weights_only=True``, so that no code
    of the file runs. A state dict inside ``state_dict``, ``model_state_dict``, ``model`` or ``network``, and keys that
    all begin with ``module.``, ``model.``, ``network.`` or ``net.``, are understood. Where a file ``<path>.sha256``
    lies beside the weights it must hold their digest. The word ``untrained`` draws random weights, always the same.

    Args:
        network: the network; it is changed in place.
        path: the file, or ``untrained``.
        device: where the network shall be; None leaves it.

    Returns:
        The network.

    Raises:
        UsageError: if the file is missing, cannot be read, has another digest, holds numbers that are not finite, or
            does not fit the network.

    Example:
        >>> import tempfile
        >>> network = nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     state = {"module.weight": torch.ones(1, 2), "module.bias": torch.zeros(1)}
        ...     torch.save({"state_dict": state}, f"{folder}/a.pt")
        ...     loaded = load_weights(network, f"{folder}/a.pt")
        >>> loaded is network, network.weight.tolist(), len(weights_record(network)["sha256"])
        (True, [[1.0, 1.0]], 64)
    """
    if str(path) == UNTRAINED:
        _draw(network)
        return network if device is None else network.to(device)
    file = Path(path)
    if not str(path) or not file.is_file():
        raise UsageError(
            f"weights: no file {str(path)!r}; set --ckpt_path to a .safetensors or .pt file with a state dict"
        )
    digest = file_sha256(file)
    _check_digest(file, digest)
    state = _unprefixed(_unwrapped(_read(file), file), network)
    _check_fit(network, state, file)
    network.load_state_dict(state, strict=True)
    _LOADED[network] = {"path": str(file), "sha256": digest}
    logging.getLogger("medsal").info("weights %s, sha256 %s", file, digest)
    return network if device is None else network.to(device)


def _draw(network: nn.Module) -> None:
    """Draw random weights, and know them by the digest of their values."""
    from medsal.studies.planted import random_weights

    network.load_state_dict(random_weights(network, seed=0).state_dict(), strict=True)
    found = hashlib.sha256()
    for name, value in network.state_dict().items():
        found.update(f"{name} {tuple(value.shape)} ".encode() + value.detach().cpu().double().numpy().tobytes())
    _LOADED[network] = {"path": UNTRAINED, "sha256": found.hexdigest()}
    logging.getLogger("medsal").warning("weights: untrained, drawn at random; maps of them are a baseline, no results")


def weights_record(network: nn.Module) -> dict[str, str]:
    """Say which weights were loaded into a network.

    Args:
        network: a network that went through ``load_weights``.

    Returns:
        ``{"path": file, "sha256": digest}``.

    Raises:
        UsageError: if nothing was loaded: maps of random weights would look like results.
    """
    if network not in _LOADED:
        raise UsageError(
            "weights: nothing was loaded into the network, it would be explained with random weights; "
            "build it with medsal.bundle.load_weights"
        )
    return dict(_LOADED[network])


def _check_digest(file: Path, digest: str) -> None:
    """Compare with the digest that lies beside the file, where one does."""
    beside = file.with_name(file.name + ".sha256")
    if not beside.is_file():
        return
    wanted = (beside.read_text(encoding="utf-8").split() or [""])[0].lower()
    if wanted != digest:
        raise UsageError(
            f"weights: {file} has sha256 {digest}, but {beside.name} wants {wanted or 'nothing'}; get it anew"
        )


def _read(file: Path) -> Any:
    """Read a file of weights without running code of it."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        text = " ".join(str(error).split())[:160]
        raise UsageError(
            f"weights: {file} is no readable state dict ({text}); wanted .safetensors, or .pt that only holds tensors"
        ) from error


def _unwrapped(content: Any, file: Path) -> dict[str, Tensor]:
    """Find the state dict in what a file holds."""
    found = content
    while isinstance(found, Mapping):
        inner = [found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping)]
        if not inner:
            break
        found = inner[0]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        came = (
            f"keys {', '.join(map(str, list(found)[:_SHOWN]))}" if isinstance(found, Mapping) else type(found).__name__
        )
        raise UsageError(f"weights: {file}: wanted a state dict (name -> tensor), got {came}")
    return dict(found)


def _unprefixed(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Take off a prefix that all keys share and the network's do not."""
    known = set(network.state_dict())
    while not known & set(state):
        prefix = next((one for one in _PREFIXES if all(key.startswith(one) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _check_fit(network: nn.Module, state: Mapping[str, Tensor], file: Path) -> None:
    """Refuse weights that lack a key, have one too many, or have another shape."""
    own = network.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{key} wants {tuple(own[key].shape)}, got {tuple(state[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    parts = [
        f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
        for what, names in (("missing", missing), ("unexpected", extra), ("of another shape", shapes))
        if names
    ]
    broken = [key for key, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise UsageError(
            f"weights: {file}: NaN or infinite numbers in {len(broken)} tensors ({', '.join(broken[:_SHOWN])}); "
            "the training diverged, take another checkpoint"
        )
    if parts:
        raise UsageError(
            f"weights: {file} does not fit {type(network).__name__}: {'; '.join(parts)}; "
            "check that network_def is the architecture that was trained"
        )
