"""`bitq search`, `bitq evaluate` and `bitq report` as a user meets them."""

import inspect
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import tiny
from bitq.accuracy.evaluate import top1

NETWORKS = f"""
import os

import torch
from torch import nn

CLASSES = {tiny.CLASSES}

{inspect.getsource(tiny.network)}

def other():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, CLASSES))

def talkative():
    os.write(1, b"as printf of a library")
    return network()

def nothing_to_quantize():
    return nn.Flatten()
"""

DEVICE = """
schema_version = 1
name = "tiny"
title = "Tiny device"

[[memories]]
name = "registers"
capacity_bytes = 64
source = "made up"

[[memories]]
name = "SRAM"
capacity_bytes = 512
energy_pj_per_bit = 0.16
source = "made up"

[[memories]]
name = "DRAM"
energy_pj_per_bit = 20.0
source = "made up"
"""

NETWORK = "tiny_networks:network"
OPTIONS = ["--device", "tiny.toml", "--steps", 15, "--learning-rate", 3e-3]
PAPER = ["--grid", "paper8"]
ALONE = ["search", NETWORK, "--data", "data.npz", "--checkpoint", "net.safetensors", *OPTIONS, *PAPER]
COMPLETE = [*ALONE, "--plans", 1]


def process(folder, *args):
    """`bitq` in a process of its own, as a shell starts it."""
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "bitq", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
    )


def fill(folder):
    """A user's folder: networks, a checkpoint, data, a device file."""
    (folder / "tiny_networks.py").write_text(NETWORKS)
    (folder / "tiny.toml").write_text(DEVICE)
    safetensors.torch.save_file(tiny.trained().state_dict(), folder / "net.safetensors")
    write_data(folder / "data.npz")


def write_data(path, **changes):
    train, test = tiny.images(1200, 1), tiny.images(500, 3)
    arrays = {"x_train": train[0], "y_train": train[1], "x_test": test[0], "y_test": test[1]}
    np.savez(path, **{name: np.asarray(array) for name, array in {**arrays, **changes}.items()})


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A user's folder with the finished run `run`, and what the search printed."""
    folder = tmp_path_factory.mktemp("user")
    fill(folder)
    run = process(folder, *COMPLETE, "--run", "run")
    out, err = run.communicate()
    return SimpleNamespace(folder=folder, code=run.returncode, out=out, err=err)


@pytest.fixture
def folder(searched, tmp_path, monkeypatch):
    """A copy of that folder, as the current one."""
    shutil.copytree(searched.folder, tmp_path / "user")
    monkeypatch.chdir(tmp_path / "user")
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path / "user"


def plan_of(run):
    return json.loads((run / "plan.json").read_text())


def evaluations(run):
    with sqlite3.connect(f"file:{run / 'results.sqlite'}?mode=ro", uri=True) as database:
        return set(database.execute("SELECT key, result, finished FROM evaluations WHERE kind != 'outcome'"))


def test_a_search_prints_a_table_and_writes_its_files(searched):
    assert (searched.code, "Traceback" in searched.err) == (0, False), searched.err
    totals = plan_of(searched.folder / "run")["totals"]
    reached = [f"{100 * totals[name]:.2f} %" for name in ("accuracy", "accuracy_float")]
    for text in ("float32", "best uniform 8:e", "plan", *reached):
        assert text in searched.out
    assert f"{totals['objective']:.4f}" in searched.out
    assert "report.html" in searched.out
    for name in ("plan.json", "weights.safetensors", "report.html", "results.sqlite"):
        assert (searched.folder / "run" / name).stat().st_size
    assert "fine-tuning" not in searched.out  # progress is no result
    assert "O " in searched.err
    page = (searched.folder / "run" / "report.html").read_text()
    assert "search tiny_networks:network" in page


