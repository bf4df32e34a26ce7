"""Random layers, tilings, widths, devices, number formats and tensors, small and adversarial."""

from itertools import product
from math import prod
from random import Random

import numpy as np
import torch
from hypothesis import strategies as st

from bitq.devices import Device, Memory
from bitq.errors import BitqError
from bitq.formats import ROUNDINGS
from bitq.formats.blocking import Along, Channel, Tile, Whole
from bitq.formats.elements import Float, Integer, Levels
from bitq.formats.format import made
from bitq.formats.scales import MODES, FloatScale, PowerOfTwo, ScaledExponent, SharedExponent
from bitq.layers import LOOPS, Layer
from bitq.movement import Tiling, Widths

EXTENTS = {"N": 2, "K": 4, "C": 3, "P": 5, "Q": 4, "R": 3, "S": 3}
LARGEST = float(np.finfo(np.float32).max)
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


def _possible(make, *choices):
    """All that can be made of these choices."""
    found = []
    for choice in product(*choices):
        try:
            found.append(make(*choice))
        except BitqError:
            continue
    return found


FLOATS = _possible(Float, range(1, 9), range(24), "fni")
SMALL_FLOATS = [number for number in FLOATS if number.exponent_bits <= 5 and number.mantissa_bits <= 10]
TINY_FLOATS = [number for number in FLOATS if number.bits <= 5 and number.mantissa_bits]
SCALES = [number for number in FLOATS if number.mantissa_bits]
USUAL_SCALES = [Float(8, 23, "i"), Float(5, 10, "i"), Float(8, 7, "i"), Float(4, 3, "n"), Float(2, 1, "f")]
OWN_POWERS = _possible(PowerOfTwo, range(1, 9), "fni", MODES)
GEOMETRIES = [Along(n, window) for n in (1, 2, 3, 16) for window in (True, False)]
GEOMETRIES += [Along(2, True, 2), Along(3, True, 3), Tile(2, 3), Tile(16, 1), Channel(), Whole()]


WIDTHS = {"s": (2, 24, 16), "i": (2, 24, 16), "n": (1, 23, 16), "u": (1, 16, 16)}  # least, most, most under a float


def seeded(make, *args):
    """What `make` makes of a `random.Random` and the arguments: far faster than drawing each number of a tensor."""
    return st.integers(0, 2**32 - 1).map(lambda seed: make(Random(seed), *args))


def _levels(random):
    """Tables: coarse and fine ones, of many digits, one-sided and lopsided."""
    size = random.choice(
        [lambda: random.randint(1, 9), lambda: random.uniform(0.5, 2), lambda: 2 ** random.uniform(-20, 20)]
    )
    signs = random.choice([(1,), (-1,), (-1, 1), (-1, 1)])
    values = {float(np.float32(size() * random.choice(signs))) for _ in range(random.randint(1, 16))}
    return Levels(tuple(sorted({0.0, *values})))


def _integer(random, kinds, power_of_two):
    kind = random.choice(kinds)
    least, *most = WIDTHS[kind]
    return Integer(kind, random.randint(least, random.choice([4, 8, most[not power_of_two]])))


def _format(random, kinds):
    kind = random.choice(kinds)
    rounding = random.choice(("nearest", *ROUNDINGS))
    if kind == "lone":
        return made((random.choice(FLOATS),), None, None, rounding)
    if kind == "power":
        scale = random.choice([SharedExponent(random.randint(1, 8)), random.choice(OWN_POWERS)])
    elif kind == "float" and random.random() < 0.25:
        scale = ScaledExponent(random.randint(1, 5))
    else:
        number = random.choice([*USUAL_SCALES, random.choice(SCALES)])
        second = None if kind == "zero point" else random.choice([None, "f32"])
        scale = FloatScale(number, random.choice([False, False, True]), False, second)
    if kind == "zero point":
        element = _integer(random, "u", False)
    else:
        element = random.choice(
            [_integer(random, "sin", kind == "power"), random.choice(SMALL_FLOATS), _levels(random)]
        )
    return made((element,), scale, random.choice(GEOMETRIES), rounding)


