"""All C on memory whose neighbouring pages nobody may touch, compiled by `test_sanitized.py` to watch itself.

    python tests/guarded.py LIBRARY numerics|movement|overread SOURCES

LIBRARY holds all C sources, which lie in SOURCES. Buffers that are read or written end where a forbidden page begins,
or begin where one ends. What is computed must not depend on which.
"""

import importlib
import sys
from itertools import product
from math import inf, prod
from mmap import PAGESIZE
from pathlib import Path
from types import ModuleType

import numpy as np
from cffi import FFI

ffi = FFI()
ffi.cdef("void *mmap(void *, size_t, int, int, int, int64_t); int munmap(void *, size_t);")
system = ffi.dlopen(None)
NONE, READ_WRITE, PRIVATE, ANONYMOUS, FIXED = 0, 3, 2, 0x20, 0x10


class Guarded:
    """`size` bytes between forbidden pages, at the end of theirs or at the beginning."""

    def __init__(self, size, at_end):
        inside = max(-(-size // PAGESIZE), 1) * PAGESIZE
        self.all = inside + 2 * PAGESIZE
        self.base = system.mmap(ffi.NULL, self.all, NONE, PRIVATE | ANONYMOUS, -1, 0)
        begin = system.mmap(self.base + PAGESIZE, inside, READ_WRITE, PRIVATE | ANONYMOUS | FIXED, -1, 0)
        self.pointer = begin + (inside - size if at_end else 0)

    def free(self):
        system.munmap(self.base, self.all)


class Arena:
    """Guarded arrays, given back together."""

    def __init__(self, at_end):
        self.at_end, self.held = at_end, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for held in self.held:
            held.free()

    def array(self, like):
        """A guarded copy of an array."""
        if not like.nbytes:
            return like.copy()
        self.held.append(Guarded(like.nbytes, self.at_end))
        array = np.frombuffer(ffi.buffer(self.held[-1].pointer, like.nbytes), like.dtype)
        array[:] = like
        return array


def header(sources, name):
    return (sources / "numerics" / name).read_text(encoding="utf-8")


def both_ends(work):
    """What work(arena) returns with either end at a forbidden page, which must be the same."""
    results = []
    for at_end in (True, False):
        with Arena(at_end) as arena:
            results.append([array.copy() for array in work(arena)])
    for one, other in zip(*results, strict=True):
        assert one.tobytes() == other.tobytes()
    return results[0]


def pointer(array):
    return ffi.cast("void *", array.ctypes.data)


# Kernel: kinds, roundings

TYPES = (np.float32, np.uint16, np.float16)  # bfloat16 as its bits
SHAPES = [  # outer, channels, inner, block
    (1, 1, 1, 1),
    (1, 5, 1, 2),
    (3, 100, 1, 16),
    (2, 700, 1, 7),
    (1, 1300, 1, 64),
    (1, 1029, 1, 513),
    (1, 40000, 1, 20000),
    (3, 130, 1, 65),
    (2, 5, 3, 2),
    (1, 3, 513, 2),
    (2, 20, 70, 16),
    (1, 1, 1025, 1),
    (1, 3000, 2, 2999),
]


def numbers(rng, count, kind):
    x = (rng.standard_normal(count) * np.exp2(rng.integers(-8, 8, count))).astype(np.float32)
    x[rng.random(count) < 0.02] = rng.choice(np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-42, 3e38], np.float32))
    if kind == 1:
        return (x.view(np.uint32) >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):
        return x.astype(TYPES[kind])


