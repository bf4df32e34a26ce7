"""Quantization to uniform steps in plain PyTorch: on any device and layout, and for `torch.compile` to fuse.

Every operation is exact or rounds once as IEEE 754 says, and no product feeds an addition: fused multiply-adds
change no bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitq.numerics import blocks
from bitq.numerics.recipe import Recipe

_PATTERN = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
_WORD = 0xFFFFFFFF
_LANES = 16  # counters of a group of 64 elements, four words each


def quantize(
    x: Tensor, recipe: Recipe, key: Tensor | None, with_clipped: bool
) -> tuple[Tensor, Tensor | None]:
    """Values, and if wanted and there can be any the mask (bool) of elements that pass no gradient."""
    if not x.numel():
        return torch.empty_like(x), None
    uniform = recipe.steps(tuple(x.shape))
    assert uniform is not None
    (dim, _), size, channels = uniform.axes, uniform.block_size, x.shape[uniform.axes.dim]
    wide = x.float()
    if uniform.never_negative:
        negative, wide = wide < 0, torch.where((wide < 0) & wide.isfinite(), 0, wide)
    peaks = blocks.peaks(wide, size, uniform.axes)
    bias = blocks.default_bias(peaks, uniform) if uniform.exponent_bias is None else uniform.exponent_bias
    shared = blocks.shared_exponents(peaks, uniform, bias)
    step = blocks.steps(shared, uniform).masked_fill(peaks >= blocks.INFINITE, torch.nan)
    each, inverse = (blocks.spread(s, size, channels, dim) for s in (step, blocks.inverses(step)))
    draws = None if key is None else uniforms(x.shape, key.to(x.device))
    limit, k = uniform.largest_mantissa, wide.abs() * inverse
    y = _round(k.clamp(max=limit), recipe.rounding, draws) * each
    bits = torch.where(wide < 0, -y, y).to(x.dtype).view(_PATTERN[x.dtype])
    bits = bits.masked_fill(bits == torch.iinfo(bits.dtype).min, 0)  # compilers keep this: no -0.0
    y = laid_as(x, bits.view(x.dtype))
    if not (with_clipped and uniform.can_clip):
        return y, None
    above = (blocks.exponents(peaks) > shared) & (peaks < blocks.INFINITE)
    least = limit + (1.0 if recipe.rounding == "toward_zero" else 0.5)  # the limit is odd, so a tie is beyond it
    over = k >= least if draws is None else draws < k - limit
    clipped = over & blocks.spread(above, size, channels, dim)
    if uniform.never_negative:
        clipped |= negative & blocks.spread(peaks < blocks.INFINITE, size, channels, dim)
    return y, clipped


def laid_as(x: Tensor, values: Tensor) -> Tensor:
    """`values` with the strides of x. PyTorch 2.11 compiles what was written in place to have no gradient."""
    if torch.compiler.is_compiling():
        laid: Tensor = torch.ops.aten.copy(torch.empty_like(x), values)
        return laid
    return torch.empty_like(x).copy_(values)


def _round(k: Tensor, rounding: str, draws: Tensor | None) -> Tensor:
    """Magnitudes, in steps, as whole numbers."""
    even = k.round()
    if rounding == "nearest":
        return even
    if rounding == "half_away":
        return even + (k - even == 0.5)
    below = even - (even > k).float()
    return below if draws is None else below + (draws < k - below)


def uniforms(shape: torch.Size, key: Tensor) -> Tensor:
    """One draw for every element of a tensor of this shape: an odd multiple of 2^-24 in (0, 1), float32.

    Philox 4x32-10 (Salmon et al., 2011) with the 64 bits of `key`, addressed by the element's index in row-major order:
    element 64·g + 16·w + l takes word w of counter 16·g + l.
    """
    count = shape.numel()
    groups = -(-count // (4 * _LANES))
    counter = torch.arange(groups * _LANES, device=key.device)
    c0, c1, c2, c3 = counter & _WORD, counter >> 32, counter & 0, counter & 0
    k0, k1 = key & _WORD, (key >> 32) & _WORD
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # wrap around at 2^64; the shifted sign is masked off
        c0, c1, c2, c3 = ((p1 >> 32) & _WORD) ^ c1 ^ k0, p1 & _WORD, ((p0 >> 32) & _WORD) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    words = torch.stack([c.view(groups, _LANES) for c in (c0, c1, c2, c3)], 1).flatten()[:count]
    return ((words >> 8) | 1).float().mul(2.0**-24).view(shape)
