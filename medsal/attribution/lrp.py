"""Layer-wise relevance propagation: the score, carried back to the image operation by operation.

Every method runs one forward and one backward in which each operation hands its relevance down by a rule (see
``rules.lrp``): reused, in-place and functional operations, residual additions and gates are all seen. Options that all
share:

- ``bias``: ``"none"`` gives no relevance to biases, so that all of it reaches the image; ``"absorb"`` lets each bias
  keep its part, as published and as other libraries do.
- ``epsilon``: the stabiliser. With ``bias="none"`` it is relative to the magnitudes of the contributions, among which
  what it takes is shared, so that nothing is lost and no layer can make relevance larger than ``1 / epsilon`` times.
  With ``"absorb"`` it is added to the denominator. None takes 0.01 or 1e-6.
- ``tolerance``: how far from 1 the part of the relevance that reached the image, claimed as ``relevance_kept``, may be
  before the log warns.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor

from medsal.attribution.classifier import gradients_of
from medsal.attribution.probe import Probe
from medsal.attribution.relevance import reduce_channels
from medsal.attribution.rules.lrp import RULES
from medsal.attribution.rules.opaque import refuse_opaque, without_checkpoints
from medsal.attribution.rules.operations import refuse_scripts
from medsal.attribution.rules.propagation import Composite, Propagation
from medsal.errors import UsageError

STABILISERS = {"none": 0.01, "absorb": 1e-6}
LOGGER = logging.getLogger("medsal")


def lrp_epsilon(
    probe: Probe,
    *,
    epsilon: float | None = None,
    bias: str = "absorb",
    channels: str = "sum",
    tolerance: float = 0.05,
) -> Tensor:
    r"""Contributions of either sign, :math:`R_i = \sum_j x_i w_{ij} R_j / (z_j + \epsilon\,\mathrm{sign}\,z_j)`.

    Bach et al. 2015, doi:10.1371/journal.pone.0130140; in this form Binder et al. 2016, arXiv:1604.00825. The rule acts
    on every convolution, linear layer and sum. Biases and the shifts of batch normalisation take their parts by
    default, which on ReLU networks makes it image times gradient; without, small sums of large contributions make
    relevance grow without bound in deep networks.

    Args:
        probe: the images under study.
        epsilon: stabiliser of the denominators; None takes the usual one, see above.
        bias: "none" or "absorb": whether biases take relevance.
        channels: reduction of the channels, a name of ``REDUCTIONS``.
        tolerance: how far from 1 the relevance kept may be before the log says so.

    Returns:
        Signed relevance ``(B, 1, *space)``, in units of the score.

    Raises:
        UsageError: if the network uses an operation that has no rule, or is TorchScript, or an option does not exist.
    """
    composite = Composite("epsilon", "epsilon", "signed")
    return _relevance(probe, composite, epsilon, bias, channels, tolerance)


def lrp_epsilon_plus(
    probe: Probe,
    *,
    epsilon: float | None = None,
    bias: str = "none",
    channels: str = "sum",
    tolerance: float = 0.05,
) -> Tensor:
    r"""Positive contributions in convolutions, all in linear layers: the z-plus and the epsilon rule.

    :math:`R_i = \sum_j (x_i^+ w_{ij}^+ + x_i^- w_{ij}^-) R_j / \sum_i (\cdot)` where inputs of either sign come, after
    Montavon et al. 2017, arXiv:1512.02479; as a composite Kohlbrenner et al. 2020, arXiv:1910.09840. Sums and mean
    pools share by magnitude, gates take nothing.

    Args:
        probe: the images under study.
        epsilon: stabiliser of the denominators; None takes the usual one, see above.
        bias: "none" or "absorb": whether biases take relevance.
        channels: reduction of the channels, a name of ``REDUCTIONS``.
        tolerance: how far from 1 the relevance kept may be before the log says so.

    Returns:
        Relevance ``(B, 1, *space)``, in units of the score.

    Raises:
        UsageError: if the network uses an operation that has no rule, or is TorchScript, or an option does not exist.
    """
    composite = Composite("z_plus", "epsilon", "magnitude")
    return _relevance(probe, composite, epsilon, bias, channels, tolerance)


def lrp_epsilon_plus_flat(
    probe: Probe,
    *,
    epsilon: float | None = None,
    bias: str = "none",
    channels: str = "sum",
    tolerance: float = 0.05,
) -> Tensor:
    """As ``lrp_epsilon_plus``, and the first layer spreads relevance evenly over what it sees.

    Lapuschkin et al. 2019, arXiv:1902.10178; Kohlbrenner et al. 2020, arXiv:1910.09840. The image's own values then
    do not show in the map.

    Args:
        probe: the images under study.
        epsilon: stabiliser of the denominators; None takes the usual one, see above.
        bias: "none" or "absorb": whether biases take relevance.
        channels: reduction of the channels, a name of ``REDUCTIONS``.
        tolerance: how far from 1 the relevance kept may be before the log says so.

    Returns:
        Relevance ``(B, 1, *space)``, in units of the score.

    Raises:
        UsageError: if the network uses an operation that has no rule, or is TorchScript, or an option does not exist.
    """
    composite = Composite("z_plus", "epsilon", "magnitude", "flat")
    return _relevance(probe, composite, epsilon, bias, channels, tolerance)


def lrp_epsilon_alpha2_beta1(
    probe: Probe,
    *,
    epsilon: float | None = None,
    bias: str = "none",
    channels: str = "sum",
    tolerance: float = 0.05,
) -> Tensor:
    """Twice to positive, minus once to negative contributions in convolutions; the epsilon rule in linear layers.

    Bach et al. 2015, doi:10.1371/journal.pone.0130140; Kohlbrenner et al. 2020, arXiv:1910.09840. Where one of the two
    sides is missing the other takes all, so that relevance is kept.

    Args:
        probe: the images under study.
        epsilon: stabiliser of the denominators; None takes the usual one, see above.
        bias: "none" or "absorb": whether biases take relevance.
        channels: reduction of the channels, a name of ``REDUCTIONS``.
        tolerance: how far from 1 the relevance kept may be before the log says so.

    Returns:
        Signed relevance ``(B, 1, *space)``, in units of the score.

    Raises:
        UsageError: if the network uses an operation that has no rule, or is TorchScript, or an option does not exist.
    """
    composite = Composite("alpha2_beta1", "epsilon", "magnitude")
    return _relevance(probe, composite, epsilon, bias, channels, tolerance)


def lrp_epsilon_alpha2_beta1_flat(
    probe: Probe,
    *,
    epsilon: float | None = None,
    bias: str = "none",
    channels: str = "sum",
    tolerance: float = 0.05,
) -> Tensor:
    """As ``lrp_epsilon_alpha2_beta1``, and the first layer spreads relevance evenly over what it sees.

    Kohlbrenner et al. 2020, arXiv:1910.09840.

    Args:
        probe: the images under study.
        epsilon: stabiliser of the denominators; None takes the usual one, see above.
        bias: "none" or "absorb": whether biases take relevance.
        channels: reduction of the channels, a name of ``REDUCTIONS``.
        tolerance: how far from 1 the relevance kept may be before the log says so.

    Returns:
        Signed relevance ``(B, 1, *space)``, in units of the score.

    Raises:
        UsageError: if the network uses an operation that has no rule, or is TorchScript, or an option does not exist.
    """
    composite = Composite("alpha2_beta1", "epsilon", "magnitude", "flat")
    return _relevance(probe, composite, epsilon, bias, channels, tolerance)


def excitation_backprop(
    probe: Probe,
    *,
    epsilon: float | None = None,
    bias: str = "none",
    channels: str = "sum",
    tolerance: float = 0.05,
) -> Tensor:
    """The probability that a top-down random walk from the class ends at a voxel, by positive contributions alone.

    Zhang et al. 2016, arXiv:1608.00507. The walk starts with probability 1 at a class, in general with the magnitude of
    the score's gradient by each logit; where that gradient is negative, what makes the logit fall takes part.

    Args:
        probe: the images under study.
        epsilon: stabiliser of the denominators; None takes the usual one, see above.
        bias: "none" or "absorb": whether biases take relevance.
        channels: reduction of the channels, a name of ``REDUCTIONS``.
        tolerance: how far from 1 the relevance kept may be before the log says so.

    Returns:
        Relevance ``(B, 1, *space)``, not negative; its sum is 1 for a class.

    Raises:
        UsageError: if the network uses an operation that has no rule, or is TorchScript, or an option does not exist.
    """
    composite = Composite("excitation", "excitation", "positive")
    return _relevance(probe, composite, epsilon, bias, channels, tolerance)


def _relevance(
    probe: Probe, composite: Composite, epsilon: float | None, bias: str, channels: str, tolerance: float
) -> Tensor:
    """Carry relevance from the logits to the image, and claim how much of it arrived."""
    if epsilon is not None and epsilon < 0:
        raise UsageError(f"epsilon: wanted at least 0, got {epsilon}")
    if bias not in STABILISERS:
        raise UsageError(f"bias: wanted one of {', '.join(STABILISERS)}, got {bias!r}")
    composite = replace(composite, epsilon=STABILISERS[bias] if epsilon is None else epsilon, absorb=bias == "absorb")
    refuse_scripts(probe.network)
    image = probe.image.detach().requires_grad_()
    mode = Propagation(composite, RULES, len(image))
    with torch.enable_grad(), without_checkpoints(), mode:
        logits = probe.forward(image)
    refuse_opaque(logits)
    probe.offer(logits)
    start = _start(probe, logits, whole=composite.convolution != "excitation")
    (relevance,) = torch.autograd.grad(logits, image, start, allow_unused=True)
    if relevance is None:
        raise UsageError("the score does not depend on the image by operations with a rule")
    _claim_kept(probe, relevance, start if composite.convolution != "excitation" else start.abs(), tolerance)
    probe.claim(operations=dict(mode.handled))
    return reduce_channels(relevance, channels)


def _start(probe: Probe, logits: Tensor, *, whole: bool) -> Tensor:
    """What each logit is worth: its part of the score, or the score's gradient."""
    leaf = logits.detach().requires_grad_()
    with torch.enable_grad():
        score = probe.target.score(leaf, probe.rows)
    (gradient,) = gradients_of(score, [leaf])
    return gradient * leaf.detach() if whole else gradient


def _claim_kept(probe: Probe, relevance: Tensor, start: Tensor, tolerance: float) -> None:
    kept = relevance.double().flatten(1).sum(1) / start.double().flatten(1).sum(1)
    probe.claim(relevance_kept=kept)
    for image, part in enumerate(kept.tolist()):
        if not abs(part - 1) <= tolerance:
            LOGGER.warning("LRP: %.4g of the relevance of image %d reached it, where 1 keeps it all", part, image)
