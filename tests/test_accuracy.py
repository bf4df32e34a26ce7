"""Training, measuring and predicting: it learns, it repeats bit by bit, and it disturbs nothing."""

import copy
import re
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tiny
from bitq.accuracy.evaluate import answer, cross_entropy, loss_of, score, top1
from bitq.accuracy.finetune import Training, finetune
from bitq.accuracy.quantized import apply, observing
from bitq.accuracy.sensitivity import POWER, PROBED_BLOCKS, TENSORS, _ordered, perturbations, probed, scores
from bitq.errors import BitqError
from bitq.formats import BlockFormat, TensorFormats, grid
from bitq.numerics import quantize
from bitq.tasks import scored_classes

MODULES = ("0", "3", "8")
SHORT = Training(steps=12, learning_rate=3e-3)


def states_equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def calibrated(model):
    with torch.no_grad(), observing(model, MODULES) as seen:
        model.eval()(tiny.images(200, 7)[0])
    return seen


def quantized():
    model, fmt = tiny.network(), BlockFormat(8, 4, 16)
    apply(model, dict.fromkeys(MODULES, TensorFormats(fmt, fmt, fmt)), calibrated(copy.deepcopy(model)))
    return model


# Measuring


def test_score_is_mean_loss_and_share_of_hits():
    model, batches = tiny.network().train(), list(tiny.loader(300, 5, 100))
    found = score(model, batches)
    model.eval()
    with torch.no_grad():
        outputs = [model(inputs) for inputs, _ in batches]
    hits = sum(int((y.argmax(1) == target).sum()) for y, (_, target) in zip(outputs, batches, strict=True))
    losses = [float(cross_entropy(y, target)) for y, (_, target) in zip(outputs, batches, strict=True)]
    assert found.accuracy == hits / 300 == top1(model, batches)
    assert found.loss == pytest.approx(sum(losses) / 3)


def test_score_takes_any_metric_and_loss():
    asked = []

    def metric(model, batches):
        asked.append((model.training, len(batches)))
        return 0.25

    found = score(tiny.network().train(), list(tiny.loader(200, 5, 100)), lambda y, t: y.sum() * 0 + 3, metric)
    assert (found.accuracy, found.loss) == (0.25, 3)
    assert asked == [(False, 2)]


def test_score_changes_nothing():
    model = tiny.network().train()
    model[1].eval()  # frozen statistics
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    score(model, tiny.loader(100, 5))
    assert states_equal(before, model.state_dict())
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize(
    ("network", "inputs", "classes"),
    [
        (tiny.network(), (1, 1, 8, 8), 4),
        (nn.Conv2d(1, 7, 1), (1, 1, 8, 8), 7),
        (nn.Flatten(0), (3, 1, 8), None),
        (nn.LSTM(8, 5), (3, 1, 8), None),
    ],
)
def test_how_many_classes_an_answer_tells_apart(network, inputs, classes):
    assert scored_classes(answer(network.eval(), torch.zeros(inputs))) == classes


def test_an_input_that_a_network_cannot_run_on_is_told():
    with pytest.raises(BitqError, match=r"cannot run on an input as a tensor of shape \(1, 3, 8, 8\): .*channels"):
        answer(tiny.network().eval(), torch.zeros(1, 3, 8, 8))


def test_inputs_can_be_tuples():
    class Sum(nn.Module):
        def forward(self, x, y):
            return x + y

    ones = torch.eye(4)
    assert score(Sum(), [((ones, 2 * ones), torch.arange(4))]).accuracy == 1


LONG, BYTE = torch.long, torch.uint8


@pytest.mark.parametrize(
    ("label", "dtype"), [(4, LONG), (-1, LONG), (-99, LONG), (2**40, LONG), (4, BYTE), (255, BYTE)]
)
def test_labels_that_the_network_has_no_output_for_are_told(label, dtype):
    labels = torch.zeros(20, dtype=dtype)
    labels[7] = label
    if dtype == torch.long:
        labels[3] = -100  # which cross entropy leaves out
    batches = [(tiny.images(20, 1)[0], labels)]
    for use in everywhere(tiny.network(), cross_entropy, batches):
        said = rf"^label {label} in a batch's target, but the network has 4 outputs; .* from 0 to 3$"
        with pytest.raises(BitqError, match=said):
            use()


