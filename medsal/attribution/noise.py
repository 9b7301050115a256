"""Methods that average gradients over noisy copies of the image, or over random baselines."""

from __future__ import annotations

import torch
from torch import Tensor

from medsal.attribution.baseline import NOISE_STREAM, Baseline, baseline_images
from medsal.attribution.path import column, quadrature
from medsal.attribution.probe import Probe
from medsal.attribution.relevance import reduce_channels
from medsal.errors import UsageError

_quadrature = quadrature  # the option of the same name hides the function


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


def _moments(probe: Probe, samples: int, noise: float, noise_unit: str, powers: tuple[int, ...]) -> list[Tensor]:
    """Mean powers of the gradients at noisy copies of the images."""
    if samples < 1:
        raise UsageError(f"samples: wanted at least 1, got {samples}")
    scale = _noise_scale(probe, noise, noise_unit)

    def point(rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        noisy = probe.image[rows] + column(scale[rows], probe.image) * probe.draw(NOISE_STREAM, index)
        return noisy, torch.ones((), device=rows.device, dtype=noisy.dtype)

    return probe.gradient_moments(samples, point, powers)


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
    return reduce_channels(_moments(probe, samples, noise, noise_unit, (1,))[0], channels)


def smoothgrad_squared(
    probe: Probe, *, samples: int = 25, noise: float = 0.15, noise_unit: str = "range", channels: str = "sum"
) -> Tensor:
    r"""Squared gradients averaged over noisy copies of the image, :math:`E[(\nabla s(x + \epsilon))^2]`.

    Hooker et al. 2019, arXiv:1806.10758; the default of the code of Smilkov et al. 2017, and what Arun et al. 2021
    call SmoothGrad.

    Args:
        probe: the images under study.
        samples: number of noisy copies.
        noise: standard deviation of the noise.
        noise_unit: ``range`` (a share of each image's range, as in the paper) or ``absolute`` (units of the image).
        channels: reduction of the channels, a name of ``REDUCTIONS``.

    Returns:
        Relevance ``(B, 1, *space)``, not negative, in squared score per squared unit of the image.

    Raises:
        UsageError: if there is no sample.
    """
    (squares,) = _moments(probe, samples, noise, noise_unit, (2,))
    return reduce_channels(squares.to(probe.image), channels)


def vargrad(
    probe: Probe, *, samples: int = 25, noise: float = 0.15, noise_unit: str = "range", channels: str = "sum"
) -> Tensor:
    r"""Variance of the gradients over noisy copies of the image, :math:`Var[\nabla s(x + \epsilon)]`.

    Adebayo et al. 2018, arXiv:1810.03307, Appendix A; as independent of the gradient's mean as SmoothGrad is all of it.

    Args:
        probe: the images under study.
        samples: number of noisy copies.
        noise: standard deviation of the noise.
        noise_unit: ``range`` (a share of each image's range, as in the paper) or ``absolute`` (units of the image).
        channels: reduction of the channels, a name of ``REDUCTIONS``.

    Returns:
        Relevance ``(B, 1, *space)``, not negative, in squared score per squared unit of the image.

    Raises:
        UsageError: if there is no sample.
    """
    mean, squares = _moments(probe, samples, noise, noise_unit, (1, 2))
    return reduce_channels((squares - mean**2).clamp_min(0).to(probe.image), channels)


def smooth_integrated_gradients(  # noqa: PLR0913  smoothgrad's options and those of integrated gradients
    probe: Probe,
    *,
    samples: int = 10,
    noise: float = 0.1,
    noise_unit: str = "absolute",
    baseline: Baseline = 0.0,
    steps: int = 50,
    quadrature: str = "gauss_legendre",
    squared: bool = False,
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
        squared: average the squares, as Arun et al. 2021 do.
        channels: reduction of the channels, a name of ``REDUCTIONS``.

    Returns:
        Signed relevance ``(B, 1, *space)``, in units of the score; not negative if ``squared``.

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
        noisy = probe.image[rows] + column(scale[rows], probe.image) * probe.draw(NOISE_STREAM, sample)
        path = noisy - start[rows]
        return start[rows] + column(points[step], path) * path, path * column(weights[step] * steps, path)

    if not squared:
        return reduce_channels(probe.mean_gradient(samples * steps, point), channels)
    total = torch.zeros_like(probe.image)
    for sample in range(samples):
        total += probe.mean_gradient(steps, lambda rows, index: point(rows, index + sample * steps)) ** 2  # noqa: B023  called at once
    return reduce_channels(total / samples, channels)


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
        noisy = probe.image[rows] + column(scale[rows], probe.image) * probe.draw(NOISE_STREAM, index)
        start = starts[choices[index]] if many else starts[rows]
        return start + column(alphas[index], noisy) * (noisy - start), noisy - start

    return reduce_channels(probe.mean_gradient(samples, point), channels)
