"""Occlusion sensitivity under MONAI's name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medsal.attribution.probe import Probe
from medsal.errors import UsageError
from medsal.visualize.study import dressed, network_of, probed

MODES = ("gaussian", "mean_patch", "mean_img")
Mode = str | float | Callable[[Tensor, Tensor], Tensor]
Box = list[tuple[int, int]]
"""First voxel and the one behind the last, for each axis."""


class OcclusionSensitivity:
    """What the network says while a part of the image is hidden, with MONAI's call; low where it is needed.

    All outputs are scored in one sweep without a graph. For the drop of one score as relevance see ``medsal.explain``
    with ``occlusion``.

    Args:
        nn_module: the network.
        mask_size: voxels of the hidden box, one number or one per axis.
        n_batch: most images in one forward.
        verbose: has no effect; nothing is printed.
        mode: what the box is filled with: a number, ``mean_img``, ``mean_patch``, ``gaussian`` (darkened towards the
            centre of the box), or a function from the image and the part, each ``(1, C, *space)``, to its replacement.
        overlap: share of a box that the next one covers again, from 0 to below 1.
        activate: True (softmax over several *outputs*, sigmoid for one), False (logits), or a function of the logits.

    Raises:
        UsageError: if mode or overlap is none of these.
    """

    def __init__(
        self,
        nn_module: nn.Module,
        mask_size: int | Sequence[int] = 16,
        n_batch: int = 16,
        verbose: bool = True,  # noqa: ARG002  in MONAI's signature
        mode: Mode = "gaussian",
        overlap: float = 0.6,
        activate: bool | Callable[[Tensor], Tensor] = True,
    ) -> None:
        if isinstance(mode, str) and mode not in MODES:
            raise UsageError(f"mode: wanted a number, a function or one of {', '.join(MODES)}, got {mode!r}")
        if not 0 <= overlap < 1 or n_batch < 1:
            raise UsageError(f"wanted 0 <= overlap < 1 and n_batch of at least 1, got {overlap} and {n_batch}")
        self.nn_module = network_of(nn_module)
        self.mask_size, self.n_batch, self.mode = mask_size, n_batch, mode
        self.overlap, self.activate = overlap, activate

    def __call__(self, x: Tensor, b_box: Sequence[int] | None = None, **kwargs: Any) -> tuple[Any, Any]:
        """Hide one box after another.

        Args:
            x: ``(B, C, *space)``.
            b_box: ``[min, max, min, max, ...]``, the first and the last voxel of each axis that the maps shall have,
                both included; a negative number is the end of the image. Boxes reach half a mask beyond it.
            **kwargs: further arguments of the network.

        Returns:
            What each output is while the voxel is hidden, ``(B, K, *box)``, the mean over the boxes that hide it; and
            the largest output there, ``(B, 1, *box)``. Both with the meta of the image where it has any.

        Raises:
            UsageError: if the mask is larger than the image, or the box is not in it.
        """
        space = tuple(x.shape[2:])
        box = _box(b_box, space)
        mask = self._mask(space)
        around = [
            (max(first - (size - 1) // 2, 0), min(stop + (size - 1) // 2, full))
            for (first, stop), size, full in zip(box, mask, space, strict=True)
        ]
        mask = tuple(min(size, stop - first) for size, (first, stop) in zip(mask, around, strict=True))
        with probed(self.nn_module, x, None, frozenset(), None, kwargs) as probe:
            total = self._swept(probe, mask, around)
        cut = total[(slice(None), slice(None), *(slice(first, stop) for first, stop in box))].contiguous()
        start = tuple(first for first, _ in box)
        return dressed(cut, x, start), dressed(cut.argmax(1, keepdim=True), x, start)

    def _mask(self, space: tuple[int, ...]) -> tuple[int, ...]:
        sizes = self.mask_size
        mask = tuple(sizes) if isinstance(sizes, Sequence) else (sizes,) * len(space)
        if len(mask) != len(space) or any(not 1 <= size <= full for size, full in zip(mask, space, strict=False)):
            raise UsageError(f"mask_size: wanted sizes from 1 to those of the image {space}, got {self.mask_size}")
        return mask

    def _swept(self, probe: Probe, mask: tuple[int, ...], around: Box) -> Tensor:
        """Mean output while each voxel is hidden, ``(B, K, *space)``."""
        starts = list(
            itertools.product(*(_starts(*ends, m, self.overlap) for ends, m in zip(around, mask, strict=True)))
        )
        fill, weight = self._fill(probe.image, mask), _weight(probe.image, mask, self.mode)
        found = _logits_hidden(probe, [_part(at, mask) for at in starts], fill, self.n_batch)
        found = self._activated(found.flatten(0, 1)).view(*found.shape[:2], -1)
        space = probe.image.shape[2:]
        total = found.new_zeros(len(found), found.shape[2], *space)
        weights = found.new_zeros(space)
        for index, at in enumerate(starts):
            part = _part(at, mask)
            values = found[:, index].view(*found[:, index].shape, *[1] * len(mask))
            total[(slice(None), slice(None), *part)] += weight * values
            weights[part] += weight
        return total / weights.clamp_min(torch.finfo(weights.dtype).tiny)

    def _activated(self, logits: Tensor) -> Tensor:
        if callable(self.activate):
            return self.activate(logits)
        if not self.activate:
            return logits
        return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)

    def _fill(self, image: Tensor, mask: tuple[int, ...]) -> Callable[[Tensor, Tensor], Tensor]:
        """From an image and its part, each ``(1, C, *space)``, to what stands in place of the part."""
        mode = self.mode
        if callable(mode):
            return mode
        if not isinstance(mode, str):
            return lambda _, part: torch.full_like(part, float(mode))
        if mode == "mean_img":
            return lambda whole, part: whole.mean().expand_as(part)
        if mode == "mean_patch":
            return lambda _, part: part.mean().expand_as(part)
        kept = _darkening(mask).to(image)
        return lambda _, part: part * kept


def _logits_hidden(
    probe: Probe, parts: list[tuple[slice, ...]], fill: Callable[[Tensor, Tensor], Tensor], n_batch: int
) -> Tensor:
    """Logits with one part after another hidden, ``(B, parts, K)``: all that is asked of the core."""

    def make(rows: Tensor, steps: Tensor) -> Tensor:
        images = probe.image[rows].clone()
        for at, (row, step) in enumerate(zip(rows.tolist(), steps.tolist(), strict=True)):
            image = images[at : at + 1]
            where = (slice(None), slice(None), *parts[step])
            image[where] = fill(probe.image[row : row + 1], image[where])
        return images

    most = probe.chunk
    probe.chunk = lambda: min(most(), n_batch)  # type: ignore[method-assign]  # the user's own limit, for this probe only
    return probe.logits_at(None, len(parts), make)


def _box(b_box: Sequence[int] | None, space: tuple[int, ...]) -> Box:
    """The part of the image that is asked for."""
    if b_box is None:
        return [(0, size) for size in space]
    if len(b_box) != 2 * len(space):
        raise UsageError(f"b_box: wanted a minimum and a maximum for each of {len(space)} axes, got {list(b_box)}")
    box = [
        (max(int(low), 0), size if high < 0 else int(high) + 1)
        for low, high, size in zip(b_box[::2], b_box[1::2], space, strict=True)
    ]
    if any(not first < stop <= size for (first, stop), size in zip(box, space, strict=True)):
        raise UsageError(f"b_box: wanted a box inside the image {space}, first and last voxel, got {list(b_box)}")
    return box


def _starts(first: int, stop: int, size: int, overlap: float) -> Iterator[int]:
    """Where boxes of a size begin, so that all between two voxels is hidden at least once."""
    step = max(int(size * (1 - overlap)), 1)
    yield from range(first, stop - size, step)
    yield stop - size


def _part(start: Sequence[int], mask: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(at, at + size) for at, size in zip(start, mask, strict=True))


def _darkening(mask: tuple[int, ...]) -> Tensor:
    """Factors from 0 at the centre of a box to 1 at its edge: a blurred point, turned round."""
    from monai.transforms import GaussianSmooth

    point = torch.zeros(1, *mask)
    point[(0, *(size // 2 for size in mask))] = 1
    blurred = torch.as_tensor(GaussianSmooth(sigma=[size / 4 for size in mask])(point)).as_subclass(Tensor)[0]
    spread = blurred.max() - blurred.min()
    return (blurred.max() - blurred) / spread if spread > 0 else torch.zeros(mask)


def _weight(image: Tensor, mask: tuple[int, ...], mode: Mode) -> Tensor:
    """Weight of a box's voxels where boxes overlap: even, or with the gaussian the more the darker."""
    if mode != "gaussian":
        return torch.ones(mask, device=image.device, dtype=image.dtype)
    from monai.data.utils import compute_importance_map

    return torch.as_tensor(compute_importance_map(mask, mode="gaussian", sigma_scale=0.125)).to(image)
