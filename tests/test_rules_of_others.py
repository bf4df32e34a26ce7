"""What rivals choose, held against their definitions: on numbers that can be told by hand, and on a tiny network."""

import sys
from dataclasses import replace
from itertools import product
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import bitq
import tiny
from bitq.errors import BitqError
from bitq.files import RunFolder
from bitq.formats import TENSORS, Format, format_for, parse_format
from bitq.formats.elements import Integer
from bitq.movement.widths import weight_size, widths
from bitq.store import Store
from bitq.tracing import record
from bitq.tradeoff import compare
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.compare import Contest, compared, proposed, study_of
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.groups import groups_of, joined
from bitq.tradeoff.ledger import Ledger
from bitq.tradeoff.measure import Data, Subject, Task
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.rules import RULES, rules_of
from bitq.tradeoff.rules import fast as fast_rule
from bitq.tradeoff.rules.assigned import FLOAT32, assigned, shortcuts
from bitq.tradeoff.rules.bsfp import Bsfp
from bitq.tradeoff.rules.dbps_like import DbpsLike
from bitq.tradeoff.rules.fast import Fast, difference
from bitq.tradeoff.rules.flexblock import FlexBlock
from bitq.tradeoff.rules.gradient import gradient_scores
from bitq.tradeoff.rules.hbfp import Hbfp
from bitq.tradeoff.rules.int_mixed import IntMixed
from bitq.tradeoff.rules.limits import limits
from bitq.tradeoff.rules.statistics import input_zeroed, summed_over_inputs, weight_zeroed, zeroed
from bitq.tradeoff.rules.units import admissible, planned, rungs
from bitq.tradeoff.space import formats_in, space_of
from bitq.tradeoff.stored import stored_as, tied, ties
from bitq.tradeoff.study import Study


@pytest.fixture(scope="module")
def traced():
    return record(tiny.network(), torch.empty(1, 1, 8, 8))


@pytest.fixture
def study(traced, tmp_path):
    """A study of the trained network on the grid."""
    with Store(RunFolder(tmp_path).results) as store:
        yield studied(traced, store, FormatSet.grid(8))


def studied(traced, store, offered):
    model = tiny.trained(steps=30)
    subject = Subject("tiny", model, Data(*tiny.loaders()), Task())
    space = space_of(model, traced.layers, tiny.DEVICE, offered)
    return Study(subject, space, tiny.settings(), Ledger(RunFolder(store.path.parent), store))


def bringing(study, traced, rule):
    """The study of the formats that a rule brings."""
    return study_of(study, traced, rule.brings(study.space.offered))


def texts(study, plan):
    """The formats of a plan, module by module."""
    return [[str(study.space.formats[index]) for index in choice] for choice in plan]


# --- statistics


@pytest.mark.parametrize(
    ("values", "fmt", "lost"),
    [
        ([1.0, 0.5, 0.25, 0.124, 0.0, -0.3], "s4:e8m0:b8", 2),  # 3 magnitude bits reach from 1 down to 0.25
        ([1.0, 0.5, 0.25, 0.124, 0.0, -0.3], "s5:e8m0:b8", 2),  # 4 reach down to 0.125
        ([1.0, 0.5, 0.25, 0.125, 0.0, -0.3], "s5:e8m0:b8", 1),
        ([1.0, 0.5, 0.25, 0.124, 0.0, -0.3], "s4:e8m0:b2", 1),  # each beside its neighbour alone
        ([1.0, 0.01, 0.25, 0.124, 0.0, 0.0], "s4:e8m0:b2", 3),
        ([4.0, 0.9, 0.0], "s4:e8m0:b8", 2),
        ([4.0, 0.9, 0.0], "n4:e8m0:b8", 1),  # all four bits are of the magnitude
        ([0.0, 0.0], "s4:e8m0:b8", 2),
    ],
)
def test_what_loses_all_its_bits_is_counted_by_hand(values, fmt, lost):
    assert zeroed(torch.tensor([values]), parse_format(fmt), dim=1) == (lost, len(values))