def test_json_is_one_document_and_a_second_search_adds_nothing(bitq, folder):
    before, plan = evaluations(folder / "run"), plan_of(folder / "run")
    code, out, _ = bitq(*COMPLETE, "--run", "run", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["run"] == "run"
    assert document["totals"] == plan["totals"] == plan_of(folder / "run")["totals"]
    assert [row["name"].partition(" 8:")[0] for row in document["rows"][:2]] == ["float32", "best uniform"]
    assert document["rows"][2]["accuracy"] == plan["totals"]["accuracy"]
    assert plan_of(folder / "run") == plan
    assert evaluations(folder / "run") == before


def test_evaluate_measures_the_plans_accuracy(bitq, folder):
    totals = plan_of(folder / "run")["totals"]
    (folder / "run" / "results.sqlite").unlink()  # weights and plan are enough
    shutil.rmtree(folder / "run" / "checkpoints")
    code, out, err = bitq("evaluate", "run", "--network", NETWORK, "--data", "data.npz", "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["accuracy"] == document["planned"] == totals["accuracy"]
    code, out, _ = bitq("evaluate", "run", "--network", NETWORK, "--data", "data.npz")
    assert out.count(f"{100 * totals['accuracy']:.2f} %") == 2


def test_report_writes_the_page_again(bitq, folder):
    page = folder / "run" / "report.html"
    page.write_text("lost")
    code, out, err = bitq("report", "run")
    assert (code, err) == (0, "")
    totals = totals_of(folder / "run")
    result, _, where = " ".join(out.split()).rpartition("Report: ")
    assert where == str(page.relative_to(folder))
    reached, of_float = (f"{100 * totals[name]:.2f} %" for name in ("accuracy", "accuracy_float"))
    accuracies = f"{reached} accurate on test data (float32: {of_float})"
    assert f"tiny: {accuracies}, moves " in result
    assert result.endswith(f"; O {totals['objective']:.4f} ")
    assert page.read_text().startswith("<!DOCTYPE html>")
    document = json.loads(bitq("report", "run", "--json")[1])
    assert document.keys() == {"report", "offers", "references"}
    assert document["report"] == str(page.relative_to(folder))
    assert bitq("report", "run", "--alpha", "0.37", "--alpha", "4.25")[0] == 0
    table = page.read_text().partition('id="alphas"')[2].partition("</table>")[0]
    assert re.findall(r"<tr[^>]*><td>([^<]+)</td>", table) == ["0.2", "0.37", "4.25"]


def test_movement_agrees_with_the_plan(bitq, folder):
    totals = plan_of(folder / "run")["totals"]
    options = ["--input-shape", "1,1,8,8", "--device", "tiny.toml", "--json"]
    document = json.loads(bitq("movement", NETWORK, "--formats", "run", *options)[1])
    for name in ("movement_bits", "movement_bits_float", "energy_pj", "energy_pj_float"):
        assert document["totals"][name] == pytest.approx(totals[name])
    planned = {layer["name"]: layer for layer in plan_of(folder / "run")["layers"]}
    for layer in document["layers"]:  # by tiles of their own, where several plans are the best
        levels = planned[layer["name"]]["levels"]
        assert layer["movement_bits"] == pytest.approx(sum(sum(level["traffic_bits"].values()) for level in levels))


def test_images_in_folders(bitq, folder):
    for part, count, seed in (("train", 240, 1), ("val", 80, 2), ("test", 80, 3)):
        for number, (pixels, label) in enumerate(zip(*tiny.images(count, seed), strict=True)):
            path = folder / "images" / part / f"class {label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            levels = (pixels[0] * 50 + 100).clamp(0, 255).to(torch.uint8)
            Image.fromarray(levels.repeat_interleave(2, 0).repeat_interleave(2, 1).numpy()).save(path)
    images = ["--data", "images", "--channels", 1, "--image-size", 8, "--mean", "0.4", "--std", "0.2", "--limit", 200]
    code, out, _ = bitq("search", NETWORK, *images, *OPTIONS, "--steps", 3, "--grid", "paper16", "--amp", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["run"] == "runs/tiny_networks.network"  # where none was named
    assert plan_of(folder / document["run"])["bits"] == 16
    measured = json.loads(bitq("evaluate", document["run"], "--network", NETWORK, *images, "--json")[1])
    assert measured["accuracy"] == document["totals"]["accuracy"]


def test_stdout_is_for_the_result_alone_whoever_prints(folder):
    short = ["--steps", 1, "--rounds", 1, "--uniforms", 1]
    run = process(folder, "search", "tiny_networks:talkative", *COMPLETE[2:], *short, "--run", "loud", "--json")
    out, err = run.communicate()
    assert (run.returncode, json.loads(out)["run"]) == (0, "loud")
    assert "as printf of a library" in err


def test_an_interrupted_search_says_how_it_goes_on_and_does(bitq, folder):
    search = process(folder, *COMPLETE, "--run", "other")
    for line in search.stderr:
        if line.startswith("float32"):
            break
    search.send_signal(signal.SIGINT)
    out, err = search.communicate()
    assert (search.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "Error: interrupted before the end; the same command continues where it stopped"
    assert "Traceback" not in err
    assert not (folder / "other" / "plan.json").exists()
    known = evaluations(folder / "other")
    assert known
    assert bitq(*COMPLETE, "--run", "other")[0] == 0
    assert known <= evaluations(folder / "other")
    assert plan_of(folder / "other") == plan_of(folder / "run")


# Budgets and ablations


def totals_of(folder):
    return plan_of(folder)["totals"]


@pytest.mark.parametrize(
    ("option", "total", "unit", "factor"),
    [
        ("--max-movement", "movement_bits", "bit", 0.9),
        ("--max-energy", "energy_pj", "pJ", 0.9),
        ("--max-flash", "model_bytes", "B", 0.97),
        ("--max-ram", "ram_bytes", "B", 0.97),
    ],
)
def test_a_plan_keeps_its_budget(bitq, folder, option, total, unit, factor):
    limit = int(factor * totals_of(folder / "run")[total])
    code, out, err = bitq(*COMPLETE, "--run", "run", option, f"{limit}{unit}", "--json")
    assert code == 0, err
    assert json.loads(out)["totals"][total] <= limit
    assert totals_of(folder / "run")[total] <= limit


def test_the_fewest_bits_within_a_loss_of_accuracy(bitq, folder):
    for loss in (0.5, 0.0):
        code, _, err = bitq(*COMPLETE, "--run", "run", "--alpha", 50, "--max-accuracy-loss", loss)
        assert code == 0, err
        if loss == 0.5:
            loosest = totals_of(folder / "run")
    assert totals_of(folder / "run")["movement_bits"] > loosest["movement_bits"]


def test_within_points_is_the_fewest_bits_and_keeps_alpha(bitq, folder):
    moved = []
    for points in (40, 5, 0):
        code, out, err = bitq(*COMPLETE, "--run", "run", "--within", points, "--json")
        assert code == 0, err
        document, plan = json.loads(out), plan_of(folder / "run")
        assert document["within_budgets"]
        assert document["advice"] == ""  # it was asked for
        assert plan["alpha"] == 0.2
        totals = plan["totals"]
        share = totals["movement_bits"] / totals["movement_bits_max"]
        assert totals["objective"] == pytest.approx(1 - totals["accuracy"] + 0.2 * share)
        own = {offer["within"]: offer for offer in document["offers"]}[points / 100]
        assert own["movement_bits"] == totals["movement_bits"]
        assert own["label"].startswith("the plan")
        moved.append(totals["movement_bits"])
    assert moved[0] < moved[1] <= moved[2]


@pytest.mark.parametrize(
    ("option", "quantity"),
    [("--max-movement", "movement_bits"), ("--max-energy", "energy_pj"), ("--max-model-bytes", "model_bytes")],
)
def test_a_limit_is_a_share_of_what_people_know(bitq, folder, option, quantity):
    before = json.loads(bitq("report", "run", "--json")[1])["references"]["float16"][quantity]
    percent = int(95 * totals_of(folder / "run")[quantity] / before)
    code, out, err = bitq(*COMPLETE, "--run", "run", option, f"{percent} % float16", "--json")
    assert code == 0, err
    assert json.loads(out)["totals"][quantity] <= percent / 100 * before


def test_the_terminal_ends_with_what_the_trade_off_offers(bitq, folder, searched):
    totals = plan_of(folder / "run")["totals"]
    offers = json.loads(bitq("report", "run", "--json")[1])["offers"]
    assert [offer["question"] for offer in offers] == [
        "least O",
        *(f"fewest bits within {points}" for points in ("0.5 points", "1 point", "2 points")),
    ]
    assert (offers[0]["within"], offers[0]["test"]) == (None, totals["accuracy"])
    for text in (searched.out, bitq("report", "run")[1]):
        _, table = text.split("What was measured offers")
        for offer in offers:
            assert offer["question"].removeprefix("fewest bits ") in table
            assert f"{100 * offer['test']:.2f} %" in table
    page = (folder / "run" / "report.html").read_text().partition('id="offers"')[2].partition("</table>")[0]
    assert all(f"{100 * offer['test']:.2f}" in page and offer["question"] in page for offer in offers)


def test_a_plan_that_loses_much_tells_of_a_milder_one_that_its_command_finds(bitq, folder):
    code, out, err = bitq(*COMPLETE, "--run", "run", "--alpha", 5)
    assert code == 0, err
    (note,) = [line for line in " ".join(out.split()).split("│") if "Note: at alpha 5 the plan gives up" in line]
    assert "for a milder plan: " in note
    assert "fewer bits and" in note
    assert "at alpha 5 the plan gives up" in (folder / "run" / "report.html").read_text().lower()
    assert note.partition("Note: ")[2].split(" Plan, weights")[0] in " ".join(bitq("report", "run")[1].split())
    heavy = totals_of(folder / "run")
    points = re.search(r"within (\S+) points?", note)[1]
    assert bitq(*COMPLETE, "--run", "run", "--alpha", 5, "--within", points)[0] == 0
    assert totals_of(folder / "run")["accuracy"] > heavy["accuracy"]


def test_movement_is_told_beside_int8(bitq, folder, searched):
    references = json.loads(bitq("report", "run", "--json")[1])["references"]
    plain = references["int8"]["movement_bits"]
    totals = totals_of(folder / "run")
    assert references["float32"]["movement_bits"] == pytest.approx(totals["movement_bits_float"])
    assert references["float32"]["model_bytes"] == totals["model_bytes_float"]
    assert "of int8" in searched.out
    assert f"{100 * totals['movement_bits'] / plain:#.3g} %" in searched.out
    assert "% of int8" in (folder / "run" / "report.html").read_text()


def test_the_ablations_are_compared_and_the_plan_stays(bitq, folder):
    plan = plan_of(folder / "run")
    code, out, err = bitq(*COMPLETE, "--run", "run", "--ablations", "--json")
    assert code == 0, err
    document = json.loads(out)
    rows = {row["name"]: row for row in document["ablations"]}
    assert rows.keys() == {"without fine-tuning", "without movement", "without the trade-off"}
    assert plan_of(folder / "run") == plan
    moved = {name: row["movement_bits"] for name, row in rows.items()}
    assert moved["without the trade-off"] < plan["totals"]["movement_bits"] < moved["without movement"]
    page = (folder / "run" / "report.html").read_text()
    assert all(name in page for name in rows)
    assert bitq(*ALONE, "--run", "run", "--without-movement")[0] == 0
    assert totals_of(folder / "run")["movement_bits"] == moved["without movement"]
    assert bitq(*COMPLETE, "--run", "run")[0] == 0
    assert plan_of(folder / "run") == plan


def test_one_ablation_at_a_time(mistake):
    assert "at a time" in mistake(*COMPLETE, "--run", "new", "--without-qat", "--ablations")


# What happens to machines


def test_two_searches_of_one_folder_do_not_do_the_same_work(bitq, folder):
    first = process(folder, *COMPLETE, "--run", "other", "--steps", 400)
    for line in first.stderr:
        if line.startswith("float32"):
            break
    code, out, err = bitq(*COMPLETE, "--run", "other", "--steps", 400)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert (code, out) == (2, "")
    assert "another search is at work in other; wait for it" in err


def test_a_disk_that_takes_no_more_is_told_and_loses_nothing(folder):
    limit = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limit += " resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY));"
    script = f"{limit} from bitq.cli import main; main(sys.argv[1:])"
    words = [*map(str, COMPLETE), "--run", "other"]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "BITQ_CACHE_DIR": ""}
    full = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, cwd=folder, env=paths)
    assert full.returncode == 2
    assert "cannot be written" in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr
    known = evaluations(folder / "other")
    assert known
    freed = process(folder, *COMPLETE, "--run", "other")
    freed.communicate()
    assert freed.returncode == 0
    assert known <= evaluations(folder / "other")
    assert plan_of(folder / "other") == plan_of(folder / "run")


# Mistakes


def changed(**options):
    """The complete command with other options."""
    words = ["search", options.pop("network", NETWORK)]
    given = {"data": "data.npz", "checkpoint": "net.safetensors", "device": "tiny.toml", "steps": 3, **options}
    for name, value in given.items():
        words += [] if value is None else [f"--{name.replace('_', '-')}", value]
    return words


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"data": "missing.npz"}, "missing.npz is no data"),
        ({"data": None}, "needs --data"),
        ({"data": "tiny.toml"}, "tiny.toml is no data"),
        ({"device": "no-such-device"}, "no device 'no-such-device'"),
        ({"checkpoint": "missing.safetensors"}, "there is no file missing.safetensors"),
        ({"checkpoint": "tiny.toml"}, "tiny.toml is damaged"),
        ({"network": "tiny_networks:other"}, "net.safetensors"),
        ({"network": "tiny_networks:nothing"}, "has no 'nothing'"),
        ({"network": "nowhere:network"}, "no module 'nowhere'"),
        ({"network": "tiny_networks:nothing_to_quantize", "checkpoint": None}, "no convolution or linear module"),
        ({"grid": "paper4"}, "--grid"),
        ({"grid": None, "weights": "n4:e3:b16"}, "n4:e3:b16 has no negative numbers, but weights do"),
        ({"alpha": -0.1}, "alpha is"),
        ({"max_accuracy_loss": -0.1}, "the limit of accuracy_loss is -0.1"),
        ({"max_movement": "many"}, "--max-movement is 'many'; it must be a number, with or without one of the units"),
        ({"max_movement": "1bit"}, "no plan has movement_bits of at most 1: the least of all plans is"),
        ({"max_energy": "3 J"}, "--max-energy is '3 J'"),
        ({"max_model_bytes": 1}, "no plan has model_bytes of at most 1"),
        ({"max_movement": "50%int4"}, "--max-movement is '50%int4'; a share must be of int8, float16 or float32, such"),
        ({"max_energy": "%int8"}, "--max-energy is '%int8'; a share must be of int8, float16 or float32"),
        ({"max_movement": "0.1%int8"}, r"(0.1 % of int8): the least of all plans is"),
        ({"within": -1}, "--within is -1.0; it must be a number of points of accuracy from 0 to 100"),
        ({"within": 1, "max_accuracy_loss": 0.01}, "give --within for the fewest bits or --max-accuracy-loss"),
        ({"alpha": "nan"}, "alpha is"),
        ({"alpha": "inf"}, "alpha is"),
        ({"steps": 0}, "steps is 0; it must be 1 or more"),
        ({"plans": 0}, "plans is 0; it must be 1 or more"),
        ({"uniforms": 0}, "uniforms is 0; it must be 1 or more"),
        ({"learning_rate": 0}, "learning_rate is 0.0; it must be"),
        ({"batch_size": 0}, "--batch-size must be a number of at least 1"),
        ({"limit": 0}, "at least 1"),
        ({"seed": 10**30}, "seed is 1000"),
        ({"rounds": -1}, "rounds is -1"),
        ({"mean": "grey"}, "--mean"),
        ({"std": "0"}, "std"),
        ({"network": "demo"}, "the demo has its own data"),
    ],
)
def test_what_cannot_be_searched_is_told_before_anything_is_written(mistake, folder, options, reason):
    assert reason in mistake(*changed(**options, run="new"))
    assert not (folder / "new").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"x_train": np.zeros((20, 3, 8, 8), np.float32), "y_train": np.zeros(20, int)}, "images of x_test have shape"),
        ({"y_test": np.full(500, 7)}, "label 7 in y_test, but the network has 4 outputs"),
        ({"y_test": np.full(400, 1)}, "it must be 500 whole numbers"),
    ],
)
def test_data_that_does_not_fit_is_told(mistake, folder, changes, reason):
    write_data(folder / "data.npz", **changes)
    assert reason in mistake(*changed(run="new"))
    assert not (folder / "new" / "plan.json").exists()


