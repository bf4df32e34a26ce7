"""Any set of formats: what tensors choose from, what that moves and scores, and how plans tell it."""

import json
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

import bitq
import tiny
from bitq.accuracy.evaluate import top1
from bitq.accuracy.quantized import Ranges, apply, observing
from bitq.accuracy.sensitivity import POWER, probed, scores
from bitq.errors import BitqError
from bitq.formats import TENSORS, TensorFormats, format_for, formats_of, grid, integers, parse_format
from bitq.numerics import pack, quantize
from bitq.numerics.packing import weight_blocks
from bitq.tracing import record
from bitq.tradeoff.allocate import allocate, front
from bitq.tradeoff.alternatives import USUAL
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.measure import Data, Subject, Task
from bitq.tradeoff.plan import PlanFormat
from bitq.tradeoff.rules.drawn import drawn
from bitq.tradeoff.space import formats_in, space_of
from bitq.tradeoff.stored import tied
from bitq.tradeoff.study import Study
from bitq.tradeoff.weights import load_quantized
from test_allocate import PLANS, alphas, predicted, score_tables, spaces

KINDS = ("8:e3:b4", "s4:e8m0:v32", "nvfp4", "mxfp4", "int8", "u5:f32:tensor", "i4:f32:channel", "f16", "s8:e8m0:b4p2")
MIXED = "8:e2..e4:b4..b16,mxint8,mxfp4,nvfp4,int3..int8"


def listed(text):
    return tuple(each for each in formats_of(text) if each is not None)


# What integers mean


def test_integers_of_weights_activations_and_rectified_activations():
    family = integers(8)
    assert str(family) == "int8"
    assert [format_for(family, tensor).text for tensor in TENSORS] == [
        "i8:f32:tensor", "i8:f32:channel", "i8:f32:tensor",
    ]  # fmt: skip
    met = Ranges((0.0, 3.0), (-1.0, 3.0))
    assert formats_in((family,) * 3, met) == TensorFormats(
        *map(parse_format, ("n8:f32:tensor", "i8:f32:channel", "i8:f32:tensor"))
    )


@given(st.integers(2, 8), st.integers(0, 99), st.floats(0.1, 50))
def test_integers_without_a_sign_are_those_of_a_zero_point_at_zero(bits, seed, high):
    x = torch.rand(3, 7, generator=torch.Generator().manual_seed(seed)) * high
    plain, zero_point = parse_format(f"n{bits}:f32:tensor"), parse_format(f"u{bits}:f32:tensor")
    span = (0.0, high)
    assert torch.equal(quantize(x, plain, tensor_range=span), quantize(x, zero_point, tensor_range=span))
    assert plain.num_bits((3, 7)) == integers(bits).activation.num_bits((3, 7)) == zero_point.num_bits((3, 7)) - bits


# Calibration


@pytest.mark.parametrize("text", ["int8", "int4", "nvfp4", "u8:f32:tensor", "e4m3:f32:tensor", "n6:e3:b4"])
def test_calibrated_layers_compute_in_the_range_that_was_met(text):
    (family,) = listed(text)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    known, other = torch.randn(40, 6), 3 * torch.randn(40, 6)
    with torch.no_grad(), observing(model, ["0", "2"]) as met:
        model(known)
    chosen = {name: formats_in((family,) * 3, met[name]) for name in met}
    apply(model, chosen, met)

    def rounded(x, name, end):
        return quantize(x, getattr(chosen[name], end), -1, tensor_range=getattr(met[name], end))

    with torch.no_grad():
        x = other
        for name, layer in (("0", model[0]), ("2", model[2])):
            weight = quantize(layer.weight, chosen[name].weight)
            x = rounded(nn.functional.linear(rounded(x, name, "input"), weight, layer.bias), name, "output")
            x = x.relu() if name == "0" else x
        assert torch.equal(model(other), x)
    if text == "int8":
        assert chosen["2"].input == parse_format("n8:f32:tensor")
        assert chosen["0"].input == parse_format("i8:f32:tensor")


def test_an_activation_that_was_always_zero_takes_its_own_range():
    model, fmt = nn.Sequential(nn.Linear(4, 3)), parse_format("i8:f32:tensor")
    apply(model, {"0": TensorFormats(fmt)}, {"0": Ranges((0.0, 0.0), (0.0, 0.0))})
    x = torch.randn(5, 4)
    assert torch.equal(model(x), nn.functional.linear(quantize(x, fmt), model[0].weight, model[0].bias))


