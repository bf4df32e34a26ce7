"""The largest networks of the paper's evaluation are the published ones, and small ones of the same code compute it."""

import hashlib
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from bitq import TensorFormats, apply, parse_format
from bitq.accuracy.kinds import quantizable, staying_float
from bitq.accuracy.storing import with_products
from bitq.networks import INPUT_SHAPES, NETWORKS
from bitq.networks.maskdino import MaskDino
from bitq.networks.maskdino.queries import _around
from bitq.networks.onepeace import AdaptedTrunk, Cascade, MaskedSegmenter, OnePeace, SimplePyramid, WindowedTrunk
from bitq.networks.onepeace.trunk import PUBLISHED, TrunkSize
from bitq.networks.parts.deformable import DeformableAttention
from bitq.networks.resnet import ResNetMaps
from bitq.networks.swin import SwinMaps, WindowBlock
from bitq.tracing import record, trace


def digest(network):
    lines = (f"{key} {tuple(value.shape)} {value.dtype}" for key, value in network.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def test_onepeace_is_the_published_classifier():
    with torch.device("meta"):
        network = NETWORKS["onepeace"]()
        shallow = [OnePeace(size=PUBLISHED._replace(layers=layers)) for layers in (1, 2)]
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
    network = OnePeace(3, TrunkSize(16, 2, 24, 1), classes=5).eval()
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


def test_maskdino_has_the_published_size():
    with torch.device("meta"):
        networks = {name: NETWORKS[name]() for name in ("maskdino_r50", "maskdino_swin_l")}
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    assert counts == {"maskdino_r50": 52_090_644, "maskdino_swin_l": 222_358_408}
    # ResNet-50 without its classifier, as torchvision states it; Swin-L without its own (MMDetection: 195.2 million).
    backbones = [sum(p.numel() for p in network.backbone.parameters()) for network in networks.values()]
    assert backbones == [25_557_032 - 2_049_000, 195_201_204]
    layers = trace(networks["maskdino_r50"], torch.empty(INPUT_SHAPES["maskdino_r50"], device="meta"))
    assert sum(layer.macs for layer in layers) == 279_319_121_920  # published: 286 billion, a mean over images


def test_deformable_attention_reads_between_cells():
    torch.manual_seed(0)
    attention, sizes = DeformableAttention(width=4, heads=2, levels=2, points=3), [(4, 6), (2, 3)]
    for p in attention.parameters():
        nn.init.normal_(p, std=0.5)
    queries, memory = torch.randn(1, 2, 4), torch.randn(1, 30, 4)
    centres, spans = torch.rand(1, 2, 2), torch.rand(1, 2, 2, 2)
    with torch.no_grad():
        offsets = attention.sampling_offsets(queries).view(2, 2, 2, 3, 2).tolist()
        weights = attention.attention_weights(queries).view(2, 2, 6).softmax(-1).view(2, 2, 2, 3).tolist()
        values = attention.value_proj(memory).view(30, 2, 2).split([24, 6])
        mixed = torch.zeros(2, 2, 2)
        for query in range(2):
            for head, level, point in itertools.product(range(2), range(2), range(3)):
                (height, width), value = sizes[level], values[level][:, head]
                offset, weight = offsets[query][head][level][point], weights[query][head][level][point]
                x, y = (
                    (centres[0, query, axis].item() + offset[axis] * spans[0, query, level, axis].item()) * extent - 0.5
                    for axis, extent in ((0, width), (1, height))
                )
                for row, column in itertools.product(range(height), range(width)):
                    near = max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column))
                    mixed[query, head] += weight * near * value[row * width + column]
        expected = attention.output_proj(mixed.view(1, 2, 4))
        found = attention(queries, centres, spans, memory, sizes)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shift", [0, 1])
