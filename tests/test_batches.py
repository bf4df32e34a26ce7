"""One idea of a batch: what is walked, copied, counted, called and told apart is the same everywhere."""

import copy
import os
import subprocess
import sys
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader

import bitq
import tiny
from bitq.accuracy.evaluate import score
from bitq.accuracy.finetune import Training, finetune
from bitq.accuracy.sensitivity import perturbations
from bitq.batches import (
    arguments,
    count_inputs,
    digest,
    forward,
    is_bare,
    one_example,
    outline,
    pairs,
    to_device,
    unlike_inputs,
)
from bitq.errors import BitqError
from bitq.formats import grid
from bitq.nested import DEEPEST, mapped, parts, tensors, walk
from bitq.progress import Silent
from bitq.tradeoff.measure import first_inputs

META = torch.device("meta")
Boxes = namedtuple("Boxes", ["corners", "labels"])


class Color(Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Frozen:
    x: Any
    name: str = "a"
    made: Any = field(default=None, init=False)


@dataclass(slots=True)
class Slotted:
    x: Any


class Encoding(UserDict):
    """A mapping of a library's own, as tokenizers give."""


class Stubborn(tuple):
    def __new__(cls, one, two):
        return super().__new__(cls, (one, two))


# Containers


def everything(x):
    """One of each container, with a tensor in each."""
    return [
        (x, 1),
        [x, "a"],
        {"x": x, 3: None},
        OrderedDict(b=x, a=2),
        defaultdict(list, x=x),
        MappingProxyType({"x": x}),
        Encoding(x=x),
        Boxes(x, 2),
        Frozen(x),
        Slotted(x),
    ]


def test_copies_keep_types_and_all_else():
    x, other = torch.ones(2), torch.zeros(3)
    found = mapped(everything(x), lambda path, leaf: other if leaf is x else leaf)
    for new, old, expected in zip(found, everything(x), everything(other), strict=True):
        assert type(new) is type(old)
        ((place, leaf), *rest), kept = parts(new), parts(old)
        assert leaf is other
        assert place == kept[0][0]
        assert [rest] == [kept[1:]]
        assert [key for key, _ in parts(expected)] == [key for key, _ in parts(new)]
    assert found[4].default_factory is list
    assert all(leaf is x for leaf in tensors(everything(x)))
    assert len(tensors(everything(x))) == len(everything(x))


def test_paths_are_what_python_would_write():
    value = {"boxes": [Boxes(1, 2)], "more": (Frozen(3),)}
    for path, part in walk(value):
        assert eval(f"value{path}", {"value": value}) is part


def test_a_class_that_cannot_be_copied_is_told():
    with pytest.raises(BitqError, match=r"^a batch\[0\] is a Stubborn, which cannot be copied"):
        to_device((Stubborn(torch.ones(1), 2), 3), META)


def cyclic():
    tied, inner = [], {}
    tied += [{"again": tied}, torch.ones(2)]
    inner["x"] = inner
    return [tied, inner]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("value", cyclic(), ids=["list", "dict"])
@pytest.mark.parametrize("use", [lambda x: list(walk(x)), lambda x: to_device(x, META), one_example, digest, outline])
def test_what_holds_itself_is_told(value, use):
    with pytest.raises(BitqError, match=f"more than {DEEPEST} deep"):
        use((value,))


# What a batch can hold


def test_every_tensor_is_moved_wherever_it_stands():
    batch = to_device((everything(torch.ones(2)), {"y": [torch.ones(3)]}), META)
    assert {tensor.device.type for tensor in tensors(batch)} == {"meta"}
    assert len(tensors(batch)) == len(everything(0)) + 1


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (np.zeros(3), r"is a numpy.ndarray; make it a tensor"),
        (np.int64(3), r"is a numpy.int64; make it a tensor"),
        ({1, 2}, "is a set"),
        (object(), "is a object"),
        (pack_sequence([torch.ones(3), torch.ones(2)]), "is a PackedSequence"),
    ],
    ids=["array", "scalar", "set", "object", "packed sequence"],
)
def test_what_a_batch_cannot_hold_is_named(part, told):
    batch = (torch.ones(2), [{"x": part}])
    for use in (lambda: to_device(batch, META), lambda: digest(batch)):
        with pytest.raises(BitqError, match=rf"^a batch\[1\]\[0\]\['x'\] {told}") as caught:
            use()
        assert "\n" not in str(caught.value)


