"""Images from a user: the right pixels with the right labels in the right split, or one sentence."""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bitq import datasets
from bitq.datasets import SPLITS, Dataset, load_data
from bitq.errors import BitqError
from bitq.images import ArrayImages, Batches, FileImages

CLASSES = ("cat", "dog", "emu")
COUNTS = {"train": 12, "val": 4, "test": 5}


def colour(label: int, index: int) -> tuple[int, int, int]:
    return 80 * label, 10 * index, 255 - 10 * index


def write_split(folder: Path, count: int, size: tuple[int, int] = (6, 4), suffix: str = ".png") -> None:
    """`count` images (width, height) of each class, each of one colour that tells label and index."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", size, colour(label, index)).save(folder / name / f"{index:03}{suffix}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in COUNTS.items():
        write_split(tmp_path / "images" / split, count)
    return tmp_path / "images"


def contents(images: Any) -> list[tuple[int, tuple[int, ...]]]:
    """(label, first pixel as bytes) of every image."""
    pixels, labels = next(iter(Batches(images, len(images))))
    return [
        (int(y), tuple((x[:, 0, 0] * 255).round().int().tolist()))
        for x, y in zip(pixels, labels, strict=True)
    ]


def test_a_folder_of_splits(folder: Path) -> None:
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    (folder / "train" / ".hidden").mkdir()
    data = load_data(folder)
    assert data.classes == CLASSES
    for name, count in COUNTS.items():
        expected = [(label, colour(label, index)) for label in range(3) for index in range(count)]
        assert contents(getattr(data, name)) == expected
    assert (type(data.train), type(data.val)) == (FileImages, ArrayImages)
    image, label = data.train[13]
    assert (image.shape, image.dtype, int(label)) == ((3, 4, 6), torch.float32, 1)


def test_large_splits_stay_in_their_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = load_data(folder)
    monkeypatch.setattr(datasets, "_HELD_BYTES", 3 * 4 * 6 * 3 * COUNTS["val"])
    data = load_data(folder)
    assert (type(data.val), type(data.test)) == (ArrayImages, FileImages)
    assert contents(data.test) == contents(held.test)


def test_missing_splits_are_taken_from_train(tmp_path: Path) -> None:
    write_split(tmp_path / "all", 20)
    everything = sorted((label, colour(label, index)) for label in range(3) for index in range(20))
    data = load_data(tmp_path / "all", seed=1)
    assert [len(data.train), len(data.val), len(data.test)] == [48, 6, 6]
    parts = [contents(getattr(data, name)) for name in SPLITS]
    assert sorted(chain(*parts)) == everything  # disjoint, and nothing is lost
    again, other = load_data(tmp_path / "all", seed=1), load_data(tmp_path / "all", seed=2)
    assert parts == [contents(getattr(again, name)) for name in SPLITS]
    assert parts != [contents(getattr(other, name)) for name in SPLITS]


def test_a_limit_draws_from_every_class(folder: Path) -> None:
    data = load_data(folder, limit=9)
    assert [len(data.train), len(data.val), len(data.test)] == [9, 9, 9]
    assert set(contents(data.train)) < set(contents(load_data(folder).train))
    assert len({label for label, _ in contents(data.train)}) == 3
    assert len(load_data(folder, limit=1000).train) == 36


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG"])
def test_images_of_other_sizes_are_fitted(tmp_path: Path, suffix: str) -> None:
    write_split(tmp_path / "train", 3, size=(40, 20), suffix=suffix)
    write_split(tmp_path / "test", 2, size=(7, 13), suffix=suffix)
    data = load_data(tmp_path, image_size=10)
    for images in (data.train, data.test):
        assert images[0][0].shape == (3, 10, 10)
        for label, pixel in contents(images):
            assert any(np.abs(np.subtract(pixel, colour(label, i))).max() <= 3 for i in range(3))


def test_fitting_keeps_the_center(tmp_path: Path) -> None:
    stripes = np.zeros((8, 24, 3), np.uint8)
    stripes[:, 8:16] = 255
    (tmp_path / "x").mkdir()
    for index in range(3):
        Image.fromarray(stripes if index % 2 else stripes.transpose(1, 0, 2)).save(
            tmp_path / "x" / f"{index}.png"
        )
    data = load_data(tmp_path, image_size=8)
    for image, _ in (data.train[0], data.val[0], data.test[0]):
        assert image.shape[-2:] == (8, 8)
        assert (image == 1).all()


def test_channels_and_normalization(folder: Path) -> None:
    plain = load_data(folder).val[5][0]
    scaled = load_data(folder, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0)).val[5][0]
    for channel, (mean, std) in enumerate([(0.5, 0.5), (0.25, 1.0), (0.0, 2.0)]):
        assert torch.equal(scaled[channel], (plain[channel] - mean) / std)
    gray = load_data(folder, channels=1, mean=(0.5,), std=(0.5,))
    red, green, blue = colour(1, 1)
    assert gray.val[5][0].shape == (1, 4, 6)
    assert gray.val[5][0][0, 0, 0] == pytest.approx(
        (0.299 * red + 0.587 * green + 0.114 * blue) / 127.5 - 1, abs=0.01
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_kind_of_png_becomes_three_channels(tmp_path: Path, mode: str) -> None:
    (tmp_path / "x").mkdir()
    for index in range(3):
        Image.new(mode, (5, 5)).save(tmp_path / "x" / f"{index}.png")
    assert load_data(tmp_path).train[0][0].shape == (3, 5, 5)


def epochs(batches: Batches, seed: int) -> list[list[int]]:
    """The labels of two walks."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return [torch.cat([labels for _, labels in batches]).tolist() for _ in range(2)]


