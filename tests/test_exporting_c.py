"""Exported C gives the bits of its arithmetic in NumPy, and what the network gives but for the order of its sums."""

import re
import subprocess
from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import bitq as package
from bitq.errors import BitqError
from bitq.exporting import export
from bitq.exporting.c99.integers import rounded, scaled
from bitq.exporting.c99.kinds.convolving import Convolve
from bitq.exporting.c99.source import FILES, identifier
from bitq.exporting.c99.steps import MOST_SHIFT, multiplier
from bitq.formats import TensorFormats, parse_format
from exported_c import COMPILERS, STRICT, Branches, agree, calibrated, compiled, mixed


class Tokens(nn.Module):
    """Convolutions of signals, and linear layers of tokens."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 6, 3, padding="same"), nn.Conv1d(6, 6, 3, stride=2)
        self.mix = nn.Linear(5, 5)

    def forward(self, x):
        return self.mix(self.second(self.first(x).relu_()).relu())


def sequence():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout(), nn.Conv2d(6, 7, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 4),
    )  # fmt: skip


@compiled
@pytest.mark.parametrize(
    ("make", "formats"),
    [
        (Branches, mixed()),
        (Branches, mixed("16:e5:b3", "16:e5:b5")),
        (Branches, mixed("mxint8", "mxfp4")),
        (Branches, mixed("int8-tensor", "int8")),
        (Tokens, mixed("8:e2:b4", "8:e4:b16", "6:e3:b4")),
        (sequence, mixed("8:e2:b4", "s4:e3:v2")),
        (sequence, TensorFormats(*map(parse_format, ("uint8", "int4-tensor", "n4:e2:b4")))),
    ],
)
def test_the_c_gives_the_bits_of_numpy_and_numpy_the_network(make, formats, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(6, 3, 11) if make is Tokens else torch.randn(6, 2, 8, 8)
    model = calibrated(make(), formats, x)
    network = agree(tmp_path, model, x, same=0.9)
    wide = [step.source.wide for step in network.steps if isinstance(step.source, Convolve)]
    assert any(wide) == (formats.weight in map(parse_format, ("16:e5:b5", "mxfp4")))


@given(st.integers(-(1 << 61), 1 << 61), st.floats(2.0**-70, 0.2) | st.floats(-0.2, -(2.0**-70)))
def test_a_gain_is_multiplied_exactly_and_rounded_once(z, ratio):
    gain, shift = multiplier(ratio)
    assert abs(Fraction(gain, 1 << shift) / Fraction(ratio) - 1) <= Fraction(1, 1 << (30 if shift < MOST_SHIFT else 1))
    found = scaled(np.array([z]), np.int64(gain), shift)
    assert int(found[0]) == floor(Fraction(z * gain, 1 << shift) + Fraction(1, 2))


@given(st.integers(-(1 << 61), 1 << 61), st.integers(-40, 70), st.integers(1, 1 << 14))
def test_blocks_are_rounded_to_nearest_ties_to_even(z, shift, most):
    found = np.clip(rounded(np.array([z]), np.array([shift]), most), -most, most)
    assert int(found[0]) == max(-most, min(most, round(Fraction(z) / Fraction(2) ** shift)))


def test_what_there_is_no_code_for_is_told_before_anything_is_written(tmp_path):
    x = torch.randn(4, 2, 8, 8)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.LogSoftmax(1), nn.Flatten(), nn.Linear(144, 3))
    model = calibrated(net, mixed(), x)
    with pytest.raises(BitqError, match=r"^module '1' computes aten.log_softmax, which exported C cannot: there is no"):
        export(model, x, tmp_path / "net", to="c")
    model = calibrated(sequence(), mixed("int8", "nvfp4"), x)
    with pytest.raises(BitqError, match=r"^an activation of module '0' has the format i8:f32:channel, whose float sc"):
        export(model, x, tmp_path / "net", to="c")
    model = calibrated(sequence(), mixed("8:e3:b16", "nvfp4"), x)
    with pytest.raises(BitqError, match=r"^the weight of module '0' has the format .*, whose blocks have float scales"):
        export(model, x, tmp_path / "net", to="c")
    for formats, of in ((("6:e2*f32:b16", "int8"), "an activation"), (("8:e3:b16", "6:e2*f32:b16"), "the weight")):
        model = calibrated(sequence(), mixed(*formats), x)
        with pytest.raises(BitqError, match=rf"^{of} of module '0' has the format .*, whose blocks have exponents"):
            export(model, x, tmp_path / "net", to="c")
    package.apply(model, {"0": TensorFormats()})
    with pytest.raises(BitqError, match=r"^module '0' computes aten.conv2d, which exported C cannot: its weight"):
        export(model, x, tmp_path / "net", to="c")
    assert not list(tmp_path.iterdir())


@compiled
@pytest.mark.parametrize(
    "name",
    ['*/ evil(); /*"\n#error "', "??/\n*??/\n/ evil();", "\\\n*\\\n/ evil();", "\u202e*/é\0", "x" * 5000],
)
def test_names_are_data_not_code(name, tmp_path):
    x = torch.randn(4, 2, 8, 8)
    net = nn.Sequential(nn.Flatten())
    net.add_module(name, nn.Linear(128, 3))
    model = calibrated(net, mixed(), x)
    export(model, x, tmp_path / "1* evil", to="c")
    texts = {name: (tmp_path / "1* evil" / name).read_text() for name in FILES}
    assert "evil()" not in "".join(texts.values())
    assert "#error \"\n" not in texts["network.c"]
    assert max(len(line) for line in texts["network.c"].splitlines()) < 200
    words = [COMPILERS[0], *STRICT, "-trigraphs", "-Wcomment", "-fsyntax-only", tmp_path / "1* evil" / "network.c"]
    subprocess.run(words, check=True)
    assert identifier("1* evil") == "net_1__evil"
    assert "void net_1__evil_run(" in texts["network.h"]
    assert identifier("") == "net"


def test_files_of_others_stay(tmp_path):
    x = torch.randn(4, 2, 8, 8)
    model = calibrated(sequence(), mixed(), x)
    (tmp_path / "Makefile").write_text("all:\n")
    with pytest.raises(BitqError, match=r"Makefile was not written by bitq; give the name of another folder"):
        export(model, x, tmp_path, to="c")
    with pytest.raises(BitqError, match=r"is a file; give the name of a folder"):
        export(model, x, tmp_path / "Makefile", to="c")
    assert [each.name for each in tmp_path.iterdir()] == ["Makefile"]
    export(model, x, tmp_path / "net", to="c")
    before = (tmp_path / "net" / "network.c").read_text()
    export(model, x, tmp_path / "net", to="c")
    assert (tmp_path / "net" / "network.c").read_text() == before
    digest = re.search(r"_DIGEST (0x\w+)", (tmp_path / "net" / "network.h").read_text())[1]
    assert f"_DIGEST != {digest}" in before