def test_images_of_another_shape_are_told(mistake, folder):
    images = {name: np.zeros((500, 3, 8, 8), np.float32) for name in ("x_train", "x_test")}
    write_data(folder / "data.npz", **images, y_train=np.zeros(500, int))
    assert "expected input" in mistake(*changed(run="new"))
    assert not (folder / "new").exists()


def test_a_diverging_search_is_told(mistake, folder):
    assert "diverged" in mistake(*changed(run="new", learning_rate=1e30, steps=20))
    assert not (folder / "new" / "plan.json").exists()


def test_run_folders_that_are_none(mistake, folder):
    (folder / "file").write_text("mine")
    assert "file" in mistake(*changed(run="file"))
    assert (folder / "file").read_text() == "mine"
    (folder / "garbage").mkdir()
    (folder / "garbage" / "results.sqlite").write_bytes(b"garbage" * 1000)
    assert "is not a results store" in mistake(*changed(run="garbage"))
    assert (folder / "garbage" / "results.sqlite").read_bytes() == b"garbage" * 1000
    plan = plan_of(folder / "run")
    assert "was made with network" in mistake(*changed(network="tiny_networks:other", checkpoint=None, run="run"))
    assert "was made with fingerprint" in mistake(*changed(checkpoint=None, run="run"))
    assert "was made with bits" in mistake(*changed(grid="paper16", run="run"))
    assert "was made with training batch" in mistake(*changed(batch_size=32, run="run"))
    assert plan_of(folder / "run") == plan


