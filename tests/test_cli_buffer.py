"""`bitq buffer`, and the CSV of `bitq movement`, as a user meets them."""

import csv
import io
import json
import xml.etree.ElementTree as ET
from dataclasses import asdict

import pytest

from bitq.cli.output import PIPE_COLUMNS, bits_text
from bitq.devices import load_device
from bitq.formats import BlockFormat, TensorFormats
from bitq.layers import LOOPS
from bitq.movement.network import layer_movement, traffic_bits
from bitq.movement.sweep import sweep
from bitq.report.sweep import verdicts

E3, E5 = BlockFormat(8, 3, 16), BlockFormat(16, 5, 16)
DEVICE = "stm32f103c8"
ENDS = ("--from", "2KiB", "--to", "20480")


@pytest.fixture(scope="session")
def demo_sweep(demo_layers):
    formats = {str(fmt): [TensorFormats(fmt, fmt, fmt)] * len(demo_layers) for fmt in (E3, E5)}
    return sweep(demo_layers, formats, load_device(DEVICE), least_bytes=2048, most_bytes=20480)


def both(*more):
    return ("buffer", "demo", "--formats", E3, "--format", E5, *ENDS, *more)


def test_json_is_the_sweep(bitq, demo_sweep):
    code, out, err = bitq(*both("--json"))
    assert (code, err) == (0, "")
    expected = json.loads(json.dumps(asdict(demo_sweep)))
    assert json.loads(out) == {"network": "demo", "input_shape": [1, 1, 28, 28], **expected}


def test_the_table_and_the_answer_in_words(bitq, demo_sweep):
    code, out, err = bitq(*both())
    assert (code, err) == (0, "")
    for series in demo_sweep.series:
        (row,) = (line for line in out.splitlines() if f"│ {series.name} " in line)
        assert f" {bits_text(series.traffic_bits[demo_sweep.reference])} " in row
        assert f" {bits_text(series.floor_bits)} " in row
    assert out.splitlines()[-2:] == verdicts(demo_sweep)
    assert max(map(len, out.splitlines())) <= PIPE_COLUMNS


def test_csv_has_a_line_for_every_point(bitq, demo_sweep, tmp_path):
    path = tmp_path / "curves.csv"
    code, out, _ = bitq(*both("--out", path))
    assert code == 0
    assert f"Written: {path}" in out.replace("\n", "")
    records = list(csv.DictReader(path.open()))
    points = [
        (series.name, size, bits, energy, series.floor_bits)
        for series in demo_sweep.series
        for size, bits, energy in zip(demo_sweep.sizes_bytes, series.traffic_bits, series.energy_pj, strict=True)
    ]
    numbers = ("memory_bytes", "traffic_bits", "energy_pj", "traffic_bits_floor")
    assert [(record["formats"], *(float(record[name]) for name in numbers)) for record in records] == points
    assert {record["memory"] for record in records} == {"SRAM"}


def test_pictures_stand_alone(bitq, demo_sweep, tmp_path):
    svg, png = tmp_path / "plot.svg", tmp_path / "deep" / "plot.PNG"
    assert bitq(*both("--out", svg))[0] == 0
    text = svg.read_text(encoding="utf-8")
    shown = " ".join(ET.fromstring(text).itertext())
    for words in (*verdicts(demo_sweep), "float32", "8:e3:b16", "16:e5:b16", "size of SRAM", "SRAM of 20 KiB"):
        assert words in shown
    assert "currentColor" not in text
    assert "href" not in text.replace("xmlns:xlink", "")
    assert bitq(*both("--out", png))[0] == 0
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert len(png.read_bytes()) > 20_000


def test_another_memory(bitq):
    arguments = ("buffer", "demo", "--device", "stm32h743", "--memory", "DTCM", "--from", "64 KiB", "--json")
    code, out, _ = bitq(*arguments)
    document = json.loads(out)
    assert code == 0
    assert (document["memory"], document["source"]) == ("DTCM", "AXI SRAM")
    assert (document["sizes_bytes"][0], document["sizes_bytes"][-1]) == (65536, 524288)
    assert [series["name"] for series in document["series"]] == ["float32", "8:e3:b16"]


