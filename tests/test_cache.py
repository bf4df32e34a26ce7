"""What is solved once is not solved again: within a network, and on disk whatever happens to the files."""

import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitq.devices import load_device
from bitq.errors import Infeasible
from bitq.formats import TensorFormats, grid
from bitq.layers import Layer
from bitq.movement import cache, levels, network
from bitq.movement.levels import movement_many, plan_many
from bitq.planning import Minimize, Planning
from strategies import devices, table, widths
from strategies import layers as random_layers

TOGETHER = load_device("stm32h743")
DEVICE = replace(TOGETHER, planned=Planning.one_by_one)
LAYER = Layer("conv", K=6, C=4, P=5, Q=5, R=3, S=3, padding=(1, 1))
TRIPLES = np.array([[8, 4.02, 9.125], [5 + 1 / 3, 32, 0.1], [5.125, 4.02, 5.125], [8, 4.02, 9.125]])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path))
    return tmp_path / "movement"


@pytest.fixture
def computed(monkeypatch):
    """Names of the layers that were computed, not read."""
    names, compute = [], levels._plan_table

    def recorded(layer, triples, device):
        names.append(layer.name)
        return compute(layer, triples, device)

    monkeypatch.setattr(levels, "_plan_table", recorded)
    return names


def without_cache(layer, triples, device=DEVICE):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.FOLDER_VARIABLE, "")
        return movement_many(layer, triples, device)


def entries(folder):
    return sorted(folder.iterdir())


@given(st.data())
@settings(max_examples=40)
def test_what_is_read_equals_what_is_computed_to_the_bit(data):
    layer, device = data.draw(random_layers()), data.draw(devices())
    rows = table(data.draw(st.lists(widths(), min_size=1, max_size=6)))
    cold = movement_many(layer, rows, device)
    warm = movement_many(replace(layer, name="again", module="m", weight_is_parameter=False), rows, device)
    assert cold.tobytes() == warm.tobytes() == without_cache(layer, rows, device).tobytes()
    assert warm.shape == cold.shape == (len(rows), len(device.boundaries))
    assert warm.dtype == cold.dtype == np.float64


def test_plans_are_read_as_they_were_written(folder):
    cold, warm = (plan_many(LAYER, TRIPLES, TOGETHER) for _ in range(2))
    assert len(entries(folder)) == 1
    assert warm.plans == cold.plans
    assert warm.chosen.tolist() == cold.chosen.tolist()
    assert warm.chosen.dtype == cold.chosen.dtype


def test_names_do_not_matter_but_everything_else_does(folder, computed):
    others = (
        *(replace(LAYER, **{loop: 2 * LAYER.extent(loop)}, input_size=None) for loop in "NKCPQRS"),
        replace(LAYER, stride=(2, 1)),
        replace(LAYER, dilation=(1, 2)),
        replace(LAYER, padding=(0, 1)),
        replace(LAYER, groups=2),
        replace(LAYER, input_size=(4, 5)),
        replace(LAYER, input_dilation=(2, 1)),
    )
    for layer in (LAYER, *others, replace(LAYER, name="same", module="m", weight_is_parameter=False)):
        assert movement_many(layer, TRIPLES, DEVICE).tobytes() == without_cache(layer, TRIPLES).tobytes()
    assert len(entries(folder)) == len(others) + 1
    computed.clear()
    *inner, last = DEVICE.memories
    larger = replace(DEVICE, memories=(*inner[:-1], replace(inner[-1], capacity_bits=8e6), last))
    sums, wider = np.column_stack([TRIPLES, TRIPLES[:, 2] + 8]), replace(DEVICE, partial_sum_bits=32.0)
    others = ((TRIPLES[::-1], DEVICE), (TRIPLES[:3], DEVICE), (TRIPLES, larger), (sums, DEVICE), (TRIPLES, wider))
    others += ((TRIPLES, TOGETHER), (TRIPLES, replace(TOGETHER, minimize=Minimize.energy)))
    for triples, device in others:
        movement_many(LAYER, triples, device)
    assert computed == ["conv"] * 7
    for triples, device in ((TRIPLES.tolist(), DEVICE), (TRIPLES, replace(larger, name="other"))):
        movement_many(LAYER, triples, device)
    assert computed == ["conv"] * 7