def test_runs_that_cannot_be_evaluated(mistake, folder):
    data = ["--data", "data.npz"]
    named = ["--network", NETWORK]
    assert "no plan at" in mistake("evaluate", "nowhere", *data)
    assert "needs --data" in mistake("evaluate", "run", *named)
    assert "--seed" in mistake("evaluate", "run", *data, "--seed", 10**30)
    assert "is of another network" in mistake("evaluate", "run", *data, "--network", "tiny_networks:other")
    assert "does not name a network" in mistake("evaluate", "run", *data, "--network", "Sequential")
    plan = plan_of(folder / "run")
    (folder / "run" / "plan.json").write_text("{")
    assert "is not a plan" in mistake("evaluate", "run", *named, *data)
    (folder / "run" / "plan.json").write_text(json.dumps(plan))
    weights = folder / "run" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "weights.safetensors" in mistake("evaluate", "run", *named, *data)
    weights.unlink()
    assert "weights.safetensors" in mistake("evaluate", "run", *named, *data)


def test_evaluate_imports_what_the_user_names_and_nothing_else(bitq, mistake, folder):
    said = mistake("evaluate", "run", "--data", "data.npz")
    assert f"names the network '{NETWORK}'" in said
    assert said.endswith(f"give bitq evaluate run --network {NETWORK}")
    plan = plan_of(folder / "run")
    (folder / "run" / "plan.json").write_text(json.dumps({**plan, "network": "os:abort"}))
    code, out, err = bitq("evaluate", "run", "--network", NETWORK, "--data", "data.npz", "--json")
    assert (code, json.loads(out)["accuracy"]) == (0, plan["totals"]["accuracy"]), err