def test_batches_cover_everything_and_shuffle_by_torchs_generator(folder: Path) -> None:
    data = load_data(folder)
    for images in (data.train, data.test):
        batches = Batches(images, 8)
        assert len(batches) == len(list(batches)) == -(-len(images) // 8)
        labels = torch.cat([labels for _, labels in batches])
        assert torch.equal(labels, images.labels)
        shuffled = Batches(images, 8, shuffle=True)
        whole = len(images) // 8 * 8 if len(images) >= 8 else len(images)  # a short last batch is left out

        first, second = epochs(shuffled, 3)
        assert [first, second] == epochs(shuffled, 3)
        assert first != second
        assert len(first) == whole
        assert len(shuffled) == -(-whole // 8)
        assert not Counter(first) - Counter(labels.tolist())


def test_a_split_is_a_torch_dataset(folder: Path) -> None:
    data = load_data(folder)
    for images in (data.train, data.val):
        loader = torch.utils.data.DataLoader(images, batch_size=5)
        for (x, y), (x_own, y_own) in zip(loader, Batches(images, 5), strict=True):
            assert torch.equal(x, x_own)
            assert torch.equal(y, y_own)


# --- arrays


def arrays(**changes: Any) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    made = {
        "x_train": generator.integers(0, 256, (20, 5, 6, 3), np.uint8),
        "y_train": generator.integers(0, 4, 20),
        "x_test": generator.integers(0, 256, (7, 5, 6, 3), np.uint8),
        "y_test": np.arange(7) % 4,
    }
    return {key: value for key, value in (made | changes).items() if value is not None}


def saved(folder: Path, **content: Any) -> Path:
    np.savez(folder / "data.npz", **content)
    return folder / "data.npz"


def test_an_npz_of_bytes(tmp_path: Path) -> None:
    made = arrays()
    data = load_data(saved(tmp_path, **made), mean=(0.5,), std=(0.25,))
    expected = (made["x_test"].transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) / 0.25
    assert torch.allclose(data.test[:][0], torch.from_numpy(expected))
    assert data.test.labels.tolist() == made["y_test"].tolist()
    assert (len(data.train), len(data.val), data.largest) == (18, 2, {"y_train": 3, "y_test": 3})
    together = torch.cat([data.train.pixels, data.val.pixels]).flatten(1).sum(1).sort().values
    assert together.tolist() == sorted(made["x_train"].reshape(20, -1).sum(1, dtype=int).tolist())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_npz_of_floats(tmp_path: Path, dtype: type) -> None:
    made = arrays()
    floats = {key: value.transpose(0, 3, 1, 2).astype(dtype) for key, value in made.items() if key[0] == "x"}
    data = load_data(saved(tmp_path, **made | floats, x_val=floats["x_test"], y_val=made["y_test"]))
    assert torch.equal(data.val[:][0], torch.from_numpy(floats["x_test"].astype(np.float32)))
    assert (len(data.train), len(data.val)) == (20, 7)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_gray_images_need_no_channel_axis(tmp_path: Path, dtype: type) -> None:
    made = arrays(x_train=np.ones((20, 5, 6), dtype), x_test=np.ones((7, 5, 6), dtype))
    assert load_data(saved(tmp_path, **made)).test[0][0].shape == (1, 5, 6)


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"y_test": None}, "has no array 'y_test'; it needs x_train, y_train, x_test, y_test"),
    "half a split": ({"x_val": np.zeros((2, 5, 6, 3), np.uint8)}, "has no array 'y_val'"),
    "type": ({"x_train": np.zeros((20, 5, 6, 3), np.int16)}, "x_train is of type int16"),
    "axes": (
        {"x_train": np.zeros((20, 90), np.uint8)},
        r"x_train has shape \(20, 90\); uint8 images must be \(n, h",
    ),
    "order": (
        {"x_train": np.zeros((20, 3, 5, 6), np.uint8)},
        r"\(20, 3, 5, 6\); uint8 images must be \(n, height",
    ),
    "none": ({"x_train": np.zeros((0, 3, 5, 6))}, r"float64 images must be \(n, channels"),
    "nan": ({"x_test": np.full((7, 3, 5, 6), np.nan)}, "x_test goes from nan to nan; every pixel must be a finite"),
    "huge": ({"x_test": np.full((7, 3, 5, 6), 1e300)}, "x_test goes from inf to inf; every pixel must be a finite"),
    "sizes": (
        {"x_test": np.zeros((7, 6, 5, 3), np.uint8)},
        r"x_test have shape \(3, 6, 5\), but \(3, 5, 6\) in x_t",
    ),
    "count": ({"y_train": np.zeros(19, int)}, r"y_train is int64 of shape \(19,\); it must be 20 whole"),
    "one-hot": ({"y_train": np.eye(20, dtype=int)}, "it must be 20 whole numbers"),
    "real labels": ({"y_train": np.zeros(20)}, "y_train is float64"),
    "negative": ({"y_train": np.full(20, -1)}, "goes from -1 to -1"),
    "pickled": ({"y_train": np.array([{}] * 20)}, "y_train is of type object; it must be plain numbers"),
    "fields": ({"y_train": np.zeros(20, "i4,i4")}, r"y_train is of type \[\('f0', .*it must be plain numbers"),
    "text": ({"x_test": np.full((7, 5, 6, 3), "x")}, "x_test is of type <U1; it must be plain numbers"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, name: str) -> None:
    changes, message = BAD_ARRAYS[name]
    refuse(saved(tmp_path, **arrays(**changes)), message)