def test_other_code_has_other_entries(folder, computed, monkeypatch):
    movement_many(LAYER, TRIPLES, DEVICE)
    monkeypatch.setattr(cache, "_CODE", bytes(32))
    movement_many(LAYER, TRIPLES, DEVICE)
    assert computed == ["conv"] * 2
    assert len(entries(folder)) == 2


def test_the_caller_owns_what_it_gets(folder):
    first = movement_many(LAYER, TRIPLES, DEVICE)
    expected = first.copy()
    first[:] = 0
    second = movement_many(LAYER, TRIPLES, DEVICE)
    assert second.tobytes() == expected.tobytes()
    second[:] = 0
    assert movement_many(LAYER, TRIPLES, DEVICE).tobytes() == expected.tobytes()


def test_an_error_is_told_each_time_and_not_kept(folder):
    tiny = replace(DEVICE, memories=(replace(DEVICE.memories[0], capacity_bits=3.0), DEVICE.memories[-1]))
    for name in ("one", "two"):
        with pytest.raises(Infeasible, match=f"layer '{name}' fits no tiling"):
            movement_many(replace(LAYER, name=name), TRIPLES, tiny)
    assert not folder.exists()


def test_any_damaged_byte_and_any_cut_is_noticed(folder, computed):
    expected = movement_many(LAYER, TRIPLES, DEVICE).tobytes()
    (entry,) = entries(folder)
    whole = entry.read_bytes()
    damaged = [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(len(whole))]
    damaged += [whole[:at] for at in range(len(whole))] + [whole + b"\0", whole * 2, bytes(len(whole))]
    for content in damaged:
        entry.write_bytes(content)
        assert movement_many(LAYER, TRIPLES, DEVICE).tobytes() == expected
        assert entry.read_bytes() == whole
    assert len(computed) == 1 + len(damaged)


def test_an_entry_under_another_name_is_not_taken(folder, computed):
    other = replace(LAYER, K=7)
    movement_many(LAYER, TRIPLES, DEVICE)
    (entry,) = entries(folder)
    movement_many(other, TRIPLES, DEVICE)
    (name,) = {path.name for path in folder.iterdir()} - {entry.name}
    entry.replace(folder / name)
    assert movement_many(other, TRIPLES, DEVICE).tobytes() == without_cache(other, TRIPLES).tobytes()
    assert len(computed) == 4


@pytest.mark.parametrize("obstacle", ["file in place of the folder", "entry is a folder", "read only"])
def test_a_folder_that_cannot_be_used_just_computes(folder, obstacle):
    expected = without_cache(LAYER, TRIPLES).tobytes()
    if obstacle == "file in place of the folder":
        folder.write_text("mine")
    elif obstacle == "entry is a folder":
        movement_many(LAYER, TRIPLES, DEVICE)
        (entry,) = entries(folder)
        entry.unlink()
        (entry / "inside").mkdir(parents=True)
    else:
        folder.mkdir()
        folder.chmod(0o500)
    for _ in range(2):
        assert movement_many(LAYER, TRIPLES, DEVICE).tobytes() == expected
    if obstacle == "file in place of the folder":
        assert folder.read_text() == "mine"
    elif obstacle == "entry is a folder":
        assert [path.is_dir() for path in entries(folder)] == [True], "no temporary file stays behind"


def test_nothing_is_kept_where_the_folder_is_empty(tmp_path, monkeypatch, computed):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(cache.FOLDER_VARIABLE, "")
    for _ in range(2):
        movement_many(LAYER, TRIPLES, DEVICE)
    assert computed == ["conv"] * 2
    assert not list(tmp_path.iterdir())


def test_without_the_variable_it_is_the_users_own_cache(tmp_path, monkeypatch, computed):
    monkeypatch.delenv(cache.FOLDER_VARIABLE)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name, appauthor: str(tmp_path / name))
    for _ in range(2):
        movement_many(LAYER, TRIPLES, DEVICE)
    assert computed == ["conv"]
    assert len(entries(tmp_path / "bitq" / "movement")) == 1


