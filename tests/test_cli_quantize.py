"""`bitq quantize`: a checkpoint and a plan become the file the plan promised, without any model code."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import bitq
import tiny
from bitq.accuracy.quantized import apply
from bitq.cli import main
from bitq.formats import BlockFormat, TensorFormats, parse_format
from bitq.tracing import trace
from bitq.tradeoff import weights
from bitq.tradeoff.plan import Plan, load_plan
from bitq.tradeoff.space import build_space, stored_bytes

FORMAT = BlockFormat(8, 3, 4)


def network():
    """Every kind of layer; nothing in the shape of the first transposed weight tells that it is one."""
    return nn.Sequential(
        nn.Conv2d(3, 6, (3, 2), groups=3),
        nn.BatchNorm2d(6),
        nn.ConvTranspose2d(6, 6, 3),
        nn.ConvTranspose2d(6, 10, (2, 3), 2, groups=2),
        nn.Flatten(2),
        nn.Conv1d(10, 7, 5),
        nn.Linear(374, 9),
    )


def planned(model, shape, tmp_path):
    """A plan that gives every layer another format, its path, and the formats."""
    layers = trace(model, torch.empty(shape, device="meta"))
    formats = {layer.module: BlockFormat(8, 2 + i, (1, 4, 48, 3, 2)[i]) for i, layer in enumerate(layers)}
    weights = {layer.module: model.get_submodule(layer.module).weight.nbytes for layer in layers}
    space = build_space(layers, weights, stored_bytes(model), tiny.DEVICE, tuple(formats.values()))
    cost = space.cost([(i, i, i) for i in range(len(layers))])
    document = {
        "network": "all", "device": "tiny", "bits": 8, "alpha": 0.2,
        "layers": [
            {
                "name": layer.name, "module": layer.module, "groups": layer.groups, "levels": [],
                "loops": {loop: getattr(layer, loop) for loop in "NKCPQRS"},
                "transposed": isinstance(model.get_submodule(layer.module), nn.ConvTranspose2d),
                **{
                    tensor: {
                        "bits": 8, "exponent_bits": fmt.exponent_bits, "block_size": fmt.block_size,
                        "exponent_bias": -3,
                    }
                    for tensor in ("input", "weight", "output")
                },
            }
            for layer, fmt in zip(layers, formats.values(), strict=True)
        ],
        "totals": dict.fromkeys(
            ["accuracy", "accuracy_float", "movement_bits", "movement_bits_float", "movement_bits_max", "dram_bits",
             "dram_bits_float", "energy_pj", "energy_pj_float", "model_bytes_float", "objective"], 0,
        ) | {"model_bytes": cost.model_bytes, "movement_bits_max": 1},
    }  # fmt: skip
    plan = Plan.model_validate(document)
    plan.save(tmp_path / "plan.json")
    return plan, formats


def run(*args):
    """`bitq quantize` with these arguments: its exit code."""
    with pytest.raises(SystemExit) as stop:
        main(["quantize", *map(str, args)])
    return stop.value.code


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(3)
    return tmp_path


def data_bytes(path):
    """Bytes of a safetensors file after its header."""
    content = path.read_bytes()
    return len(content) - 8 - struct.unpack("<Q", content[:8])[0]


def test_a_plan_packs_every_layer_as_applying_it_does(folder, capsys):
    model = network()
    plan, formats = planned(model, (1, 3, 9, 9), folder)
    safetensors.torch.save_model(model, "in.safetensors")
    assert run("in.safetensors", "--plan", "plan.json", "out.safetensors", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in told["packed"]] == sorted(f"{module}.weight" for module in formats)
    assert told["tensor_bytes"] == data_bytes(folder / "out.safetensors") == plan.totals.model_bytes
    assert told["file_bytes"] == (folder / "out.safetensors").stat().st_size
    assert told["tensor_bytes_before"] == data_bytes(folder / "in.safetensors")

    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bitq.apply(model, plan)
    for module in formats:
        expected[f"{module}.weight"] = bitq.weight_in_use(model.get_submodule(module)).detach()
    loaded = bitq.load_weights("out.safetensors")
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(loaded[name], tensor), name
        assert loaded[name].dtype == tensor.dtype
    network().load_state_dict(loaded)

    weights.save_weights(folder / "saved.safetensors", model, plan.formats())
    assert (folder / "saved.safetensors").read_bytes() == (folder / "out.safetensors").read_bytes()


def test_what_is_written_is_a_safetensors_file_of_anyone(folder):
    model = network()
    planned(model, (1, 3, 9, 9), folder)
    safetensors.torch.save_file(model.state_dict(), "in.safetensors", {"format": "pt"})
    assert run("in.safetensors", "--plan", ".", "out.safetensors") == 0
    tensors = safetensors.torch.load_file("out.safetensors")
    assert torch.equal(tensors["1.running_var"], model[1].running_var)
    assert tensors["0.weight"].dtype == torch.uint8
    with safetensors.safe_open("out.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
    assert struct.unpack("<Q", (folder / "out.safetensors").read_bytes()[:8])[0] % 8 == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_format_for_every_weight(folder, capsys, dtype):
    model = tiny.network().to(dtype)
    safetensors.torch.save_file(model.state_dict(), "in.safetensors")
    assert run("in.safetensors", "--format", FORMAT, "out.safetensors") == 0
    assert "3 of 14 tensors packed" in capsys.readouterr().out
    loaded = bitq.load_weights(folder / "out.safetensors")
    apply(model, dict.fromkeys(("0", "3", "8"), TensorFormats(weight=FORMAT)))
    for name in ("0", "3", "8"):
        assert torch.equal(loaded[f"{name}.weight"], bitq.weight_in_use(model.get_submodule(name)))
    assert torch.equal(loaded["1.weight"], model[1].weight)


def mistakes():
    """Arguments and a word of the sentence that tells what is wrong."""
    plan = ("--plan", "plan.json")
    return [
        (("in.safetensors", "out.safetensors"), "either --plan"),
        (("in.safetensors", *plan, "--format", "8:e4:b16", "out.safetensors"), "either --plan"),
        (("in.safetensors", "--format", "8:e9", "out.safetensors"), "scale 'e9' at character 3"),
        (("in.safetensors", "--plan", "none.json", "out.safetensors"), "no plan at"),
        (("none.safetensors", *plan, "out.safetensors"), "there is no file none.safetensors; give"),
        (("plan.json", *plan, "out.safetensors"), "plan.json is damaged, or no safetensors file"),
        (("in.safetensors", *plan, "in.safetensors"), "is the checkpoint itself"),
        (("packed.safetensors", *plan, "out.safetensors"), "packed weights already"),
        (("other.safetensors", *plan, "out.safetensors"), "has no '0.weight'"),
        (("shapes.safetensors", *plan, "out.safetensors"), "'2.weight' of shape (6, 6, 3, 2)"),
        (("nan.safetensors", *plan, "out.safetensors"), "'5.weight': cannot pack"),
        (("double.safetensors", *plan, "out.safetensors"), "of type F64"),
        (("norms.safetensors", "--format", "8:e4:b16", "out.safetensors"), "no weight to pack"),
        (("in.safetensors", *plan, "plan.json/out.safetensors"), "plan.json"),
    ]


@pytest.mark.parametrize("name", ["0.weight", "other"])
@pytest.mark.parametrize("shape", [[0, 2**40 + 1], [0, 2**63], [0, 2**64 - 1], [0, *[2**40] * 4]])
def test_empty_tensors_that_claim_absurd_axes_are_refused(folder, capsys, name, shape):
    entries = {
        "1.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        name: {"dtype": "F32", "shape": shape, "data_offsets": [16, 16]},
    }
    header = json.dumps(entries).encode()
    (folder / "in.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    assert run("in.safetensors", "--format", "8:e3:b16", "out.safetensors") == 2
    message = capsys.readouterr().err
    assert f"in.safetensors is damaged: the axes of {name!r} that are not empty" in message
    assert not (folder / "out.safetensors").exists()


@pytest.mark.parametrize(("args", "word"), mistakes())
def test_mistakes_are_told_in_one_sentence_and_nothing_is_written(folder, capsys, args, word):
    model = network()
    planned(model, (1, 3, 9, 9), folder)
    state = model.state_dict()
    save = safetensors.torch.save_file
    save(state, "in.safetensors")
    save({"weight": torch.ones(3, 3)}, "other.safetensors")
    save({"norm.weight": torch.ones(3)}, "norms.safetensors")
    save(state | {"2.weight": torch.ones(6, 6, 3, 2)}, "shapes.safetensors")
    save(state | {"5.weight": torch.full((7, 10, 5), torch.nan)}, "nan.safetensors")
    save({name: tensor.double() for name, tensor in state.items()}, "double.safetensors")
    weights.save_weights(folder / "packed.safetensors", model, {"0": TensorFormats(weight=FORMAT)})
    before = sorted(folder.iterdir())
    assert run(*args) == 2
    message = capsys.readouterr().err
    assert word in message
    assert message.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_progress_and_interrupts(folder):
    state = {f"{i}.weight": torch.randn(64, 64) for i in range(5)}
    safetensors.torch.save_file(state, "in.safetensors")
    seen = []
    source, out = folder / "in.safetensors", folder / "out.safetensors"
    weights.quantize_file(source, FORMAT, out, lambda done, total: seen.append((done, total)))
    assert seen == [(i * 64 * 64 * 4, 5 * 64 * 64 * 4) for i in range(6)]
    content = out.read_bytes()

    def interrupt(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights.quantize_file(source, BlockFormat(8, 2, 4), out, interrupt)
    assert out.read_bytes() == content
    assert sorted(folder.iterdir()) == [source, out]


def test_memory_is_bounded_by_one_tensor(folder):
    """A checkpoint of 48 tensors of 4 MiB takes less than a quarter of its size beyond what the program takes."""
    safetensors.torch.save_file({f"{i}.weight": torch.randn(1024, 1024) for i in range(48)}, "in.safetensors")
    code = """
