"""What a study of trust is given in a configuration: networks by their checkpoints, and the mean training mask."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from medsal.errors import UsageError
from medsal.evaluation.baselines import MaskPrior, mean_training_mask
from medsal.studies.trust.cases import Cases, Keys


def checkpoints(network: nn.Module, paths: Sequence[str] | str, *, device: Any = None) -> list[Callable[[], nn.Module]]:
    """Functions that load a network from each of several checkpoints: one training each.

    Args:
        network: of the architecture; copies of it are given the weights.
        paths: of the checkpoints, a list or one string with commas; see ``medsal.bundle.load_weights``.
        device: where the networks shall be.

    Returns:
        A function for each checkpoint; one network is in memory at a time.

    Raises:
        UsageError: if there is no path.
    """
    names = [name.strip() for name in paths.split(",") if name.strip()] if isinstance(paths, str) else list(paths)
    if not names:
        raise UsageError("checkpoints: wanted at least one path, got none")
    return [partial(_load, network, str(name), device) for name in names]


def _load(network: nn.Module, path: str, device: Any) -> nn.Module:
    from medsal.bundle import load_weights

    return load_weights(copy.deepcopy(network), path, device=device)


def training_prior(items: Sequence[Mapping[str, Any]] | None, keys: Keys | None = None) -> MaskPrior | None:
    """The mean training mask of a dataset.

    Args:
        items: cases with a truth and ``split`` ``train``; those without a truth are left out. None makes none.
        keys: what the items' entries are called.

    Returns:
        The prior, or None.

    Raises:
        UsageError: if a case is of another split, or none has a truth.
    """
    if items is None:
        return None
    cases = Cases(items, keys, batch_size=1)
    splits = {name: str(cases.item(at).get("split")) for at, name in enumerate(cases.names)}
    truths = ((name, cases.truth(at)) for at, name in enumerate(cases.names))
    return mean_training_mask(((name, truth[0]) for name, truth in truths if truth is not None), splits)
