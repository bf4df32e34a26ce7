"""Between which numbers a format reaches: by the maximum, a percentile, or the least squared error.

What a whole activation shares follows from its range: the bias of `eN`, a scale, a second scale. Calibration met the
maximum; less of it clips a few large numbers and rounds all others finer. It is chosen on a bounded sample of rows of
channels, in which blocks along the channels are whole.

A weight's blocks have their own scales. A block whose largest numbers are clipped gets a smaller one, by itself: so its
range is the weight's own, and the clipped weight is what is trained, saved and packed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from bitq.accuracy.kinds import kind_of
from bitq.formats import Format, Ranges, Span, TensorFormats
from bitq.formats.scales import ScaledExponent, SharedExponent
from bitq.numerics import exponent_bias_for, quantize
from bitq.numerics.block_rows import BlockRows
from bitq.numerics.packing import WeightBlocks
from bitq.numerics.recipe import recipe_for

Method = Literal["maximum", "percentile", "least-squares"]
"""How the range of a tensor is found."""

METHODS: tuple[Method, ...] = get_args(Method)

MOST_SAMPLED = 1 << 16
"""Numbers of a tensor that are kept, at most."""

PERCENTILE = 0.999
"""Share of the numbers of a sample that lie within the range of a percentile, on either side of 0."""

_SHRINKS = tuple(2 ** (-step / 8) for step in range(33))
"""Of a range under a float, down to a sixteenth. Neighbours differ by 8 %: around the least error that is nothing."""

_LOWERED = 4
"""Binades by which the range of `eN` shrinks, at most."""

_BELOW = 1 - 2.0**-24
"""Of a power of two, the largest float32 below it."""


class Sample(NamedTuple):
    """Rows of a tensor, drawn at random from all there were.

    Attributes:
        rows: float32 [rows, channels], finite.
        keys: [rows], of which the smallest ones are kept.
    """

    rows: Tensor
    keys: Tensor


class Samples:
    """A sample of the activations of modules, of at most `MOST_SAMPLED` numbers each.

    Equal seeds and calls give equal samples. They are kept where the tensors are.

    Args:
        seed: of what is drawn.
        method: by which ranges are chosen from them, of `METHODS`.
    """

    def __init__(self, seed: int = 0, method: Method = "least-squares") -> None:
        self.method = method
        self._kept: dict[tuple[str, str], Sample] = {}
        self._fits: dict[tuple[str, str, Format, Span], Span] = {}
        self._draws: torch.Generator | None = torch.Generator().manual_seed(seed)

    def __getstate__(self) -> dict[str, object]:
        """What other processes need: they take nothing in."""
        return vars(self) | {"_draws": None}

    def add(self, module: str, tensor: str, x: Tensor, axis: int) -> None:
        """Take in what a module's tensor was, with its channels along an axis."""
        if not x.numel():
            return
        found = x.detach().movedim(axis, -1)
        rows = found.reshape(-1, found.shape[-1])[:, :MOST_SAMPLED]
        assert self._draws is not None
        keys = torch.rand(len(rows), generator=self._draws)
        most = max(MOST_SAMPLED // rows.shape[1], 1)
        least = keys.argsort()[:most]
        rows, keys = rows[least.to(rows.device)].float().nan_to_num(0.0, 0.0, 0.0), keys[least]
        known = self._kept.get((module, tensor))
        if known is not None and known.rows.shape[1] == rows.shape[1]:
            rows, keys = torch.cat([known.rows, rows]), torch.cat([known.keys, keys])
            least = keys.argsort()[:most]
            rows, keys = rows[least.to(rows.device)], keys[least]
        self._kept[module, tensor] = Sample(rows, keys)

    def rows(self, module: str, tensor: str) -> Tensor | None:
        """The sample of a module's "input" or "output", float32 [rows, channels]; None if there is none."""
        known = self._kept.get((module, tensor))
        return None if known is None else known.rows

    def span(self, module: str, tensor: str, fmt: Format | None, known: Span | None) -> Span | None:
        """The range that suits a format of a module's "input" or "output", of which calibration knows this one."""
        rows = self.rows(module, tensor)
        if fmt is None or known is None or rows is None:
            return known
        key = module, tensor, fmt, known
        if key not in self._fits:
            self._fits[key] = fitted_span(rows, fmt, known, self.method)
        return self._fits[key]


def fitted(
    samples: Samples, formats: Mapping[str, TensorFormats], ranges: Mapping[str, Ranges]
) -> dict[str, Ranges]:
    """The ranges of activations that suit the formats they have.

    Args:
        samples: of calibration.
        formats: by module path.
        ranges: what calibration met, by module path: at most these are the result.
    """
    found = {}
    for module, known in ranges.items():
        own = formats.get(module, TensorFormats())
        found[module] = Ranges(
            samples.span(module, "input", own.input, known.input),
            samples.span(module, "output", own.output, known.output),
            samples.span(module, "weight", own.weight, known.weight),
        )
    return found


def fitted_span(rows: Tensor, fmt: Format, span: Span, method: Method) -> Span:
    """The range of a tensor for a format.

    Args:
        rows: of its numbers, float32 [rows, channels].
        fmt: any; one that shares nothing keeps the range.
        span: that calibration met.
        method: of `METHODS`. Of the ranges that least squares compare, parts of `span`, the one with the least squared
            error of `quantize(rows, fmt, tensor_range=range)`.
    """
    if method == "maximum" or not fmt.needs_range or not any(span):
        return span
    if method == "percentile":
        return _percentile(rows, span)
    if not fmt.has_zero_point:
        return min(_candidates(fmt, span), key=lambda each: squared_error(rows, fmt, each))
    low, high = span  # either end moves the other's steps: one after the other
    for _ in range(2 if low and high else 1):
        high = min(_shrunk(high), key=lambda end: squared_error(rows, fmt, (low, end)))
        low = min(_shrunk(low), key=lambda end: squared_error(rows, fmt, (end, high)))
    return low, high


def _shrunk(end: float) -> list[float]:
    return [_single(end * share) for share in _SHRINKS] if end else [end]


def squared_error(rows: Tensor, fmt: Format, span: Span) -> float:
    """Sum of (quantize(x, tensor_range=span) - x)² over all numbers."""
    return float((quantize(rows, fmt, dim=1, tensor_range=span) - rows).double().square().sum())


def _candidates(fmt: Format, span: Span) -> list[Span]:
    """The largest first: it wins a tie."""
    if isinstance(fmt.scale, SharedExponent):
        shares: Sequence[float] = [2.0**-step for step in range(min(_LOWERED, fmt.scale.top_code) + 1)]
    else:
        shares = _SHRINKS
    return [(_single(span[0] * share), _single(span[1] * share)) for share in shares]


def _percentile(rows: Tensor, span: Span) -> Span:
    flat = rows.flatten().sort().values
    last = len(flat) - 1
    low, high = flat[round((1 - PERCENTILE) * last)], flat[round(PERCENTILE * last)]
    found = min(float(low), 0.0), max(float(high), 0.0)
    return found if any(found) else span


def _single(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))


