"""The codes that a tensor in any number format is stored as, and the tensor that codes stand for.

The arithmetic is that of general.py: what it makes of a tensor is here split in two, before and after the codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bitq.errors import BitqError
from bitq.formats import Format
from bitq.formats.elements import Element, Float, Integer, Levels
from bitq.formats.scales import FloatScale, PowerOfTwo, SharedExponent
from bitq.numerics import doubles, general, sums
from bitq.numerics.block_rows import BlockRows, joined, pieces
from bitq.numerics.general import Scales
from bitq.numerics.recipe import Recipe
from bitq.numerics.torch_path import uniforms


class CodeRun(NamedTuple):
    """Codes (int64) that are stored with `width` bits each."""

    codes: Tensor
    width: int


@dataclass(frozen=True, eq=False)
class Codes:
    """What a tensor stores, apart from its header.

    Attributes:
        elements: codes (int64) in the tensor's shape; of a sum q1 below q2.
        blocks: for every block, in row-major order, its scales and then its zero point; each of shape (blocks,).
        tensor: the second scale, or nothing.
        exponent_bias: of a format `eN`.
    """

    elements: Tensor
    blocks: tuple[CodeRun, ...]
    tensor: tuple[CodeRun, ...]
    exponent_bias: int | None


def block_widths(fmt: Format) -> tuple[int, ...]:
    """Bits of each of the codes that a block stores."""
    if fmt.scale is None:
        return ()
    zero_point = (fmt.element_bits,) if fmt.has_zero_point else ()
    return (*[fmt.scale.bits] * len(fmt.elements), *zero_point)


def encode(x: Tensor, recipe: Recipe, key: Tensor | None) -> Codes:
    """The codes of a finite tensor of at least one element, whose values are those of `general.quantize`."""
    fmt = recipe.format
    draws = None if key is None else uniforms(x.shape, key)
    if fmt.scale is None:
        return Codes(_cast(x, recipe, draws), (), (), None)
    at = BlockRows.of(recipe, tuple(x.shape))
    rows = at.arranged(x.float())
    drawn = None if draws is None else at.arranged(draws)
    least, most = rows.aminmax(dim=1, keepdim=True)
    if len(fmt.elements) > 1:
        return _encode_sums(rows, sums.unit(least, most, recipe), at, fmt)
    shared = general.shared_by(least, most, recipe)
    stored, zeros, elements = [], [], []
    for block in pieces(rows.shape[0], rows.shape[1]):
        scales = general.scales_of(least[block].double(), most[block].double(), recipe, shared)
        stored.append(scales.stored)
        if scales.zero is not None:
            zeros.append(scales.zero.long())
        elements.append(_element_codes(rows[block], scales, recipe, None if drawn is None else drawn[block]))
    codes = torch.cat(stored).flatten()
    if isinstance(fmt.scale, FloatScale):
        codes = float_codes(codes, fmt.scale.number)
    fields = [codes, *([torch.cat(zeros).flatten()] if zeros else [])]
    return Codes(
        at.restored(torch.cat(elements)),
        tuple(CodeRun(*pair) for pair in zip(fields, block_widths(fmt), strict=True)),
        () if shared is None or not fmt.tensor_bits else (CodeRun(second_codes(shared), fmt.tensor_bits),),
        int(shared) if shared is not None and isinstance(fmt.scale, SharedExponent) else None,
    )


def decode(codes: Codes, recipe: Recipe, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tensor that codes of `recipe` stand for.

    Raises:
        BitqError: a code that stands for no number, or for a scale that `encode` never gives.
    """
    fmt = recipe.format
    if fmt.scale is None:
        return _uncast(codes.elements, fmt.elements[0], dtype)
    at = BlockRows.of(recipe, shape)
    rows = at.arranged(codes.elements)
    shared = shared_of(codes.tensor[0].codes if codes.tensor else rows[:0], codes.exponent_bias, fmt)
    if len(fmt.elements) > 1:
        return at.restored(_decode_sums(rows, codes, shared, fmt, dtype))
    scales = codes.blocks[0].codes.unsqueeze(1)
    if codes.exponent_bias is not None:
        check_exponents(codes.exponent_bias, int(scales.max()), dtype)
    step = steps(scales, fmt, shared)
    zero = codes.blocks[1].codes.unsqueeze(1).double() if len(codes.blocks) > 1 else None
    values = []
    for block in pieces(*rows.shape):
        along = []
        for part in pieces(rows.shape[1], rows[block].shape[0]):
            numbers = element_numbers(rows[block][:, part], fmt.elements[0])
            y = general.products(numbers, step[block], None if zero is None else zero[block], fmt)
            along.append(general.finished(y, dtype))
        values.append(joined(along, 1))
    return at.restored(joined(values, 0))


