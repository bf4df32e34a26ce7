"""Kinds of steps of exported C beyond layers: curves, gates, softmax, argmax; packed memory; other processors."""

import shutil
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from torch import nn
from torch.nn import functional

from bitq.errors import BitqError
from bitq.exporting import export
from bitq.exporting.c99.fixed_point import wide
from bitq.exporting.c99.integers import drawn, floats, run
from bitq.exporting.c99.kinds.bending import CURVES, pieces_named
from bitq.exporting.c99.kinds.normalizing import halving, shares
from bitq.exporting.c99.lowering import lowered
from bitq.exporting.c99.numbers import Numbers
from bitq.exporting.c99.pieces import ERROR, PLACE_BITS
from bitq.exporting.c99.pieces_of_c import needed
from bitq.exporting.c99.source import written
from bitq.exporting.c99.static_memory import placed_in_memory
from bitq.exporting.c99.steps import Resident
from bitq.movement.widths import widths
from bitq.numerics import bitstream
from bitq.tracing import record
from bitq.tradeoff.activations import buffers, placed
from compiled import main as benchmark
from exported_c import COMPILERS, STRICT, Gates, agree, calibrated, compiled, mixed


class Curves(nn.Module):
    """Every curve behind a layer of its own."""

    def __init__(self):
        super().__init__()
        self.curves = [nn.Mish(), nn.ELU(), nn.SELU(), nn.GELU("tanh"), nn.SiLU(), nn.Softplus(), nn.Hardswish()]
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in self.curves)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        for layer, curve in zip(self.layers, self.curves, strict=True):
            x = curve(3 * layer(x))
        return self.head(x)


class Cuts(nn.Module):
    """Parts of tensors, apart and padded: shortcuts that subsample, and halves that go their own ways."""

    def __init__(self):
        super().__init__()
        self.stem, self.down = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 12, 3, 2, 1)
        self.left, self.right, self.head = nn.Conv2d(4, 3, 1), nn.Conv2d(5, 3, 1), nn.Linear(6, 4)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        x = functional.relu(functional.pad(x[:, :, ::2, 1::2], (0, 0, 0, 0, 2, 2)) + self.down(x))
        first, second, _ = x.split([4, 5, 3], 1)
        left, right = self.left(first)[:, :, -3:, :2], self.right(functional.pad(second, (1, 0, 0, -1)))[:, :, 1:, :2]
        return self.head(torch.cat([left + functional.pad(right, (0, 0, 1, 0)), left], 1).mean((2, 3)))


