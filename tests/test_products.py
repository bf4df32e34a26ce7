"""Products of two activations are layers: traced, counted, quantized, or told by name."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from bitq.accuracy.kinds import quantizable, staying_float
from bitq.accuracy.quantized import apply, in_formats, restore
from bitq.accuracy.storing import with_products
from bitq.calls import Call
from bitq.errors import BitqError
from bitq.floating import ACTIVATIONS
from bitq.formats import BlockFormat, Ranges, TensorFormats
from bitq.layers import Layer
from bitq.movement.widths import weight_size, widths
from bitq.multiplying import operands
from bitq.numerics import exponent_bias_for, quantize
from bitq.tracing import record

INPUT, WEIGHT, OUTPUT = BlockFormat(8, 3, 4), BlockFormat(8, 2, 4), BlockFormat(8, 4, 8)
FORMATS = TensorFormats(INPUT, WEIGHT, OUTPUT)


class Multiplying(nn.Module):
    """A network's code that multiplies what it makes of its input."""

    def __init__(self, multiply):
        super().__init__()
        self.left, self.right, self.multiply = nn.Linear(6, 6), nn.Linear(6, 6), multiply

    def forward(self, x):
        return self.multiply(self.left(x), self.right(x))


CALLS = {  # what the code computes; the product by hand, of operands quantized by qa and qb; N K C groups
    "matmul": (lambda a, b: torch.matmul(a, b.mT), lambda a, b, qa, qb: qa(a) @ qb(b).mT, (5, 15, 6, 3)),
    "operator": (lambda a, b: a @ b.mT, lambda a, b, qa, qb: qa(a) @ qb(b).mT, (5, 15, 6, 3)),
    "method": (lambda a, b: a.matmul(b.mT), lambda a, b, qa, qb: qa(a) @ qb(b).mT, (5, 15, 6, 3)),
    "reflected": (lambda a, b: b.mT.__rmatmul__(a), lambda a, b, qa, qb: qa(a) @ qb(b).mT, (5, 15, 6, 3)),
    "by name": (lambda a, b: torch.matmul(input=a, other=b.mT), lambda a, b, qa, qb: qa(a) @ qb(b).mT, (5, 15, 6, 3)),
    "bmm": (lambda a, b: torch.bmm(a.mT, b), lambda a, b, qa, qb: qa(a, 1).mT @ qb(b, 1), (6, 18, 5, 3)),
    "mm": (lambda a, b: torch.mm(a[0], b[0].t()), lambda a, b, qa, qb: qa(a[0]) @ qb(b[0]).t(), (5, 5, 6, 1)),
    "one for all": (lambda a, b: a @ b[0].t(), lambda a, b, qa, qb: qa(a) @ qb(b[0]).t(), (15, 5, 6, 1)),
    "a vector": (lambda a, b: a[0] @ b[0, 0], lambda a, b, qa, qb: qa(a[0]) @ qb(b[0, 0]), (5, 1, 6, 1)),
    "mv": (lambda a, b: torch.mv(a[0], b[0, 0]), lambda a, b, qa, qb: qa(a[0]) @ qb(b[0, 0]), (5, 1, 6, 1)),
    "linear": (lambda a, b: functional.linear(a, b[0]), lambda a, b, qa, qb: qa(a) @ qb(b[0]).t(), (15, 5, 6, 1)),
    "einsum": (
        lambda a, b: torch.einsum("btc,bsc->bts", a, b),
        lambda a, b, qa, qb: qa(a) @ qb(b).mT,
        (5, 15, 6, 3),
    ),
    "einsum of rows": (
        lambda a, b: torch.einsum("b t c, b t d -> b c d", [a, b]),
        lambda a, b, qa, qb: qa(a, 1).mT @ qb(b, 1),
        (6, 18, 5, 3),
    ),
    "einsum over two letters": (
        lambda a, b: torch.einsum("btc,btc->b", a, b),
        lambda a, b, qa, qb: (qa(a.flatten(1)) * qb(b.flatten(1))).sum(-1, keepdim=True),
        (1, 3, 30, 3),
    ),
    "einsum of columns of the first": (
        lambda a, b: torch.einsum("btc,bsc->bst", a, b),
        lambda a, b, qa, qb: qa(b) @ qb(a).mT,
        (5, 15, 6, 3),
    ),
    "einsum of heads": (
        lambda a, b: torch.einsum("bthd,bshd->bhts", a.unflatten(-1, (2, 3)), b.unflatten(-1, (2, 3))),
        lambda a, b, qa, qb: (
            qa(a.unflatten(-1, (2, 3)).transpose(1, 2)) @ qb(b.unflatten(-1, (2, 3)).transpose(1, 2)).mT
        ),
        (5, 30, 3, 6),
    ),
    "einsum of other axes": (
        lambda a, b: torch.einsum("...tc,...sc", a, b),
        lambda a, b, qa, qb: qa(b) @ qb(a).mT,
        (5, 15, 6, 3),
    ),
    "einsum of what is summed before": (
        lambda a, b: torch.einsum("btc,sc->ts", a, b[0]),
        lambda a, b, qa, qb: qa(a.sum(0)) @ qb(b[0]).mT,
        (5, 5, 6, 1),
    ),
    "a matrix times a batch": (
        lambda a, b: a[0] @ b.mT,
        lambda a, b, qa, qb: qa(b) @ qb(a[0]).t(),
        (15, 5, 6, 1),
    ),
    "a vector times a batch": (
        lambda a, b: a[0, 0] @ b.mT,
        lambda a, b, qa, qb: qa(b) @ qb(a[0, 0]),
        (15, 1, 6, 1),
    ),
    "dot": (
        lambda a, b: torch.dot(a[0, 0], b[0, 0]),
        lambda a, b, qa, qb: (qa(a[0, 0]) * qb(b[0, 0])).sum(-1, keepdim=True),
        (1, 1, 6, 1),
    ),
    "baddbmm": (
        lambda a, b: torch.baddbmm(torch.zeros(1), a, b.mT),
        lambda a, b, qa, qb: qa(a) @ qb(b).mT,
        (5, 15, 6, 3),
    ),
    "baddbmm of nothing": (
        lambda a, b: torch.baddbmm(torch.full((1,), torch.nan), a, b.mT, beta=0),
        lambda a, b, qa, qb: qa(a) @ qb(b).mT,
        (5, 15, 6, 3),
    ),
    "addmm": (
        lambda a, b: torch.addmm(torch.zeros(5), a[0], b[0].t()),
        lambda a, b, qa, qb: qa(a[0]) @ qb(b[0]).t(),
        (5, 5, 6, 1),
    ),
}

