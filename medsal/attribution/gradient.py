"""Methods that read one gradient of the image, plain or with a rule on ReLUs."""

from __future__ import annotations

import torch
from torch import Tensor

from medsal.attribution.bias_terms import rescaled
from medsal.attribution.probe import Probe
from medsal.attribution.relevance import reduce_channels
from medsal.attribution.rules.operations import refuse_scripts
from medsal.errors import UsageError


def saliency(probe: Probe, *, channels: str = "max_abs") -> Tensor:
    r"""Magnitude of the gradient of the score, :math:`\max_c |\partial s / \partial x_c|`.

    Simonyan et al. 2013, arXiv:1312.6034.

    Args:
        probe: the images under study.
        channels: reduction of the channels, a name of ``REDUCTIONS``; the paper takes the largest magnitude.

    Returns:
        Relevance ``(B, 1, *space)``, not negative unless ``channels`` keeps signs, in score per unit of the image.
    """
    return reduce_channels(probe.image_gradient, channels)


def input_x_gradient(probe: Probe, *, channels: str = "sum") -> Tensor:
    r"""Image times gradient, :math:`x \odot \partial s / \partial x`.

    Shrikumar et al. 2016, arXiv:1605.01713. Complete for networks without biases and with ReLU-like activations.

    Args:
        probe: the images under study.
        channels: reduction of the channels, a name of ``REDUCTIONS``.

    Returns:
        Signed relevance ``(B, 1, *space)``, in units of the score.
    """
    return reduce_channels(probe.image * probe.image_gradient, channels)


def guided_backprop(probe: Probe, *, channels: str = "sum") -> Tensor:
    r"""Gradient of which each active ReLU passes the positive part, :math:`[z > 0] \max(0, \partial s/\partial y)`.

    Springenberg et al. 2014, arXiv:1412.6806. It depends little on the score that it explains (Adebayo et al. 2018).

    Args:
        probe: the images under study.
        channels: reduction of the channels, a name of ``REDUCTIONS``.

    Returns:
        Signed relevance ``(B, 1, *space)``, in score per unit of the image.

    Raises:
        UsageError: if the network has no ReLU, where the method is not defined; activations of other kinds beside
            ReLUs keep their gradient.
    """
    return reduce_channels(probe.guided_gradient, channels)


def deconvnet(probe: Probe, *, channels: str = "sum") -> Tensor:
    r"""Gradient with only its positive part passing each ReLU, active or not, :math:`\max(0, \partial s/\partial y)`.

    Zeiler and Fergus 2013, arXiv:1311.2901, as a rule for ReLUs by Springenberg et al. 2014, arXiv:1412.6806.

    Args:
        probe: the images under study.
        channels: reduction of the channels, a name of ``REDUCTIONS``.

    Returns:
        Signed relevance ``(B, 1, *space)``, in score per unit of the image.

    Raises:
        UsageError: if the network has no ReLU.
    """
    return reduce_channels(probe.deconvnet_gradient, channels)


def fullgrad(probe: Probe, *, psi: str = "rescale") -> Tensor:
    r"""Image times gradient and every bias times its gradient, :math:`\psi(x \odot g) + \sum_l \psi(b_l \odot g_l)`.

    Srinivas and Fleuret 2019, arXiv:1905.00780. For networks that are piecewise linear all terms, those of linear
    layers too, sum to the score; the gap is claimed. Normalisations count with the bias that they imply.

    Args:
        probe: the images under study.
        psi: what is done to each term before it is brought to the image's grid: ``rescale`` (magnitudes to [0, 1] for
            each layer and image, as in the paper) or ``none`` (signed; biases of vectors have no place on the map).

    Returns:
        Relevance ``(B, 1, *space)``; signed and in units of the score with ``psi="none"``.

    Raises:
        UsageError: if ``psi`` is not known, or the network is TorchScript.
    """
    if psi not in {"rescale", "none"}:
        raise UsageError(f"psi: wanted rescale or none, got {psi!r}")
    refuse_scripts(probe.network)
    term = probe.image * probe.image_gradient
    terms = probe.bias_terms
    total = term.flatten(1).sum(1, dtype=torch.float64) + terms.total
    gap = total - probe.score.double()
    scale = probe.score.double().abs().clamp_min(torch.finfo(torch.float64).tiny)
    probe.claim(biases=terms.count, completeness_gap=gap, relative_gap=gap.abs() / scale)
    relevance = rescaled(term) if psi == "rescale" else reduce_channels(term, "sum")
    for layer_map in (terms.rescaled if psi == "rescale" else terms.signed).values():
        relevance = relevance + probe.on_image(layer_map)
    return relevance
