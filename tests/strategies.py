"""Random layers, tilings, widths and devices, small and adversarial."""

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
    pair = {name: st.tuples(st.integers(1, 3), st.integers(1, 3)) for name in ("stride", "dilation")}
    return Layer(
        "random",
        **loops,
        groups=groups,
        **{name: draw(values) for name, values in pair.items()},
        padding=draw(st.tuples(st.integers(0, 3), st.integers(0, 3))),
        input_dilation=draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 3), (2, 3)])),
        input_size=draw(st.tuples(st.integers(1, 12), st.integers(1, 12))),
    )


@st.composite
def tilings(draw, layer):
    """Any order with any integer tiles."""
    tiles = {loop: draw(st.integers(1, layer.extent(loop))) for loop in LOOPS}
    return Tiling(tuple(draw(st.permutations(LOOPS))), tiles)


def widths():
    """Three widths in bits, ties and binary fractions that are none among them."""
    width = st.sampled_from(AWKWARD_WIDTHS) | st.floats(0.5, 64)
    return st.builds(Widths, input=width, output=width, weight=width)


@st.composite
def devices(draw):
    """Devices of one to three memories and a DRAM; inner memories may be larger than outer ones."""
    capacities = draw(st.lists(st.integers(200, 3000), min_size=1, max_size=3))
    memories = [Memory(f"level {i}", float(bits), 0.16 * i, "") for i, bits in enumerate(capacities)]
    return Device("random", "Random device", "", (*memories, Memory("DRAM", float("inf"), 20.0, "")))
