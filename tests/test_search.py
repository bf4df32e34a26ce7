"""A search from Python: what it hands over, that it repeats, and that no interruption changes its outcome."""

import copy
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bitq
import tiny
from bitq.accuracy.evaluate import score
from bitq.accuracy.finetune import Training
from bitq.accuracy.kinds import quantizable
from bitq.accuracy.quantized import is_quantized
from bitq.errors import BitqError
from bitq.files import RunFolder
from bitq.formats import format_for, grid
from bitq.layers import GEOMETRY, LOOPS
from bitq.movement import Widths, simulate
from bitq.progress import Silent
from bitq.report.evidence import load_evidence
from bitq.store import Store
from bitq.tracing import trace
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.contenders import Contender
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.ledger import Ledger
from bitq.tradeoff.measure import Data, Subject, Task
from bitq.tradeoff.search import _bracket
from bitq.tradeoff.settings import MOST
from bitq.tradeoff.space import build_space, space_of
from bitq.tradeoff.stored import tied
from bitq.tradeoff.study import Proposed, Study
from bitq.tradeoff.trials import ALONG, LIKELY
from bitq.tradeoff.uniforms import uniforms

FILES = {"plan.json", "weights.safetensors", "report.html", "results.sqlite"}


def search(folder, model=None, data=None, settings=None, **options):
    """A search of the tiny network in silence."""
    options = {"device": tiny.DEVICE, "listener": Silent(), "bits": 8, **options}
    model = tiny.trained() if model is None else model
    return bitq.search(model, *(data or tiny.loaders()), run=folder, settings=settings or tiny.settings(), **options)


def rows(folder):
    """Everything the store holds of evaluations, by key."""
    with sqlite3.connect(f"file:{folder / 'results.sqlite'}?mode=ro", uri=True) as database:
        found = database.execute("SELECT key, kind, config, result, seconds, finished FROM evaluations").fetchall()
    return {key: rest for key, *rest in found}


def results(folder):
    """The results alone, of all evaluations but the outcome, which tells seconds."""
    return {
        key: (kind, config, result) for key, (kind, config, result, *_) in rows(folder).items() if kind != "outcome"
    }


