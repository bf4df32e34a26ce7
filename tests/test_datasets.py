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

from bitq import csvfile, datasets
from bitq.batches import Parameters
from bitq.csvfile import read_table
from bitq.datasets import Dataset, load_data, npzfile
from bitq.datasets.splits import SPLITS
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
    monkeypatch.setattr(datasets, "HELD_BYTES", 3 * 4 * 6 * 3 * COUNTS["val"])
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
        r"inputs of x_test have shape \(3, 5, 6\), but \(90,\) in x_train",
    ),
    "no inputs": ({"x_train": np.zeros(())}, r"x_train has shape \(\); it must be an array of one input or more"),
    "complex": ({"x_train": np.zeros((20, 3), complex)}, "x_train is of type complex128; it must be real numbers"),
    "unlike types": (
        {"x_train": np.zeros((20, 9)), "x_test": np.zeros((7, 9), int)},
        "x_test is of type int64, but float32 in x_train",
    ),
    "not finite": ({"x_train": np.full((20, 9), np.inf)}, "x_train goes from inf to inf; every number must be"),
    "past int64": ({"x_train": np.full((20, 9), 2**63, np.uint64)}, "every whole number must be an int64"),
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


DTYPES = ["float16", "float64", ">f4", "int8", "uint8", "int16", ">i2", "uint32", "uint64", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (9,), (3, 2, 2, 2)])
def test_arrays_that_are_no_images_stay_as_they_are(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    train, test = ((np.arange(n * int(np.prod(shape))).reshape(n, *shape) % 100).astype(dtype) for n in (20, 7))
    data = load_data(saved(tmp_path, **arrays(x_train=train, x_test=test)))
    found, labels = data.test[:]
    given = torch.float32 if np.dtype(dtype).kind == "f" else torch.bool if dtype == "bool" else torch.int64
    assert (found.dtype, found.tolist(), labels.tolist()) == (given, test.tolist(), (np.arange(7) % 4).tolist())
    assert (len(data.train), len(data.val), data.signals) == (18, 2, None)
    both = torch.cat([data.train[:][0], data.val[:][0]]).flatten().sort().values
    assert both.tolist() == np.sort(train.flatten()).tolist()


def test_floats_of_three_axes_may_be_signals(tmp_path: Path) -> None:
    made = arrays(x_train=np.random.rand(20, 5, 6), x_test=np.random.rand(7, 5, 6))
    data = load_data(saved(tmp_path, **made), seed=3, limit=5)
    assert data.signals is not None
    for split in SPLITS:
        (images, labels), (signals, same) = (getattr(each, split)[:] for each in (data, data.signals))
        assert torch.equal(images[:, 0], signals)
        assert torch.equal(labels, same)
    assert load_data(saved(tmp_path, **made), mean=(0.5,)).signals is None
    assert load_data(saved(tmp_path, **arrays())).signals is None


def named(**changes: Any) -> dict[str, Any]:
    """Two inputs by name, in train and test."""
    made = arrays()
    lengths = {"train": 20, "test": 7}
    for split, count in lengths.items():
        made.pop(f"x_{split}")
        made[f"ids_{split}"] = np.arange(count * 5, dtype=np.int32).reshape(count, 5)
        made[f"mask_{split}"] = made[f"ids_{split}"] % 5 < 3
    return {key: value for key, value in (made | changes).items() if value is not None}


TAKES = Parameters(("ids", "mask", "scale"), ("ids", "mask"))


def test_several_inputs_by_the_names_of_the_networks(tmp_path: Path) -> None:
    made = named()
    data = load_data(saved(tmp_path, **made), takes=TAKES)
    for split in SPLITS:
        inputs, labels = getattr(data, split)[:]
        assert inputs.keys() == {"ids", "mask"}
        assert (inputs["ids"].dtype, inputs["mask"].dtype) == (torch.int64, torch.bool)
        source = "test" if split == "test" else "train"
        rows = inputs["ids"][:, 0] // 5
        assert torch.equal(inputs["mask"], torch.from_numpy(made[f"mask_{source}"])[rows])
        assert torch.equal(labels, torch.from_numpy(made[f"y_{source}"])[rows])
    (batch, labels) = next(iter(Batches(data.test, 3)))
    assert batch["ids"].tolist() == made["ids_test"][:3].tolist()
    assert labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_train": None}, "has no array 'mask_train'; the network's inputs are ids, mask, scale"),
        ({"mask_test": None}, "has no array 'mask_test'; it needs ids_train, mask_train, y_train, ids_test"),
        ({"mask_val": np.zeros((2, 5), bool)}, "has no array 'ids_val'"),
        ({"x_train": np.zeros((20, 5))}, "x_train is none of the network's inputs, which are ids, mask, scale"),
        ({"mask_train": np.zeros((19, 5), bool)}, "mask_train has 19 inputs, but 20 are in ids_train"),
        ({"mask_test": np.zeros((7, 4), bool)}, r"inputs of mask_test have shape \(4,\), but \(5,\) in mask_train"),
        ({"y_train": np.zeros(19, int)}, "y_train is int64 of shape .*; it must be 20 whole numbers"),
    ],
)
def test_inputs_by_name_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    refuse(saved(tmp_path, **named(**changes)), message, takes=TAKES)


