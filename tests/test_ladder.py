"""The ladder of uniform formats: which are named, and what each reaches and costs."""

import pytest
import torch
from torch import nn

import bitq
import bitq.ladder as ladder_module
import tiny
from bitq.accuracy.evaluate import score
from bitq.errors import BitqError
from bitq.formats import BLOCK_SIZES, BlockFormat, TensorFormats
from bitq.ladder import formats_of
from bitq.progress import Silent
from bitq.tracing import record
from bitq.tradeoff.space import space_of


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("float32", ["None"]),
        ("8:e3:b16, float32,8:e3:b16", ["8:e3:b16", "None"]),
        ("8:e2..e4:b16", ["8:e2:b16", "8:e3:b16", "8:e4:b16"]),
        ("8:e2..3:b16", ["8:e2:b16", "8:e3:b16"]),
        ("8:e4:b8..b32", ["8:e4:b8", "8:e4:b16", "8:e4:b24", "8:e4:b32"]),
        ("8:e4:b3..5", ["8:e4:b3", "8:e4:b4", "8:e4:b5"]),
        ("8:e4:b7..b7", ["8:e4:b7"]),
        ("MXINT8,FLOAT32", ["s8:e8m0:v32", "None"]),
        ("int3..int5,int4", ["int3", "int4", "int5"]),
        ("6..8:e3:b16", ["6:e3:b16", "7:e3:b16", "8:e3:b16"]),
        ("s4..s5:e8m0:v16..v32", [f"s{m}:e8m0:v{n}" for m in (4, 5) for n in (16, 24, 32)]),
        ("msfp11..msfp12, float16", ["s3:e8m0:v16", "s4:e8m0:v16", "f16"]),
        ("n4:e3:b1..2", ["n4:e3:b1", "n4:e3:b2"]),
    ],
)
def test_formats_are_named_one_by_one_and_in_ranges(text, names):
    assert list(map(str, formats_of(text))) == names


def test_the_whole_grid_in_one_range():
    assert formats_of(f"8:e2..e6:b{BLOCK_SIZES[0]}..b{BLOCK_SIZES[-1]}") == bitq.grid(8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no format is named; name some, such as float32"),
        (" , ", "no format is named"),
        ("int1", "int1 is no format; integers have 2..16 bits"),
        ("int8..int17", "int17 is no format"),
        ("mxint9", "'mxint9' is unknown; did you mean mxint8.*float32, int8 and a range such as"),
        ("f1..999999999:e3:b16", "more than 1000 formats"),
        ("1..40:e1..e40:b16", "more than 1000 formats"),
        ("8:e4..e2:b16", "ends below its begin"),
        ("8:e4:b16..b8", "ends below its begin"),
        ("8:e2..e8:b16", "a mantissa of 1 bits is left"),
        ("8:e0..e2:b16", "a shared exponent has 1..8 bits"),
        (",".join(f"8:e4:b{size}" for size in range(1, 1003)), "more than 1000 formats"),
    ],
)
def test_what_names_no_format_is_told(text, message):
    with pytest.raises(BitqError, match=message):
        formats_of(text)


@pytest.fixture(scope="module")
def ladder():
    model, (_, validation, _) = tiny.trained(), tiny.loaders()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = bitq.evaluate(model, validation, "8:e3:b8,float32,8:e4:b4", device=tiny.DEVICE, listener=Silent())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    return model, validation, found


def test_each_rung_costs_what_the_plan_of_that_format_costs(ladder):
    model, _, rows = ladder
    traced = record(model, torch.empty(1, 1, 8, 8))
    space = space_of(model, traced.layers, tiny.DEVICE, 8).with_activations(traced.activations)
    assert [row.name for row in rows] == ["8:e3:b8", "float32", "8:e4:b4"]
    assert rows[1].figures() == space.float_cost.figures()
    for row in (rows[0], rows[2]):
        uniform = space.uniform(space.formats.index(BlockFormat.parse(row.name)))
        assert row.figures() == pytest.approx(space.cost(uniform).figures())


def test_each_rung_reaches_what_the_network_in_that_format_does(ladder):
    model, validation, rows = ladder
    assert rows[1].accuracy == score(model, validation).accuracy
    for row in (rows[0], rows[2]):
        fmt = BlockFormat.parse(row.name)
        own = tiny.trained()
        own.load_state_dict(model.state_dict())
        bitq.apply(own, {name: TensorFormats(fmt, fmt, fmt) for name in ("0", "3", "8")})
        assert row.accuracy == pytest.approx(score(own, validation).accuracy, abs=0.02)  # there each has its own bias


@pytest.mark.parametrize("formats", ["float32", "8:e3:b8"])
def test_a_network_that_guesses_is_told_whatever_is_measured(formats):
    model, (_, validation, _) = tiny.trained(), tiny.loaders()
    for asked in (False, True):
        heard = tiny.Listening()
        bitq.evaluate(model, validation, formats, device=tiny.DEVICE, listener=heard)
        assert any(note.endswith("is this the trained checkpoint?") for note in heard.notes) == asked
        nn.init.zeros_(model[-1].weight)  # all answers are one


def test_networks_that_work_hard_are_calibrated_on_fewer_inputs(monkeypatch):
    assert [ladder_module.enough(macs) for macs in (0, 300e6, 4.37e9, 1e12)] == [512, 500, 34, 32]
    seen = []

    class Counted(list):
        def __iter__(self):
            for batch in super().__iter__():
                seen.append(len(batch[0]))
                yield batch

    model, (train, validation, _) = tiny.trained(), tiny.loaders()
    macs = sum(layer.macs for layer in record(model, torch.empty(1, 1, 8, 8)).layers)
    monkeypatch.setattr(ladder_module, "CALIBRATING_MACS", 40 * macs)
    batches = [batch for images, labels in train for batch in zip(images.split(10), labels.split(10), strict=True)]
    bitq.evaluate(
        model, validation, "8:e3:b8", calibration=Counted(batches), device=tiny.DEVICE, listener=Silent()
    )
    assert sum(seen) == 10 + 40  # ten tell what a batch is


def test_data_without_a_batch_is_told():
    with pytest.raises(BitqError, match="the data has no batch"):
        bitq.evaluate(tiny.trained(), [], device=tiny.DEVICE, listener=Silent())
