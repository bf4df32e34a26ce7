"""Scaled dot-product attention as its two products."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What `torch.nn.functional.scaled_dot_product_attention` computes, as its documentation writes it.

    A query that may see no key gives zeros, as torch's own does.
    """
    if enable_gqa:
        times = query.size(-3) // key.size(-3)
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    scores = torch.matmul(query, key.mT) * (query.size(-1) ** -0.5 if scale is None else scale)
    seen = attn_mask
    if is_causal:
        seen = torch.ones(query.size(-2), key.size(-2), dtype=torch.bool, device=query.device).tril()
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf) if seen.dtype == torch.bool else scores + seen
    weights = torch.softmax(scores, -1)
    if seen is not None:
        weights = weights.masked_fill((scores == -torch.inf).all(-1, keepdim=True), 0.0)
    return torch.matmul(functional.dropout(weights, dropout_p) if dropout_p else weights, value)
