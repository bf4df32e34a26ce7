"""What a layer moves: exact traffic of a tiling, and the tiling of least traffic, for any widths and any buffer."""

from bitq.movement.bound import lower_bound
from bitq.movement.expression import traffic
from bitq.movement.model import Footprint, Optimum, Tiling, Traffic, Widths
from bitq.movement.optimum import optimal_tilings, optimize, optimize_many
from bitq.movement.simulate import footprint, simulate

__all__ = [
    "Footprint",
    "Optimum",
    "Tiling",
    "Traffic",
    "Widths",
    "footprint",
    "lower_bound",
    "optimal_tilings",
    "optimize",
    "optimize_many",
    "simulate",
    "traffic",
]
