"""The benchmarks run, continue, say what they lack, and see the faults that they look for."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise, permutations
from pathlib import Path
from random import Random

import pytest
import torch

import kill
import large
import mappers
import movement
import subjects
import tiny
from bitq.files import write_atomically
from bitq.movement import Tiling, Widths, simulate
from bitq.movement.cache import FOLDER_VARIABLE
from bitq.store import Store
from confined import Ended, confined
from fuzzing import Case, Input, UnchangedError, kinds, seeds
from torchvision_ops import nms

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def benchmark(name, *args):
    data = {name for name in os.environ if name.startswith("BITQ_")} - {FOLDER_VARIABLE}
    environment = {name: value for name, value in os.environ.items() if name not in data}
    return subprocess.run(
        [sys.executable, BENCHMARKS / name, *map(str, args)],
        capture_output=True,
        text=True,
        env={**environment, "OMP_NUM_THREADS": "1"},
    )


def test_foreign_networks_are_tried_where_they_are_installed():
    told = benchmark("foreign.py", "--traced", "--networks", "deep-speech")
    assert told.returncode == 0, told.stderr
    cells = [cell.strip() for cell in told.stdout.splitlines()[2].split("|")[1:-1]]
    assert cells[0] == "deep-speech"
    assert cells[3:4] == cells[4:5] != [] or cells[1:] == ["left out: torchaudio not installed"]


def test_large_networks_are_measured(monkeypatch, capsys):
    monkeypatch.setenv(FOLDER_VARIABLE, "")
    with torch.random.fork_rng(devices=[]):
        for asked in (["--single", "256"], ["--scored", "1"]):
            monkeypatch.setattr(sys, "argv", ["large.py", "resnet18", "--formats", "8:e3:b16", *asked])
            large.main()
    out = capsys.readouterr().out
    assert "21 layers, weights of 45 MiB" in out
    assert "on one memory of 256 KiB" in out
    assert "63 formats of 21 layers are measured" in out
    assert out.count("peak memory") == 3


def test_boxes_that_better_ones_overlap_are_left_out():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 4], [20, 20, 30, 30], [0, 0, 10, 10]])
    scores = torch.tensor([0.5, 0.9, 0.4, 0.1, 0.5])
    assert nms(boxes, scores, 0.5).tolist() == [1, 2, 3]
    assert nms(boxes, scores, 0.95).tolist() == [1, 0, 2, 3]
    assert nms(boxes[:0], scores[:0], 0.5).tolist() == []


def test_another_mapper_that_is_missing_is_told():
    told = benchmark("mappers.py")
    assert (told.returncode, told.stdout.partition(",")[0]) == (0, "ZigZag: skipped")
    told = benchmark("mappers.py", "--zigzag-python", sys.executable, "--layers", "mobilenetv2", "--buffers", 8)
    assert told.returncode == 0, told.stderr
    assert "ZigZag failed: ModuleNotFoundError" in told.stdout.splitlines()[1]


def test_loops_of_another_mapper_are_counted_in_their_best_order():
    layer, q = movement.conv("", 4, 6, 6, 3, 1), Widths(8, 8, 4)
    loops = [[("K", 2), ("S", 3), ("K", 2)], [("Q", 3), ("C", 3), ("Q", 2)], [("P", 6), ("C", 2), ("R", 3)]]
    outer, inner = mappers.tilings_of(layer, q, loops)
    assert dict(outer.tiles) == {"N": 1, "K": 4, "C": 3, "P": 1, "Q": 6, "R": 1, "S": 3}
    assert dict(inner.tiles) == {"N": 1, "K": 4, "C": 1, "P": 1, "Q": 1, "R": 1, "S": 3}
    each = [simulate(layer, Tiling(order, outer.tiles)).bits(q) for order in permutations("PCR")]
    assert simulate(layer, outer).bits(q) == min(each) < max(each)


def test_recipes_are_compared():
    words = ["--plans", "integers", "--recipes", "untuned", "average-0.98", "--steps", 2]
    ended = benchmark("recipe.py", *words)
    assert ended.returncode == 0, ended.stderr
    rows = [line.split(" | ") for line in ended.stdout.splitlines()[2:]]
    assert [row[2] for row in rows] == ["untuned", "average-0.98"]
    assert all(80 < float(row[3]) < 94 for row in rows)


def test_contenders_are_compared_and_nothing_is_measured_twice(tmp_path):
    words = ["tradeoff.py", "--contenders", "uniform", "bitq", "--plans", 1, "--seeds", 0, "--steps", 1]
    words += ["--formats", tiny.FORMATS, "--scored", 128, "--screened", 128]
    first = benchmark(*words, "--run", tmp_path)
    assert first.returncode == 0, first.stderr
    rows = [line.split() for line in first.stdout.splitlines() if line.startswith(("uniform", "bitq "))]
    assert [row[0] for row in rows] == ["uniform", "bitq"]
    assert all(0 < float(row[1]) < 1.1 and 0 < float(row[2]) < 100 for row in rows)
    (folder,) = (path.parent for path in tmp_path.rglob("results.sqlite"))
    assert "uniform, the best of 1" in (folder / "report.html").read_text()
    with Store(folder / "results.sqlite") as store:
        known = store.evaluations()
    again = benchmark(*words, "--run", tmp_path)
    assert again.stdout == first.stdout
    with Store(folder / "results.sqlite") as store:
        assert store.evaluations() == known


def test_a_network_that_is_trained_here_is_trained_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = subjects.fashion("short", subjects.depthwise, 1, seed=0)
    (kept,) = tmp_path.rglob("short.safetensors")
    written = kept.stat().st_mtime_ns
    again = subjects.fashion("short", subjects.depthwise, 1, seed=3)
    assert kept.stat().st_mtime_ns == written
    assert not again.model.training
    with torch.inference_mode():
        assert torch.equal(again.model(first.example.zero_()), first.model(first.example))


def test_the_demo_is_compared_with_uniform_formats(tmp_path):
    few = ["--uniforms", 1, "--plans", 1, "--steps", 1, "--formats", tiny.FORMATS, "--screened", 128]
    told = benchmark("demo.py", *few, "--run", tmp_path)
    assert "chosen by validation" in told.stdout, told.stderr
    assert told.returncode == (0 if told.stdout.strip().endswith("yes") else 1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tradeoff.py", ["--networks", "resnet20"]),
        ("predictors.py", ["--network", "resnet20"]),
    ],
)
def test_missing_data_are_told(tmp_path, name, options):
    told = benchmark(name, *options, "--run", tmp_path)
    assert told.returncode == 0
    assert "resnet20: skipped: looked for CIFAR-10 as an .npz" in told.stdout


@pytest.mark.parametrize(
    ("part", "network", "what"),
    [
        ("table3", "resnet20", "CIFAR-10 as an .npz"),
        ("fig4", "espnet", "CamVid's folder"),
        ("fig6", "resnet20", "CIFAR-10 as an .npz"),
    ],
)
def test_what_of_the_paper_is_not_measured_is_told(tmp_path, part, network, what):
    told = benchmark("paper.py", part, "--networks", network, "--run", tmp_path)
    assert told.returncode == 0, told.stderr
    assert f"{network} is skipped: looked for {what}" in " ".join(told.stderr.split())
    assert "not measured" in (tmp_path / part / f"{part}.md").read_text()
    assert not list((tmp_path / part).glob("*.png"))


def test_searches_survive_being_killed(tmp_path):
    told = benchmark("kill.py", "--count", 2, "--failed", tmp_path / "failed")
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.startswith("2 searches killed, ")
    assert told.stdout.endswith(": 0 failed\n")
    assert not (tmp_path / "failed").exists()


def made(folder, **results):
    """A run folder with a plan and these results."""
    with Store(folder / "run" / "results.sqlite") as store:
        for kind, value in results.items():
            store.put(kind, {}, {"value": value, "seconds": len(str(folder))}, 1.0)
    write_atomically(folder / "run" / "plan.json", b"plan")
    return folder


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: None, []),
        (lambda folder: (folder / "run" / "plan.json").write_bytes(b"plaN"), ["run/plan.json differs"]),
        (lambda folder: (folder / "run" / "more").touch(), ["files: ['run/more']"]),
        (lambda folder: (folder / "run" / "plan.json").unlink(), ["files: ['run/plan.json']"]),
        (lambda folder: (folder / ".bitq-0.part").touch(), ["left of a killed writer: .bitq-0.part"]),
        (lambda folder: made(folder, score=2), ["results differ"]),
    ],
)
def test_what_a_kill_spoils_is_seen(tmp_path, change, told):
    folder, reference = made(tmp_path / "killed", float=1), made(tmp_path / "undisturbed", float=1)
    change(folder)
    found = list(kill.differences(folder, reference))
    assert len(found) == len(told)
    assert all(text in line for text, line in zip(told, found, strict=True))


def test_a_search_is_killed_before_every_write(tmp_path, monkeypatch):
    def command():
        made(Path.cwd(), float=1)

    monkeypatch.setattr(kill, "command", command)
    (tmp_path / "whole").mkdir()
    whole = kill.run(tmp_path / "whole", ())
    assert (whole.code, len(whole.kept)) == (0, 1)
    plans, stored = [], []
    for write in range(1, whole.writes + 2):
        folder = tmp_path / str(write)
        folder.mkdir()
        ended = kill.run(folder, (), kill.Kill(write))
        assert ended.code == (-signal.SIGKILL if write <= whole.writes else 0)
        plans.append((folder / "run" / "plan.json").exists())
        stored.append(len(kill.results(folder / "run")))
    assert plans == sorted(plans)
    assert stored == sorted(stored)
    assert (plans[0], plans[-1], stored[0], stored[-1]) == (False, True, 0, 1)


def test_what_is_done_twice_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(kill, "command", lambda: made(Path.cwd(), float=1))
    told = list(kill.killed(made(tmp_path, float=1), (), [kill.Kill(seconds=60)], kill.random.Random(0), {}))
    assert len(told) == 2
    assert all("done although it was finished" in line for line in told)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Good inputs of every kind."""
    folder = tmp_path_factory.mktemp("seeds")
    seeds.make(folder)
    return folder