def contenders(folder):
    return [json.loads(result) for kind, _, result, *_ in rows(folder).values() if kind == "finetune"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished search: its folder, its result, and the float network that was searched."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    model = tiny.trained()
    return folder, search(folder, model), model


@pytest.fixture
def copied(finished, tmp_path):
    """The finished run in a folder of its own, to change."""
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


# What it hands over


def test_the_plan_is_written_as_it_is_returned(finished):
    folder, result, _ = finished
    assert {entry.name for entry in folder.iterdir() if entry.suffix not in (".sqlite-shm", ".sqlite-wal")} == {
        *FILES,
        "checkpoints",
    }
    assert bitq.load_plan(folder / "plan.json") == bitq.load_plan(str(folder / "plan.json")) == result.plan
    assert bitq.load_quantized(tiny.network(), str(folder)) == result.plan
    assert result.folder == folder
    assert "Sequential" in (folder / "report.html").read_text()


def test_plan_json_is_what_scripts_rely_on(finished):
    document = json.loads((finished[0] / "plan.json").read_text())
    about = {"schema_version", "network", "device", "bits", "alpha", "metric"}
    assert about | {"layers", "totals", "ram", "outcome", "stays_float", "weights"} == document.keys()
    assert (document["schema_version"], document["network"], document["device"]) == (1, "Sequential", "tiny")
    assert (document["bits"], document["alpha"]) == (8, 0.2)
    layers = trace(tiny.network(), torch.empty(1, 1, 8, 8))
    assert [entry["name"] for entry in document["layers"]] == [layer.name for layer in layers]
    for layer, entry in zip(layers, document["layers"], strict=True):
        assert (entry["module"], entry["groups"]) == (layer.module, layer.groups)
        assert entry["loops"] == {loop: getattr(layer, loop) for loop in LOOPS}
        for tensor in ("input", "weight", "output"):
            assert entry[tensor].keys() == {"bits", "exponent_bits", "block_size", "exponent_bias"}
        assert [(level["memory"], level["source"]) for level in entry["levels"]] == [
            ("SRAM", "DRAM"),
            ("registers", "SRAM"),
        ]
        for level in entry["levels"]:
            assert level["traffic_bits"].keys() == {"input", "weight", "output_writes", "output_reads"}
            assert level["tiles"].keys() == set(LOOPS) == set(level["permutation"]) | {"N"}


def test_the_outermost_traffic_is_what_walking_the_tiles_counts(finished):
    _, result, model = finished
    for layer, entry in zip(trace(model, torch.empty(1, 1, 8, 8)), result.plan.layers, strict=True):
        q = {
            name: _packed_width(getattr(entry, name).format, *extents)
            for name, extents in {
                "input": (layer.C * layer.groups, 1),
                "weight": (layer.C, layer.R * layer.S),
                "output": (layer.K, 1),
            }.items()
        }
        assert [getattr(entry, name) for name in GEOMETRY] == [getattr(layer, name) for name in GEOMETRY]
        counted = simulate(layer, entry.levels[0].tiling)
        assert entry.levels[0].traffic_bits.total == pytest.approx(counted.bits(Widths(**q)))


def _packed_width(fmt, channels, inner):
    blocks = -(-channels // fmt.block_size)
    return fmt.mantissa_bits + fmt.exponent_bits * blocks / (channels * inner)


def test_totals_are_sums_and_the_objective_is_its_formula(finished):
    plan = finished[1].plan
    totals = plan.totals
    assert totals.movement_bits == pytest.approx(sum(layer.movement_bits for layer in plan.layers))
    assert totals.energy_pj == pytest.approx(sum(layer.energy_pj for layer in plan.layers))
    assert totals.dram_bits == pytest.approx(sum(layer.levels[0].traffic_bits.total for layer in plan.layers))
    for layer in plan.layers:
        for level, price in zip(layer.levels, (20.0, 0.16), strict=True):
            assert level.energy_pj == pytest.approx(price * level.traffic_bits.total)
    share = totals.movement_bits / totals.movement_bits_max
    assert totals.objective == pytest.approx(1 - totals.accuracy + 0.2 * share)
    assert totals.movement_bits <= totals.movement_bits_max < totals.movement_bits_float


def test_the_references_are_those_of_the_space(finished):
    folder, result, model = finished
    weights = {name: model.get_submodule(name).weight.nbytes for name in quantizable(model)}
    layers = trace(model, torch.empty(1, 1, 8, 8))
    space = build_space(layers, weights, result.plan.totals.model_bytes_float, tiny.DEVICE, grid(8))
    totals = result.plan.totals
    assert totals.movement_bits_max == pytest.approx(space.movement_max)
    assert totals.movement_bits_float == pytest.approx(space.float_cost.movement_bits)
    assert totals.energy_pj_float == pytest.approx(space.float_cost.energy_pj)
    assert totals.model_bytes < totals.model_bytes_float
    file = folder / "weights.safetensors"
    header = int.from_bytes(file.read_bytes()[:8], "little")
    assert file.stat().st_size == 8 + header + totals.model_bytes


def test_accuracies_are_those_of_the_networks(finished):
    _, result, model = finished
    test = tiny.loaders()[2]
    assert result.plan.totals.accuracy == score(result.model, test).accuracy
    assert result.plan.totals.accuracy_float == score(model, test).accuracy
    assert not result.model.training


def test_the_best_contender_by_validation_is_chosen(finished):
    folder, result, _ = finished
    tuned = contenders(folder)
    most = result.plan.totals.movement_bits_max
    objectives = [1 - each["validation"] + 0.2 * each["movement_bits"] / most for each in tuned]
    best = tuned[objectives.index(min(objectives))]
    assert (result.plan.totals.accuracy, result.plan.totals.movement_bits) == (best["test"], best["movement_bits"])
    assert any(each["label"].startswith("uniform") for each in tuned)


def test_rows_compare_float_the_best_uniform_and_the_plan(finished):
    folder, result, _ = finished
    float32, uniform, plan = result.rows
    totals = result.plan.totals
    assert float32.name == "float32"
    assert (float32.accuracy, float32.movement_bits) == (totals.accuracy_float, totals.movement_bits_float)
    assert (plan.accuracy, plan.movement_bits, plan.objective) == (
        totals.accuracy,
        totals.movement_bits,
        totals.objective,
    )
    entry = min(
        (each for each in contenders(folder) if each["label"].startswith("uniform")),
        key=lambda each: 1 - each["validation"] + 0.2 * each["movement_bits"] / totals.movement_bits_max,
    )
    assert uniform.name == f"best {entry['label']}"
    assert (uniform.accuracy, uniform.energy_pj) == (entry["test"], entry["energy_pj"])
    assert [row.role for row in result.rows] == ["float32", "uniform", "plan"]
    for row in result.rows:
        assert row.movement_bits == pytest.approx(row.dram_bits + row.on_chip_bits)
        share = row.movement_bits / totals.movement_bits_max
        assert row.objective == pytest.approx(1 - row.accuracy + 0.2 * share)


def test_no_plan_is_tried_that_could_not_be_better_than_the_best(tmp_path):
    alpha, room = 10.0, 0.05
    search(tmp_path, settings=tiny.settings(alpha=alpha, budgets=Budgets(accuracy_loss=room), rounds=4, plans=1))
    least = load_evidence(tmp_path).float32.validation - room
    most = bitq.load_plan(tmp_path / "plan.json").totals.movement_bits_max
    best, tried = float("inf"), 0
    for each in contenders(tmp_path):
        if each["label"].startswith("plan"):
            assert alpha * each["movement_bits"] / most < best
            tried += 1
        if each["validation"] >= least:
            best = min(best, 1 - each["validation"] + alpha * each["movement_bits"] / most)
    assert best < float("inf")
    assert tried > 1


def test_a_budget_of_accuracy_is_closed_in_on():
    def plan(score, excess, proposer="plan"):
        return Contender(Proposed("", (), proposer), score, None, 0.0, excess, 0.0)

    def of(budgets):
        return SimpleNamespace(settings=tiny.settings(budgets=budgets))

    bounded, some = of(Budgets(accuracy_loss=0.01)), [plan(0.1, 0.0), plan(0.4, 0.0), plan(0.9, 0.2), plan(1.6, 0.5)]
    assert _bracket(bounded, some) == (0.4, 0.9)
    assert _bracket(bounded, [*some, plan(0.5, 0.0, "uniform"), plan(0.2, 0.1)]) == (0.4, 0.9)
    for known in ([], some[:2], some[2:]):
        assert _bracket(bounded, known) is None
    assert _bracket(of(Budgets(movement_bits=1e6)), some) is None


def test_fine_tuning_that_loses_is_undone(tmp_path):
    noted = tiny.Listening()
    few = tiny.settings(rounds=1, plans=1, training=Training(steps=20, learning_rate=3.0))
    tuned = search(tmp_path / "tuned", settings=few, listener=noted)
    undone = [each for each in contenders(tmp_path / "tuned") if not each["tuned"]]
    assert tuned.plan.totals.accuracy > 0.5
    assert undone
    assert all(each["validation"] == each["before"] for each in undone)
    assert not any(each["tuned"] for each in contenders(tmp_path / "tuned"))
    told = [note for note in noted.notes if note.startswith(("plan", "uniform")) and "not fine-tuned" not in note]
    assert told
    assert all("was undone" in note for note in told)
    assert "not fine-tuned" in (tmp_path / "tuned" / "report.html").read_text()


def test_load_quantized_computes_the_same_bits(finished):
    folder, result, _ = finished
    model = tiny.network(seed=5)
    plan = bitq.load_quantized(model, folder)
    assert plan == result.plan
    inputs = tiny.images(300, 8)[0]
    with torch.no_grad():
        assert torch.equal(model(inputs), result.model(inputs))
    assert not model.training


def test_another_network_or_a_damaged_plan_is_not_loaded(copied):
    with pytest.raises(BitqError, match="another network"):
        bitq.load_quantized(nn.Sequential(nn.Conv2d(1, 6, 5)), copied)
    document = json.loads((copied / "plan.json").read_text())
    document["layers"][0]["input"]["exponent_bias"] = 10**6
    (copied / "plan.json").write_text(json.dumps(document))
    with pytest.raises(BitqError, match="exponent_bias"):
        bitq.load_quantized(tiny.network(), copied)
    (copied / "weights.safetensors").unlink()
    shutil.copy(copied / "results.sqlite", copied / "plan.json")
    with pytest.raises(BitqError, match="is not a plan"):
        bitq.load_quantized(tiny.network(), copied)


# What it leaves alone, and that it repeats


def test_the_same_seed_finds_the_same_and_leaves_the_users_things_alone(finished, tmp_path):
    folder, model, data = tmp_path / "deep" / "er", copy.deepcopy(finished[2]).train(), tiny.loaders()
    model[1].eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, kinds = [m.training for m in model.modules()], [type(m) for m in model.modules()]
    torch.manual_seed(12345)
    randomness, python_state = torch.get_rng_state(), random.getstate()

    result = search(folder, model, data)
    assert result.plan == finished[1].plan
    assert results(folder) == results(finished[0])
    for name in ("plan.json", "weights.safetensors"):
        assert (folder / name).read_bytes() == (finished[0] / name).read_bytes()

    assert torch.equal(torch.get_rng_state(), randomness)
    assert random.getstate() == python_state
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [type(module) for module in model.modules()] == kinds
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert any(is_quantized(module) for module in result.model.modules())


def test_searching_again_evaluates_nothing(finished, copied):
    before, plan = rows(copied), (copied / "plan.json").read_bytes()
    (copied / "report.html").unlink()
    result = search(copied, finished[2])
    assert rows(copied) == before
    assert (copied / "plan.json").read_bytes() == plan
    assert result.rows == finished[1].rows
    assert (copied / "report.html").is_file()


def test_another_alpha_uses_what_is_known(finished, copied):
    before = rows(copied)
    heavy = search(copied, finished[2], settings=tiny.settings(alpha=2.0))
    after = rows(copied)
    assert before.items() <= after.items()
    added = {after[key][0] for key in after.keys() - before.keys()}
    assert added.isdisjoint({"float", "calibration", "perturbation"})
    assert heavy.plan.alpha == 2.0
    assert heavy.plan.totals.movement_bits <= finished[1].plan.totals.movement_bits  # it weighs more
    again = search(copied, finished[2])
    assert again.plan == finished[1].plan
    assert rows(copied) == after
    assert load_evidence(copied).outcome.rows[-1].objective == again.rows[-1].objective  # the report is of this plan


@pytest.mark.parametrize("without", [None, "tradeoff"])
def test_the_outcome_is_that_of_these_settings(finished, copied, without):
    """Fine-tuned for other steps the same plan may win again; what is told of it is what was measured now."""
    few = tiny.settings(rounds=1, plans=1, without=without)
    told = []
    for steps in (5, 30):
        training = replace(few.training, steps=steps)
        result = search(copied, finished[2], settings=replace(few, training=training))
        evidence = load_evidence(copied)
        assert evidence.outcome.rows == result.rows
        assert evidence.outcome.rows[-1].accuracy == result.plan.totals.accuracy
        assert evidence.front is not None
        assert "did not finish" not in (copied / "report.html").read_text()
        told.append(evidence.outcome)
    assert told[0].settings != told[1].settings


def test_a_half_precision_network_is_searched(tmp_path):
    def halved(batches):
        return [(images.bfloat16(), labels) for images, labels in batches]

    model = tiny.trained().bfloat16()
    train, validation, test = tiny.loaders()
    data = (halved(list(train)[:8]), halved(validation), halved(test))
    totals = search(tmp_path, model, data, tiny.settings(rounds=1, plans=1)).plan.totals
    assert totals.model_bytes_float == sum(tensor.nbytes for tensor in model.state_dict().values())
    assert 0 < totals.model_bytes < totals.model_bytes_float
    file = tmp_path / "weights.safetensors"
    header = int.from_bytes(file.read_bytes()[:8], "little")
    assert file.stat().st_size == 8 + header + totals.model_bytes


def damage(path, others):
    path.write_bytes(path.read_bytes()[:-1])


def lose(path, others):
    path.unlink()


def swap(path, others):
    shutil.copy(others[0], path)


def pipe(path, others):
    path.unlink()
    os.mkfifo(path)


def inflate(path, others):
    with path.open("ab") as file:
        file.truncate(1 << 30)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (damage, "is damaged, or of another plan"),
        (lose, "there is no file"),
        (swap, "is damaged, or of another plan"),
        (inflate, "but a file of fine-tuned weights has at most"),
    ],
)
def test_fine_tuned_weights_that_are_lost_are_told_and_made_again(finished, copied, harm, said):
    files = {path: path.read_bytes() for path in (copied / "checkpoints").iterdir()}
    best = next(path for path in files if same_weights(path, finished[1].model))
    harm(best, [path for path in files if path != best])
    listener = tiny.Listening()
    before = results(copied)
    again = search(copied, finished[2], listener=listener)
    assert any(said in note and note.endswith("making these weights again") for note in listener.notes)
    assert best.read_bytes() == files[best]
    assert (again.plan, results(copied)) == (finished[1].plan, before)
    assert (copied / "weights.safetensors").read_bytes() == (finished[0] / "weights.safetensors").read_bytes()


