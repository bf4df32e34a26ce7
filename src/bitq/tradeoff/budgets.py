"""Limits that a plan has to keep, whatever its objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf

from bitq.errors import BitqError
from bitq.tradeoff.space import Cost

_TOLERANCE = 1e-9
"""By how much, as a share of it, a limit is kept although it is passed: sums of bits are rounded."""


@dataclass(frozen=True)
class Budgets:
    """What a plan may cost at most; None is no limit.

    Attributes:
        accuracy_loss: by how much its accuracy may lie below the float network's, as a share in [0, 1].
        movement_bits: DM_sum of one inference, in bits.
        energy_pj: of that movement, in pJ.
        model_bytes: packed weights and all else that is stored, in bytes.

    Raises:
        BitqError: a limit below 0 or not finite (names it).
    """

    accuracy_loss: float | None = None
    movement_bits: float | None = None
    energy_pj: float | None = None
    model_bytes: float | None = None

    def __post_init__(self) -> None:
        for name in QUANTITIES:
            limit = self.limit(name)
            if limit is not None and not 0 <= limit < inf:
                raise BitqError(f"the limit of {name} is {limit!r}; it must be a finite number of at least 0")

    def limit(self, name: str) -> float | None:
        """The limit of one of `QUANTITIES`."""
        limit: float | None = getattr(self, name)
        return limit

    def excess(self, cost: Cost, lost: float) -> float:
        """By how much a plan of this cost and loss of accuracy misses its budgets, each as a share of it, in sum."""
        spent = {
            "accuracy_loss": lost,
            "movement_bits": cost.movement_bits,
            "energy_pj": cost.energy_pj,
            "model_bytes": float(cost.model_bytes),
        }
        over = 0.0
        for name, limit in self._limits().items():
            if spent[name] > limit * (1 + _TOLERANCE) + _TOLERANCE:
                over += (spent[name] - limit) / max(limit, _TOLERANCE)
        return over

    def kept(self, cost: Cost, lost: float) -> bool:
        """Whether a plan of this cost and loss of accuracy keeps them all."""
        return self.excess(cost, lost) == 0

    def _limits(self) -> dict[str, float]:
        return {name: limit for name in QUANTITIES if (limit := self.limit(name)) is not None}

    def __str__(self) -> str:
        return ", ".join(f"{name} at most {limit:.6g}" for name, limit in self._limits().items()) or "no limit"


QUANTITIES = tuple(field.name for field in fields(Budgets))
"""What can have a limit, by name."""


def check_possible(budgets: Budgets, least: Mapping[str, float]) -> None:
    """Refuse a limit that no plan keeps.

    Args:
        budgets: the limits.
        least: by name the least that any plan comes to.

    Raises:
        BitqError: names the first such limit, and what is the least.
    """
    for name, value in least.items():
        limit = budgets.limit(name)
        if limit is not None and value > limit * (1 + _TOLERANCE) + _TOLERANCE:
            raise BitqError(
                f"no plan has {name} of at most {limit:.6g}: the least of all plans is {value:.6g}; loosen that limit"
            )
