"""Boxes around objects: images in the layouts people keep them in, what judges boxes and what they are learned by."""

import io
import json
import math
import re
import sys
from base64 import b64decode

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from bitq.accuracy.distilling import distance
from bitq.accuracy.evaluate import score
from bitq.errors import BitqError
from bitq.tasks import Reading, task_of
from bitq.tasks.detect import box_ap, box_ap50, box_ap_small, detection_loss, load
from bitq.tasks.detect.annotations import found_in
from bitq.tasks.detect.assigning import CANDIDATES, assigned
from bitq.tasks.detect.boxes import ABSENT, Labelled, complete_overlap, overlap
from bitq.tasks.detect.heads import BINS, OVERLAP, heads_of, kept_of
from bitq.tasks.detect.letterbox import PAD, Objects, fit_of, truth_of
from bitq.tasks.detect.precision import Precision
from bitq.tradeoff.settings import Settings
from comparing import check_comparison

pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval: pip install 'bitq[detect]'")

SIDE, CELL = 64, 16
WIDTH, HEIGHT = 64, 32
SPLITS = {"train": 16, "val": 3, "test": 2}
OBJECTS = {
    0: [(0, (16, 0, 32, 16))],
    1: [(1, (0, 16, 16, 32)), (0, (48, 0, 64, 16))],
    2: [],
}
"""Class and box of what is in an image, by its number modulo 3: red and blue squares."""
COLOURS = ((255, 0, 0), (0, 0, 255))


def picture(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (WIDTH, HEIGHT))
    for label, box in OBJECTS[number % 3]:
        image.paste(COLOURS[label], box)
    image.save(path)


def text(path, number, polygons=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for label, (left, top, right, bottom) in OBJECTS[number % 3]:
        if polygons:
            corners = (left, top, right, top, right, bottom, left, bottom)
            shares = [each / (HEIGHT if place % 2 else WIDTH) for place, each in enumerate(corners)]
        else:
            shares = [(left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT]
            shares += [(right - left) / WIDTH, (bottom - top) / HEIGHT]
        lines.append(" ".join(map(str, [label, *shares])))
    path.write_text("\n".join(lines) + "\n")


def instances(count):
    images = [
        {"id": 7 * number + 1, "file_name": f"{number:02}.png", "width": WIDTH, "height": HEIGHT}
        for number in range(count)
    ]
    annotations = [
        {
            "image_id": 7 * number + 1,
            "category_id": (3, 90)[label],
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
        }
        for number in range(count)
        for label, (left, top, right, bottom) in OBJECTS[number % 3]
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 90, "name": "blue"}, {"id": 3, "name": "red"}],
    }


def kept(root, images, labels, splits=SPLITS, polygons=False):
    """Images and labels: texts, or COCO's document where `labels` names one."""
    for split, count in splits.items():
        for number in range(count):
            picture(root / images.format(split) / f"{number:02}.png", number)
            if not labels.endswith(".json") and OBJECTS[number % 3]:
                text(root / labels.format(split) / f"{number:02}.txt", number, polygons)
        if labels.endswith(".json"):
            path = root / labels.format(split)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(instances(count)))
    return root


LAYOUTS = {
    "COCO": ("{}2017", "annotations/instances_{}2017.json"),
    "COCO within images": ("images/{}2017", "annotations/instances_{}2017.json"),
    "documents beside images": ("{}", "{}/_annotations.coco.json"),
    "YOLO": ("images/{}", "labels/{}"),
    "YOLO by split": ("{}/images", "{}/labels"),
    "labels of several tasks": ("images/{}", "object_detection/labels/{}"),
}