@given(
    st.lists(st.sampled_from([0.0, 1.0, -0.5, 0.24, 0.06, 1e-3, -3.0, 1e-30]), min_size=2 * 7 * 4 * 3, max_size=168),
    st.sampled_from(["s3:e8m0:b4", "s4:e8m0:v3", "s4:e8m0:b3p2:toward_zero", "s5:e8m0:t2x3", "s4:e8m0:channel"]),
)
def test_what_loses_all_its_bits_is_counted_as_block_by_block(values, text):
    x, fmt = torch.tensor(values).reshape(2, 7, 4, 3), parse_format(text)
    lengths = fmt.geometry.lengths(tuple(x.shape), 1, (2, 3))
    lost = 0
    for corner in product(*(range(0, n, length) for n, length in zip(x.shape, lengths, strict=True))):
        block = x[tuple(slice(begin, begin + length) for begin, length in zip(corner, lengths, strict=True))]
        if not block.any():
            lost += block.numel()
            continue
        top = np.floor(np.log2(float(block.abs().max())))
        for value in block.flatten().tolist():
            lost += value == 0 or top - np.floor(np.log2(abs(value))) >= fmt.element_bits - 1
    assert zeroed(x, fmt, 1, (2, 3)) == (lost, x.numel())


@pytest.mark.parametrize(("bits", "channels", "share"), [(5, 24, 0.20), (9, 12, 0.012)])
def test_gaussian_weights_lose_what_is_known_of_flexblock(bits, channels, share):
    """With the magnitudes of its simulator."""
    x = torch.randn(64, 96, 3, 3, generator=torch.Generator().manual_seed(0))
    lost, count = zeroed(x, parse_format(f"s{bits}:e8m0:b{channels}p3:toward_zero"), 1, (2, 3))
    assert lost / count == pytest.approx(share, rel=0.06)


@pytest.mark.parametrize(
    ("rounding", "draw", "ratio"),
    [
        ("", torch.randn, 0.25),
        (":toward_zero", torch.randn, 0.53),
        ("", lambda *shape, generator: torch.randn(*shape, generator=generator).relu(), 0.22),
        (":toward_zero", lambda *shape, generator: torch.randn(*shape, generator=generator).relu(), 0.41),
    ],
)
def test_the_ratio_of_fast_is_what_is_known_of_usual_numbers(rounding, draw, ratio):
    x = draw(64, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    fine, coarse = (bitq.quantize(x, parse_format(f"{bits}:e3:v16{rounding}"), dim=1) for bits in (8, 6))
    top, bottom = difference(fine, coarse)
    assert top / bottom == pytest.approx(ratio, abs=0.02)


def test_statistics_of_inputs_are_those_of_what_layers_read(study):
    seen = summed_over_inputs(study, lambda x, axis, name: [(float(x.numel()), float((x < 0).sum()))])
    first, second, last = (seen[name][0] for name in study.space.modules)
    batches = 8 * 64
    assert (first[0], second[0], last[0]) == (batches * 64, batches * 6 * 4 * 4, batches * 24)
    assert first[1] > 0  # noise has negative numbers, what was through a ReLU has none
    assert second[1] == last[1] == 0


# --- rules


def test_flexblock_keeps_its_float_layers_and_widens_where_much_is_lost(study, traced):
    for upper in (0.0, 0.1, 0.2, 0.5, 1.0):
        rule = FlexBlock(upper=(upper,))
        own = bringing(study, traced, rule)
        first, second, last = texts(own, rule.propose(own, 1).plans[0])
        lost = [weight_zeroed(own, "3", fmt) for fmt in own.space.formats]
        modes = ["s16:e8m0:b6p3:toward_zero", "s8:e8m0:b12p3:toward_zero", "s4:e8m0:b24p3:toward_zero"]
        assert list(map(str, own.space.formats)) == ["f32", *modes]
        mode = next((modes[place] for place in (2, 1) if lost[place + 1] <= upper), modes[0])
        assert second[:2] == [mode, mode]
        assert first == ["f32", "f32", mode]  # stored as its reader takes it
        assert last == ["f32", "f32", "f32"]


def test_flexblock_counts_float_layers_in_32_bits(study, traced):
    own = bringing(study, traced, FlexBlock())
    plan = FlexBlock().propose(own, 1).plans[0]
    conv, _, linear = (layers[0] for layers in own.space.layers)
    first, last = (
        widths(layer, formats_in([own.space.formats[index] for index in choice]))
        for layer, choice in ((conv, plan[0]), (linear, plan[2]))
    )
    assert (first.input, first.weight) == (32, 32)
    assert (last.input, last.weight, last.output) == (32, 32, 32)


def test_the_simulators_flexblock_has_the_sign_beside(study, traced):
    own = bringing(study, traced, FlexBlock(sign="beside"))
    assert [fmt.element_bits for fmt in own.space.formats] == [32, 17, 9, 5]
    with pytest.raises(BitqError, match="inside, beside"):
        FlexBlock(sign="above")


def test_shortcuts_are_convolutions_that_look_at_single_positions_far_apart():
    layer = traced_layers(nn.Conv2d(4, 8, 1, stride=2), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, stride=2))
    study = SimpleNamespace(space=SimpleNamespace(layers=[(each,) for each in layer]))
    assert shortcuts(study) == {0}


