"""Quantization in exact arithmetic, one element at a time: slow, and right by inspection.

`tensors` takes tensors apart into blocks, `scales` says what they share, `elements`, `zeros` (zero points) and `sums`
what their numbers become, all from `exact` rational numbers and the codes of `floats`; `draws` are those of stochastic
rounding. Nothing here is read from the code that it is the measure of, but the formats themselves.
"""

from bitq.numerics.reference.draws import philox, uniforms
from bitq.numerics.reference.scales import code, default_bias, exponent, shared_by
from bitq.numerics.reference.tensors import block_indices, indices_of, quantize, quantize_block

__all__ = [
    "block_indices",
    "code",
    "default_bias",
    "exponent",
    "indices_of",
    "philox",
    "quantize",
    "quantize_block",
    "shared_by",
    "uniforms",
]
