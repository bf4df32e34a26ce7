"""Data without labels: what the float network answers stands for them, from loaders, folders and arrays."""

import inspect
import json
import re
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bitq
import tiny
from bitq.accuracy.agreement import OF_CLASSES, Answered, agreement_with_float32, classes_in
from bitq.accuracy.evaluate import score
from bitq.datasets import load_data
from bitq.errors import BitqError
from bitq.progress import Silent
from bitq.tasks import Reading, task_of
from bitq.tasks.detect.answering import OF_BOXES
from bitq.tasks.detect.boxes import ABSENT
from bitq.tradeoff.measure import Data, Task
from bitq.tradeoff.unlabelled import with_answers

FLOAT = tiny.trained()
QUICK = ("--effort", "quick", "--steps", 3, "--formats", "8:e4:b16,8:e2:b16,int4", "--device", "stm32h743")


def bare(count, seed, batch_size=64, shuffle=False):
    """A DataLoader of images alone, which it gives as lists of one tensor."""
    return DataLoader(TensorDataset(tiny.images(count, seed)[0]), batch_size, shuffle=shuffle)


def test_a_network_agrees_with_itself_and_another_as_often_as_their_classes_are_alike():
    other = tiny.network(1).eval()
    (x,) = next(iter(bare(200, 2, 200)))
    alike = (FLOAT(x).argmax(1) == other(x).argmax(1)).float().mean()
    for batches in (bare(200, 2), [each for each, in bare(200, 2)], list(bare(200, 2))):
        (answered,) = OF_CLASSES.of(FLOAT, batches)
        assert score(FLOAT, answered, metric=agreement_with_float32).accuracy == 1
        assert score(other, answered, metric=agreement_with_float32).accuracy == pytest.approx(float(alike))
        assert len(answered) == 4
    maps = torch.randn(2, 3, 4, 5)
    assert torch.equal(classes_in(maps, None), maps.argmax(1))
    for wrong in ([maps], maps[:, :1], maps.long(), maps[0, 0, 0]):
        with pytest.raises(BitqError, match=r"it must give scores \(n, classes, ...\), or data have targets"):
            classes_in(wrong, None)


def test_the_answers_are_of_the_network_as_it_was():
    model = tiny.trained()
    (answered,) = OF_CLASSES.of(model, bare(100, 2))
    with torch.no_grad():
        model[-1].weight.neg_()
    assert score(FLOAT, answered, metric=agreement_with_float32).accuracy == 1
    assert score(model, answered, metric=agreement_with_float32).accuracy < 0.5


def test_labels_and_none_are_told_apart():
    own, labelled = bare(100, 1, shuffle=True), tiny.loader(100, 2)
    data, task = with_answers(FLOAT, Data(own, labelled, labelled), Task())
    assert isinstance(data.train, Answered)
    assert (data.test, task) == (labelled, Task())
    assert with_answers(FLOAT, Data(labelled, labelled, labelled), Task())[0].train is labelled
    for given, own_task, told in (
        (Data(own, own, labelled), Task(), "the validation data have no labels, but the test data do; give both alike"),
        (Data(own, labelled, labelled), Task(loss=nn.functional.mse_loss), "training data .* the loss that is given"),
        (Data(own, own, own), Task(metric=lambda model, batches: 0.5), "training data .* the metric that is given"),
        (Data((x for x, in own), own, own), Task(), "the training data can be walked only once"),
    ):
        with pytest.raises(BitqError, match=told):
            with_answers(FLOAT, given, own_task)


def test_a_search_from_loaders_of_inputs_alone(tmp_path):
    heard = Heard()
    result = bitq.search(
        FLOAT,
        bare(600, 1, shuffle=True),
        bare(200, 2),
        bare(200, 3),
        device=tiny.DEVICE,
        run=tmp_path / "run",
        formats="8:e4:b8,8:e2:b16",
        settings=tiny.settings(rounds=1, plans=1, uniforms=1),
        listener=heard,
    )
    (answered,) = OF_CLASSES.of(FLOAT, bare(200, 3))
    reached = score(result.model, answered, metric=agreement_with_float32).accuracy
    assert (result.rows[0].accuracy, result.plan.totals.accuracy) == (1, pytest.approx(reached))
    assert reached > 0.9
    with_labels = tiny.loader(200, 3)
    assert score(result.model, with_labels).accuracy > score(FLOAT, with_labels).accuracy - 0.1
    assert result.plan.metric == "agreement with float32"
    page = (tmp_path / "run/report.html").read_text()
    assert "Test agreement with float32" in page
    assert "validation agreement with float32 (%)" in page
    told = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    told = told.replace("accuracy_loss", "").replace("bitq.accuracy.", "")  # names in Python
    assert "accuracy" not in told.lower()
    assert any("float32: agreement with float32 100.00 %" in each for each in heard.notes)
    assert not any("accuracy" in each for each in heard.notes)