@pytest.mark.parametrize("shape", [(4,), (5, 4), (5, 4, 3), (5, 4, 3, 2)])
def test_labels_of_every_class_and_the_ignored_one_are_taken(shape):
    scores = torch.randn(shape)
    places = shape[:1] + shape[2:] if len(shape) > 1 else ()
    for label in (0, 3, -100):
        labels = torch.ones(places, dtype=torch.long)
        labels.view(-1)[-1] = label
        found, right = (loss_of(scores, labels, cross_entropy), torch.nn.functional.cross_entropy(scores, labels))
        assert torch.equal(found, right) or (found.isnan() and right.isnan())
    with pytest.raises(BitqError, match="label 4 in a batch's target"):
        loss_of(scores, torch.full(places, 4), cross_entropy)


@pytest.mark.parametrize("labels", [torch.zeros(19, dtype=torch.long), torch.zeros(20, 5)])
def test_targets_that_fit_no_output_are_told(labels):
    batches = [(tiny.images(20, 1)[0], labels)]
    for use in (lambda: score(tiny.network(), batches), lambda: finetune(tiny.network(), batches, SHORT)):
        with pytest.raises(BitqError, match=r"the loss refuses output \(20, 4\) with target \("):
            use()


def everywhere(model, loss, batches=None):
    """Whatever runs a network on batches."""
    batches = [(tiny.images(20, 1)[0], tiny.images(20, 1)[1])] if batches is None else batches
    return (
        lambda: score(model, batches, loss),
        lambda: finetune(model, batches, SHORT, loss),
        lambda: perturbations(model, MODULES, all_formats, {}, batches, loss),
    )


def raising(error):
    def fail(*_):
        raise error

    return fail


def no_memory_left(*_):
    return torch.empty(2**50)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (no_memory_left, "when 4 PiB more were wanted; lower"),
        (
            raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has 1 GiB\nmore")),
            "when 2.5 GiB more were wanted; lower",
        ),
        (
            raising(RuntimeError("MPS backend out of memory (MPS allocated: 8 GB). Tried to allocate 1536 bytes")),
            "when 1.5 KiB more were wanted; lower",
        ),
        (raising(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")), "; lower"),
        (raising(MemoryError()), "; lower"),
        (raising(MemoryError("Unable to allocate 256. TiB for an array")), "when 256 TiB more were wanted; lower"),
    ],
)
def test_memory_that_runs_out_is_told_as_that(loss, said):
    for use in everywhere(tiny.network(), loss):
        with pytest.raises(BitqError, match=r"^memory ran out while .*--batch-size") as caught:
            use()
        assert said in str(caught.value)
        assert ("when" in said) == ("wanted" in str(caught.value))
        assert not re.search(r"\n|Allocator|CUDA|CUBLAS|MPS|bytes|Error", str(caught.value))


def test_memory_that_runs_out_in_the_network_is_told():
    class Hungry(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + no_memory_left()

    for use in everywhere(Hungry(*tiny.network()), cross_entropy):
        with pytest.raises(BitqError, match="memory ran out while"):
            use()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), RuntimeError("CUDA error: launch failure")])
def test_what_is_not_the_losss_refusal_passes(error):
    for use in everywhere(tiny.network(), raising(error)):
        with pytest.raises(type(error)) as caught:
            use()
        assert caught.value is error


@pytest.mark.parametrize(
    "given",
    [
        lambda total: (total, {"part": total / 2}),
        lambda total: [total.reshape(1)],
        lambda total: {"loss": total, "logits": torch.ones(3)},
        lambda total: {"boxes": total / 4, "classes": 3 * total / 4},
    ],
)
def test_a_loss_may_give_its_parts(given):
    total = torch.tensor(8.0, requires_grad=True)
    value = loss_of(torch.ones(2), torch.ones(2), lambda output, target: given(total))
    assert float(value) == 8
    value.backward()
    assert float(total.grad) == 1


