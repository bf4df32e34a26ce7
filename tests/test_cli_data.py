"""Networks that are not of images, from their data to a plan that is measured again, through the commands."""

import json
import sys
from math import prod
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.nn import functional

NETWORKS = """
import torch
from torch import nn

def keywords():
    return nn.Sequential(
        nn.Conv1d(2, 8, 4, stride=4), nn.ReLU(), nn.Conv1d(8, 8, 4, stride=4), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3),
    )

def table():
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.frames = nn.Linear(6, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, frames):
        return self.head(torch.relu(self.frames(frames)).mean(1))

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, ids, mask):
        x = self.embed(ids)
        x = x + self.attention(x, x, x, key_padding_mask=~mask, need_weights=False)[0]
        x = x + self.second(torch.relu(self.first(x)))
        return self.head((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
"""
FEW = ("--effort", "quick", "--steps", 5, "--learning-rate", 1e-3, "--device", "stm32h743")
COUNTS = {"train": 200, "test": 60}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of a user's with networks, as the current one."""
    name = f"nets_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "argv", ["bitq"])
    return name


def trained(module, name, inputs, labels):
    """Write a checkpoint of a network that was fitted to some data."""
    torch.manual_seed(0)
    model = getattr(__import__(module), name)()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        functional.cross_entropy(output, torch.from_numpy(labels)).backward()
        optimizer.step()
    safetensors.torch.save_file(model.state_dict(), "net.safetensors")


def searched_and_evaluated(bitq, network, data, *options):
    """A quick search, and its plan measured again: rows by role, and that accuracy."""
    command = ("search", network, "--checkpoint", "net.safetensors", "--data", data, "--run", "run", *FEW, *options)
    code, out, err = bitq(*command, "--json")
    assert code == 0, err
    rows = {row["role"]: row for row in json.loads(out)["rows"]}
    code, out, err = bitq("evaluate", "run", "--network", network, "--data", data, "--json", *options)
    assert code == 0, err
    document = json.loads(out)
    assert document["accuracy"] == pytest.approx(document["planned"], abs=1e-6)
    assert rows["float32"]["accuracy"] > 0.9
    return rows, document["accuracy"]


def signals(count, seed):
    """Signals float32 [count, 2, 64] whose frequency tells the class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    phase = random.uniform(0, 6, (count, 2, 1))
    waves = np.sin(np.arange(64) * (0.3 + 0.6 * labels[:, None, None]) + phase)
    return (waves + random.normal(0, 0.1, waves.shape)).astype(np.float32), labels


def test_keywords_in_signals(bitq, folder):
    (x, y), (x_test, y_test) = signals(COUNTS["train"], 0), signals(COUNTS["test"], 1)
    np.savez("data.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    trained(folder, "keywords", torch.from_numpy(x), y)
    _, accuracy = searched_and_evaluated(bitq, f"{folder}:keywords", "data.npz")
    assert accuracy > 0.8


def test_frames_that_a_network_would_take_as_gray_images_but_answers_one_class_as_signals(bitq, folder):
    random = np.random.default_rng(0)
    y, y_test = (random.integers(0, 3, count) for count in COUNTS.values())
    x, x_test = (random.normal(0, 0.3, (len(each), 5, 6)) + each[:, None, None] for each in (y, y_test))
    np.savez("data.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    trained(folder, "Pooled", torch.from_numpy(x.astype(np.float32)), y)
    _, accuracy = searched_and_evaluated(bitq, f"{folder}:Pooled", "data.npz")
    assert accuracy > 0.8


def tokens(count, seed):
    """Token ids [count, 12], those that count and the class of the most frequent kind."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    ids = random.integers(0, 20, (count, 12))
    own = random.random((count, 12)) < 0.8
    ids[own] = (labels[:, None] + 3 * random.integers(0, 6, (count, 12)))[own]
    return ids, np.arange(12) < random.integers(4, 13, (count, 1)), labels


def test_token_ids_and_a_mask_by_name(bitq, mistake, folder):
    arrays = {}
    for seed, (split, count) in enumerate(COUNTS.items()):
        made = tokens(count, seed)
        arrays |= {f"{name}_{split}": array for name, array in zip(("ids", "mask", "y"), made, strict=True)}
    np.savez("data.npz", **arrays)
    inputs = {name: torch.from_numpy(arrays[f"{name}_train"]) for name in ("ids", "mask")}
    trained(folder, "Tokens", inputs, arrays["y_train"])
    _, accuracy = searched_and_evaluated(bitq, f"{folder}:Tokens", "data.npz", "--limit", 150)
    assert accuracy > 0.8
    shapes = ("--input", "mask:bool[1,12]", "--input", "ids:int64[1,12]:0..19")
    code, out, err = bitq("movement", f"{folder}:Tokens", "--device", "stm32h743", "--json", *shapes)
    assert (code, err) == (0, "")
    planned = {layer["name"] for layer in json.loads(Path("run/plan.json").read_text())["layers"]}
    assert planned <= {layer["name"] for layer in json.loads(out)["layers"]}
    longer = ("--input", "ids:int64[1,24]", "--input", "mask:bool[1,24]")
    search = ("search", f"{folder}:Tokens", "--checkpoint", "net.safetensors", "--data", "data.npz")
    quickly = ("--effort", "quick", "--without-qat", "--formats", "int4,int8")
    code, _, err = bitq(*search, *quickly, "--run", "longer", *longer, "--json")
    assert code == 0, err
    of_12, of_24 = (
        {layer["name"]: prod(layer["loops"].values()) for layer in json.loads(Path(plan).read_text())["layers"]}
        for plan in ("run/plan.json", "longer/plan.json")
    )
    assert of_24.keys() == of_12.keys()
    assert {name: of_24[name] / of_12[name] for name in ("first", "second", "head")} == {
        "first": 2, "second": 2, "head": 1
    }
    assert "needs input 'mask', too" in mistake(*search, "--run", "other", *longer[:2])
    del arrays["mask_test"]
    np.savez("data.npz", **arrays)
    assert "data.npz has no array 'mask_test'" in mistake(
        "search", f"{folder}:Tokens", "--data", "data.npz", "--run", "other"
    )


def test_a_network_for_a_table(bitq, mistake, folder):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 300)
    features = random.normal(0, 0.4, (300, 4)) + np.stack([labels == 0, labels == 1, labels == 2, labels > 0], 1)
    rows = [f"{a},{b},{y},{c},{d}" for (a, b, c, d), y in zip(features, labels, strict=True)]
    text = "\n".join(["a,b,label,c,d", *rows]) + "\n"
    Path("table.csv").write_text(text)
    trained(folder, "table", torch.from_numpy(features.astype(np.float32)), labels)
    _, accuracy = searched_and_evaluated(bitq, f"{folder}:table", "table.csv")
    assert accuracy > 0.7
    search = ("search", f"{folder}:table", "--data", "table.csv", "--run", "other")
    assert "holds no images; leave --mean out" in mistake(*search, "--mean", "0.5")
    Path("table.csv").write_text(text + "1,2,3,4,5\n")
    assert "label 3 in column 'label', but the network has 3 outputs" in mistake(*search)
    Path("table.csv").write_text(text + "1,2,?,4,5\n")
    assert "table.csv, line 302, column 'label' is '?', but line 2 has a number; labels must all be" in mistake(*search)
