"""The demo's archives, checkpoint and what is said about files that are not them."""

import json
import lzma
import shutil
import struct
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bitq import demo
from bitq.demo import fashion
from bitq.demo.resnet8 import resnet8
from bitq.errors import BitqError


@pytest.fixture(scope="module")
def loaded() -> demo.Demo:
    return demo.load()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the demo's data that a test may spoil."""
    return Path(shutil.copytree(demo.DATA, tmp_path / "data"))


def test_data_have_the_promised_shapes_types_and_classes(loaded: demo.Demo) -> None:
    for images, labels, count in (
        (loaded.train_images, loaded.train_labels, 16_000),
        (loaded.validation_images, loaded.validation_labels, 4_000),
        (loaded.test_images, loaded.test_labels, 10_000),
    ):
        assert images.shape == (count, 1, 28, 28)
        assert images.dtype == torch.float32
        assert labels.shape == (count,)
        assert labels.dtype == torch.int64
        assert labels.bincount().tolist() == [count // 10] * 10
    assert len(loaded.classes) == 10


def test_images_are_the_data_sets_own(loaded: demo.Demo) -> None:
    # The test set's first labels and the training set's statistics, as its authors publish them.
    names = [loaded.classes[c] for c in loaded.test_labels[:5]]
    assert names == ["Ankle boot", "Pullover", "Trouser", "Trouser", "Shirt"]
    assert loaded.train_images.mean().item() == pytest.approx(0, abs=0.01)
    assert loaded.train_images.std().item() == pytest.approx(1, abs=0.01)
    assert len(loaded.train_images.unique()) == 256


def test_normalize_is_pixel_by_pixel_what_it_says() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(4)[:784].reshape(1, 28, 28)
    values = fashion.normalize(pixels)
    assert values.shape == (1, 1, 28, 28)
    for pixel, value in zip(pixels.flatten().tolist(), values.flatten().tolist(), strict=True):
        assert value == pytest.approx((pixel / 255 - fashion.MEAN) / fashion.STD, abs=1e-5)


def test_package_data_stay_small_and_carry_their_licence() -> None:
    assert sum(path.stat().st_size for path in demo.DATA.iterdir()) <= 15_000_000
    assert "Zalando" in (demo.DATA / "LICENSE.fashion-mnist").read_text()


def test_checkpoint_reaches_the_accuracy_it_claims(loaded: demo.Demo) -> None:
    with torch.inference_mode():
        answers = torch.cat([loaded.model(batch).argmax(1) for batch in loaded.test_images.split(500)])
    accuracy = (answers == loaded.test_labels).double().mean().item()
    assert accuracy >= 0.92
    with safe_open(demo.DATA / demo.CHECKPOINT, "pt") as file:
        assert accuracy == pytest.approx(float(file.metadata()["accuracy"]), abs=0.001)


def test_model_is_ready_for_use(loaded: demo.Demo) -> None:
    assert not any(module.training for module in loaded.model.modules())
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    torch.fx.symbolic_trace(loaded.model)
    image = loaded.test_images[:1]
    alone, among = loaded.model(image), loaded.model(loaded.test_images[:7])[:1]
    torch.testing.assert_close(alone, among, rtol=1e-4, atol=1e-4)


def test_network_halves_positions_and_doubles_channels() -> None:
    shapes = []
    model = resnet8()
    for stage in (model[2], model[3], model[4], model[5]):
        stage.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert shapes == [(2, 16, 14, 14), (2, 16, 14, 14), (2, 32, 7, 7), (2, 64, 4, 4)]


@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple), data=st.data())
def test_idx_round_trip(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], data: st.DataObject
) -> None:
    size = torch.Size(shape).numel()
    content = data.draw(st.binary(min_size=size, max_size=size))
    values = torch.tensor(list(content), dtype=torch.uint8).reshape(shape)
    path = tmp_path_factory.mktemp("idx") / "values.idx.xz"
    path.write_bytes(fashion.encode_idx(values))
    assert torch.equal(fashion.read_idx(path, shape), values)
    other = (*shape[:-1], shape[-1] + 1)
    with pytest.raises(BitqError, match=r"values\.idx\.xz"):
        fashion.read_idx(path, other)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**9), flip=st.integers(1, 255))
def test_a_changed_byte_never_passes(tmp_path_factory: pytest.TempPathFactory, place: int, flip: int) -> None:
    values = (torch.arange(600) * 7919 % 251).byte().reshape(6, 100)
    content = bytearray(fashion.encode_idx(values))
    content[place % len(content)] ^= flip
    path = tmp_path_factory.mktemp("idx") / "values.idx.xz"
    path.write_bytes(content)
    with pytest.raises(BitqError, match=r"values\.idx\.xz"):
        fashion.read_idx(path, (6, 100))


@pytest.mark.parametrize("name", ["train-images.idx.xz", "test-labels.idx.xz", demo.CHECKPOINT])
@pytest.mark.parametrize("spoil", ["flip", "cut", "empty", "remove"])
def test_damaged_files_are_named(folder: Path, name: str, spoil: str) -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if path.suffix == ".xz" else 3] ^= 0xFF
    if spoil == "flip":
        path.write_bytes(content)
    elif spoil == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif spoil == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    with pytest.raises(BitqError, match=name):
        demo.load(folder)


def test_an_archive_that_unpacks_to_far_more_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "labels.idx.xz"
    path.write_bytes(lzma.compress(struct.pack(">HBBI", 0, 8, 1, 10) + bytes(100_000_000), preset=1))
    tracemalloc.start()
    with pytest.raises(BitqError, match=r"10 unsigned bytes"):
        fashion.read_idx(path, (10,))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_a_label_without_class_is_refused(tmp_path: Path) -> None:
    images, labels = demo.archives(tmp_path, "test")
    images.write_bytes(fashion.encode_idx(torch.zeros(3, 28, 28, dtype=torch.uint8)))
    labels.write_bytes(fashion.encode_idx(torch.tensor([0, 10, 9], dtype=torch.uint8)))
    with pytest.raises(BitqError, match="label 10"):
        fashion.read_split(images, labels, 3)


@pytest.mark.parametrize("change", ["shape", "missing", "extra"])
def test_another_networks_checkpoint_is_refused(folder: Path, change: str) -> None:
    path = folder / demo.CHECKPOINT
    tensors = load_file(path)
    weight = tensors.pop("0.weight")
    if change != "missing":
        tensors["0.weight"] = weight if change == "extra" else weight[:, :, :3, :3].contiguous()
    if change == "extra":
        tensors["other"] = torch.zeros(1)
    save_file(tensors, path)
    with pytest.raises(BitqError, match="checkpoint"):
        demo.load_model(folder)


def test_the_checkpoint_is_plain_json_and_numbers() -> None:
    content = (demo.DATA / demo.CHECKPOINT).read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    facts = header.pop("__metadata__")
    assert set(facts) == {"accuracy", "epochs", "seed"}
    assert header.keys() == resnet8().state_dict().keys()