FINISH = {  # what the code makes of the product, which is stored as it is computed
    "einsum over two letters": lambda y: y[..., 0],
    "a matrix times a batch": lambda y: y.mT,
    "dot": lambda y: y[0],
}


def seen(multiply):
    """A network and its products, as they are traced."""
    model = Multiplying(multiply).eval()
    traced = record(model, torch.zeros(3, 5, 6))
    (path,) = traced.products
    return model, traced, path


@pytest.mark.parametrize("name", CALLS)
def test_a_product_is_a_layer_and_a_module(name):
    multiply, _, (rows, columns, inner, groups) = CALLS[name]
    model, traced, path = seen(multiply)
    layer = traced.layers[-1]
    expected = Layer(path, N=rows, K=columns, C=inner, groups=groups, weight_is_parameter=False, module=path)
    assert layer == expected
    own = with_products(model, traced.products)
    assert list(quantizable(own)) == ["left", "right", path]
    assert staying_float(own, traced.layers) == ()
    assert own.state_dict().keys() == model.state_dict().keys()
    assert all(a is b for a, b in zip(own.parameters(), model.parameters(), strict=True))
    x = torch.randn(3, 5, 6)
    equal = torch.allclose if name == "einsum over two letters" else torch.equal
    assert equal(own(x), model(x))
    assert type(model) is Multiplying
    assert path not in dict(model.named_modules())


