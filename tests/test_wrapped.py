"""Networks as people train them: checkpointed, compiled, in half precision, with tied weights, wrapped, calibrated."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import bitq
from bitq.accuracy.finetune import Training, finetune
from bitq.accuracy.kinds import float_reasons
from bitq.errors import BitqError
from bitq.formats import BlockFormat, TensorFormats
from bitq.tracing import record

FORMAT = BlockFormat(8, 3, 4)
FORMATS = TensorFormats(FORMAT, FORMAT, FORMAT)


class Block(nn.Module):
    """A residual block with attention, recomputed for backward if so wanted."""

    def __init__(self, recomputed=False, reentrant=False):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.recomputed, self.reentrant = recomputed, reentrant

    def forward(self, x):
        if self.recomputed and self.training:
            return checkpoint(self.computed, x, use_reentrant=self.reentrant)
        return self.computed(x)

    def computed(self, x):
        y = self.first(x)
        return x + self.second((y @ y.mT).softmax(-1) @ x).relu()


class Network(nn.Module):
    """Two blocks and a head."""

    def __init__(self, recomputed=False, reentrant=False):
        super().__init__()
        self.blocks, self.head = nn.Sequential(Block(), Block(recomputed, reentrant)), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.blocks(x)).mean(1)


def in_formats(model, x):
    traced = record(model, x)
    formats = {layer.module: FORMATS for layer in traced.layers}
    bitq.apply(model, formats, points=traced.points, products=traced.products)
    return model


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_network_learns_with_its_layers_own_formats_alone(reentrant):
    torch.manual_seed(0)
    plain, x, labels = Network(), torch.randn(4, 5, 6), torch.tensor([0, 1, 2, 0])
    recomputed = Network(recomputed=True, reentrant=reentrant)
    recomputed.load_state_dict(plain.state_dict())
    whole = copy.deepcopy(recomputed)
    for model in (plain, recomputed):
        bitq.apply(model, {"blocks.1.first": FORMATS, "blocks.1.second": FORMATS, "head": FORMATS})
        finetune(model, [(x, labels)], Training(steps=2))
    for one, other in zip(plain.parameters(), recomputed.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)
    in_formats(whole, x)
    with pytest.raises(BitqError, match=r"computes module 'blocks.1.first' anew in backward"):
        finetune(whole, [(x, labels)], Training(steps=1))


def test_a_compiled_network_is_told_to_be_given_as_it_was_before():
    model, x = Network(), torch.zeros(1, 5, 6)
    model.blocks[0] = torch.compile(model.blocks[0])
    traced = record(model, x)
    reasons = float_reasons(model, traced.layers)
    assert {name for name in reasons if "blocks.0" in name} == {
        layer.name for layer in traced.layers if layer.module.startswith("blocks.0")
    }
    linear = [why for name, why in reasons.items() if "matmul" not in name]
    assert linear
    assert all("give the network as it was before" in why for why in linear)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_computes_in_formats(dtype):
    torch.manual_seed(0)
    model, x = Network().eval(), torch.randn(4, 5, 6)
    half = in_formats(copy.deepcopy(model).to(dtype), x.to(dtype))
    result = half(x.to(dtype))
    assert result.dtype == dtype
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    assert torch.allclose(result.float(), in_formats(model, x)(x), atol=0.25)
    result.float().square().sum().backward()
    assert all(parameter.grad is not None for parameter in half.parameters())


class Tied(nn.Module):
    """A language model whose head has the weight of its table."""

    def __init__(self):
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(9, 6), Block(), nn.Linear(6, 9, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(self.body(self.table(ids))).transpose(1, 2)


def test_tied_weights_stay_tied(tmp_path):
    torch.manual_seed(0)
    batch = torch.randint(9, (4, 5)), torch.randint(9, (4, 5))
    effort = bitq.Settings.quick(training=bitq.Training(steps=2))
    result = bitq.search(
        Tied(), [batch], [batch], device="stm32h743", run=tmp_path, formats="8:e4:b16,8:e3:b16", settings=effort,
        metric=lambda model, batches: 0.5,
    )
    formats = result.plan.formats()
    assert formats["table"].weight == formats["head"].weight
    assert result.model.head.weight is result.model.table.weight
    fresh = Tied()
    bitq.load_quantized(fresh, tmp_path)
    assert torch.equal(fresh(batch[0]), result.model(batch[0]))


class Wrapped(nn.Module):
    """A network in another one."""

    def __init__(self):
        super().__init__()
        self.net = Network()


def test_formats_of_a_network_that_wraps_another_are_told():
    with pytest.raises(BitqError, match=r"but 'head': the formats are of a network that has this one as its 'net'"):
        bitq.apply(Network(), {"net.head": FORMATS})
    with pytest.raises(BitqError, match=r"but 'net.head': the formats are of its 'net', give that"):
        bitq.apply(Wrapped(), {"head": FORMATS})
    with pytest.raises(BitqError, match=r"no module 'tail'$"):
        bitq.apply(Network(), {"tail": FORMATS})


def test_calibration_is_public():
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(5, 4)
    with bitq.observing(model, ["0"]) as ranges:
        y = model(x)
    assert ranges["0"].output == (min(0.0, float(y.min())), max(0.0, float(y.max())))
    fixed = bitq.parse_format("int4")
    bitq.apply(model, {"0": bitq.TensorFormats(fixed, fixed, fixed)}, ranges)
    assert torch.equal(model(x)[:1], model(x[:1]))
