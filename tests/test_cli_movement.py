"""`bitq movement` and `bitq devices` as a user meets them."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from bitq.cli.given import read_inputs
from bitq.cli.output import PIPE_COLUMNS, bits_text, bytes_text, count_text, energy_text, ratio_text, times_text
from bitq.devices import device_names, load_device
from bitq.formats import BlockFormat, TensorFormats
from bitq.layers import GEOMETRY, LOOPS
from bitq.movement import Widths, lower_bound, simulate
from bitq.movement.levels import movement
from bitq.movement.network import layer_movement, traffic_bits

FORMAT = BlockFormat(8, 3, 16)
UNIFORM = TensorFormats(FORMAT, FORMAT, FORMAT)
DEVICE = "stm32f103c8"

NETWORK = """
import torch

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1, groups=1)

    def forward(self, x):
        y = self.conv(x).flatten(2)
        return y @ y.transpose(1, 2)

def network():
    return Network()

def bad():
    return 3

def empty():
    return torch.nn.ReLU()
"""


def test_movement_as_json_is_the_models(bitq, demo_layers):
    code, out, err = bitq("movement", "demo", "--device", DEVICE, "--formats", FORMAT, "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert (document["network"], document["device"]) == ("demo", DEVICE)
    assert document["input_shape"] == [1, 1, 28, 28]
    device = load_device(DEVICE)
    assert [entry["name"] for entry in document["layers"]] == [layer.name for layer in demo_layers]
    for layer, entry in zip(demo_layers, document["layers"], strict=True):
        moved, original = (
            layer_movement(layer, UNIFORM, device),
            layer_movement(layer, TensorFormats(), device),
        )
        assert entry["loops"] == {loop: getattr(layer, loop) for loop in LOOPS}
        assert entry["macs"] == layer.macs
        assert entry["formats"] == {"input": "8:e3:b16", "weight": "8:e3:b16", "output": "8:e3:b16"}
        assert (entry["movement_bits"], entry["movement_bits_float"]) == (moved.bits, original.bits)
        assert (entry["energy_pj"], entry["energy_pj_float"]) == (moved.energy_pj, original.energy_pj)
        for level, told in zip(moved.levels, entry["levels"], strict=True):
            assert told["tiles"] == dict(level.tiling.tiles)
            assert tuple(told["permutation"]) == level.tiling.permutation
            assert told["traffic_bits"] == traffic_bits(level.traffic, moved.widths)
            assert told["over_lower_bound"] == level.bits / told["lower_bound_bits"]
        bound = lower_bound(layer, moved.widths, device.boundaries[0][0].capacity_bits)
        assert entry["levels"][0]["lower_bound_bits"] == bound
        outermost = simulate(layer, moved.levels[0].tiling).bits(moved.widths)
        assert sum(entry["levels"][0]["traffic_bits"].values()) == pytest.approx(outermost, rel=1e-12)
    totals = document["totals"]
    for name in ("macs", "movement_bits", "movement_bits_float", "energy_pj", "energy_pj_float"):
        assert totals[name] == sum(entry[name] for entry in document["layers"])
    assert totals["macs"] == 2_602_176
    assert totals["normalized_energy"] == totals["energy_pj"] / totals["energy_pj_float"]
    assert 0.1 < totals["normalized_energy"] < 0.25  # 8 of 32 bits, and tiles four times as large
    assert [(level["source"], level["memory"]) for level in totals["levels"]] == [
        ("external", "SRAM"),
        ("SRAM", "registers"),
    ]
    assert sum(level["bits"] for level in totals["levels"]) == pytest.approx(totals["movement_bits"])
    assert sum(level["energy_pj_float"] for level in totals["levels"]) == pytest.approx(
        totals["energy_pj_float"]
    )


def test_movement_is_that_of_float_by_default(bitq):
    document = json.loads(bitq("movement", "demo", "--device", DEVICE, "--json")[1])
    assert all(set(entry["formats"].values()) == {None} for entry in document["layers"])
    assert document["totals"]["normalized_energy"] == 1
    assert document["totals"]["movement_bits"] == document["totals"]["movement_bits_float"]


def test_movement_as_a_table(bitq, demo_layers):
    code, out, err = bitq("movement", "demo", "--device", DEVICE, "--formats", FORMAT)
    assert (code, err) == (0, "")
    for layer in demo_layers:
        moved = layer_movement(layer, UNIFORM, load_device(DEVICE))
        (row,) = (line for line in out.splitlines() if f" {layer.name} " in line)
        for text in (count_text(layer.macs), *(bits_text(level.bits) for level in moved.levels)):
            assert f" {text} " in row
        assert energy_text(moved.energy_pj) in row
        assert all(times_text(level.over_bound) in row for level in moved.levels)
    (total,) = (line for line in out.splitlines() if " total " in line)
    assert "2.60 M" in total
    assert max(map(len, out.splitlines())) <= PIPE_COLUMNS


def test_movement_is_told_beside_that_of_8_bit_integers(bitq, demo_layers):
    words = ("movement", "demo", "--device", DEVICE, "--formats", FORMAT)
    document, table = json.loads(bitq(*words, "--json")[1]), bitq(*words)[1]
    eight = [movement(layer, Widths(input=8.0, output=8.0, weight=8.0), load_device(DEVICE)) for layer in demo_layers]
    plain = [sum(level.bits for level in levels) for levels in eight]
    assert [layer["movement_bits_int8"] for layer in document["layers"]] == plain
    totals = document["totals"]
    assert totals["movement_bits_int8"] == sum(plain)
    (total,) = (line for line in table.splitlines() if " total " in line)
    assert f" {ratio_text(totals['movement_bits'], sum(plain))} " in total


@pytest.fixture(scope="session")
def demo_plan(demo_layers, tmp_path_factory):
    """A plan for the demo with another block size in every other layer."""

    def formats(layer, i):
        size = 4 << i % 2
        entry = {"bits": 8, "exponent_bits": 3, "block_size": size, "exponent_bias": 0}
        return {"input": entry, "weight": {**entry, "exponent_bits": 4}, "output": None}

    layers = [
        {
            "name": layer.name,
            "module": layer.module,
            "loops": {loop: getattr(layer, loop) for loop in LOOPS},
            "groups": layer.groups,
            **formats(layer, i),
            "levels": [],
        }
        for i, layer in enumerate(demo_layers)
    ]
    amounts = ("movement_bits", "dram_bits", "energy_pj", "model_bytes")
    totals = dict.fromkeys([*amounts, *(f"{name}_float" for name in amounts)], 0) | {"movement_bits_max": 1}
    plan = {
        "schema_version": 1,
        "network": "demo",
        "device": DEVICE,
        "bits": 8,
        "alpha": 0.2,
        "layers": layers,
        "totals": {**totals, "accuracy": 0.9, "accuracy_float": 0.9, "objective": 0.1},
    }
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_text(json.dumps(plan))
    return path


def test_movement_of_a_plan(bitq, demo_plan):
    code, out, _ = bitq("movement", "demo", "--device", DEVICE, "--formats", demo_plan, "--json")
    assert code == 0
    for i, entry in enumerate(json.loads(out)["layers"]):
        size = 4 << i % 2
        assert entry["formats"] == {"input": f"8:e3:b{size}", "weight": f"8:e4:b{size}", "output": None}
        assert entry["width_bits"]["output"] == 32
    assert "demo_plan" not in out
    shown = bitq("movement", "demo", "--device", DEVICE, "--format", demo_plan.parent)[1]
    assert f"plan {demo_plan}" in shown.replace("\n", "")


def test_a_plan_of_another_network_is_refused(mistake, demo_plan, tmp_path):
    def movement(path, *more):
        return mistake("movement", "demo", "--device", DEVICE, "--formats", path, *more)

    assert "other loops" in movement(demo_plan, "--input-shape", "2,1,28,28")
    plan = json.loads(demo_plan.read_text())
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**plan, "layers": plan["layers"][1:]}))
    assert "plans network 'demo'" in movement(path)
    assert "no layer '0'" in movement(path)
    path.write_text(json.dumps({**plan, "layers": [*plan["layers"], {**plan["layers"][0], "name": "more"}]}))
    assert "'more' is only in the plan" in movement(path)
    assert "no plan at" in movement(tmp_path / "none.json")


@pytest.mark.parametrize("field", GEOMETRY)
def test_a_plan_of_a_network_that_walks_otherwise_is_refused(mistake, bitq, demo_plan, demo_layers, tmp_path, field):
    """All loops are the same; plans of earlier versions do not tell."""
    plan = json.loads(demo_plan.read_text())
    for entry, layer in zip(plan["layers"], demo_layers, strict=True):
        entry.update({name: getattr(layer, name) for name in GEOMETRY})
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    words = ("movement", "demo", "--device", DEVICE, "--formats")
    assert bitq(*words, path)[0] == bitq(*words, demo_plan)[0] == 0
    own, other = getattr(demo_layers[2], field), (7, 3)
    plan["layers"][2][field] = other
    path.write_text(json.dumps(plan))
    told = f"its layer {demo_layers[2].name!r} has {field.replace('_', ' ')} {other}, not {own}"
    assert told in mistake(*words, path)


@pytest.fixture
def own_network(tmp_path, monkeypatch):
    """A module of the user's own in the current folder."""
    name = f"network_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_movement_of_a_users_network(bitq, own_network):
    shape = ("--input-shape", "2,3,10,10", "--formats", FORMAT)
    code, out, err = bitq("movement", f"{own_network}:network", "--device", "eyeriss", "--json", *shape)
    assert (code, err) == (0, "")
    conv, product = json.loads(out)["layers"]
    assert (conv["name"], conv["loops"]["N"], conv["weight_is_parameter"]) == ("conv", 2, True)
    assert conv["width_bits"] == {"input": 6.0, "weight": 5 + 3 / 27, "output": 5 + 3 / 8, "partial_sum": 5 + 3 / 8}
    assert product["weight_is_parameter"] is False
    assert set(conv["formats"].values()) == {str(FORMAT)}
    assert set(product["formats"].values()) == {str(FORMAT)}
    assert all(5 < width <= 8 for width in product["width_bits"].values())
    assert product["energy_pj"] < 0.3 * product["energy_pj_float"]