def traced_layers(*modules):
    return bitq.trace(nn.Sequential(*modules), torch.empty(1, 4, 16, 16))


@pytest.mark.parametrize(("alpha", "beta"), [(0.6, 0.3), (0.3, 0.1), (0.5, 0.0)])
def test_fast_compares_with_a_threshold_that_falls_with_depth_and_time(study, traced, monkeypatch, alpha, beta):
    ratios = {"0": 0.21, "3": 0.11, "8": 0.05}
    monkeypatch.setattr(fast_rule, "_weight_ratio", lambda study, name, fine, coarse: ratios[name])
    monkeypatch.setattr(fast_rule, "_input_ratios", lambda study, fine, coarse: {n: 2 * r for n, r in ratios.items()})
    rule = Fast(alpha, beta)
    own = bringing(study, traced, rule)
    plan = rule.propose(own, 1).plans[0]
    for number, (name, ratio) in enumerate(ratios.items(), 1):
        limit = alpha - beta - beta * number / 3
        assert plan[number - 1][1] == (0 if ratio > limit else 1), name
        assert plan[number - 1][0] == (0 if 2 * ratio > limit else 1), name
    earlier = rule.propose(own, 2).plans
    assert len(earlier) == (1 if beta == 0 else 2)


def test_fast_is_counted_as_it_stores_chunks(study, traced):
    """A group takes e + g (m/2) 3 bits: 99 with 4 bits and 51 with 2, more than its numbers need."""
    own = bringing(study, traced, Fast())
    fine, coarse = (parse_format(str(fmt)) for fmt in own.space.formats)
    assert (fine, coarse) == (parse_format("fast4"), parse_format("fast2"))
    chunked = [format_for(fmt, "weight").num_bits((1, 16), 1) for fmt in own.space.counted]
    assert chunked == [3 + 16 * 2 * 3, 3 + 16 * 1 * 3]
    space = space_of(own.subject.model, traced.layers, tiny.DEVICE, FormatSet(own.space.counted))
    for plan in (own.space.uniform(0), own.space.uniform(1)):
        counted = own.space.cost(plan).model_copy(update={"ram_bytes": None})  # of lifetimes the other knows nothing
        assert counted == space.cost(plan)
    packed = sum(weight_size(layers[0], own.space.counted[0]) for layers in own.space.layers)
    assert own.space.cost(own.space.uniform(0)).model_bytes == packed + own.space.other_bytes
    plan = SimpleNamespace(choices=own.space.uniform(0), tune=True)
    assert own.config(plan) != replace(own, space=replace(own.space, counted=())).config(plan)


def test_hbfp_has_tiles_for_weights_and_one_exponent_for_an_input(study, traced):
    own = bringing(study, traced, Hbfp())
    plans = Hbfp().propose(own, 3).plans
    assert [len({choice[1] for choice in plan}) for plan in plans] == [1, 1, 1]
    first, weight, output = (parse_format(text) for text in texts(own, plans[0])[0])
    assert weight.bits_per_element((64, 64, 3, 3), 1, (2, 3)) == pytest.approx(8.017, abs=1e-3)
    assert first == output
    assert first.num_bits((2, 40, 6, 6), 1) == 2 * (8 * 40 * 36 + 8)
    x = torch.randn(2, 40, 6, 6, generator=torch.Generator().manual_seed(0))
    x[1] *= 1000
    alone = torch.cat([bitq.quantize(each[None], first, dim=1) for each in x])
    assert torch.equal(bitq.quantize(x, first, dim=1), alone)
    assert [parse_format(text).element_bits for text in (texts(own, plan)[0][1] for plan in plans)] == [8, 6, 4]


