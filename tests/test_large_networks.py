"""The largest networks of the paper's evaluation are the published ones, and small ones of the same code compute it."""

import hashlib

import pytest
import torch

from bitq import TensorFormats, apply, parse_format
from bitq.accuracy.kinds import quantizable, staying_float
from bitq.accuracy.storing import with_products
from bitq.networks import INPUT_SHAPES, NETWORKS
from bitq.networks.maskdino import MaskDino
from bitq.networks.onepeace import OnePeace
from bitq.networks.resnet import ResNetMaps
from bitq.networks.swin import SwinMaps
from bitq.tracing import record, trace


def digest(network):
    lines = (f"{key} {tuple(value.shape)} {value.dtype}" for key, value in network.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def test_onepeace_is_the_published_classifier():
    with torch.device("meta"):
        network, *shallow = NETWORKS["onepeace"](), OnePeace(layers=1), OnePeace(layers=2)
    parameters = {key: p.numel() for key, p in network.named_parameters()}
    adapter, attention, perceptrons = (
        sum(count for key, count in parameters.items() if part in key)
        for part in ("image_adapter", "self_attn.", "image_ffn")
    )
    assert digest(network) == "2912c8795638e8708a74f972b65561e1"  # of the definition that its authors published
    assert (round(adapter / 1e6, 1), round(attention / 1e6), round(perceptrons / 1e9, 2)) == (3.4, 378, 1.13)  # Table 1
    assert sum(parameters.values()) == 1_516_109_128
    images = torch.empty(INPUT_SHAPES["onepeace"], device="meta")
    one, two = (sum(layer.macs for layer in trace(each, images)) for each in shallow)
    assert one + 39 * (two - one) == 397_458_100_224


def test_onepeace_attends_with_scores_of_how_tokens_lie():
    torch.manual_seed(0)
    network = OnePeace(side=3, width=16, heads=2, hidden=24, layers=1, classes=5).eval()
    tokens, bias = network.image_adapter(torch.randn(2, 3, 48, 48))
    attention = network.encoder.layers[0].self_attn
    table = network.image_adapter.rel_pos_table.weight
    assert bias.shape == (2, 10, 10)
    places = [divmod(token, 3) for token in range(9)]
    for one, (row, column) in enumerate(places):
        for other, (other_row, other_column) in enumerate(places):
            way = (row - other_row + 2) * 5 + column - other_column + 2
            assert torch.equal(bias[:, 1 + one, 1 + other], table[way])
    for place, way in (((0, 4), 25), ((4, 0), 26), ((0, 0), 27)):
        assert torch.equal(bias[(slice(None), *place)], table[way])
    with torch.no_grad():
        q, k, v = (each(tokens).double() for each in (attention.q_proj, attention.k_proj, attention.v_proj))
        mixed = torch.zeros(2, 10, 16, dtype=torch.double)
        for head in range(2):
            own = slice(8 * head, 8 * head + 8)
            scores = torch.einsum("nic,njc->nij", q[..., own], k[..., own]) / 8**0.5 + bias[head].double()
            mixed[..., own] = torch.einsum("nij,njc->nic", scores.softmax(-1), v[..., own])
        expected = attention.out_proj(attention.ln(mixed.float()))
        torch.testing.assert_close(attention(tokens, bias), expected, rtol=1e-4, atol=1e-5)


DECODING = {"width": 32, "heads": 2, "points": 2, "hidden": 24, "layers": (1, 2)}
SMALL = {
    "onepeace": (lambda: OnePeace(side=2, width=16, heads=2, hidden=24, layers=2, classes=5), (1, 3, 32, 32)),
    "maskdino_r50": (lambda: MaskDino(ResNetMaps((1, 1, 1, 1), 8), 5, 6, **DECODING), (1, 3, 64, 96)),
    "maskdino_swin_l_semantic": (
        lambda: MaskDino(SwinMaps(8, (2, 2, 2, 2), (1, 1, 2, 2), 3), 5, 6, True, **DECODING),
        (1, 3, 64, 96),
    ),
}
POSITIONS = {"onepeace": ("image_adapter",), "maskdino_r50": ("pixel_decoder",), "maskdino_swin_l_semantic": ("pixel_decoder",)}
"""Modules that stay float, since they hold no weight but what is added for positions."""


def outputs(y):
    return [y] if torch.is_tensor(y) else [tensor for each in y for tensor in outputs(each)]


@pytest.mark.parametrize("name", SMALL)
def test_every_product_takes_formats_and_all_learn_in_them(name):
    torch.manual_seed(0)
    make, shape = SMALL[name]
    network, images = make().eval(), torch.randn(shape)
    traced = record(network, images)
    children = with_products(network, traced.products)
    assert {layer.module for layer in traced.layers} == set(quantizable(children))
    assert [part.layers for part in staying_float(children, traced.layers)] in ([], [()])
    assert [part.modules for part in staying_float(children, traced.layers)] == [POSITIONS[name]]
    before = outputs(network(images))
    fmt = parse_format("8:e3:b16")
    formats = dict.fromkeys(quantizable(children), TensorFormats(fmt, fmt, fmt))
    apply(network, formats, points=traced.points, products=traced.products)
    after = outputs(network(images))
    assert all(not torch.equal(x, y) and y.isfinite().all() for x, y in zip(before, after, strict=True))
    sum(y.square().mean() for y in outputs(network.train()(images))).backward()
    assert {key for key, p in network.named_parameters() if p.grad is None} == set()
    assert all(p.grad.isfinite().all() for p in network.parameters())
