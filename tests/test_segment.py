"""A class for each pixel: images with masks in the layouts people keep them in, and what judges them."""

import io
import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from bitq.accuracy.evaluate import IGNORED, cross_entropy, score
from bitq.errors import BitqError
from bitq.images import ArrayImages, Batches
from bitq.pictures import hue, pictures
from bitq.tasks import Reading, metric_of, names, task_of
from bitq.tasks.segment import load, mean_iou, pixel_accuracy
from bitq.tasks.segment.coloured import STRENGTH, coloured
from bitq.tasks.segment.layouts import LAYOUTS
from comparing import check_comparison

HEIGHT, WIDTH = 4, 6
SPLITS = {"train": 5, "val": 2, "test": 3}


def picture(path, number, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number, 0, 255)).save(path)


def mask(path, numbers, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(numbers, np.uint8), "L")
    if mode == "P":
        image.putpalette([255 - value % 256 for value in range(768)])
    image.save(path)


def numbers_of(number, marks):
    """Classes 0 to 2 and a void corner, as masks of a layout hold them, and as labels."""
    labels = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) + number) % 3
    held = labels + marks.first
    held[0, 0], labels[0, 0] = marks.void[0], IGNORED
    return held, labels


def kept(root, layout, splits=SPLITS):
    """Images and masks as a layout has them; labels by split."""
    labels = {}
    for split, place in layout.places.items():
        labels[split], lines = [], []
        for number in range(splits[split]):
            name = f"{'town/' if layout.name == 'Cityscapes' else ''}{split}{number}"
            held, own = numbers_of(number, layout.marks)
            picture(root / place.images / f"{name}{layout.ends[0]}.png", number)
            mask(root / place.masks / f"{name}{layout.ends[1]}.png", held, "P" if place.named else "L")
            labels[split].append(own)
            lines.append(name)
        if place.named:
            (root / place.named).parent.mkdir(parents=True, exist_ok=True)
            (root / place.named).write_text("\n".join(lines) + "\n")
    return labels


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_is_read(tmp_path, layout):
    labels = kept(tmp_path, layout)
    found = load(tmp_path, Reading())
    for split in layout.places:
        if len(layout.places) == 3:
            x, y = getattr(found, split)[torch.arange(SPLITS[split])]
            assert x.shape == (SPLITS[split], 3, HEIGHT, WIDTH)
            assert (x[:, 0, 0, 0] * 255).round().int().tolist() == list(range(SPLITS[split]))
            assert torch.equal(y, torch.tensor(np.stack(labels[split])))
    assert len(found.train) + len(found.val) + len(found.test) == sum(SPLITS[split] for split in layout.places)
    assert set(found.largest.values()) == {2}


def test_sizes_are_made_alike_where_that_is_asked_for(tmp_path):
    picture(tmp_path / "images/a.png", 1)
    picture(tmp_path / "images/b.png", 2, (2 * WIDTH, 2 * HEIGHT))
    picture(tmp_path / "images/c.png", 2)
    held = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 2
    mask(tmp_path / "masks/a.png", held)
    mask(tmp_path / "masks/b.png", held.repeat(2, 0).repeat(2, 1))
    mask(tmp_path / "masks/c.png", held)
    with pytest.raises(BitqError, match=r"b.png has 12 x 8 pixels and others 6 x 4 pixels; set an image size"):
        load(tmp_path, Reading())
    found = load(tmp_path, Reading((HEIGHT, WIDTH)))
    for part in (found.train, found.val, found.test):
        assert torch.equal(part[torch.arange(1)][1][0], torch.tensor(held))


