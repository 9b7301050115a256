"""What a borrowed network says of images that are partly hidden: the ground of confidence and faithfulness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from medsal.attribution import memory
from medsal.attribution.baseline import Baseline, baseline_images
from medsal.attribution.classifier import borrowed
from medsal.attribution.images import plain_image
from medsal.attribution.probe import Probe
from medsal.attribution.target import Target, TargetLike
from medsal.errors import UsageError
from medsal.evaluation.truth import plain

SCORES = ("probability", "sigmoid", "logit")
"""What is read of the logits; a callable target is its own score, whatever is asked."""


class Forwards:
    """Images, one score of each, and the scores of what is made of them.

    Args:
        probe: the images and the network.
        score: one of ``SCORES``: ``probability`` (softmax over classes, or the sigmoid of a single logit), ``sigmoid``
            (of the target's logit, for networks with several labels) or ``logit``.

    Raises:
        UsageError: if there is no such score.
    """

    def __init__(self, probe: Probe, score: str) -> None:
        if score not in SCORES:
            raise UsageError(f"score: wanted {', '.join(SCORES)}, got {score!r}")
        self.probe = probe
        self.score = score
        self.images = probe.image
        found: list[Tensor] = []

        def body(part: slice) -> None:
            with torch.no_grad():
                found.append(probe.forward(probe.image[part]))

        memory.in_chunks(len(probe.image), probe.chunk(), body)
        probe.offer(torch.cat(found))
        self.confidence = self._read(probe.logits, probe.rows)

    def at(self, count: int, make: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Scores of ``count`` images made from each image, chunk by chunk.

        Args:
            count: how many are made from each.
            make: maps rows ``(N,)`` and steps ``(N,)`` to images ``(N, C, *space)``.

        Returns:
            ``(B, count)`` in float64.
        """
        logits = self.probe.logits_at(None, count, make).flatten(0, 1)
        return self._read(logits, self.probe.rows.repeat_interleave(count)).view(-1, count)

    def filled(self, fill: Baseline) -> Tensor:
        """What is seen where an image is hidden.

        Args:
            fill: see ``medsal.attribution.baseline.baseline_images``.

        Returns:
            ``(B, C, *space)``.
        """
        return baseline_images(self.probe, fill)

    def _read(self, logits: Tensor, rows: Tensor) -> Tensor:
        target, wide = self.probe.target, logits.double()
        if target.function is not None or self.score == "logit":
            return target.score(wide, rows)
        if self.score == "sigmoid" or logits.shape[1] == 1:
            return target.score(wide, rows).sigmoid()
        return target.score(wide.softmax(1), rows)


@contextmanager
def forwards(network: nn.Module, image: Tensor, target: TargetLike, score: str, *, seed: int = 0) -> Iterator[Forwards]:
    """Borrow a network for forwards only; it is given back as it was.

    Args:
        network: a classifier, see ``medsal.explain``.
        image: ``(B, C, *space)``.
        target: which score, see ``medsal.explain``; None is each image's own predicted class.
        score: see ``Forwards``.
        seed: of a random fill.

    Yields:
        The scores of the images and of what is made of them.
    """
    with torch.inference_mode(False), borrowed(network):
        given = plain_image(image)
        axis = getattr(network, "slice_axis", None)
        if axis is not None and given.ndim == 4:
            given = given.movedim(1, axis + 1).unsqueeze(1)
        yield Forwards(Probe(network, given, Target(target, len(given)), seed=seed), score)


def on_grid(relevance: Tensor, images: Tensor) -> Tensor:
    """Check that maps lie on the grid of images.

    Args:
        relevance: ``(B, 1, *space)``.
        images: ``(B, C, *space)``.

    Returns:
        Plain relevance on the images' device.

    Raises:
        UsageError: if it does not.
    """
    if relevance.shape != (len(images), 1, *images.shape[2:]):
        raise UsageError(
            f"wanted relevance on the grid of the images, {(len(images), 1, *images.shape[2:])}, "
            f"got {tuple(relevance.shape)}"
        )
    return plain(relevance).to(images.device)


def finite(relevance: Tensor) -> Tensor:
    """Which maps have finite values only.

    Args:
        relevance: ``(B, 1, *space)``.

    Returns:
        Boolean ``(B,)``.
    """
    return relevance.flatten(1).isfinite().all(1)


def shifted_control(
    metric: Callable[..., Tensor],
    network: nn.Module,
    image: Tensor,
    relevance: Tensor,
    *,
    draws: int = 10,
    seed: int = 0,
    **options: object,
) -> Tensor:
    """What a metric gives for maps of the same values, sizes and shapes in the wrong place: its chance value.

    Relevance is shifted around the image's edges by a random distance along every axis, the same for all images of a
    batch, so that as much is hidden as by the map itself.

    Args:
        metric: a function of network, image and relevance.
        network: a classifier.
        image: ``(B, C, *space)``.
        relevance: ``(B, 1, *space)``.
        draws: how many shifts.
        seed: of the shifts.
        **options: of the metric.

    Returns:
        ``(B,)`` in float64, the mean over the shifts.
    """
    total = torch.zeros(len(relevance), dtype=torch.float64, device=image.device)
    axes = tuple(range(2, relevance.ndim))
    for draw in range(draws):
        generator = torch.Generator().manual_seed(hash((seed, draw)))
        shift = [int(torch.randint(relevance.shape[axis], (), generator=generator)) for axis in axes]
        total += metric(network, image, plain(relevance).roll(shift, axes), **options).to(total)
    return total / draws