class One(nn.Module):
    def forward(self, x):
        return x


class Several(nn.Module):
    def forward(self, x, mask=None, *, scale=1):
        return x if mask is None else x * mask * scale


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ((1, 2, 3), "a tuple of 3"),
        ([torch.ones(1)], "a list of 1"),
        (torch.ones(2, 3), r"a tensor of shape \(2, 3\)"),  # unpacks into two
        ({"x": 1, "y": 2}, "a dict of 'x', 'y'"),
        ("ab", "a str"),
        (None, "None"),
    ],
)
def test_what_is_no_pair_is_told_by_all(batch, told):
    uses = (
        lambda: score(tiny.network(), [batch]),
        lambda: finetune(tiny.network(), [batch], Training(steps=1)),
        lambda: perturbations(tiny.network(), ("0",), lambda *_: grid(8)[:1], {}, [batch], nn.functional.cross_entropy),
        lambda: first_inputs(tiny.network(), [batch], 10),
    )
    for use in uses:
        with pytest.raises(BitqError, match=rf"^a batch is {told}.*; it must be a pair \(input, target\)"):
            use()
    # A search takes an input alone for one without a label.
    said = "the network cannot run on an input as" if is_bare(batch) else f"a batch is {told}.*; it must be a pair"
    with pytest.raises(BitqError, match=f"^{said}"):
        bitq.search(tiny.network(), [], [batch], device=tiny.DEVICE, run="nowhere", listener=Silent())


def test_data_that_are_none_are_told():
    with pytest.raises(BitqError, match="the data is None; give batches"):
        score(tiny.network(), None)


# What a network is called with


def test_a_network_is_called_with_what_the_input_is():
    x, mask = torch.ones(2, 3), torch.zeros(2, 3)
    for given, args, kwargs in [
        (x, (x,), {}),
        ((x, mask), (x, mask), {}),
        ({"x": x, "scale": 2}, (), {"x": x, "scale": 2}),
        (Encoding(x=x), (), {"x": x}),
        ([x, mask], (x, mask), {}),
        (([x, mask],), ([x, mask],), {}),
        (Frozen(x), (Frozen(x),), {}),
    ]:
        assert arguments(Several(), given) == (args, kwargs)
    images = [x, mask]
    assert arguments(One(), images) == ((images,), {})
    assert torch.equal(forward(Several(), {"x": x, "mask": x + 1, "scale": 3}), 6 * x)
    with pytest.raises(BitqError, match="has the key 3; keys must be names"):
        forward(One(), {3: x})


def test_default_collation_of_tuples_stays_positional():
    examples = [((torch.full((3,), float(i)), torch.ones(3)), i) for i in range(6)]
    ((inputs, target),) = pairs(Several(), DataLoader(examples, 6))
    assert isinstance(inputs, tuple)
    assert torch.equal(forward(Several(), inputs)[:, 0], target.float())
    assert count_inputs(inputs) == 6


# How many inputs, and the first