def test_mistakes_about_networks(mistake, own_network):
    shape = ("--device", "eyeriss", "--input-shape", "1,3,8,8")
    assert "--input-shape, such as" in mistake("movement", f"{own_network}:network", "--device", "eyeriss")
    assert "torch.nn.Module" in mistake("movement", f"{own_network}:bad", *shape)
    assert "must compute a convolution or matrix product" in mistake(
        "movement", f"{own_network}:empty", *shape
    )
    assert "none" in mistake("movement", f"{own_network}:none", *shape)
    assert "(1, 4, 8, 8)" in mistake("movement", f"{own_network}:network", *shape[:3], "1,4,8,8")


SEVERAL = """
import torch
from torch import nn

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, ids, mask, scale=None):
        x = self.encoder(self.embed(ids), src_key_padding_mask=~mask)
        return x if scale is None else x * scale

class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.step = nn.Linear(4, 4)

    def forward(self, x, steps):
        for _ in range(int(steps)):
            x = self.step(x)
        return x
"""


@pytest.fixture
def several(own_network, tmp_path):
    (tmp_path / f"several_{own_network}.py").write_text(SEVERAL)
    return f"several_{own_network}"


def inputs(*texts):
    return [word for text in texts for word in ("--input", text)]


def test_movement_of_a_network_of_several_inputs(bitq, several):
    command = ("movement", f"{several}:Encoder", "--device", "eyeriss", "--json")
    found = [
        json.loads(bitq(*command, *inputs(*texts))[1])["layers"]
        for texts in (
            ("ids:int64[2,12]", "mask:bool[2,12]"),
            ("mask:bool[2,12]", "ids:int32[2,12]:0..49"),
            ("int64[2,12]", "bool[2,12]"),
            ("mask:bool[2,12]", "int64[2,12]"),
            ("ids:int64[2,12]", "mask:bool[2,12]", "scale:float32[16]"),
        )
    ]
    assert all(each == found[0] for each in found)
    assert [layer["loops"]["N"] for layer in found[0] if layer["name"].endswith("linear1")] == [2 * 12]
    assert sum(layer["macs"] for layer in found[0]) == 2 * 12 * 16 * (3 * 16 + 16 + 2 * 32) + 2 * 2 * 12 * 12 * 16