@pytest.mark.parametrize("polygons", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(tmp_path, layout, polygons):
    kept(tmp_path, *LAYOUTS[layout], polygons=polygons)
    found = load(tmp_path, Reading((SIDE, SIDE)))
    assert found.classes == (("red", "blue") if LAYOUTS[layout][1].endswith("json") else ())
    assert set(found.largest.values()) == {1}
    for split, count in SPLITS.items():
        x, truth = getattr(found, split)[torch.arange(count)]
        assert x.shape == (count, 3, SIDE, SIDE)
        assert torch.equal(x[:, :, 0, 0], torch.full((count, 3), PAD / 255))
        for number in range(count):
            there = truth.classes[number] != ABSENT
            assert truth.classes[number][there].tolist() == [label for label, _ in OBJECTS[number % 3]]
            assert truth.boxes[number][there].tolist() == [list(map(float, box)) for _, box in OBJECTS[number % 3]]
            assert truth.areas[number][there].tolist() == [256.0] * int(there.sum())
            for label, box in OBJECTS[number % 3]:
                across, down = box[0], box[1] + (SIDE - HEIGHT) // 2
                seen = x[number, :, down : down + CELL, across : across + CELL]
                assert torch.equal(seen, torch.tensor(COLOURS[label])[:, None, None].expand(seen.shape) / 255)


def test_images_alone_are_split_and_val_is_judged_by_where_there_is_no_test(tmp_path):
    found = load(kept(tmp_path / "a", "images", "labels", {"train": 16}), Reading())
    assert [len(each) for each in (found.train, found.val, found.test)] == [12, 2, 2]
    assert found.train[torch.arange(1)][0].shape == (1, 3, 640, 640)
    found = load(kept(tmp_path / "b", "images/{}", "labels/{}", {"train": 16, "val": 5}), Reading((SIDE, SIDE)))
    assert [len(each) for each in (found.train, found.val, found.test)] == [14, 2, 5]
    picture(tmp_path / "b/images/test/1.png", 1)
    assert len(load(tmp_path / "b", Reading((SIDE, SIDE))).test) == 5


def changed(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def in_coco(change):
    return lambda root: changed(root / "annotations/instances_train2017.json", change)


def of_box(*box):
    return in_coco(lambda d: d["annotations"][2].update(bbox=list(box)))


WRONG_COCO = {
    "no folder": (lambda root: (root / "train2017").rename(root / "b"), "is of images that must be in .*train2017"),
    "two of a split": (
        lambda root: (root / "annotations/instances_train2014.json").write_text("{}"),
        "train2014.json and .*train2017.json are both of train; keep one of them there",
    ),
    "no JSON": (
        lambda root: (root / "annotations/instances_train2017.json").write_text("{,}"),
        "train2017.json is not JSON at line 1, column 2",
    ),
    "no list": (in_coco(lambda d: d.update(images={})), "images must be a list, not named entries"),
    "no images": (in_coco(lambda d: d.update(images=[])), "images must have at least 1 entry"),
    "no box": (in_coco(lambda d: d["annotations"][2].pop("bbox")), r"annotations\.2\.bbox is missing"),
    "three numbers": (of_box(1, 2, 3), r"annotations\.2\.bbox must have at least 4 entries, not 3"),
    "no number": (of_box(1, 2, 3, "4"), r"annotations\.2\.bbox\.3 must be a number, not '4'"),
    "too large": (of_box(1, 2, 3, 1e300), r"annotations\.2\.bbox\.3 must be a number of at most 1000000000"),
    "negative": (of_box(1, 2, -3, 4), r"annotations\.2\.bbox is -3 wide and 4 high"),
    "outside": (of_box(65, 2, 3, 4), r"annotations\.2\.bbox lies outside its image of 64 x 32 pixels"),
    "another image": (
        in_coco(lambda d: d["annotations"][2].update(image_id=5)),
        r"annotations\.2\.image_id is 5, which none of its images has",
    ),
    "another category": (
        in_coco(lambda d: d["annotations"][2].update(category_id=5)),
        r"annotations\.2\.category_id is 5, which none of its categories has",
    ),
    "other categories": (in_coco(lambda d: d["categories"][1].update(name="green")), "other categories than"),
    "an id twice": (in_coco(lambda d: d["images"][1].update(id=1)), "has one id of images twice"),
    "a name twice": (in_coco(lambda d: d["images"][1].update(file_name="00.png")), "one file_name of images twice"),
    "a category twice": (in_coco(lambda d: d["categories"][1].update(id=90)), "one id of categories twice"),
    "no such file": (in_coco(lambda d: d["images"][1].update(file_name="x.png")), "names the image 'x.png', which"),
    "elsewhere": (
        in_coco(lambda d: d["images"][1].update(file_name="../val2017/00.png")),
        "names the image '../val2017/00.png', which is no",
    ),
    "another size": (
        in_coco(lambda d: d["images"][1].update(width=60, height=60)),
        "01.png has 64 x 32 pixels, but its labels are of 60 x 60",
    ),
}


@pytest.mark.parametrize("case", WRONG_COCO)
def test_what_is_wrong_in_cocos_layout_is_told(tmp_path, case):
    spoil, told = WRONG_COCO[case]
    spoil(kept(tmp_path, *LAYOUTS["COCO"]))
    with pytest.raises(BitqError, match=told):
        load(tmp_path, Reading((SIDE, SIDE)))


def line(words):
    return lambda root: (root / "labels/train/04.txt").write_text(f"0 0.5 0.5 0.5 0.5\n\n{words}\n")


WRONG_YOLO = {
    "no folder": (lambda root: (root / "images").rename(root / "pictures"), "is no folder of images with boxes; keep"),
    "no labels": (lambda root: (root / "labels/val").rename(root / "labels/x"), "images/val has no labels; give a"),
    "no images": (
        lambda root: [each.unlink() for each in (root / "images/val").iterdir()], "images/val holds no image"
    ),
    "called alike": (lambda root: picture(root / "images/train/01.jpg", 1), "called alike; remove one"),
    "no class": (line("cat 0.5 0.5 0.5 0.5"), "04.txt, line 3 begins with 'cat'; it must be the number of a class"),
    "a class too large": (line("99999 0.5 0.5 0.5 0.5"), "line 3 begins with '99999'"),
    "three numbers": (line("0 0.5 0.5 0.5"), "line 3 has 3 numbers behind the class; they must be centre x"),
    "five numbers": (line("0 0.5 0.5 0.5 0.5 0.9"), "line 3 has 5 numbers behind the class"),
    "pixels": (line("0 12 0.5 0.5 0.5"), "line 3 has '12'; it must be a share of the image's width or height, 0 to 1"),
    "no number": (line("0 nan 0.5 0.5 0.5"), "line 3 has 'nan'"),
    "no text": (lambda root: (root / "labels/train/04.txt").write_bytes(b"\xff"), "04.txt is no text in UTF-8"),
    "too many": (lambda root: (root / "labels/train/04.txt").write_text("\n" * 20000), "has 20000 lines, more than"),
    "damaged": (lambda root: (root / "images/train/04.png").write_bytes(b"PNG"), "04.png cannot be read as a PNG"),
}


@pytest.mark.parametrize("case", WRONG_YOLO)
def test_what_is_wrong_in_yolos_layout_is_told(tmp_path, case):
    spoil, told = WRONG_YOLO[case]
    spoil(kept(tmp_path, *LAYOUTS["YOLO"]))
    with pytest.raises(BitqError, match=told):
        load(tmp_path, Reading((SIDE, SIDE)))


EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 12),
        st.sampled_from(["", "-1", "1e999", "null", '"', "[", "}", "0.5", "é", "\n", "\0", "/a" * 3000, "9" * 500]),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150)