@pytest.mark.parametrize(
    ("inputs", "count"),
    [
        (torch.ones(5, 3), 5),
        ((torch.ones(5, 3), torch.ones(7, 7)), 5),
        ((torch.tensor(0.1), torch.ones(5, 3)), 5),
        ({"x": torch.ones(5, 3), "y": torch.ones(2)}, 5),
        ([torch.ones(3, 8, 8), torch.ones(3, 9, 8)], 2),
        (([torch.ones(3, 8, 8), torch.ones(3, 9, 8)],), 2),
        ({"images": [torch.ones(3, 8, 8)] * 4, "sizes": torch.ones(4, 2)}, 4),
        (Frozen((torch.ones(6, 2),)), 6),
        (["a word", "another"], 2),
        (torch.ones(()), 1),
        (3, 1),
        (torch.ones(0, 3), 0),
    ],
)
def test_inputs_are_counted_by_the_input(inputs, count):
    assert count_inputs(inputs) == count


def test_the_one_example_is_a_batch_of_one():
    x, mask, sizes = torch.ones(5, 3), torch.ones(7, 7), [torch.ones(4)] * 5
    found = one_example((x, {"mask": mask, "sizes": sizes, "scale": 2}, torch.tensor(1), Boxes(x, "a")))
    own = {tensor.untyped_storage().data_ptr() for tensor in (x, mask, *sizes, found[2])}
    assert {tensor.untyped_storage().data_ptr() for tensor in tensors(found)} <= own
    assert outline(found) == [
        "[0] float32 (1, 3)",
        "[1]['mask'] float32 (7, 7)",
        "[1]['sizes'][0] float32 (4,)",
        "[1]['scale'] int",
        "[2] int64 ()",
        "[3].corners float32 (1, 3)",
        "[3].labels str",
    ]
    assert type(found[3]) is Boxes
    assert outline(one_example([torch.ones(3, 8, 8), torch.ones(3, 9, 8)])) == ["[0] float32 (3, 8, 8)"]


def test_of_inputs_of_unlike_size_the_middle_one_is_the_example():
    images = [torch.ones(3, side, 8) for side in (30, 8, 9, 31, 8)]
    scales = torch.arange(5)
    assert outline(one_example((images, scales))) == ["[0][0] float32 (3, 9, 8)", "[1] int64 (1,)"]
    assert int(one_example((images, scales))[1]) == 2
    told = "have 192 to 744 elements; movement is counted for one of 216, the middle size; their mean is 413"
    assert told in unlike_inputs((images, scales))
    for alike in ((images[:1], scales[:1]), ([], scales), ([torch.ones(2, 3), torch.ones(3, 2)],), torch.ones(5, 3), 3):
        assert unlike_inputs(alike) is None


def test_tensors_that_are_not_dense_are_told():
    class Ragged(nn.Module):
        def forward(self, x):
            return x

    ragged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(BitqError, match=r"^a batch holds a nested tensor; give a list"):
        list(pairs(Ragged(), [(ragged, 1)]))
    with pytest.raises(BitqError, match=r"^a batch\[0\] is a tensor of layout torch.sparse_coo; it must be dense"):
        one_example(torch.ones(2, 3).to_sparse())


# Digests


def unlike():
    x = torch.arange(6)
    return [
        *[x, x.float(), x.reshape(2, 3), x.reshape(3, 2), x + 1, x.to(torch.int32), x.to_sparse(), x[:0]],
        *[x[:0].float(), x * 1j, (x * 1j).conj(), x.bool(), x.bfloat16()],
        *[(x,), [x], {"x": x}, {"y": x}, {3: x}, {"3": x}, (x, x), (x, (x,)), ((x, x),), Boxes(x, x), Frozen(x)],
        *[Frozen(x, "b"), Slotted(x), OrderedDict(x=x), {"x": {}}, {"x": []}, {"x": ()}, {}, [], ()],
        *[1, 2, 1.0, True, "1", "a", b"a", None, Color.RED, Color.BLUE, [1, 2], [2, 1], "12", ["1", "2"]],
    ]


def test_unlike_batches_have_unlike_digests():
    found = [digest(batch) for batch in unlike()]
    assert len({*found}) == len(found)
    assert found == [digest(copy.deepcopy(batch)) for batch in unlike()]
    assert digest(1, 2) != digest((1, 2)) != digest(2, 1)


