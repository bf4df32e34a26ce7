"""Networks and checkpoints from a user: understood where they are right, told apart where they are not."""

import os
import pickle
import re
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from bitq import fold
from bitq.errors import BitqError
from bitq.loading import load_checkpoint, load_network
from bitq.torchfile import StoredTensor, opened_torch

CODE = """
import torch
class Net(torch.nn.Linear):
    def __init__(self): super().__init__(3, 2)
ready = Net()
class zoo:
    small = Net
def number(): return 3
def fails(): raise ValueError("no such\\nthing")
def leaves(): raise SystemExit(0)
def needs(width): return Net()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, holding a package of the user's."""
    package = tmp_path / "users_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "networks.py").write_text(CODE)
    (package / "broken.py").write_text("import users_package.networks, no_such_dependency")
    (package / "invalid.py").write_text("def f(:")
    (package / "script.py").write_text("import sys; sys.exit('usage: …')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("users_package")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


@pytest.mark.parametrize(
    ("current", "not_from", "name"),
    [
        (".", "users_package", "users_package.networks:Net"),
        (".", ".", "users_package.networks:Net"),
        ("users_package", ".", "networks:Net"),
        ("users_package", "../users_package", "networks:Net"),
        ("users_package/inner", "../../users_package", "code:Net"),
        (".", "link", "users_package.networks:Net"),
        (".", "users_package", "link.networks:Net"),
        (".", "users_package", "namespace.inner.code:Net"),
        (".", "users_package", "elsewhere:Net"),
    ],
)
def test_no_code_comes_from_a_forbidden_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, current: str, not_from: str, name: str
) -> None:
    """However it is named, linked or looked for; and what is imported by what is named does not come from there."""
    trace = f"open({str(folder / 'trace')!r}, 'w').close()\n"
    (folder / "users_package" / "inner").mkdir()
    for path in ("__init__.py", "networks.py", "inner/code.py", "elsewhere.py"):
        (folder / "users_package" / path).write_text(trace + CODE)
    (folder / "link").symlink_to(folder / "users_package")
    (folder / "namespace").symlink_to(folder / "users_package")
    (folder / "elsewhere.py").symlink_to(folder / "users_package" / "elsewhere.py")
    monkeypatch.chdir(folder / current)
    before = set(sys.modules)
    with pytest.raises(BitqError, match=r"lies in the run's folder .*, which no code is taken from"):
        load_network(name, Path(not_from))
    assert not (folder / "trace").exists()
    assert set(sys.modules) == before


def test_what_a_network_imports_does_not_come_from_a_forbidden_folder_either(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, mine = folder / "run", folder / "mine"
    for place in (run, mine):
        place.mkdir()
    (run / "helpers.py").write_text(f"open({str(folder / 'trace')!r}, 'w').close()")
    (mine / "own_networks.py").write_text("import helpers\n" + CODE)
    monkeypatch.chdir(run)
    monkeypatch.syspath_prepend(str(mine))
    monkeypatch.syspath_prepend(str(run))
    with pytest.raises(BitqError, match="No module named 'helpers'"):
        load_network("own_networks:Net", run)
    assert not (folder / "trace").exists()
    (mine / "own_networks.py").write_text(CODE)
    assert isinstance(load_network("own_networks:Net", run), nn.Linear)


@pytest.mark.parametrize("name", ["Net", "ready", "zoo.small"])
def test_a_network_is_imported_from_the_current_folder(folder: Path, name: str) -> None:
    network = load_network(f"users_package.networks:{name}")
    assert isinstance(network, nn.Linear)
    assert network.weight.shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("users_package.networks", "write package.module:function"),
        (":Net", "write package.module:function"),
        ("no_such_package.networks:Net", "there is no module 'no_such_package'"),
        ("users_package.nothing:Net", "there is no module 'users_package.nothing'"),
        ("users_package.networks:Nut", "module 'users_package.networks' has no 'Nut'"),
        ("users_package.networks:number", "returned a int; it must return a torch.nn.Module"),
        ("users_package.networks:fails", r"failed: ValueError: no such \(users_package/networks.py, line 9\)$"),
        ("users_package.networks:leaves", r"failed: SystemExit: 0 \(users_package/networks.py, line 10\)$"),
        ("users_package.networks:needs", "without arguments failed: TypeError: .*width"),
        (
            "users_package.broken:Net",
            "'users_package.broken' failed: ModuleNotFoundError: .*no_such_dependency",
        ),
        ("users_package.invalid:Net", "importing 'users_package.invalid' failed: SyntaxError"),
        ("users_package.script:Net", "importing 'users_package.script' failed: SystemExit: usage"),
        ("..networks:Net", "importing '..networks' failed"),
    ],
)
def test_a_network_that_cannot_be_had_is_told_in_one_sentence(folder: Path, name: str, message: str) -> None:
    with pytest.raises(BitqError, match=message) as caught:
        load_network(name)
    assert "\n" not in str(caught.value)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def trained() -> dict[str, Tensor]:
    """A state that `network()` does not begin with."""
    return {name: torch.full_like(value, index) for index, (name, value) in enumerate(network().state_dict().items())}


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in trained().items()}