@given(EDITS, st.sampled_from(["COCO", "YOLO"]))
def test_documents_that_are_not_what_they_should_be_are_told_and_no_more(tmp_path_factory, edits, layout):
    root = tmp_path_factory.getbasetemp() / f"edited-{layout}"
    if not root.exists():
        kept(root, *LAYOUTS[layout])
    path = root / ("annotations/instances_train2017.json" if layout == "COCO" else "labels/train/01.txt")
    content = before = path.read_text()
    for place, length, new in edits:
        start = int(place * len(content))
        content = content[:start] + new + content[start + length :]
    path.write_text(content, encoding="utf-8")
    parts, said = {}, str(path)
    try:
        parts = found_in(root)[0]
    except BitqError as error:
        said = str(error)
    path.write_text(before)
    assert str(path) in said or "categories" in said
    assert len(said) < 1000
    for part in parts.values():
        assert len(part.images) == len(part.objects)
        assert all(np.isfinite(each.boxes).all() and (each.classes >= 0).all() for each in part.objects)


def bilinear(pixels, size):
    """The slow twin: each pixel from the four around its place, which is cut to the image."""
    (height, width), found = size, np.empty((*size, pixels.shape[2]))
    for row in range(height):
        for column in range(width):
            y = min(max((row + 0.5) * pixels.shape[0] / height - 0.5, 0), pixels.shape[0] - 1)
            x = min(max((column + 0.5) * pixels.shape[1] / width - 0.5, 0), pixels.shape[1] - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, pixels.shape[0] - 1), min(left + 1, pixels.shape[1] - 1)
            down, across = y - top, x - left
            above = pixels[top, left] * (1 - across) + pixels[top, right] * across
            below = pixels[bottom, left] * (1 - across) + pixels[bottom, right] * across
            found[row, column] = above * (1 - down) + below * down
    return found


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([(32, 32), (32, 64), (7, 3)]))
def test_letterboxing_keeps_shapes_and_boxes_go_there_and_back(tmp_path_factory, height, width, shape):
    root = tmp_path_factory.mktemp("boxes")
    pixels = np.random.default_rng(height * 50 + width).integers(0, 256, (height, width, 3), np.uint8)
    (root / "images").mkdir()
    for number in range(3):
        Image.fromarray(pixels).save(root / f"images/{number}.png")
    text(root / "labels/0.txt", 0)
    found = load(root, Reading(shape))
    x, truth = found.train[torch.arange(1)]
    (rows, columns), (top, left) = fit_of((height, width), shape)
    assert rows == shape[0] or columns == shape[1]
    assert 0 <= shape[0] - rows - 2 * top <= 1
    assert 0 <= shape[1] - columns - 2 * left <= 1
    seen = (x[0] * 255).permute(1, 2, 0).numpy()
    inner = seen[top : top + rows, left : left + columns]
    assert np.abs(inner - bilinear(pixels.astype(float), (rows, columns))).max() <= 0.501
    assert seen.sum() - inner.sum() == pytest.approx(3 * PAD * (shape[0] * shape[1] - rows * columns), rel=1e-5)
    box = torch.tensor([[0.0, 0.0, width, height]])
    seen_box = torch.tensor([[left, top, left + columns, top + rows]]).float()
    torch.testing.assert_close(truth.restored(seen_box, 0), box)
    torch.testing.assert_close(truth.restored(seen_box + torch.tensor([-9.0, -9, 9, 9]), 0), box)