def test_a_pipe_in_the_place_of_fine_tuned_weights_is_refused(finished, copied):
    best = next(path for path in (copied / "checkpoints").iterdir() if same_weights(path, finished[1].model))
    pipe(best, [])
    with pytest.raises(BitqError, match="is no regular file"):
        search(copied, finished[2])


def same_weights(path, model):
    state, kept = model.state_dict(), safetensors.torch.load_file(path)
    return all(torch.equal(kept[name], tensor) for name, tensor in state.items())


def test_weights_that_do_not_come_out_again_are_not_made_up(finished, copied):
    for path in (copied / "checkpoints").iterdir():
        path.write_bytes(b"damaged")
    with sqlite3.connect(copied / "results.sqlite") as database:
        for key, result in database.execute("SELECT key, result FROM evaluations WHERE kind = 'finetune'").fetchall():
            other = json.dumps({**json.loads(result), "weights": "0" * 64})
            database.execute("UPDATE evaluations SET result = ? WHERE key = ?", (other, key))
    with pytest.raises(BitqError, match="the same fine-tuning gives other weights"):
        search(copied, finished[2])


def test_a_search_stops_when_no_plan_is_left(finished, copied):
    listener = tiny.Listening()
    many = search(copied, finished[2], settings=tiny.settings(rounds=30, uniforms=3), listener=listener)
    ((told, enough),) = [
        (note, int(note.split()[-6])) for note in listener.notes if note.startswith("no plan is left that could be")
    ]
    assert told.endswith(f"{enough} of 30 rounds were enough")
    uniforms = [each for each in contenders(copied) if each["label"].startswith("uniform")]
    assert len(uniforms) >= 3  # those of the last round are measured all the same
    listener = tiny.Listening()
    more = search(copied, finished[2], settings=tiny.settings(rounds=1000, uniforms=3), listener=listener)
    assert any(note.endswith(f"{enough} of 1000 rounds were enough") for note in listener.notes)
    assert more.plan.layers == many.plan.layers


