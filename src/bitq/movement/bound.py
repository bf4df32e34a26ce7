"""How little any schedule could move."""

from __future__ import annotations

from bitq.layers import Layer
from bitq.movement.axis import Axis, kept_rows
from bitq.movement.model import Traffic, Widths


def lower_bound(layer: Layer, widths: Widths, capacity_bits: float = float("inf")) -> float:
    """A number of bits below which no tiling, order or other schedule of a layer comes.

    Compulsory traffic: every input that is used and every weight is read once, every output written once, whatever the
    capacity. The communication bounds that grow as the capacity shrinks are not in it yet.

    Args:
        layer: any layer.
        widths: bits per element.
        capacity_bits: of the buffer; the bound holds for each.
    """
    return compulsory(layer).bits(widths)


def compulsory(layer: Layer) -> Traffic:
    """Every used input and every weight read once, every output written once, in elements."""
    one = layer.group
    rows, columns = (kept_rows(axis, axis.out, axis.taps)[0] for axis in (Axis.of(one, 0), Axis.of(one, 1)))
    return Traffic(
        input_reads=one.N * one.C * rows * columns,
        weight_reads=one.K * one.C * one.R * one.S,
        output_writes=one.N * one.K * one.P * one.Q,
        output_reads=0,
    ).scaled(layer.groups)