def contents(folder):
    regular = {path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 1 << 24}
    return {
        str(path.relative_to(folder)): path.read_bytes() if path in regular else path.lstat().st_mode
        for path in folder.rglob("*")
        if not path.is_symlink()
    }


@pytest.mark.parametrize("kind", kinds())
def test_inputs_to_be_changed_are_right_as_they_are(kind, good, tmp_path):
    case = Case(kinds()[kind], 0, 0)
    given, changes = case.build(good, tmp_path / "in", [])
    ended = confined(given.words, given.folder)
    wanting = kind == "checkpoint"  # which is read before the data that are not there
    assert (ended.code, ended.fault, changes) == (2 if wanting else 0, "", ()), ended.err
    assert "none.npz" in ended.sentence or not wanting


@pytest.mark.parametrize("kind", kinds())
def test_a_case_is_made_again_from_its_number(kind, good, tmp_path):
    made = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        for index in range(6):
            case = Case(kinds()[kind], 5, index)
            given, changes = case.build(good, tmp_path / name / str(index), range(case.count))
            made.append((name, given.words, changes))
    one, other = ([each[1:] for each in made if each[0] == name] for name in ("one", "other"))
    assert one == other
    assert any(changes for _, changes in one)
    assert kind == "run" or contents(tmp_path / "one") == contents(tmp_path / "other")  # SQLite counts its changes