def truth_from(*rows, size=(SIDE, SIDE), shape=(SIDE, SIDE)):
    """What images are labelled with: of each, (class, box, crowd) of its objects."""
    objects = [
        Objects(
            np.array([box for _, box, _ in row], float).reshape(-1, 4),
            np.array([label for label, _, _ in row], int),
            np.array([crowd for _, _, crowd in row], bool),
            np.array([(box[2] - box[0]) * (box[3] - box[1]) for _, box, _ in row], float),
            size,
        )
        for row in rows
    ]
    return truth_of(objects, [size] * len(rows), shape, max(1, *map(len, rows)))


def test_what_is_learned_are_objects_with_an_extent_as_the_network_sees_them():
    truth = truth_from(
        [(1, (0, 0, 32, 16), False), (0, (4, 4, 4, 9), False), (0, (0, 0, 9, 9), True)], [], size=(32, 128)
    )
    boxes, classes = truth.learned(0)
    assert boxes.tolist() == [[0, 24, 16, 32]]
    assert classes.tolist() == [1]
    assert not len(truth.learned(1).boxes)
    assert len(truth[torch.tensor([1])]) == 1


def maps(*shapes, classes=2, count=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 4 * BINS + classes, *shape, generator=generator) for shape in shapes]


def in_detail(given, shape):
    """What maps say, cell by cell."""
    found = []
    for each in given:
        stride = shape[0] / each.shape[2]
        for row in range(each.shape[2]):
            for column in range(each.shape[3]):
                sides = each[:, : 4 * BINS, row, column].reshape(-1, 4, BINS).softmax(-1)
                near_x, near_y, far_x, far_y = ((sides * torch.arange(BINS)).sum(-1) * stride).unbind(-1)
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                box = [x + (far_x - near_x) / 2, y + (far_y - near_y) / 2, near_x + far_x, near_y + far_y]
                found.append(torch.cat((torch.stack(box, -1), each[:, 4 * BINS :, row, column].sigmoid()), -1))
    return torch.stack(found, -1)


def test_maps_and_what_they_say_in_detail_are_judged_and_learned_alike():
    given, shape = maps((8, 4), (4, 2), (2, 1), count=3), (64, 32)
    pair = in_detail(given, shape), given
    alone, detailed = heads_of(given, shape), heads_of(pair, shape)
    torch.testing.assert_close(alone.boxes, detailed.boxes)
    torch.testing.assert_close(alone.logits.sigmoid(), pair[0][:, 4:].transpose(1, 2))
    assert alone.strides.flatten().tolist() == [8.0] * 32 + [16.0] * 8 + [32.0] * 2
    truth = truth_from(*[[(1, (3, 9, 20, 44), False), (0, (10, 5, 30, 30), False)]] * 3, size=shape, shape=shape)
    torch.testing.assert_close(detection_loss(given, truth), detection_loss(pair, truth))


@pytest.mark.parametrize(
    "output",
    [
        torch.zeros(1, 6, 21),
        [],
        maps((4, 4), classes=0),
        [*maps((4, 4)), *maps((2, 2), classes=3)],
        (torch.zeros(1, 6, 15), maps((4, 4))),
        (torch.zeros(1, 6, 16), torch.zeros(3)),
    ],
)
def test_other_outputs_are_refused(output):
    truth = truth_from([])
    for judge in (lambda: detection_loss(output, truth), lambda: Precision().count(output, truth)):
        with pytest.raises(BitqError, match=r"detection cannot judge .*must be a list of maps"):
            judge()