@pytest.mark.parametrize("error", [AttributeError("x"), KeyError("x"), OSError("x"), BitqError("my own sentence")])
def test_what_a_loss_says_is_told(error):
    reason = "my own sentence" if isinstance(error, BitqError) else "the loss refuses output .*'?x"
    for use in everywhere(tiny.network(), raising(error)):
        with pytest.raises(BitqError, match=f"^{reason}"):
            use()


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (lambda y, t: y.sum(1), r"the loss gave a tensor of shape \(20,\) for output \(20, 4\) with target \(20,\)"),
        (lambda y, t: None, "the loss gave None"),
        (lambda y, t: 0.5, "the loss gave a float"),
        (lambda y, t: (), "the loss gave a tuple of 0"),
        (lambda y, t: (y, y.sum()), "the loss gave a tuple of 2"),
        (lambda y, t: {"a": y}, "the loss gave a dict of 'a'"),
    ],
)
def test_a_loss_is_one_number(loss, told):
    for use in everywhere(tiny.network(), loss):
        with pytest.raises(BitqError, match=f"^{told}.*one number"):
            use()


def test_a_loss_that_no_parameter_changes_cannot_be_trained():
    with pytest.raises(BitqError, match="does not depend on the network's parameters"):
        finetune(tiny.network(), tiny.loader(100, 1), SHORT, lambda y, t: t.float().mean())


@pytest.mark.parametrize("target", [torch.zeros(20, 1, dtype=torch.long), torch.zeros(20, 4), 3])
def test_top1_judges_classes_alone(target):
    batches = [(tiny.images(20, 1)[0], target)]
    for use in (lambda: top1(tiny.network(), batches), lambda: score(tiny.network(), batches, lambda y, t: y.mean())):
        with pytest.raises(BitqError, match=r"top-1 accuracy cannot judge output \(20, 4\) with target"):
            use()


@pytest.mark.parametrize("given", [-0.1, 1.5, torch.nan, 83.0])
def test_a_metric_is_a_share(given):
    with pytest.raises(BitqError, match=r"the metric gave .*\[0, 1\]"):
        score(tiny.network(), tiny.loader(20, 1), metric=lambda *_: given)


def test_nothing_to_measure_on_is_told():
    with pytest.raises(BitqError, match="no batch"):
        score(tiny.network(), [])


# Fine-tuning


@pytest.mark.parametrize("make", [tiny.network, quantized])
def test_it_learns(make):
    model, test = make(), tiny.loader(500, 3, 250)
    before = score(model, test)
    finetune(model, tiny.loader(1500, 1, shuffle=True), Training(steps=60, learning_rate=1e-2))
    after = score(model, test)
    assert before.accuracy < 0.5
    assert after.accuracy > 0.65
    assert after.loss < before.loss
    assert not model.training


def test_equal_seeds_give_equal_bits():
    states = []
    for disturbance, seed in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(disturbance)
        model = quantized()
        finetune(model, tiny.loader(1500, 1, shuffle=True), Training(steps=12, seed=seed))
        states.append(model.state_dict())
    assert states_equal(states[0], states[1])
    assert not states_equal(states[0], states[2])  # another order of the batches


def test_mixed_precision_trains_in_bfloat16_and_measures_in_float():
    model, test, types = quantized(), tiny.loader(500, 3, 250), []
    before = score(model, test)
    model[0].register_forward_hook(lambda _, args, y: types.append(y.dtype))
    finetune(model, tiny.loader(1500, 1, shuffle=True), Training(steps=60, learning_rate=1e-2, amp=True))
    assert set(types) == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    types.clear()
    after = score(model, test)
    assert set(types) == {torch.float32}
    assert after.accuracy > 0.65 > 0.5 > before.accuracy


@pytest.mark.parametrize("fmt", grid(8), ids=str)
def test_bfloat16_holds_every_number_of_an_8_bit_format(fmt):
    x = torch.randn(64, 48, generator=torch.Generator().manual_seed(0)) * torch.logspace(-30, 30, 64)[:, None]
    y = quantize(x, fmt, 1)
    assert torch.equal(y.bfloat16().float(), y)


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 4)

    def forward(self, x):
        return self.linear(nn.functional.dropout(x.flatten(1), 0.5, self.training))


