"""Whole numbers that formats are made of."""

from __future__ import annotations

from operator import index

from bitq.errors import BitqError, shortened


def set_whole(owner: object, field: str, least: int, most: int, told: str) -> None:
    """Makes an attribute of a frozen object the `int` that it stands for, such as a number of numpy's.

    Args:
        owner: of the attribute.
        field: its name.
        least, most: bounds that are still allowed.
        told: what to say otherwise, with `{range}` and `{given}`.

    Raises:
        BitqError: no whole number (a bool is none), or one out of range.
    """
    value = getattr(owner, field)
    try:
        whole = least - 1 if isinstance(value, bool) else index(value)
    except TypeError:
        whole = least - 1
    if not least <= whole <= most:
        given = "a number of many digits" if abs(whole) > 10**20 else shortened(repr(value))
        raise BitqError(told.format(range=f"{least}..{most}", given=given))
    object.__setattr__(owner, field, whole)