def test_wrong_targets_and_sizes_are_told():
    with pytest.raises(BitqError, match="detection cannot learn from a tensor"):
        detection_loss(maps((4, 4)), torch.zeros(1))
    with pytest.raises(BitqError, match="detection cannot judge by a tensor"):
        Precision().count(maps((4, 4)), torch.zeros(1))
    with pytest.raises(BitqError, match="label 2 in a batch's target, but the network has 2 classes"):
        detection_loss(maps((4, 4)), truth_from([(2, (0, 0, 9, 9), False)]))
    with pytest.raises(BitqError, match="4 x 3 cells for an image of 64 x 64 pixels"):
        detection_loss(maps((4, 3)), truth_from([]))


numbers = st.integers(0, 120).map(lambda number: number / 4)
drawn_boxes = st.lists(st.tuples(numbers, numbers, numbers, numbers, st.integers(0, 2)), max_size=12)


def boxes_of(drawn):
    return [(left, top, left + width, top + height) for left, top, width, height, _ in drawn]


def plain_overlap(a, b):
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(across, 0) * max(down, 0)
    every = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / every if every else 0.0


@given(drawn_boxes)
def test_overlaps_are_what_they_say(drawn):
    boxes = boxes_of(drawn)
    found = torch.tensor(boxes).reshape(-1, 4)
    matrix = overlap(found[:, None], found[None])
    complete = complete_overlap(found[:, None], found[None])
    for i, a in enumerate(boxes):
        for j, b in enumerate(boxes):
            plain = plain_overlap(a, b)
            assert float(matrix[i, j]) == pytest.approx(plain, abs=1e-5)
            hull = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
            apart = (a[0] + a[2] - b[0] - b[2]) ** 2 / 4 + (a[1] + a[3] - b[1] - b[3]) ** 2 / 4
            if hull and all(side > 0.1 for box in (a, b) for side in (box[2] - box[0], box[3] - box[1])):
                angles = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (a, b)]
                unlike = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
                share = unlike / (1 - plain + unlike) if unlike else 0
                assert float(complete[i, j]) == pytest.approx(plain - apart / hull - share * unlike, abs=1e-4)


@given(drawn_boxes)
def test_suppression_keeps_what_no_better_box_of_its_class_overlaps(drawn):
    boxes, classes, kept = boxes_of(drawn), [each[4] for each in drawn], []
    for place, box in enumerate(boxes):
        if all(classes[own] != classes[place] or plain_overlap(boxes[own], box) <= OVERLAP for own in kept):
            kept.append(place)
    found = kept_of(Labelled(torch.tensor(boxes).reshape(-1, 4), torch.tensor(classes, dtype=torch.long)))
    assert found.tolist() == kept


AREAS = {"all": (0, 1e10), "small": (0, 32**2)}