def test_buffer_of_a_network_of_several_inputs(bitq, several):
    given = inputs("ids:int64[1,8]", "mask:bool[1,8]")
    code, out, err = bitq("buffer", f"{several}:Encoder", "--from", "1KiB", "--to", "2KiB", "--json", *given)
    assert (code, err) == (0, "")
    assert json.loads(out)


def test_a_single_number_is_looked_at(bitq, several):
    for span, count in (("3..3", 3), ("7..7", 7)):
        given = inputs("float32[1,4]", f"steps:int64[]:{span}")
        out = bitq("movement", f"{several}:Steps", "--device", "eyeriss", "--json", *given)[1]
        assert len(json.loads(out)["layers"]) == count


def test_a_number_of_a_range_is_drawn_once_for_all():
    drawn = [read_inputs(["n:int64[]:2..90", "x:float32[]:-0.5..0.5"]) for _ in range(2)]
    numbers = [[each.example().item() for each in inputs] for inputs in drawn]
    assert numbers[0] == numbers[1]
    assert 2 <= numbers[0][0] <= 90
    assert -0.5 <= numbers[0][1] <= 0.5


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["ids"], "--input 'ids' must read [NAME:]DTYPE[SHAPE], such as ids:int64[1,128]"),
        (["ids:int64[1,8]:0-9"], "must read [NAME:]DTYPE[SHAPE]"),
        (["ids:long[1,8]"], "has the type 'long'; it must be one of float32,"),
        (["ids:int64[1,0]"], "the shape of --input 'ids:int64[1,0]' must be whole numbers above 0"),
        (["ids:int64[99999999,99999999]"], "has over 1000000000000 elements"),
        (["ids:int64[1" + ",1" * 16 + "]"], "has 17 axes; it must have at most 16"),
        (["ids:int64[1,8]:9..0"], "must end in a range LEAST..MOST of whole numbers from -9"),
        (["ids:uint8[1,8]:0..256"], "of whole numbers from 0 to 255, such as 0..9"),
        (["mask:bool[1,8]:0..2"], "of whole numbers from 0 to 1, such as 0..1"),
        (["x:float32[1,8]:0..nan"], "of numbers from -3e+38 to 3e+38"),
        (["ids:int64[1,8]", "ids:int64[1,8]"], "--input is given twice for 'ids'; give it once"),
        (["ids:int64[1,8]"], "needs input 'mask', too; give it"),
        (["ids:int64[1,8]", "maks:bool[1,8]"], "has no input 'maks'; its inputs are ids, mask, scale"),
        (["int64[1,8]"] * 4, "has 3 inputs (ids, mask, scale), not 4"),
        (["int64[1,8]"] * 65, "--input is given 65 times; networks have at most 64 inputs"),
        (["ids:float32[1,8]", "mask:bool[1,8]"], "the network cannot run on an input of (1, 8) float32, (1, 8) bool"),
    ],
)
def test_inputs_that_cannot_be_are_told(mistake, several, texts, reason):
    said = mistake("movement", f"{several}:Encoder", "--device", "eyeriss", *inputs(*texts))
    assert reason in said


