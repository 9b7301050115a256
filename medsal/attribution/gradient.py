"""Methods that read one gradient of the image."""

from __future__ import annotations

from torch import Tensor

from medsal.attribution.probe import Probe
from medsal.attribution.relevance import reduce_channels


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
