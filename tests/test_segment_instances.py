"""Masks of objects: outlines as people keep them, what judges masks and what they are learned by."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import test_detect as boxes
from bitq.accuracy.evaluate import score
from bitq.errors import BitqError
from bitq.networks import NETWORKS
from bitq.pictures import hue
from bitq.tasks import Reading, task_of
from bitq.tasks.detect.letterbox import Objects
from bitq.tasks.detect.outlines import Outline, mask_of, runs_of, text_of
from bitq.tasks.segment_instances import box_ap, instance_loss, load, mask_ap, mask_ap50, mask_ap_small
from bitq.tasks.segment_instances.masked import STRENGTH, masked
from bitq.tasks.segment_instances.mixtures import Canvas, mixed_of
from bitq.tasks.segment_instances.outlining import OF_INSTANCES
from bitq.tasks.segment_instances.truth import instances_of
from comparing import check_comparison

utilities = pytest.importorskip("faster_coco_eval.core.mask", reason="needs: pip install 'bitq[detect]'")
SIDE, WIDTH, HEIGHT = boxes.SIDE, boxes.WIDTH, boxes.HEIGHT


def filled(box, size=(HEIGHT, WIDTH)):
    """The mask of a box of whole numbers."""
    mask = np.zeros(size, np.uint8, order="F")
    left, top, right, bottom = box
    mask[top:bottom, left:right] = 1
    return mask


def runs(mask):
    """Lengths of runs of 0 and 1 in turn, column by column."""
    flat = mask.T.ravel()
    ends = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), len(flat)]
    found = np.diff(ends).tolist()
    return [0, *found] if flat[0] else found


def kept(root, layout, kind="polygon"):
    """Images with outlines: of COCO as polygons, as runs or as texts of runs."""
    boxes.kept(root, *boxes.LAYOUTS[layout], polygons=True)
    for path in root.rglob("*.json"):
        document = json.loads(path.read_text())
        for each in document["annotations"]:
            left, top, width, height = each["bbox"]
            right, bottom = left + width, top + height
            counts = runs(filled((left, top, right, bottom)))
            each["segmentation"] = {
                "polygon": [[left, top, right, top, right, bottom, left, bottom]],
                "runs": {"size": [HEIGHT, WIDTH], "counts": counts},
                "text": {"size": [HEIGHT, WIDTH], "counts": text_of(counts)},
            }[kind]
        path.write_text(json.dumps(document))
    return root


@pytest.mark.parametrize(("layout", "kind"), [("COCO", "polygon"), ("COCO", "runs"), ("COCO", "text"), ("YOLO", "")])
def test_outlines_are_read(tmp_path, layout, kind):
    found = load(kept(tmp_path, layout, kind), Reading((SIDE, SIDE)))
    x, truth = found.val[torch.arange(2)]
    assert x.shape == (2, 3, SIDE, SIDE)
    for image in range(2):
        own = boxes.OBJECTS[image]
        assert len(truth.outlines[image]) == len(own)
        seen = truth.masks(image, range(len(own)), (SIDE // 4, SIDE // 4))
        for place, (_, box) in enumerate(own):
            assert np.array_equal(mask_of(truth.outlines[image][place], (HEIGHT, WIDTH)), filled(box))
            shifted = (box[0], box[1] + (SIDE - HEIGHT) // 2, box[2], box[3] + (SIDE - HEIGHT) // 2)
            small = filled([each // 4 for each in shifted], (SIDE // 4, SIDE // 4))
            assert np.array_equal(seen[place].numpy(), small)


def outline(**values):
    return boxes.in_coco(lambda d: d["annotations"][2].update(segmentation=values or None))


WRONG = {
    "none": ("COCO", boxes.in_coco(lambda d: d["annotations"][2].pop("segmentation")), r"annotations\.2\.segmentation"),
    "another size": ("COCO", outline(size=[4, 4], counts=[16]), r"annotations\.2\.segmentation\.size is \[4, 4\]"),
    "too few": ("COCO", outline(size=[HEIGHT, WIDTH], counts=[16]), r"counts are runs of 16 pixels, but its image has"),
    "no text": ("COCO", outline(size=[HEIGHT, WIDTH], counts="~~"), r"counts is no text of runs, as COCO writes them"),
    "odd": (
        "COCO",
        boxes.in_coco(lambda d: d["annotations"][2].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]])),
        r"annotations\.2\.segmentation has a polygon of 7 numbers; it must be x and y of three or more corners",
    ),
    "a box": ("YOLO", boxes.line("0 0.5 0.5 0.5 0.5"), "04.txt, line 1 is a box, which tells no mask; it must be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_outlines_is_told(tmp_path, case):
    layout, spoil, told = WRONG[case]
    spoil(kept(tmp_path, layout))
    with pytest.raises(BitqError, match=told):
        load(tmp_path, Reading((SIDE, SIDE)))


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_runs_are_what_coco_writes(seed, height, width):
    drawn = np.random.default_rng(seed)
    mask = np.asfortranarray((drawn.random((height, width)) < drawn.random()).astype(np.uint8))
    text = utilities.encode(mask)["counts"].decode()
    assert list(runs_of(text)) == runs(mask)
    assert text_of(runs(mask)) == text
    assert np.array_equal(mask_of(text, (height, width)), mask)


@given(st.text(st.characters(min_codepoint=0, max_codepoint=130), max_size=40))
def test_texts_of_no_runs_are_refused(text):
    try:
        found = runs_of(text)
    except ValueError:
        return
    assert all(run >= 0 for run in found)


def test_polygons_are_cut_to_their_image():
    far = Outline((np.array([[-1e9, -1e9], [1e9, -1e9], [1e9, 1e9], [-1e9, 1e9]]),))
    assert mask_of(far.text((5, 7)), (5, 7)).all()


class Given(nn.Module):
    """Answers what it is given."""

    def forward(self, *answer):
        return answer


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(0, 6))
def test_average_precision_of_masks_is_what_plain_counting_gives(seed, images, most):
    """Objects fill boxes of whole numbers, and every mask is all that its box allows: overlaps are those of boxes."""
    drawn, shape = np.random.default_rng(seed), (64, 64)
    objects, true, found = [], [], []
    cells = 8 * 8 + 4 * 4 + 2 * 2
    predictions = torch.zeros(images, 4 + 2 + 1, cells)
    predictions[:, 6] = 1
    scores = iter(drawn.permutation(np.linspace(0.05, 0.95, 16 * images)))
    for image in range(images):
        count = drawn.integers(0, most + 1)
        places, extents = drawn.integers(0, 32, (count, 2)), drawn.integers(4, 33, (count, 2))
        own = np.concatenate((places, places + extents), 1)
        row = [(int(drawn.integers(2)), tuple(box), bool(drawn.random() < 0.2)) for box in own.tolist()]
        true += [(image, label, box, crowd) for label, box, crowd in row]
        objects.append(
            Objects(
                own.astype(float).reshape(-1, 4),
                np.array([each[0] for each in row], np.int64),
                np.array([each[2] for each in row], np.bool_),
                extents.prod(1).astype(float),
                shape,
                tuple(Outline(runs=tuple(runs(filled(box, shape)))) for box in own.tolist()),
            )
        )
        for cell in range(drawn.integers(0, 8)):
            label, box = (row[drawn.integers(len(row))][:2]) if row else (0, (4, 4, 30, 30))
            near = np.clip(np.array(box) + drawn.integers(-3, 4, 4), 0, 64)
            near[2:] = np.maximum(near[2:], near[:2] + 1).clip(max=64)
            predictions[image, :4, cell] = torch.tensor([*(near[:2] + near[2:]) / 2, *(near[2:] - near[:2])])
            predictions[image, 4 + label, cell] = wanted = next(scores)
            found.append((image, label, tuple(near.tolist()), wanted))
    stay = []
    for own in sorted(found, key=lambda each: -each[3]):
        if all(own[:2] != o[:2] or boxes.plain_overlap(own[2], o[2]) <= boxes.OVERLAP for o in stay):
            stay.append(own)
    truth = instances_of(objects, [shape] * images, shape, most)
    batches, model = [((predictions, torch.ones(images, 1, 16, 16)), truth)], Given()
    thresholds = np.linspace(0.5, 0.95, 10)
    right = boxes.plain_precision(true, stay, thresholds, "all")
    assert mask_ap(model, batches) == pytest.approx(right, abs=1e-9)
    assert box_ap(model, batches) == pytest.approx(right, abs=1e-9)
    assert mask_ap50(model, batches) == pytest.approx(boxes.plain_precision(true, stay, [0.5], "all"), abs=1e-9)
    small = boxes.plain_precision(true, stay, thresholds, "small")
    assert mask_ap_small(model, batches) == pytest.approx(small, abs=1e-9)


def plain_mask(prototypes, mixture, box, size, shape):
    """The slow twin: each pixel between the four cells around its place in what the network sees."""
    logits = (prototypes * mixture[:, None, None]).sum(0)
    scale = min(shape[0] / size[0], shape[1] / size[1])
    fit = [round(side * scale) for side in size]
    found = np.zeros(size, bool)
    for row in range(size[0]):
        for column in range(size[1]):
            if not (box[0] <= column < box[2] and box[1] <= row < box[3]):
                continue
            place = []
            for at, side, inner, whole, cells in zip((row, column), size, fit, shape, logits.shape, strict=True):
                seen = (at + 0.5) * inner / side + (whole - inner) // 2
                place.append(min(max(seen * cells / whole - 0.5, 0), cells - 1))
            (y, x), (top, left) = place, map(int, place)
            bottom, right = min(top + 1, logits.shape[0] - 1), min(left + 1, logits.shape[1] - 1)
            above = logits[top, left] * (1 - x + left) + logits[top, right] * (x - left)
            below = logits[bottom, left] * (1 - x + left) + logits[bottom, right] * (x - left)
            found[row, column] = above * (1 - y + top) + below * (y - top) > 0
    return found


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30))
def test_masks_are_interpolated_at_the_pixels_of_the_image_and_cut(seed, height, width):
    torch.manual_seed(seed)
    shape = (32, 64)
    nothing = Objects(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0), (height, width))
    truth = instances_of([nothing], [(height, width)], shape, 1).boxes
    prototypes, mixture = torch.randn(3, 8, 16), torch.randn(3)
    box = torch.rand(4) * torch.tensor([width, height] * 2)
    found = np.zeros((height, width), bool)
    rows, columns, mask = Canvas(prototypes, truth, 0).mask(mixture, box)
    found[rows, columns] = mask.numpy()
    plain = plain_mask(prototypes.double().numpy(), mixture.double().numpy(), box.tolist(), (height, width), shape)
    assert (found != plain).mean() <= 0.01  # a logit may round to the other side of 0


def test_masks_are_drawn_over_their_pixels_the_most_probable_on_top():
    """Two objects that share pixels, and one that is too improbable; masks fill their boxes' left half."""
    box_of = {0: (4, 4, 36, 36), 1: (20, 4, 60, 36), 2: (4, 40, 60, 60)}
    predictions = torch.zeros(1, 4 + 3 + 1, 8 * 8 + 4 * 4 + 2 * 2)
    for label, (left, top, right, bottom) in box_of.items():
        predictions[0, :4, label] = torch.tensor([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
        predictions[0, 4 + label, label] = (0.6, 0.9, 0.2)[label]
        predictions[0, 7, label] = 1
    prototypes = -torch.ones(1, 1, 16, 16)
    prototypes[..., :8] = 1  # the left half of the image
    nothing = Objects(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0), (64, 64))
    truth = instances_of([nothing], [(64, 64)], (64, 64), 1)
    drawn = masked(Image.new("RGB", (64, 64)), (predictions, prototypes), truth, 0)
    colours = [tuple(round(STRENGTH * shade) for shade in hue(label)) for label in range(3)]
    near = {place: drawn.getpixel(place) for place in ((12, 28), (26, 28), (50, 28), (12, 52))}
    for place, colour in (((12, 28), colours[0]), ((26, 28), colours[1]), ((50, 28), (0, 0, 0)), ((12, 52), (0, 0, 0))):
        assert near[place] == pytest.approx(colour, abs=1), place
    assert drawn.getpixel((36, 30)) == hue(0), "the edge of a box"


def test_the_loss_of_masks_is_what_is_computed_by_hand():
    """One object of 32 x 32 pixels, which one cell answers for, whose mask is half of its box."""
    bins = torch.full((boxes.BINS,), -40.0)
    bins[1] = 0.0
    maps = boxes.one_map([(1, 1)], [(bins, 0.25)])
    mask = filled((16, 16, 48, 32), (64, 64))
    objects = Objects(
        np.array([[16.0, 16, 48, 48]]), np.zeros(1, np.int64), np.zeros(1, np.bool_), np.array([512.0]), (64, 64),
        (Outline(runs=tuple(runs(mask))),),
    )
    truth = instances_of([objects], [(64, 64)], (64, 64), 1)
    mixtures, prototypes = torch.zeros(1, 2, 16), torch.zeros(1, 2, 16, 16)
    mixtures[0, :, 5] = torch.tensor([1.0, -2.0])
    prototypes[0, 0], prototypes[0, 1, 8:] = 3.0, 0.5
    found = instance_loss((maps, mixtures, prototypes), truth)
    plain = boxes.detection_loss(maps, truth.boxes)
    inside, outside = math.log1p(math.exp(-3)), math.log1p(math.exp(2))
    answering = 4  # cells within the box are chosen, though three of them do not overlap it
    zero = math.log(2)
    others = [each for each in (5, 6, 9, 10) if each != 5]
    wanted = ((inside + outside) / 2 + len(others) * zero) / answering
    assert float(found.masks) == pytest.approx(wanted, rel=1e-4)
    assert float(found.total) == pytest.approx(float(plain.total) + 7.5 * float(found.masks), rel=1e-5)


def test_learning_brings_masks_to_objects():
    torch.manual_seed(0)
    mask = filled((8, 8, 40, 40), (64, 64))
    mask[8:24, 8:24] = 0
    objects = Objects(
        np.array([[8.0, 8, 40, 40]]), np.ones(1, np.int64), np.zeros(1, np.bool_), np.array([768.0]), (64, 64),
        (Outline(runs=tuple(runs(mask))),),
    )
    truth = instances_of([objects], [(64, 64)], (64, 64), 1)
    maps = [each.requires_grad_() for each in boxes.maps((8, 8), (4, 4))]
    mixtures, prototypes = torch.randn(1, 4, 80, requires_grad=True), torch.randn(1, 4, 16, 16, requires_grad=True)
    optimizer = torch.optim.Adam([*maps, mixtures, prototypes], 0.3)
    for _ in range(100):
        optimizer.zero_grad()
        instance_loss((maps, mixtures, prototypes), truth).total.backward()
        optimizer.step()
    with torch.no_grad():
        detailed = torch.cat((boxes.in_detail(maps, (64, 64)), mixtures), 1)
    answer = (detailed, (maps, mixtures, prototypes))
    assert score(Given(), [(answer, truth)], instance_loss, mask_ap).accuracy > 0.85  # all overlaps but one or two


@pytest.mark.parametrize("name", ["yolov8n_seg", "yolov5n_seg"])
def test_networks_answer_what_is_judged_and_learned_from(name):
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    x = torch.rand(1, 3, 64, 64)
    mask = filled((8, 8, 40, 40), (64, 64))
    objects = Objects(
        np.array([[8.0, 8, 40, 40]]), np.ones(1, np.int64), np.zeros(1, np.bool_), np.array([1024.0]), (64, 64),
        (Outline(runs=tuple(runs(mask))),),
    )
    truth = instances_of([objects], [(64, 64)], (64, 64), 1)
    with torch.no_grad():
        assert mixed_of(network(x)).classes == 80
        found = score(network, [(x, truth)], instance_loss, mask_ap)
        with_maps = instance_loss(network(x), truth)
    assert math.isfinite(found.loss)
    assert 0 <= found.accuracy <= 1
    training = instance_loss(network.train()(x), truth)
    training.total.backward()
    assert float(with_maps.masks) > 0
    assert all(each.grad is not None for each in network.parameters() if each.requires_grad)


def test_what_is_no_answer_is_told():
    nothing = Objects(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0), (64, 64))
    truth = instances_of([nothing], [(64, 64)], (64, 64), 1)
    for wrong in (torch.zeros(1, 84, 4), (torch.zeros(1, 5, 4), torch.zeros(1, 32, 4, 4)), [1, 2, 3]):
        with pytest.raises(BitqError, match=r"instance segmentation cannot judge .* as of YOLOv8 with masks, or"):
            mixed_of(wrong)
    answer = torch.zeros(1, 6, 7), torch.zeros(1, 1, 16, 16)
    with pytest.raises(BitqError, match="predictions of 7 cells are not of images of 64 x 64 pixels and cells of 8,"):
        mixed_of(answer).heads((64, 64))
    with pytest.raises(BitqError, match=r"cannot learn from a Truth.*must be a bitq.tasks.segment_instances.Instances"):
        instance_loss(answer, truth.boxes)