def test_a_plan_and_weights_of_two_searches_are_not_taken_together(finished, copied, monkeypatch):
    """As a kill between the two leaves them; the same search mends it and fine-tunes nothing."""
    heavy = tiny.settings(alpha=2.0)

    def killed(plan, path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bitq.tradeoff.plan.Plan.save", killed)
        with pytest.raises(KeyboardInterrupt):
            search(copied, finished[2], settings=heavy)
    assert (copied / "plan.json").read_bytes() == (finished[0] / "plan.json").read_bytes()
    assert (copied / "weights.safetensors").read_bytes() != (finished[0] / "weights.safetensors").read_bytes()
    with pytest.raises(BitqError, match=r"do not belong together.*run the search command again"):
        bitq.load_quantized(tiny.network(), copied)
    before = results(copied)
    mended = search(copied, finished[2], settings=heavy)
    assert results(copied) == before
    assert bitq.load_quantized(tiny.network(), copied) == mended.plan


def test_a_plan_of_an_earlier_version_takes_its_weights(finished, copied):
    document = json.loads((copied / "plan.json").read_text())
    del document["weights"]
    (copied / "plan.json").write_text(json.dumps(document))
    assert bitq.load_quantized(tiny.network(), copied).weights is None
    document["outcome"] = "0123456789abcdef"  # of another search than the weights
    (copied / "plan.json").write_text(json.dumps(document))
    with pytest.raises(BitqError, match="do not belong together"):
        bitq.load_quantized(tiny.network(), copied)


# Everything of the user's own


def test_a_users_own_network_loss_metric_and_inputs(tmp_path):
    class Two(nn.Module):
        """Two inputs, one number out."""

        def __init__(self):
            super().__init__()
            self.left, self.right, self.out = nn.Linear(6, 8), nn.Linear(3, 8), nn.Linear(8, 1)

        def forward(self, a, b):
            return self.out(torch.relu(self.left(a) + self.right(b))).squeeze(1)

    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(400, 6, generator=generator), torch.randn(400, 3, generator=generator)
    batches = [((a[i : i + 50], b[i : i + 50]), a[i : i + 50, 0] - b[i : i + 50, 1]) for i in range(0, 400, 50)]
    asked = []

    def closeness(model, batches):
        asked.append(model.training)
        errors = torch.cat([model(*inputs) - target for inputs, target in batches])
        return float(1 / (1 + errors.detach().square().mean()))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Two()
    result = search(
        tmp_path,
        model,
        (batches[:4], batches[4:6], None),
        loss=nn.functional.mse_loss,
        metric=closeness,
        network="two inputs",
        bits=16,
        device="stm32f103c8",
    )
    assert asked
    assert not any(asked)
    assert (result.plan.network, result.plan.bits) == ("two inputs", 16)
    assert result.plan.totals.accuracy == pytest.approx(closeness(result.model, batches[4:6]))
    assert [layer.module for layer in result.plan.layers] == ["left", "right", "out"]


def test_data_that_is_shuffled_is_the_same_data(finished, tmp_path):
    train, validation, test = tiny.loaders()
    shuffled = DataLoader(validation.dataset, 125, shuffle=True)
    few = tiny.settings(rounds=1, plans=1)
    first = search(tmp_path, finished[2], (train, shuffled, test), few)
    count = len(rows(tmp_path))
    torch.manual_seed(99)
    again = search(tmp_path, finished[2], (train, shuffled, test), few)
    assert again.plan == first.plan
    assert len(rows(tmp_path)) == count


# Mistakes


def relabelled(count, seed):
    pixels, labels = tiny.images(count, seed)
    return DataLoader(TensorDataset(pixels, 3 - labels), 250)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": tiny.network(seed=1)}, "made with fingerprint"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 4))}, "made with"),
        ({"data": (tiny.loaders()[0], relabelled(500, 2), tiny.loaders()[2])}, "made with data"),
        ({"data": (tiny.loaders()[0], tiny.loaders()[1], None)}, "made with data"),
        ({"data": (tiny.loader(1500, 1, 32, shuffle=True), *tiny.loaders()[1:])}, "made with training batch"),
        ({"device": replace(tiny.DEVICE, name="other")}, "made with device"),
        ({"device": replace(tiny.DEVICE, memories=tiny.DEVICE.memories[1:])}, "made with memories"),
        ({"bits": 16}, "made with bits"),
        ({"loss": nn.functional.multi_margin_loss}, "made with loss"),
        ({"metric": lambda *_: 0.5}, "made with metric"),
        ({"network": "other"}, "made with network"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_unchanged(finished, copied, changes, reason):
    before = {name: (copied / name).read_bytes() for name in FILES - {"results.sqlite"}}
    known = rows(copied)
    with pytest.raises(BitqError, match=reason) as caught:
        search(copied, **{"model": finished[2], **changes})
    assert "\n" not in str(caught.value)
    assert rows(copied) == known
    assert {name: (copied / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": ([], *tiny.loaders()[1:])}, "training data has no batch"),
        ({"data": (tiny.loaders()[0], [], None)}, "validation data has no batch"),
        ({"data": (tiny.loaders()[0], tiny.loaders()[1], [])}, "no batch"),
        ({"data": (tiny.loaders()[0], [({"x": 1}, 2)], None)}, "unexpected keyword argument"),
        ({"data": (tiny.loaders()[0], [(torch.zeros(2, 3, 8, 8), torch.zeros(2))], None)}, "expected input"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Softmax(1))}, "no convolution or linear module"),
        ({"device": "no such device"}, "no device"),
        ({"bits": 4}, "8 or 16"),
        ({"metric": lambda *_: 97.5}, r"\[0, 1\]"),
        ({"settings": tiny.settings(training=Training(steps=5, learning_rate=1e30))}, "diverged"),
    ],
)
def test_mistakes_are_told_and_leave_no_plan(tmp_path, changes, reason):
    with pytest.raises(BitqError, match=reason) as caught:
        search(tmp_path / "run", **{"model": tiny.network(), **changes})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "plan.json").exists()


