"""`bitq evaluate NETWORK --formats`: the ladder as a user meets it."""

import json

import numpy as np
import pytest
import safetensors.torch

import tiny
from bitq.accuracy.evaluate import score

NETWORK = "import tiny\ndef make():\n    return tiny.network(seed=3)\n"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a network's code, its trained weights and its data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_ladder.py").write_text(NETWORK)
    safetensors.torch.save_file(tiny.trained().state_dict(), tmp_path / "net.safetensors")
    arrays = {}
    for number, part in enumerate(("train", "val", "test")):
        images, labels = tiny.images(200, number)
        scaled = ((images[:, 0, :, :, None] + 4) * 28).clamp(0, 255).byte()
        arrays |= {f"x_{part}": scaled.numpy(), f"y_{part}": labels.numpy()}
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path


WORDS = ("evaluate", "own_ladder:make", "--checkpoint", "net.safetensors", "--data", "data.npz", "--mean", "0.56")
FORMATS = ("--formats", "float32,8:e2..e3:b4")


def test_a_network_of_ones_own_in_some_formats(bitq, own):
    code, out, _ = bitq(*WORDS, "--std", "0.14", *FORMATS, "--json")
    rows = json.loads(out)["rows"]
    assert code == 0
    assert [row["name"] for row in rows] == ["float32", "8:e2:b4", "8:e3:b4"]
    assert rows[0]["accuracy"] > 0.5  # guessing gives 0.25
    assert rows[0]["movement_bits"] > rows[1]["movement_bits"] > rows[2]["movement_bits"]
    code, out, _ = bitq(*WORDS, "--std", "0.14", *FORMATS)
    assert code == 0
    assert all(f"{100 * row['accuracy']:.2f} %" in out and row["name"] in out for row in rows)


def test_the_demo_is_measured_as_a_network_and_as_a_run(bitq, tmp_path, monkeypatch):
    from bitq import demo

    monkeypatch.chdir(tmp_path)
    code, out, _ = bitq("evaluate", "demo", "--formats", "float32", "--json")
    (row,) = json.loads(out)["rows"]
    found = demo.load()
    assert code == 0
    assert row["accuracy"] == pytest.approx(score(found.model, [(found.test_images, found.test_labels)]).accuracy)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("demo",), "there is no folder 'demo'; to measure a network, name formats: bitq evaluate demo --formats"),
        (("net:make",), "there is no folder 'net:make'; to measure a network, name formats"),
        (("runs/none", "--device", "eyeriss"), "--device belongs to --formats"),
        (("runs/none", "--checkpoint", "x.pt"), "--checkpoint belongs to --formats"),
        (("net:make", "--formats", "float32"), "needs --data"),
        (("demo", "--formats", "int:8"), "element 'int' at character 1"),
        (("demo", "--formats", "float32", "--network", "a:b"), "is the network itself; leave --network out"),
        (("demo", "--formats", "float32", "--device", "none"), "no device 'none'"),
    ],
)
def test_mistakes_are_told_in_a_sentence(bitq, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = bitq("evaluate", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