def quantized(lib, arena, x, kind, shape, m, se, bias, rounding, marked, in_place=False, fresh=False, threads=1):
    """y and its clipped bits."""
    x = arena.array(x)
    y = x if in_place else arena.array(np.zeros_like(x))
    bits = arena.array(np.zeros(-(-x.size // 8), np.uint8))
    fmt = {"most": 2 ** (m - 1) - 1, "least": 1, "mantissa": 23, "bits": m - 1, "magnitude": -1}
    fmt |= {"uniform": 1, "rounding": rounding}
    fmt |= {"floor": -126 + m - 2, "to_unit": 2 - m, "top_code": 2**se - 1, "has_bias": bias is not None}
    if bias is not None:
        fmt |= {"lowest": bias, "highest": bias + 2**se - 1}
    lib.bitq_quantize(
        pointer(x),
        pointer(y),
        ffi.cast("uint8_t *", bits.ctypes.data if marked else 0),
        kind,
        *shape,
        ffi.new("bitq_format *", fmt),
        0x0123456789ABCDEF,
        fresh,
        threads,
    )
    return y, bits


def check_kernel(lib, rng):
    cases = [(shape, kind, rounding) for shape in SHAPES for kind in range(3) for rounding in range(4)]
    for turn, (shape, kind, rounding) in enumerate(cases):
        x = numbers(rng, prod(shape[:3]), kind)
        for bias, marked in ((None, False), (-3, turn % 2 == 0)):
            settings = (2 + turn % 22, 1 + turn % 8, bias, rounding, marked, turn % 3 == 0, turn % 3 == 1, 1 + turn % 3)
            both_ends(lambda arena, x=x, k=kind, s=shape, f=settings: quantized(lib, arena, x, k, s, *f))
    # Large enough for a guess of the bias, for threads, for streams past the caches and for large pages.
    for shape, kind, bias, fresh in (
        ((1, 140_001, 1, 16), 0, None, True),
        ((1, 135_000, 1, 1), 1, None, False),
        ((3, 7, 6251, 3), 2, None, False),
        ((1, 3_200_003, 1, 240), 0, -3, False),
        ((2, 5, 640_007, 4), 1, -3, False),
        ((1, 8_400_001, 1, 160), 0, -3, True),
    ):
        x = np.resize(numbers(rng, 50_021, kind), prod(shape[:3]))
        with Arena(at_end=True) as arena:
            quantized(lib, arena, x, kind, shape, 5, 3, bias, 0, False, fresh=fresh, threads=2)
    wide = 2.0**128 - 2.0**104
    casts = [(0, 3, -6, 448.0), (0, 7, -126, 3.3e38), (0, 23, -62, 1e9)]
    casts += [(1, 3, -6, 448.0), (1, 8, -126, wide), (2, 7, -126, wide)]
    for count, (turn, (kind, mantissa, *told)) in product((0, 1, 511, 513, 3_200_003), enumerate(casts)):
        x = np.resize(numbers(rng, 50_021, kind), count)

        def cast(arena, x=x, told=(kind, mantissa, *told, mantissa > 3, 2), in_place=turn % 2):
            source = arena.array(x)
            target = source if in_place else arena.array(np.zeros_like(x))
            lib.bitq_cast(pointer(source), pointer(target), x.size, *told)
            return [target]

        both_ends(cast)
    for count in (0, 1, 7, 63, 64, 65, 1000, 70_001):
        for kind in (np.uint32, np.uint16):
            x, bits = rng.integers(0, 2**16, count).astype(kind), rng.integers(0, 256, -(-count // 8)).astype(np.uint8)

            def passed(arena, x=x, bits=bits):
                source, target, mask = arena.array(x), arena.array(np.zeros_like(x)), arena.array(bits)
                lib.bitq_pass(pointer(source), pointer(target), pointer(mask), x.size, x.itemsize, 2)
                return [target]

            (found,) = both_ends(passed)
            assert np.array_equal(found, np.where(np.unpackbits(bits, count=count, bitorder="little"), 0, x))
    if lib.has_streams:
        for size in (0, 1, 15, 16, 63, 64, 65, 200):
            for shift in (0, 2, 63):
                data = rng.integers(0, 256, size + shift).astype(np.uint8)

                def streamed(arena, data=data, shift=shift):
                    source, target = arena.array(data), arena.array(np.zeros_like(data))
                    lib.bitq_try_stream(pointer(target[shift:]), pointer(source[shift:]), len(data) - shift)
                    return [target[shift:]]

                (found,) = both_ends(streamed)
                assert np.array_equal(found, data[shift:])


def layouts(rng, count):
    """Layouts (size, depth, length, block, run) of packing.c: the two of known crashes, then any."""
    yield 128, 1, 128, 1, 16
    yield 257, 1, 257, 1, 257
    yield 8, 1, 1, 1, 1
    for turn in range(count):
        length = int(rng.integers(1, (6, 40, 700)[turn % 3]))
        run = int(rng.integers(1, length + 1))
        if turn % 2:  # rows of whole blocks, the last one short
            length, run = length * run, run
            yield int(rng.integers(1, 3 * length)), 1, length, 1, run
        else:
            depth, outer = int(rng.integers(1, 6)), int(rng.integers(1, 4))
            yield outer * depth * length, depth, length, int(rng.integers(1, depth + 1)), run


def packed_elements(lib, rng, turn, bias):
    """An element of packing.c under a bias: sign and magnitude of all widths, in turn two's complement or a float."""
    width = (5, 23)[turn] if turn < 2 else 2 + turn % 23
    if turn % 4 != 3:
        kind = lib.TWOS_COMPLEMENT if turn % 4 == 1 and turn > 1 else lib.SIGN_MAGNITUDE
        told = {"offset": bias + 2 - width, "lowest": -126}
        return {"kind": kind, "bits": width, "limit": 2 ** (width - 1) - 1, **told}
    mantissa, least = int(rng.integers(1, 7)), int(rng.integers(-14, 1))
    limit = (2 - 2.0**-mantissa) * 2.0 ** (least + 2)
    told = {"mantissa_bits": mantissa, "least_exponent": least, "limit": limit, "offset": bias, "lowest": -100}
    return {"kind": lib.FLOAT, "bits": 1 + 2 + mantissa, **told}


def float_table(element):
    """The numbers that an element's codes stand for."""
    mantissa, codes = element["mantissa_bits"], np.arange(1 << element["bits"])
    size = codes % (1 << (element["bits"] - 1))
    exponents, rest = size >> mantissa, size % (1 << mantissa)
    whole = rest + (exponents > 0) * (1 << mantissa)
    values = whole * 2.0 ** (np.maximum(exponents, 1) - 1 + element["least_exponent"] - mantissa)
    return np.where(codes == size, values, -values).astype(np.float32)


def check_packing(lib, rng):
    for turn, at in enumerate(layouts(rng, 250)):
        size, depth, length, block, run = at
        exponent_bits = (3, 1)[turn] if turn < 2 else 1 + turn % 8
        bias = 2 - 2**exponent_bits
        element = packed_elements(lib, rng, turn, bias)
        bits = element["bits"]
        floats = turn % 3 == 0 and element["kind"] != lib.SIGN_MAGNITUDE
        whole, rest = divmod(-(-size // length), depth)
        count = whole * -(-depth // block) + -(-rest // block)
        blocks = count * -(-length // run) - -size % length // run
        x = np.nan_to_num(numbers(rng, size, 0), nan=1.0, posinf=2.0, neginf=-3.0)
        steps = np.exp2(rng.uniform(-20, 20, blocks)) if floats else None
        table = float_table(element) if element["kind"] == lib.FLOAT else np.zeros(1, np.float32)
        starts = [0]
        for band in range(1, count):  # any place where elements begin a byte
            outer, within = divmod(band, -(-depth // block))
            if (outer * depth + within * block) * length % 8 == 0 and rng.random() < 0.3:
                starts.append(band)
        parts = list(zip(starts, [*starts[1:], count], strict=True))
        told = ffi.new("bitq_bands *", at), ffi.new("bitq_elements *", element)

        settings = x, parts, bits, exponent_bits, blocks, bias, steps, table, told

        def packed(arena, settings=settings):
            x, parts, m, se, blocks, bias, steps, table, told = settings
            x, total = arena.array(x), m * x.size + se * blocks
            peaks, codes = arena.array(np.zeros(blocks, np.uint32)), arena.array(np.zeros(blocks, np.uint8))
            payload = arena.array(np.zeros(-(-total // 8), np.uint8))
            values, again = arena.array(np.zeros_like(x)), arena.array(np.zeros_like(codes))
            scales = codes if steps is None else arena.array(steps)
            source, top, stored, target, found, y, numbers = (
                ffi.cast(f"{kind} *", array.ctypes.data)
                for kind, array in (
                    *(("float", x), ("uint32_t", peaks), ("uint8_t", codes), ("uint8_t", payload)),
                    *(("uint8_t", again), ("float", values), ("float", arena.array(table))),
                )
            )
            each = ffi.NULL if steps is None else ffi.cast("double *", scales.ctypes.data)
            for first, last in parts:
                lib.bitq_peaks(source, top, first, last, told[0])
            if steps is None:
                lib.bitq_exponent_codes(top, stored, blocks, bias, 0, 2**se - 1, 0)
            else:
                lib.bitq_float_codes(top, stored, blocks, 3.0, max(se - 3, 1), -2, 0.125, 1.0)
                codes &= 2**se - 1
            powers = stored if steps is None else ffi.NULL
            for first, last in parts:
                lib.bitq_write_elements(source, powers, each, target, first, last, *told)
            lib.bitq_write_codes(stored, target, m * x.size, blocks, se)
            lib.bitq_read_codes(target, payload.size, m * x.size, found, blocks, se)
            powers = found if steps is None else ffi.NULL
            for first, last in parts:
                lib.bitq_read_values(target, payload.size, powers, each, numbers, y, first, last, *told)
            return [codes, again, values]

        codes, again, values = both_ends(packed)
        assert np.array_equal(codes, again)
        assert np.isfinite(values).all()
        if steps is None and bits <= 23 and element["kind"] != lib.FLOAT:
            check_against_kernel(lib, x, values, at, bits, exponent_bits, bias)


def check_against_kernel(lib, x, values, at, bits, exponent_bits, bias):
    """That integers under powers of two are what the kernel makes of x, where the layout is one of its own."""
    size, depth, length, block, run = at
    if (depth > 1 and run > 1) or (depth == 1 and size % length and length % run):
        return
    shape = (size // (depth * length), depth, length, block) if depth > 1 else (size // length, length, 1, run)
    if depth == 1 and size % length:
        shape = (1, size, 1, run)
    with Arena(at_end=True) as arena:
        y, _ = quantized(lib, arena, x, 0, shape, bits, exponent_bits, bias, 0, False)
        assert y.tobytes() == values.tobytes()


def check_overread(lib, rng):
    """Tells of a byte too few, or the test tells nothing."""
    with Arena(at_end=True) as arena:
        codes, payload = arena.array(np.zeros(9, np.uint8)), arena.array(rng.integers(0, 256, 8).astype(np.uint8))
        lib.bitq_read_codes(
            ffi.cast("uint8_t *", payload.ctypes.data), 9, 0, ffi.cast("uint8_t *", codes.ctypes.data), 9, 8
        )


def check_movement(engine, rng):
    """The engine as its Python uses it, with all that Python hands over next to forbidden pages."""
    from bitq.devices import Device, Memory
    from bitq.layers import Layer
    from bitq.movement import Widths, optimize, optimize_many, simulate
    from bitq.movement.levels import plan

    for turn in range(60):
        most = {"N": 3, "K": 5, "C": 4, "P": 6, "Q": 5, "R": 4, "S": 3}
        loops = {loop: int(rng.integers(1, limit)) for loop, limit in most.items()}
        pair = {
            name: tuple(map(int, rng.integers(low, high, 2)))
            for name, low, high in (
                ("stride", 1, 5),
                ("dilation", 1, 5),
                ("padding", 0, 9),
                ("input_dilation", 1, 4),
                ("input_size", 1, 30),
            )
        }
        layer = Layer("random", **loops, **pair)
        table = rng.choice([1.0, 4.02, 5.125, 9.125, 32.0], (int(rng.integers(1, 90)), 3))
        capacity = float(table.sum(1).max() * rng.integers(1, 40))
        bits = optimize_many(layer, table, capacity)
        width = Widths(*(float(w) for w in table[0][[0, 2, 1]]))
        best = optimize(layer, width, capacity)
        assert bits[0] == best.bits
        assert simulate(layer, best.tiling) == best.traffic
        if turn % 3 == 0:
            sizes = (capacity, 2 * capacity, inf)
            memories = [Memory(f"level {i}", bits, float(10**i), "") for i, bits in enumerate(sizes)]
            assert plan(layer, width, Device("random", "", "", tuple(memories), 0.0)).price > 0


def engine_of(library, sources):
    """A stand-in for the engine that bitq was built with."""
    declared = FFI()
    declared.cdef((sources / "movement" / "engine.h").read_text(encoding="utf-8"))
    held = {}

    def allocate(size):
        memory = Guarded(size, at_end=True)
        held[memory.pointer] = memory
        return memory.pointer

    class Interface:
        new = staticmethod(declared.new_allocator(allocate, lambda at: held.pop(at).free()))
        def_extern = staticmethod(lambda **options: lambda function: function)

        def __getattr__(self, name):
            return getattr(declared, name)

    class Library:
        own = declared.dlopen(library)
        bitq_ask = declared.callback("int(void)", lambda: 0)

        def __getattr__(self, name):
            return getattr(self.own, name)

    engine = ModuleType("bitq.movement._engine")
    engine.__file__, engine.ffi, engine.lib = library, Interface(), Library()
    return engine


def main():
    library, part, sources = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    rng = np.random.default_rng(5)
    if part == "movement":
        importlib.import_module("bitq.layers")
        engine = sys.modules["bitq.movement._engine"] = engine_of(library, sources)
        check_movement(engine, rng)
    else:
        ffi.cdef(header(sources, "kernel.h") + header(sources, "packing.h"))
        ffi.cdef("extern int has_streams; void bitq_try_stream(void *to, const void *from, int64_t bytes);")
        lib = ffi.dlopen(library)
        checks = {"numerics": (check_kernel, check_packing), "overread": (check_overread,)}
        for check in checks[part]:
            check(lib, rng)
    print("clean")


if __name__ == "__main__":
    main()