def test_evaluate_says_what_it_measures_of_a_run_from_python(bitq, mistake, folder):
    def half(model, batches):
        return top1(model, batches) / 2

    tiny.search("python", half, rounds=1, plans=1)
    said = mistake("evaluate", "python", "--data", "data.npz")
    assert "network 'Sequential' that was searched from Python" in said
    assert "measures on data of its --task, not its metric 'test_evaluate_says" in said
    assert "--network package.module:function" in said
    words = ["evaluate", "python", "--network", NETWORK, "--data", "data.npz"]
    code, out, err = bitq(*words)
    planned = plan_of(folder / "python")["totals"]["accuracy"]
    assert code == 0
    assert f"accuracy {200 * planned:.2f} % on the test data; the plan has {planned:.4f} by its metric" in out
    assert re.fullmatch("the run has another metric 'test_.*'; here the metric is accuracy: give --task .*\n", err)
    document = json.loads(bitq(*words, "--json")[1])
    assert (document["accuracy"], document["planned"]) == (2 * planned, planned)
    assert document["planned_metric"].endswith("half")
    assert "tested on 500 inputs, and these are 300" in bitq(*words, "--limit", 300)[2]
    with sqlite3.connect("python/results.sqlite") as database:
        database.execute("DELETE FROM run WHERE name IN ('metric', 'data sizes')")
    assert bitq(*words)[1].endswith(f"{100 * planned:.2f} % in the plan\n")
    assert bitq(*words)[2] == ""