@pytest.mark.parametrize(
    "changes",
    [{"alpha": -1}, {"alpha": float("nan")}, {"alpha": float("inf")}]
    + [{name: count} for name, most in MOST.items() for count in (0, most + 1)]
    + [{"without": "everything"}],
)
def test_settings_out_of_range_are_told(changes):
    (name,) = changes
    with pytest.raises(BitqError, match=f"{name} is .*it must be"):
        tiny.settings(**changes)


def test_the_largest_counts_are_taken():
    settings = tiny.settings(**MOST, training=Training(steps=10**7))
    assert {name: getattr(settings, name) for name in MOST} == MOST
    with pytest.raises(BitqError, match="steps is 10000001; it must be 1 or more, up to 10000000"):
        Training(steps=10**7 + 1)


# Kills

SCRIPT = """
import sys
import bitq, tiny, torch
from bitq.progress import Silent

class Loud(Silent):
    def step(self, what, done, total):
        print(what, flush=True)

model = tiny.network()
model.load_state_dict(torch.load(sys.argv[2], weights_only=True))
bitq.search(
    model, *tiny.loaders(), device=tiny.DEVICE, bits=8, run=sys.argv[1], settings=tiny.settings(), listener=Loud()
)
"""


def start(folder, weights):
    """A search in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(weights)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )


def wait_for(process, stage):
    for line in process.stdout:
        if line.startswith(stage):
            return


def test_no_kill_changes_the_outcome(finished, tmp_path):
    folder, luck = tmp_path / "run", random.Random(0)
    weights = tmp_path / "weights.pt"
    torch.save(finished[2].state_dict(), weights)
    known, killed = {}, 0
    for stage in ("scoring formats", "fine-tuning uniform", "fine-tuning plan"):
        process = start(folder, weights)
        wait_for(process, stage)
        time.sleep(luck.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        now = rows(folder)
        assert known.items() <= now.items()  # what was finished stays, and is not done again
        known = now
        for name in FILES - {"results.sqlite"}:  # a file is there whole or not at all
            assert not (folder / name).exists() or (folder / name).stat().st_size
    assert killed >= 2
    assert len(known) > 0
    search(folder, finished[2])
    assert known.items() <= rows(folder).items()
    assert results(folder) == results(finished[0])
    for name in ("plan.json", "weights.safetensors"):
        assert (folder / name).read_bytes() == (finished[0] / name).read_bytes()
    assert (folder / "report.html").is_file()


def test_a_search_of_any_formats_takes_what_the_grid_has_not(finished, tmp_path):
    """Few uniform formats are tried, and O is measured by the grid's largest movement."""
    result = search(tmp_path, finished[2], bits=None, settings=tiny.settings(rounds=1, plans=1, alpha=2.0))
    assert result.plan.bits is None
    most = result.plan.totals.movement_bits_max
    assert most == finished[1].plan.totals.movement_bits_max
    offered = FormatSet.of()
    for module, own in result.plan.formats().items():
        for tensor, fmt in vars(own).items():
            rectified = tensor != "weight" and (module, tensor) not in {("0", "input"), ("8", "output")}
            candidates = (offered.formats[index] for index in offered.indices(tensor))
            assert fmt in {format_for(each, tensor, rectified) for each in candidates}
            assert rectified or not fmt.never_negative
    tried = [json.loads(each) for kind, _, each, *_ in rows(tmp_path).values() if kind == "screened"]
    uniform = [each for each in tried if each["proposer"] == "uniform"]
    assert 3 <= len(uniform) <= LIKELY + ALONG < len(offered.of_all)
    assert len({each["label"] for each in uniform}) == len(uniform)
    best = min(finished[1].rows[1:], key=lambda row: row.movement_bits)
    assert result.rows[-1].movement_bits < best.movement_bits


def test_a_uniform_plan_takes_partners_without_a_sign_where_nothing_is_negative(finished, tmp_path):
    model, data = finished[2], tiny.loaders()
    layers = trace(model, torch.empty(1, 1, 8, 8))
    for bound, shared in ((False, ()), (True, (((0, 2), (1, 0)),))):
        space = tied(space_of(model, layers, tiny.DEVICE, FormatSet.of("s4:e3:b4,n3:e3:b4,s5:e3:b4")), shared)
        with Store(tmp_path / f"{bound}.sqlite") as store:
            ledger = Ledger(RunFolder(tmp_path), store)
            study = Study(Subject("tiny", model, Data(*data), Task()), space, tiny.settings(), ledger)
            found = uniforms(study)
        # the images are negative here and there, what comes after a ReLU never is, outputs come before it
        inner = 0 if bound else 2
        assert found == (((0, 0, 0), (inner, 0, 0), (2, 0, 0)), ((1, 1, 1),) * 3)
