"""What tests of exported C share: networks in formats, and the C beside its twin in NumPy and the network."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import bitq as package
from bitq.accuracy.quantized import observing
from bitq.exporting.c99.compiled import outputs
from bitq.exporting.c99.folder import replace_files
from bitq.exporting.c99.integers import run
from bitq.exporting.c99.lowering import lowered
from bitq.exporting.c99.source import written
from bitq.formats import TensorFormats, parse_format
from bitq.tracing import record
from bitq.tradeoff.stored import points_of

STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror")
OPTIONS = {"gcc": ("-fsanitize=undefined,address", "-fno-sanitize-recover"), "clang": ("-O1",)}
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
compiled = pytest.mark.skipif(not COMPILERS, reason="needs a C compiler: gcc or clang")


def mixed(activation="8:e3:b16", weight="8:e2:b4", output=None):
    return TensorFormats(*map(parse_format, (activation, weight, output or activation)))


def calibrated(model, formats, x):
    """Gives every layer of a network formats, its own or one for all, with ranges of what it meets on an input."""
    model.eval()
    traced = record(model, x[:1])
    names = [layer.name for layer in traced.layers]
    points = points_of(traced, "after-activation", names)
    with observing(model, names, points=points) as ranges, torch.inference_mode():
        model(x)
    chosen = formats if isinstance(formats, dict) else dict.fromkeys(names, formats)
    package.apply(model, chosen, ranges, points=points)
    return model


def agree(folder, model, x, same=0.99):
    """Holds the C against NumPy bit for bit, with every compiler there is, and both against the network."""
    network = lowered(model, x[:1])
    found = run(network, x.numpy())
    with torch.inference_mode():
        expected = model(x).numpy()
    assert found.shape == expected.shape
    assert (found == expected).mean() >= same
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.05 * np.abs(expected).max())
    replace_files(folder, written(network, "net").files)
    for compiler in COMPILERS:
        made = outputs(folder, network, x.numpy(), compiler, (*STRICT, *OPTIONS[compiler]))
        np.testing.assert_array_equal(made, found)
    return network


class Branches(nn.Module):
    """Everything that a step may do: groups, strides, dilation, transposition, sums, pools, parts side by side."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, stride=2, padding=2, dilation=2, groups=2, bias=False)
        self.up = nn.ConvTranspose2d(12, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.joined = nn.Conv2d(14, 8, 1)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.norm(self.stem(x))), 3, 1, 1)
        y = functional.leaky_relu(self.up(functional.relu6(self.grouped(x))), 0.3)
        x = functional.hardtanh(x - 0.5 + self.depthwise(x), -1, 2)
        x = functional.avg_pool2d(self.joined(torch.cat([x, y], 1)) * 0.75, 3, 3)
        return self.head(x.flatten(1))


class Gates(nn.Module):
    """What newer networks of phones are made of."""

    def __init__(self):
        super().__init__()
        self.stem, self.deep = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.point, self.last, self.head = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 5, 1), nn.Linear(5, 7)

    def forward(self, x):
        x = functional.silu(self.stem(x))
        gate = functional.gelu(self.down(functional.adaptive_avg_pool2d(x, 1)))
        x = functional.hardswish(self.deep(x * torch.sigmoid(self.up(gate))))
        y = functional.hardsigmoid(self.point(x))
        x = torch.tanh(self.last(2 * y * functional.softplus(y)))
        return functional.softmax(self.head(x.mean((2, 3))), 1)