class Labels(nn.Module):
    """The class of every pixel."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 5, 1)

    def forward(self, x):
        return self.head(functional.max_pool2d(self.body(x).relu(), 2)).argmax(1)


@compiled
@pytest.mark.parametrize("formats", [mixed(), mixed("16:e5:b3", "16:e5:b5"), mixed("int8-tensor", "int8")])
def test_gates_and_curves_give_the_bits_of_numpy_and_the_numbers_of_the_network(formats, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(5, 2, 8, 8)
    model = calibrated(Gates(), formats, x)
    x[3:] *= 1000
    x[4, 0] = 0
    network = agree(tmp_path, model, x, same=0)
    np.testing.assert_allclose(run(network, x.numpy()), model(x).detach(), rtol=0, atol=1e-3)


@compiled
def test_every_curve_gives_the_bits_of_numpy_and_the_numbers_of_the_network(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(5, 4, 3, 3)
    model = calibrated(Curves(), mixed("mxint8", "mxint8"), x)
    agree(tmp_path, model, x, same=0.9)
    assert {type(each).__name__.lower() for each in model.curves} - {"gelu"} < set(CURVES)


@compiled
@pytest.mark.parametrize("formats", [mixed(), mixed("int8-tensor", "int8"), mixed("8:e2:b4", "8:e2:b4")])
def test_parts_of_tensors_give_the_bits_of_numpy_and_the_numbers_of_the_network(formats, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(5, 2, 8, 8)
    agree(tmp_path, calibrated(Cuts(), formats, x), x, same=0.9)


@compiled
def test_the_first_of_the_largest_is_picked(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(6, 2, 8, 8)
    model = calibrated(Labels(), mixed(), x)
    with torch.no_grad():
        model.head.weight[3] = model.head.weight[1]
        model.head.bias[3] = model.head.bias[1] = 2
    network = agree(tmp_path, model, x, same=0.97)
    found = run(network, x.numpy())
    assert (found == 1).any()
    assert not (found == 3).any()


@pytest.mark.parametrize("name", CURVES)
def test_a_curve_is_right_wherever_it_is_asked(name):
    curve, pieces = CURVES[name], pieces_named(name)
    span = curve.high - curve.low
    x = np.concatenate([np.linspace(curve.low - span, curve.high + span, 100_001), [-1e9, 1e9]])
    places = np.floor(np.ldexp(x, PLACE_BITS - pieces.width)).astype(np.int64)
    found = np.ldexp(pieces.at(places - pieces.begin).astype(np.float64), pieces.unit)
    step = 2.0 ** (pieces.width - PLACE_BITS)
    assert np.abs(found - curve.rest(x)).max() <= ERROR * max(1, np.abs(found).max()) + 2 * step
    assert pieces.table.size * 4 < 5200, "bytes of flash"


def test_halving_is_right_between_0_and_1():
    pieces = halving()
    x = np.linspace(0, 1 - 2.0**-24, 10_001)
    places = np.floor(np.ldexp(x, PLACE_BITS - pieces.width)).astype(np.int64)
    found = np.ldexp(pieces.at(places).astype(np.float64), pieces.unit)
    assert np.abs(found - np.exp2(-x)).max() <= ERROR


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.sampled_from([-14, -4, 2]))
def test_shares_are_right(seed, channels, lowest):
    draw = np.random.default_rng(seed)
    numbers = Numbers(-127, 127, lowest, 5, 16)
    stored = Resident("t", 1, 2, channels, numbers, numbers.bound())
    k = draw.integers(-127, 128, (1, 2, channels))
    codes = draw.integers(0, 6, (1, 2, stored.blocks))
    found = drawn(shares(stored).source, {"t": (k, codes)}, stored) / 2.0**30
    expected = softmax(floats(k, codes, stored).astype(np.float64), 2)
    assert np.abs(found - expected).max() <= 2.0**-19


@given(st.integers(-(1 << 61), 1 << 61))
def test_numbers_without_a_format_keep_25_bits(z):
    found = int(wide(np.array([z]))[0])
    assert abs(Fraction(found) - z) <= abs(Fraction(z)) / (1 << 25)
    assert found == z or abs(z) >= 1 << 25


@compiled
@pytest.mark.parametrize("compiler", COMPILERS)
def test_streams_hold_what_is_put_into_them_and_nothing_else(compiler, tmp_path):
    draw = np.random.default_rng(0)
    edges = [(1 << 25) - 1, (1 << 26) - 1, (1 << 50) - 1, (1 << 61), 1, 0]
    values = np.array([*edges, *(-each for each in edges), *(draw.integers(-(1 << 60), 1 << 60, 50) >> 7)], np.int64)
    calls, expected = [], []
    for bits in range(1, 17):
        low = int(draw.integers(-(1 << (bits - 1)), 1))
        k = draw.integers(low, low + (1 << bits), 21)
        stream = bitstream.write([[bitstream.Fields(k & ((1 << bits) - 1), bits)]])
        expected.append(bytes(stream))
        expected.append(k.astype("<i2").tobytes())
        numbers = ", ".join(map(str, k))
        calls.append(f"""{{
            static const int32_t k[21] = {{{numbers}}};
            uint8_t stream[{len(stream)}];
            int16_t got[21];
            int32_t i;
            memset(stream, 0xff, sizeof stream);
            stream[sizeof stream - 1] = 0;
            for (i = 20; i >= 0; i--) bitq_put(stream, (uint32_t)i * {bits}, {bits}, (uint32_t)k[i]);
            fwrite(stream, 1, sizeof stream, stdout);
            bitq_unpack_int16(stream, {bits}, 20, {bits}, {low}, got + 1);
            got[0] = (int16_t)bitq_get(stream, 0, {bits}, {low});
            fwrite(got, sizeof got, 1, stdout);
        }}""")
    for value in values.tolist():
        calls += [f"bitq_put_wide(held, INT64_C({value}));", "z = bitq_get_wide(held);", "fwrite(&z, 8, 1, stdout);"]
    expected.append(wide(values).astype("<i8").tobytes())
    body = "\n".join(calls)
    (tmp_path / "own.c").write_text(
        "#include <stdint.h>\n#include <stdio.h>\n#include <string.h>\n#define BITQ_APART\n"
        f"{needed(body)}int main(void)\n{{\nuint8_t held[4]; int64_t z;\n{body}\nreturn 0;\n}}\n"
    )
    words = [compiler, *STRICT, "-fsanitize=address,undefined", str(tmp_path / "own.c"), "-o", str(tmp_path / "own")]
    subprocess.run(words, check=True)
    told = subprocess.run([tmp_path / "own"], check=True, capture_output=True)
    assert told.stdout == b"".join(expected)


class Residual(nn.Module):
    """Convolutions around a sum, as a ResNet has them."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.first, self.second = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1)
        self.down, self.skip, self.head = nn.Conv2d(12, 20, 3, 2, 1), nn.Conv2d(12, 20, 1, 2), nn.Linear(20, 7)

    def forward(self, x):
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(x + self.second(functional.relu(self.first(x))))
        x = functional.relu(self.down(x) + self.skip(x))
        return self.head(x.mean((2, 3)))