def plain_precision(true, found, thresholds, areas):
    """COCO's average precision, counted plainly: `true` and `found` are (image, class, box, crowd or score)."""
    least, most = AREAS[areas]
    means = []

    def area(box):
        return (box[2] - box[0]) * (box[3] - box[1])

    for label in sorted({each[1] for each in true}):
        own = [(image, box, crowd or not least <= area(box) <= most) for image, c, box, crowd in true if c == label]
        crowds = [crowd for _, c, _, crowd in true if c == label]
        wanted = sum(not ignored for _, _, ignored in own)
        for threshold in thresholds if wanted else ():
            taken, marks = set(), []
            for image, _, box, _ in sorted((each for each in found if each[1] == label), key=lambda each: -each[3]):
                best, match = threshold, None
                for place in sorted(range(len(own)), key=lambda place: own[place][2]):
                    at, other, ignored = own[place]
                    if at != image or (place in taken and not crowds[place]):
                        continue
                    if match is not None and not own[match][2] and ignored:
                        break
                    if crowds[place]:
                        across = min(box[2], other[2]) - max(box[0], other[0])
                        down = min(box[3], other[3]) - max(box[1], other[1])
                        shared = max(across, 0) * max(down, 0) / area(box) if area(box) else 0
                    else:
                        shared = plain_overlap(box, other)
                    if shared >= best:
                        best, match = shared, place
                if match is not None:
                    taken.add(match)
                    marks.append(None if own[match][2] else True)
                else:
                    marks.append(False if least <= area(box) <= most else None)
            hits = np.cumsum([mark is True for mark in marks if mark is not None])
            precision = hits / np.arange(1, len(hits) + 1)
            precision = np.maximum.accumulate(precision[::-1])[::-1]
            places = np.searchsorted(hits / wanted, np.linspace(0, 1, 101), side="left")
            means.append(sum(precision[place] for place in places if place < len(precision)) / 101)
    return float(np.mean(means)) if means else 0.0


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(0, 6))
def test_average_precision_is_what_plain_counting_gives(seed, images, most):
    """Cells answer with boxes near true ones; no two scores are alike, and no cell gives two classes."""
    drawn, shape = np.random.default_rng(seed), (64, 64)
    rows, true, found = [], [], []
    decoded, logits = torch.zeros(images, 6, 16), torch.full((images, 2, 16), -20.0)
    scores = iter(drawn.permutation(np.linspace(0.05, 0.95, 16 * images)))
    for image in range(images):
        count = drawn.integers(0, most + 1)
        places, extents = drawn.integers(0, 32, (count, 2)), drawn.integers(4, 33, (count, 2))
        boxes = np.concatenate((places, places + extents), 1).tolist()
        row = [(int(drawn.integers(2)), tuple(box), bool(drawn.random() < 0.2)) for box in boxes]
        rows.append(row)
        true += [(image, label, box, crowd) for label, box, crowd in row]
        for cell in range(drawn.integers(0, 8)):
            label, box = (row[drawn.integers(len(row))][:2]) if row else (0, (4, 4, 30, 30))
            near = np.clip(np.array(box) + drawn.integers(-3, 4, 4), 0, 64)
            near[2:] = np.maximum(near[2:], near[:2] + 1).clip(max=64)
            wanted = next(scores)
            decoded[image, :4, cell] = torch.tensor([*(near[:2] + near[2:]) / 2, *(near[2:] - near[:2])])
            logits[image, label, cell] = math.log(wanted / (1 - wanted))
            found.append((image, label, tuple(near.tolist()), wanted))
    given = [torch.cat((torch.zeros(images, 4 * BINS, 16), logits), 1).unflatten(2, (4, 4))]
    stay = []
    for own in sorted(found, key=lambda each: -each[3]):
        if all(own[:2] != other[:2] or plain_overlap(own[2], other[2]) <= OVERLAP for other in stay):
            stay.append(own)
    batches = [((decoded, given), truth_from(*rows, shape=shape))]
    thresholds = np.linspace(0.5, 0.95, 10)
    model = Given()
    assert box_ap(model, batches) == pytest.approx(plain_precision(true, stay, thresholds, "all"), abs=1e-9)
    assert box_ap50(model, batches) == pytest.approx(plain_precision(true, stay, [0.5], "all"), abs=1e-9)
    assert box_ap_small(model, batches) == pytest.approx(plain_precision(true, stay, thresholds, "small"), abs=1e-9)


class Given(nn.Module):
    """Answers what it is given."""

    def forward(self, decoded, given):
        return decoded, given


def logit(share):
    return math.log(share / (1 - share))


def one_map(boxes, scores, stride=CELL, side=4):
    """A map of one class and pairs of cells' places and logits of distances to all sides."""
    found = torch.zeros(1, 4 * BINS + 1, side, side)
    found[:, -1] = -30.0
    for (row, column), (bins, score_) in zip(boxes, scores, strict=True):
        found[0, : 4 * BINS, row, column] = bins.repeat(4)
        found[0, -1, row, column] = logit(score_)
    return [found]


def test_the_loss_is_what_is_computed_by_hand():
    """One object of 32 x 32 pixels around the corner of four cells; one of them answers, and its box reaches 1 cell."""
    bins = torch.full((BINS,), -40.0)
    bins[1] = 0.0
    given = one_map([(1, 1)], [(bins, 0.25)])
    truth = truth_from([(0, (16, 16, 48, 48), False)])
    loss = detection_loss(given, truth)
    mine, its = (8.0, 8.0, 40.0, 40.0), (16.0, 16.0, 48.0, 48.0)
    shared = plain_overlap(mine, its)
    assert shared == pytest.approx(576 / 1472)
    complete = shared - (8**2 + 8**2) / (40**2 + 40**2)
    weight = complete  # the best cell's alignment is scaled to its overlap
    assert float(loss.boxes) == pytest.approx(weight * (1 - complete), rel=1e-4)  # weights sum to less than 1
    bce = -weight * math.log(0.25) - (1 - weight) * math.log(0.75)
    cells = [(row, column) for row in (1, 2) for column in (1, 2)]
    assert len(cells) <= CANDIDATES
    assert float(loss.classes) == pytest.approx(bce, rel=1e-4)
    near, far = 24 - 16, 48 - 24  # of the cell's centre, in cells 0.5 and 1.5: half the bins 0 and 1, half 1 and 2
    assert (near / CELL, far / CELL) == (0.5, 1.5)
    assert float(loss.sides) == pytest.approx(weight * 0.5 * 40, rel=1e-4)  # log-probabilities −40 and 0
    assert float(loss.total) == pytest.approx(
        7.5 * float(loss.boxes) + 0.5 * float(loss.classes) + 1.5 * float(loss.sides)
    )