# What blocks and the tensor share


def second_codes(shared: Tensor) -> Tensor:
    """Codes (of shape (1,)) of a second scale `f32`."""
    return float_codes(shared.reshape(1), Float(8, 23, "i"))


def shared_of(second: Tensor, exponent_bias: int | None, fmt: Format) -> Tensor | None:
    """As `general.shared_by` and `sums.unit` give it; `second` are the codes of a second scale, if there is any.

    Raises:
        BitqError: a second scale that is no number.
    """
    if isinstance(fmt.scale, SharedExponent):
        return torch.tensor(exponent_bias)
    if not fmt.tensor_bits:
        return None
    code = second[0]
    if fmt.tensor_bits == 8:
        check(code <= 254, "the second scale")
        return doubles.powers(code - 127)
    second = float_numbers(code, Float(8, 23, "i"))
    check(second.isfinite() & (second > 0), "the second scale")
    return second


def steps(codes: Tensor, fmt: Format, shared: Tensor | None) -> Tensor:
    """What an element of 1 stands for, in blocks with these codes of a scale.

    Raises:
        BitqError: a code that is of no scale.
    """
    if isinstance(fmt.scale, FloatScale):
        found = float_numbers(codes, fmt.scale.number)
        check(found.isfinite() & (found > 0), "a scale")
        return found if shared is None else found * shared
    if isinstance(fmt.scale, PowerOfTwo):
        least, most = fmt.scale.codes
        check((codes >= least) & (codes <= most), "a scale")
    return general.step_of(general.coded_exponents(codes, fmt, shared), fmt, shared)


def check_exponents(bias: int, highest_code: int, dtype: torch.dtype) -> None:
    """Refuse exponents that no tensor of a type has.

    Raises:
        BitqError: the largest is such.
    """
    highest, most = bias + highest_code, 15 if dtype == torch.float16 else 127
    if highest > max(most, bias):
        raise BitqError(f"a packed {dtype} tensor with an exponent of {highest}, above {most}, is damaged")


def check(valid: Tensor | bool, what: str) -> None:
    """Refuse codes.

    Raises:
        BitqError: one is not valid.
    """
    if not (valid if isinstance(valid, bool) else valid.all()):
        raise BitqError(f"a packed tensor in which {what} has a code that stands for no number is damaged")


# Sums


def _encode_sums(rows: Tensor, shared: Tensor, at: BlockRows, fmt: Format) -> Codes:
    assert isinstance(fmt.scale, FloatScale)
    scales, (q1, q2) = sums.nearest(rows, fmt, shared)
    first, second = (element_codes(q, element) for q, element in zip((q1, q2), fmt.elements, strict=True))
    codes = float_codes(scales.double(), fmt.scale.number)
    unit = CodeRun(doubles.exponents_of(shared).reshape(1) + 127, 8)
    blocks = tuple(CodeRun(codes[:, i], fmt.scale.bits) for i in range(2))
    return Codes(at.restored(first | second << fmt.elements[0].bits), blocks, (unit,), None)


def _decode_sums(rows: Tensor, codes: Codes, shared: Tensor | None, fmt: Format, dtype: torch.dtype) -> Tensor:
    assert isinstance(fmt.scale, FloatScale)
    assert shared is not None
    scales = float_numbers(torch.stack([field.codes for field in codes.blocks], 1), fmt.scale.number)
    check(scales.isfinite(), "a scale")
    one, other = fmt.elements
    parts = rows & ((1 << one.bits) - 1), rows >> one.bits
    q1, q2 = (element_numbers(part, element).float() for part, element in zip(parts, (one, other), strict=True))
    return general.finished(sums.values(scales.float(), (q1, q2), shared), dtype)


# Elements


def _element_codes(rows: Tensor, scales: Scales, recipe: Recipe, draws: Tensor | None) -> Tensor:
    """Codes of the elements of some blocks."""
    along = []
    for part in pieces(rows.shape[1], rows.shape[0]):
        numbers, _ = general.numbers_of(rows[:, part], scales, recipe, None if draws is None else draws[:, part])
        along.append(element_codes(numbers, recipe.format.elements[0]))
    return joined(along, 1)


