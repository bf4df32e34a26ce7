"""bitq: which block floating point format every tensor of a network should have, so that the fewest bits move.

The names here are loaded when they are first used, so that `import bitq` and `bitq --help` answer at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitq.accuracy.folding import fold
    from bitq.accuracy.quantized import apply, restore
    from bitq.devices import Device, load_device
    from bitq.errors import BitqError
    from bitq.formats import BlockFormat, TensorFormats, grid
    from bitq.layers import Layer
    from bitq.numerics.packing import Packed, pack
    from bitq.numerics.quantize import quantize
    from bitq.report import write_report
    from bitq.tracing import trace
    from bitq.tradeoff.api import Result, search
    from bitq.tradeoff.plan import Plan, load_plan
    from bitq.tradeoff.settings import Settings
    from bitq.tradeoff.weights import load_quantized, load_weights

_HOME = {
    "BitqError": "errors",
    "BlockFormat": "formats",
    "Device": "devices",
    "Layer": "layers",
    "Packed": "numerics",
    "Plan": "tradeoff.plan",
    "Result": "tradeoff.api",
    "Settings": "tradeoff.settings",
    "TensorFormats": "formats",
    "apply": "accuracy.quantized",
    "fold": "accuracy.folding",
    "grid": "formats",
    "load_device": "devices",
    "load_plan": "tradeoff.plan",
    "load_quantized": "tradeoff.weights",
    "load_weights": "tradeoff.weights",
    "pack": "numerics",
    "quantize": "numerics",
    "restore": "accuracy.quantized",
    "search": "tradeoff.api",
    "trace": "tracing",
    "write_report": "report",
}

__all__ = [
    "BitqError",
    "BlockFormat",
    "Device",
    "Layer",
    "Packed",
    "Plan",
    "Result",
    "Settings",
    "TensorFormats",
    "apply",
    "fold",
    "grid",
    "load_device",
    "load_plan",
    "load_quantized",
    "load_weights",
    "pack",
    "quantize",
    "restore",
    "search",
    "trace",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bitq' has no attribute {name!r}")
    value = getattr(import_module(f"bitq.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
