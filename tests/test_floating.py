"""What stays float is decided once: movement, buffer, search, report and plan count alike, for the same reasons."""

import inspect
import json
import shlex
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bitq.accuracy.kinds import float_reasons, quantizable, staying_float
from bitq.devices import load_device
from bitq.floating import ACTIVATIONS, StaysFloat, but_floating, names_text, sentence
from bitq.formats import BlockFormat, TensorFormats, grid
from bitq.layers import Layer
from bitq.movement.network import network_movement
from bitq.movement.widths import weight_size, weight_sizes
from bitq.tracing import record, trace
from bitq.tradeoff.plan import float_parts, load_plan
from bitq.tradeoff.space import space_of, stored_bytes

F = BlockFormat(8, 3, 16)
FORMATS = TensorFormats(F, F, F)
SIZE, CLASSES = 8, 3
FORMAT_CLASSES = "formats apply to Conv1d, Conv2d, Conv3d, Embedding, Linear, ConvTranspose1d, ConvTranspose2d"


class Mix(nn.Module):
    """Multiplies by a weight of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(SIZE))

    def forward(self, x):
        return torch.einsum("btc,cd->btd", x, self.weight)


class Sequences(nn.Module):
    """An image's rows as a sequence, through all that computes with weights of its own, and a table of positions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(SIZE, SIZE)
        self.lstm = nn.LSTM(SIZE, SIZE, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(2 * SIZE, SIZE, batch_first=True)
        self.attention = nn.MultiheadAttention(SIZE, 2, batch_first=True)
        self.places = nn.Embedding(SIZE, SIZE)
        self.mix, self.own = nn.Parameter(torch.eye(SIZE)), Mix()
        self.head = nn.Linear(SIZE, CLASSES)

    def forward(self, x):
        x = self.stem(x[:, 0]) + self.places.weight
        x = self.gru(self.lstm(x)[0])[0]
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x * torch.inner(x, x).mean((2, 3))[..., None]
        return self.head(self.own(torch.einsum("btc,cd->btd", x, self.mix)).mean(1))


STAYS_FLOAT = {
    "of class Mix": ("own",),
    "of class Sequences": ("",),
    "multiplies two activations": ("",),
    "was not called": ("places",),
}

TAKING = {
    "stem",
    "head",
    *(f"attention.{name}" for name in ("in_proj", "matmul#2", "matmul#3", "out_proj")),
    *(f"lstm.{name}_l{layer}{way}" for name in ("ih", "hh") for layer in (0, 1) for way in ("", "_reverse")),
    *(f"gru.{name}_l0" for name in ("ih", "hh")),
}

DEVICE = """
schema_version = 1
name = "tiny"
title = "Tiny device"
partial_sum_bits = 20
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

CODE = f"""
import torch
from torch import nn

SIZE, CLASSES = {SIZE}, {CLASSES}

{inspect.getsource(Mix)}

{inspect.getsource(Sequences)}

def network():
    torch.manual_seed(0)
    return Sequences()
"""

SEARCH = (
    "search sequences:network --grid paper8 --data data.npz --device tiny.toml --run run --steps 2 --rounds 1 --plans 1"
)
MOVEMENT = f"movement sequences:network --input-shape 1,1,{SIZE},{SIZE} --device tiny.toml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder with a network of sequences and its data."""
    folder = tmp_path_factory.mktemp("sequences")
    (folder / "sequences.py").write_text(CODE)
    (folder / "tiny.toml").write_text(DEVICE)
    random = np.random.default_rng(0)
    arrays = {}
    for part in ("train", "val", "test"):
        labels = random.integers(0, CLASSES, 60)
        images = random.normal(0, 0.3, (60, 1, SIZE, SIZE)).astype("float32")
        images[np.arange(60), 0, labels] += 2
        arrays |= {f"x_{part}": images, f"y_{part}": labels}
    np.savez(folder / "data.npz", **arrays)
    return folder


@pytest.fixture
def own(bitq, folder, monkeypatch):
    """Runs a command in that folder and returns what it prints; the run exists after the first search."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(line):
        code, out, err = bitq(*shlex.split(line))
        assert code == 0, err
        return out, err

    if not (folder / "run" / "plan.json").exists():
        (folder / "searched.txt").write_text("\n".join(run(SEARCH)))
    return run


def document(own, line):
    return json.loads(own(f"{line} --json")[0])


def test_movement_and_search_agree_to_the_bit(own, folder):
    searched = document(own, SEARCH)
    uniform = next(row for row in searched["rows"] if row["role"] == "uniform")
    moved = document(own, f"{MOVEMENT} --formats {uniform['name'].split()[-1]}")
    for name in ("movement_bits", "energy_pj"):
        assert moved["totals"][name] == pytest.approx(uniform[name], rel=1e-14)
        assert moved["totals"][f"{name}_float"] == pytest.approx(searched["rows"][0][name], rel=1e-14)
    assert abs(moved["totals"]["movement_bits"] - uniform["movement_bits"]) < 1e-3
    assert moved["totals"]["movement_bits"] < moved["totals"]["movement_bits_float"]

    planned = document(own, f"{MOVEMENT} --formats run")
    plan = load_plan(folder / "run" / "plan.json")
    assert [entry["movement_bits"] for entry in planned["layers"]] == [layer.movement_bits for layer in plan.layers]
    assert [entry["energy_pj"] for entry in planned["layers"]] == [layer.energy_pj for layer in plan.layers]
    stays = json.loads((folder / "run" / "plan.json").read_text())["stays_float"]
    reported = document(own, "report run --layers")
    assert stays == searched["stays_float"] == planned["stays_float"] == reported["stays_float"]
    as_uniform = {part["reason"]: part for part in moved["stays_float"]}
    for part in stays:
        for name in ("modules", "layers", "movement_bits", "energy_pj", "stored_bytes"):
            assert as_uniform[part["reason"]][name] == part[name]
    for ours, theirs in zip(reported["layers"], planned["layers"], strict=True):
        for name in ("name", "module", "kind", "loops", "groups", "macs", "formats", "energy_pj", "weight_bytes"):
            assert ours[name] == theirs[name]
        assert (ours["score"] is not None) == (ours["name"] in TAKING)


def test_every_reason_has_its_modules_and_the_shares_make_the_whole(own):
    moved = document(own, f"{MOVEMENT} --formats {F}")
    found = {part["reason"]: tuple(part["modules"]) for part in moved["stays_float"]}
    assert len(found) == len(STAYS_FLOAT)
    for reason, modules in STAYS_FLOAT.items():
        assert [found[each] for each in found if reason in each] == [modules]
    floating = [entry for entry in moved["layers"] if set(entry["formats"].values()) == {None}]
    assert {entry["name"] for entry in floating} == {name for part in moved["stays_float"] for name in part["layers"]}
    assert {entry["module"] for entry in moved["layers"] if entry not in floating} == TAKING
    assert all(entry["energy_pj"] == entry["energy_pj_float"] for entry in floating)
    for amount in ("movement", "energy"):
        whole = moved["totals"]["movement_bits" if amount == "movement" else "energy_pj"]
        share = sum(part[f"{amount}_share"] for part in moved["stays_float"])
        taking = sum(
            entry["movement_bits" if amount == "movement" else "energy_pj"]
            for entry in moved["layers"]
            if entry not in floating
        )
        assert share == pytest.approx(1 - taking / whole)
        assert share > 0.05
    stored = sum(part["stored_bytes"] for part in moved["stays_float"])
    takes = ("stem", "head", "attention", "lstm", "gru")
    assert stored == stored_bytes(Sequences()) - sum(stored_bytes(getattr(Sequences(), name)) for name in takes)


def test_buffer_counts_the_same(own):
    swept = document(own, f"buffer sequences:network --input-shape 1,1,8,8 --device tiny.toml --formats {F}")
    moved = document(own, f"{MOVEMENT} --formats {F}")
    at = swept["sizes_bytes"].index(512)
    (level,) = (level for level in moved["totals"]["levels"] if level["memory"] == "SRAM")
    assert swept["series"][1]["traffic_bits"][at] == pytest.approx(level["bits"], rel=1e-14)
    out, _ = own(f"buffer sequences:network --input-shape 1,1,8,8 --device tiny.toml --formats {F}")
    assert f"own stays float: it is of class Mix; {FORMAT_CLASSES}" in " ".join(out.split())
    assert "places" not in out  # which is no part of what is counted


def test_a_search_tells_layers_scores_and_what_stays_float(own, folder):
    own("report run")
    searched, plan = (folder / "searched.txt").read_text(), load_plan(folder / "run" / "plan.json")
    shown = own("report run --layers")[0].rpartition("sequences:network on tiny: ")[0]
    assert set(shown.splitlines()) <= {*searched.splitlines(), ""}  # the same tables
    for text in ("kind", "shape", "MACs", "bits moved", "energy", "weights", "score", "stays float", "stored"):
        assert text in shown
    (stem,) = (line for line in shown.splitlines() if line.startswith("│ stem "))
    assert "8→8, 8 rows" in stem
    assert all(str(fmt) in stem for fmt in vars(plan.layers[0].formats).values())
    scores = {entry["name"]: entry["score"] for entry in document(own, "report run --layers")["layers"]}
    assert f"{100 * scores['stem']:.3f}" in stem
    assert {name for name, score in scores.items() if score is not None} == TAKING
    assert "own stays float: it is of class Mix" in searched
    page = (folder / "run" / "report.html").read_text()
    table = page.partition('id="stays-float"')[2].partition("</table>")[0]
    for part in plan.stays_float:
        assert part.reason in table
        assert f"{100 * part.energy_share:.2f}" in table or not part.layers
    assert "score" not in own(f"{MOVEMENT} --formats run")[0]


def test_steps_of_a_recurrence_are_one_line(own):
    out, _ = own(f"{MOVEMENT} --formats {F}")
    layers = record(Sequences(), torch.zeros(1, 1, SIZE, SIZE)).layers
    steps = [layer for layer in layers if layer.module == "gru.hh_l0"]
    assert len(steps) == SIZE
    (line,) = (line for line in out.splitlines() if steps[0].name in line)
    assert f"{steps[0].name} and {SIZE - 1} more" in line
    assert not any(f"│ {step.name} " in out for step in steps[1:])


@pytest.mark.parametrize("columns", [80, 100, 160])
@pytest.mark.parametrize("line", [f"{MOVEMENT} --formats {F}", f"{MOVEMENT} --formats run", "report run --layers"])
def test_tables_fit_the_terminal_and_nothing_is_cut(own, monkeypatch, columns, line):
    monkeypatch.setattr("bitq.cli.output.PIPE_COLUMNS", columns)
    out, _ = own(line)
    assert max(map(len, out.splitlines())) <= columns
    assert "…" not in out
    values = document(own, line)["layers"]
    assert all(entry["kind"] in out for entry in values)
    for heading in ("layer", "kind", "shape", "MACs", "energy", "weights"):
        assert f" {heading}" in out


def test_float32_by_choice_needs_no_reasons(own):
    out, _ = own(MOVEMENT)
    assert "stays float" not in out
    assert "formats" not in out.partition("total")[0]


def test_plans_of_earlier_versions_do_not_tell_why(own, folder):
    path = folder / "run" / "plan.json"
    text = path.read_text()
    plan = json.loads(text)
    del plan["stays_float"]
    for layer in plan["layers"]:
        del layer["weight_is_parameter"]
    path.write_text(json.dumps(plan))
    try:
        out, _ = own("report run --layers")
        assert "earlier version, which did not tell why layers stay float" in " ".join(out.split())
        assert "did not tell why layers stay float" in (folder / "run" / "report.html").read_text()
        assert document(own, "report run --layers")["stays_float"] is None
        assert own(f"{MOVEMENT} --formats run")[0].count("own: is of class Mix") == 1
    finally:
        path.write_text(text)


PIECES = {
    "linear": lambda: nn.Linear(4, 4),
    "lstm": lambda: First(nn.LSTM(4, 4, batch_first=True)),
    "gru": lambda: First(nn.GRU(4, 4, batch_first=True)),
    "attention": lambda: Self(nn.MultiheadAttention(4, 2, batch_first=True)),
    "conv": lambda: nn.Conv1d(4, 4, 1),
    "encoder": lambda: nn.TransformerEncoderLayer(4, 2, 4, batch_first=True),
    "own": lambda: Mixed(),
}


class First(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)[0]


class Self(First):
    def forward(self, x):
        return self.inner(x, x, x)[0]


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4))

    def forward(self, x):
        return x @ self.weight @ x.transpose(1, 2) @ x


@settings(max_examples=25)
@given(st.lists(st.sampled_from(sorted(PIECES)), min_size=1, max_size=5), st.sampled_from(grid(8)))
def test_what_the_search_fixes_is_what_stays_float(names, fmt):
    """For any network of these pieces: the space, the reasons and the movement in one format say the same."""
    model = nn.Sequential(nn.Linear(4, 4), *(PIECES[name]() for name in names)).eval()
    layers = trace(model, torch.zeros(1, 4, 4))
    device = load_device("eyeriss")
    space, parts = space_of(model, layers, device, 8), staying_float(model, layers)
    floating = [name for part in parts for name in part.layers]
    assert sorted(floating) == sorted(layer.name for layer in space.fixed)
    assert float_reasons(model, layers).keys() == set(floating)
    assert {layer.module for layer in layers if layer.name not in floating} == set(space.modules)
    assert set(space.modules) <= set(quantizable(model))
    index = space.formats.index(fmt)
    formats = but_floating(layers, [TensorFormats(fmt, fmt, fmt)] * len(layers), parts)
    moved = network_movement(layers, formats, device)
    cost = space.cost(space.uniform(index))
    assert sum(each.bits for each in moved) == pytest.approx(cost.movement_bits, rel=1e-12)
    told = float_parts(parts, {each.layer.name: (each.bits, each.energy_pj) for each in moved})
    assert sum(part.movement_bits for part in told) == pytest.approx(float(space.fixed_bits.sum()), rel=1e-12)
    assert all(0 <= part.movement_share <= 1 and 0 <= part.energy_share <= 1 for part in told)
    sizes = weight_sizes(layers, formats, floating)
    assert sum(size for size in sizes if size is not None) + space.other_bytes == cost.model_bytes


def test_a_network_behind_compile_is_told():
    model = nn.Sequential(nn.Linear(4, 4), torch.compile(nn.Sequential(nn.Linear(4, 2))))
    layers = trace(model, torch.zeros(1, 4))
    (part,) = staying_float(model, layers)
    assert (part.modules, part.layers, part.stored_bytes) == (("1.0",), ("1.0",), 40)
    assert "torch.compile" in part.reason


def test_a_module_that_multiplies_activations_too_keeps_its_formats():
    class Scores(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return y @ y.transpose(1, 2)

    model = nn.Sequential(Scores(4, 4))
    layers = trace(model, torch.zeros(1, 3, 4))
    assert float_reasons(model, layers) == {"0#2": ACTIVATIONS}
    (part,) = staying_float(model, layers)
    assert part == StaysFloat(ACTIVATIONS, ("0",), ("0#2",), 0)
    assert but_floating(layers, [FORMATS] * 2, [part]) == (FORMATS, TensorFormats())


def test_the_weight_of_a_module_that_is_called_twice_is_stored_once():
    layers = [Layer(name, K=8, C=16, module="fc") for name in ("fc", "fc#2")] + [Layer("node", K=2, C=3)] * 2
    assert weight_sizes(layers, [FORMATS] * 4, {}) == (83, None, 5, 5)
    assert weight_size(layers[0], F) == (8 * 16 * 5 + 8 * 3) // 8
    assert weight_size(layers[0], None) == 4 * 8 * 16


def test_names_and_sentences():
    assert names_text(["a"]) == "a"
    assert names_text(["", "b", "c", "d", "e"]) == "the network itself, b, c and 2 more"
    assert len(names_text(["n" * 500])) == 60
    assert sentence(StaysFloat("is so", ("a",), ())) == "a stays float: it is so"
    assert sentence(StaysFloat("is so", (), ("a", "b"))) == "a, b stay float: each is so"