def element_codes(numbers: Tensor, element: Element) -> Tensor:
    """Codes (int64) of elements as `general.numbers_of` gives them; zero has no sign."""
    if isinstance(element, Float):
        return float_codes(numbers + 0.0, element)
    if isinstance(element, Levels):
        return torch.searchsorted(torch.tensor(element.values, dtype=torch.float64), numbers.contiguous())
    assert isinstance(element, Integer)
    return integer_codes(numbers.long(), element)


def element_numbers(codes: Tensor, element: Element) -> Tensor:
    """The inverse of `element_codes`.

    Raises:
        BitqError: a code that stands for no number.
    """
    if isinstance(element, Integer):
        return integer_numbers(codes, element).double()
    if isinstance(element, Levels):
        check(codes < len(element.values), "an element")
        return torch.tensor(element.values, dtype=torch.float64)[codes]
    assert isinstance(element, Float)
    numbers = float_numbers(codes, element)
    check(numbers.isfinite(), "an element")
    return numbers


def integer_codes(k: Tensor, element: Integer) -> Tensor:
    """Sign and magnitude, two's complement, or k itself."""
    if element.kind == "s":
        return torch.where(k < 0, (1 << (element.bits - 1)) - k, k)
    return k & ((1 << element.bits) - 1)


def integer_numbers(codes: Tensor, element: Integer) -> Tensor:
    """The inverse of `integer_codes`."""
    sign = 1 << (element.bits - 1)
    if element.kind == "s":
        return torch.where(codes >= sign, sign - codes, codes)
    return torch.where(codes >= sign, codes - 2 * sign, codes) if element.kind == "i" else codes


def float_codes(numbers: Tensor, number: Float) -> Tensor:
    """Sign, exponent and mantissa of numbers (float64) of a type, infinity included."""
    size = numbers.abs()
    exponents = doubles.exponents_of(size).clamp(min=number.least_exponent)
    k = (size * doubles.powers(number.mantissa_bits - exponents)).masked_fill(size.isinf(), 0).long()
    codes = (exponents - number.least_exponent << number.mantissa_bits) + k
    codes = torch.where(size.isinf(), ((1 << number.exponent_bits) - 1) << number.mantissa_bits, codes)
    return codes | numbers.signbit().long() << (number.bits - 1)


def float_numbers(codes: Tensor, number: Float) -> Tensor:
    """The inverse of `float_codes`; NaN for codes of none."""
    size = codes & ((1 << (number.bits - 1)) - 1)
    exponents, mantissas = size >> number.mantissa_bits, size & ((1 << number.mantissa_bits) - 1)
    whole = mantissas + (exponents > 0).long() * (1 << number.mantissa_bits)
    values = whole.double() * doubles.powers(exponents.clamp(min=1) - number.bias - number.mantissa_bits)
    if number.kind == "i":
        infinity = ((1 << number.exponent_bits) - 1) << number.mantissa_bits
        values = values.masked_fill(size == infinity, torch.inf).masked_fill(size > infinity, torch.nan)
    elif number.kind == "n":
        values = values.masked_fill(size == (1 << (number.bits - 1)) - 1, torch.nan)
    return torch.where(codes >= 1 << (number.bits - 1), -values, values)


# Plain floats


def _cast(x: Tensor, recipe: Recipe, draws: Tensor | None) -> Tensor:
    number = recipe.format.elements[0]
    assert isinstance(number, Float)
    flat, parts = x.float().reshape(-1), []
    for part in pieces(flat.numel(), 1):
        drawn = None if draws is None else draws.reshape(-1)[part]
        parts.append(float_codes(general.cast_numbers(flat[part], number, recipe.rounding, drawn), number))
    return joined(parts, 0).reshape(x.shape)


def _uncast(codes: Tensor, number: Element, dtype: torch.dtype) -> Tensor:
    assert isinstance(number, Float)
    flat, parts = codes.reshape(-1), []
    for part in pieces(flat.numel(), 1):
        numbers = float_numbers(flat[part], number)
        check(~numbers.isnan(), "an element")
        parts.append(general.cast_finished(numbers, dtype))
    return joined(parts, 0).reshape(codes.shape)
