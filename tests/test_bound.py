"""The lower bound: below every tiling and every schedule, and not far below."""

import math
import random
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitq.errors import BitqError
from bitq.layers import LOOPS, Layer
from bitq.movement import Tiling, Widths, footprint, lower_bound, optimize, simulate
from bitq.movement.axis import Axis
from bitq.movement.bound import _classes, compulsory
from movement_twins import least_bits
from strategies import few_loops, layers, one_axis, widths

LARGER = {"N": 3, "K": 9, "C": 8, "P": 12, "Q": 10, "R": 5, "S": 4}
SMALL = {"N": 2, "K": 3, "C": 3, "P": 4, "Q": 3, "R": 3, "S": 2}


def one_tile(layer):
    return Tiling((), {loop: layer.extent(loop) for loop in LOOPS})


def assert_below(bound, bits):
    assert bound <= bits * (1 + 1e-12)


@given(layers(most=LARGER), widths(), st.lists(st.floats(0, 1), min_size=3, max_size=3))
@settings(max_examples=300)
def test_no_tiling_comes_below(layer, q, shares):
    least, most = q.input + q.weight + q.partial_sum, footprint(layer, one_tile(layer)).bits(q)
    for share in (0, *shares):
        capacity = least * (max(most, least) / least) ** share * (1 + 1e-12)
        assert_below(lower_bound(layer, q, capacity), optimize(layer, q, capacity).bits)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (5, 1), (7, 2)])
def test_convolutions_come_near(kernel, stride):
    """Enough reuse of every kind that a constant too small by little more than the gap would show."""
    layer = Layer("conv", K=32, C=24, P=28, Q=28, R=kernel, S=kernel, stride=(stride, stride))
    for q, capacity in product((Widths(8, 8, 8), Widths(5.125, 9.125, 4.02)), (2**10, 2**11, 2**13, 2**15)):
        assert 1 <= optimize(layer, q, capacity).bits / lower_bound(layer, q, capacity) < 3


@given(few_loops() | one_axis(), widths(), st.floats(0, 1))
@settings(max_examples=200)
def test_brute_force_comes_not_below(layer, q, share):
    least, most = q.input + q.weight + q.partial_sum, footprint(layer, one_tile(layer)).bits(q)
    for capacity in (least * (1 + 1e-12), least + share * max(0, most - least)):
        assert_below(lower_bound(layer, q, capacity), least_bits(layer, q, capacity))


def macs_of(layer):
    """All multiply-accumulates with a stored input, of all groups, as (loop indices, input, weight, output)."""
    one = layer.group
    found = []
    for g in range(layer.groups):
        for n, k, c, p, q, r, s in product(*(range(one.extent(loop)) for loop in LOOPS)):
            place = []
            for axis, (out, tap) in enumerate(((p, r), (q, s))):
                at = out * layer.stride[axis] + tap * layer.dilation[axis] - layer.padding[axis]
                row, between = divmod(at, layer.input_dilation[axis])
                if between == 0 and 0 <= row < layer.size[axis]:
                    place.append(row)
            if len(place) == 2:
                elements = (0, g, n, c, *place), (1, g, k, c, r, s), (2, g, n, k, p, q)
                found.append(((g, n, k, c, p, q, r, s), *elements))
    return found


def schedule_bits(layer, q, capacity, macs):
    """Traffic of MACs in this order through a buffer of single elements that drops what is needed latest."""
    width = (q.input, q.weight, q.partial_sum)
    needs = [mac[1:] for mac in macs]
    later = {}
    following = [[math.inf] * 3 for _ in needs]
    for step in range(len(needs) - 1, -1, -1):
        for i, element in enumerate(needs[step]):
            following[step][i] = later.get(element, math.inf)
            later[element] = step
    held, begun, bits = {}, set(), 0.0
    for step, needed in enumerate(needs):
        for element in needed:
            if element in held:
                continue
            while sum(width[e[0]] for e in held) + width[element[0]] > capacity:
                leaving = max((e for e in held if e not in needed), key=held.__getitem__)
                del held[leaving]
                bits += width[2] if leaving[0] == 2 else 0
            bits += width[element[0]] if element[0] < 2 or element in begun else 0
            begun.add(element)
            held[element] = step
        held.update(zip(needed, following[step], strict=True))
    bits += width[2] * sum(e[0] == 2 for e in held)
    # what no MAC touches is still read or written once
    weights, outputs = (sum(e[0] == tensor for e in begun) for tensor in (1, 2))
    least = compulsory(layer)
    bits += width[1] * (least.weight_reads - weights) + width[2] * (least.output_writes - outputs)
    return bits + (q.output - width[2]) * least.output_writes  # the last write of each is the finished output


