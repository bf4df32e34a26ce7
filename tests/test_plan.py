"""A plan is written whole, read back as it was, and anything else is refused in one sentence."""

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitq.errors import BitqError
from bitq.formats import BlockFormat, TensorFormats
from bitq.numerics import exponent_bias_for
from bitq.tradeoff.plan import MAX_FILE_BYTES, Plan, load_plan, write_atomically

FORMAT = {"bits": 8, "exponent_bits": 3, "block_size": 16, "exponent_bias": -4}
LEVEL = {
    "memory": "SRAM",
    "source": "external",
    "permutation": ["K", "P"],
    "tiles": {"N": 1, "K": 2, "C": 3, "P": 4, "Q": 5, "R": 1, "S": 1},
    "traffic_bits": {"input": 10.5, "weight": 20, "output_writes": 30, "output_reads": 5},
    "energy_pj": 1310.0,
    "lower_bound_bits": 50.0,
}
LAYER = {
    "name": "conv",
    "module": "conv",
    "loops": {"N": 1, "K": 4, "C": 3, "P": 8, "Q": 5, "R": 1, "S": 1},
    "groups": 1,
    "stride": [1, 1],
    "dilation": [1, 2],
    "padding": [0, 1],
    "input_size": [8, 5],
    "input_dilation": [1, 1],
    "transposed": False,
    "table": None,
    "depth": 1,
    "weight_is_parameter": True,
    "parameter": None,
    "computed_by": None,
    "input": FORMAT,
    "weight": {**FORMAT, "exponent_bits": 2},
    "output": None,
    "stored_at": [{"module": "norm", "function": "batch_norm", "number": 0}],
    "levels": [LEVEL, {**LEVEL, "memory": "registers", "source": "SRAM", "energy_pj": 10.0}],
    "ram_bytes": 96,
}
FLOAT_LAYER = {
    **LAYER,
    "name": "scores",
    "module": "attention",
    "weight_is_parameter": False,
    "input": None,
    "weight": None,
}
FLOAT_PART = {
    "reason": "multiplies two activations",
    "modules": ["attention"],
    "layers": ["scores"],
    "movement_bits": 131.0,
    "movement_share": 0.5,
    "energy_pj": 1320.0,
    "energy_share": 0.5,
    "stored_bytes": 0,
}
TOTALS = {
    "accuracy": 0.9,
    "accuracy_float": 0.91,
    "movement_bits": 262.0,
    "movement_bits_float": 900.0,
    "movement_bits_max": 400.0,
    "dram_bits": 131.0,
    "dram_bits_float": 500.0,
    "energy_pj": 2640.0,
    "energy_pj_float": 9000.0,
    "model_bytes": 100,
    "model_bytes_float": 400,
    "ram_bytes": 96,
    "ram_bytes_float": 384,
    "objective": 0.231,
}
PLAN = {
    "schema_version": 1,
    "network": "demo",
    "device": "stm32f103c8",
    "bits": 8,
    "alpha": 0.2,
    "metric": "agreement with float32",
    "layers": [LAYER, FLOAT_LAYER],
    "totals": TOTALS,
    "ram": {
        "bytes": 96,
        "lower_bound_bytes": 96,
        "activations": [
            {"name": "input", "bytes": 64, "first": 0, "last": 0, "offset": 0},
            {"name": "conv", "bytes": 32, "first": 0, "last": 1, "offset": 64},
        ],
    },
    "stays_float": [FLOAT_PART],
    "outcome": "0123456789abcdef",
    "weights": "ab" * 32,
}


def load(folder, document):
    path = folder / "plan.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return load_plan(path)


def test_a_plan_returns_as_it_was_written(tmp_path):
    plan = load(tmp_path, PLAN)
    plan.save(tmp_path / "runs" / "again.json")
    assert load_plan(tmp_path / "runs" / "again.json") == plan
    assert json.loads((tmp_path / "runs" / "again.json").read_text()) == PLAN


def test_a_plan_tells_formats_tilings_and_sums(tmp_path):
    plan = load(tmp_path, PLAN)
    first = TensorFormats(BlockFormat(8, 3, 16), BlockFormat(8, 2, 16), None)
    assert [layer.formats for layer in plan.layers] == [first, TensorFormats()]
    assert plan.formats() == {"conv": first}
    layer = plan.layers[0]
    assert layer.levels[0].tiling.permutation == ("K", "P")
    assert layer.levels[0].tiling.tiles == LEVEL["tiles"]
    assert layer.movement_bits == 2 * 65.5
    assert layer.energy_pj == 1320.0


