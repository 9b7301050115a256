"""Class activation maps: feature maps of a target layer, weighted by what they do to the score.

All read the features and their gradients from the shared pass. Maps are on the layer's grid, before any resizing, and
not normalised.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medsal.attribution.probe import Probe
from medsal.attribution.relevance import reduce_channels
from medsal.errors import UsageError


def _of_layers(probe: Probe, weigh: Callable[[Tensor, Tensor], Tensor], relu: bool) -> dict[str, Tensor]:
    """Sum over channels of features times what ``weigh`` makes of features and gradients."""
    maps = {}
    for layer, features in probe.features.items():
        weighted = (weigh(features, probe.feature_gradients[layer]) * features).sum(1, keepdim=True)
        maps[layer] = weighted.clamp_min(0) if relu else weighted
    return maps


def _space(tensor: Tensor) -> tuple[int, ...]:
    return tuple(range(2, tensor.ndim))


def gradcam(probe: Probe, *, relu: bool = True) -> dict[str, Tensor]:
    r"""Feature maps weighted by their mean gradients, :math:`\max(0, \sum_k \overline{\partial s/\partial A_k} A_k)`.

    Selvaraju et al. 2017, arXiv:1610.02391. Without ReLU its sum over a head of global average pooling and a linear
    layer, times the number of positions over them, is the score minus the bias.

    Args:
        probe: the images under study.
        relu: keep what speaks for the score only, as in the paper.

    Returns:
        Target layer -> map ``(B, 1, *layer_space)``.
    """
    return _of_layers(probe, lambda _, gradients: gradients.mean(_space(gradients), keepdim=True), relu)


def cam(probe: Probe, *, relu: bool = False) -> dict[str, Tensor]:
    r"""Feature maps weighted by the linear layer behind global average pooling, :math:`\sum_k w_k A_k`.

    Zhou et al. 2016, arXiv:1512.04150. The weights are read off the gradients, which in such a network are
    :math:`w_k / N` everywhere; a network whose gradients are not the same at all N positions is refused.

    Args:
        probe: the images under study.
        relu: keep what speaks for the score only; the paper keeps all.

    Returns:
        Target layer -> map ``(B, 1, *layer_space)``; its mean is the score minus the bias.

    Raises:
        UsageError: if global average pooling and one linear layer are not all that follows a target layer.
    """
    for layer, gradients in probe.feature_gradients.items():
        flat = gradients.flatten(2)
        spread = flat.amax(2) - flat.amin(2)
        if (spread > 1e-4 * flat.abs().amax((1, 2)).clamp_min(torch.finfo(flat.dtype).tiny)[:, None]).any():
            raise UsageError(
                f"cam is defined for global average pooling and a linear layer behind the target layer, which is not "
                f"what follows {layer!r}; choose another layer, or gradcam"
            )
    return _of_layers(probe, lambda _, gradients: gradients.sum(_space(gradients), keepdim=True), relu)


def gradcam_plus_plus(probe: Probe, *, relu: bool = True) -> dict[str, Tensor]:
    r"""Feature maps weighted by positive gradients, position by position.

    :math:`w_k = \sum_p \alpha_k(p) \max(0, g_k(p))` with :math:`\alpha = g^2 / (2 g^2 + g^3 \sum_p A)`, the closed form
    for an exponential of the score, in which the exponential cancels; Chattopadhay et al. 2018, arXiv:1710.11063.

    Args:
        probe: the images under study.
        relu: keep what speaks for the score only, as in the paper.

    Returns:
        Target layer -> map ``(B, 1, *layer_space)``.
    """

    def weigh(features: Tensor, gradients: Tensor) -> Tensor:
        space = _space(gradients)
        under = 2 + gradients * features.sum(space, keepdim=True)
        alpha = torch.where((gradients != 0) & (under != 0), under.reciprocal(), 0)
        return (alpha * gradients.clamp_min(0)).sum(space, keepdim=True)

    return _of_layers(probe, weigh, relu)


def xgradcam(probe: Probe, *, relu: bool = True) -> dict[str, Tensor]:
    r"""Feature maps weighted by their gradients where they are active, :math:`w_k = \sum_p g_k A_k / \sum_p A_k`.

    Fu et al. 2020, arXiv:2008.02312.

    Args:
        probe: the images under study.
        relu: keep what speaks for the score only, as in the paper.

    Returns:
        Target layer -> map ``(B, 1, *layer_space)``.
    """

    def weigh(features: Tensor, gradients: Tensor) -> Tensor:
        total = features.sum(_space(features), keepdim=True)
        weighted = (gradients * features).sum(_space(features), keepdim=True)
        return torch.where(total == 0, 0, weighted / total.masked_fill(total == 0, 1))

    return _of_layers(probe, weigh, relu)


def hirescam(probe: Probe, *, relu: bool = False) -> dict[str, Tensor]:
    r"""Features times gradients, :math:`\sum_k g_k \odot A_k`.

    Draelos and Carin 2020, arXiv:2011.08891. Its sum is the score for a head that is linear without biases.

    Args:
        probe: the images under study.
        relu: keep what speaks for the score only.

    Returns:
        Target layer -> signed map ``(B, 1, *layer_space)``.
    """
    return _of_layers(probe, lambda _, gradients: gradients, relu)


def layercam(probe: Probe, *, relu: bool = True) -> dict[str, Tensor]:
    r"""Features times positive gradients, :math:`\max(0, \sum_k \max(0, g_k) \odot A_k)`.

    Jiang et al. 2021, IEEE Transactions on Image Processing 30, doi:10.1109/TIP.2021.3089943; for shallow layers too.

    Args:
        probe: the images under study.
        relu: keep what speaks for the score only, as in the paper.

    Returns:
        Target layer -> map ``(B, 1, *layer_space)``.
    """
    return _of_layers(probe, lambda _, gradients: gradients.clamp_min(0), relu)


def _first_component(maps: Tensor) -> Tensor:
    """Projection of every position on the first principal component of the channels, signed like the mean channel."""
    flat = maps.flatten(2)
    centred = flat - flat.mean(2, keepdim=True)
    channels, positions = centred.shape[1:]
    if channels <= positions:
        _, vectors = torch.linalg.eigh(centred @ centred.mT)
        projected = (vectors[:, :, -1:].mT @ centred)[:, 0]
    else:
        values, vectors = torch.linalg.eigh(centred.mT @ centred)
        projected = vectors[:, :, -1] * values[:, -1:].clamp_min(0).sqrt()
    agreement = (projected * centred.mean(1)).sum(1, keepdim=True)
    sign = torch.where(agreement < 0, -1.0, 1.0).to(projected)
    signed: Tensor = (projected * sign).view(len(maps), 1, *maps.shape[2:])
    return signed


def eigencam(probe: Probe, *, relu: bool = False) -> dict[str, Tensor]:
    r"""First principal component of the feature maps; no score takes part.

    Muhammad and Yeasin 2020, arXiv:2008.00299. From the smaller of the two Gram matrices, channels by channels or
    positions by positions. The sign of a component is arbitrary: it is chosen so that the map agrees with the mean of
    the feature maps.

    Args:
        probe: the images under study.
        relu: keep the positive part only.

    Returns:
        Target layer -> signed map ``(B, 1, *layer_space)``, the same for every target.
    """
    maps = {layer: _first_component(features) for layer, features in probe.features.items()}
    return {layer: found.clamp_min(0) if relu else found for layer, found in maps.items()}


def eigengradcam(probe: Probe, *, relu: bool = False) -> dict[str, Tensor]:
    r"""First principal component of features times gradients.

    Eigen-CAM (Muhammad and Yeasin 2020, arXiv:2008.00299) of the terms of HiResCAM, which makes it depend on the score;
    its sign is chosen so that the map agrees with their mean.

    Args:
        probe: the images under study.
        relu: keep the positive part only.

    Returns:
        Target layer -> signed map ``(B, 1, *layer_space)``.
    """
    gradients = probe.feature_gradients
    maps = {layer: _first_component(features * gradients[layer]) for layer, features in probe.features.items()}
    return {layer: found.clamp_min(0) if relu else found for layer, found in maps.items()}


def guided_gradcam(probe: Probe, *, channels: str = "sum") -> dict[str, Tensor]:
    r"""Guided backpropagation times Grad-CAM brought to the image's grid.

    Selvaraju et al. 2017, arXiv:1610.02391, section 3.2.

    Args:
        probe: the images under study.
        channels: reduction of the channels, a name of ``REDUCTIONS``.

    Returns:
        Target layer -> signed relevance ``(B, 1, *space)``.

    Raises:
        UsageError: if the network has no ReLU.
    """
    guided = reduce_channels(probe.guided_gradient, channels)
    return {layer: guided * probe.on_image(found) for layer, found in gradcam(probe).items()}
