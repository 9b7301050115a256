"""DeepLIFT: differences to a baseline's activations, carried back through operations by multipliers."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from medsal.attribution.baseline import Baseline, baseline_images
from medsal.attribution.classifier import gradients_of
from medsal.attribution.features import FeatureReader
from medsal.attribution.layouts import spatial
from medsal.attribution.probe import Probe
from medsal.attribution.relevance import reduce_channels
from medsal.attribution.rules.deep_lift import BaselinePass, ImagePass
from medsal.attribution.rules.opaque import refuse_opaque, without_checkpoints
from medsal.attribution.rules.operations import refuse_scripts
from medsal.errors import UsageError

TOLERANCE = 0.01
"""Share of the difference of scores whose loss is logged: rules lose rounding errors only."""

LOGGER = logging.getLogger("medsal")


def deep_lift(probe: Probe, *, baseline: Baseline = 0.0, channels: str = "sum") -> Tensor:
    r"""Difference to a baseline times the multipliers of the Rescale rule.

    Shrikumar et al. 2017, arXiv:1704.02685. Activations take :math:`\Delta y / \Delta x`; products of two tensors
    that depend on the image, such as gates, the mid-point of both factors; max-pooling sends each window's difference
    to the larger of the two maxima; softmax and normalisations are split into such parts. All of these keep
    differences, so the map sums to the score of the image minus that of the baseline on any network; what is left is
    claimed as ``completeness_gap``, and logged beyond ``TOLERANCE``. Operations are replaced as they run, hence
    functional, reused and in-place activations are seen.

    Args:
        probe: the images under study.
        baseline: what the images are compared with, see ``baseline_images``.
        channels: reduction of the channels, a name of ``REDUCTIONS``.

    Returns:
        Signed relevance ``(B, 1, *space)``, in units of the score.

    Raises:
        UsageError: if the network uses an operation that has no rule, or is TorchScript.
    """
    found, difference = _differences(probe, baseline, ())
    probe.claim_completeness(found[""], difference)
    if max(probe.claims["relative_gap"]) > TOLERANCE:
        LOGGER.warning("deep_lift: a share of %.2g of the difference of scores is lost; does the network detach "
                       "something that depends on the image?", max(probe.claims["relative_gap"]))  # fmt: skip
    return reduce_channels(found[""], channels)


def layer_deep_lift(probe: Probe, *, baseline: Baseline = 0.0, channels: str = "sum") -> dict[str, Tensor]:
    r"""DeepLIFT of the activations of target layers, :math:`\sum_k m_k (A_k(x) - A_k(b))`.

    Shrikumar et al. 2017, arXiv:1704.02685. Complete, as ``deep_lift`` is, for a layer that all of the image passes
    through; beside a shortcut the rest shows as ``completeness_gap``.

    Args:
        probe: the images under study.
        baseline: what the images are compared with, see ``baseline_images``.
        channels: reduction of the layer's channels, a name of ``REDUCTIONS``.

    Returns:
        Target layer -> signed map ``(B, 1, *layer_space)``, in units of the score.

    Raises:
        UsageError: if the network uses an operation that has no rule, or is TorchScript.
    """
    layers = probe.layers or tuple(probe.features)
    found, difference = _differences(probe, baseline, layers)
    gaps = {}
    for layer in layers:
        probe.claim_completeness(found[layer], difference)
        gaps[layer] = probe.claims["completeness_gap"]
    if len(layers) > 1:
        probe.claim(completeness_gap=gaps)
        del probe.claims["relative_gap"]
    return {layer: reduce_channels(spatial(probe.network, found[layer], probe.image), channels) for layer in layers}


def _differences(probe: Probe, baseline: Baseline, layers: tuple[str, ...]) -> tuple[dict[str, Tensor], Tensor]:
    """Multipliers times differences, of the image (under ``""``) or of layers, and the difference of the scores."""
    refuse_scripts(probe.network)
    start = baseline_images(probe, baseline)
    image = probe.image.detach()
    before, here = (FeatureReader(probe.network, layers, image, detach=detach) for detach in (False, bool(layers)))
    known = BaselinePass()
    with torch.no_grad(), before.reading(), known:
        start_logits = probe.forward(start)
    image.requires_grad_(not layers)
    rescale = ImagePass(known)
    with torch.enable_grad(), without_checkpoints(), here.reading(), rescale:
        logits = probe.forward(image)
    probe.offer(logits)
    with torch.enable_grad():
        score = probe.target.score(logits, probe.rows)
    refuse_opaque(logits)
    missing = set(layers) - set(here.features)
    if missing:
        raise UsageError(f"target_layer {missing.pop()!r}: the network did not run it for this image")
    ends: dict[str, Any] = {name: (here.features[name], before.features[name]) for name in layers} or {
        "": (image, start)
    }
    multipliers = gradients_of(score, [end for end, _ in ends.values()])
    probe.claim(operations=dict(rescale.handled))
    found = {
        name: multiplier * (end.detach() - begin)
        for multiplier, (name, (end, begin)) in zip(multipliers, ends.items(), strict=True)
    }
    return found, score.detach() - probe.target.score(start_logits, probe.rows)