def test_inputs_and_a_shape_exclude_each_other(mistake, several):
    both = (*inputs("ids:int64[1,8]"), "--input-shape", "1,8")
    assert "give one of them" in mistake("movement", f"{several}:Encoder", "--device", "eyeriss", *both)


@pytest.mark.parametrize("shape", ["", "1,", "1,0,3,3", "-1,3", "a", "1x2", "1.5"])
def test_shapes_are_whole_numbers(mistake, shape):
    assert "whole numbers" in mistake("movement", "demo", "--device", DEVICE, "--input-shape", shape)


@pytest.mark.parametrize("shape", ["1,1,9999999999,9999999999", "1,99999999999999999999,3,3"])
def test_shapes_are_of_this_world(mistake, shape):
    assert "elements" in mistake("movement", "demo", "--device", DEVICE, "--input-shape", shape)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["movement"], "Missing argument"),
        (["movement", "demo"], "--device"),
        (["movement", "demo", "--device", "none"], "no device 'none'"),
        (["movement", "demo", "--device", DEVICE, "--formats", "8"], "neither such as 8:e3:b16"),
        (["movement", "demo", "--device", DEVICE, "--format", "8:e7:b1"], "mantissa"),
        (["movement", "demo", "--device", DEVICE, "--fromat", "8:e3:b16"], "--format"),
        (["movement", "demo", "more", "--device", DEVICE], "more"),
        (["devices", "none"], "no device 'none'"),
        (["devices", "a" * 5000], "no device 'aaa"),
        (["device"], "devices"),
    ],
)
def test_mistakes_are_told_in_one_sentence(mistake, args, reason):
    assert reason in mistake(*args)


