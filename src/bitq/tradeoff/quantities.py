"""What a plan spends, as data: a quantity that is listed here can be tabulated, bounded and asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bitq.tradeoff.records import Cost
    from bitq.tradeoff.space import Space


@dataclass(frozen=True)
class Quantity:
    """Something that a plan takes and that may have a limit.

    Attributes:
        name: of the field of `Cost` that holds it, in the smallest of its units.
        option: of the command line, which gives its limit.
        units: by name, what one is worth in the smallest.
        help: of that option.
        least: of a space: the least that any plan takes.
        also: another name of that option.
        is_room: whether it is room on a device, where a plan that takes more does not run.
    """

    name: str
    option: str
    units: Mapping[str, float]
    help: str
    least: Callable[[Space], float]
    also: str | None = None
    is_room: bool = False

    def spent(self, cost: Cost) -> float:
        """How much of it a plan of this cost takes; what is not known takes nothing."""
        return float(getattr(cost, self.name) or 0)


@dataclass(frozen=True)
class Sum:
    """A quantity that every choice of formats adds to.

    Attributes:
        table: of a space and a module: array (widths of input, of weight, of output), what a choice of these adds.
        fixed: of a space: what no choice changes.
    """

    table: Callable[[Space, int], NDArray[np.float64]]
    fixed: Callable[[Space], float]

    def least(self, space: Space) -> float:
        """The least that any plan takes, whatever it loses."""
        tables = (space.possible(module, self.table(space, module)) for module in range(len(space.modules)))
        return self.fixed(space) + sum(float(table.min()) for table in tables)


SUMS = {
    "movement_bits": Sum(lambda space, module: space.movement(module), lambda space: float(space.fixed_bits.sum())),
    "energy_pj": Sum(lambda space, module: space.energy(module), lambda space: space.fixed_energy_pj),
    "model_bytes": Sum(lambda space, module: space.model_bytes(module), lambda space: float(space.other_bytes)),
}
"""Those that are sums over modules, by name; the first is what the objective O weighs."""


BITS = {"bit": 1.0, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9}
PICOJOULES = {"pJ": 1.0, "nJ": 1e3, "uJ": 1e6, "µJ": 1e6, "mJ": 1e9}
BYTES = {"B": 1.0, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3}

QUANTITIES = {
    each.name: each
    for each in (
        Quantity(
            "movement_bits",
            "--max-movement",
            BITS,
            "The plan may move so much for one inference: 1.2Mbit, 50%int8, ...",
            SUMS["movement_bits"].least,
        ),
        Quantity(
            "energy_pj",
            "--max-energy",
            PICOJOULES,
            "That may take so much energy: 9uJ, 60%float16, ...",
            SUMS["energy_pj"].least,
        ),
        Quantity(
            "model_bytes",
            "--max-model-bytes",
            BYTES,
            "The packed weights and all else that is stored may be so large: 40KiB, 25%float32, ...",
            SUMS["model_bytes"].least,
            also="--max-flash",
            is_room=True,
        ),
        Quantity(
            "ram_bytes",
            "--max-ram",
            BYTES,
            "The memory that holds all activations while they live may be so large: 64KiB, 50%int8, ...",
            lambda space: 0.0 if space.arena is None else float(space.arena.least.peak),
            is_room=True,
        ),
    )
}
"""All of them, by name."""