def test_hbfp_has_12_bits_in_place_of_16():
    assert Hbfp().brings(FormatSet.grid(16)).offered.weights[0].element_bits == 12


def test_bsfp_has_sums_for_weights_and_msfp_for_activations(study, traced):
    own = bringing(study, traced, Bsfp(msfp=14))
    plans = Bsfp(msfp=14).propose(own, 2).plans
    assert [texts(own, plan)[1] for plan in plans] == [
        [str(parse_format(name)) for name in (msfp, "bsfp", msfp)] for msfp in ("msfp14", "msfp13")
    ]


@pytest.mark.parametrize(("tuned", "without", "tune"), [("no", None, False), ("yes", None, True), ("no", "qat", True)])
def test_bsfp_is_fine_tuned_if_that_is_asked_for(study, traced, tuned, without, tune):
    own = bringing(study, traced, Bsfp(tuned=tuned))
    own = replace(own, settings=replace(own.settings, without=without))
    assert [plan.tune for plan in Bsfp(tuned=tuned).proposals(own, "bsfp", 2).plans] == [tune, tune]


def test_dbps_like_takes_the_least_width_that_loses_little(study, traced):
    rule = DbpsLike(upper=(0.5,))
    own = bringing(study, traced, rule)
    formats = own.space.formats
    (plan,) = rule.propose(own, 1).plans
    assert texts(own, plan)[0][:2] == texts(own, plan)[2][:2] == ["f32", "f32"]
    shares = input_zeroed(own, formats[1:])["3"]
    layer = own.space.layers[1][0]

    def width(index, tensor):
        return getattr(widths(layer, formats_in((formats[index],) * 3)), tensor)

    for tensor, lost in ((0, shares), (1, [weight_zeroed(own, "3", fmt) for fmt in formats[1:]])):
        fits = [index for index in range(1, len(formats)) if lost[index - 1] <= 0.5] or [1]
        assert plan[1][tensor] in fits
        assert width(plan[1][tensor], TENSORS[tensor]) == min(width(index, TENSORS[tensor]) for index in fits)


def test_int_mixed_gives_weight_and_input_of_a_layer_one_width_within_limits(study, traced):
    own = bringing(study, traced, IntMixed())
    plans = IntMixed().propose(own, 3).plans
    for plan, limit in zip(plans, limits(own, 3), strict=True):
        assert all(choice[0] == choice[1] for choice in plan)
        assert own.space.cost(plan).movement_bits <= limit * (1 + 1e-9)
    assert len({choice for plan in plans for choice in plan}) > 1
    assert [str(each) for each in own.space.formats] == [f"int{bits}" for bits in range(8, 1, -1)]


def test_what_is_stored_is_what_its_readers_take():
    formats = (FLOAT32, *(parse_format(f"s{bits}:e8m0:b8") for bits in (8, 4)))
    shared = (((0, 2), (1, 0), (2, 0)), ((1, 2), (3, 0)))
    own = SimpleNamespace(space=SimpleNamespace(formats=formats, ties=shared))
    plan = assigned(own, [0, 2, 1, 0], [0, 2, 2, 0])
    assert plan == (
        (0, 0, 1),  # two read its output: the finer
        (1, 2, 0),  # only a layer that stays float reads this one's
        (1, 2, 1),
        (0, 0, 0),
    )
    assert assigned(own, [0, 2, 0, 0], [0, 2, 0, 0])[2] == (2, 0, 0)  # a float layer reads what the other takes


