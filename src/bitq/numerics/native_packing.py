"""The compiled path of packing and unpacking; coding.py is its twin."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from math import prod
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitq.formats import Format
from bitq.formats.blocking import Whole
from bitq.formats.elements import Element, Float, Integer
from bitq.formats.scales import FloatScale, PowerOfTwo, SharedExponent
from bitq.numerics import coding, general
from bitq.numerics.bitstream import Bytes
from bitq.numerics.recipe import Axes, Recipe

try:
    import bitq.numerics._packing as _packing
except ImportError:  # a source tree that was not built: coding.py does everything
    _packing = None

ScaleSteps = NDArray[np.float64]
Peaks = NDArray[np.uint32]

_no_bytes = np.empty(0, np.uint8)

INFINITE = 0x7F800000  # bit pattern of a float32 infinity; those above it are NaN

PARALLEL = 1 << 18  # elements; fewer are done before another thread has started
ROW = 1 << 13  # elements of a row that may be of any length
GROUP = 8  # elements that fill whole bytes, whatever their width: threads write from one such place on


class Bands(NamedTuple):
    """Row-major memory read as [outer, depth, length], `size` elements in all: the last row may be short.

    A block is `block` consecutive rows times `run` consecutive elements of a row.
    """

    size: int
    depth: int
    length: int
    block: int
    run: int

    @property
    def number(self) -> int:
        """Rows of one block, `block` of them or the rest, make a band; this is how many there are."""
        whole, rest = divmod(-(-self.size // self.length), self.depth)
        return whole * -(-self.depth // self.block) + -(-rest // self.block)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        missing = -self.size % self.length  # of the last row
        return self.number * -(-self.length // self.run) - missing // self.run

    def first_element(self, band: int) -> int:
        """Where a band begins."""
        outer, within = divmod(band, -(-self.depth // self.block))
        return (outer * self.depth + within * self.block) * self.length


def bands(shape: tuple[int, ...], axes: Axes, block_size: int) -> Bands | None:
    """How a contiguous tensor lies in memory; None if it is empty, its blocks are scattered or nothing was built."""
    dim, inside = axes
    last = range(len(shape) - len(inside), len(shape))
    size = prod(shape)
    if _packing is None or not size or set(inside) != set(last):
        return None
    channels, between, window = shape[dim], prod(shape[dim + 1 : last.start]), prod(shape[d] for d in inside)
    block = min(block_size, channels)
    if between > 1:
        return Bands(size, channels, between * window, block, window)
    length, run = channels * window, block * window
    if channels % block == 0:  # any number of whole blocks is as good a row
        length = min(run * GROUP * -(-ROW // (run * GROUP)), size)
    return Bands(size, 1, length, 1, run)


def layout(shape: tuple[int, ...], recipe: Recipe) -> Bands | None:
    """The same of a recipe's blocks, that of a whole tensor in parts; None, too, where its format is not for this path.

    Which does integers with a sign and floats, rounded to nearest, under powers of two or under floats of which
    quotients and products are exact enough in float64.
    """
    fmt, element, scale = recipe.format, recipe.format.elements[0], recipe.format.scale
    if len(fmt.elements) > 1 or recipe.rounding != "nearest":
        return None
    if not (element.signed if isinstance(element, Integer) else isinstance(element, Float) and element.mantissa_bits):
        return None
    if isinstance(scale, FloatScale):
        if scale.bits > 8 and (scale.bits % 8 or scale.second):
            return None
    elif scale is None or (isinstance(scale, PowerOfTwo) and scale.exponents[1] > 127):
        return None
    if isinstance(fmt.geometry, Whole):
        size: int = prod(shape)
        return Bands(size, 1, ROW * GROUP, 1, ROW) if size and _packing is not None else None
    found = recipe.blocks(shape)
    return None if found is None else bands(shape, *found)


def pack(x: Tensor, recipe: Recipe) -> tuple[Bytes, int | None] | None:
    """The payload of a contiguous tensor, and its exponent bias if it has one.

    None where there is no `layout`, or the tensor has NaN or infinity.
    """
    at = layout(tuple(x.shape), recipe)
    if at is None:
        return None
    flat = x.float().reshape(-1).numpy()
    found, fmt = peaks(flat, at), recipe.format
    highest = found.max(keepdims=True)
    if highest[0] >= INFINITE:
        return None
    top = torch.from_numpy(highest.view(np.float32)).view(1, 1)
    shared = general.shared_by(-top, top, recipe)
    codes, steps = _scales(highest if isinstance(fmt.geometry, Whole) else found, recipe, shared)
    stored = codes if codes.dtype == np.uint8 else _bytes(codes, fmt.block_bits // 8)
    second = _no_bytes if shared is None or not fmt.tensor_bits else _bytes(coding.second_codes(shared).numpy(), 4)
    bias = int(shared) if shared is not None and isinstance(fmt.scale, SharedExponent) else None
    bits = fmt.element_bits * flat.size
    split = bits + fmt.block_bits * codes.size
    result = np.empty(-(-(split + fmt.tensor_bits) // 8), np.uint8)
    _write_elements(flat, result, at, _of_all(codes, at), _of_all(steps, at), _elements(fmt, bias))
    _write_codes(stored, result, bits, min(fmt.block_bits, 8))
    _write_codes(second, result, split, 8)
    return result, bias


def unpack(payload: Bytes, recipe: Recipe, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """The tensor of a payload; None where there is no `layout`.

    Raises:
        BitqError: as `coding.decode`.
    """
    at = layout(shape, recipe)
    if at is None:
        return None
    fmt, bias = recipe.format, recipe.exponent_bias
    bits = fmt.element_bits * at.size
    count = 1 if isinstance(fmt.geometry, Whole) else at.blocks
    octets = -(-fmt.block_bits // 8)
    stored = _read_codes(payload, bits, count * octets, min(fmt.block_bits, 8))
    codes = stored if octets == 1 else _whole(stored, octets)
    second = _whole(_read_codes(payload, bits + fmt.block_bits * count, fmt.tensor_bits // 8, 8), fmt.tensor_bits // 8)
    shared = coding.shared_of(torch.from_numpy(second), bias, fmt)
    if bias is not None:
        coding.check_exponents(bias, int(codes.max()), dtype)
    steps = _steps(codes, fmt, shared)
    values = np.empty(at.size, np.float32)
    table = _table(fmt.elements[0])
    _read_values(payload, values, at, _of_all(codes, at), _of_all(steps, at), table, _elements(fmt, bias))
    coding.check(not np.isnan(table).any() or not np.isnan(values.max()), "an element")
    found = torch.from_numpy(values).view(shape)
    return found if dtype == torch.float32 else general.finished(found, dtype)


def peaks(x: NDArray[np.float32], at: Bands) -> Peaks:
    """Bit pattern of max|x| of every block, in row-major order; one of a NaN or infinity if the block has any."""
    result = np.empty(at.blocks, np.uint32)
    source, target, told = _pointer("float *", x), _pointer("uint32_t *", result), _told(at)
    _in_threads(lambda a, b: _packing.lib.bitq_peaks(source, target, a, b, told), at)
    return result


# Scales


def _scales(found: Peaks, recipe: Recipe, shared: Tensor | None) -> tuple[NDArray[Any], ScaleSteps | None]:
    """Codes of blocks with these peaks, and the steps of those whose scale is a float."""
    fmt, scale, lib = recipe.format, recipe.format.scale, _packing.lib
    codes = np.empty(found.size, np.uint8)
    source, target = _pointer("uint32_t *", found), _pointer("uint8_t *", codes)
    if isinstance(scale, SharedExponent):
        assert shared is not None
        lib.bitq_exponent_codes(source, target, codes.size, int(shared), 0, scale.top_code, 0)
    elif isinstance(scale, PowerOfTwo) and scale.mode == "floor" and recipe.tensor_range is None:
        (zero, most), least = scale.codes, general.least_exponent(fmt) + scale.bias
        lib.bitq_exponent_codes(
            source, target, codes.size, fmt.top_exponent - scale.bias, max(zero, least), most, zero
        )
    elif isinstance(scale, FloatScale) and scale.bits <= 8 and not scale.up and recipe.tensor_range is None:
        divisor = fmt.largest * (1.0 if shared is None else float(shared))
        number, reach = scale.number, scale.reach(fmt.smallest)
        lib.bitq_float_codes(
            source, target, codes.size, divisor, number.mantissa_bits, number.least_exponent, *reach
        )
    else:
        top = torch.from_numpy(found.view(np.float32)).double().unsqueeze(1)
        scales = general.scales_of(-top, top, recipe, shared)
        if isinstance(scale, FloatScale):
            wide = coding.float_codes(scales.stored, scale.number).flatten().numpy()
            return wide if fmt.block_bits > 8 else wide.astype(np.uint8), scales.step.flatten().numpy()
        codes = scales.stored.flatten().numpy().astype(np.uint8)
    return codes, None if fmt.power_of_two else _steps(codes, fmt, shared)


def _steps(codes: NDArray[Any], fmt: Format, shared: Tensor | None) -> ScaleSteps | None:
    """What an element of 1 stands for in blocks whose scale has these codes; None where that is a power of two.

    Raises:
        BitqError: codes that stand for no number.
    """
    if fmt.power_of_two:
        coding.steps(torch.tensor([int(codes.min()), int(codes.max())]), fmt, shared)
        return None
    used = np.bincount(codes, minlength=256).nonzero()[0] if fmt.block_bits <= 8 else codes
    found: ScaleSteps = coding.steps(torch.from_numpy(used), fmt, shared).numpy()
    if fmt.block_bits > 8:
        return found
    table: ScaleSteps = np.zeros(256)
    table[used] = found
    return np.take(table, codes)


def _of_all(values: Any, at: Bands) -> Any:
    """The same for each of the parts that a whole tensor is done in."""
    return values if values is None or values.size == at.blocks else np.repeat(values, at.blocks)


def _bytes(codes: NDArray[Any], octets: int) -> Bytes:
    """The lowest bytes of whole numbers, lowest first."""
    return np.ascontiguousarray(codes.astype("<i8").reshape(-1, 1).view(np.uint8)[:, :octets]).reshape(-1)


def _whole(stored: Bytes, octets: int) -> NDArray[np.int64]:
    """The inverse of `_bytes`."""
    wide = np.zeros((stored.size // max(octets, 1), 8), np.uint8)
    wide[:, :octets] = stored.reshape(len(wide), octets)
    return wide.view("<i8").reshape(-1).astype(np.int64)


# Elements


def _table(element: Element) -> NDArray[np.float32]:
    """The numbers that codes of a float stand for, NaN for those of none; of integers nothing."""
    if not isinstance(element, Float):
        return np.empty(0, np.float32)
    return _numbers(element)


@lru_cache(64)
def _numbers(element: Float) -> NDArray[np.float32]:
    numbers = coding.float_numbers(torch.arange(1 << element.bits), element)
    found: NDArray[np.float32] = numbers.masked_fill(numbers.isinf(), torch.nan).float().numpy()
    return found


def _elements(fmt: Format, bias: int | None) -> Any:
    """What the kernels are told of a format's elements."""
    element, scale = fmt.elements[0], fmt.scale
    unit = general.unit_exponent(element)
    offset = (bias or 0) - fmt.top_exponent if isinstance(scale, SharedExponent) else 0
    if isinstance(scale, PowerOfTwo):
        offset = -scale.bias
    number = element if isinstance(element, Float) else None
    kind = "FLOAT" if number else "SIGN_MAGNITUDE" if element.text.startswith("s") else "TWOS_COMPLEMENT"
    return _packing.ffi.new(
        "bitq_elements *",
        {
            "kind": getattr(_packing.lib, kind),
            "bits": element.bits,
            "mantissa_bits": number.mantissa_bits if number else 0,
            "least_exponent": number.least_exponent if number else 0,
            "limit": element.largest(False),
            "offset": offset + unit,
            "lowest": general.least_exponent(fmt) + unit,
        },
    )


