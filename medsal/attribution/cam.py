"""Class activation maps: feature maps of a target layer, weighted by what they do to the score."""

from __future__ import annotations

from torch import Tensor

from medsal.attribution.probe import Probe


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
    maps = {}
    for layer, features in probe.features.items():
        gradients = probe.feature_gradients[layer]
        weights = gradients.mean(dim=tuple(range(2, gradients.ndim)), keepdim=True)
        weighted = (weights * features).sum(1, keepdim=True)
        maps[layer] = weighted.clamp_min(0) if relu else weighted
    return maps