@pytest.mark.parametrize("kind", kinds())
def test_every_change_can_be_made(kind, good, tmp_path):
    for place, change in enumerate(dict.fromkeys(kinds()[kind].changes)):
        for number in range(40):
            given, _ = Case(kinds()[kind], 0, number).build(good, tmp_path / f"{place}-{number}", [])
            with suppress(UnchangedError):
                assert change(Random(number), given)
                break
        else:
            pytest.fail(f"{change} changes nothing")


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "/dev/zero", "a/../../b", "link/a", "a\0b", "x" * 100])
def test_nothing_is_changed_outside_of_a_folder(name, tmp_path):
    (tmp_path / "link").symlink_to("/")
    with pytest.raises(UnchangedError):
        Input(tmp_path, []).path(name)


@pytest.mark.parametrize(
    ("end", "fault"),
    [
        ({"code": 0, "out": '{"a": 1e308}'}, ""),
        ({"code": 0, "out": '{"a": 1e400}'}, "no number"),
        ({"code": 0, "out": '{"a": NaN}'}, "no number"),
        ({"code": 0, "out": '{"a": 1}{}'}, "no number"),
        ({"code": 0, "out": "\x1b[31mred"}, "control characters"),
        ({"code": 0, "left": ("a",)}, "a file outside"),
        ({"code": 2, "err": "10 of 20\nError: d.toml is not TOML; write TOML\n"}, ""),
        ({"code": 2, "err": "d.toml is not TOML\n"}, "no sentence"),
        ({"code": 2, "err": "Error: [Errno 2] no file"}, "internal name"),
        ({"code": 2, "err": "Error: d.toml: memories.0 is no _MemoryFile"}, "internal name"),
        ({"code": 2, "err": "Error: c.pt is damaged: ValueError"}, "internal name"),
        ({"code": 2, "err": "Error: calling 'a:b' without arguments failed: ValueError: c"}, ""),
        ({"code": 2, "err": "Error: a: Input should be a valid string"}, "internal name"),
        ({"code": 2, "err": "Error: " + "x" * 1400}, "long message"),
        ({"code": 1, "err": "Traceback (most recent call last):\nKeyError: 1"}, "traceback"),
        ({"code": 3}, "exit 3"),
        ({"code": -6}, "SIGABRT"),
        ({"code": -9, "stopped": "time"}, "time"),
    ],
)
def test_every_fault_of_an_end_is_seen(end, fault):
    assert Ended(**{"out": "", "err": "", "seconds": 0.1, "memory_bytes": 1, **end}).fault == fault