@pytest.mark.parametrize("factor", [1, torch.nan])
def test_the_callers_randomness_is_untouched(factor):
    model, batches = Dropping(), tiny.loader(1500, 1, shuffle=True)
    state = torch.get_rng_state()
    with pytest.raises(BitqError) if factor != 1 else nullcontext():
        finetune(model, batches, SHORT, loss=lambda y, t: factor * cross_entropy(y, t))
    assert torch.equal(torch.get_rng_state(), state)


def test_steps_are_told_before_and_after():
    before, after = [], []
    finetune(
        tiny.network(),
        tiny.loader(130, 1),  # three batches, walked four times
        SHORT,
        before_step=before.append,
        progress=lambda done, total: after.append((done, total)),
    )
    assert before == list(range(12))
    assert after == [(step + 1, 12) for step in range(12)]


def test_the_learning_rate_falls_along_half_a_cosine():
    class Slope(nn.Module):
        """Its parameter moves by the learning rate at every step of Adam, since the gradient stays 1."""

        def __init__(self):
            super().__init__()
            self.x = nn.Parameter(torch.zeros(1))

        def forward(self, _):
            return self.x

    seen, model = [], Slope()
    finetune(
        model,
        [(torch.zeros(1), torch.zeros(1))],
        Training(steps=10, learning_rate=0.1, weight_decay=0.0),
        loss=lambda y, _: y.sum(),
        progress=lambda *_: seen.append(model.x.item()),
    )
    steps = [first - second for first, second in pairwise([0.0, *seen])]
    assert steps == pytest.approx([0.05 * (1 + np.cos(np.pi * i / 10)) for i in range(10)], rel=1e-4)


@pytest.mark.parametrize("batches", [[], DataLoader(TensorDataset(*tiny.images(10, 1)), 64, drop_last=True)])
def test_no_data_is_told(batches):
    with pytest.raises(BitqError, match="training data has no batch"):
        finetune(tiny.network(), batches, SHORT)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"steps": 0}, {"steps": 2**62}, {"seed": -1}, {"seed": 2**63}),
        *({"learning_rate": 0.0}, {"learning_rate": torch.nan}, {"learning_rate": 1e38}),
        *({"weight_decay": -1.0}, {"weight_decay": torch.nan}, {"weight_decay": 1e38}),
    ],
)
def test_training_out_of_range_is_told(wrong):
    (name,) = wrong
    with pytest.raises(BitqError, match=f"{name} is .*it must be"):
        Training(**wrong)


def test_the_largest_training_rates_are_told_as_divergence():
    with pytest.raises(BitqError, match="diverged"):
        finetune(tiny.network(), tiny.loader(500, 1), Training(steps=40, learning_rate=1e30, weight_decay=1e6))


def test_a_frozen_network_is_told():
    with pytest.raises(BitqError, match="requires a gradient"):
        finetune(tiny.network().requires_grad_(False), tiny.loader(100, 1), SHORT)


def test_divergence_is_told():
    values = iter([1.0, 1.0, torch.inf])
    with pytest.raises(BitqError, match="diverged at step 2: the loss is inf"):
        finetune(tiny.network(), tiny.loader(500, 1), SHORT, loss=lambda y, t: cross_entropy(y, t) * next(values))
    with pytest.raises(BitqError, match="lower"):
        finetune(tiny.network(), tiny.loader(500, 1), Training(steps=40, learning_rate=1e30))


# Sensitivities


MIXED = tuple(
    BlockFormat(mantissa + exponent, exponent, size)
    for mantissa in (3, 4, 5)
    for exponent in (2, 3, 5)
    for size in (1, 2, 4, 8, 16, 48)
)
"""Of unlike `bits`: every mantissa with every exponent."""