def test_a_traceback_is_told_where_it_is_asked_for(bitq, folder):
    (folder / "failing.py").write_text(FAILING)
    words = ["search", "failing:make", "--data", "data.npz", *OPTIONS, "--run", "new"]
    for asked in (False, True):
        code, out, err = bitq(*words, *(["--traceback"] if asked else []))
        assert (code, out) == (2, "")
        last = err.splitlines()[-1]
        assert last.startswith("Error: the network cannot run on an input as a tensor of shape (64, 1, 8, 8): KeyError")
        assert last.endswith("(failing.py, line 7)")
        assert ("Traceback (most recent call last)" in err) == asked
        assert ('raise KeyError("only in training")' in err) == asked
        assert not (folder / "new").exists()


FAILING = """
from tiny_networks import nn, network

class Failing(nn.Sequential):
    def forward(self, x):
        if self.training:
            raise KeyError("only in training")
        return super().forward(x)

def make():
    return Failing(network())
"""


def test_evaluate_notes_a_plan_that_does_not_tell_its_weights(bitq, folder):
    plan = plan_of(folder / "run")
    del plan["weights"]
    (folder / "run" / "plan.json").write_text(json.dumps(plan))
    code, out, err = bitq("evaluate", "run", "--network", NETWORK, "--data", "data.npz", "--json")
    assert (code, json.loads(out)["accuracy"]) == (0, plan["totals"]["accuracy"])
    assert err == "run/plan.json is of an earlier version, which did not tell which weights belong to a plan\n"


