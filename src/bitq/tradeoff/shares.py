"""Limits in the terms that people know: `50%int8` is half of what the network takes with 8 bits for every element."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Self

from bitq.errors import BitqError, shortened

REFERENCES = {"int8": 8.0, "float16": 16.0, "float32": 32.0}
"""Plain formats that shares may be of: bits of every element, nothing shared among them."""

_SHARE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?% ?([a-z0-9]+)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class ShareOf:
    """A part of what a network takes in a plain format.

    Attributes:
        fraction: the part; 1 is all.
        of: the plain format, one of `REFERENCES`.
        whole: what the network takes in it, in the smallest unit of the quantity; None while that is not known.

    Raises:
        BitqError: a fraction that is negative or not finite, or no such format.
    """

    fraction: float
    of: str
    whole: float | None = None

    def __post_init__(self) -> None:
        if self.of not in REFERENCES:
            raise BitqError(f"a share is of {shortened(self.of)!r}; it must be of one of {', '.join(REFERENCES)}")
        if not 0 <= self.fraction < 1e9:
            raise BitqError(f"a share of {self.of} is {self.fraction!r}; it must be a number from 0, where 1 is all")

    @classmethod
    def read(cls, name: str, text: str) -> Self:
        """What such a text as "50%int8" says.

        Args:
            name: of the option or quantity that it limits, for the message.
            text: of a user.

        Raises:
            BitqError: another text, or an unknown format.
        """
        found = _SHARE.fullmatch(text.strip())
        if found is None or found[2].lower() not in REFERENCES:
            *names, last = REFERENCES
            known = f"{', '.join(names)} or {last}"
            raise BitqError(f"{name} is {shortened(text)!r}; a share must be of {known}, such as 50%int8")
        return cls(float(found[1]) / 100, found[2].lower())

    def beside(self, whole: float) -> Self:
        """The same share, where what it is a part of is known."""
        return replace(self, whole=whole)

    @property
    def amount(self) -> float:
        """What it comes to, in the smallest unit of the quantity.

        Raises:
            BitqError: it is not known yet what it is a part of.
        """
        if self.whole is None:
            raise BitqError(f"{self} says how much only beside a network and a device; use Budgets.beside first")
        return self.fraction * self.whole

    def told(self, amount: float) -> str:
        """Another amount of the same quantity in the terms of this share."""
        return f"{100 * amount / self.whole:.4g} % of {self.of}" if self.whole else str(self)

    def __str__(self) -> str:
        return f"{100 * self.fraction:.6g} % of {self.of}"
