"""Plans near a known one: they fit, are counted as they are, and never take more."""

from hypothesis import given, settings

from bitq.devices import load_device
from bitq.layers import Layer
from bitq.movement import Tiling, Widths, footprint
from bitq.movement.expression import split, whole
from bitq.movement.least import least_bits
from bitq.movement.levels import plan
from bitq.movement.nearby import best_nearby
from bitq.movement.onebyone import plan_one_by_one
from bitq.movement.tiled import CountedTilings, interior
from movement_twins import simulate_parts
from strategies import devices, layers, table, widths

SMALL = {"N": 2, "K": 3, "C": 3, "P": 5, "Q": 3, "R": 3, "S": 2}


def price_of(layer, q, device, tilings):
    counted = CountedTilings.of(layer, tilings).moved
    return sum(moved.bits(q) * price for moved, price in zip(counted, device.prices, strict=True))


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


def test_tiles_with_rows_between_their_taps_take_the_room_of_these():
    """The bound of patches was 10 % below the plan while tiles could leave rows out wherever they stand."""
    layer = Layer("patches", K=192, C=3, P=56, Q=56, R=4, S=4, stride=(4, 4))
    assert plan(layer, Widths(14.67, 13.14, 2.04), load_device("i7-10700f")).gap < 0.06


def test_a_bound_of_strided_windows_cut_by_two_memories_holds():
    """A bound that took tiles to find fewer rows where two loops walk came to 203 bits; a plan moves 194."""
    layer = Layer("cut", K=2, C=3, P=10, R=6, stride=(3, 1), padding=(2, 0), input_size=(29, 1))
    assert least_bits(layer, table([Widths(1, 0.2, 1)]), [127.0, 15.4])[0, 1] <= 194