def test_compiles_again_with_other_ranges():
    """Ranges that differ between layers and calls must not become torch.compile's variables."""
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    fmt, x = parse_format("i8:f32:tensor"), torch.randn(5, 6)
    for step in range(1, 4):
        widths = enumerate("02", 2)
        ranges = {name: Ranges((-1.3 * step, 1.7 * step), (-0.1 * step, width + 0.1)) for width, name in widths}
        apply(model, dict.fromkeys("02", TensorFormats(fmt, None, fmt)), ranges)
        assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))


# What it moves


@pytest.mark.parametrize("text", KINDS)
def test_widths_are_the_packed_sizes_of_the_tensors(text):
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.Conv2d(6, 8, 2, groups=2),
        nn.ConvTranspose2d(8, 6, 3, groups=2),
        nn.Flatten(2),
        nn.Linear(36, 5),
    )
    example = torch.zeros(1, 3, 7, 7)
    (candidate,) = listed(text)
    space = space_of(model, bitq.trace(model, example), tiny.DEVICE, FormatSet((candidate,)))
    tensors = {}
    for name in space.modules:
        layer = model.get_submodule(name)
        layer.register_forward_hook(lambda _, x, y, name=name: tensors.__setitem__(name, (x[0], y)))
    model(example)
    for (name, formats), (layer,) in zip(space.tensor_formats(space.uniform(0)).items(), space.layers, strict=True):
        module, (x, y) = model.get_submodule(name), tensors[name]
        axis = -1 if isinstance(module, nn.Linear) else 1
        shape, dim, inner = weight_blocks(tuple(module.weight.shape), layer.transposed, layer.groups)
        q = bitq.movement.widths.widths(layer, formats)
        assert q.input * x.numel() == pytest.approx(formats.input.num_bits(tuple(x.shape), axis))
        assert q.output * y.numel() == pytest.approx(formats.output.num_bits(tuple(y.shape), axis))
        bits = formats.weight.num_bits(shape, dim, inner)
        assert q.weight * module.weight.numel() == pytest.approx(bits)
        if formats.weight.scale is not None:
            assert pack(module.weight.detach().reshape(shape), formats.weight, dim, inner).num_bits == bits


# What may be chosen


def test_what_a_user_asks_for():
    assert FormatSet.of(bits=16) == FormatSet(grid(16))
    assert FormatSet.of(bits=8, output_as_input=True) == FormatSet(grid(8), output_as_input=True)
    assert FormatSet.of("8:e2..e6:b1..b48").grid_bits == 8
    assert FormatSet.of("8:e2..e6:b1..b48", output_as_input=True).grid_bits is None
    some = FormatSet.of("int8,float32", weights="int4")
    assert list(map(str, some.formats)) == ["int4", "int8", "f32"]
    assert [some.indices(tensor) for tensor in TENSORS] == [(1, 2), (0,), (1, 2)]
    assert some.of_all == ()
    assert sum(some.allows(choice) for choice in product(range(3), repeat=3)) == 4
    same = FormatSet.of("int8,int4", output_as_input=True)
    assert {choice for choice in product(range(2), repeat=3) if same.allows(choice)} == {
        (i, w, i) for i in range(2) for w in range(2)
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"formats": " "}, "no format is named"),
        ({"formats": "8:e1..e7:b1..b16"}, "leave|mantissa"),
        ({"formats": "16:e1..e7:b1..b48,s2..s20:e8m0:v1..v48,s2..s20:e5m0:v1..v48,int2..int16,16:e1..e6:v1..v48"},
         "at most 400 formats, not 423"),
        ({"formats": "n4:e3:b16"}, "weights have negative numbers|formats|weights of a search"),
        ({"weights": "n4:e3:b16"}, "n4:e3:b16 has no negative numbers, but weights do"),
        ({"formats": "int8", "bits": 8}, "leave other formats out"),
        ({"bits": 9}, "8 or 16 bits"),
        ({"formats": "int8", "weights": "int4", "activations": "int8"}, "leave one out"),
        ({"formats": (integers(8),), "weights": ()}, "weights of a search must be formats"),
    ],
)
def test_what_no_search_can_choose_from_is_told(given, message):
    with pytest.raises(BitqError, match=message):
        FormatSet.of(**given)