PLANNED = {
    "stem": mixed("8:e3:b16", output="6:e2:b8"),
    "first": mixed("6:e2:b8", output="7:e2:b32"),
    "second": mixed("7:e2:b32", output="5:e1:b7"),
    "down": mixed("5:e1:b7", output="n3:e2:b8"),
    "skip": mixed("5:e1:b7", output="9:e4:b3"),
    "head": mixed("mxint8", output="4:e2:b5"),
}
"""What is stored is read in the format that it is stored in, as in every plan."""


@pytest.mark.parametrize("formats", [mixed(), mixed("7:e2:b32", "int8"), mixed("n3:e2:b8"), PLANNED])
def test_tensors_take_the_memory_that_the_plan_counts(formats):
    torch.manual_seed(0)
    x = torch.rand(4, 2, 9, 9)
    model = Residual()
    traced = record(model.eval(), x[:1])

    def bits(layer, tensor):
        return getattr(widths(layer, formats[layer.name] if isinstance(formats, dict) else formats), tensor)

    counted = placed(buffers(traced.activations, bits)).peak
    network = lowered(calibrated(model, formats, x), x[:1])
    assert placed_in_memory(network).size == counted
    assert f"static uint8_t arena[{counted}];" in written(network, "net").files["network.c"]


def test_the_largest_of_windows_are_stored_as_few_bits_where_several_read_them():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.body = nn.Conv2d(2, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            x = functional.max_pool2d(self.stem(x).relu(), 2)
            return self.head(functional.relu(x + self.body(x)).mean((2, 3)))

    x = torch.randn(4, 2, 8, 8)
    for formats, bits in ((mixed("int8-tensor", "int8"), 8), (mixed(), 12)):
        network = lowered(calibrated(Pooled(), formats, x), x[:1])
        pooled = next(each.target for each in network.steps if each.source.chosen_from)
        assert (pooled.height, pooled.stored.bits) == (3, bits)


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_a_benchmark_holds_the_c_against_the_emulation(monkeypatch, capsys):
    words = ["compiled.py", "--subjects", "demo", "--formats", "8:e3:b16", "--images", "4"]
    monkeypatch.setattr(sys, "argv", words)
    assert benchmark() == 0
    cells = capsys.readouterr().out.splitlines()[-1].split(" | ")
    assert cells[:2] == ["| demo", "8:e3:b16"]
    assert cells[2] == cells[4] == "4"
    assert cells[7] == cells[8].removesuffix(" |")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: functional.softmax(x, 2), "its channels lie along another axis"),
        (lambda x: functional.softplus(x, 2.0), "it has other constants than softplus has by default"),
        (lambda x: x / functional.relu(x), "both may not depend on the input"),
        (lambda x: functional.pad(x, (1, 1), value=2.0), "it pads with something else than zeros"),
        (lambda x: functional.pad(x, (1, 1, 1, 1), mode="circular"), "it pads with something else than zeros"),
        (lambda x: x.argmax(), "it reads what has no format, or all axes at once"),
        (lambda x: x * x.mean(1, keepdim=True), "it takes the mean of other axes than all but the channels"),
    ],
)
def test_forms_that_there_is_no_code_for_are_refused(function, reason, tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(2, 4, 3)

        def forward(self, x):
            return function(self.layer(x))

    x = torch.randn(4, 2, 8, 8)
    with pytest.raises(BitqError, match=f"^the network computes aten.*, which exported C cannot: {reason}"):
        export(calibrated(Own(), mixed(), x), x, tmp_path / "net", to="c")
    assert not list(tmp_path.iterdir())