SAVED: dict[str, Any] = {
    "plain": trained(),
    "wrapped": {"state_dict": trained(), "epoch": 3, "optimizer": {"lr": [0.1]}},
    "twice wrapped": {"state_dict": {"model": trained()}},
    "parallel": prefixed("module."),
    "compiled": {"model": prefixed("_orig_mod.")},
    "compiled, then parallel": prefixed("module._orig_mod."),
    "trainer": {"state_dict": prefixed("model."), "pytorch-lightning_version": "2"},
    "without counters": {k: v for k, v in trained().items() if "num_batches" not in k},
    "half": {k: v.half() if v.is_floating_point() else v for k, v in trained().items()},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", SAVED)
def test_a_checkpoint_fills_the_network(tmp_path: Path, name: str, legacy: bool) -> None:
    torch.save(SAVED[name], tmp_path / "c.pt", _use_new_zipfile_serialization=not legacy)
    model = network()
    load_checkpoint(model, tmp_path / "c.pt")
    for key, value in trained().items():
        if "num_batches" not in key:
            assert torch.equal(model.state_dict()[key], value)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_safetensors_file_fills_the_network(tmp_path: Path, prefix: str) -> None:
    save_file(prefixed(prefix), tmp_path / "c.safetensors")
    model = network()
    load_checkpoint(model, tmp_path / "c.safetensors")
    assert all(torch.equal(model.state_dict()[key], value) for key, value in trained().items())


class Normed(nn.Module):
    """Layers without bias, each with a norm beside it, whose statistics those of data are."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 1, bias=False), "bn": nn.BatchNorm2d(4, affine=False)})
        self.second = nn.ModuleDict({"linear": nn.Linear(4, 2, bias=False), "norm": nn.BatchNorm1d(2)})
        for _ in range(5):
            self(torch.randn(8, 3, 2, 2) + 1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first["bn"](self.first["conv"](x)).mean((2, 3))
        z: Tensor = self.second["norm"](self.second["linear"](y))
        return z


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_network_whose_norms_were_folded_is_loaded_as_it_was_saved(tmp_path: Path, prefix: str) -> None:
    saved, x = Normed(), torch.randn(5, 3, 2, 2)
    expected = saved(x)
    assert fold(saved, x) == {"first.conv": "first.bn", "second.linear": "second.norm"}
    save_file({prefix + key: value for key, value in saved.state_dict().items()}, tmp_path / "c.safetensors")
    model = Normed()
    load_checkpoint(model, tmp_path / "c.safetensors")
    assert isinstance(model.first["bn"], nn.Identity)
    assert model.state_dict().keys() == saved.state_dict().keys()
    assert torch.equal(model(x), saved(x))
    torch.testing.assert_close(model(x), expected)


def test_a_folded_checkpoint_that_does_not_fit_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    state = {key: value for key, value in Normed().state_dict().items() if "first.bn" not in key}
    save_file(state | {"first.conv.bias": torch.zeros(5)}, tmp_path / "c.safetensors")
    model, x = Normed(), torch.randn(5, 3, 2, 2)
    expected = model(x)
    with pytest.raises(BitqError, match=r"'first\.conv\.bias' has shape"):
        load_checkpoint(model, tmp_path / "c.safetensors")
    assert torch.equal(model(x), expected)


def test_a_norm_is_missing_where_no_bias_stands_for_it(tmp_path: Path) -> None:
    def network() -> nn.Module:
        return nn.ModuleDict({"linear": nn.Linear(4, 2), "norm": nn.BatchNorm1d(2)})

    state = {key: value for key, value in network().state_dict().items() if "norm" not in key}
    save_file(state, tmp_path / "c.safetensors")
    with pytest.raises(BitqError, match=r"has no 'norm\.weight', which the network needs"):
        load_checkpoint(network(), tmp_path / "c.safetensors")


def test_a_prefix_that_the_network_has_itself_stays(tmp_path: Path) -> None:
    model = nn.ModuleDict({"module": nn.Linear(2, 2)})
    torch.save({name: torch.ones_like(value) for name, value in model.state_dict().items()}, tmp_path / "c.pt")
    load_checkpoint(model, tmp_path / "c.pt")
    assert torch.equal(model["module"].weight, torch.ones(2, 2))


STORED: dict[str, Tensor] = {
    **{
        str(dtype): torch.arange(6).reshape(2, 3).to(dtype)
        for dtype in (
            *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16),
            *(torch.int8, torch.uint8, torch.bool, torch.complex64, torch.uint16, torch.uint64, torch.float8_e4m3fn),
        )
    },
    "transposed": torch.randn(4, 3).T,
    "a part": torch.randn(9, 9)[2:5, 3::2],
    "one for all": torch.randn(3, 1).expand(3, 5),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(3, 0, 2),
    "parameter": nn.Parameter(torch.randn(3)),
    "without gradient": nn.Parameter(torch.randn(3), requires_grad=False),
}


NEWER = {"torch.uint16", "torch.uint64", "torch.float8_e4m3fn"}


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_are_read_as_torch_reads_them(tmp_path: Path, legacy: bool) -> None:
    path, whole = tmp_path / "c.pt", torch.randn(20)
    state = nn.Module.state_dict(nn.Linear(2, 2)) | STORED | {"first": whole[:9], "second": whole.view(4, 5)[1:]}
    if legacy:  # torch writes these, and cannot read them
        state = {name: tensor for name, tensor in state.items() if name not in NEWER}
    attributed = torch.ones(2)
    attributed.note = "of the user"  # type: ignore[attr-defined]
    content = {"state": state, "others": [attributed, {3: (None, 1.5, True, {7}, 2**70)}, torch.Size([2]), torch.int8]}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    expected = torch.load(path, weights_only=True)
    with opened_torch(path, 1 << 20, "a checkpoint") as found:
        assert found["state"].keys() == expected["state"].keys()
        for name, tensor in found["state"].items():
            same_tensor(tensor, expected["state"][name])
        same_tensor(found["others"][0], attributed)
        assert next(iter(found["others"][1].values()))[:3] == (None, 1.5, True)


def same_tensor(stored: StoredTensor, expected: Tensor) -> None:
    tensor = stored.load()
    assert stored.shape == tensor.shape == expected.shape
    assert tensor.dtype == expected.dtype
    assert tensor.stride() == expected.stride() or not expected.numel()
    assert tensor.contiguous().reshape(-1).view(torch.uint8).tolist() == (
        expected.detach().contiguous().reshape(-1).view(torch.uint8).tolist()
    )


def test_bytes_of_another_order_are_swapped(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    state = {"a": torch.randn(5), "b": torch.arange(4, dtype=torch.int16), "c": torch.tensor(7.0).double()}
    torch.save(state, path)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, b"big" if name.endswith("byteorder") else data)
    expected = torch.load(path, weights_only=True)
    assert not torch.equal(expected["a"], state["a"])
    with opened_torch(path, 1 << 20, "a checkpoint") as found:
        assert all(torch.equal(found[name].load(), tensor) for name, tensor in expected.items())


@settings(max_examples=300, deadline=None)
@given(data=st.data(), legacy=st.booleans(), inside=st.booleans())
def test_damage_is_told_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, legacy: bool, inside: bool
) -> None:
    """Whatever bytes change, of the file or of the pickle in it: the network is filled, or one sentence."""
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    torch.save(trained(), path, _use_new_zipfile_serialization=not legacy)
    if inside and not legacy:
        with zipfile.ZipFile(path) as archive:
            content = {name: bytearray(archive.read(name)) for name in archive.namelist()}
        damaged = content[next(name for name in content if name.endswith("data.pkl"))]
        damage(damaged, data)
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in content.items():
                archive.writestr(name, bytes(part))
    else:
        damaged = bytearray(path.read_bytes())
        damage(damaged, data)
        path.write_bytes(damaged)
    told = ""
    try:
        load_checkpoint(network(), path)
    except BitqError as error:
        told = str(error).replace(str(path), "PATH")
    assert not told or told.startswith("PATH")
    assert not re.search(r"Error|Exception|Pytorch|Other|_Name|object at", told)


def damage(content: bytearray, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))


REFUSED: dict[str, tuple[Any, str]] = {
    "missing": (
        {k: v for k, v in trained().items() if k != "3.bias"},
        "has no '3.bias', which the network needs",
    ),
    "unexpected": (trained() | {"4.bias": torch.zeros(2)}, "has '4.bias', which the network lacks"),
    "shape": (trained() | {"3.weight": torch.zeros(5, 4)}, r"'3.weight' has shape \(5, 4\), but \(2, 4\)"),
    "diverged": (trained() | {"3.bias": torch.tensor([0.0, torch.nan])}, "'3.bias' is not finite"),
    "too wide": (
        trained() | {"3.bias": torch.full((2,), 1e300, dtype=torch.float64)},
        "'3.bias' is not finite",
    ),
    "empty": ({}, "has no '0.weight'"),
    "list": ([torch.zeros(1)], "holds no state of a network"),
    "no tensors": ({"lr": 0.1}, "holds no state of a network"),
    "sparse": (trained() | {"3.bias": torch.zeros(2).to_sparse()}, "'3.bias' is a sparse tensor"),
    "meta": (trained() | {"3.bias": torch.zeros(2, device="meta")}, "'3.bias' is a tensor without values"),
    "nested": (trained() | {"3.bias": torch.nested.nested_tensor([torch.ones(2)])}, "'3.bias' is a nested tensor"),
    "quantized": (
        trained() | {"3.bias": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)},
        "'3.bias' is a quantized tensor",
    ),
    "complex": (trained() | {"3.bias": torch.ones(2, dtype=torch.complex64)}, "'3.bias' is complex, but real in"),
    "a view of one": (trained() | {"3.bias": torch.ones(1).expand(1 << 40)}, r"'3.bias' has shape \(1099511627776,\)"),
    "numbers for names": ({0: torch.zeros(1)}, "holds no state of a network"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    content, message = REFUSED[name]
    path = tmp_path / "c.pt"
    torch.save(content, path)
    refuse(path, message)


def refuse(path: Path, message: str) -> None:
    model = network()
    with pytest.raises(BitqError, match=message) as caught:
        load_checkpoint(model, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in network().state_dict().items())


def test_a_state_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "c.pt")
    refuse(tmp_path / "c.pt", "holds no state of a network")


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, form: str, suffix: str) -> None:
    path, marker = tmp_path / f"c{suffix}", tmp_path / "ran"
    if form == "pickle":
        path.write_bytes(pickle.dumps(trained() | {"x": Malicious(marker)}))
    else:
        torch.save(trained() | {"x": Malicious(marker)}, path, _use_new_zipfile_serialization=form == "zip")
    refuse(path, "more than tensors, which never runs" if suffix == ".pt" else "damaged, or no safetensors file")
    assert not marker.exists()
    if suffix == ".pt" and form != "pickle":
        torch.load(path, weights_only=False)
        assert marker.exists()  # it would have


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "c.pt")
    refuse(tmp_path / "c.pt", "more than tensors, which never runs; save model.state_dict")


@pytest.mark.parametrize("suffix", [".pt", ".legacy.pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"c{suffix}"
    if suffix == ".safetensors":
        save_file(trained(), path)
    else:
        torch.save(trained(), path, _use_new_zipfile_serialization=suffix == ".pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    refuse(path, "damaged")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c{suffix}"
    refuse(path, "there is no file")
    for content in [
        b"\x89PNG\r\n",
        bytes(range(256)) * 9,
        b"PK\x03\x04" + b"x" * 99,
        struct.pack("<Q", 2**62) + b"{}",
    ]:
        path.write_bytes(content)
        refuse(path, "damaged")
    path.unlink()
    path.mkdir()
    refuse(path, "is a folder; give a checkpoint of this network")


def test_a_file_far_larger_than_the_network_is_not_read(tmp_path: Path) -> None:
    large = tmp_path / "large.pt"
    with large.open("wb") as file:
        file.truncate(2**40)
    refuse(large, f"has {2**40} bytes, but a checkpoint of this network has at most")
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**27))
    assert bomb.stat().st_size < 2**20
    refuse(bomb, "bytes unpacked, but a checkpoint of this network has at most")