MISTAKES = {
    "no folder": (lambda f: (f / "images").rename(f / "pictures"), {}, "holds no images with masks; keep them as"),
    "no mask": (lambda f: (f / "masks/train/1.png").unlink(), {}, "1.png has no mask; it must be .*masks/train/1.png"),
    "no image": (lambda f: (f / "images/train/1.png").unlink(), {}, "1.png is the mask of no image"),
    "called alike": (lambda f: picture(f / "images/train/1.jpg", 1), {}, "called alike; remove one"),
    "colours": (lambda f: picture(f / "masks/train/1.png", 1), {}, "1.png is an image of mode RGB"),
    "another size": (
        lambda f: mask(f / "masks/train/1.png", np.zeros((9, 9))),
        {"image_size": (HEIGHT, WIDTH)},
        "1.png has 9 x 9 pixels, but its image .* 6 x 4",
    ),
    "damaged": (lambda f: (f / "masks/train/1.png").write_bytes(b"PNG"), {}, "1.png cannot be read as a PNG"),
    "means": (lambda f: None, {"mean": (0.5, 0.5)}, "--mean has 2 numbers; it must have one, or 3"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_what_is_wrong_with_a_folder_is_told(tmp_path, case):
    kept(tmp_path, LAYOUTS[4])
    for index in range(SPLITS["train"]):
        for kind in ("images", "masks"):
            (tmp_path / kind / f"train/train{index}.png").rename(tmp_path / kind / f"train/{index}.png")
    spoil, reading, told = MISTAKES[case]
    spoil(tmp_path)
    with pytest.raises(BitqError, match=told):
        load(tmp_path, Reading(**reading))


def test_a_number_that_means_nothing_is_told_with_its_place(tmp_path):
    ade = next(layout for layout in LAYOUTS if layout.name == "ADE20K")
    kept(tmp_path, ade)
    with pytest.raises(BitqError, match=r"0.png has the number 0 at row 0, column 0; classes are numbered from 1"):
        load(tmp_path, Reading(void=(7,)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_metrics_are_what_they_say(images, classes, seed):
    drawn = np.random.default_rng(seed)
    scores = torch.tensor(drawn.normal(size=(images, classes, HEIGHT, WIDTH)), dtype=torch.float32)
    target = torch.tensor(drawn.choice([*range(classes), IGNORED], (images, HEIGHT, WIDTH)))
    found, overlaps, hits, known = scores.argmax(1), [], 0, 0
    for label in range(classes):
        true, guess = (target == label), (found == label) & (target != IGNORED)
        if true.any():
            overlaps.append(int((true & guess).sum()) / int((true | guess).sum()))
        hits, known = hits + int((true & guess).sum()), known + int(true.sum())
    model = nn.Identity()
    batches = [(scores[:1], target[:1]), (scores[1:], target[1:])] if images > 1 else [(scores, target)]
    assert mean_iou(model, batches) == pytest.approx(sum(overlaps) / len(overlaps) if overlaps else 0)
    assert pixel_accuracy(model, batches) == pytest.approx(hits / known if known else 0)
    if known:
        assert score(model, batches[:1], cross_entropy, mean_iou).accuracy == mean_iou(model, batches[:1])


class Counting(nn.Module):
    passes = 0

    def forward(self, x):
        Counting.passes += 1
        return torch.stack((x[:, 0], x[:, 2]), 1)


def test_the_loss_and_the_metric_take_one_pass():
    data = Batches(ArrayImages(torch.zeros(4, 3, 2, 2), torch.zeros(4, 2, 2, dtype=torch.int16)), 2)
    Counting.passes = 0
    score(Counting(), data, cross_entropy, mean_iou)
    assert Counting.passes == 2


def test_tasks_and_metrics_go_by_name():
    assert {"classify", "segment"} <= set(names())
    for name in names():
        task = task_of(name)
        assert metric_of(task, None)[1] in task.metrics.values()
    with pytest.raises(BitqError, match="task 'paint' is unknown; tasks are classify, detect, segment"):
        task_of("paint")
    with pytest.raises(BitqError, match="metric 'f1' is unknown; this task has mean-iou, pixel-accuracy"):
        metric_of(task_of("segment"), "f1")


def test_top5_counts_what_is_among_the_five_largest_and_refuses_other_outputs():
    top5 = task_of("classify").metrics["top5"]
    scores, target = torch.arange(16.0).reshape(2, 8), torch.tensor([3, 2])
    assert score(nn.Identity(), [(scores, target)], cross_entropy, top5).accuracy == 0.5
    with pytest.raises(BitqError, match="top-5 accuracy cannot judge"):
        top5(nn.Identity(), [(scores, torch.zeros(3, dtype=torch.long))])


NETS = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder with networks and data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_to_segment.py").write_text(NETS)
    kept(tmp_path / "data", LAYOUTS[4], {"train": 16, "val": 8, "test": 8})
    yield tmp_path
    sys.modules.pop("nets_to_segment", None)


DATA = ("nets_to_segment:net", "--task", "segment", "--data", "data")


def test_a_network_is_searched_and_measured_again(bitq, folder):
    code, out, err = bitq("search", *DATA, "--effort", "quick", "--steps", 2, "--run", "run", "--json")
    assert code == 0, err
    reached = json.loads(out)["totals"]["accuracy"]
    again = ("evaluate", "run", "--network", *DATA)
    code, out, err = bitq(*again, "--json")
    assert (code, json.loads(out)["accuracy"], err) == (0, reached, "")
    _, out, err = bitq(*again, "--metric", "pixel-accuracy")
    assert out.startswith("nets_to_segment:net: pixel-accuracy ")
    assert "the run has another metric 'bitq.tasks.segment.mean_iou'; here the metric is pixel-accuracy" in err


def test_rules_are_compared_by_the_metric_of_the_task(bitq, folder):
    few = ("--plans", 2, "--steps", 1, "--seeds", 0, "--formats", "8:e4:b16,mxint8,int4")
    code, out, err = bitq("compare", *DATA, "--rules", "bitq,flexblock,uniform", *few, "--run", "run", "--json")
    assert code == 0, err
    check_comparison(json.loads(out), (folder / "run/compare.html").read_text(), "mean-iou")


def test_formats_are_measured_by_the_metric_that_is_named(bitq, folder):
    code, out, err = bitq("evaluate", *DATA, "--formats", "float32", "--metric", "pixel-accuracy", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["metric"] == "pixel-accuracy"
    assert 0 <= found["rows"][0]["accuracy"] <= 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--image-size", "8x9x3"), "--image-size is '8x9x3'; it must be a number of pixels"),
        (("--image-size", "0x9"), "an image size of 0 pixels cannot be"),
        (("--void", "-1"), "--void is '-1'; it must be whole numbers"),
        (("--void", "700000,1"), "--void is '700000,1'; it must be whole numbers"),
        (("--void", "7"), "label 255 in the masks of train, but the network has 3 outputs"),
        (("--metric", "top5"), "metric 'top5' is unknown"),
        (("--task", "paint"), "task 'paint' is unknown"),
    ],
)
def test_options_that_cannot_be_are_told(mistake, folder, words, told):
    assert told in mistake("evaluate", *DATA, "--formats", "float32", *words)


def test_labels_beyond_the_outputs_are_told(mistake, folder):
    mask(folder / "data/masks/val/val0.png", np.full((HEIGHT, WIDTH), 3))
    said = mistake("evaluate", *DATA, "--formats", "float32")
    assert "label 3 in the masks of val, but the network has 3 outputs" in said


def test_what_is_found_is_drawn_in_the_report(tmp_path):
    kept(tmp_path, LAYOUTS[4])
    found = load(tmp_path, Reading(limit=2))
    torch.manual_seed(0)
    model = nn.Conv2d(3, 3, 1).eval()
    drawn = pictures(model, Batches(found.test, 2), mean_iou, 4)
    assert [Image.open(io.BytesIO(each)).size for each in drawn] == [(WIDTH, HEIGHT)] * 2
    image = Image.new("RGB", (2, 1))
    scores = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    left, right = (coloured(image, scores, torch.zeros(1), 0).getpixel((x, 0)) for x in (0, 1))
    assert left == tuple(int(STRENGTH * shade) for shade in hue(0))
    assert right == tuple(int(STRENGTH * shade) for shade in hue(1))
    assert left != right