# --- what bitq lends to them, and what not


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.brings(FormatSet.grid(8))])
def test_formats_that_rules_bring_lose_nothing_without_a_sign(name):
    brought = RULES[name].brings(FormatSet.grid(8))
    wide = brought.with_unsigned
    count = len(brought.offered.formats)
    assert wide.offered.formats[:count] == brought.offered.formats
    assert wide.offered.indices("weight") == brought.offered.indices("weight")
    assert FormatSet(wide.counted or wide.offered.formats).formats  # each once
    assert len(wide.counted) == (len(wide.offered.formats) if brought.counted else 0)
    x = torch.randn(4, 30, 5, 5, generator=torch.Generator().manual_seed(0)).relu()
    for index in brought.offered.indices("input"):
        signed, partner = wide.offered.formats[index], wide.offered.formats[wide.offered.unsigned[index]]
        if not isinstance(signed, Format) or not isinstance(signed.elements[0], Integer):
            assert partner == signed
            continue
        own = (wide.counted or wide.offered.formats)[wide.offered.unsigned[index]]
        assert own.num_bits(tuple(x.shape), 1) <= signed.num_bits(tuple(x.shape), 1) - x.numel()
        assert torch.equal(bitq.quantize(x, signed, dim=1), bitq.quantize(x, partner, dim=1))


def test_activations_that_are_never_negative_lose_their_sign(study, traced):
    study = replace(study, space=stored_as(study.space, traced, "after-activation"))
    hbfp = rules_of("hbfp")[0]
    wide, found = proposed(study, traced, hbfp, 2)
    narrow = bringing(study, traced, hbfp.rule)
    plans = hbfp.rule.propose(narrow, 2).plans
    assert len(found.plans) == len(plans) == 2
    for plan, before in zip(found.plans, plans, strict=True):
        assert wide.space.cost(plan.choices).movement_bits < narrow.space.cost(before).movement_bits
        assert [text[0][0] for text in texts(wide, plan.choices)] == ["s", "n", "n"]  # only the image is below zero
        assert [text[1] for text in texts(wide, plan.choices)] == [text[1] for text in texts(narrow, before)]
        assert [text[2][0] for text in texts(wide, plan.choices)] == ["n", "n", "s"]


@pytest.mark.parametrize("name", ["hbfp", "fast", "flexblock"])
def test_formats_with_and_without_a_sign_are_tabulated_once(study, traced, monkeypatch, name):
    tabulated, seen = [], []

    def propose(rule, own, count):
        seen.append(own)
        first = own.space.offered.indices("input")[0], own.space.offered.indices("weight")[0]
        return Proposal(plans=((((*first, first[0]),) * 3),), passes=0)

    monkeypatch.setattr(type(RULES[name]), "propose", propose)
    monkeypatch.setattr(compare, "space_of", lambda *given: tabulated.append(given[3]) or space_of(*given))
    wide, _ = proposed(study, traced, rules_of(name)[0], 1)
    (own,), (counted,) = seen, tabulated
    narrow = bringing(study, traced, RULES[name])
    assert (own.space.offered, own.space.counted) == (narrow.space.offered, narrow.space.counted)
    assert len(counted.formats) == len(wide.space.formats) > len(own.space.formats)
    random = Random(0)
    for _ in range(20):
        plan = [tuple(random.choice(own.space.offered.indices(tensor)) for tensor in TENSORS) for _ in range(3)]
        assert own.space.cost(plan) == wide.space.cost(plan)
        assert own.space.cost(plan).movement_bits == pytest.approx(narrow.space.cost(plan).movement_bits, rel=1e-3)
    assert own.space.movement_max == pytest.approx(narrow.space.movement_max, rel=1e-3)
    assert len({*map(id, own.space.bits)}) == len({*map(id, narrow.space.bits)})


@pytest.mark.parametrize("rule", ["hbfp", "int-mixed", "uniform", "bitq"])
def test_plain_rules_have_nothing_lent(traced, tmp_path, rule):
    with Store(RunFolder(tmp_path).results) as store:
        study = studied(traced, store, FormatSet.of(weights="int4,8:e4:b16", activations="int4,8:e4:b16,n4:e4:b16"))
        study = replace(study, space=stored_as(study.space, traced, "after-activation"))
        assert study.space.points
        study = replace(study, settings=replace(study.settings, without="qat", rounds=1, plans=1, uniforms=1))
        own, found = proposed(study, traced, rules_of(f"{rule}:plain")[0], 2)
        assert found.plans
        assert not own.space.points
        assert (own.settings.ranges, own.settings.training.range_rate) == ("maximum", 0)
        if RULES[rule].brings(study.space.offered) is None:
            assert own.space.movement_max == study.space.movement_max
        for plan in found.plans:
            for formats in own.tensor_formats(plan.choices).values():
                assert not any(each.never_negative for each in (formats.input, formats.weight, formats.output))


