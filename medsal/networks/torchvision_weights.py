"""Weights published for torchvision's EfficientNetV2, under the names of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medsal.errors import UsageError

_FIRST = "features.0.0.weight"
_CONV_NORM = {"0": "conv", "1": "norm"}
_EXCITE = {"fc1": "reduce", "fc2": "expand"}


def from_torchvision_state_dict(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename the weights of torchvision's ``efficientnet_v2_s/m/l`` to those of ``EfficientNetV2(spatial_dims=2)``.

    A training checkpoint that holds the weights under ``"model_state_dict"`` or ``"state_dict"``, and a prefix common
    to all names (``"model."``, ``"module."``), are understood. The key map, with ``N`` the last of the features:

    =====================================  ==============================================
    torchvision                            medsal
    =====================================  ==============================================
    ``features.0.0``, ``features.0.1``     ``stem.conv``, ``stem.norm``
    ``features.i.j.block.k.0``, ``.1``     ``stages.(i-1).j.layers.NAME.conv``, ``.norm``
    ``features.i.j.block.k.fc1``, ``fc2``  ``stages.(i-1).j.layers.excite.reduce``, ``.expand``
    ``features.N.0``, ``features.N.1``     ``head.conv``, ``head.norm``
    ``classifier.1``                       ``classifier``
    =====================================  ==============================================

    ``NAME`` is ``expand`` or ``project`` for the first and second layer of a fused block; in a block with
    squeeze-excite ``depthwise`` stands before it, ``project`` after it, and ``expand`` first.

    Args:
        state_dict: the weights, or a checkpoint that holds them.

    Returns:
        The same tensors by their new names.

    Raises:
        UsageError: when the names are not those of torchvision's EfficientNetV2.

    Example:
        >>> import torch
        >>> from_torchvision_state_dict({
        ...     "model.features.0.0.weight": torch.zeros(24, 3, 3, 3), "model.features.1.0.weight": torch.zeros(1)
        ... }).keys()
        dict_keys(['stem.conv.weight', 'head.conv.weight'])
    """
    for key in ("model_state_dict", "state_dict"):
        if isinstance(state_dict.get(key), Mapping):
            state_dict = state_dict[key]
    first = [key for key in state_dict if key.endswith(_FIRST)]
    if len(first) != 1:
        raise UsageError(
            f"wanted the weights of torchvision's EfficientNetV2 (one name ends in {_FIRST!r}), "
            f"got {len(state_dict)} names such as {sorted(map(str, state_dict))[:3]}"
        )
    prefix = first[0].removesuffix(_FIRST)
    last = max(
        int(found[1]) for key in state_dict if (found := re.match(re.escape(prefix) + r"features\.(\d+)\.", key))
    )
    gates = {
        found[1]: int(found[2])
        for key in state_dict
        if (found := re.match(re.escape(prefix) + r"(features\.\d+\.\d+)\.block\.(\d+)\.fc1\.weight$", key))
    }
    return {_renamed(key, prefix, last, gates): value for key, value in state_dict.items()}


def _renamed(key: str, prefix: str, last: int, gates: Mapping[str, int]) -> str:
    parts = key.removeprefix(prefix).split(".")
    if key.startswith(prefix):
        match parts:
            case ["features", "0", ("0" | "1") as layer, leaf]:
                return f"stem.{_CONV_NORM[layer]}.{leaf}"
            case ["features", stage, ("0" | "1") as layer, leaf] if stage == str(last):
                return f"head.{_CONV_NORM[layer]}.{leaf}"
            case ["features", stage, block, "block", position, layer, *rest] if layer in {*_CONV_NORM, *_EXCITE}:
                gate = gates.get(f"features.{stage}.{block}")
                name = _layer_name(int(position), gate)
                inner = ".".join([_CONV_NORM.get(layer) or _EXCITE[layer], *rest])
                return f"stages.{int(stage) - 1}.{block}.layers.{name}.{inner}"
            case ["classifier", "1", leaf]:
                return f"classifier.{leaf}"
            case _:
                pass
    raise UsageError(
        f"{key!r} is no weight of torchvision's EfficientNetV2 (prefix {prefix!r}); remove it or rename it"
    )


def _layer_name(position: int, gate: int | None) -> str:
    if gate is None:
        return "expand" if position == 0 else "project"
    return {gate - 1: "depthwise", gate: "excite", gate + 1: "project"}.get(position, "expand")