def test_hostile_inputs_are_counted_and_what_fails_can_be_repeated(tmp_path):
    told = benchmark("fuzz.py", "--count", len(kinds()), "--processes", 1, "--keep", tmp_path)
    (total,) = (line for line in told.stdout.splitlines() if "total" in line)
    cases, right, refused, failed = map(int, total.replace("│", " ").split()[1:5])
    assert cases == right + refused + failed == len(kinds())
    assert told.returncode == bool(failed)
    assert bool(failed) == any(tmp_path.glob("*/run.sh"))


@pytest.mark.skipif(not shutil.which("arm-none-eabi-gcc"), reason="needs gcc-arm-none-eabi and libnewlib-arm-none-eabi")
@pytest.mark.skipif(not shutil.which("qemu-system-arm"), reason="needs qemu-system-arm")
def test_instructions_of_exported_c_are_counted():
    told = benchmark("instructions.py", "--formats", "int8/int8-tensor", "8:e3:b16")
    assert told.returncode == 0, told.stderr
    int8, blocks = [line.strip("| ").split(" | ") for line in told.stdout.splitlines()[2:]]
    assert (int8[0], int8[6], blocks[0]) == ("int8/int8-tensor", "1.00", "8:e3:b16")
    assert 1.0 < float(blocks[6]) == pytest.approx(float(blocks[5]) / float(int8[5]), abs=0.01)
    assert int(int8[1]) > int(blocks[1]) > 0


def test_formats_are_measured_for_the_readme():
    names = ["mxint8", "8:e4:b16", "4:e2:b8"]
    told = benchmark("formats.py", "--formats", *names, "--images", 1, "--seconds", 0, "--threads", 1)
    assert told.returncode == 0, told.stderr
    heading, _, *rows = [line.strip("| ").split(" | ") for line in told.stdout.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == names
    assert [row[1] for row in rows] == ["8.25 / 8.25", "4.25 / 4.028", "2.25 / 2.028"]
    for worse, better in pairwise(reversed(rows)):
        assert len(worse) == len(better) == len(heading)
        assert all(0 < float(low) < float(high) < 60 for low, high in zip(worse[2:6], better[2:6], strict=True))