def test_what_reads_a_plan_imports_nothing(bitq, folder):
    """The plan names a module that would leave a trace, wherever it is looked for."""
    for place in (folder, folder / "run"):
        (place / "payload.py").write_text(f"open({str(folder / 'trace')!r}, 'w').close()")
    plan = plan_of(folder / "run")
    (folder / "run" / "plan.json").write_text(json.dumps({**plan, "network": "payload:make"}))
    on_device = ["--formats", "run", "--device", "tiny.toml", "--input-shape", "1,1,8,8"]
    for words in (
        ["movement", NETWORK, *on_device],
        ["buffer", NETWORK, *on_device],
        ["quantize", "net.safetensors", "packed.safetensors", "--plan", "run"],
        ["report", "run"],
        ["report", "run", "--salvage"],
        [*COMPLETE, "--run", "run"],
    ):
        code, _, err = bitq(*words)
        assert code == 0, (words, err)
        assert not (folder / "trace").exists(), words
        assert "payload" not in sys.modules


# A damaged results store


def test_what_can_be_read_of_a_damaged_store_is_kept_and_the_search_goes_on(bitq, mistake, folder):
    before, plan = evaluations(folder / "run"), plan_of(folder / "run")
    store = folder / "run" / "results.sqlite"
    with sqlite3.connect(store) as database:
        database.execute("UPDATE evaluations SET result = '{' WHERE kind = 'float'")
    harmed = store.read_bytes()
    hint = "`bitq report run --salvage` keeps all that can still be read"
    for words in (["report", "run"], [*COMPLETE, "--run", "run"]):
        assert hint in mistake(*words)
    document = json.loads(bitq("report", "run", "--salvage", "--json")[1])
    lost = {"kept": len(before), "lost": 1, "aside": "run/results.damaged-1.sqlite"}  # the outcome is not in `before`
    assert document["salvaged"] == lost
    assert document["report"] == "run/report.html"
    assert (folder / document["salvaged"]["aside"]).read_bytes() == harmed
    assert len(evaluations(folder / "run")) == len(before) - 1
    assert bitq(*COMPLETE, "--run", "run")[0] == 0
    assert {row[:2] for row in evaluations(folder / "run")} == {row[:2] for row in before}
    assert plan_of(folder / "run") == plan
    assert "Nothing is damaged" in bitq("report", "run", "--salvage")[1]


def test_runs_that_have_no_report(mistake, folder):
    assert "no plan at" in mistake("report", "nowhere")
    assert not (folder / "nowhere").exists()
    (folder / "run" / "results.sqlite").write_bytes(b"garbage" * 1000)
    page = (folder / "run" / "report.html").read_bytes()
    assert "is not a results store" in mistake("report", "run")
    assert (folder / "run" / "report.html").read_bytes() == page


def test_a_plan_of_another_network_moves_nothing(mistake, folder):
    options = ["--input-shape", "1,1,8,8", "--device", "tiny.toml"]
    said = mistake("movement", "tiny_networks:other", "--formats", "run", *options)
    assert "plans network 'tiny_networks:network', which is not this one" in said