def test_a_plan_is_one_more_series(bitq, demo_layers, tmp_path):
    entry = {"bits": 8, "exponent_bits": 3, "block_size": 16, "exponent_bias": 0}
    plan = {
        "schema_version": 1,
        "network": "demo",
        "device": DEVICE,
        "bits": 8,
        "alpha": 0.2,
        "layers": [
            {
                "name": layer.name,
                "module": layer.module,
                "loops": {loop: getattr(layer, loop) for loop in LOOPS},
                "groups": layer.groups,
                **dict.fromkeys(("input", "weight", "output"), entry),
                "levels": [],
            }
            for layer in demo_layers
        ],
        "totals": dict.fromkeys(
            [
                f"{name}{of}"
                for name in ("movement_bits", "dram_bits", "energy_pj", "model_bytes")
                for of in ("", "_float")
            ]
            + ["accuracy", "accuracy_float", "objective"],
            0,
        )
        | {"movement_bits_max": 1},
    }
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    document = json.loads(bitq("buffer", "demo", "--formats", path, *ENDS, "--json")[1])
    assert [series["name"] for series in document["series"]] == ["float32", "plan"]
    beside = json.loads(bitq("buffer", "demo", "--formats", E3, "--formats", tmp_path, *ENDS, "--json")[1])
    _, uniform, planned = beside["series"]
    assert uniform["traffic_bits"] == planned["traffic_bits"] == document["series"][1]["traffic_bits"]
    assert (uniform["name"], planned["name"]) == ("8:e3:b16", "plan")
    again = tmp_path / "again.json"
    again.write_bytes(path.read_bytes())
    two = json.loads(bitq("buffer", "demo", "--formats", path, "--formats", again, *ENDS, "--json")[1])
    assert [series["name"] for series in two["series"]] == ["float32", f"plan {path}", f"plan {again}"]


def test_mistakes_are_told_in_a_sentence(mistake, tmp_path):
    assert "must end in .png, .svg, .csv" in mistake("buffer", "demo", "--out", tmp_path / "plot.pdf")
    for size in ("", "2 kB", "0", "0.5B", "-1KiB", "1e3", "much", "²KiB"):
        assert "must be a size of at least a byte" in mistake("buffer", "demo", f"--from={size}")
    assert "4096 to 1024 bytes" in mistake("buffer", "demo", "--from", "4KiB", "--to", "1KiB")
    assert "neither such as 8:e3:b16 nor the plan.json" in mistake("buffer", "demo", "--formats", "integers")
    assert "element 'int' at character 1" in mistake("buffer", "demo", "--formats", "int:8")
    assert "no memory 'L2'" in mistake("buffer", "demo", "--memory", "L2")
    assert "fits no tiling" in mistake("buffer", "demo", "--memory", "registers", "--from", "5B")
    assert "no plan at" in mistake("buffer", "demo", "--formats", tmp_path / "plan.json")
    assert not list(tmp_path.iterdir())


def test_movement_as_csv_is_the_models(bitq, mistake, demo_layers):
    code, out, err = bitq("movement", "demo", "--device", DEVICE, "--formats", E3, "--csv")
    assert (code, err) == (0, "")
    records = iter(csv.DictReader(io.StringIO(out)))
    device, uniform = load_device(DEVICE), TensorFormats(E3, E3, E3)
    for layer in demo_layers:
        moved, original = layer_movement(layer, uniform, device), layer_movement(layer, TensorFormats(), device)
        for level, before in zip(moved.levels, original.levels, strict=True):
            bits, bits_float = traffic_bits(level.traffic, moved.widths), traffic_bits(before.traffic, original.widths)
            energy = energy_float = 0.0
            for part, (tensor, direction) in {
                "input": ("input", "read"),
                "weight": ("weight", "read"),
                "output_writes": ("output", "written"),
                "output_reads": ("output", "read"),
            }.items():
                record = next(records)
                assert (record["layer"], record["memory"], record["source"]) == (layer.name, level.memory, level.source)
                assert (record["tensor"], record["direction"], record["format"]) == (tensor, direction, "8:e3:b16")
                assert float(record["width_bits"]) == getattr(moved.widths, tensor)
                assert record["partial_sum_width_bits"] == (str(moved.widths.partial_sum) if tensor == "output" else "")
                assert float(record["traffic_bits"]) == bits[part]
                assert float(record["level_over_lower_bound"]) == level.over_bound
                assert float(record["traffic_bits_float"]) == bits_float[part]
                energy += float(record["energy_pj"])
                energy_float += float(record["energy_pj_float"])
            assert energy == pytest.approx(level.energy_pj, rel=1e-12)
            assert energy_float == pytest.approx(before.energy_pj, rel=1e-12)
    assert next(records, None) is None
    assert "exclude each other" in mistake("movement", "demo", "--device", DEVICE, "--csv", "--json")