def test_a_plan_that_misses_the_limit_counts_only_where_none_keeps_it(study, traced):
    study = replace(study, settings=replace(study.settings, without="qat"))

    def result(loss):
        own = replace(study, settings=replace(study.settings, budgets=Budgets(loss)))
        (found,) = compared(own, traced, Contest(rules_of("named"), 4)).results
        return found

    free, bound, hopeless = result(None), result(0.01), result(0.0)
    lost = [study.float_accuracy.validation - each.measured.validation for each in (free, bound)]
    assert (free.keeps, bound.keeps) == (True, True)
    assert lost[1] <= 0.01 < lost[0]
    assert free.row.objective < bound.row.objective
    assert hopeless.keeps == (study.float_accuracy.validation <= hopeless.measured.validation)


# --- tensors and limits, for any formats


def test_groups_that_meet_are_one():
    assert joined([[(0, 0)], [(1, 1), (2, 0)], [(2, 0), (0, 0)], [(3, 2)]]) == (((0, 0), (1, 1), (2, 0)), ((3, 2),))


def test_formats_without_a_sign_are_for_what_is_never_negative(traced, tmp_path):
    with Store(RunFolder(tmp_path).results) as store:
        offered = FormatSet.of(weights="8:e4:b16", activations="8:e4:b16,n3:e4:b16,n4:e4:b16")
        own = studied(traced, store, offered)
        names = [[str(own.space.formats[i]) for i in admissible(own, ((module, 0),))] for module in (0, 1)]
        assert names == [["8:e4:b16"], ["8:e4:b16", "n3:e4:b16", "n4:e4:b16"]]
        assert [str(own.space.formats[i]) for i in rungs(own, ((1, 0),)).values()] == ["n4:e4:b16", "n3:e4:b16"]
        for plan in RULES["random"].propose(own, 20).plans:
            assert plan[0][0] == plan[1][1] == 0
        with pytest.raises(BitqError, match="none in common"):
            admissible(replace(own, space=replace(own.space, offered=apart())), ((0, 0), (0, 1)))


def apart():
    return FormatSet.of(weights="8:e4:b16", activations="mxfp4")


@pytest.mark.parametrize("bits", [8, 16])
def test_limits_of_the_grid_lie_between_blocks_of_16(traced, tmp_path, bits):
    with Store(RunFolder(tmp_path).results) as store:
        own = studied(traced, store, FormatSet.grid(bits))
        low, high = ("8:e5:b16", "8:e3:b16") if bits == 8 else ("16:e6:b16", "16:e3:b16")
        least, most = (
            own.space.cost(own.space.uniform(own.space.formats.index(parse_format(each)))).movement_bits
            for each in (low, high)
        )
        assert limits(own, 3) == pytest.approx([least + (most - least) * part for part in (0.25, 0.5, 0.75)])
        assert limits(own, 1) == [pytest.approx((least + most) / 2)]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", ["gradient", "greedy", "hessian", "random"])
@pytest.mark.parametrize("formats", ["int3..int8", "8:e3..e5:b8..b32,mxfp4,int4,float16"])
def test_rules_of_tools_take_any_formats(traced, tmp_path, name, formats, together):
    with Store(RunFolder(tmp_path).results) as store:
        own = studied(traced, store, FormatSet.of(formats))
        own = replace(own, space=tied(own.space, ties(own.space, traced.stored))) if together else own
        plans = RULES[name].propose(own, 2).plans
        for plan, limit in zip(plans, limits(own, 2), strict=True):
            assert all(set(choice) <= set(own.space.offered.of_all) for choice in plan)
            assert name == "random" or own.space.cost(plan).movement_bits <= limit * (1 + 1e-9)
            assert not together or plan[0][2] == plan[1][0]
            assert name != "hessian" or all(choice[0] == choice[1] for choice in plan)


