"""What fine-tuning learned is what a run keeps: in its store, in plan.json and in the packed weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

import bitq
import tiny
from bitq.accuracy.evaluate import score
from bitq.accuracy.quantized import calibration
from bitq.accuracy.ranges import METHODS
from bitq.cli import main
from bitq.errors import BitqError
from bitq.files import RunFolder
from bitq.formats import Ranges
from bitq.progress import Silent
from bitq.tradeoff.measure import ranges_in
from bitq.tradeoff.settings import Settings
from bitq.tradeoff.weights import load_quantized

FORMATS = "i4:f32:tensor,i5:f32:tensor"


def searched(folder, **changes):
    train, validation, test = tiny.loaders()
    settings = replace(tiny.settings(rounds=1, plans=1, uniforms=1, screened_inputs=250), **changes)
    return bitq.search(
        tiny.trained(), train, validation, test,
        device=tiny.DEVICE, run=folder, formats=FORMATS, settings=settings, listener=Silent(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return searched(tmp_path_factory.mktemp("run"))


def as_planned(model):
    """The ranges of a network's activations, in which a reader of a stored tensor has its writer's."""
    found = calibration(model)
    return found | {"3": found["3"]._replace(input=found["0"].output)}


def test_the_loaded_network_is_the_fine_tuned_one_to_the_bit(result):
    x, _ = tiny.images(200, 9)
    again = tiny.network()
    load_quantized(again, result.folder)
    with torch.no_grad():
        assert torch.equal(again(x), result.model(x))
    assert score(again, tiny.loaders()[2]).accuracy == result.plan.totals.accuracy
    assert calibration(again) == as_planned(result.model)


def test_learned_ranges_stand_in_the_plan(result):
    ranges = as_planned(result.model)
    assert ranges == result.plan.ranges()
    told = json.loads(RunFolder(result.folder).plan.read_text())["layers"]
    assert {each["module"]: tuple(each["input"]["tensor_range"]) for each in told} == {
        name: own.input for name, own in ranges.items()
    }
    settings = tiny.settings()
    unlearned = searched(result.folder.parent / "unlearned", training=replace(settings.training, range_rate=0.0))
    assert as_planned(unlearned.model) != ranges


def test_a_run_that_is_gone_on_with_gives_the_same_network(result):
    again = searched(result.folder)
    x, _ = tiny.images(50, 9)
    with torch.no_grad():
        assert torch.equal(again.model(x), result.model(x))


def test_evaluate_gives_the_accuracy_of_the_network(result, tmp_path, capsys, monkeypatch):
    images, labels = tiny.images(500, 3)
    np.savez(tmp_path / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    (tmp_path / "kept_network.py").write_text("from tiny import network\n")
    monkeypatch.chdir(tmp_path)
    data = str(tmp_path / "data.npz")
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(result.folder), "--network", "kept_network:network", "--data", data, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert not ended.value.code
    assert told["accuracy"] == told["planned"] == result.plan.totals.accuracy
    assert told["loss"] == pytest.approx(score(result.model, [(images, labels)]).loss, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_ranges_are_found_as_the_settings_say(tmp_path, method):
    found = searched(tmp_path, ranges=method, without="qat")
    assert found.plan.ranges() == calibration(found.model)


def test_other_ranges_are_other_results(tmp_path):
    """One folder holds the results of several methods, and takes none for another's."""
    found = {method: searched(tmp_path, ranges=method, without="qat") for method in ("maximum", "least-squares")}
    widest = calibration(found["maximum"].model)
    for name, own in calibration(found["least-squares"].model).items():
        assert own.input[1] <= widest[name].input[1]
        assert own.output[1] <= widest[name].output[1]
    assert calibration(found["least-squares"].model) != widest


def test_an_unknown_method_is_told():
    with pytest.raises(BitqError, match="ranges is 'most'; it must be one of maximum, percentile, least-squares"):
        Settings(ranges="most")


@pytest.mark.parametrize(
    "told",
    [None, {}, {"bitq_ranges": "{"}, {"bitq_ranges": "[]"}, {"bitq_ranges": '{"ranges": {"0": [[1, 2, 3], null]}}'}],
)
def test_weights_without_ranges_are_told(told):
    content = safetensors.torch.save({"x": torch.zeros(1)}, told)
    with pytest.raises(BitqError, match="does not tell the ranges"):
        ranges_in(content)


def test_ranges_of_weights_are_read_back():
    told = {"bitq_ranges": '{"ranges": {"a": [[-1, 2], null]}}'}
    assert ranges_in(safetensors.torch.save({"x": torch.zeros(1)}, told)) == {"a": Ranges((-1.0, 2.0), None)}