def test_a_network_of_several_inputs_is_told_how_to_call_them(tmp_path: Path) -> None:
    made = named(ids_train=None, mask_train=None)
    refuse(saved(tmp_path, **made), r"'x_train'; it needs .* \(or ids_train, mask_train, scale_train in", takes=TAKES)


@pytest.mark.parametrize("options", [{"image_size": 8}, {"channels": 1}, {"mean": (0.5,)}, {"std": (2.0,)}])
def test_what_is_no_image_takes_no_options_of_images(tmp_path: Path, options: dict[str, Any]) -> None:
    made = arrays(x_train=np.zeros((20, 9)), x_test=np.zeros((7, 9)))
    (name,) = (f"--{name}".replace("_", "-") for name in options)
    refuse(saved(tmp_path, **made), f"holds no images; leave {name} out", **options)
    refuse(table(tmp_path, "a,b", *["1,0"] * 20), "holds no images", **options)


# --- tables


def table(folder: Path, *lines: str) -> Path:
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    return folder / "data.csv"


@pytest.mark.parametrize(("header", "at"), [("a,b,kind", 2), ("a,label,b", 1), ("label,a,b", 0)])
def test_a_table_of_numbers(tmp_path: Path, header: str, at: int) -> None:
    rows = [[str(n / 4), f"-{n}e3"] for n in range(20)]
    for n, row in enumerate(rows):
        row.insert(at, str(n % 3))
    data = load_data(table(tmp_path, header, *map(",".join, rows)), seed=2)
    assert [len(getattr(data, split)) for split in SPLITS] == [16, 2, 2]
    found = [(x.tolist(), int(y)) for split in SPLITS for x, y in zip(*getattr(data, split)[:], strict=True)]
    assert sorted(found) == [([n / 4, -n * 1000.0], n % 3) for n in range(20)]
    assert data.largest == {f"column {header.split(',')[at]!r}": 2}
    again = load_data(tmp_path / "data.csv", seed=2)
    assert torch.equal(data.test[:][0], again.test[:][0])


def test_a_table_as_spreadsheets_save_it(tmp_path: Path) -> None:
    lines = ['"a",b , label', *['"1.5", 2 ,0', "", '3,"4",1'] * 10]
    (tmp_path / "data.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    read = read_table(tmp_path / "data.csv")
    assert (read.features.tolist(), read.labels.tolist(), read.label) == ([[1.5, 2], [3, 4]] * 10, [0, 1] * 10, "label")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "line 1 must name two columns or more"),
        (["a;b", "1;0"], "line 1 must name two columns or more, separated by commas"),
        (["1,0", "2,1"], "line 1 must name the columns, but holds numbers"),
        ([",a,label", "0,1,0"], "line 1 has no name for column 1; name it, or save without an index"),
        (["a,a,b", "0,1,0"], "line 1 names column 'a' twice"),
        (["a,b"], "names columns, but no line of numbers follows"),
        (["a,b", "1,0", "1,2,0"], "line 3 has 3 cells; it must have 2, as line 1 does"),
        (["a,b", "1,0", "", "x,0"], "line 4, column 'a' is 'x'; it must be a finite number"),
        (["a,b", ",0"], "line 2, column 'a' is ''; it must be a finite number"),
        (["a,b", "nan,0"], "line 2, column 'a' is 'nan'; it must be a finite"),
        (["a,b", "1e39,0"], "line 2, column 'a' is '1e39'; it must be a finite"),
        (["a,b", "1_0,0"], "line 2, column 'a' is '1_0'"),
        (["a,b", "٣,0"], "line 2, column 'a' is '٣'"),
        (["a,b", "1,-1"], "line 2, column 'b' is '-1'; labels count classes from 0, or are their names"),
        (["a,label,c", "1,0.5,1"], "line 2, column 'label' is '0.5'; labels count"),
        (["a,b", "1,2147483648"], "column 'b' is '2147483648'; labels count"),
        (["a,b", '"1,0'], "line 2 cannot be read as cells that commas separate"),
        (["a,b", "1,0", "1,1"], "2 training inputs are too few"),
    ],
)
def test_a_table_that_is_none_is_refused_by_line_and_column(tmp_path: Path, lines: list[str], message: str) -> None:
    refuse(table(tmp_path, *lines), message)