class Heard(Silent):
    """Keeps what is noted."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_formats_are_evaluated_by_agreement():
    rows = bitq.evaluate(FLOAT, bare(200, 2), "float32,8:e4:b16,int2", listener=Silent())
    assert rows[0].accuracy == 1
    assert rows[1].accuracy > rows[2].accuracy


NETS = f"""
import torch
from torch import nn

CLASSES = {tiny.CLASSES}

{inspect.getsource(tiny.network)}

def pixels():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder with networks, weights, and images alone: 60 in one folder, and as arrays."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_without_labels.py").write_text(NETS)
    x, _ = tiny.images(60, 4)
    gray = (x * 40 + 128).clamp(0, 255).byte()
    (tmp_path / "images").mkdir()
    for number, image in enumerate(gray):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"images/{number:02}.png")
    np.savez("arrays.npz", x_train=gray.permute(0, 2, 3, 1).numpy())
    safetensors.torch.save_file(FLOAT.state_dict(), "net.safetensors")
    yield tmp_path
    sys.modules.pop("nets_without_labels", None)


NETWORK = ("nets_without_labels:network", "--checkpoint", "net.safetensors", "--mean", "0.5", "--std", "0.157")


def test_a_folder_of_images_alone_is_searched_and_measured_again(bitq, mistake, folder):
    data = ("--data", "images", "--channels", 1)
    code, out, err = bitq("search", *NETWORK, *data, *QUICK, "--run", "run", "--json")
    assert code == 0, err
    assert "images has no labels: what counts is agreement with float32" in err
    assert not re.search(r"\baccurac", err)
    document = json.loads(out)
    assert document["metric"] == "agreement with float32"
    assert document["rows"][0]["accuracy"] == 1
    again = ("evaluate", "run", "--network", *NETWORK, *data)
    code, out, err = bitq(*again)
    assert code == 0, err
    totals = document["totals"]["accuracy"]
    assert f"agreement with float32 {100 * totals:.2f} % on the test data, {100 * totals:.2f} % in the plan" in out
    without = [each for each in again if each not in ("--checkpoint", "net.safetensors")]
    assert "whose weights are not those that the search was given" in mistake(*without)
    _, out, _ = bitq("report", "run")
    assert "agreement with float32" in out
    assert "accura" not in out


def test_formats_are_evaluated_on_arrays_alone(bitq, mistake, folder):
    words = ("evaluate", *NETWORK, "--data", "arrays.npz", "--formats", "float32,int8")
    code, out, err = bitq(*words)
    assert code == 0, err
    assert "100.00 %" in out
    assert "agreement" in out
    assert "accuracy" not in out + err
    assert "arrays.npz has no labels, which --metric is about; leave it out" in mistake(*words, "--metric", "top5")


def test_pixels_are_agreed_on_where_there_are_no_masks(bitq, mistake, folder):
    words = ("evaluate", "nets_without_labels:pixels", "--task", "segment", "--data", "images", "--formats")
    code, out, err = bitq(*words, "float32,mxint8,int2", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["metric"] == "agreement with float32"
    exact, fine, coarse = (row["accuracy"] for row in document["rows"])
    assert exact == 1 > fine > coarse
    assert "which --void is about" in mistake(*words, "float32", "--void", "255")


def test_where_images_alone_may_lie(tmp_path):
    for place, parts in (
        ("", {"train": 16, "val": 2, "test": 2}),
        ("images", {"train": 16, "val": 2, "test": 2}),
        ("train", {"train": 16, "val": 2, "test": 2}),
        ("images/train", {"train": 16, "val": 2, "test": 2}),
        ("val", {"train": 20, "val": 20, "test": 20}),
    ):
        root = tmp_path / (place or "alone").replace("/", "-")
        (root / place).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(root / place / f"{number}.png")
        for task in ("classify", "segment", "detect", "segment-instances"):
            data = task_of(task).load(root, Reading((8, 8)))
            assert not data.labelled
            assert not data.largest
            assert {name: len(getattr(data, name)) for name in parts} == parts
            assert ("but none of train" in data.lacking) == (place == "val")
    (root / "test").mkdir()
    with pytest.raises(BitqError, match="test holds no image"):
        load_data(root)


def test_boxes_that_the_float_network_is_sure_of_stand_for_those_nobody_drew(tmp_path):
    from test_detect import NETS, SIDE, picture  # squares of two colours, and a network that finds them

    pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval: pip install 'bitq[detect]'")
    for number in range(20):
        picture(tmp_path / f"{number:02}.png", number)
    made = {}
    exec(NETS, made)
    model = made["Finding"]().eval()
    data = task_of("detect").load(tmp_path, Reading((SIDE, SIDE)))
    batches = [data.test[torch.arange(len(data.test))]]
    (answered,) = OF_BOXES.of(model, batches)
    truth = answered[0][1]
    assert int((truth.classes != ABSENT).sum()) > 0
    assert score(model, answered, task_of("detect").loss, OF_BOXES.metric).accuracy == pytest.approx(1)
    with torch.no_grad():
        model.head.weight.neg_()
    assert score(model, answered, task_of("detect").loss, OF_BOXES.metric).accuracy < 0.5