def test_cells_are_assigned_to_what_they_are_aligned_with():
    """Two cells in both of two boxes: each goes to the box it overlaps most; weights are scaled for each object."""
    bins = torch.full((2, BINS), -40.0)
    bins[0, 1], bins[1, 2] = 0.0, 0.0
    given = one_map([(1, 1), (2, 1)], [(bins[0], 0.64), (bins[1], 0.36)])
    objects = Labelled(
        torch.tensor([[8.0, 8, 40, 40], [0, 8, 64, 64]]), torch.tensor([0, 0])
    )
    heads = heads_of(given, (SIDE, SIDE))
    found = assigned(heads, 0, objects)
    by_cell = {int(cell): (int(own), float(weight)) for cell, own, weight in zip(*found, strict=True)}
    alone = float(complete_overlap(torch.tensor([8.0, 8, 40, 40]), objects.boxes[0]))
    assert by_cell[5] == (0, pytest.approx(alone))
    assert by_cell[9][0] == 1
    assert by_cell[9][1] == pytest.approx(float(complete_overlap(heads.boxes[0, 9], objects.boxes[1])), rel=1e-4)
    assert all(weight < 1e-3 for cell, (_, weight) in by_cell.items() if cell not in (5, 9))


def test_no_more_cells_answer_than_may_and_crowds_teach_nothing():
    given = maps((16, 16), classes=1, seed=3)
    truth = truth_from([(0, (0, 0, 64, 64), False)])
    found = assigned(heads_of(given, (SIDE, SIDE)), 0, truth.learned(0))
    assert len(found.cells) == CANDIDATES
    assert found.weights.max() <= 1
    crowd, nothing = truth_from([(0, (0, 0, 64, 64), True)]), truth_from([])
    torch.testing.assert_close(detection_loss(given, crowd), detection_loss(given, nothing))
    assert float(detection_loss(given, nothing).boxes) == 0


def test_learning_brings_boxes_to_objects():
    truth = truth_from([(1, (5, 7, 40, 50), False), (0, (30, 2, 62, 20), False)], [])
    given = [each.requires_grad_() for each in maps((8, 8), (4, 4), count=2)]
    optimizer = torch.optim.Adam(given, 0.3)
    for _ in range(120):
        optimizer.zero_grad()
        detection_loss(given, truth).total.backward()
        optimizer.step()
    figures = score(nn.Identity(), [((given,), truth)], detection_loss, box_ap)
    assert figures.accuracy > 0.9
    assert all(torch.isfinite(each.grad).all() for each in given)


def test_a_network_that_answers_more_in_evaluation_is_its_own_teacher():
    given = maps((4, 4), (2, 2))
    right = [each + 0.1 for each in given]
    alone = distance(given, right)
    assert float(alone) > 0
    torch.testing.assert_close(distance(given, (in_detail(right, (SIDE, SIDE)), right)), alone)
    with pytest.raises(BitqError, match=r"gives a list of 2 in training and a tensor of shape .* or train with"):
        distance(given, right[0])


