"""Class activation maps whose weights come from trying: what the score does without a channel, or with it alone."""

from __future__ import annotations

import torch
from torch import Tensor

from medsal.attribution.head import Head, head_above
from medsal.attribution.probe import Probe
from medsal.errors import UsageError

WEIGHTINGS = ("softmax", "increase")


def _combined(features: Tensor, weights: Tensor, relu: bool) -> Tensor:
    """Weighted sum over channels, ``(B, 1, *layer_space)``."""
    found = (features * weights.view(*weights.shape, *[1] * (features.ndim - 2))).sum(1, keepdim=True)
    return found.clamp_min(0) if relu else found


def ablationcam(probe: Probe, *, relu: bool = True, relative: bool = False) -> dict[str, Tensor]:
    r"""Feature maps weighted by what the score loses without them, :math:`\max(0, \sum_k (s - s_{A_k = 0}) A_k)`.

    Ramaswamy 2020, WACV, doi:10.1109/WACV45572.2020.9093360. Only what lies above the target layer runs, once for
    each channel that is not zero everywhere, and for all classes; where the logits are an affine function of the
    features (global pooling and a linear layer), nothing: :math:`s - s_{A_k = 0} = \sum_p g_k(p) A_k(p)`. The claim
    ``head`` says which.

    Args:
        probe: the images under study.
        relu: keep what speaks for the score only, as in the paper.
        relative: divide the losses by the score, as the paper does; that turns the map over where the score is
            negative, and it no longer grows with the score.

    Returns:
        Target layer -> map ``(B, 1, *layer_space)``.
    """
    maps, how = {}, {}
    for layer, features in probe.features.items():
        head = head_above(probe, layer)
        if head.affine and probe.target.function is None:
            losses = (probe.feature_gradients[layer] * features).flatten(2).sum(2)
            how[layer] = "closed form"
        else:
            losses = _losses(probe, layer, features, head)
            how[layer] = head.how
        maps[layer] = _combined(features, losses / probe.score[:, None] if relative else losses, relu)
    probe.claim(head=how if len(how) > 1 else next(iter(how.values())))
    return maps


def _losses(probe: Probe, layer: str, features: Tensor, head: Head) -> Tensor:
    """Score of each image minus its score without each channel, ``(B, C)``."""
    key = ("ablationcam", layer)
    if key not in probe.remembered:
        rows, channels = features.flatten(2).any(2).nonzero(as_tuple=True)

        def without(part: slice) -> Tensor:
            made = features[rows[part]]
            made[torch.arange(len(made), device=made.device), channels[part]] = 0
            return made

        logits = head.logits[:, None].repeat(1, features.shape[1], 1)
        if len(rows):
            logits[rows, channels] = head.at(rows, without)
        probe.remembered[key] = logits
    ablated: Tensor = probe.remembered[key]
    owners = probe.rows.repeat_interleave(features.shape[1])
    scores = probe.target.score(ablated.flatten(0, 1), owners).view(len(features), -1)
    return probe.target.score(head.logits, probe.rows)[:, None] - scores


def scorecam(probe: Probe, *, weighting: str = "softmax", relu: bool = True) -> dict[str, Tensor]:
    r"""Feature maps weighted by the score of the image seen through each of them.

    Each channel, brought to the image's grid and scaled to [0, 1], becomes a mask :math:`M_k`;
    :math:`\max(0, \sum_k \mathrm{softmax}_k(s(x \odot M_k) - s(0)) A_k)`. Wang et al. 2019, arXiv:1910.01279. A channel
    that is the same everywhere makes no mask and has no weight. The images through the masks are made chunk by chunk
    and scored for all classes.

    Args:
        probe: the images under study.
        weighting: ``softmax`` over the channels, as in the paper, on which the score of the black image has no
            influence; or the ``increase`` of the score over that of the black image itself.
        relu: keep what speaks for the score only, as in the paper.

    Returns:
        Target layer -> map ``(B, 1, *layer_space)``.

    Raises:
        UsageError: if the weighting is not known.
    """
    if weighting not in WEIGHTINGS:
        raise UsageError(f"weighting: wanted one of {', '.join(WEIGHTINGS)}, got {weighting!r}")
    return {
        layer: _combined(features, _seen_through(probe, layer, features, weighting), relu)
        for layer, features in probe.features.items()
    }


def _seen_through(probe: Probe, layer: str, features: Tensor, weighting: str) -> Tensor:
    """Weight of each channel, ``(B, C)``; 0 for those that are the same everywhere."""
    flat = features.flatten(2)
    varies = flat.amax(2) > flat.amin(2)
    order = varies.logical_not().to(torch.uint8).argsort(dim=1, stable=True)  # those that vary first
    count = int(varies.sum(1).max())
    weights = torch.zeros(flat.shape[:2], dtype=probe.image.dtype, device=features.device)
    if not count:
        return weights

    def masked(rows: Tensor, steps: Tensor) -> Tensor:
        mask = probe.on_image(features[rows, order[rows, steps]].unsqueeze(1))
        low, high = (end.view(-1, *[1] * (mask.ndim - 1)) for end in torch.aminmax(mask.flatten(1), dim=1))
        return probe.image[rows] * ((mask - low) / (high - low).masked_fill(high == low, 1))

    score = probe.scores_at(("scorecam", layer), count, masked)
    if weighting == "softmax":
        weight = score.masked_fill(~varies.gather(1, order)[:, :count], -torch.inf).softmax(1)
    else:
        black = probe.scores_at(("black image",), 1, lambda rows, _: torch.zeros_like(probe.image[rows]))
        weight = score - black
    weights.scatter_(1, order[:, :count], weight.to(weights.dtype))
    return torch.where(varies, weights, 0)
