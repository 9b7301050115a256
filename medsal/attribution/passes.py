"""Passes at other points than the images themselves, in chunks that fit into memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from medsal.attribution import memory
from medsal.attribution.batch import Batch
from medsal.attribution.classifier import first_tensor, gradients_of
from medsal.attribution.target import Target

HALF = frozenset({torch.float16, torch.bfloat16})

Point = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From rows and steps ``(N,)`` to images ``(N, C, *space)`` and the factors of their gradients."""


class Passes(Batch, ABC):
    """A batch of images and the borrowed network that is run on what methods make of them.

    Args:
        network: a network in evaluation mode without weight gradients (see ``classifier.borrowed``).
        image: plain tensor ``(B, C, *space)`` in single or double precision.
        target: what is explained.
        seed: seed of the methods that draw random numbers.
        budget: bytes that chunked loops may use; None takes half of the free memory.

    Attributes:
        autocast: precision of the network's operations; None leaves it to the network.
    """

    def __init__(
        self, network: nn.Module, image: Tensor, target: Target, seed: int = 0, budget: int | None = None
    ) -> None:
        super().__init__(image, seed)
        self.network = network
        self.target = target
        self.budget = budget
        self.autocast: torch.dtype | None = None
        self._bytes = 0
        weights = next((p.dtype for p in network.parameters() if p.is_floating_point()), None)
        self._dtype = None if weights == image.dtype else weights

    @property
    @abstractmethod
    def logits(self) -> Tensor:
        """Logits of the images themselves, ``(B, K)``; the targets are fixed by them."""

    def forward(self, image: Tensor) -> Tensor:
        """Run the network once.

        Args:
            image: ``(N, C, *space)``; it is copied first, for networks whose first operation is in place.

        Returns:
            Logits ``(N, K)``, of the images' precision whatever the network's.
        """
        handed = image.clone() if self._dtype is None else image.to(self._dtype, copy=True)
        if self.autocast is None:
            logits = first_tensor(self.network(handed))
        else:
            with torch.autocast(image.device.type, self.autocast):
                logits = first_tensor(self.network(handed))
        return logits.to(self.image.dtype)

    def logits_at(self, key: Any, count: int, make: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Logits of ``count`` images made from each image, without a graph, remembered for other targets.

        Args:
            key: under which they are remembered; None does not.
            count: how many images are made from each.
            make: maps rows ``(N,)`` and steps ``(N,)`` to images ``(N, C, *space)``.

        Returns:
            ``(B, count, K)``.
        """
        if key is not None and key in self.remembered:
            known: Tensor = self.remembered[key]
            return known
        self.logits  # noqa: B018  the targets are those of the images themselves
        rows = self.rows.repeat_interleave(count)
        steps = torch.arange(count, device=rows.device).repeat(len(self.image))
        found: list[Tensor] = []

        def body(part: slice) -> None:
            with torch.inference_mode():
                found.append(self.forward(make(rows[part], steps[part])))

        memory.in_chunks(len(rows), self.chunk(), body)
        logits = torch.cat(found).view(len(self.image), count, -1)
        if key is not None:
            self.remembered[key] = logits
        return logits

    def scores_at(self, key: Any, count: int, make: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Scores of images made from each image, see ``logits_at``.

        Args:
            key: as there.
            count: as there.
            make: as there.

        Returns:
            ``(B, count)``.
        """
        logits = self.logits_at(key, count, make).flatten(0, 1)
        return self.target.score(logits, self.rows.repeat_interleave(count)).view(-1, count)

    def scores(self, images: Tensor) -> Tensor:
        """Scores at other images, one for each, without a graph.

        Args:
            images: ``(B, C, *space)``.

        Returns:
            ``(B,)``.
        """
        return self.scores_at(None, 1, lambda rows, _: images[rows])[:, 0]

    def mean_gradient(self, steps: int, point: Point, wanted: Tensor | None = None) -> Tensor:
        """Average gradients of the score over steps for every image, chunk by chunk.

        Args:
            steps: number of steps per image.
            point: maps rows and steps to the images to look at and the factor of each gradient, which broadcasts.
            wanted: rows that are to be averaged; None takes all. The others are zero.

        Returns:
            ``sum over steps of factor * gradient / steps``, shape ``(B, C, *space)``.
        """
        return self.gradient_moments(steps, point, (1,), wanted)[0]

    def gradient_moments(
        self, steps: int, point: Point, powers: tuple[int, ...], wanted: Tensor | None = None
    ) -> list[Tensor]:
        """Average powers of gradients over steps, see ``mean_gradient``.

        Args:
            steps: number of steps per image.
            point: maps rows and steps to images and factors.
            powers: of ``factor * gradient``.
            wanted: rows that are to be averaged; None takes all.

        Returns:
            The mean of each power, ``(B, C, *space)``; in double precision where there are several.
        """
        self.logits  # noqa: B018  the targets are those of the images themselves
        dtype = torch.float64 if len(powers) > 1 else self.image.dtype
        totals = [torch.zeros_like(self.image, dtype=dtype) for _ in powers]
        wanted = self.rows if wanted is None else wanted
        rows = wanted.repeat_interleave(steps)
        indices = torch.arange(steps, device=rows.device).repeat(len(wanted))

        def body(part: slice) -> None:
            images, factor = point(rows[part], indices[part])
            images = images.detach().requires_grad_()
            with torch.enable_grad():
                score = self.target.score(self.forward(images), rows[part])
            (gradient,) = gradients_of(score, [images])
            gradient *= factor
            for total, power in zip(totals, powers, strict=True):
                total.index_add_(0, rows[part], gradient.to(dtype) ** power / steps)

        memory.in_chunks(len(rows), self.chunk(), body)
        return totals

    def chunk(self) -> int:
        """How many images go through the network at once in a loop.

        Returns:
            At least 1.
        """
        if not self._bytes:  # no pass with a graph has been measured yet
            self._bytes = 64 * self.image[0].numel() * self.image.element_size()
        return memory.chunk_size(self.image[0].numel(), self._bytes, self.image.device, self.budget)