def test_digests_are_the_same_in_every_process():
    code = "import test_batches as t; print(*[t.digest(batch) for batch in t.unlike()])"
    path = os.pathsep.join(sys.path)
    for seed in ("0", "1"):
        found = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.split() == [digest(batch) for batch in unlike()]


# A batch of detection targets counts as many inputs in whatever way the targets are stored


class Detecting(nn.Module):
    """One number for each of 4 images [n, 3, 8, 8]."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 1)

    def forward(self, images):
        if isinstance(images, list):
            images = torch.stack(images)
        return self.head(torch.relu(self.conv(images)).mean((2, 3)))[:, 0]


BOXES = [torch.full((7, 4), 0.5), torch.zeros(0, 4)]
STORED = {
    "boxes by image": tuple(BOXES),
    "empty first image": tuple(BOXES[::-1]),
    "one table": torch.cat([torch.zeros(7, 1), BOXES[0]], 1),  # image, corners
    "dictionaries": [{"boxes": each, "labels": torch.ones(len(each)), "id": i} for i, each in enumerate(BOXES)],
}


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("stored", STORED)
def test_scores_do_not_depend_on_how_targets_are_stored(stored, as_list):
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Detecting()

    def found(target):
        batches = [([*images], target) if as_list else (images, target)] * 3
        assert len(first_inputs(model, batches, 4)) == 2
        return perturbations(
            model, ("conv", "head"), lambda *_: grid(8)[::9], {}, batches, lambda y, _: (y - 1).square().mean()
        )

    assert found(STORED[stored]) == found(torch.zeros(2))
    assert found(STORED[stored])["conv"]["weight"][grid(8)[0]] > 0


def test_scores_that_are_all_zero_are_told():
    batches = [(torch.ones(2, 3, 8, 8), torch.zeros(2))]

    def found(loss):
        return perturbations(Detecting(), ("conv", "head"), lambda *_: grid(8)[:1], {}, batches, loss)

    with pytest.raises(BitqError, match="no format of any layer changes the loss on the 2 inputs"):
        found(lambda y, t: (y * 0).sum())
    with pytest.raises(BitqError, match="the loss has no gradient where formats are scored by it"):
        found(lambda y, t: t.sum())
    with pytest.raises(BitqError, match="the float network's loss is nan on training data"):
        found(lambda y, t: y.sum() * torch.nan)


class Half(nn.Module):
    """A loss that never sees what `idle` computes."""

    def __init__(self):
        super().__init__()
        self.net, self.idle = tiny.trained(), nn.Linear(64, 4)

    def forward(self, x):
        self.idle(x.flatten(1))
        return self.net(x)


def test_a_search_tells_of_modules_that_the_loss_does_not_depend_on(tmp_path):
    heard = tiny.Listening()
    few = tiny.settings(rounds=1, plans=1, training=Training(steps=2))
    given = {"device": tiny.DEVICE, "formats": tiny.FORMATS, "settings": few, "listener": heard}
    bitq.search(Half(), *tiny.loaders(), run=tmp_path, **given)
    (note,) = (note for note in heard.notes if "changes the loss" in note)
    assert note.startswith("no format of idle changes the loss")


# A whole search


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.out = nn.Linear(6, 8), nn.Linear(3, 8), nn.Linear(8, 3)

    def forward(self, a, b):
        return self.out(torch.relu(self.left(a) + self.right(b)))


def test_a_search_finds_the_same_in_whatever_way_batches_are_stored(tmp_path):
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(200, 6, generator=generator), torch.randn(200, 3, generator=generator)
    labels = a[:, :3].argmax(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Pair()
    examples = [((a[i], b[i]), labels[i]) for i in range(200)]
    ways = {
        "tuple": [((a[i : i + 50], b[i : i + 50]), labels[i : i + 50]) for i in range(0, 200, 50)],
        "mapping": [({"b": b[i : i + 50], "a": a[i : i + 50]}, labels[i : i + 50]) for i in range(0, 200, 50)],
        "collated": DataLoader(examples, 50),
    }
    few = tiny.settings(rounds=1, plans=1)
    given = {"device": tiny.DEVICE, "formats": tiny.FORMATS, "settings": few, "listener": Silent()}
    plans = [bitq.search(model, data, data, run=tmp_path / way, **given).plan for way, data in ways.items()]
    assert plans[0] == plans[1] == plans[2]


def test_targets_may_be_dictionaries(tmp_path):
    def data(count, seed):
        pixels, labels = tiny.images(count, seed)
        return [
            ({"input": pixels[i : i + 50]}, {"class": labels[i : i + 50], "names": ["x"] * 50})
            for i in range(0, count, 50)
        ]

    def loss(y, target):
        return nn.functional.cross_entropy(y, target["class"])

    def metric(model, batches):
        hits = [(model(**x).argmax(1) == target["class"]).float().mean() for x, target in batches]
        return float(sum(hits) / len(hits))

    few = tiny.settings(rounds=1, plans=1)
    found = bitq.search(
        tiny.trained(),
        data(300, 1),
        data(200, 2),
        device=tiny.DEVICE,
        formats=tiny.FORMATS,
        run=tmp_path,
        settings=few,
        loss=loss,
        metric=metric,
        listener=Silent(),
    )
    assert found.plan.totals.accuracy == metric(found.model, data(200, 2)) > 0.5
    with pytest.raises(BitqError, match=r"top-1 accuracy cannot judge output \(50, 4\) with target dict"):
        score(tiny.trained(), data(200, 2), loss)


# Batches that are mappings


class Telling(nn.Module):
    """Takes what a tokenizer and a data set give by name, and gives its loss and its answer."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, tiny.CLASSES)

    def forward(self, values, mask=None, labels=None):
        y = self.head(values if mask is None else values * mask)
        return {"loss": nn.functional.cross_entropy(y, labels), "logits": y}


