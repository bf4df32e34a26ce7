"""An embedding is a layer: its table has a format, and every index reads a row."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import bitq
import tiny
from bitq.accuracy.kinds import staying_float
from bitq.accuracy.quantized import apply, observing, weight_in_use
from bitq.devices import load_device
from bitq.errors import BitqError
from bitq.formats import BlockFormat, TensorFormats, parse_format
from bitq.layers import Layer
from bitq.movement import Widths, optimize, simulate
from bitq.movement.network import layer_movement
from bitq.movement.widths import weight_size, widths
from bitq.numerics import quantize
from bitq.progress import Silent
from bitq.tracing import trace
from bitq.tradeoff.weights import load_quantized, load_weights, save_weights

WORDS, SIZE, LENGTH = 12, 6, 5
INPUT, WEIGHT, OUTPUT = BlockFormat(8, 3, 4), BlockFormat(8, 2, 4), BlockFormat(8, 4, 8)
FORMATS = TensorFormats(INPUT, WEIGHT, OUTPUT)


class Words(nn.Module):
    """Tells the class of a sentence from its words and their places; all words are rows of one table."""

    def __init__(self, tied=False):
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, SIZE), nn.Embedding(LENGTH, SIZE)
        self.mix, self.head = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, WORDS, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x):
        x = self.words(x) + self.places(torch.arange(x.shape[1], device=x.device))
        return self.head(torch.relu(self.mix(x)).mean(1))


def sentences(count, seed):
    """The class of a sentence is the word that stands in it twice at its ends."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(WORDS, (count, LENGTH), generator=generator)
    x[:, -1] = x[:, 0]
    return DataLoader(TensorDataset(x, x[:, 0].clone()), 50)


def test_a_lookup_is_a_layer():
    layers = trace(Words(), torch.zeros(2, LENGTH, dtype=torch.long))
    assert layers[0] == Layer("words", K=2 * LENGTH * SIZE, groups=2 * LENGTH, table=(WORDS, SIZE), module="words")
    assert layers[1] == Layer("places", K=LENGTH * SIZE, groups=LENGTH, table=(LENGTH, SIZE), module="places")
    assert [layer.macs for layer in layers[:2]] == [0, 0]
    assert staying_float(Words(), layers) == ()


def test_every_index_moves_itself_its_row_and_its_output():
    layer = trace(Words(), torch.zeros(2, LENGTH, dtype=torch.long))[0]
    best = optimize(layer, Widths(input=32, weight=5, output=7), capacity_bits=4096)
    assert best.bits == 2 * LENGTH * (32 + SIZE * 5 + SIZE * 7)
    assert simulate(layer, best.tiling) == best.traffic


def test_rows_are_blocked_alone_and_indices_have_no_format():
    layer = trace(Words(), torch.zeros(2, LENGTH, dtype=torch.long))[0]
    found = widths(layer, FORMATS)
    assert found.input == 32
    assert found.weight == (6 * SIZE + 2 * 2) / SIZE  # a row of 6 has a block of 4 and one of 2
    assert found.output == (4 * SIZE + 4) / SIZE
    assert weight_size(layer, WEIGHT) == -(-WORDS * (6 * SIZE + 2 * 2) // 8)
    assert weight_size(layer, None) == 4 * WORDS * SIZE
    assert layer.extents == {"input": 1, "weight": SIZE, "output": SIZE}


@pytest.mark.parametrize("wrong", [(0, 2), 4, (3,), (2.5, 1)])
def test_a_table_has_rows_and_columns(wrong):
    with pytest.raises(BitqError, match=r"layer .words.: table is .*; it must be two whole numbers of at least 1"):
        Layer("words", K=8, groups=4, table=wrong)


@pytest.mark.parametrize("name", ["stm32h743", "eyeriss", "i7-10700f"])
def test_a_lookup_moves_through_all_memories(name):
    layer = trace(Words(), torch.zeros(2, LENGTH, dtype=torch.long))[0]
    moved = layer_movement(layer, FORMATS, load_device(name))
    sizes = widths(layer, FORMATS)
    assert all(level.bits == 2 * LENGTH * (32 + SIZE * (sizes.weight + sizes.output)) for level in moved.levels)


@pytest.mark.parametrize("padding", [None, 2])
def test_it_computes_as_its_twin_written_by_hand(padding):
    model = nn.Sequential(nn.Embedding(WORDS, SIZE, padding_idx=padding))
    x = torch.randint(WORDS, (3, LENGTH))
    own = copy.deepcopy(model)
    table = quantize(own[0].weight, WEIGHT, 1)
    expected = quantize(functional.embedding(x, table, padding), OUTPUT, -1)
    expected.sum().backward()
    apply(model, {"0": FORMATS})
    assert torch.equal(weight_in_use(model[0]), table)
    y = model(x)
    assert torch.equal(y, expected)
    y.sum().backward()
    assert torch.equal(model[0].weight.grad, own[0].weight.grad)


def test_what_a_whole_output_shares_comes_from_calibration():
    model, fmt, x = nn.Sequential(nn.Embedding(WORDS, SIZE)), parse_format("int8"), torch.randint(WORDS, (3, LENGTH))
    with observing(model, ["0"]) as seen:
        y = model(x)
    apply(model, {"0": TensorFormats(output=bitq.formats.format_for(fmt, "output"))}, seen)
    assert seen["0"].output == tuple(float(end) for end in y.detach().aminmax())
    assert not torch.equal(model(x), y)


def test_a_packed_table_returns_bit_by_bit(tmp_path):
    model, path = Words(), tmp_path / "weights.safetensors"
    save_weights(path, model, {"words": FORMATS})
    assert torch.equal(load_weights(path)["words.weight"], quantize(model.words.weight.detach(), WEIGHT, 1))


@pytest.mark.parametrize("tied", [False, True])
def test_a_search_among_sentences(tmp_path, tied):
    torch.manual_seed(0)
    model = Words(tied)
    found = bitq.search(
        model, sentences(600, 0), sentences(200, 1), device=tiny.DEVICE, run=tmp_path / "run", listener=Silent(),
        formats=tiny.FORMATS, settings=tiny.settings(rounds=1),
    )
    table = next(layer for layer in found.plan.layers if layer.name == "words")
    assert (table.input, table.table, table.layer.table) == (None, (WORDS, SIZE), (WORDS, SIZE))
    assert table.weight is not None
    assert found.plan.stays_float == ()
    if tied:
        (head,) = (layer for layer in found.plan.layers if layer.name == "head")
        assert head.weight.format == table.weight.format
    own, x = Words(tied), next(iter(sentences(50, 2)))[0]
    load_quantized(own, tmp_path / "run")
    assert torch.equal(own(x), found.model(x))