def named(offered, tensor):
    return [str(offered.formats[index]) for index in offered.indices(tensor)]


def test_any_is_the_default_and_goes_with_others():
    offered = FormatSet.of()
    assert offered == FormatSet.of("any") == FormatSet.of(weights=" any", activations="ANY")
    assert (offered.measured_by, offered.grid_bits) == (8, None)
    own = {tensor: named(offered, tensor) for tensor in TENSORS}
    assert own["input"] == own["output"]
    for text in ("int2", "int8", "e2m1:e8m0:v32", "e2m1:e4m3*f32:v16", "4:e2:b8", "13:e4:b8", "s8:e8m0:v32"):
        assert text in own["input"]
        assert text in own["weight"]
    assert {"n2:e2:b4", "n8:e4:b32"} < set(own["input"])
    assert not any(text.startswith("n1:") for text in own["input"])
    assert "4:e2:b1" in own["weight"]
    assert not any(text.startswith("n") for text in own["weight"])
    more = FormatSet.of("any,8:e6:b48")
    assert (len(more.formats), more.measured_by) == (len(offered.formats) + 1, 8)
    mixed = FormatSet.of("int4,n3:e3:b16", weights="any,4:e1:b2")
    assert named(mixed, "input") == ["int4", "n3:e3:b16"]
    assert mixed.measured_by == 8
    assert FormatSet.of("int4..int8").measured_by is None
    assert FormatSet.of(weights="int4", activations="int8").measured_by is None


def test_partners_without_a_sign_hold_the_same_numbers():
    offered = FormatSet.of("s4:e3:b16,n3:e3:b16,int4,mxint8,n7:e8m0:v32,i4:f32:tensor,n3:f32:tensor,s2:e3:b16,mxfp4")
    pairs = {str(offered.formats[a]): str(offered.formats[b]) for a, b in enumerate(offered.unsigned) if a != b}
    assert pairs == {
        "7:e3:b16": "n3:e3:b16", "s8:e8m0:v32": "n7:e8m0:v32", "i4:f32:tensor": "n3:f32:tensor",
    }  # fmt: skip
    x = torch.rand(4, 32, 3) * torch.logspace(-3, 2, 32)[:, None]
    for signed, unsigned in pairs.items():
        assert torch.equal(quantize(x, parse_format(signed), 1), quantize(x, parse_format(unsigned), 1))
    every = FormatSet.of()
    assert sum(a != b for a, b in enumerate(every.unsigned)) == sum(str(each).startswith("n") for each in every.formats)


def test_any_is_measured_by_the_grid():
    model = tiny.network()
    layers = bitq.trace(model, torch.zeros(1, 1, 8, 8))
    by_grid = space_of(model, layers, tiny.DEVICE, 8)
    for text in ("any", "any,16:e2:b1"):
        space = space_of(model, layers, tiny.DEVICE, FormatSet.of(text))
        assert space.movement_max == by_grid.movement_max
    assert space_of(model, layers, tiny.DEVICE, FormatSet.of("16:e2:b1")).movement_max > by_grid.movement_max


SETS = ({"weights": 1}, {"activations": 1}, {"output_as_input": True}, {"weights": 1, "output_as_input": True})
TIED = ((), (((0, 2), (1, 0)),), (((0, 2), (1, 0), (1, 2)),))


@settings(max_examples=120)
@given(spaces(), score_tables(), alphas, st.sampled_from(SETS), st.sampled_from(TIED), st.none() | st.floats(0, 1))
def test_no_plan_of_what_may_be_chosen_is_better(space, tables, alpha, given, ties, share):
    formats = space.formats
    offered = FormatSet(formats, **{name: each if each is True else formats[each:] for name, each in given.items()})
    own = tied(replace(space, offered=offered), ties) if ties else replace(space, offered=offered)
    for table in tables:
        for row, tensor in zip(table, TENSORS, strict=True):
            row[[index not in offered.indices(tensor) for index in range(2)]] = np.inf
    allowed = [
        plan
        for plan in PLANS
        if all(offered.allows(choice) for choice in plan)
        and all(len({plan[m][t] for m, t in group}) == 1 for group in ties)
    ]
    moved = [own.cost(plan).movement_bits for plan in allowed]
    assert ties or own.movement_max == pytest.approx(max(moved))
    limit = None if share is None else min(moved) + share * (max(moved) - min(moved))
    plan = allocate(own, tables, alpha, Budgets(movement_bits=limit))
    assert plan in allowed
    best = min(
        predicted(own, tables, alpha, each)
        for each, bits in zip(allowed, moved, strict=True)
        if limit is None or bits <= limit
    )
    assert predicted(own, tables, alpha, plan) <= best + 1e-6
    if not ties:
        assert all(point.choices in allowed for point in front(own, tables))