@st.composite
def scored_formats(draw):
    of_what = st.sampled_from(draw(st.sampled_from([grid(8), tuple(dict.fromkeys((*grid(8), *MIXED, *grid(16))))])))
    formats = draw(st.lists(of_what, min_size=1, max_size=40, unique=True))
    value = st.floats(-1, 1) | st.sampled_from([0.0, 0.1])
    return formats, draw(st.lists(value, min_size=len(formats), max_size=len(formats)))


def no_finer(a, b):
    """Neither wider elements, nor more of their bits for the mantissa, nor smaller blocks."""
    return a.bits <= b.bits and a.mantissa_bits <= b.mantissa_bits and a.block_size >= b.block_size


@given(scored_formats())
def test_ordered_is_the_mean_of_the_bounds(case):
    formats, values = case
    for fmt, found in zip(formats, _ordered(formats, values), strict=True):
        above = max(value for other, value in zip(formats, values, strict=True) if no_finer(fmt, other))
        below = min(value for other, value in zip(formats, values, strict=True) if no_finer(other, fmt))
        assert found == pytest.approx((above + below) / 2)


@given(scored_formats())
def test_coarser_formats_never_score_better(case):
    formats, values = case
    found = _ordered(formats, values)
    for i, coarse in enumerate(formats):
        for j, fine in enumerate(formats):
            assert not no_finer(coarse, fine) or found[i] >= found[j]
    assert _ordered(formats, found).tolist() == pytest.approx(found.tolist())  # what is ordered stays


# Perturbations


def all_formats(name, tensor):
    return grid(8)[::9]


def slow_perturbation(model, module, tensor, fmt, batches):
    """The definition, by autograd functions of the network's own tensors."""
    total, inputs = 0.0, 0
    for images, labels in batches:
        layer, kept = model.get_submodule(module), {}

        def forward(x, layer=layer, kept=kept):
            kept["input"] = x.detach().clone().requires_grad_()
            y = type(layer).forward(layer, kept["input"])
            kept["output"] = y.detach().clone().requires_grad_()
            kept["link"] = y
            return kept["output"]

        layer.forward = forward
        loss = cross_entropy(model(images), labels) * len(labels)
        (at_output,) = torch.autograd.grad(loss, kept["output"])
        at_input, at_weight = torch.autograd.grad(kept["link"], (kept["input"], layer.weight), at_output)
        del layer.forward
        value = {"input": kept["input"], "weight": layer.weight, "output": kept["output"]}[tensor].detach()
        gradient = {"input": at_input, "weight": at_weight, "output": at_output}[tensor]
        inner = (2, 3) if tensor == "weight" and value.dim() == 4 else ()
        axis = 1 if value.dim() == 4 or tensor == "weight" else -1
        error = quantize(value, fmt, axis, inner) - value
        total, inputs = total + float((gradient * error).square().sum()), inputs + len(labels)
    return total / inputs


def test_a_perturbation_is_the_squared_gradient_times_the_squared_error():
    model, batches = tiny.trained().eval(), list(tiny.loader(120, 4, 60))
    model.zero_grad(set_to_none=True)
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    told = []
    found = perturbations(model, MODULES, all_formats, {}, batches, cross_entropy, lambda *step: told.append(step))
    assert told == [(0, 2), (1, 2), (2, 2)]
    assert states_equal(state, model.state_dict())
    assert modes == [module.training for module in model.modules()]
    assert all(parameter.grad is None for parameter in model.parameters())
    for module in MODULES:
        for tensor in TENSORS:
            assert tuple(found[module][tensor]) == all_formats(module, tensor)
            for fmt in all_formats(module, tensor)[:2]:
                expected = slow_perturbation(copy.deepcopy(model), module, tensor, fmt, batches)
                assert found[module][tensor][fmt] == pytest.approx(expected, rel=1e-4)


def test_what_is_done_in_place_and_what_is_frozen_changes_no_perturbation():
    batches = list(tiny.loader(60, 4, 60))
    plain = tiny.trained().eval()
    changed = copy.deepcopy(plain).requires_grad_(False)
    changed[2] = nn.ReLU(inplace=True)
    changed[5] = nn.ReLU(inplace=True)
    found = [perturbations(net, MODULES, all_formats, {}, batches, cross_entropy) for net in (plain, changed)]
    assert found[0] == found[1]