def refuse(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(BitqError, match=message) as caught:
        load_data(path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_npz_is_refused(tmp_path: Path, kept: float) -> None:
    path = saved(tmp_path, **arrays())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    refuse(path, "is damaged, or no .npz")


def test_a_flipped_byte_in_an_npz_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path, **arrays())
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    refuse(path, "is damaged")


def test_an_array_file_by_another_name_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    refuse(tmp_path / "x.npz", "is damaged, or no .npz")


def test_an_oversized_array_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "_MOST_BYTES", 1000)
    refuse(saved(tmp_path, **arrays()), "x_train has over 1000 bytes")


# --- mistakes


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:45])


BAD_FOLDERS: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "no data": (shutil.rmtree, {}, "is no data; give a folder of images or an .npz"),
    "no train": (lambda f: shutil.rmtree(f / "train"), {}, "has a folder test but no train"),
    "no class": (lambda f: [shutil.rmtree(f / "val" / c) for c in CLASSES], {}, "val holds no folder"),
    "empty class": (lambda f: (f / "val" / "gnu").mkdir(), {}, "gnu holds no image"),
    "new class": (
        lambda f: (f / "val" / "emu").rename(f / "val" / "gnu"),
        {},
        "val/gnu is a class that .*train lacks",
    ),
    "truncated": (lambda f: truncate(f / "val" / "dog" / "001.png"), {}, "dog/001.png cannot be read"),
    "text": (
        lambda f: (f / "test" / "dog" / "001.png").write_text("hello"),
        {},
        "dog/001.png cannot be read",
    ),
    "gif": (
        lambda f: Image.new("L", (6, 4)).save(f / "test" / "dog" / "001.png", "GIF"),
        {},
        "cannot be read as a PNG or JPEG",
    ),
    "other size": (
        lambda f: Image.new("L", (9, 9)).save(f / "test" / "cat" / "x.png"),
        {},
        "x.png has 9 x 9 pixels and others 6 x 4; set an image size",
    ),
    "bomb": (
        lambda f: Image.new("1", (10_000, 10_000)).save(f / "test" / "cat" / "x.png"),
        {},
        "x.png has 10000 x 10000 pixels",
    ),
    "channels": (lambda f: None, {"channels": 2}, "not 2"),
    "image size": (lambda f: None, {"image_size": 0}, "image size of 0"),
    "limit": (lambda f: None, {"limit": 0}, "limit of 0"),
    "mean": (lambda f: None, {"mean": (0.5, 0.5)}, "must be 1 or 3 numbers"),
    "std": (lambda f: None, {"std": (1.0, 0.0, 1.0)}, "std is 0.0; it must be a number from 1e-12 to 1e"),
    "large image size": (lambda f: None, {"image_size": 10**9}, "must be from 1 to 4096"),
    "no mean": (lambda f: None, {"mean": (float("nan"),)}, r"mean is nan; it must be a number from -1e\+12 to 1e\+12"),
    "large mean": (lambda f: None, {"mean": (-1e38,)}, r"mean is -1e\+38; it must"),
    "small std": (lambda f: None, {"std": (1e-38,)}, "std is 1e-38; it must"),
    "no std": (lambda f: None, {"std": (float("inf"),)}, "std is inf; it must"),
    "strip": (
        lambda f: Image.new("1", (1, 30_000)).save(f / "test" / "cat" / "x.png"),
        {"image_size": 64},
        "x.png has 1 x 30000 pixels, too long a strip for an image size of 64; crop it",
    ),
    "pipe": (lambda f: os.mkfifo(f / "test" / "cat" / "x.png"), {}, "x.png is no regular file"),
    "folder as image": (lambda f: (f / "test" / "cat" / "x.png").mkdir(), {}, "x.png is a folder"),
    "endless header": (
        lambda f: (f / "test" / "cat" / "x.png").write_bytes(b"\xff\xd8\xff" + bytes(2**26)),
        {},
        "x.png cannot be read as a PNG or JPEG",
    ),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_a_folder_that_is_wrong_is_refused(folder: Path, name: str) -> None:
    spoil, options, message = BAD_FOLDERS[name]
    spoil(folder)
    refuse(folder, message, **options)


def test_a_damaged_training_image_is_told_when_it_is_read(folder: Path) -> None:
    truncate(folder / "train" / "dog" / "001.png")
    data = load_data(folder)
    assert isinstance(data, Dataset)
    with pytest.raises(BitqError, match=r"dog/001\.png cannot be read"):
        list(Batches(data.train, 8))


def test_images_are_decoded_where_no_gradients_are_kept(folder: Path) -> None:
    train = load_data(folder).train
    with torch.inference_mode():
        assert torch.equal(train[torch.arange(9)][0], torch.stack([train[i][0] for i in range(9)]))


def test_too_few_images_for_three_splits(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "x" / "a.png")
    refuse(tmp_path, "1 training images are too few")