# Scores


def test_only_formats_that_differ_in_their_blocks_alone_are_interpolated():
    formats = listed("8:e3:b1..b48,mxint8,nvfp4,mxfp4,int3..int5,e2m1:e8m0:v1..v48,s5:e8m0:v8")
    weights = tuple(format_for(each, "weight") for each in formats)
    measured = probed(weights, 1000)
    left = set(weights) - set(measured)
    assert {fmt.text for fmt in left} == {
        *(f"8:e3:b{n}" for n in (2, 8, 24, 32)), *(f"e2m1:e8m0:v{n}" for n in (2, 8, 24, 32)),
    }  # fmt: skip
    assert len(measured) == len(set(weights)) - len(left)
    values = {fmt: 0.001 * (1 + place) for place, fmt in enumerate(measured)}
    found = dict(zip(weights, scores(weights, values, 1000), strict=True))
    for name in ("mxint8", "nvfp4", "s5:e8m0:v8"):
        fmt = parse_format(name)
        assert found[fmt] == pytest.approx((values[fmt] / 2) ** POWER)


def test_of_many_mantissas_some_are_measured_and_the_others_lie_between():
    own = listed("s2..s9:e2:b8,s2..s9:e2:b16,s2..s9:e2:b32,s2..s9:e4:b8,s2..s9:e4:b16,s2..s9:e4:b32")
    unsigned = tuple(parse_format(f"n{bits}:e2:b8") for bits in range(1, 9))
    few = listed("int3..int7")
    formats = (*own, *unsigned, *(format_for(each, "output") for each in few))
    measured = probed(formats, 1000)
    assert set(measured) == {
        *(parse_format(f"s{m}:e{se}:b{size}") for m in (2, 3, 4, 6, 9) for se in (2, 4) for size in (8, 32)),
        *(format_for(each, "output") for each in few),
    }
    errors = {fmt: 4.0 ** -fmt.elements[0].bits * (2.0 if "b32" in fmt.text else 1.0) for fmt in measured}
    found = dict(zip(formats, scores(formats, errors, 1000), strict=True))
    for bits in range(2, 10):
        exact = (4.0**-bits / 2) ** POWER
        assert found[parse_format(f"s{bits}:e2:b8")] == pytest.approx(exact)
        assert found[parse_format(f"n{bits - 1}:e2:b8")] == pytest.approx(exact)
        assert found[parse_format(f"s{bits}:e4:b16")] == pytest.approx(exact * (1 + 2**POWER) / 2)
    zero = dict(zip(formats, scores(formats, dict.fromkeys(measured, 0.0), 1000), strict=True))
    assert set(zero.values()) == {0.0}