def test_a_module_that_is_called_twice_perturbs_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x, again=True):
            x = torch.tanh(self.layer(input=x))
            return self.head(torch.tanh(self.layer(x)))

    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(20, 6, generator=generator), torch.randint(3, (20,), generator=generator)
    (found,) = [perturbations(Twice(), ("layer",), all_formats, {}, [batch], cross_entropy)["layer"]]
    assert all(value > 0 for row in found.values() for value in list(row.values())[1:])


def test_what_the_loss_does_not_depend_on_perturbs_nothing():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            self.idle(x)
            return self.used(x)

    batch = torch.ones(4, 6), torch.zeros(4, dtype=torch.int64)
    found = perturbations(Idle(), ("used", "idle"), all_formats, {}, [batch], cross_entropy)
    assert {value for tensor in ("weight", "output") for value in found["idle"][tensor].values()} == {0.0}


# Scores


@pytest.mark.parametrize("extent", [1, 3, 16, 20, 64])
def test_what_is_probed_stands_for_all_formats(extent):
    chosen = probed(grid(8), extent)
    sizes = {min(size, extent) for size in PROBED_BLOCKS}
    assert {(fmt.exponent_bits, min(fmt.block_size, extent)) for fmt in chosen} == {
        (bits, size) for bits in (2, 3, 4, 5, 6) for size in sizes
    }
    assert len(chosen) == 5 * len(sizes)


@pytest.mark.parametrize("extent", [1, 3, 16, 20, 64])
def test_lines_over_the_logarithm_of_the_block_are_recovered(extent):
    def truth(fmt):
        return 0.01 * 2**fmt.exponent_bits * (1 + 0.3 * np.log2(min(fmt.block_size, extent)))

    measured = {fmt: 2 * truth(fmt) ** (1 / POWER) for fmt in probed(grid(8), extent)}
    assert scores(grid(8), measured, extent) == pytest.approx([truth(fmt) for fmt in grid(8)])


@pytest.mark.parametrize("extent", [1, 3, 16, 64])
def test_formats_of_unlike_bits_have_scores_of_their_own(extent):
    def truth(fmt):
        finest = 2.0 ** -fmt.mantissa_bits + 0.01 * 2.0 ** -fmt.exponent_bits
        return finest * (1 + 0.3 * np.log2(min(fmt.block_size, extent)))

    chosen = probed(MIXED, extent)
    sizes = {min(size, extent) for size in PROBED_BLOCKS}
    places = [(fmt.mantissa_bits, fmt.exponent_bits, min(fmt.block_size, extent)) for fmt in chosen]
    assert sorted(places) == sorted((m, e, size) for m in (3, 4, 5) for e in (2, 3, 5) for size in sizes)
    measured = {fmt: 2 * truth(fmt) ** (1 / POWER) for fmt in chosen}
    assert scores(MIXED, measured, extent) == pytest.approx([truth(fmt) for fmt in MIXED])


def test_a_wide_exponent_is_no_small_mantissa():
    fine, coarse = BlockFormat(12, 8, 16), BlockFormat(6, 2, 16)  # both have 4 bits of mantissa
    assert _ordered([fine, coarse], [0.1, 0.4]).tolist() == [0.1, 0.4]
    assert _ordered([fine, coarse], [0.4, 0.1]).tolist() == [0.25, 0.25]


def test_a_smaller_mantissa_may_do_better_by_a_wider_exponent():
    assert _ordered([BlockFormat(12, 8, 16), BlockFormat(6, 1, 16)], [0.1, 0.4]).tolist() == [0.1, 0.4]
    assert _ordered([BlockFormat(12, 8, 16), BlockFormat(6, 1, 16)], [0.4, 0.1]).tolist() == [0.4, 0.1]


def test_without_the_probed_blocks_every_format_is_measured():
    formats = [fmt for fmt in grid(8) if fmt.block_size in (2, 16)]
    assert probed(formats, 64) == tuple(formats)
    assert probed(formats, 2) == tuple(fmt for fmt in formats if fmt.block_size == 2)
