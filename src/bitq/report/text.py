"""Numbers and formats as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, isfinite, log10

from bitq.errors import shortened
from bitq.formats import BlockFormat, Format

ABSENT = "–"
BITS_PER_MBIT = 1e6
PJ_PER_UJ = 1e6
_LONG = 12
"""Elements of a list that a line has no room for."""


def number(value: float | None, digits: int = 4) -> str:
    """`value` with `digits` significant digits, never fewer than its integer part has: 12,345 or 0.01234."""
    if value is None or not isfinite(value):
        return ABSENT
    if value == 0:
        return "0"
    decimals = digits - 1 - floor(log10(abs(value)))
    return f"{value:,.{min(max(decimals, 0), 12)}f}"


def hundredths(value: float | None) -> str:
    """`value` with two decimals."""
    return ABSENT if value is None or not isfinite(value) else f"{value:.2f}"


def entry(value: object) -> str:
    """A value as it is, or of a long list how many it holds, and the first and the last."""
    if isinstance(value, list) and len(value) > _LONG:
        return f"{len(value)} of them, from {value[0]} to {value[-1]}"
    return str(value)


def capital(words: str) -> str:
    """Words as they begin a sentence."""
    return words[:1].upper() + words[1:]


def energy(picojoules: float) -> str:
    """An energy in µJ."""
    return f"{number(picojoules / PJ_PER_UJ, 3)} µJ"


def amount_bits(bits: float) -> str:
    """An amount of bits with a decimal prefix."""
    return _scaled(bits, ("bit", "kbit", "Mbit", "Gbit", "Tbit"), 1000)


def amount(count: float) -> str:
    """A count with a decimal prefix."""
    return _scaled(count, ("", "k", "M", "G", "T"), 1000).rstrip()


def amount_bytes(size: float) -> str:
    """An amount of bytes with a binary prefix."""
    return "unbounded" if size == float("inf") else _scaled(size, ("B", "KiB", "MiB", "GiB"), 1024)


def size(bytes_: float) -> str:
    """A memory's size, whole where it is: 24 KiB, 1.5 MiB, 85.31 KiB."""
    value, units = bytes_, ["GiB", "MiB", "KiB", "B"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop()
    return f"{value:.4g} {units[-1]}"


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds, the two largest of them."""
    if seconds < 0.1:
        return "< 0.1 s"
    if seconds < 60:
        return f"{number(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def compare(new: float, old: float, less: str, more: str, equal: str) -> str:
    """How `new` stands to `old`: "5.3× fewer", "4.1 % more" or the word for equal."""
    if old <= 0 or new <= 0 or abs(new / old - 1) < 5e-4:
        return equal if new == old or (old > 0 and new > 0) else f"{number(new)} against {number(old)}"
    word, ratio = (less, old / new) if new < old else (more, new / old)
    return f"{ratio:.1f}× {word}" if ratio >= 1.5 else f"{100 * abs(new / old - 1):.1f}\u00a0% {word}"


def points(new: float, old: float, measure: str = "accuracy") -> str:
    """How what a metric gives stands to another, both in [0, 1], in percentage points."""
    difference, told = 100 * (new - old), f"{100 * abs(new - old):.2f}\u00a0points"
    alike = abs(difference) < 0.005
    if measure == "accuracy":
        return "as accurate as" if alike else f"{told} {'more' if difference > 0 else 'less'} accurate than"
    return f"level in {measure} with" if alike else f"{told} of {measure} {'above' if difference > 0 else 'below'}"


def quality(measure: str) -> str:
    """What a network is by a share of a metric: so many per cent accurate, so many per cent mean-iou."""
    return "accurate" if measure == "accuracy" else measure


def short(fmt: Format | None) -> str:
    """A format in the report's own words: mantissa bits, exponent bits, block size; its name, or else its text."""
    if isinstance(fmt, BlockFormat):
        return f"m{fmt.mantissa_bits} e{fmt.exponent_bits} b{fmt.block_size}"
    return "float32" if fmt is None else shortened(next(iter(fmt.names), fmt.text), 24)


def _scaled(value: float, units: Sequence[str], base: int) -> str:
    for unit in units:
        if abs(value) < base or unit == units[-1]:
            break
        value /= base
    return f"{number(value, 3)} {unit}"
