"""No option is taken and then does nothing: where it would, the command says so in one sentence."""

from dataclasses import dataclass

import numpy as np
import pytest
import typer
from PIL import Image

from bitq.cli import app
from report_example import demo_layers, make_run

NETWORK = """
from torch import nn

def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(75, 4))

def table():
    return nn.Linear(3, 4)
"""
ALL, CHECKPOINT = "", "w.safetensors"
VALUES = {
    "--image-size": 8,
    "--channels": 1,
    "--mean": "0",
    "--std": "1",
    "--limit": 8,
    "--seed": 1,
    "--data": "images.npz",
    "--checkpoint": CHECKPOINT,
    "--device": "stm32h743",
    "--batch-size": 8,
    "--network": "demo",
    "--steps": 9,
    "--learning-rate": 1e-3,
    "--rounds": 1,
    "--plans": 1,
    "--uniforms": 1,
    "--within": 1,
    "--max-accuracy-loss": 0.1,
    "--input-shape": "1,1,28,28",
    "--input": "float32[1,1,28,28]",
    "--workers": 2,
    "--ray": "auto",
    "--format": "8:e4:b8",
    "--stored": "paper",
    "--plan": "run",
    "--formats": "int8",
    "--weights": "int8",
    "--activations": "int8",
    "--task": "segment",
    "--void": "255",
}
FLAGS = ("--amp", "--without-qat", "--without-movement", "--without-tradeoff", "--ablations", "--csv", "--json")


@dataclass(frozen=True)
class Idle:
    """Options that do nothing beside these words of a command, and what it says."""

    words: str
    options: str
    says: str


ARRAYS = "search {nets}:flat --data images.npz"
TABLE = "search {nets}:table --data table.csv"
NUMBERS = "search {nets}:table --data numbers.npz"
IDLE = (
    Idle(ARRAYS, "--image-size --channels", "taken as they are, of one size and 3 channels; leave {} out"),
    Idle(TABLE, "--image-size --channels --mean --std", "table.csv holds no images; leave {} out"),
    Idle(NUMBERS, "--image-size --channels --mean --std", "numbers.npz holds no images; leave {} out"),
    Idle("search demo", "--image-size --channels --mean --std --limit --task", "its network needs them; leave {} out"),
    Idle(ARRAYS, "--void", "is of masks, which this task has none of; leave it out"),
    Idle("search {nets}:flat --task detect --data boxes", "--void", "is of masks, which this task has none of"),
    Idle("search {nets}:flat --task segment-instances --data boxes", "--void", "is of masks, which this task has none"),
    Idle("search demo", "--data --checkpoint", "the demo has its own data and checkpoint; leave --data and"),
    Idle("search demo --without-qat", "--steps --learning-rate --amp", "with --without-qat; leave {} out"),
    Idle("search demo --without-movement", "--rounds --plans --uniforms --within", "--without-movement; leave {} out"),
    Idle("search demo --without-tradeoff", "--rounds --plans --uniforms --within", "--without-tradeoff; leave {} out"),
    Idle("search demo --without-qat", "--without-movement --without-tradeoff --ablations", "at a time"),
    Idle("search demo --grid paper8", "--formats --weights --activations", "tensors choose from; leave {} out"),
    Idle("compare demo --grid paper8", "--formats --weights --activations", "tensors choose from; leave {} out"),
    Idle("search demo --within 1", "--max-accuracy-loss", "not both"),
    Idle("search demo --workers 2", "--ray", "not both"),
    Idle("compare demo --workers 2", "--ray", "not both"),
    Idle("compare {nets}:flat --data images.npz", "--image-size --channels", "leave {} out"),
    Idle("compare {nets}:table --data table.csv", "--image-size --channels --mean --std", "no images; leave {} out"),
    Idle("compare demo", "--image-size --channels --mean --std --limit --task", "its network needs them; leave {} out"),
    Idle("compare demo", "--void", "as its network needs them; leave {} out"),
    Idle("compare demo", "--data --checkpoint", "the demo has its own data and checkpoint; leave --data and"),
    Idle("compare demo --without-qat", "--steps --learning-rate --amp", "with --without-qat; leave {} out"),
    Idle("evaluate demo --formats float32", "--image-size --channels --mean --std --limit", "leave {} out"),
    Idle("evaluate demo --formats float32", "--data --checkpoint", "leave --data and --checkpoint out"),
    Idle("evaluate demo --formats float32", "--seed", "nothing is drawn from the demo's data; leave {} out"),
    Idle("evaluate demo --formats float32", "--network", "is the network itself; leave {} out"),
    Idle("evaluate {nets}:flat --formats float32 --data images.npz", "--image-size --channels", "leave {} out"),
    Idle("evaluate {nets}:table --formats float32 --data table.csv", "--mean --std", "leave {} out"),
    Idle("evaluate {run}", "--checkpoint --device --batch-size --stored", "{} belongs to --formats"),
    Idle("evaluate {run}", "--image-size --channels --mean --std --limit --task --void", "leave {} out"),
    Idle("evaluate {run}", "--seed", "nothing is drawn from the demo's data; leave {} out"),
    Idle("evaluate {run}", "--data", "leave --data and --checkpoint out"),
    Idle("evaluate {run} --network {nets}:flat --data images.npz", "--image-size --channels", "leave {} out"),
    Idle("movement demo --device stm32f103c8 --input-shape 1,1,28,28", "--input", "give one of them"),
    Idle("movement demo --device stm32f103c8 --json", "--csv", "give one of them"),
    Idle("buffer demo --input-shape 1,1,28,28", "--input", "give one of them"),
    Idle("export {run} --out net.onnx --input-shape 1,1,28,28", "--input", "give one of them"),
    Idle("export {run} --out net.json --to tenstorrent", "--input-shape --input", "depends on no input; leave {} out"),
    Idle("export {run} --onnx net.onnx --out out.onnx", "--network --checkpoint --input", "leave {} out"),
    Idle("quantize in.safetensors out.safetensors --plan run", "--format", "give either --plan"),
)
EVERYWHERE = {
    "search": "--device --levels --minimize --run --grid --formats --weights --activations --output-as-input --alpha "
    "--stored --effort --seed --max-movement --max-energy --max-model-bytes --max-ram --batch-size --input "
    "--metric --json --traceback",
    "compare": "--device --levels --minimize --run --rules --grid --formats --weights --activations "
    "--output-as-input --alpha --stored --max-accuracy-loss --within --seeds --plans --batch-size --metric --json "
    "--traceback",
    "evaluate": "--formats --metric --json --traceback",
    "movement": "--device --formats --levels --minimize --json --traceback",
    "buffer": "--device --memory --formats --levels --minimize --from --to --out --json --traceback",
    "quantize": "--json --traceback",
    "export": "--to --target --network --checkpoint --json --traceback",
    "report": "--alpha --layers --salvage --json --traceback",
    "devices": "--json --traceback",
    "formats": "--json --traceback",
}
"""Options that change what comes out whatever the input is, which other tests hold."""