def test_windows_attend_within_themselves_and_not_over_edges(shift):
    torch.manual_seed(0)
    block, x = WindowBlock(width=4, heads=1, side=3, shift=shift), torch.randn(1, 5, 7, 4)
    rows, columns = 6, 9  # padded to whole windows
    tokens = list(itertools.product(range(rows), range(columns)))

    def window(row, column):
        moved = [(place - shift) % extent for place, extent in ((row, rows), (column, columns))]
        wrapped = [place < shift for place in (row, column)]
        return [place // 3 for place in moved], wrapped

    with torch.no_grad():
        y = functional.pad(block.norm1(x), (0, 0, 0, 2, 0, 1))[0]
        q, k, v = block.attn.qkv(y).split(4, -1)
        expected = x.clone()
        for row, column in itertools.product(range(5), range(7)):
            near = [token for token in tokens if window(*token) == window(row, column)]
            ways = [(row - r + 2) * 5 + column - c + 2 for r, c in near]
            bias = block.attn.relative_position_bias_table.weight[ways, 0]
            scores = torch.stack([q[row, column] @ k[token] for token in near]) / 2 + bias
            mixed = sum(p * v[token] for p, token in zip(scores.softmax(0), near, strict=True))
            expected[0, row, column] += block.attn.proj(mixed)
        expected = expected + block.mlp(block.norm2(expected))
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_boxes_lie_around_masks():
    masks = -torch.ones(1, 3, 4, 8)
    masks[0, 0, 1:3, 2:7] = 1
    masks[0, 1, 0, 0] = 1
    masks[0, 1, 3, 7] = 1
    expected = [[4.5 / 8, 2 / 4, 5 / 8, 2 / 4], [0.5, 0.5, 1, 1], [0, 0, 0, 0]]
    assert torch.equal(_around(masks), torch.tensor([expected]))


def test_maskdino_finds_objects_and_classes_of_pixels():
    torch.manual_seed(0)
    make, shape = SMALL["maskdino_r50"]
    network, images = make().eval(), torch.randn(2, *shape[1:])
    classes, boxes, masks = network(images)
    assert (classes.shape, boxes.shape, masks.shape) == ((2, 6, 5), (2, 6, 4), (2, 6, 16, 24))
    assert ((boxes >= 0) & (boxes <= 1)).all()
    network.training = True  # the norms stay as they are
    first, last = network(images)
    assert not torch.equal(first.boxes, boxes)
    assert all(torch.equal(*pair) for pair in zip(last, (classes, boxes, masks), strict=True))
    semantic, shape = SMALL["maskdino_swin_l_semantic"]
    assert semantic().eval()(torch.randn(shape)).shape == (1, 5, 64, 96)


DECODING = {"width": 32, "heads": 2, "points": 2, "hidden": 24, "layers": (1, 2)}
SMALL = {
    "onepeace": (lambda: OnePeace(2, TrunkSize(16, 2, 24, 2), classes=5), (1, 3, 32, 32)),
    "onepeace_detection": (
        lambda: Cascade(SimplePyramid(WindowedTrunk(TrunkSize(16, 2, 24, 4), 8, 4), 16, 8), 8, 16, 5, 12, 6),
        (1, 3, 128, 128),
    ),
    "onepeace_semantic": (
        lambda: MaskedSegmenter(AdaptedTrunk(TrunkSize(16, 2, 24, 4), 4, 4), 5, 6, 32, 2, 2, 24, (1, 4)),
        (2, 3, 64, 64),
    ),
    "maskdino_r50": (lambda: MaskDino(ResNetMaps((1, 1, 1, 1), 8), 5, 6, **DECODING), (1, 3, 64, 96)),
    "maskdino_swin_l_semantic": (
        lambda: MaskDino(SwinMaps(8, (2, 2, 2, 2), (1, 1, 2, 2), 3), 5, 6, True, **DECODING),
        (1, 3, 64, 96),
    ),
}
POSITIONS = {
    "onepeace": ("image_adapter",),
    "onepeace_detection": ("backbone.net.image_adapter",),
    "onepeace_semantic": ("backbone", "backbone.image_adapter", "pixel_decoder"),
    "maskdino_r50": ("pixel_decoder",),
    "maskdino_swin_l_semantic": ("pixel_decoder",),
}
"""Modules that stay float, since they hold no weight but what is added for positions."""
OF_PARAMETERS = {
    "onepeace_detection": ("backbone.net.embedding",),
    "onepeace_semantic": ("transformer_decoder.matmul", "transformer_decoder.layers.0.cross_attn.matmul"),
}
"""Layers that stay float, since what they read follows from parameters alone: scores of places, first queries."""


def outputs(y):
    return [y] if torch.is_tensor(y) else [tensor for each in y for tensor in outputs(each)]


@pytest.mark.parametrize("name", SMALL)
def test_every_product_takes_formats_and_all_learn_in_them(name):
    torch.manual_seed(0)
    make, shape = SMALL[name]
    network, images = make().eval(), torch.randn(shape)
    traced = record(network, images)
    children = with_products(network, traced.products)
    parts = staying_float(children, traced.layers)
    still = {layer for part in parts for layer in part.layers}
    assert still == set(OF_PARAMETERS.get(name, ()))
    assert {layer.module for layer in traced.layers if layer.name not in still} == set(quantizable(children))
    assert {path for part in parts if not part.layers for path in part.modules} == set(POSITIONS[name])
    before = outputs(network(images))
    fmt = parse_format("8:e3:b16")
    formats = dict.fromkeys(quantizable(children), TensorFormats(fmt, fmt, fmt))
    apply(network, formats, points=traced.points, products=traced.products)
    after = outputs(network(images))
    assert all(not torch.equal(x, y) and y.isfinite().all() for x, y in zip(before, after, strict=True))
    sum(y.square().mean() for y in outputs(network.train()(images))).backward()
    assert {key for key, p in network.named_parameters() if p.grad is None} == set()
    assert all(p.grad.isfinite().all() for p in network.parameters())