class WeightRows(NamedTuple):
    """The blocks of a layer's weight as the rows of a matrix, in which short ones end with zeros.

    Attributes:
        shape: of the weight.
        blocks: where they lie.
        at: how they become rows.
        format: of the weight.
    """

    shape: tuple[int, ...]
    blocks: WeightBlocks
    at: BlockRows
    format: Format

    @classmethod
    def of(cls, layer: nn.Module, weight: Tensor, fmt: Format) -> WeightRows:
        """For a weight that is not empty and a format with blocks."""
        shape = tuple(weight.shape)
        blocks = kind_of(layer).blocks(layer, shape)
        like = torch.empty(blocks.shape, dtype=weight.dtype, device="meta")
        recipe = recipe_for(like, fmt, blocks.dim, blocks.inner_dims)
        return cls(shape, blocks, BlockRows.of(recipe, blocks.shape), fmt)

    def arranged(self, weight: Tensor) -> Tensor:
        """A row for each block."""
        return self.at.arranged(weight.reshape(self.blocks.shape))

    def restored(self, rows: Tensor) -> Tensor:
        """The inverse."""
        return self.at.restored(rows).reshape(self.shape)

    def quantized(self, rows: Tensor, exponent_bias: int | None = None) -> Tensor:
        """These rows in the weight's format, as rows again."""
        x = self.at.restored(rows)
        return self.at.arranged(quantize(x, self.format, self.blocks.dim, self.blocks.inner_dims, exponent_bias))

    @property
    def _together(self) -> bool:
        """Whether one range is of all blocks: they share a float under which theirs are powers of two."""
        return isinstance(self.format.scale, ScaledExponent)

    def peaks(self, rows: Tensor) -> Tensor:
        """The largest magnitudes of what has a range of its own: [blocks, 1], or [1, 1]."""
        return rows.abs().amax((0, 1) if self._together else 1, keepdim=True)

    def limits(self, rows: Tensor) -> Tensor:
        """The largest magnitude to which each block, or all, is clipped for the least squared error; as `peaks`.

        What the whole weight shares stays for all that is compared: a bias is given, and the largest block keeps its
        range under a second scale.
        """
        peaks = self.peaks(rows)
        bias = exponent_bias_for(rows, self.format) if isinstance(self.format.scale, SharedExponent) else None
        if self.format.power_of_two:
            binade = peaks / (2 * torch.frexp(peaks).mantissa + (peaks == 0))  # the power of two below, exactly
            tried = [peaks, binade * _BELOW]
        else:
            tried = [peaks * share for share in _SHRINKS]
        if self.format.tensor_bits and not self._together:
            tried = [torch.where(peaks == peaks.amax(), peaks, limit) for limit in tried]
        best, least = peaks, torch.full_like(peaks, torch.inf)
        for limit in tried:
            squares = (self.quantized(rows.clamp(-limit, limit), bias) - rows).square()
            error = squares.sum((0, 1) if self._together else 1, keepdim=True)
            best, least = torch.where(error < least, limit, best), torch.minimum(error, least)
        return best


def clipped_weight(layer: nn.Module, weight: Tensor, fmt: Format) -> Tensor:
    """A layer's weight with the largest numbers of each block clipped as far as it pays: for the least squared error.

    `quantize` gives a clipped block the scale that suits it. Under powers of two the next smaller one is tried, under
    floats scales down to a sixteenth.

    Args:
        layer: whose blocks they are.
        weight: its weight; without a gradient (`bitq.accuracy.learned` has one).
        fmt: of the weight.

    Returns:
        A tensor of the weight's shape; the weight itself where blocks have no scale of their own or several.
    """
    if fmt.scale is None or len(fmt.elements) > 1 or not weight.numel():
        return weight
    with torch.no_grad():
        at = WeightRows.of(layer, weight, fmt)
        rows = at.arranged(weight)
        limits = at.limits(rows)
        return at.restored(rows.clamp(-limits, limits))