def test_what_was_not_used_for_longest_goes_first(folder, computed, monkeypatch):
    several = [replace(LAYER, name=f"k{k}", K=k) for k in range(1, 6)]
    for age, layer in enumerate(several):
        known = set(folder.iterdir()) if age else set()
        movement_many(layer, TRIPLES, DEVICE)
        (new,) = set(folder.iterdir()) - known
        os.utime(new, (1000 + age, 1000 + age))
    stranger = folder / "notes.txt"
    stranger.write_text("not ours")
    movement_many(several[0], TRIPLES, DEVICE)  # used again
    computed.clear()
    monkeypatch.setattr(cache, "MOST_ENTRIES", 3)
    movement_many(replace(LAYER, name="new", K=9), TRIPLES, DEVICE)
    left = {path for path in folder.iterdir() if path != stranger}
    assert len(left) == 3
    monkeypatch.setattr(cache, "MOST_ENTRIES", 100)
    for layer in (several[0], several[4], *several[1:4]):
        movement_many(layer, TRIPLES, DEVICE)
    assert computed == ["new", "k2", "k3", "k4"]

    size = max(path.stat().st_size for path in left)
    monkeypatch.setattr(cache, "MOST_BYTES", 2 * size)
    movement_many(replace(LAYER, K=10), TRIPLES, DEVICE)
    assert len(entries(folder)) == 2 + 1
    assert stranger.read_text() == "not ours"


def test_a_network_solves_equal_shapes_and_formats_once(monkeypatch):
    solved, solve = [], network.layer_movement

    def recorded(layer, *args):
        solved.append(layer.name)
        return solve(layer, *args)

    monkeypatch.setattr(network, "layer_movement", recorded)
    three = [TensorFormats(*[fmt] * 3) for fmt in grid(8)[:2]] + [TensorFormats()]
    asked = [
        (LAYER, three[0]),
        (replace(LAYER, name="same", module="m"), three[0]),
        (replace(LAYER, name="other format"), three[1]),
        (replace(LAYER, name="other shape", K=7), three[0]),
        (replace(LAYER, name="two activations", weight_is_parameter=False), three[0]),
        (replace(LAYER, name="float"), three[2]),
        (LAYER, three[1]),
    ]
    steps = []
    moved = network.network_movement(*zip(*asked, strict=True), DEVICE, lambda *step: steps.append(step))
    assert solved == ["conv", "other format", "other shape", "two activations", "float"]
    assert moved == tuple(solve(layer, formats, DEVICE) for layer, formats in asked)
    assert list(dict.fromkeys(steps)) == [(done, len(asked)) for done in range(len(asked))]  # told again and again


def write_often(root, start, failures):
    os.environ[cache.FOLDER_VARIABLE] = root
    cache.MOST_ENTRIES = 4
    start.wait()
    for turn in range(60):
        layer = replace(LAYER, K=1 + turn % 6)
        table = movement_many(layer, TRIPLES, DEVICE)
        if table.tobytes() != without_cache(layer, TRIPLES).tobytes():
            failures.value += 1


def test_processes_write_and_evict_at_once(tmp_path):
    spawn = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    start, failures = spawn.Barrier(3), spawn.Value("i", 0)
    writers = [spawn.Process(target=write_often, args=(str(tmp_path), start, failures)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert failures.value == 0
    assert len(entries(tmp_path / "movement")) <= 4 + 2  # what the others' last eviction did not see yet


def test_another_process_reads_what_this_one_wrote(folder):
    expected = movement_many(LAYER, TRIPLES, DEVICE)
    (entry,) = entries(folder)
    before = entry.stat().st_ino
    program = (
        "import sys; from bitq import Layer, load_device; from bitq.movement.levels import movement_many\n"
        "import bitq.movement.levels as levels; levels._fill = None\n"
        f"layer = {LAYER!r}\n"
        f"table = movement_many(layer, {TRIPLES.tolist()!r}, load_device('stm32h743'))\n"
        "sys.stdout.write(table.tobytes().hex())"
    )
    path = os.pathsep.join([str(Path(cache.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    read = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (read.stderr, bytes.fromhex(read.stdout)) == ("", expected.tobytes())
    assert entry.stat().st_ino == before
