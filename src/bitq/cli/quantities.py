"""Amounts with units, as options take them."""

from __future__ import annotations

import re

from bitq.errors import BitqError

BITS = {"": 1.0, "bit": 1.0, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9}
PICOJOULES = {"": 1.0, "pJ": 1.0, "nJ": 1e3, "uJ": 1e6, "µJ": 1e6, "mJ": 1e9}
BYTES = {"": 1.0, "B": 1.0, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3}

_AMOUNT = re.compile(r"(\d{1,18}(?:\.\d{1,9})?(?:e\d{1,2})?) ?([A-Za-zµ]*)", re.ASCII | re.IGNORECASE)


def amount(option: str, text: str | None, units: dict[str, float]) -> float | None:
    """A number with a unit, in the smallest of the units; None for None.

    Args:
        option: that it was given with.
        text: such as "1.2 Mbit"; without a unit it is in the smallest.
        units: by name, what one is worth.

    Raises:
        BitqError: no number, or another unit.
    """
    if text is None:
        return None
    found = _AMOUNT.fullmatch(text.strip().replace("μ", "µ"))
    if found is None or found[2] not in units:
        names = ", ".join(name for name in units if name)
        raise BitqError(f"{option} is {text!r}; it must be a number, with or without one of the units {names}")
    return float(found[1]) * units[found[2]]
