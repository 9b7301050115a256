"""Faithfulness: does relevance say what matters to the network? Every metric runs a fixed number of forwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from medsal.attribution.baseline import Baseline
from medsal.attribution.explain import explain
from medsal.attribution.images import plain_image
from medsal.attribution.target import TargetLike
from medsal.errors import UsageError
from medsal.evaluation.forwards import Forwards, finite, forwards, on_grid
from medsal.evaluation.truth import plain

INFIDELITY_STREAM, SENSITIVITY_STREAM = 21, 22
"""Streams of random numbers."""


def insertion(
    network: nn.Module,
    image: Tensor,
    relevance: Tensor,
    *,
    target: TargetLike = None,
    score: str = "probability",
    steps: int = 50,
    fill: Baseline = 0.0,
) -> Tensor:
    """The mean score while an image appears from its fill, most relevant voxels first. Higher is better.

    Petsiuk et al. 2018, arXiv:1806.07421: the area under the score over the share of the image shown, by trapezoids, at
    ``steps + 1`` shares from 0 to 1. Tied voxels appear together, little by little, so that nothing depends on the
    order in which a map is stored; a constant map fades the whole image in. Chance: ``shifted_control``.

    Args:
        network: a classifier, given back as it was.
        image: ``(B, C, *space)`` as the network wants it.
        relevance: ``(B, 1, *space)``; higher appears first.
        target: which score, see ``medsal.explain``; None is each image's own predicted class.
        score: ``probability``, ``sigmoid`` or ``logit``, see ``medsal.evaluation.forwards.Forwards``.
        steps: how many; the cost is two forwards more.
        fill: what is seen of a voxel before it appears, see ``medsal.attribution.baseline.baseline_images``; the paper
            blurs the image for insertion.

    Returns:
        ``(B,)`` in float64, for probabilities from 0 to 1; NaN where relevance is not finite.

    Raises:
        UsageError: if there is no step, or the maps are not on the images' grid.
    """
    with forwards(network, image, target, score) as asked:
        return _area(_curve(asked, relevance, steps, fill))


def deletion(
    network: nn.Module,
    image: Tensor,
    relevance: Tensor,
    *,
    target: TargetLike = None,
    score: str = "probability",
    steps: int = 50,
    fill: Baseline = 0.0,
) -> Tensor:
    """The mean score while an image turns into its fill, most relevant voxels first. Lower is better.

    Petsiuk et al. 2018, arXiv:1806.07421; see ``insertion``, also for ties, range and chance.

    Args:
        network: as for ``insertion``.
        image: as there.
        relevance: as there; higher is hidden first.
        target: as there.
        score: as there.
        steps: as there.
        fill: what is seen of a voxel that is hidden; the paper takes zero.

    Returns:
        ``(B,)`` in float64, for probabilities from 0 to 1; NaN where relevance is not finite.

    Raises:
        UsageError: if there is no step, or the maps are not on the images' grid.
    """
    with forwards(network, image, target, score) as asked:
        return _area(_curve(asked, -relevance, steps, fill).flip(1))


def _area(curve: Tensor) -> Tensor:
    return torch.trapezoid(curve, dx=1 / (curve.shape[1] - 1))


def _curve(asked: Forwards, relevance: Tensor, steps: int, fill: Baseline) -> Tensor:
    """Scores ``(B, steps + 1)`` while voxels appear, those of highest relevance first."""
    if steps < 1 or steps != int(steps):
        raise UsageError(f"steps: wanted at least 1, got {steps!r}")
    maps = on_grid(relevance, asked.images)
    orders = [_order(one.nan_to_num().flatten()) for one in maps]
    before, tied = (torch.stack(parts).view_as(maps) for parts in zip(*orders, strict=True))
    hidden, count = asked.filled(fill), maps[0].numel()

    def make(rows: Tensor, at: Tensor) -> Tensor:
        shown = (at.double() * count / steps).view(-1, *[1] * (maps.ndim - 1))
        weight = ((shown - before[rows]) / tied[rows]).clamp(0, 1)
        return torch.lerp(hidden[rows], asked.images[rows], weight.to(asked.images))

    scores = asked.at(steps + 1, make)
    return torch.where(finite(maps)[:, None], scores, math.nan)


def _order(values: Tensor) -> tuple[Tensor, Tensor]:
    """For each voxel how many have more relevance, and how many have as much."""
    ranked = values.sort(descending=True)
    counts = torch.unique_consecutive(ranked.values, return_counts=True)[1]
    before, tied = (torch.empty_like(values, dtype=torch.int32) for _ in range(2))
    before[ranked.indices] = (counts.cumsum(0) - counts).repeat_interleave(counts).int()
    tied[ranked.indices] = counts.repeat_interleave(counts).int()
    return before, tied


def infidelity(  # noqa: PLR0913  each is a choice that changes the number
    network: nn.Module,
    image: Tensor,
    relevance: Tensor,
    *,
    target: TargetLike = None,
    samples: int = 50,
    sigma: float = 0.1,
    scaled: bool = False,
    seed: int = 0,
) -> Tensor:
    r"""How far relevance is from predicting what noise does to the score; lower is better.

    :math:`E_I [(I^T r - (f(x) - f(x - I)))^2]` of Yeh et al. 2019, arXiv:1901.09392, over Gaussian noise that is the
    same in all channels. It is exactly 0 for a linear network and its gradient. A map of zeros scores
    :math:`E [(f(x) - f(x - I))^2]`, which is what chance gives; the value depends on the size of relevance, so that
    only maps in units of the score per unit of the image compare, unless each is scaled to fit best.

    Args:
        network: a classifier, given back as it was.
        image: ``(B, C, *space)`` as the network wants it.
        relevance: signed, ``(B, 1, *space)``, summed over channels.
        target: which score, see ``medsal.explain``; None is the logit of each image's own predicted class.
        samples: draws of noise; the cost is one forward more.
        sigma: standard deviation of the noise over the range of the image.
        scaled: scale each map by the factor that makes its infidelity least, from 0 (fits) to that of a map of zeros.
        seed: of the noise, which is the same for every image of a batch.

    Returns:
        ``(B,)`` in float64, from 0, in squared units of the score; NaN where relevance is not finite.

    Raises:
        UsageError: if there is no sample or no noise.
    """
    if samples < 1 or sigma <= 0:
        raise UsageError(f"infidelity: wanted samples and a sigma above 0, got {samples!r} and {sigma!r}")
    with forwards(network, image, target, "logit") as asked:
        maps = on_grid(relevance, asked.images)
        size = sigma * _range(asked.images)

        def noise(step: int) -> Tensor:
            generator = torch.Generator().manual_seed(hash((seed, INFIDELITY_STREAM, step)))
            return torch.randn(maps.shape[2:], generator=generator, dtype=torch.float64).to(asked.images)

        def make(rows: Tensor, at: Tensor) -> Tensor:
            return asked.images[rows] - size[rows] * torch.stack([noise(i)[None] for i in at.tolist()])

        change = asked.confidence[:, None] - asked.at(samples, make)
        told = torch.stack([(maps * noise(i)).double().flatten(1).sum(1) for i in range(samples)], 1)
        told = told * size.double().view(-1, 1)
        if scaled:
            told = told * (told * change).sum(1, keepdim=True) / told.square().sum(1, keepdim=True).clamp_min(1e-300)
        return torch.where(finite(maps), (told - change).square().mean(1), math.nan)


def sensitivity_max(
    network: nn.Module,
    image: Tensor,
    method: str | Callable[[nn.Module, Tensor], Tensor] = "saliency",
    *,
    target: TargetLike = None,
    samples: int = 10,
    radius: float = 0.02,
    seed: int = 0,
) -> Tensor:
    r"""How much a map changes at most when the image changes a little; lower is better.

    :math:`\max_\delta \| r(x + \delta) - r(x) \| / \| r(x) \|` over uniform noise, Yeh et al. 2019, arXiv:1901.09392. A
    method that does not look at the image scores 0: a low value alone proves nothing. The class explained is that of
    the image without noise.

    Args:
        network: a classifier, given back as it was.
        image: ``(B, C, *space)`` as the network wants it.
        method: a name of ``METHODS``, or a function from network and image to relevance ``(B, 1, *space)``.
        target: see ``medsal.explain``; for a function it must know itself.
        samples: draws of noise; the cost is one map more.
        radius: largest noise over the range of the image.
        seed: of the noise, which is the same for every image of a batch, and of the method.

    Returns:
        ``(B,)`` in float64, from 0; NaN where the map is zero or not finite.

    Raises:
        UsageError: if there is no sample or no radius.
    """
    if samples < 1 or radius <= 0:
        raise UsageError(f"sensitivity_max: wanted samples and a radius above 0, got {samples!r} and {radius!r}")
    given = plain_image(image)
    relevance, wanted = _map(network, given, method, target, seed)
    size, found = radius * _range(given), torch.zeros(len(given), dtype=torch.float64, device=given.device)
    for step in range(samples):
        generator = torch.Generator().manual_seed(hash((seed, SENSITIVITY_STREAM, step)))
        noise = 2 * torch.rand(given.shape[1:], generator=generator, dtype=torch.float64).to(given) - 1
        moved, _ = _map(network, given + size * noise, method, wanted, seed)
        found = torch.maximum(found, (moved - relevance).flatten(1).norm(dim=1))
    norm = relevance.flatten(1).norm(dim=1)
    return torch.where((norm > 0) & norm.isfinite(), found / norm, math.nan)


def _map(
    network: nn.Module, image: Tensor, method: str | Callable[[nn.Module, Tensor], Tensor], target: Any, seed: int
) -> tuple[Tensor, Any]:
    """Relevance in float64, and the target that it explains."""
    if callable(method):
        return plain(method(network, image)).double(), target
    found = explain(network, image, [method], target=target, seed=seed)
    return plain(found[method]).double(), target if callable(target) else found.target


def _range(image: Tensor) -> Tensor:
    flat = image.flatten(1)
    return (flat.amax(1) - flat.amin(1)).view(-1, *[1] * (image.ndim - 1))
