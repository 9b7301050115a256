"""Integrated gradients: gradients averaged along a path from a baseline, by a fixed rule or to a tolerance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medsal.attribution.baseline import Baseline, baseline_images
from medsal.attribution.probe import Probe
from medsal.attribution.relevance import reduce_channels
from medsal.errors import UsageError

FIRST_STEPS, MOST_STEPS = 9, 2187
"""Where integrated gradients to a tolerance begin and give up; each time the steps are tripled."""

QUADRATURES = ("gauss_legendre", "midpoint", "right", "paper_2021")


def quadrature(name: str, steps: int) -> tuple[Tensor, Tensor]:
    """Points on the path from 0 to 1 and their weights.

    Args:
        name: ``gauss_legendre``, ``midpoint``, ``right`` (right Riemann sum, as in the paper's code), or
            ``paper_2021`` (``linspace(0, 1, steps)`` with equal weights, as in the study by Arun et al. 2021).
        steps: number of points.

    Returns:
        Points and weights, each ``(steps,)`` in float64.

    Raises:
        UsageError: if the rule is not known or there is no step.

    Example:
        >>> quadrature("midpoint", 2)[0].tolist()
        [0.25, 0.75]
    """
    if steps < 1:
        raise UsageError(f"steps: wanted at least 1, got {steps}")
    equal = torch.full((steps,), 1 / steps, dtype=torch.float64)
    index = torch.arange(steps, dtype=torch.float64)
    if name == "gauss_legendre":
        points, weights = np.polynomial.legendre.leggauss(steps)
        return torch.from_numpy(points + 1) / 2, torch.from_numpy(weights) / 2
    if name == "midpoint":
        return (index + 0.5) / steps, equal
    if name == "right":
        return (index + 1) / steps, equal
    if name == "paper_2021":
        return torch.linspace(0, 1, steps, dtype=torch.float64), equal
    raise UsageError(f"quadrature: wanted one of {', '.join(QUADRATURES)}, got {name!r}")


def column(values: Tensor, like: Tensor) -> Tensor:
    """Shape one number per image so that it multiplies images.

    Args:
        values: ``(N,)``.
        like: ``(N, C, *space)``.

    Returns:
        ``(N, 1, ...)``, of the same kind.
    """
    return values.to(like).view(-1, *[1] * (like.ndim - 1))


def integrated_gradients(
    probe: Probe,
    *,
    baseline: Baseline = 0.0,
    steps: int = 50,
    quadrature: str = "gauss_legendre",
    tolerance: float | None = None,
    channels: str = "sum",
) -> Tensor:
    r"""Gradients averaged along the straight path from a baseline, times the difference to it.

    :math:`(x - b) \odot \int_0^1 \nabla s(b + \alpha (x - b)) \, d\alpha`; Sundararajan et al. 2017, arXiv:1703.01365.
    Its sum is the score of the image minus that of the baseline, up to the quadrature's error, which is claimed as
    ``completeness_gap``.

    Args:
        probe: the images under study.
        baseline: where the path starts, see ``baseline_images``. Zero is the mean tissue of a z-normalised image.
        steps: number of points on the path.
        quadrature: a name of ``QUADRATURES``.
        tolerance: the largest completeness gap as a share of the difference of scores. Where given, the steps of the
            midpoint rule are tripled, with all earlier gradients kept, until each image is within it or has
            ``MOST_STEPS``; ``steps`` and ``quadrature`` are not used, and each image's steps are claimed.
        channels: reduction of the channels, a name of ``REDUCTIONS``.

    Returns:
        Signed relevance ``(B, 1, *space)``, in units of the score.

    Raises:
        UsageError: if the quadrature is not known or the tolerance not above 0.
    """
    start = baseline_images(probe, baseline)
    path = probe.image - start
    difference = probe.score - probe.scores(start)
    if tolerance is None:
        attribution = path * _mean_along(probe, start, path, *_quadrature(quadrature, steps))
    else:
        attribution = _to_tolerance(probe, start, path, difference, tolerance)
    probe.claim_completeness(attribution, difference)
    return reduce_channels(attribution, channels)


_quadrature = quadrature  # the option of the same name hides the function


def _mean_along(
    probe: Probe, start: Tensor, path: Tensor, points: Tensor, weights: Tensor, rows: Tensor | None = None
) -> Tensor:
    """Weighted mean of the gradients at points of the path."""

    def point(row: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        alpha, weight = points[index.cpu()], weights[index.cpu()] * len(points)
        return start[row] + column(alpha, path) * path[row], column(weight, path)

    return probe.mean_gradient(len(points), point, rows)


def _to_tolerance(probe: Probe, start: Tensor, path: Tensor, difference: Tensor, tolerance: float) -> Tensor:
    """Triple the steps of the midpoint rule until each image is within the tolerance."""
    # The points of a midpoint rule are among those of three times as many, and it never looks at the baseline itself,
    # where networks without biases have a kink.
    if tolerance <= 0:
        raise UsageError(f"tolerance: wanted above 0, got {tolerance}")
    steps = torch.full_like(probe.rows, FIRST_STEPS)
    mean = _mean_along(probe, start, path, *quadrature("midpoint", FIRST_STEPS))
    while True:
        gap = (path * mean).flatten(1).sum(1) - difference
        rows = probe.rows[(gap.abs() > tolerance * difference.abs()) & (steps < MOST_STEPS)]
        if not len(rows):
            probe.claim(steps=steps)
            return path * mean
        points, _ = quadrature("midpoint", 3 * int(steps[rows[0]]))
        new = points[torch.arange(len(points)) % 3 != 1]
        between = _mean_along(probe, start, path, new, torch.full_like(new, 1 / len(new)), rows)
        mean[rows] = (mean[rows] + 2 * between[rows]) / 3
        steps[rows] *= 3
