"""Limits that a plan has to keep, whatever its objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from bitq.errors import BitqError, Infeasible
from bitq.tradeoff.quantities import QUANTITIES
from bitq.tradeoff.records import Cost

ACCURACY_LOSS = "accuracy_loss"

_TOLERANCE = 1e-9
"""By how much, as a share of it, a limit is kept although it is passed: sums of bits are rounded."""


@dataclass(frozen=True, init=False)
class Budgets:
    """What a plan may cost at most: `Budgets(accuracy_loss=0.01, energy_pj=9e6)`; what is not named, or None, is free.

    Attributes:
        accuracy_loss: by how much its accuracy may lie below the float network's, as a share in [0, 1].
        limits: of quantities of `bitq.tradeoff.quantities`, by name: `movement_bits` (DM_sum of one inference, in
            bits), `energy_pj` (of that movement, in pJ), `model_bytes` (packed weights and all else that is stored).

    Raises:
        BitqError: an unknown quantity, or a limit below 0 or not finite (names it).
    """

    accuracy_loss: float | None
    limits: tuple[tuple[str, float], ...]

    def __init__(self, accuracy_loss: float | None = None, **limits: float | None) -> None:
        for name, limit in {ACCURACY_LOSS: accuracy_loss, **limits}.items():
            if name not in (ACCURACY_LOSS, *QUANTITIES):
                raise BitqError(f"{name!r} is nothing to limit; known are {', '.join((ACCURACY_LOSS, *QUANTITIES))}")
            if limit is not None and not 0 <= limit < inf:
                raise BitqError(f"the limit of {name} is {limit!r}; it must be a finite number of at least 0")
        object.__setattr__(self, "accuracy_loss", accuracy_loss)
        given = ((name, limits.get(name)) for name in QUANTITIES)
        object.__setattr__(self, "limits", tuple((name, limit) for name, limit in given if limit is not None))

    def limit(self, name: str) -> float | None:
        """The limit of "accuracy_loss" or of a quantity; None is no limit."""
        return self._all().get(name)

    def with_loss(self, accuracy_loss: float | None) -> Budgets:
        """The same limits with another one of the loss of accuracy."""
        return Budgets(accuracy_loss, **dict(self.limits))

    def excess(self, cost: Cost, lost: float) -> float:
        """By how much a plan of this cost and loss of accuracy misses its budgets, each as a share of it, in sum."""
        over = 0.0
        for name, limit in self._all().items():
            spent = lost if name == ACCURACY_LOSS else QUANTITIES[name].spent(cost)
            if _exceeds(spent, limit):
                over += (spent - limit) / max(limit, _TOLERANCE)
        return over

    def kept(self, cost: Cost, lost: float) -> bool:
        """Whether a plan of this cost and loss of accuracy keeps them all."""
        return self.excess(cost, lost) == 0

    def _all(self) -> dict[str, float]:
        own = {} if self.accuracy_loss is None else {ACCURACY_LOSS: self.accuracy_loss}
        return own | dict(self.limits)

    def __str__(self) -> str:
        return ", ".join(f"{name} at most {limit:.6g}" for name, limit in self._all().items()) or "no limit"


def check_possible(budgets: Budgets, least: Mapping[str, float]) -> None:
    """Refuse a limit that no plan keeps.

    Args:
        budgets: the limits.
        least: by name the least that any plan comes to.

    Raises:
        Infeasible: names the first such limit, and what is the least.
    """
    for name, value in least.items():
        limit = budgets.limit(name)
        if limit is not None and _exceeds(value, limit):
            raise Infeasible(
                f"no plan has {name} of at most {limit:.6g}: the least of all plans is {value:.6g}; loosen that limit"
            )


def _exceeds(spent: float, limit: float) -> bool:
    return spent > limit * (1 + _TOLERANCE) + _TOLERANCE
