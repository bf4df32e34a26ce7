"""Limits that a plan has to keep, whatever its objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

from bitq.errors import BitqError, Infeasible
from bitq.tradeoff.quantities import QUANTITIES
from bitq.tradeoff.records import Cost
from bitq.tradeoff.shares import ShareOf

ACCURACY_LOSS = "accuracy_loss"

_TOLERANCE = 1e-9
"""By how much, as a share of it, a limit is kept although it is passed: sums of bits are rounded."""


@dataclass(frozen=True, init=False)
class Budgets:
    """What a plan may cost at most: `Budgets(accuracy_loss=0.01, energy_pj=9e6)`; what is not named, or None, is free.

    The limit of a quantity may be a share of what the network takes in a plain format: `Budgets(energy_pj="60%int8")`.

    Attributes:
        accuracy_loss: by how much its accuracy may lie below the float network's, as a share in [0, 1].
        limits: of quantities of `bitq.tradeoff.quantities`, by name: `movement_bits` (DM_sum of one inference, in
            bits), `energy_pj` (of that movement, in pJ), `model_bytes` (packed weights and all else that is stored),
            `ram_bytes` (the memory that holds all activations while they live).

    Raises:
        BitqError: an unknown quantity, a limit below 0 or not finite, or no share of a plain format (names it).
    """

    accuracy_loss: float | None
    limits: tuple[tuple[str, float | ShareOf], ...]

    def __init__(self, accuracy_loss: float | None = None, **limits: float | str | ShareOf | None) -> None:
        for name, limit in {ACCURACY_LOSS: accuracy_loss, **limits}.items():
            if name not in (ACCURACY_LOSS, *QUANTITIES):
                raise BitqError(f"{name!r} is nothing to limit; known are {', '.join((ACCURACY_LOSS, *QUANTITIES))}")
            if limit is None or isinstance(limit, ShareOf) or (isinstance(limit, str) and name != ACCURACY_LOSS):
                continue
            if isinstance(limit, str) or not 0 <= limit < inf:
                raise BitqError(f"the limit of {name} is {limit!r}; it must be a finite number of at least 0")
        object.__setattr__(self, "accuracy_loss", accuracy_loss)
        given = {name: limits[name] for name in QUANTITIES if limits.get(name) is not None}
        read = {name: ShareOf.read(name, limit) if isinstance(limit, str) else limit for name, limit in given.items()}
        object.__setattr__(self, "limits", tuple(read.items()))

    def limit(self, name: str) -> float | None:
        """The limit of "accuracy_loss" or of a quantity; None is no limit."""
        return self._all().get(name)

    @property
    def of_ram(self) -> bool:
        """Whether the memory of activations is limited, so that it matters how these are placed."""
        return self.limit("ram_bytes") is not None

    def with_loss(self, accuracy_loss: float | None) -> Budgets:
        """The same limits with another one of the loss of accuracy."""
        return Budgets(accuracy_loss, **dict(self.limits))

    def beside(self, references: Callable[[], Mapping[str, Cost]]) -> Budgets:
        """The same limits, where it is known what they are shares of.

        Args:
            references: gives what the network costs by names of `bitq.tradeoff.shares.REFERENCES`; asked only if a
                limit is a share.
        """
        if not any(isinstance(limit, ShareOf) for _, limit in self.limits):
            return self
        costs = references()
        return Budgets(
            self.accuracy_loss,
            **{
                name: limit.beside(QUANTITIES[name].spent(costs[limit.of])) if isinstance(limit, ShareOf) else limit
                for name, limit in self.limits
            },
        )

    def told(self, name: str, amount: float) -> str:
        """An amount of a limited quantity as its limit is told: what it is, and what share, if that was given."""
        limit = dict(self.limits).get(name)
        return f"{amount:.6g}" + (f" ({limit.told(amount)})" if isinstance(limit, ShareOf) else "")

    def excess(self, cost: Cost, lost: float) -> float:
        """By how much a plan of this cost and loss of accuracy misses its budgets, each as a share of it, in sum;
        infinite if it does not fit on the device (`Quantity.is_room`)."""
        over = 0.0
        for name, limit in self._all().items():
            spent = lost if name == ACCURACY_LOSS else QUANTITIES[name].spent(cost)
            if _exceeds(spent, limit):
                if name != ACCURACY_LOSS and QUANTITIES[name].is_room:
                    return inf
                over += (spent - limit) / max(limit, _TOLERANCE)
        return over

    def fits(self, cost: Cost) -> bool:
        """Whether a plan of this cost fits on the device, whatever else it misses."""
        return self.excess(cost, 0.0) < inf

    def kept(self, cost: Cost, lost: float) -> bool:
        """Whether a plan of this cost and loss of accuracy keeps them all."""
        return self.excess(cost, lost) == 0

    def _all(self) -> dict[str, float]:
        own = {} if self.accuracy_loss is None else {ACCURACY_LOSS: self.accuracy_loss}
        return own | {name: limit.amount if isinstance(limit, ShareOf) else limit for name, limit in self.limits}

    def __str__(self) -> str:
        limits = (f"{name} at most {self.told(name, limit)}" for name, limit in self._all().items())
        return ", ".join(limits) or "no limit"


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
                f"no plan has {name} of at most {budgets.told(name, limit)}: the least of all plans is "
                f"{budgets.told(name, value)}; loosen that limit"
            )


def _exceeds(spent: float, limit: float) -> bool:
    return spent > limit * (1 + _TOLERANCE) + _TOLERANCE
