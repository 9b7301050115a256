"""Baselines: the uninformative images that path methods start from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medsal.attribution.probe import Probe
from medsal.errors import UsageError

Baseline = float | str | Tensor | Callable[[Tensor], Tensor]

BASELINE_STREAM, NOISE_STREAM = 1, 2
"""Streams of random numbers, so that a method's noise and its random baseline are independent."""

STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": torch.zeros_like,
    "min": lambda x: x.flatten(1).amin(1).view(-1, *[1] * (x.ndim - 1)).expand_as(x),
    "max": lambda x: x.flatten(1).amax(1).view(-1, *[1] * (x.ndim - 1)).expand_as(x),
    "mean": lambda x: x.flatten(1).mean(1).view(-1, *[1] * (x.ndim - 1)).expand_as(x),
}


def baseline_images(probe: Probe, wanted: Baseline) -> Tensor:
    """Make the baseline of every image.

    Args:
        probe: the images under study.
        wanted: a number (the same everywhere), ``"zero"``, ``"min"``, ``"max"`` or ``"mean"`` of each image,
            ``"gaussian:S"`` (one seeded draw of standard deviation S, the same for every image), a tensor that
            broadcasts to the images, or a callable from the images to one.

    Returns:
        ``(B, C, *space)``.

    Raises:
        UsageError: if it is none of these, does not have the images' shape, or is not finite.
    """
    made = _made(probe, wanted)
    if not torch.isfinite(made).all():
        raise UsageError(
            f"baseline: wanted finite values, got {wanted if isinstance(wanted, int | float | str) else 'others'}"
        )
    return made


def _made(probe: Probe, wanted: Baseline) -> Tensor:
    image = probe.image
    if isinstance(wanted, str) and wanted.startswith("gaussian:"):
        return (probe.draw(BASELINE_STREAM) * _deviation(wanted)).expand_as(image)
    if isinstance(wanted, str) and wanted in STATISTICS:
        return STATISTICS[wanted](image)
    if isinstance(wanted, int | float):
        return torch.full_like(image, float(wanted))
    made = wanted(image) if callable(wanted) else wanted
    if not isinstance(made, Tensor):
        raise UsageError(
            f"baseline: wanted a number, tensor, callable, gaussian:S or one of {', '.join(STATISTICS)}, got {made!r}"
        )
    try:
        return made.to(image).expand_as(image)
    except RuntimeError as error:
        raise UsageError(
            f"baseline: wanted a shape that broadcasts to {tuple(image.shape)}, got {tuple(made.shape)}"
        ) from error


def _deviation(wanted: str) -> float:
    try:
        return float(wanted.removeprefix("gaussian:"))
    except ValueError as error:
        raise UsageError(f"baseline: wanted gaussian: and a standard deviation, got {wanted!r}") from error