def _write_elements(
    x: NDArray[np.float32], to: Bytes, at: Bands, codes: Any, steps: ScaleSteps | None, elements: Any
) -> None:
    source, target, told, lib = _pointer("float *", x), _pointer("uint8_t *", to), _told(at), _packing.lib
    powers, floats = _shared(codes, steps)
    _in_threads(
        lambda a, b: lib.bitq_write_elements(source, powers, floats, target, a, b, told, elements), at, GROUP
    )


def _read_values(
    payload: Bytes, to: NDArray[np.float32], at: Bands, codes: Any, steps: ScaleSteps | None, table: Any, elements: Any
) -> None:
    source, target, told, lib = _pointer("uint8_t *", payload), _pointer("float *", to), _told(at), _packing.lib
    powers, floats = _shared(codes, steps)
    numbers, size = _pointer("float *", table), payload.size
    _in_threads(
        lambda a, b: lib.bitq_read_values(source, size, powers, floats, numbers, target, a, b, told, elements), at
    )


def _shared(codes: Any, steps: ScaleSteps | None) -> tuple[object, object]:
    """Codes of powers of two, or the steps."""
    null = _packing.ffi.NULL
    return (_pointer("uint8_t *", codes), null) if steps is None else (null, _pointer("double *", steps))


def _write_codes(codes: Bytes, to: Bytes, at: int, width: int) -> None:
    _packing.lib.bitq_write_codes(_pointer("uint8_t *", codes), _pointer("uint8_t *", to), at, codes.size, width)


def _read_codes(payload: Bytes, at: int, count: int, width: int) -> Bytes:
    result = np.empty(count, np.uint8)
    source, target = _pointer("uint8_t *", payload), _pointer("uint8_t *", result)
    _packing.lib.bitq_read_codes(source, payload.size, at, target, count, width)
    return result


def _told(at: Bands) -> Any:
    return _packing.ffi.new("bitq_bands *", tuple(at))


def _pointer(kind: str, array: NDArray[Any]) -> object:
    return _packing.ffi.cast(kind, array.ctypes.data)


def _in_threads(work: Callable[[int, int], None], at: Bands, group: int = 1) -> None:
    """Calls work(first band, last band) on about equal parts; each starts at a multiple of `group` elements."""
    threads = torch.get_num_threads() if at.size >= PARALLEL else 1
    starts = (at.number * thread // threads for thread in range(threads))
    aligned = (next((b for b in range(s, s + group) if not at.first_element(b) % group), at.number) for s in starts)
    bounds = sorted({0, at.number, *(min(band, at.number) for band in aligned)})
    (first, last), *rest = pairwise(bounds)
    others = [Thread(target=work, args=part) for part in rest]
    for other in others:
        other.start()
    work(first, last)
    for other in others:
        other.join()
