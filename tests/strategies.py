"""Random layers, tilings, widths and devices, small and adversarial."""

import numpy as np
from hypothesis import strategies as st

from bitq.devices import Device, Memory
from bitq.layers import LOOPS, Layer
from bitq.movement import Tiling, Widths

EXTENTS = {"N": 2, "K": 4, "C": 3, "P": 5, "Q": 4, "R": 3, "S": 3}
AWKWARD_WIDTHS = (1.0, 2.0, 4.02, 5 + 1 / 3, 5.125, 9.125, 7.9, 0.1, 32.0)


@st.composite
def layers(draw, most=EXTENTS):
    """Layers with padding, strides, gaps and groups in all combinations, input that nothing uses included."""
    groups = draw(st.integers(1, 2))
    loops = {loop: draw(st.integers(1, most[loop])) for loop in LOOPS}
    loops["K"] *= groups
    pair = {name: st.tuples(st.integers(1, 4), st.integers(1, 4)) for name in ("stride", "dilation")}
    return Layer(
        "random",
        **loops,
        groups=groups,
        **{name: draw(values) for name, values in pair.items()},
        padding=draw(st.tuples(st.integers(0, 8), st.integers(0, 8))),
        input_dilation=draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 3), (2, 3)])),
        input_size=draw(st.tuples(st.integers(1, 30), st.integers(1, 30))),
    )


@st.composite
def few_loops(draw):
    """Layers of few tilings: one to four loops are longer than 1."""
    longer = draw(st.lists(st.sampled_from(LOOPS), min_size=1, max_size=4, unique=True))
    most = {2: 6, 3: 5, 4: 3}.get(len(longer), 8)
    return draw(layers(most={loop: most if loop in longer else 1 for loop in LOOPS}))


def one_axis():
    """Layers along one image axis, where padding, strides and spread inputs matter most."""
    rows = layers(most=dict.fromkeys(LOOPS, 1) | {"P": 12, "R": 5, "C": 2})
    columns = layers(most=dict.fromkeys(LOOPS, 1) | {"Q": 9, "S": 5, "K": 2})
    return rows | columns


@st.composite
def tilings(draw, layer):
    """Any order with any integer tiles."""
    tiles = {loop: draw(st.integers(1, layer.extent(loop))) for loop in LOOPS}
    return Tiling(tuple(draw(st.permutations(LOOPS))), tiles)


@st.composite
def widths(draw):
    """Widths in bits, ties and binary fractions that are none among them, some with wider partial sums."""
    width = st.sampled_from(AWKWARD_WIDTHS) | st.floats(0.5, 64)
    q = draw(st.builds(Widths, input=width, output=width, weight=width))
    return q.with_partial_sums(q.output + draw(st.just(0.0) | st.sampled_from((0.1, 4.02, 8.0)) | st.floats(0, 8)))


def table(several):
    """Widths as rows, partial sums in the last column."""
    rows = [(q.input, q.weight, q.output, q.partial_sum) for q in several]
    return np.array(rows, dtype=float).reshape(-1, 4)


@st.composite
def devices(draw):
    """Devices of one to three memories and a DRAM; inner memories may be larger than outer ones."""
    capacities = draw(st.lists(st.integers(200, 3000), min_size=1, max_size=3))
    memories = [Memory(f"level {i}", float(bits), 0.16 * i, "") for i, bits in enumerate(capacities)]
    sums = draw(st.sampled_from([0.0, 0.0, 20.5]))
    return Device("random", "Random device", "", (*memories, Memory("DRAM", float("inf"), 20.0, "")), sums)