import resource, pathlib
from bitq.formats import BlockFormat
from bitq.tradeoff.weights import quantize_file
def anonymous():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) >> 10
before, most = anonymous(), 0
def watch(done, total):
    global most
    most = max(most, anonymous())
quantize_file(pathlib.Path("in.safetensors"), BlockFormat.parse("8:e4:b16"), pathlib.Path("out.safetensors"), watch)
print(most - before)
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 48


@pytest.mark.parametrize("name", ["int3", "int4", "mxfp4", "nvfp4"])
def test_a_plan_of_integers_and_other_formats_is_packed_as_it_is_applied(folder, name):
    model = network()
    _, formats = planned(model, (1, 3, 9, 9), folder)
    document = json.loads((folder / "plan.json").read_text())
    text = {"int3": "i3:f32:channel"}.get(name) or parse_format(name).text
    for layer in document["layers"]:
        layer["weight"] = {"format": text}
    (folder / "plan.json").write_text(json.dumps(document))
    safetensors.torch.save_model(model, "in.safetensors")
    assert run("in.safetensors", "--plan", "plan.json", "out.safetensors") == 0
    floats = {module: model.get_submodule(module).weight.detach().clone() for module in formats}
    bitq.apply(model, load_plan(folder / "plan.json"))
    loaded = bitq.load_weights("out.safetensors")
    for module in formats:
        found, want = loaded[f"{module}.weight"], bitq.weight_in_use(model.get_submodule(module)).detach()
        assert torch.equal(found, want), module
        assert not torch.equal(found, floats[module]), module
