"""What tests of exported C share: networks in formats, and the C beside its twin in NumPy and the network."""

import shutil

import numpy as np
import pytest
import torch

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