NETS = """
import torch
from torch import nn


class Finding(nn.Module):
    '''Squares of 16 pixels, red or blue, that cells hold: a box of half a cell to each side.'''

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 2, 16, 16, bias=False)
        self.head = nn.Conv2d(2, 66, 1)
        self.mean = nn.Conv2d(16, 1, 1, bias=False)
        with torch.no_grad():
            self.stem.weight.zero_()
            self.stem.weight[0, 0], self.stem.weight[1, 2] = 1 / 256, 1 / 256
            self.head.weight.zero_()
            self.head.weight[64, 0] = self.head.weight[65, 1] = 20
            self.head.weight[64, 1] = self.head.weight[65, 0] = -20
            self.head.bias.fill_(-30)
            for side in range(4):
                self.head.bias[16 * side : 16 * side + 2] = 0
            self.head.bias[64:] = -12
            self.mean.weight.copy_(torch.arange(16.0).view(1, 16, 1, 1))
        self.mean.requires_grad_(False)

    def forward(self, x):
        given = self.head(self.stem(x).relu())
        if self.training:
            return [given]
        flat = given.flatten(2)
        near, far = self.mean(flat[:, :64].unflatten(1, (4, 16)).transpose(1, 2).softmax(1))[:, 0].mul(16).chunk(2, 1)
        rows, columns = torch.meshgrid(*(torch.arange(side) for side in given.shape[2:]), indexing="ij")
        centres = torch.stack((columns, rows)).flatten(1) * 16 + 8
        boxes = torch.cat((centres + (far - near) / 2, near + far), 1)
        return torch.cat((boxes, flat[:, 64:].sigmoid()), 1), [given]


def alone():
    torch.manual_seed(0)
    return nn.Conv2d(3, 6, 1)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder with networks and data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_to_detect.py").write_text(NETS)
    kept(tmp_path / "data", *LAYOUTS["YOLO"])
    kept(tmp_path / "coco", *LAYOUTS["COCO"])
    yield tmp_path
    sys.modules.pop("nets_to_detect", None)


DATA = ("nets_to_detect:Finding", "--task", "detect", "--data", "data", "--image-size", SIDE)


def test_formats_are_measured_with_their_protocol_beside_them(bitq, folder):
    code, out, err = bitq("evaluate", *DATA, "--formats", "float32,mxint8,4:e2:b16", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["metric"] == "box-ap"
    assert found["protocol"].startswith("images letterboxed to 64 x 64: centred, bilinear without antialiasing, padded")
    assert [row["accuracy"] for row in found["rows"]][:2] == [pytest.approx(1), pytest.approx(1)]
    _, out, err = bitq("evaluate", *DATA, "--formats", "float32", "--metric", "box-ap50", "--data", "coco")
    assert "box-ap50" in out
    assert "box-ap50: images letterboxed to 64 x 64" in " ".join(out.split())
    assert err.startswith("classes: 0 red, 1 blue")


def test_a_network_is_searched_and_measured_again(bitq, folder):
    few = ("--effort", "quick", "--steps", 2, "--formats", "8:e4:b16,mxint8,int4")
    code, out, err = bitq("search", *DATA, *few, "--run", "run", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["metric"] == "box-ap"
    page = (folder / "run/report.html").read_text()
    assert "<dt>Test box-ap</dt>" in page
    drawn = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(drawn) == 2 * SPLITS["test"]
    assert {Image.open(io.BytesIO(b64decode(each))).size for each in drawn} == {(SIDE, SIDE)}
    assert "Box-ap on the test data" in page
    assert "accuracy" not in re.sub(r"<script.*?</script>", "", page, flags=re.S).lower()
    again = ("evaluate", "run", "--network", *DATA, "--json")
    code, out, err = bitq(*again)
    assert code == 0, err
    assert json.loads(out)["accuracy"] == document["totals"]["accuracy"] > 0.9
    assert json.loads(out)["protocol"] == document["protocol"]


def test_rules_are_compared_by_the_metric_of_the_task(bitq, folder):
    few = ("--plans", 2, "--steps", 1, "--seeds", 0, "--formats", "8:e4:b16,mxint8,int4")
    code, out, err = bitq("compare", *DATA, "--rules", "bitq,flexblock,uniform", *few, "--run", "run", "--json")
    assert code == 0, err
    check_comparison(json.loads(out), (folder / "run/compare.html").read_text(), "box-ap")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--void", "255"), "--void is of masks, which this task has none of; leave it out"),
        (("--metric", "mean-iou"), "metric 'mean-iou' is unknown; this task has box-ap, box-ap50"),
        (("--mean", "0,1"), "--mean has 2 numbers; it must have one, or 3"),
        (("--image-size", "40"), "2 x 2 cells for an image of 40 x 40 pixels"),
    ],
)
def test_options_that_cannot_be_are_told(mistake, folder, words, told):
    assert told in mistake("evaluate", *DATA, "--formats", "float32", *words)


def test_a_search_is_as_much_lighter_as_images_are_heavier():
    usual = Settings.quick(alpha=0.3)
    suited = usual.suited(task_of("detect"))
    assert (suited.training.steps, suited.scored_inputs, suited.screened_inputs) == (13, 16, 64)
    assert suited.training.learning_rate < usual.training.learning_rate
    assert (suited.alpha, suited.rounds) == (0.3, usual.rounds)
    assert usual.suited(task_of("classify")) == usual


def test_labels_beyond_the_classes_are_told(mistake, folder):
    (folder / "data/labels/val/01.txt").write_text("2 0.5 0.5 0.5 0.5")
    said = mistake("evaluate", *DATA, "--formats", "float32")
    assert "label 2 in the labels of val, but the network has 2 outputs" in said


def test_a_network_of_another_kind_is_told(mistake, folder):
    said = mistake("evaluate", "nets_to_detect:alone", *DATA[1:], "--formats", "float32")
    assert "detection cannot judge a tensor of shape" in said


def test_the_package_that_counts_is_named_where_it_is_missing(mistake, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    said = mistake("evaluate", *DATA, "--formats", "float32")
    assert "average precision needs the package faster-coco-eval: pip install 'bitq[detect]'" in said