@given(st.permutations(range(3, 9)), st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_narrower_integers_never_score_better(order, values):
    formats = [integers(bits).weight for bits in order]
    found = scores(formats, dict(zip(formats, values, strict=True)), 64)
    by_bits = [value for _, value in sorted(zip(order, found, strict=True))]
    assert all(wide >= wider for wide, wider in pairwise(by_bits))


# Plans


@pytest.mark.parametrize(
    ("text", "shared", "entry"),
    [
        ("8:e3:b16", {"exponent_bias": -4}, {"bits": 8, "exponent_bits": 3, "block_size": 16, "exponent_bias": -4}),
        ("n4:e3:b16", {"exponent_bias": -4}, {"format": "n4:e3:b16", "exponent_bias": -4}),
        ("nvfp4", {"tensor_range": (-1.5, 2.0)}, {"format": "e2m1:e4m3*f32:v16", "tensor_range": [-1.5, 2.0]}),
        ("mxfp4", {}, {"format": "e2m1:e8m0:v32"}),
    ],
)
def test_entries_of_plans_tell_format_and_what_is_shared(text, shared, entry):
    own = PlanFormat.of(parse_format(text), **shared)
    assert json.loads(own.model_dump_json()) == entry
    again = PlanFormat.model_validate_json(json.dumps(entry))
    assert again == own
    assert again.format == parse_format(text)
    assert again.span == {"nvfp4": (-1.5, 2.0), "mxfp4": None}.get(text, (-8.0, 8.0))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"format": "8:e3:b16"}, "exponent_bias is missing"),
        ({"format": "mxfp4", "exponent_bias": 0}, "exponent_bias is not of"),
        ({"format": "mxfp4", "tensor_range": [-1, 1]}, "tensor_range is not of"),
        ({"format": "nvfp4", "tensor_range": [1, 2]}, "less than or equal to 0"),
        ({"format": "nvfp4", "tensor_range": [float("nan"), 2]}, "finite|less than"),
        ({"format": "mxfp5"}, "'mxfp5' is unknown"),
        ({"format": "mxfp4", "bits": 8}, "both given"),
        ({"bits": 8, "block_size": 4, "exponent_bias": 0}, "exponent_bits is missing"),
        ({}, "bits is missing"),
    ],
)
def test_entries_that_are_none_are_told(entry, message):
    with pytest.raises(ValidationError, match=message):
        PlanFormat.model_validate(entry)


# The whole


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")

    def run(**given):
        listener = tiny.Listening()
        return bitq.search(
            tiny.trained(), *tiny.loaders(), device=tiny.DEVICE, run=folder, metric=top1, listener=listener,
            settings=tiny.settings(alpha=1.0), **given,
        )  # fmt: skip

    return run, run(formats=MIXED), folder


def test_a_mixed_search_hands_over_what_its_plan_says(searched):
    _, result, folder = searched
    offered = FormatSet.of(MIXED)
    texts = {
        tensor: {str(format_for(each, tensor, sign)) for each in offered.formats for sign in (False, True)}
        for tensor in TENSORS
    }
    chosen = [(tensor, fmt) for each in result.plan.formats().values() for tensor, fmt in vars(each).items()]
    assert all(str(fmt) in texts[tensor] for tensor, fmt in chosen)
    assert result.plan.bits is None
    model, (x, _) = tiny.network(), tiny.images(8, 5)
    assert load_quantized(model, folder) == result.plan
    with torch.no_grad():
        assert torch.equal(model(x), result.model(x))
    assert "formats of several kinds" in (folder / "report.html").read_text()


def test_what_people_would_pick_stands_beside_it(searched):
    _, result, _ = searched
    assert tuple(row.name for row in result.alternatives) == USUAL
    model = tiny.trained()
    traced = record(model, torch.zeros(1, 1, 8, 8))
    for row in result.alternatives:
        (candidate,) = listed(row.name)
        space = space_of(model, traced.layers, tiny.DEVICE, FormatSet((candidate,)))
        space = space.with_activations(traced.activations)
        assert row.figures() == pytest.approx(space.cost(space.uniform(0)).figures())
        assert 0 <= row.accuracy <= 1
        assert row.objective == pytest.approx(
            1 - row.accuracy + row.movement_bits / result.plan.totals.movement_bits_max
        )
    assert result.alternatives[0].accuracy == pytest.approx(result.rows[0].accuracy, abs=0.01)


def test_a_folder_is_for_one_set_of_formats_and_goes_on_with_it(searched):
    run, result, _ = searched
    again = run(formats=MIXED)
    assert again.plan == result.plan
    with pytest.raises(BitqError, match=r"was made with (formats|bits) = "):
        run(formats="8:e2..e4:b4..b16,mxint8")
    with pytest.raises(BitqError, match=r"was made with (formats|bits) = "):
        run()


def test_plans_drawn_at_random_are_of_what_may_be_chosen():
    model = tiny.trained()
    offered = FormatSet.of("int3..int8", weights="mxfp4,int3", output_as_input=True)
    space = space_of(model, bitq.trace(model, torch.zeros(1, 1, 8, 8)), tiny.DEVICE, offered)
    study = Study(Subject("", model, Data(*tiny.loaders()), Task()), space, tiny.settings(), None)
    plans = drawn(study, 20).plans
    assert all(offered.allows(choice) for plan in plans for choice in plan)
    assert len(set(plans)) > 15