@pytest.mark.parametrize("ranges", [None, Ranges((-1.5, 1.0), (-9.0, 4.0), (-0.7, 0.7))], ids=["own", "calibrated"])
@pytest.mark.parametrize("name", CALLS)
def test_it_computes_as_its_twin_written_by_hand(name, ranges):
    multiply, by_hand, _ = CALLS[name]
    model, traced, path = seen(multiply)
    x = (torch.randn(3, 5, 6) * torch.randn(3, 5, 6).exp()).requires_grad_()
    biases = [None] * 3
    if ranges is not None:
        spans = (ranges.input, ranges.weight, ranges.output)
        biases = [
            exponent_bias_for(torch.tensor(span), fmt)
            for span, fmt in zip(spans, (INPUT, WEIGHT, OUTPUT), strict=True)
        ]

    def quantized(fmt, bias):
        return lambda x, axis=-1: quantize(x, fmt, axis, exponent_bias=bias)

    qa, qb, q = map(quantized, (INPUT, WEIGHT, OUTPUT), biases)
    expected = FINISH.get(name, lambda y: y)(q(by_hand(model.left(x), model.right(x), qa, qb)))
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    own = copy.deepcopy(model)
    apply(own, {path: FORMATS}, None if ranges is None else {path: ranges}, products=traced.products)
    result = own(x)
    assert torch.equal(result, expected)
    assert not torch.equal(result, model(x))
    (gradient,) = torch.autograd.grad(result.square().sum(), x)
    assert torch.allclose(gradient, wanted, rtol=1e-5, atol=1e-6)
    again = copy.deepcopy(own)
    assert torch.equal(again(x), result)
    restore(again)
    assert type(again) is Multiplying
    assert path not in dict(again.named_modules())
    assert torch.equal(again(x), model(x))


KEPT_FLOAT = {
    "einsum of a diagonal": lambda a, b: torch.einsum("btt,btc->bc", a[..., :5], b),
    "a kernel of activations": lambda a, b: functional.conv1d(a.mT, b[:, :3].mT),
}


@pytest.mark.parametrize("name", KEPT_FLOAT)
def test_what_no_kind_covers_is_told_by_name(name):
    model = Multiplying(KEPT_FLOAT[name]).eval()
    traced = record(model, torch.zeros(3, 5, 6))
    assert traced.products == {}
    (part,) = staying_float(model, traced.layers)
    assert (part.reason, part.modules) == (ACTIVATIONS, ("",))
    assert part.layers == tuple(layer.name for layer in traced.layers[2:])


@pytest.mark.parametrize("equation", ["btc,bsc,bsd->btd", "btc, bsc, bsd", "...tc,...sc,...sd->...td", "btc,bsc,bsd->"])
def test_several_tensors_are_multiplied_one_after_another(equation):
    model = Multiplying(lambda a, b: torch.einsum(equation, a, b, [b][0] + 1)).eval()
    x = torch.randn(3, 5, 6)
    traced = record(model, x)
    assert list(traced.products) == ["matmul", "matmul#2"]
    own = with_products(model, traced.products)
    assert staying_float(own, traced.layers) == ()
    assert torch.allclose(own(x), model(x), rtol=1e-5, atol=1e-4)


MATRICES = ["ij,jk", "ij,jk->ik", "ij,jk->ki", "...ij,jk->...ik", "ij,kj->i", "ba,bc", "ij,jk->", "ij,ji->j", "Ba,Bc"]


