"""Plans near a known one: they fit, are counted as they are, and never take more."""

import pytest
from hypothesis import given, settings

from bitq.devices import load_device
from bitq.layers import Layer
from bitq.movement import Tiling, Widths, footprint
from bitq.movement.expression import split, whole
from bitq.movement.levels import plan
from bitq.movement.nearby import best_nearby
from bitq.movement.onebyone import plan_one_by_one
from bitq.movement.tiled import interior, moved_by
from movement_twins import simulate_parts
from strategies import devices, layers, table, widths

SMALL = {"N": 2, "K": 3, "C": 3, "P": 5, "Q": 3, "R": 3, "S": 2}


def price_of(layer, q, device, tilings):
    return sum(moved.bits(q) * price for moved, price in zip(moved_by(layer, tilings), device.prices, strict=True))


@given(layers(most=SMALL), devices(), widths())
@settings(max_examples=40, deadline=None)
def test_what_is_near_fits_and_never_takes_more(layer, device, q):
    q = q.with_partial_sums(device.partial_sum_bits)
    capacities = [memory.capacity_bits for memory, _ in device.boundaries]
    known = plan_one_by_one(layer, table([q]), capacities).plans[0]
    found = best_nearby(layer, q, capacities, device.prices, known)
    assert len(found) == len(known)
    price, parts, problem = 0.0, whole(layer), layer.group
    for tiling, capacity, each in zip(found, capacities, device.prices, strict=True):
        price += each * simulate_parts(layer, tiling, parts).bits(q)
        assert footprint(problem, tiling).bits(q) <= capacity
        parts, problem = split(parts, tiling), interior(problem, tiling)
    assert price <= price_of(layer, q, device, known) * (1 + 1e-12)


def test_a_plan_that_does_not_fit_is_returned_as_it_is():
    layer = Layer("product", N=9, K=8, C=7)
    known = (Tiling((), {loop: layer.extent(loop) for loop in "NKCPQRS"}),)
    assert best_nearby(layer, Widths(8, 8, 8), [100.0], [1.0], known) == known


def test_tiles_that_divide_each_other_are_found():
    """Inner tiles of 7 x 7 want outer ones of 28, not of 19: what is found on paths alone lies 5 % higher."""
    layer = Layer("conv", K=64, C=64, P=56, Q=56, R=3, S=3, padding=(1, 1))
    device, q = load_device("i7-10700f"), Widths(16, 2.375, 4.22)
    capacities = [memory.capacity_bits for memory, _ in device.boundaries]
    loops = "NKCPQRS"
    tiles = ((1, 64, 64, 56, 56, 3, 3), (1, 64, 64, 56, 19, 3, 3), (1, 64, 64, 7, 7, 3, 3), (1, 22, 1, 7, 7, 3, 1))
    known = tuple(Tiling(tuple("QPNKCRS"), dict(zip(loops, sizes, strict=True))) for sizes in tiles)
    found = best_nearby(layer, q, capacities, device.prices, known)
    assert price_of(layer, q, device, found) < 0.96 * price_of(layer, q, device, known)
    assert plan(layer, q, device).gap < 0.02


@pytest.mark.parametrize(
    "layer",
    [
        Layer("first", K=64, C=3, P=112, Q=112, R=7, S=7, stride=(2, 2), padding=(3, 3), input_size=(224, 224)),
        Layer("patches", K=192, C=3, P=56, Q=56, R=4, S=4, stride=(4, 4)),
    ],
)
def test_where_kernel_windows_are_cut_bounds_are_near(layer):
    """They were 14 and 10 % below the plans while tiles counted as finding all rows again whenever two loops walk."""
    found = plan(layer, Widths(14.67, 13.14, 2.04), load_device("i7-10700f"))
    assert found.gap < 0.06
