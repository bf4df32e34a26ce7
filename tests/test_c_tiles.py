"""Exported C in tiles gives the same bits, and moves to the bit what the movement model says."""

import random
from shutil import which

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import bitq as package
import truth
from bitq.errors import BitqError
from bitq.exporting.c99.compiled import outputs
from bitq.exporting.c99.folder import replace_files
from bitq.exporting.c99.integers import run
from bitq.exporting.c99.kinds.in_tiles import Tiled, fits, in_tiles, layer_of, tiled
from bitq.exporting.c99.lowering import lowered
from bitq.exporting.c99.source import written
from bitq.layers import LOOPS
from bitq.movement import Tiling, simulate
from exported_c import COMPILERS, OPTIONS, STRICT, calibrated, compiled, mixed


class Layers(nn.Module):
    """Groups, strides that leave rows out, dilation, padding; the output of the last has no format of blocks."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 16, 3, stride=2, padding=2, dilation=2, groups=2, bias=False)
        self.point, self.far = nn.Conv2d(16, 16, 1, stride=2), nn.Conv2d(16, 8, 2, stride=3, padding=1)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = functional.relu(self.norm(self.stem(x)))
        return self.head(self.far(self.point(functional.relu6(self.grouped(x)))).relu().flatten(1))


def some_tiles(network, seed):
    """Tiles and orders at random, of each step that has any."""
    drawn, found = random.Random(seed), {}
    for number, step in enumerate(network.steps):
        if (layer := layer_of(step)) is None:
            continue
        for _ in range(100):
            sizes = {loop: drawn.choice([1, 2, 3, 4, *[layer.extent(loop)] * 3]) for loop in LOOPS}
            sizes = {loop: min(size, layer.extent(loop)) for loop, size in sizes.items()}
            tiling = Tiling(tuple(drawn.sample(LOOPS, len(LOOPS))), sizes)
            if fits(step, tiling):
                found[number] = tiling
                break
    return found


def network_of(formats, seed=0):
    torch.manual_seed(seed)
    x = torch.randn(2, 2, 11, 11)
    return lowered(calibrated(Layers(), formats, x), x[:1]), x


@compiled
@pytest.mark.parametrize(
    ("formats", "seed", "layers"),
    [
        (mixed("8:e3:b4", "8:e2:b4"), 0, 5),
        (mixed("int8-tensor", "int8"), 1, 5),
        (mixed("n4:e2:b4", "s4:e3:v2", "n3:e2:b8"), 2, 5),
        (mixed("mxint8", "mxfp4"), 3, 4),  # the groups of one have a part of a block
    ],
)
def test_tiles_give_the_same_bits(formats, seed, layers, tmp_path):
    network, x = network_of(formats)
    tilings = some_tiles(network, seed)
    assert len(tilings) == layers
    replace_files(tmp_path, written(tiled(network, tilings), "net").files)
    found = outputs(tmp_path, network, x.numpy(), COMPILERS[0], (*STRICT, *OPTIONS[COMPILERS[0]]))
    np.testing.assert_array_equal(found, run(network, x.numpy()))


@pytest.mark.skipif(any(which(tool) is None for tool in truth.TOOLS), reason="needs gcc, nm and valgrind")
@pytest.mark.parametrize("seed", [2])
def test_what_is_loaded_and_stored_is_what_the_model_says(seed):
    """Elements of whole bytes, so that nothing but the walk counts; sums that are spilled have 32 bits."""
    network, x = network_of(mixed("int8-tensor", "int8-tensor"))
    tilings = some_tiles(network, seed)
    counted = truth.count(tiled(network, tilings), x[:1])
    spilled = 0
    for number, tiling in tilings.items():
        moved, found = simulate(layer_of(network.steps[number]), tiling), counted[number]
        output = 32 if network.steps[number].numbers.wide else 8
        expected = 8 * moved.input_reads, 8 * moved.weight_reads, output * moved.outputs, 64 * moved.output_reads
        assert (found.input, found.weight, found.output, found.sums) == expected
        spilled += moved.output_reads
    assert len(tilings) == 5
    assert spilled


@pytest.mark.parametrize("kilobytes", [1, 4, 64])
def test_tiles_lie_in_the_memory(kilobytes):
    network, _ = network_of(mixed("8:e3:b4", "8:e2:b4"))
    network = in_tiles(network, 8 * 1024 * kilobytes)
    assert all(isinstance(step.source, Tiled) for step in network.steps if layer_of(step))
    found = written(network, "net")
    assert found.ram_bytes - found.activation_bytes <= 1024 * kilobytes


def test_layers_without_tiles_are_told(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 8, 8)
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(288, 3))
    model = calibrated(net, mixed("8:e3:b4", "8:e2:b4"), x)
    handed = package.export(model, x[:1], tmp_path / "net", to="c", runtime="stm32f103c8")
    assert "SRAM of stm32f103c8, for which layers have tiles, but 1 (0): transposed, or with" in handed.notes[0]
    assert handed.ran(model, x[:1]).startswith("Compiled here, it gives")
    with pytest.raises(BitqError, match=r"'pdp11' runs no c of its own; --target may be .*eyeriss .--to c."):
        package.export(model, x[:1], tmp_path / "net", to="c", runtime="pdp11")