def formats(*kinds):
    """Formats of these kinds, or of all but sums: all elements under all scales, in all geometries; lone floats."""
    return seeded(_format, kinds or ("power", "power", "float", "float", "zero point", "lone"))


def _summed_format(random):
    elements = tuple(Integer("i", random.randint(2, 3)) for _ in range(2))
    scale = FloatScale(random.choice(TINY_FLOATS), False, True, "e8m0")
    return made(elements, scale, random.choice([Along(2), Along(3, False), Channel(), Whole()]))


def summed_formats():
    """Sums of two integers, each with a scale of few bits."""
    return seeded(_summed_format)


def _grid(fmt):
    """Numbers of an element, ascending from 0, or those about its ends where there are many."""
    element = fmt.elements[0]
    if isinstance(element, Levels):
        return sorted({abs(value) for value in element.values})
    if isinstance(element, Float):
        codes = _ends(1 << (element.exponent_bits + element.mantissa_bits))
        return [value for value in map(element.value, codes) if value <= element.largest()]
    return [k * element.unit(fmt.power_of_two) for k in _ends(element.most + 1)]


def _ends(count):
    return sorted({*range(min(count, 40)), *range(max(count - 40, 0), count)})


def _peak(random, fmt):
    """What the largest number of a block may be: about where its scale changes to the next code, or its codes end."""
    scale = fmt.scale
    if isinstance(scale, FloatScale):
        number = scale.number
        last = (1 << (number.exponent_bits + number.mantissa_bits)) - 2
        code = random.choice(
            [random.randint(0, last), random.randint(0, min(last, 3)), last - random.randint(0, min(last, 3))]
        )
        below, above = number.value(code), number.value(code + 1)
        return random.choice([above, (below + above) / 2]) * fmt.largest
    ends = scale.exponents if isinstance(scale, PowerOfTwo) else (-126, 127)
    exponent = random.choice([random.randint(-149, 127), random.randint(-3, 3), *ends]) + fmt.top_exponent
    bits = fmt.elements[0].bits
    return 2.0**exponent * random.choice(
        [1, fmt.largest * 2.0**-fmt.top_exponent, *(2 - 2.0**-i for i in range(bits + 1))]
    )


def _numbers(random, fmt, count):
    """Float32 numbers that are hard for a format: ties under a block's scale, powers of two, their neighbours."""
    grid, top = _grid(fmt), 1.0 if fmt.scale is None else _peak(random, fmt) / fmt.largest

    def tie():
        i = random.randrange(len(grid) - 1)
        return (grid[i] + grid[i + 1]) / 2 * top

    kinds = [
        tie,
        tie,
        lambda: random.choice(grid) * top,
        lambda: fmt.largest * top,
        lambda: random.uniform(0, 8),
        lambda: 2.0 ** random.randint(-149, 127),
        lambda: random.choice([0.0, 2.0**-149, 2.0**-126, 65504.0, 1.0]),
        lambda: float(np.uint32(random.getrandbits(31)).view(np.float32)),
    ]
    chosen = random.choices(kinds, k=random.randint(1, 3))
    found = np.array([random.choice(chosen)() for _ in range(count)]).clip(0, LARGEST).astype(np.float32)
    near = [random.choice([0, 0, -1, 1]) for _ in range(count)]
    return (found.view(np.int32) + near).clip(0).astype(np.int32).view(np.float32) * random.choices([1, 1, -1], k=count)


def _tensor(random, fmt):
    shape = [random.randint(1, 5) for _ in range(random.randint(1, 4))]
    while prod(shape) > 80:
        shape[shape.index(max(shape))] -= 1
    x = torch.from_numpy(_numbers(random, fmt, prod(shape))).float().view(shape)
    dtype = random.choice([torch.float32] * 4 + [torch.bfloat16, torch.float16])
    if random.random() < 0.95:
        largest = torch.finfo(dtype).max
        x = x.nan_to_num(0.0).clamp(-largest, largest)
    dim = random.randrange(x.ndim)
    return x.to(dtype), dim, tuple(d for d in range(x.ndim) if d != dim and random.choice([True, False]))


def tensors_for(fmt):
    """A tensor that is hard for a format, its blocked axis and those of a window; of every dtype, seldom with NaN."""
    return seeded(_tensor, fmt)