def test_a_table_that_is_no_text_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.csv").write_bytes(b"a,b\n1,\xff\n")
    refuse(tmp_path / "data.csv", "line 2 is not text in UTF-8")
    monkeypatch.setattr(csvfile, "_MOST_CELLS", 3)
    refuse(table(tmp_path, "a,b", *["1,0"] * 4), "has over 3 numbers; give an .npz")
    monkeypatch.setattr(csvfile, "_MOST_COLUMNS", 2)
    refuse(table(tmp_path, "a,b,c", "1,1,0"), "has 3 columns; it must have at most 2")
    monkeypatch.setattr(csvfile, "_LONGEST_LINE", 7)
    refuse(table(tmp_path, "a,b", "1.00000,0"), "line 2 has over 7 bytes")


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
    monkeypatch.setattr(npzfile, "_MOST_BYTES", 1000)
    refuse(saved(tmp_path, **arrays()), "x_train has over 1000 bytes")


# --- mistakes


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:45])


BAD_FOLDERS: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "no data": (shutil.rmtree, {}, "is no data; give a folder of images, an .npz"),
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
    "mean": (lambda f: None, {"mean": (0.5, 0.5)}, "it must have one, or 3 for as many channels"),
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


def labelled(folder: Path, *rows: str, images: list[str] | None = None) -> Path:
    """A folder with images of these names and a table of labels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(images or []):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / name)
    if rows:
        (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def by_number(data: Dataset) -> dict[int, int]:
    """Labels of all images by the number that their pixels are."""
    parts = [getattr(data, name) for name in SPLITS]
    pairs = [pair for part in parts for pair in zip(*part[torch.arange(len(part))], strict=True)]
    return {round(255 * image[0, 0, 0].item()): int(label) for image, label in pairs}


NUMBERED = [f"{number}.png" for number in range(12)]
KINDS = ("dog", "cat", "emu")


@pytest.mark.parametrize("place", ["in it", "beside it", "beside it, with its name"])
def test_images_by_a_table_of_labels_in_or_beside_their_folder(tmp_path: Path, place: str) -> None:
    before = "images/" if place.endswith("name") else ""
    rows = ["label,file", *(f"{KINDS[number % 3]},{before}{name}" for number, name in enumerate(NUMBERED))]
    folder = labelled(tmp_path / "images", images=NUMBERED)
    labelled(folder if place == "in it" else tmp_path, *rows)
    data = load_data(folder)
    assert data.classes == ("cat", "dog", "emu")
    assert by_number(data) == {number: (1, 0, 2)[number % 3] for number in range(12)}
    assert dict(data.largest) == {str((folder if place == "in it" else tmp_path) / "labels.csv"): 2}


def test_labels_of_images_may_be_numbers_and_files_lie_deeper(tmp_path: Path) -> None:
    names = [f"a/{name}" for name in NUMBERED]
    rows = (f"{name},{number % 2 * 10}" for number, name in enumerate(names))
    data = load_data(labelled(tmp_path, "file,label", *rows, images=names))
    assert (data.classes, by_number(data)) == ((), {number: number % 2 * 10 for number in range(12)})


def test_a_table_beside_train_and_test_names_their_files_after_them(tmp_path: Path) -> None:
    names = [f"{split}/{name}" for split in ("train", "test") for name in NUMBERED]
    rows = (f"{name},{'ab'[number % 2]}" for number, name in enumerate(names))
    folder = labelled(tmp_path, "file,label", *rows, images=names)
    data = load_data(folder)
    assert (len(data.train), len(data.val), len(data.test)) == (10, 2, 12)
    assert by_number(data) == {number: number % 2 for number in range(24)}
    (folder / "labels.csv").write_text("file,label\n0.png,a\n")
    refuse(folder, "line 2 names '0.png'; it must begin with the name of a folder, such as train/1.png")


def test_the_classes_of_every_split_are_those_of_train(tmp_path: Path) -> None:
    labelled(tmp_path / "train", "file,label", "0.png,b", "1.png,a", "2.png,b", images=NUMBERED[:3])
    test = labelled(tmp_path / "test", "file,label", "0.png,b", images=NUMBERED[:1])
    assert load_data(tmp_path).test[torch.arange(1)][1].tolist() == [1]
    labelled(test, "file,label", "0.png,c")
    refuse(tmp_path, "test/labels.csv has a class 'c' that .*train/labels.csv lacks")
    labelled(test, "file,label", "0.png,1")
    refuse(tmp_path, "names classes, or .* and the other numbers them; do the same")
    (test / "labels.csv").unlink()
    refuse(tmp_path, "test holds no folder; it must hold one per class, or images and a table labels.csv|class folders")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["name,label", "0.png,a"], "line 1 must name the columns file and label, not name, label"),
        (["file,label,fold", "0.png,a,1"], "line 1 must name the columns file and label, not"),
        (["file,label"], "names columns, but no line with a file follows"),
        (["file,label", "0.png,a", "0.png,b"], "line 3 names '0.png' again, as line 2 does; give each file one label"),
        (["file,label", "0.png,a", "./0.png,b"], "line 3 names './0.png' again, as line 2 does"),
        (["file,label", "9.png,a"], "line 2 names '9.png', which .* does not hold"),
        (["file,label", "a\0.png,a"], "line 2 names .*, which .* does not hold|cannot be read as cells"),
        (["file,label", f"{'x' * 5000}.png,a"], "line 2 names 'x*…x*.png', which .* does not hold"),
        (["file,label", "../1.png,a"], "line 2 names '../1.png'; it must be a file in the folder of images"),
        (["file,label", "/etc/passwd,a"], "it must be a file in the folder of images"),
        (["file,label", ",a"], "line 2 names ''; it must be a file in the folder"),
        (["file,label", "0.png,a"], "1.png has no label; name it in .*labels.csv, or remove it"),
        (["file,label", "0.png,a", "1.png,"], "line 3, column 'label' is empty; it must be a label"),
        (["file,label", "0.png,a", "1.png,1"], "'1', but line 2 has the name of a class; labels must all be"),
        (["file,label", "0.png,1", "1.png,a"], "'a', but line 2 has a number; labels must all be whole numbers"),
        (["file,label", "0.png,-1"], "'-1'; labels count classes from 0, or are their names"),
    ],
)
def test_a_table_of_labels_that_does_not_fit_is_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    refuse(labelled(tmp_path / "images", *rows, images=NUMBERED[:2]), message)


def test_a_table_of_very_many_files_or_classes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = labelled(tmp_path, "file,label", "0.png,a", "1.png,b", images=NUMBERED[:2])
    monkeypatch.setattr(csvfile, "_MOST_CLASSES", 1)
    refuse(folder, "line 3, column 'label' names over 1 classes")
    monkeypatch.setattr(csvfile, "_MOST_FILES", 1)
    monkeypatch.setattr(csvfile, "_MOST_CLASSES", 9)
    refuse(folder, "names over 1 files")


def test_classes_of_a_table_may_be_names(tmp_path: Path) -> None:
    rows = [f"{number},{KINDS[number % 3]}" for number in range(30)]
    data = load_data(table(tmp_path, "a,label", *rows))
    assert data.classes == ("cat", "dog", "emu")
    pairs = [pair for split in SPLITS for pair in zip(*getattr(data, split)[:], strict=True)]
    assert {int(x): int(y) for x, y in pairs} == {number: (1, 0, 2)[number % 3] for number in range(30)}
