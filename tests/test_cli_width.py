"""Every table of every command fits a terminal of 80 columns, and nothing in it is cut short."""

from dataclasses import replace

import pytest
import safetensors.torch
from rich.cells import cell_len

from bitq import demo
from bitq.demo import load as demo_load
from bitq.demo.resnet8 import resnet8
from report_example import demo_layers, make_run

COLUMNS = 80


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of the demo, as a search leaves it."""
    folder = tmp_path_factory.mktemp("width") / "run"
    folder.mkdir()
    make_run(folder, demo_layers(), predicted=20)
    safetensors.torch.save_file(resnet8().state_dict(), folder.parent / "net.safetensors")
    return folder


def few():
    """The demo with some images only."""
    whole = demo_load()
    splits = [f"{split}_{what}" for split in ("train", "validation", "test") for what in ("images", "labels")]
    return replace(whole, **{name: getattr(whole, name)[::40] for name in splits})


@pytest.mark.parametrize(
    "words",
    [
        "search demo --effort quick --steps 1 --run search",
        "report run --layers",
        "evaluate demo --formats float32,8:e4:b16",
        "movement demo --device stm32f103c8",
        "movement demo --device stm32f103c8 --formats 8:e4:b16",
        "movement demo --device i7-10700f --formats run",
        "movement demo --device eyeriss --formats run --minimize energy",
        "buffer demo --formats 8:e3:b16 --formats run --from 4KiB --to 32KiB",
        "buffer demo --device eyeriss --from 90KiB --to 128KiB",
        "devices",
        "devices stm32h743",
        "devices i7-10700f",
        "quantize net.safetensors --format 8:e4:b16 packed.safetensors",
    ],
)
def test_no_line_is_wider_than_the_terminal(bitq, run, monkeypatch, words):
    monkeypatch.chdir(run.parent)
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setattr(demo, "load", few)
    code, out, err = bitq(*words.split())
    assert code == 0, err
    assert max(cell_len(line) for line in out.splitlines()) <= COLUMNS
    assert "…" not in out