@pytest.mark.parametrize("equation", MATRICES)
def test_equations_of_matrices_compute_as_torch_has_them(equation):
    a, b = torch.randn(4, 4, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    found = operands(torch.einsum, [equation, a, b], {})
    y = found.finish(found.multiply(found.first, found.second))
    assert torch.allclose(y, torch.einsum(equation, a, b))


OTHERS = ["ij,jk->ijk", "ii,ij->j", "i,j->ij", "ij,ij->ij", "ij->i", "ij,jk->il", "ij,jk,kl"]


@pytest.mark.parametrize("equation", OTHERS)
def test_equations_that_are_no_product_of_two_matrices(equation):
    assert operands(torch.einsum, [equation, torch.ones(4, 4), torch.ones(4, 4)], {}) is None
    assert operands(torch.einsum, ["ij,jk", torch.ones(4, 1), torch.ones(4, 4)], {}) is None


class Links(nn.Sequential):
    """Runs its children in every way that a container gives, and multiplies."""

    def forward(self, x):
        y = super().forward(x)
        z = self[-1](self[0](x))
        for link in self:
            x = link(x)
        assert (len(self), len(self[:-1])) == (2, 1)
        return x @ y.mT + torch.einsum("...ic,...jc", y, z)


class Several(nn.ModuleList):
    def forward(self, x):
        for each in [*self, self[-1]]:
            x = each(x)
        return x @ x.mT if len(self) == 2 else None


class Named(nn.ModuleDict):
    def forward(self, x):
        for name, each in self.items():
            assert name in self
            x = each(x)
        assert [*self] == [*self.keys()] == ["first", "last"]
        return torch.matmul(x, x.mT) * len([*self.values()])


CONTAINERS = {
    "sequential": lambda: Links(nn.Linear(6, 6), nn.ReLU()),
    "list": lambda: Several([nn.Linear(6, 6), nn.ReLU()]),
    "dictionary": lambda: Named({"first": nn.Linear(6, 6), "last": nn.ReLU()}),
    "one within": lambda: nn.Sequential(Links(nn.Linear(6, 6), nn.ReLU()), nn.Linear(5, 5)),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_products_of_a_container_are_none_of_its_links(name):
    model, x = CONTAINERS[name]().eval(), torch.randn(3, 5, 6)
    traced = record(model, x)
    assert traced.products
    own = with_products(model, traced.products)
    assert staying_float(own, traced.layers) == ()
    assert own.state_dict().keys() == model.state_dict().keys()
    again = copy.deepcopy(model)
    apply(again, dict.fromkeys(traced.products, FORMATS), products=traced.products)
    result = again(x)
    assert not torch.equal(result, model(x))
    fresh = pickle.loads(pickle.dumps(again))
    assert torch.equal(fresh(x), result)
    for network in (own, restored := fresh):
        restore(network)
        assert torch.equal(network(x), model(x))
        assert list(map(type, network.modules())) == list(map(type, model.modules()))
    apply(restored, dict.fromkeys(traced.products, FORMATS), products=traced.products)
    assert torch.equal(restored(x), result)


def test_heads_are_blocked_apart():
    layer = Layer("scores", N=5, K=4 * 7, C=6, groups=4, weight_is_parameter=False)
    found = widths(layer, FORMATS)
    assert found.input == (5 * 6 + 2 * 3) / 6  # a row of 6 has a block of 4 and one of 2
    assert found.weight == (6 * 6 + 2 * 2) / 6
    assert found.output == (4 * 7 + 4) / 7
    assert layer.extents == {"input": 6, "weight": 6, "output": 7}
    assert weight_size(layer, WEIGHT) == weight_size(layer, None) == 0


def test_a_plan_of_another_network_is_told():
    model = Multiplying(lambda a, b: a @ b.mT)
    for call, path, message in (
        (Call("body", "matmul", 0), "body.matmul", "has no module 'body'"),
        (Call("left", "matmul", 0), "matmul", "cannot have a product"),
        (Call("", "matmul", 0), "left", "has another 'left'"),
        ("left.missing", "own", "has no parameter 'left.missing'"),
        ("left", "own", "has no parameter 'left'"),
        ("left.bias", "own", "cannot have a product 'own'"),
        ("left.weight", "left.forward", "has another 'forward'"),
    ):
        with pytest.raises(BitqError, match=message):
            apply(model, {path: FORMATS}, products={path: call})
    apply(model, {"matmul": FORMATS}, products={"matmul": Call("", "__matmul__", 1)})
    with pytest.raises(BitqError, match="'matmul' was never called"), in_formats(model):
        model(torch.zeros(3, 5, 6))
    other = Multiplying(lambda a, b: torch.einsum("btc,btc->btc", a, b))
    apply(other, {"einsum": FORMATS}, products={"einsum": Call("", "einsum", 0)})
    with pytest.raises(BitqError, match="einsum of module '' multiplies in another way"):
        other(torch.zeros(3, 5, 6))


class Inner(nn.Module):
    def forward(self, a, b):
        return a @ b.mT


class Learned(nn.Module):
    """As DETR's first decoder layer asks with learned queries."""

    def __init__(self):
        super().__init__()
        self.queries, self.key, self.inner = nn.Parameter(torch.randn(5, 6)), nn.Linear(6, 6), Inner()

    def forward(self, x):
        return self.inner(self.key(self.queries), self.key(x))


def test_a_product_by_what_follows_from_parameters_is_told():
    traced = record(Learned(), torch.zeros(3, 5, 6))
    (part,) = (part for part in staying_float(Learned(), traced.layers) if part.layers)
    assert (part.modules, traced.products) == (("inner",), {})
    assert "computed from parameters alone" in part.reason
    compiled = Learned()
    compiled.key = torch.compile(compiled.key, backend="eager")
    layers = record(compiled, torch.zeros(3, 5, 6)).layers
    reasons = {part.modules: part.reason for part in staying_float(compiled, layers)}
    assert "is wrapped by torch.compile" in reasons[("key",)]
