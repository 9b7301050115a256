"""A batch of images under study: its random numbers, and what methods claim about it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Batch:
    """Images, and what methods need of them that has nothing to do with a network.

    Args:
        image: plain tensor ``(B, C, *space)`` in single or double precision.
        seed: seed of the methods that draw random numbers.

    Attributes:
        claims: what the method at work says about itself; ``explain`` collects it after each method.
        remembered: what does not depend on the target, for the next target of the same images.
        rows: ``(B,)``, 0 to B - 1.
        spacing: mm per voxel along each axis of space; ones where that is not known.
    """

    def __init__(self, image: Tensor, seed: int = 0) -> None:
        self.image = image
        self.seed = seed
        self.claims: dict[str, Any] = {}
        self.remembered: dict[Any, Any] = {}
        self.rows = torch.arange(len(image), device=image.device)
        self.spacing: tuple[float, ...] = (1.0,) * (image.ndim - 2)

    def draw(self, stream: int, steps: Tensor | None = None) -> Tensor:
        """Standard normal noise that depends on the seed, the stream and the step alone.

        Every image of a batch, alone or not and in whatever chunk, meets the same numbers on every device.

        Args:
            stream: which of a method's random quantities this is.
            steps: ``(N,)``, the step of each row; None draws once.

        Returns:
            ``(N, C, *space)``, or ``(C, *space)``.
        """
        shape, device, dtype = self.image.shape[1:], self.image.device, self.image.dtype
        drawn = {
            step: torch.randn(shape, generator=torch.Generator().manual_seed(hash((self.seed, stream, step)))).to(dtype)
            for step in ([0] if steps is None else dict.fromkeys(steps.tolist()))
        }
        noise = drawn[0] if steps is None else torch.stack([drawn[step] for step in steps.tolist()])
        return noise.to(device)

    def uniform(self, count: int) -> Tensor:
        """Numbers between 0 and 1 that depend on the seed alone.

        Args:
            count: how many.

        Returns:
            ``(count,)``, on the images' device.
        """
        drawn = torch.rand(count, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        return drawn.to(self.image)

    def claim(self, **facts: Any) -> None:
        """Record what a method can check about itself.

        Args:
            **facts: JSON-able values; tensors become lists.
        """
        self.claims.update({k: v.tolist() if isinstance(v, Tensor) else v for k, v in facts.items()})

    def claim_completeness(self, attribution: Tensor, difference: Tensor) -> None:
        """Record how far the sum of an attribution is from the difference of scores that it explains.

        Args:
            attribution: ``(B, C, *space)``, before any reduction that loses its sum.
            difference: ``(B,)``, score of the image minus score of the baseline.
        """
        gap = attribution.double().flatten(1).sum(1) - difference.double()
        scale = difference.double().abs().clamp_min(torch.finfo(torch.float64).tiny)
        self.claim(score_difference=difference, completeness_gap=gap, relative_gap=gap.abs() / scale)
