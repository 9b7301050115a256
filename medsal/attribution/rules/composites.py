"""Operations of torch that are made of others, taken apart so that rules for their parts hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from medsal.errors import UsageError


def attention(  # noqa: PLR0913, PLR0917  torch's own arguments
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot product attention by products and a softmax.

    Args:
        query: ``(..., L, E)``.
        key: ``(..., S, E)``.
        value: ``(..., S, V)``.
        attn_mask: added to the scores, or False where a key is not seen.
        dropout_p: of the attention weights; none in evaluation.
        is_causal: whether later keys are not seen.
        scale: of the scores; None takes ``1 / sqrt(E)``.
        enable_gqa: several queries to a key, which is not supported.

    Returns:
        ``(..., L, V)``.

    Raises:
        UsageError: if queries share keys, or there is dropout.
    """
    if enable_gqa or dropout_p:
        raise UsageError("the network's attention uses enable_gqa or dropout, for which this method has no rule")
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1) @ value


NOT_TAKEN_APART = "bias_k bias_v add_zero_attn key_padding_mask use_separate_proj_weight static_k static_v".split()
ATTENTION_ARGUMENTS = """
    query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn dropout_p
    out_proj_weight out_proj_bias training key_padding_mask need_weights attn_mask use_separate_proj_weight
    q_proj_weight k_proj_weight v_proj_weight static_k static_v average_attn_weights is_causal
""".split()


def multi_head_attention(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """Multi-head attention by linear layers and ``attention``.

    Args:
        *args: those of ``torch.nn.functional.multi_head_attention_forward``.
        **kwargs: the same by keyword.

    Returns:
        Output ``(L, N, E)``, and no weights.

    Raises:
        UsageError: if an option is used that is not supported.
    """
    given = dict(zip(ATTENTION_ARGUMENTS, args, strict=False)) | kwargs
    used = [name for name in NOT_TAKEN_APART if given.get(name) is not None and given.get(name) is not False]
    if used or given["query"].ndim != 3:
        raise UsageError(f"the network's attention uses {', '.join(used)} or no batch; this method has no rule for it")
    weights = given["in_proj_weight"].chunk(3)
    biases = [None] * 3 if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)
    heads = given["num_heads"]

    def split(tensor: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        projected = functional.linear(tensor, weight, bias)
        return projected.reshape(*projected.shape[:2], heads, -1).permute(1, 2, 0, 3)

    q, k, v = (split(given[n], w, b) for n, w, b in zip(("query", "key", "value"), weights, biases, strict=True))
    joined = attention(q, k, v, given.get("attn_mask")).permute(2, 0, 1, 3).flatten(2)
    return functional.linear(joined, given["out_proj_weight"], given["out_proj_bias"]), None


def variance(x: Tensor, dim: Any = None, unbiased: bool | None = None, **kwargs: Any) -> Tensor:
    """Variance by means and a square.

    Args:
        x: any tensor.
        dim: over which it is taken; None takes all.
        unbiased: whether one is taken off the count; overrules ``correction``.
        **kwargs: ``correction`` and ``keepdim``.

    Returns:
        The variance.
    """
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    axes = tuple(range(x.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    correction = kwargs.get("correction", 1) if unbiased is None else int(unbiased)
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    squares = (x - x.mean(axes, keepdim=True)).square()
    return squares.sum(axes, keepdim=kwargs.get("keepdim", False)) / (count - correction)


def deviation(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Standard deviation.

    Args:
        x: any tensor.
        *args: as of ``variance``.
        **kwargs: as of ``variance``.

    Returns:
        The square root of the variance.
    """
    return variance(x, *args, **kwargs).sqrt()


COMPOSITES: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": attention,
    "multi_head_attention_forward": multi_head_attention,
    "var": variance,
    "std": deviation,
}
"""Name of an operation -> what it is made of."""
