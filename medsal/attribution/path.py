"""Methods that average gradients: along a path from a baseline, over noise, or over both."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medsal.attribution.baseline import NOISE_STREAM, Baseline, baseline_images
from medsal.attribution.probe import Probe
from medsal.attribution.relevance import reduce_channels
from medsal.errors import UsageError

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


def _column(values: Tensor, like: Tensor) -> Tensor:
    """Shape ``(N,)`` so that it multiplies ``(N, C, *space)``."""
    return values.to(like).view(-1, *[1] * (like.ndim - 1))


def _noise_scale(probe: Probe, noise: float, unit: str) -> Tensor:
    """Standard deviation of the noise of each image, ``(B,)``."""
    if noise < 0:
        raise UsageError(f"noise: wanted a standard deviation of at least 0, got {noise}")
    flat = probe.image.flatten(1)
    if unit == "range":
        return noise * (flat.amax(1) - flat.amin(1))
    if unit == "absolute":
        return torch.full_like(flat[:, 0], noise)
    raise UsageError(f"noise_unit: wanted range or absolute, got {unit!r}")


def integrated_gradients(
    probe: Probe,
    *,
    baseline: Baseline = 0.0,
    steps: int = 50,
    quadrature: str = "gauss_legendre",
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
        channels: reduction of the channels, a name of ``REDUCTIONS``.

    Returns:
        Signed relevance ``(B, 1, *space)``, in units of the score.
    """
    points, weights = _quadrature(quadrature, steps)
    start = baseline_images(probe, baseline)
    path = probe.image - start

    def point(rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        alpha = _column(points[index.cpu()], path)
        return start[rows] + alpha * path[rows], _column(weights[index.cpu()] * steps, path)

    attribution = path * probe.mean_gradient(steps, point)
    probe.claim_completeness(attribution, probe.score - probe.scores(start))
    return reduce_channels(attribution, channels)


_quadrature = quadrature  # the option of the same name hides the function


def smoothgrad(
    probe: Probe, *, samples: int = 25, noise: float = 0.15, noise_unit: str = "range", channels: str = "sum"
) -> Tensor:
    r"""Gradients averaged over noisy copies of the image, :math:`E[\nabla s(x + \epsilon)]`.

    Smilkov et al. 2017, arXiv:1706.03825.

    Args:
        probe: the images under study.
        samples: number of noisy copies.
        noise: standard deviation of the noise.
        noise_unit: ``range`` (a share of each image's range, as in the paper) or ``absolute`` (units of the image).
        channels: reduction of the channels, a name of ``REDUCTIONS``.

    Returns:
        Signed relevance ``(B, 1, *space)``, in score per unit of the image.

    Raises:
        UsageError: if there is no sample.
    """
    if samples < 1:
        raise UsageError(f"samples: wanted at least 1, got {samples}")
    scale = _noise_scale(probe, noise, noise_unit)

    def point(rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        noisy = probe.image[rows] + _column(scale[rows], probe.image) * probe.draw(NOISE_STREAM, index)
        return noisy, torch.ones((), device=rows.device, dtype=noisy.dtype)

    return reduce_channels(probe.mean_gradient(samples, point), channels)


def smooth_integrated_gradients(  # noqa: PLR0913  smoothgrad's options and those of integrated gradients
    probe: Probe,
    *,
    samples: int = 10,
    noise: float = 0.1,
    noise_unit: str = "absolute",
    baseline: Baseline = 0.0,
    steps: int = 50,
    quadrature: str = "gauss_legendre",
    channels: str = "sum",
) -> Tensor:
    r"""Integrated gradients averaged over noisy copies of the image, :math:`E[IG(x + \epsilon)]`.

    Smilkov et al. 2017, arXiv:1706.03825, on Sundararajan et al. 2017, arXiv:1703.01365; the MRI study calls it
    ``noise_tunnel_ig``, and its values are the defaults.

    Args:
        probe: the images under study.
        samples: number of noisy copies.
        noise: standard deviation of the noise.
        noise_unit: ``range`` (a share of each image's range) or ``absolute`` (units of the image).
        baseline: where each path starts, see ``baseline_images``.
        steps: number of points on each path.
        quadrature: a name of ``QUADRATURES``.
        channels: reduction of the channels, a name of ``REDUCTIONS``.

    Returns:
        Signed relevance ``(B, 1, *space)``, in units of the score.

    Raises:
        UsageError: if there is no sample.
    """
    if samples < 1:
        raise UsageError(f"samples: wanted at least 1, got {samples}")
    points, weights = _quadrature(quadrature, steps)
    start = baseline_images(probe, baseline)
    scale = _noise_scale(probe, noise, noise_unit)

    def point(rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        step = (index % steps).cpu()
        sample = index // steps
        noisy = probe.image[rows] + _column(scale[rows], probe.image) * probe.draw(NOISE_STREAM, sample)
        path = noisy - start[rows]
        return start[rows] + _column(points[step], path) * path, path * _column(weights[step] * steps, path)

    return reduce_channels(probe.mean_gradient(samples * steps, point), channels)


def gradient_shap(
    probe: Probe,
    *,
    baseline: Baseline = 0.0,
    samples: int = 10,
    noise: float = 0.0,
    noise_unit: str = "absolute",
    channels: str = "sum",
) -> Tensor:
    r"""Gradients at random points between baselines and the noisy image, times the difference.

    :math:`E[(x - b) \odot \nabla s(b + \alpha (x + \epsilon - b))]` with :math:`\alpha` uniform in [0, 1], an
    estimate of SHAP values; Lundberg and Lee 2017, arXiv:1705.07874, section "Gradient explainer" of its code.

    Args:
        probe: the images under study.
        baseline: see ``baseline_images``; also a tensor ``(M, C, *space)`` of M baselines, one of which is drawn for
            each sample.
        samples: number of points.
        noise: standard deviation of the noise added to the image.
        noise_unit: ``range`` (a share of each image's range) or ``absolute`` (units of the image).
        channels: reduction of the channels, a name of ``REDUCTIONS``.

    Returns:
        Signed relevance ``(B, 1, *space)``, in units of the score.

    Raises:
        UsageError: if there is no sample.
    """
    if samples < 1:
        raise UsageError(f"samples: wanted at least 1, got {samples}")
    scale = _noise_scale(probe, noise, noise_unit)
    many = isinstance(baseline, Tensor) and baseline.ndim == probe.image.ndim and len(baseline) > 1
    starts = baseline.to(probe.image) if many and isinstance(baseline, Tensor) else baseline_images(probe, baseline)
    drawn = probe.uniform(2 * samples)
    alphas, choices = drawn[:samples], (drawn[samples:] * len(starts)).long()

    def point(rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        noisy = probe.image[rows] + _column(scale[rows], probe.image) * probe.draw(NOISE_STREAM, index)
        start = starts[choices[index]] if many else starts[rows]
        return start + _column(alphas[index], noisy) * (noisy - start), noisy - start

    return reduce_channels(probe.mean_gradient(samples, point), channels)