def test_many_formats_are_scored_nearly_as_if_all_were_measured(traced, tmp_path, monkeypatch):
    with Store(RunFolder(tmp_path).results) as store:
        own = studied(traced, store, FormatSet.of("8:e2..e6:b1..b48,16:e5..e7:b1..b48,int8"))
        few = gradient_scores(own, {})
        monkeypatch.setattr(sys.modules["bitq.tradeoff.rules.gradient"], "MANY", 1000)
        for some, every in zip(few, gradient_scores(own, {}), strict=True):
            assert np.isfinite(some).all()
            assert (some != every).any()
            assert np.abs(np.log2(some[every > 1e-12] / every[every > 1e-12])).mean() < 0.3


def test_units_put_together_are_the_plan():
    space = SimpleNamespace(
        modules=("a", "b"), ties=(((0, 2), (1, 0)),), offered=SimpleNamespace(output_as_input=False)
    )
    of = groups_of(space)
    assert of == (((0, 0),), ((0, 1),), ((0, 2), (1, 0)), ((1, 1),), ((1, 2),))
    assert planned(space, of, [5, 6, 7, 8, 9]) == ((5, 6, 7), (7, 8, 9))


def test_a_rule_that_has_nothing_to_choose_from_says_so(traced, tmp_path):
    with Store(RunFolder(tmp_path).results) as store:
        own = studied(traced, store, apart())
        for name, told in (("uniform", "alike"), ("hessian", "none in common")):
            with pytest.raises(BitqError, match=told):
                RULES[name].propose(own, 1)


def test_a_network_without_a_second_derivative_is_told(study):
    class Never(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("derivative for it is not implemented")

    class Once(Never):
        @staticmethod
        def backward(ctx, gradient):
            return Never.apply(gradient)

    def loss(output, target):
        return nn.functional.cross_entropy(Once.apply(output), target)

    own = replace(study, subject=replace(study.subject, task=Task(loss=loss)))
    with pytest.raises(BitqError, match="no second derivative"):
        RULES["hessian"].propose(own, 1)


# --- names


def test_rules_are_read_with_their_options():
    found = rules_of(" bitq, flexblock:upper=0.1+0.4:sign=beside,fast:rounding=toward_zero:alpha=0.5,int-mixed:least=3")
    assert [each.label for each in found][:2] == ["bitq", "flexblock:upper=0.1+0.4:sign=beside"]
    assert [each.rule for each in found] == [
        RULES["bitq"],
        FlexBlock(upper=(0.1, 0.4), sign="beside"),
        Fast(alpha=0.5, rounding="toward_zero"),
        IntMixed(least=3),
    ]
    assert rules_of("fast,fast") == rules_of("fast")
    assert [each.plain for each in rules_of("fast,fast:plain,uniform:plain")] == [False, True, True]
    assert rules_of("fast:plain:alpha=0.5")[0].rule == Fast(alpha=0.5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no rule is named; name some of bitq, "),
        ("bitq,slow", "rule 'slow' is unknown; rules are bitq, "),
        ("gradient:x=1", "rule gradient has no option 'x'; its only one is plain"),
        ("fast:x=1", "rule fast has no option 'x'; its options are alpha, beta, rounding, plain"),
        ("fast:plain=1", "rule fast has no option 'plain=1'; its options are alpha, beta, rounding, plain"),
        ("fast:alpha=much", "alpha of rule fast is 'much'; it must be such as 0.6"),
        ("fast:alpha=nan", "alpha of rule fast is 'nan'; it must be such as 0.6"),
        ("flexblock:upper=0.1+x", "upper of rule flexblock is '0.1\\+x'; it must be such as 0.2\\+0.8"),
        ("fast:rounding=up", "the rounding of fast is 'up'; it must be one of nearest, toward_zero"),
        ("hbfp:activations=x", "must be one of sample, blocks"),
        ("bsfp:tuned=maybe", "tuned of bsfp is 'maybe'; it must be yes or no"),
        ("bsfp:msfp=9", "msfp of bsfp is 9; it must be 12..16"),
        ("int-mixed:least=9", "integers of 9 to 8 bits"),
    ],
)
def test_mistakes_in_rules_are_told(text, told):
    with pytest.raises(BitqError, match=told):
        rules_of(text)