DEVICE_FILE = """
schema_version = 1
name = "own"
title = "[red]T[/red]"
[[memories]]
name = "[b]"
capacity_bytes = {}
source = "see [bold]the :smile: manual[/]"
[[memories]]
name = "[/]"
source = "made up"
"""


def test_a_memory_too_small_names_the_layer(mistake, tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(DEVICE_FILE.format(1))
    assert "layer '0' fits no tiling in 8 bits" in mistake("movement", "demo", "--device", path)


def test_a_device_without_energies_has_no_ratio(bitq, tmp_path):
    path = tmp_path / "free.toml"
    path.write_text(DEVICE_FILE.format(9000))
    assert (
        json.loads(bitq("movement", "demo", "--device", path, "--json")[1])["totals"]["normalized_energy"]
        is None
    )
    code, out, _ = bitq("movement", "demo", "--device", path)
    assert code == 0
    assert "0 µJ" in out


def test_a_device_may_keep_wider_partial_sums(bitq, tmp_path, demo_layers):
    path = tmp_path / "wide.toml"
    path.write_text(DEVICE_FILE.format(900).replace('title = "[red]T[/red]"', 'title = "T"\npartial_sum_bits = 20'))
    code, out, _ = bitq("movement", "demo", "--device", path, "--formats", FORMAT)
    assert code == 0
    assert "8:e3:b16, partial sums of 20 bits or more" in " ".join(out.split())
    document = json.loads(bitq("movement", "demo", "--device", path, "--formats", FORMAT, "--json")[1])
    device = load_device(path)
    for layer, entry in zip(demo_layers, document["layers"], strict=True):
        assert entry["width_bits"]["partial_sum"] == 20
        (level,), (told,) = layer_movement(layer, UNIFORM, device).levels, entry["levels"]
        moved, bits = level.traffic, told["traffic_bits"]
        assert bits["output_reads"] == 20 * moved.output_reads
        assert bits["output_writes"] == pytest.approx(
            20 * moved.output_reads + entry["width_bits"]["output"] * layer.N * layer.K * layer.P * layer.Q
        )
    path.write_text(DEVICE_FILE.format(900))
    narrow = json.loads(bitq("movement", "demo", "--device", path, "--formats", FORMAT, "--json")[1])
    assert narrow["totals"]["movement_bits"] < document["totals"]["movement_bits"]
    path.write_text(DEVICE_FILE.format(900).replace('title = "[red]T[/red]"', 'title = "T"\npartial_sum_bits = 20'))
    assert "Partial sums take 20 bits or more" in bitq("devices", path)[1]
    assert json.loads(bitq("devices", path, "--json")[1])["partial_sum_bits"] == 20


def test_names_are_shown_as_they_are(bitq, tmp_path):
    path = tmp_path / "device.toml"
    path.write_text(DEVICE_FILE.format(9000))
    out = bitq("devices", path)[1]
    for text in ("[red]T[/red]", "[b]", "[/]", "see [bold]the :smile: manual[/]", "8.79 KiB"):
        assert text in out


def test_devices_are_listed_and_explained(bitq):
    code, out, err = bitq("devices")
    assert (code, err) == (0, "")
    document = json.loads(bitq("devices", "--json")[1])
    assert [entry["name"] for entry in document["devices"]] == list(device_names())
    for entry in document["devices"]:
        assert entry["name"] in out
        assert json.loads(bitq("devices", entry["name"], "--json")[1]) == entry
        told = " ".join(re.sub(r"[│\s]+", " ", bitq("devices", entry["name"])[1]).split())
        assert entry["title"] in told
        for memory in entry["memories"]:
            assert memory["name"] in told
            assert memory["source"].split()[0] in told
        assert [memory["capacity_bits"] is None for memory in entry["memories"]][-2:] == [False, True]


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands(bitq, args):
    code, out, err = bitq(*args)
    assert (code, err) == (0, "")
    assert "movement" in out
    assert "devices" in out


@pytest.mark.parametrize("name", ["movement", "devices"])
def test_help_gives_an_example_that_works(bitq, name):
    code, out, err = bitq(name, "--help")
    assert (code, err) == (0, "")
    (example,) = re.findall(r"Example: bitq (.*)", out)
    assert bitq(*example.split())[0] == 0


def command(*args, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "bitq", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_help_and_devices_do_not_wait_for_torch():
    script = (
        "import sys; from bitq.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    for args in (["--help"], ["devices", "eyeriss"], ["movement", "demo", "--device", "none"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *args], capture_output=True, text=True, check=False
        )
        assert "AssertionError" not in done.stderr
        assert done.returncode == (2 if "none" in args else 0)


def test_an_interrupt_is_told_in_a_sentence(tmp_path):
    (tmp_path / "slow.py").write_text("import time\nopen('started', 'w').close()\ntime.sleep(60)\n")
    process = command(
        "movement",
        "slow:network",
        "--device",
        DEVICE,
        "--input-shape",
        "1,1",
        "--json",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
    )
    while not (tmp_path / "started").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "Error: interrupted before the end\n")


def test_a_reader_that_leaves_early_is_no_failure_to_talk_about():
    process = command("devices", "--json")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (bits_text(0), "0 bit"),
        (bits_text(999), "999 bit"),
        (bits_text(999.6), "1.00 kbit"),
        (bits_text(12345), "12.3 kbit"),
        (bits_text(999_999), "1.00 Mbit"),
        (bits_text(33_230_336), "33.2 Mbit"),
        (bits_text(5e18), "5000 Pbit"),
        (bytes_text(52), "52 B"),
        (bytes_text(32768), "32 KiB"),
        (bytes_text(16 << 20), "16 MiB"),
        (count_text(640), "640"),
        (count_text(1_814_073_344), "1.81 G"),
        (energy_text(2.5e6), "2.50 µJ"),
        (energy_text(123_456e6), "123456 µJ"),
        (energy_text(10), "1.00e-05 µJ"),
        (ratio_text(1, 3), "33.3 %"),
        (ratio_text(1, 0), "-"),
        (times_text(1), "1.00×"),
        (times_text(9.996), "10.0×"),
        (times_text(33.04), "33.0×"),
        (times_text(2048), "2048×"),
    ],
)
def test_numbers_for_readers(text, expected):
    assert text == expected