def _id(part):
    return part.words if isinstance(part, Idle) else part


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A folder with data of each kind as the current one; the name of a module of networks for them."""
    name = f"nets_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    labels = np.arange(40) % 4
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 5, 3), np.uint8)
    np.savez("images.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    numbers = np.ones((40, 3), np.float32)
    np.savez("numbers.npz", x_train=numbers, y_train=labels, x_test=numbers, y_test=labels)
    (tmp_path / "table.csv").write_text("a,b,c,label\n" + "".join(f"1,2,3,{label}\n" for label in labels))
    return name


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of the demo, as far as these commands read it."""
    folder = tmp_path_factory.mktemp("idle") / "run"
    folder.mkdir()
    make_run(folder, demo_layers(), predicted=5)
    return folder


@pytest.mark.parametrize(
    ("idle", "option"), [(each, option) for each in IDLE for option in each.options.split()], ids=_id
)
def test_an_option_that_would_do_nothing_is_refused(mistake, nets, run, idle, option):
    words = idle.words.format(nets=nets, run=run).split()
    given = [option] if option in FLAGS else [option, VALUES[option]]
    told = mistake(*words, *given)
    assert idle.says.format(option) in told
    assert told.count(". ") == 0


def test_every_option_of_every_command_is_in_the_table():
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        listed = {option for each in IDLE if each.words.startswith(f"{name} ") for option in each.options.split()}
        listed |= {word for each in IDLE if each.words.startswith(f"{name} ") for word in each.words.split()}
        listed |= set(EVERYWHERE[name].split())
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert listed & set(parameter.opts), f"{name} {parameter.opts}: say where it does nothing"


def test_options_for_a_folder_of_images_are_taken(bitq, mistake, nets, tmp_path):
    for number in range(20):
        folder = tmp_path / "images" / f"c{number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 7), (number, 0, 0)).save(folder / f"{number}.png")
    options = ("--image-size", 5, "--channels", 3, "--mean", "0.5", "--std", "0.5", "--limit", 10, "--seed", 3)
    code, out, err = bitq("evaluate", f"{nets}:flat", "--data", "images", "--formats", "float32", *options)
    assert code == 0, err
    assert "float32" in out