@given(st.integers(-127, 127), st.sampled_from([2, 3, 6]))
def test_a_plan_tells_the_magnitudes_that_lead_to_its_biases(largest, exponent_bits):
    bias = largest - (2**exponent_bits - 1)
    entry = {**FORMAT, "exponent_bits": exponent_bits, "exponent_bias": bias}
    plan = Plan.model_validate(changed(changed(PLAN, ("layers", 0, "input"), entry), ("layers", 0, "output"), None))
    seen = plan.ranges()
    assert seen.keys() == {"conv"}
    assert seen["conv"].output is None
    low, high = seen["conv"].input
    assert low == -high
    assert exponent_bias_for(high, plan.layers[0].input.format) == bias


def changed(document, place, value):
    """A copy of a JSON document with another value at a place; no value removes it."""
    if not place:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    if len(place) == 1 and value is ...:
        del copy[place[0]]
    else:
        old = copy[place[0]] if not isinstance(copy, dict) else copy.get(place[0])
        copy[place[0]] = changed(old, place[1:], value)
    return copy


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("schema_version",), 2),
        (("network",), ...),
        (("network",), 3),
        (("colour",), "red"),
        (("alpha",), -1),
        (("layers",), {}),
        (("layers", 0, "groups"), 0),
        (("layers", 0, "groups"), 3),
        (("stays_float", 0, "energy_share"), 1.5),
        (("stays_float", 0, "reason"), ...),
        (("layers", 0, "loops", "K"), 0),
        (("layers", 0, "loops", "K"), 1.5),
        (("layers", 1, "levels"), ...),
        (("layers", 0, "input", "exponent_bits"), 7),
        (("layers", 0, "input", "bits"), 99),
        (("layers", 0, "input", "block_size"), 0),
        (("layers", 0, "input", "exponent_bias"), ...),
        (("layers", 0, "input", "exponent_bias"), 0.5),
        (("layers", 0, "levels", 1, "tiles", "K"), ...),
        (("layers", 0, "levels", 1, "tiles", "K"), 0),
        (("layers", 0, "levels", 1, "tiles", "X"), 1),
        (("layers", 0, "levels", 1, "permutation"), ["K", "K"]),
        (("layers", 0, "levels", 1, "permutation"), ["X"]),
        (("layers", 0, "levels", 1, "energy_pj"), -1),
        (("layers", 0, "levels", 1, "traffic_bits", "input"), -1),
        (("totals", "model_bytes"), -1),
        (("ram", "bytes"), -1),
        (("ram", "activations", 1, "last"), -1),
        (("totals", "objective"), "low"),
        (("totals", "accuracy"), ...),
    ],
)
def test_the_first_wrong_entry_is_named(tmp_path, place, value):
    with pytest.raises(BitqError, match=r"plan.json is not a plan: ") as caught:
        load(tmp_path, changed(PLAN, place, value))
    message = str(caught.value)
    assert "\n" not in message
    together = place[0] in ("layers", "stays_float")  # checks of several fields together name what they belong to
    assert ".".join(map(str, place[:-2] if together else place)) in message


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "nan", '{"schema_version": 1}', "\x00", json.dumps(PLAN)[:-9]]
)
def test_other_files_are_refused(tmp_path, text):
    with pytest.raises(BitqError, match="is not a plan"):
        load(tmp_path, text)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_amounts_are_numbers(tmp_path, number):
    text = json.dumps(changed(PLAN, ("totals", "energy_pj"), "NUMBER")).replace('"NUMBER"', number)
    with pytest.raises(BitqError, match=r"not a plan: (totals.energy_pj must be|it has -?(NaN|Infinity) where)"):
        load(tmp_path, text)


@given(st.binary(max_size=200))
def test_bytes_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_bytes(content)
    with pytest.raises(BitqError, match="is not a plan"):
        load_plan(path)


def test_a_missing_plan_and_a_huge_one_are_refused(tmp_path):
    with pytest.raises(BitqError, match="no plan at"):
        load_plan(tmp_path / "plan.json")
    with pytest.raises(BitqError, match="no plan at"):
        load_plan(tmp_path)
    with (tmp_path / "plan.json").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(BitqError, match=f"but a plan has at most {MAX_FILE_BYTES}"):
        load_plan(tmp_path / "plan.json")


def test_a_plan_does_not_change():
    plan = Plan.model_validate(PLAN)
    with pytest.raises(ValueError, match="frozen"):
        plan.network = "other"


def test_writing_replaces_a_file_or_leaves_it(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644

    def fail(*_):
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(BitqError, match="cannot be written: no such device"):
        write_atomically(path, b"newer")
    assert path.read_bytes() == b"new"
    assert list(Path(tmp_path).iterdir()) == [path]
