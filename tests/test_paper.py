"""The paper's tables and figures, on a small network in place of those whose weights and data must be had."""

import csv
import json

import pytest
import torch
from PIL import Image
from torch import nn

import paper
from bitq.accuracy.evaluate import cross_entropy
from bitq.errors import BitqError
from bitq.tasks.segment import mean_iou
from bitq.tradeoff.measure import Data, Subject, Task
from evaluation import ablations, accuracies, pictured, trained, weighing

SIDE, CLASSES = 8, 3


def small(images):
    """A network that tells the largest of three channels, pixel by pixel, and as many images as asked for."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, CLASSES, 1))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.copy_(torch.eye(*layer.weight.shape[:2])[..., None, None])
            layer.bias.zero_()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(images, 3, SIDE, SIDE, generator=generator)
    batches = [(x, x.argmax(1))]
    return Subject("small", model.eval(), Data(batches, batches, batches), Task(cross_entropy, mean_iou))


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Runs a part with so many images, and gives its table and where it lies."""
    own = trained.Trained("Small", "of squares", "mean IoU", small, 4, 2, "YOLOv8_O")
    monkeypatch.setattr(trained, "TRAINED", trained.TRAINED | {"espnet": own})
    for module in (accuracies, pictured, weighing):
        monkeypatch.setattr(module, "TRAINED", {"espnet": own})

    def run(part, *words):
        which = () if part == "table4" else ("--networks", "espnet")
        monkeypatch.setattr("sys.argv", ["paper.py", part, *which, "--run", str(tmp_path), *words])
        assert paper.main() == 0
        folder = tmp_path / part
        with (folder / f"{part}.csv").open(newline="") as file:
            return list(csv.reader(file)), folder

    return run


def test_a_table_grows_row_by_row_and_a_figure_takes_what_it_measured(written, monkeypatch):
    (header, accuracy, energy, claimed), folder = written("table3", "--methods", "FAST")
    found = dict(zip(header, accuracy, strict=True))
    assert (found["Original"], found["BitQ8"], found["network"]) == ("100.00", "not measured", "Small")
    assert 0 <= float(found["FAST"]) <= 100
    assert 0 < float(dict(zip(header, energy, strict=True))["FAST"]) < 1
    claims = dict(zip(header, claimed, strict=True))
    assert (claims["Original"], claims["DBPS-like"], claims["int8"]) == ("37.30", "36.71", ""), "of what comes nearest"
    first = sorted((folder / "rows").iterdir())
    (header, accuracy, *_), _ = written("table3", "--methods", "FAST", "BitQ8")
    again = dict(zip(header, accuracy, strict=True))
    assert again["FAST"] == found["FAST"]
    assert again["BitQ8"] != "not measured"
    assert len(first) == 4
    assert len(list((folder / "rows").iterdir())) == 5, "a result for each method, float32, int8 and mxint8"
    (header, accuracy, *_), _ = written("table3", "--methods", "FAST", "--images", "3")
    assert accuracy[-1] == "not measured", "of other images nothing is known"

    monkeypatch.setattr(pictured, "COLUMNS", {"BitQ8": 8})
    (header, row), folder = written("fig4", "--count", "2")
    assert row == ["Small", "mean IoU, %", "100.00", again["BitQ8"]]
    sheet = Image.open(folder / "fig4-espnet.png")
    pair, gap = (SIDE, SIDE), pictured.GAP
    assert sheet.size == (2 * pair[0] + gap, pictured.CAPTION + 2 * pair[1] + gap)


def test_what_cannot_run_is_told_and_the_rest_goes_on(written, monkeypatch):
    def refuse(self, study, label, count):
        raise BitqError("it cannot run here")

    monkeypatch.setattr("bitq.tradeoff.rules.fast.Fast.proposals", refuse)
    (header, accuracy, energy, _), folder = written("table3", "--methods", "FAST", "BSFP")
    found = dict(zip(header, accuracy, strict=True))
    assert found["FAST"] == "cannot run"
    assert dict(zip(header, energy, strict=True))["FAST"] == "not measured"
    assert 0 <= float(found["BSFP"]) <= 100
    reasons = [json.loads(each.read_text())["result"].get("reason") for each in (folder / "rows").iterdir()]
    assert "it cannot run here" in reasons


def test_ablations_and_weights_of_movement_are_measured(written, monkeypatch):
    energies = {name: {"energy_pj": 1.0} for name in (*ablations.CLAIMED, "float32")}
    monkeypatch.setattr(ablations, "_energy", lambda bits, listener: energies)
    monkeypatch.setattr(ablations, "NETWORK", "espnet")
    (header, *rows), _ = written("table4", "--bits", "8", "--steps", "1")
    by_method = {row[1]: dict(zip(header, row, strict=True)) for row in rows if row[0] == "8-bit"}
    assert by_method.keys() == ablations.CLAIMED.keys()
    accuracy = {name: float(row["ResNet-20: %"]) for name, row in by_method.items()}
    assert all(0 <= each <= 100 for each in accuracy.values())
    assert by_method["w/o QAT"]["mJ"] <= min(row["mJ"] for row in by_method.values()), "it moves the least"
    assert all(row[8] == "not measured" for row in rows if row[0] == "16-bit")

    monkeypatch.setattr(weighing, "ALPHAS", (0.015, 3.0))
    (header, *rows), folder = written("fig6", "--bits", "8")
    least, heavy, *_ = (dict(zip(header, row, strict=True)) for row in rows if row[1] == "8-bit")
    assert least["energy, 100 at 0.015"] == "100.0"
    assert float(heavy["energy, 100 at 0.015"]) <= 100
    assert (folder / "fig6.png").exists()