NETS = boxes.NETS.replace(
    "if self.training:\n            return [given]",
    """prototypes = nn.functional.avg_pool2d(x, 4)[:, [0, 2]] * 20 - 10
        mixtures = given[:, 64:].flatten(2).add(12).div(20)
        if self.training:
            return [given], mixtures, prototypes""",
).replace(
    "return torch.cat((boxes, flat[:, 64:].sigmoid()), 1), [given]",
    "return torch.cat((boxes, flat[:, 64:].sigmoid(), mixtures), 1), ([given], mixtures, prototypes)",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder with a network that finds squares and their masks, and data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_of_masks.py").write_text(NETS)
    kept(tmp_path / "data", "YOLO")
    kept(tmp_path / "val", "COCO")
    for each in ("train", "test"):
        (tmp_path / f"val/annotations/instances_{each}2017.json").unlink()
    yield tmp_path
    sys.modules.pop("nets_of_masks", None)


WORDS = ("nets_of_masks:Finding", "--task", "segment-instances", "--image-size", SIDE)


def test_a_network_is_searched_and_measured_again(bitq, folder):
    few = ("--effort", "quick", "--steps", 2, "--formats", "8:e4:b16,mxint8,int4")
    code, out, err = bitq("search", *WORDS, "--data", "data", *few, "--run", "run", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["metric"] == "mask-ap"
    assert "masks are prototypes at a quarter of that size" in document["protocol"]
    assert document["rows"][0]["accuracy"] == pytest.approx(1)
    page = Path("run/report.html").read_text()
    assert "Test mask-ap" in page
    assert page.count("data:image/jpeg;base64,") == 2 * boxes.SPLITS["test"]
    code, out, err = bitq("evaluate", "run", "--network", *WORDS, "--data", "data", "--json")
    assert code == 0, err
    assert json.loads(out)["accuracy"] == document["totals"]["accuracy"] > 0.9


def test_rules_are_compared_by_the_metric_of_the_task(bitq, folder):
    few = ("--plans", 2, "--steps", 1, "--seeds", 0, "--formats", "8:e4:b16,mxint8,int4")
    words = (*WORDS, "--data", "data", "--rules", "bitq,flexblock,uniform")
    code, out, err = bitq("compare", *words, *few, "--run", "run", "--json")
    assert code == 0, err
    check_comparison(json.loads(out), (folder / "run/compare.html").read_text(), "mask-ap")


def test_val_alone_is_measured_on_but_not_searched_with(bitq, mistake, folder):
    data = ("--data", "val")
    code, out, err = bitq("evaluate", *WORDS, *data, "--formats", "float32,mxint8", "--metric", "box-ap", "--json")
    assert code == 0, err
    assert "val has no train: ranges are taken from what is measured on" in err
    assert [row["accuracy"] for row in json.loads(out)["rows"]] == [pytest.approx(1)] * 2
    told = mistake("search", *WORDS, *data, "--run", "run")
    assert "val has images of val but none of train, which a search fine-tunes on; give them, too" in told


def test_masks_that_the_float_network_is_sure_of_stand_for_those_nobody_drew(bitq, folder):
    for number in range(20):
        boxes.picture(folder / f"bare/{number:02}.png", number)
    made = {}
    exec(NETS, made)
    model = made["Finding"]().eval()
    data = load(folder / "bare", Reading((SIDE, SIDE)))
    batch = data.train[torch.arange(3)]
    ((x, truth),) = OF_INSTANCES.of(model, [batch])[0]
    assert [len(each) for each in truth.outlines] == [len(boxes.OBJECTS[image]) for image in range(3)]
    drawn = [mask_of(text, (HEIGHT, WIDTH)) for text in truth.outlines[1]]
    wanted = [filled(box).astype(bool) for _, box in boxes.OBJECTS[1]]
    for mask in wanted:
        assert max((mask & each).sum() / (mask | each).sum() for each in drawn) > 0.7
    answered = [(x, truth)]
    assert score(model, answered, instance_loss, OF_INSTANCES.metric).accuracy == pytest.approx(1)
    other = made["Finding"]().eval()
    with torch.no_grad():
        other.head.weight.neg_()
    assert score(other, answered, instance_loss, OF_INSTANCES.metric).accuracy < 0.5
    few = ("--effort", "quick", "--steps", 1, "--formats", "8:e4:b16,mxint8")
    code, out, err = bitq("search", *WORDS, "--data", "bare", *few, "--run", "run", "--json")
    assert code == 0, err
    assert "bare has no labels: what counts is mask agreement with float32" in err
    assert json.loads(out)["metric"] == "mask agreement with float32"
    assert "data:image/jpeg;base64," in Path("run/report.html").read_text()


def test_a_task_is_found_by_its_name():
    assert task_of("segment-instances").loss is instance_loss