@given(st.data())
@settings(max_examples=150)
def test_no_order_of_single_operations_comes_below(data):
    layer, q = data.draw(layers(most=SMALL)), data.draw(widths())
    capacity = (q.input + q.weight + q.partial_sum) * data.draw(st.floats(1, 8)) * (1 + 1e-12)
    macs = macs_of(layer)
    bound = lower_bound(layer, q, capacity)
    orders = [data.draw(st.permutations(range(8))) for _ in range(2)]
    size = [data.draw(st.integers(1, 3)) for _ in range(8)]
    tiled = [sorted(macs, key=lambda m: [m[0][i] // size[i] for i in o] + [m[0][i] for i in o]) for o in orders]
    for order in (*tiled, random.Random(0).sample(macs, len(macs))):
        assert_below(bound, schedule_bits(layer, q, capacity, order))


@given(layers(most=SMALL), widths())
@settings(max_examples=150)
def test_a_buffer_for_everything_reaches_compulsory_traffic(layer, q):
    everything = simulate(layer, one_tile(layer))
    assert compulsory(layer) == everything
    assert lower_bound(layer, q) == everything.bits(q)


@given(layers(most=LARGER), widths(), st.floats(1, 100), st.floats(1, 100))
@settings(max_examples=100)
def test_less_capacity_never_lowers_the_bound(layer, q, capacity, more):
    assert lower_bound(layer, q, capacity) >= lower_bound(layer, q, capacity * more) * (1 - 1e-12)


@given(one_axis() | layers(most=LARGER), st.sampled_from([0, 1]))
@settings(max_examples=200)
def test_the_reuse_along_an_axis_is_counted(layer, which):
    axis = Axis.of(layer, which)
    classes = {}
    for p, r in product(range(axis.out), range(axis.taps)):
        row, between = divmod(p * axis.stride + r * axis.dilation - axis.padding, axis.spread)
        if between == 0 and 0 <= row < axis.size:
            classes.setdefault(r * axis.dilation % axis.stride, []).append((row, r, p))
    expected = [
        (len(points), *(max(Counter(point[i] for point in points).values()) for i in range(3)))
        for points in classes.values()
    ]
    assert sorted(_classes(axis)) == sorted(expected)
    rows, taps = ([{point[i] for point in points} for points in classes.values()] for i in (0, 1))
    for sets in (rows, taps):  # classes share neither
        assert sum(map(len, sets)) == len(set().union(*sets))


CUBE = Layer("matmul", N=1024, K=1024, C=1024)


@pytest.mark.parametrize("q", [Widths(8, 8, 8), Widths(5.125, 9.125, 4.02), Widths(32, 1, 2)])
def test_a_matrix_product_is_bounded_as_known(q):
    """2 n^3 / sqrt(elements that fit) for equal widths (Smith et al. 2019), nearly reached by the optimum."""
    capacity = 2.0**17
    bound = lower_bound(CUBE, q, capacity)
    known = 2 * 1024**3 * math.sqrt(q.input * q.weight * q.output / capacity)
    assert bound >= known * (1 - 1e-6)
    assert 1 <= optimize(CUBE, q, capacity).bits / bound < 1.2


def test_a_convolution_is_bounded_by_its_small_filter():
    layer, q, capacity = Layer("conv", K=256, C=256, P=56, Q=56, R=3, S=3), Widths(5, 9, 4), 2.0**15
    known = 2 * layer.macs * math.sqrt(5 * 9 * 4 / capacity / 9)
    assert lower_bound(layer, q, capacity) >= known * (1 - 1e-6)


def test_a_stride_divides_the_taps_into_classes():
    """Stride 2 and 3x3: of 9 taps four classes, 4 taps of one input each, 2, 2 and 1, done at the rate of their own."""
    layer, q, capacity = Layer("conv", K=256, C=256, P=64, Q=64, R=3, S=3, stride=(2, 2)), Widths(8, 8, 8), 2.0**15
    rate = sum(count * math.sqrt(8**3 / capacity / taps) for count, taps in ((4, 4), (4, 2), (1, 1)))
    assert lower_bound(layer, q, capacity) >= 2 * layer.macs / 9 * rate * (1 - 1e-6)


def test_a_filter_larger_than_the_buffer_takes_the_general_bound():
    """Every MAC pairs an input with an output: 16 of each, half of them new, serve 256 MACs."""
    layer, q, capacity = Layer("conv", P=512, Q=512, R=31, S=31), Widths(8, 8, 8), 8 * 16
    bound = lower_bound(layer, q, capacity)
    assert bound >= 8 * 16 * layer.macs / 256 * (1 - 1e-6)
    assert bound > 2 * layer.macs * math.sqrt(8**3 / capacity / 31**2)


@pytest.mark.parametrize("capacity", [0, -1.0, math.nan])
def test_a_capacity_that_holds_nothing_is_refused(capacity):
    with pytest.raises(BitqError, match="positive number of bits"):
        lower_bound(CUBE, Widths(8, 8, 8), capacity)


@pytest.mark.parametrize("capacity", [1e-300, 1e300])
def test_extreme_capacities_overflow_nothing(capacity):
    with np.errstate(all="raise", under="ignore"):
        assert lower_bound(CUBE, Widths(1e-3, 64, 1), capacity) > 0