def named_batches(count):
    values = torch.randn(count, 50, 8)
    return [Encoding(values=x, labels=x[:, :4].argmax(1), names=["a"] * 50) for x in values]


def own_loss(output, target):
    assert "names" in target
    return output["loss"], output["logits"]


def of_logits(model, batches):
    hits = [(model(b["values"], labels=b["labels"])["logits"].argmax(1) == b["labels"]).float() for b in batches]
    return float(torch.cat(hits).mean())


def test_a_mapping_is_a_batch_and_its_own_target(tmp_path):
    torch.manual_seed(0)
    model, train, validation = Telling(), named_batches(20), named_batches(4)
    ((inputs, target),) = pairs(model, train[:1])
    assert set(inputs) == {"values", "labels"}
    assert target is train[0]
    before = score(model, validation, own_loss, of_logits)
    finetune(model, train, Training(steps=100, learning_rate=3e-2), own_loss)
    assert score(model, validation, own_loss, of_logits).loss < before.loss
    found = bitq.search(
        model,
        train,
        validation,
        device=tiny.DEVICE,
        formats=tiny.FORMATS,
        run=tmp_path / "run",
        settings=tiny.settings(rounds=1, plans=1, uniforms=1, training=Training(steps=5)),
        loss=own_loss,
        metric=of_logits,
        listener=Silent(),
    )
    assert found.rows[-1].accuracy > 0.8
    assert found.plan.stays_float == ()


@pytest.mark.parametrize(
    ("batch", "told"),
    [({"x": torch.ones(1)}, "a dict of 'x', but the network's forward takes 'values'"), ({}, "a dict of nothing")],
)
def test_a_mapping_that_a_network_does_not_take_is_told(batch, told):
    with pytest.raises(BitqError, match=f"^a batch is {told}"):
        score(Telling(), [batch])
