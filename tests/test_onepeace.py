"""ONE-PEACE finds objects and classes of pixels with the parts, the parameters and the products that were published."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import interpolate
from torch.utils.flop_counter import FlopCounterMode

from bitq.networks import NETWORKS
from bitq.networks.onepeace import AdaptedTrunk, Cascade, MaskedSegmenter, SimplePyramid, WindowedTrunk
from bitq.networks.onepeace.adapted import CellPerceptron
from bitq.networks.onepeace.regions import alone, anchors, likeliest, moved, overlaps, pooled
from bitq.networks.onepeace.segments import MaskedDecoder, MaskedLayer, _hidden
from bitq.networks.onepeace.trunk import TrunkSize
from bitq.networks.onepeace.windowed import PlacedAttention, SquareAdapter
from bitq.networks.parts.pixels import PixelDecoder
from bitq.networks.parts.squares import joined, split
from bitq.networks.swin import SwinMaps
from bitq.tracing import trace

SMALL = TrunkSize(width=16, heads=2, hidden=24, layers=4)


def detector(layers=4):
    trunk = WindowedTrunk(SMALL._replace(layers=layers), side=8, window=4)
    return Cascade(SimplePyramid(trunk, 16, 8), channels=8, hidden=16, classes=5, regions=12, found=6)


def segmenter():
    trunk = AdaptedTrunk(SMALL, side=4, prior=4)
    return MaskedSegmenter(trunk, classes=5, queries=6, width=32, heads=2, points=2, hidden=24, layers=(1, 4))


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def randomized(network, deviation=0.3):
    """With weights that no start leaves at nothing."""
    for p in network.parameters():
        nn.init.normal_(p, std=deviation)
    return network


def test_all_have_the_size_of_the_published_set_ups():
    with torch.device("meta"):
        counts = {name: parameters(NETWORKS[name]()) for name in ("onepeace_detection", "onepeace_semantic")}
    assert counts == {"onepeace_detection": 1_588_104_254, "onepeace_semantic": 1_822_911_511}


class Given(nn.Module):
    """A map of this width, of stride 16, as a trunk gives it."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x):
        return x.new_zeros(len(x), self.width, x.shape[2] // 16, x.shape[3] // 16) + x.mean()


# Li et al., "Exploring Plain Vision Transformer Backbones", 2022, Table 9: millions of parameters, trillions of
# multiply-accumulates of an image of 1024x1024. Of ViT-H it has 692 million.
@pytest.mark.parametrize(
    ("width", "depth", "heads", "millions", "trillions"),
    [(768, 12, 12, 141, 1.1), (1024, 24, 16, 361, 2.1), (1280, 32, 16, 691, 3.6)],
)
def test_pyramid_and_heads_on_vit_are_the_published_ones(width, depth, heads, millions, trillions):
    with torch.device("meta"):
        rest = Cascade(SimplePyramid(Given(width), width, 256)).eval()
    tokens, side, whole, window = 64 * 64, 64, 4, 14
    padded, patches = 25 * window**2, 16 * 16 * 3
    layer = 12 * width**2 + 13 * width
    own = depth * layer + (patches + 1 + 197) * width
    own += (whole * (2 * side - 1) + (depth - whole) * (2 * window - 1)) * 2 * width // heads
    assert round((own + parameters(rest)) / 1e6) == millions
    macs = patches * width * tokens + depth * 8 * width**2 * tokens
    for layers, places, span, reach in ((whole, tokens, tokens, side), (depth - whole, padded, window**2, window)):
        macs += layers * places * width * (4 * width + 2 * span + 2 * reach)
    counted = sum(layer.macs for layer in trace(rest, torch.empty(1, 3, 1024, 1024, device="meta")))
    assert round((macs + counted) / 1e12, 1) == trillions


def test_masked_decoder_on_swin_is_the_published_one():
    with torch.device("meta"):
        backbone = SwinMaps()
        pixels = PixelDecoder(backbone.channels, 256, 8, 4, 1024, 6, coarser=False)
        queries = MaskedDecoder(256, 8, 2048, layers=9, queries=100, classes=19)
    # Mask2Former's Swin-L for Cityscapes, as told at github.com/jan-ackermann/Maskomaly/issues/5.
    assert sum(map(parameters, (backbone, pixels, queries))) == 215_455_112


# github.com/czczup/ViT-Adapter, table of ADE20K: millions of parameters of BEiT-L with its adapter and Mask2Former.
@pytest.mark.parametrize(("side", "millions"), [(40, 568), (56, 571)])
def test_adapter_and_decoder_on_beit_are_the_published_ones(side, millions):
    width, depth, heads = 1024, 24, 16
    with torch.device("meta"):
        network = MaskedSegmenter(AdaptedTrunk(TrunkSize(width, heads, 4 * width, layers=0), side, prior=64))
    rest = parameters(network) - parameters(network.backbone.image_adapter)
    layer = 12 * width**2 + 14 * width + heads * ((2 * side - 1) ** 2 + 3)
    assert round((rest + depth * layer + (16 * 16 * 3 + 2) * width) / 1e6) == millions


@pytest.mark.parametrize(("make", "shape"), [(detector, (2, 3, 128, 128)), (segmenter, (2, 3, 64, 64))])
def test_products_are_those_that_torch_counts(make, shape):
    torch.manual_seed(0)
    network, images = make().eval(), torch.randn(shape)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(images)
    with torch.device("meta"):
        hollow = make().eval()
    layers = trace(hollow, torch.empty(shape, device="meta"))
    assert 2 * sum(layer.macs for layer in layers) == counter.get_total_flops()


def test_windows_are_squares_and_come_back():
    x = torch.arange(2 * 4 * 6).view(2, 4, 6, 1)
    windows = split(x, 2)
    assert windows.shape == (12, 4, 1)
    assert windows[1].flatten().tolist() == [2, 3, 8, 9]
    assert torch.equal(joined(windows, 2, (4, 6)), x)


@pytest.mark.parametrize(("layers", "apart"), [(3, True), (4, False)])
def test_only_every_fourth_layer_looks_beyond_its_window(layers, apart):
    torch.manual_seed(0)
    trunk = randomized(WindowedTrunk(SMALL._replace(layers=layers), side=8, window=4).eval())
    images = torch.randn(1, 3, 128, 128)
    others = images.clone()
    others[:, :, :16, :16] += 1
    with torch.no_grad():
        changed = (trunk(images) != trunk(others)).any(1)[0]
    assert changed[:4, :4].all()
    assert changed[4:].any() != apart
    assert changed[:, 4:].any() != apart


def test_attention_adds_what_queries_score_rows_and_columns_between():
    torch.manual_seed(0)
    side, attention = 3, randomized(PlacedAttention(8, 2, 3))
    q, k, bias = torch.randn(1, 2, 9, 4), torch.randn(1, 2, 9, 4), torch.randn(2, 9, 9)
    with torch.no_grad():
        scores = attention.scores(q, k, bias)
        for one, other in ((0, 8), (5, 1), (4, 4)):
            down, right = (a - b + side - 1 for a, b in zip(divmod(one, side), divmod(other, side), strict=True))
            for head in range(2):
                query = q[0, head, one]
                expected = query @ k[0, head, other] / 2 + bias[head, one, other]
                expected += query @ (attention.rel_pos_h[down] + attention.rel_pos_w[right])
                torch.testing.assert_close(scores[0, head, one, other], expected)


def test_scores_of_places_are_stretched_to_larger_squares():
    adapter = SquareAdapter(8, 2, side=4, pretrained=2)
    learnt = adapter.rel_pos_table.weight.detach()
    with torch.no_grad():
        near, wide = adapter.bias(2), adapter.bias(4)
    assert (near.shape, wide.shape) == ((2, 4, 4), (2, 16, 16))
    assert torch.equal(near[:, 0, 3], learnt[0])  # from the last row and column to the first: the least of all ways
    assert torch.equal(near[:, 3, 3], learnt[4])
    stretched = interpolate(learnt[:9].mT.reshape(1, 2, 3, 3), size=(7, 7), mode="bicubic")[0]
    torch.testing.assert_close(wide[:, 5, 10], stretched[:, 3 - 1, 3 - 1])
    torch.testing.assert_close(wide[:, 12, 3], stretched[:, 3 + 3, 3 - 3])


def boxes_of(count, extent=60.0):
    corner = torch.rand(1, count, 2) * extent
    return torch.cat([corner, corner + 8 + torch.rand(1, count, 2) * 40], -1)


def _some(box):
    return box[2] > box[0] and box[3] > box[1]


def shared(one, other):
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    area = max(width, 0) * max(height, 0)
    return area / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - area)


@pytest.mark.parametrize("overlap", [0.2, 0.5, 0.7])
def test_a_box_is_alone_if_none_before_it_that_is_overlaps_it(overlap):
    torch.manual_seed(0)
    boxes = boxes_of(120)
    boxes[0, 7, 2] = boxes[0, 7, 0]
    kept = []
    for number, box in enumerate(boxes[0].tolist()):
        if number != 7 and all(shared(box, boxes[0, other].tolist()) <= overlap for other in kept):
            kept.append(number)
    assert 1 < len(kept) < 120
    assert alone(boxes, overlap)[0].nonzero().flatten().tolist() == kept


def test_boxes_lose_the_share_that_likelier_ones_of_their_kind_overlap():
    torch.manual_seed(0)
    boxes, kinds = boxes_of(40, 30.0), torch.randint(2, (1, 40))
    scores = torch.rand(1, 40)
    places, found = likeliest(boxes, scores, kinds, 15, 0.3)
    left = dict(enumerate(scores[0].tolist()))
    for place, score in zip(places[0].tolist(), found[0].tolist(), strict=True):
        assert place == max(left, key=left.get)
        assert score == pytest.approx(left.pop(place))
        for other in left:
            by = shared(boxes[0, place].tolist(), boxes[0, other].tolist())
            if kinds[0, other] == kinds[0, place] and by > 0.3:
                left[other] *= 1 - by


def test_anchors_lie_around_corners_of_cells():
    (found,) = anchors([torch.empty(1, 1, 2, 3)], [4])
    assert found.shape == (18, 4)
    assert found[3 * 5 + 1].tolist() == [8 - 16, 4 - 16, 8 + 16, 4 + 16]
    sides = found[:3, 2:] - found[:3, :2]
    assert torch.allclose(sides.prod(-1), torch.tensor(32.0**2))
    assert torch.allclose(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1, 2]))


def test_boxes_move_by_their_sides_and_stay_inside():
    box = torch.tensor([[10.0, 20, 30, 60]])
    by = torch.tensor([[5.0, -10, 5 * torch.tensor(2.0).log(), 0]])
    assert torch.allclose(moved(box, by, (10, 5), (100, 200)), torch.tensor([[10.0, 0, 50, 20]]))
    assert moved(box, torch.tensor([[0.0, 0, 99, 99]]), (1, 1), (100, 200)).tolist() == [[0, 0, 200, 100]]
    assert overlaps(torch.zeros(1, 2, 4)).isfinite().all()


def test_regions_are_read_between_cells_of_the_map_that_suits_them():
    height, width, side = 512, 768, 7
    maps = []
    for level, stride in enumerate((4, 8, 16, 32)):
        row, column = ((torch.arange(extent // stride) + 0.5) * stride for extent in (height, width))
        both = torch.broadcast_tensors(row[:, None], column)
        maps.append(torch.stack([*both, torch.full_like(both[0], float(level))])[None])
    boxes = torch.tensor([[[100.0, 60, 140, 110], [40, 40, 290, 290], [33, 20, 753, 500]]])
    found = pooled(maps, boxes, side).view(1, 3, 3, side, side)[0]
    assert found[:, 2].amax((1, 2)).tolist() == found[:, 2].amin((1, 2)).tolist() == [0, 2, 3]
    steps = (torch.arange(side) + 0.5) / side
    for region, (left, upper, right, lower) in zip(found, boxes[0].tolist(), strict=True):
        torch.testing.assert_close(region[0, :, 0], upper + steps * (lower - upper))
        torch.testing.assert_close(region[1, 0], left + steps * (right - left))


def test_detectors_find_boxes_classes_and_masks():
    torch.manual_seed(0)
    network, images = randomized(detector()).eval(), torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        found = network(images)
        alone_found = network(images[1:])
        network.train()
        scored = network(images)
    boxes, classes, scores, masks = found
    assert (boxes.shape, classes.shape, scores.shape, masks.shape) == ((2, 6, 4), (2, 6), (2, 6), (2, 6, 28, 28))
    assert ((boxes >= 0) & (boxes <= 128)).all()
    assert ((classes >= 0) & (classes < 5)).all()
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    torch.testing.assert_close(tuple(each[1:] for each in found), tuple(alone_found), rtol=1e-3, atol=1e-4)
    cells = 3 * sum((128 // stride) ** 2 for stride in (4, 8, 16, 32, 64))
    assert (scored.objectness.shape, scored.moves.shape) == ((2, cells), (2, cells, 4))
    assert [(told.shape, by.shape) for told, by in scored.stages] == [((2, 12, 6), (2, 12, 4))] * 3
    own = scored.masks.gather(2, classes[..., None, None, None].expand(-1, -1, 1, 28, 28))[:, :, 0]
    assert torch.equal(own, masks)


def test_regions_are_proposed_and_refined_three_times():
    torch.manual_seed(0)
    network, images = randomized(detector(), 0.1), torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        scored, found, maps = network(images), network.eval()(images), network.backbone(images)
        levels = [*maps, maps[-1][:, :, ::2, ::2]]
        places = anchors(levels, [4, 8, 16, 32, 64])
        proposed = []
        counts = [len(each) for each in places]
        scores, moves = scored.objectness[0].split(counts), scored.moves[0].split(counts)
        for own, score, by in zip(places, scores, moves, strict=True):
            kept = []
            for place in score.topk(min(12, len(score))).indices:
                box = moved(own[place], by[place], (1, 1), (128, 128)).tolist()
                if _some(box) and all(shared(box, other) <= 0.7 for _, other in kept):
                    kept.append((score[place].item(), box))
            proposed += kept
        boxes = torch.tensor([[box for _, box in sorted(proposed, reverse=True)[:12]]])
        probabilities = 0
        for head, told, weights in zip(network.box_head, scored.stages, ((10, 5), (20, 10), (30, 15)), strict=True):
            again = head(pooled(maps, boxes, 7))
            torch.testing.assert_close(tuple(each[0] for each in told), again, rtol=1e-3, atol=1e-3)
            probabilities = probabilities + again[0].softmax(-1)[:, :5] / 3
            boxes = moved(boxes, again[1], weights, (128, 128))
        all_kinds = torch.arange(5).repeat(12)[None]
        every = boxes.repeat_interleave(5, 1)
        best, likely = likeliest(every, probabilities.flatten()[None], all_kinds, 6, 0.6)
    torch.testing.assert_close(found.scores, likely, rtol=1e-3, atol=1e-4)
    assert torch.equal(found.classes, all_kinds.gather(1, best))
    torch.testing.assert_close(found.boxes, every[:, best[0]], rtol=1e-3, atol=1e-2)


def test_queries_see_cells_within_their_masks_alone():
    torch.manual_seed(0)
    masks = -torch.ones(1, 2, 8, 8)
    masks[0, 0, :4, :4] = 1
    hidden = _hidden(masks, (4, 4))
    assert hidden[0, 0].view(4, 4).tolist() == [[row > 1 or column > 1 for column in range(4)] for row in range(4)]
    assert not hidden[0, 1].any()  # who would see nothing sees all
    layer = randomized(MaskedLayer(8, 2, 12)).eval()
    with torch.no_grad():
        layer.self_attn.out_proj.weight.zero_()  # the other query sees all
        x, positions, memory, places = (torch.randn(1, n, 8) for n in (2, 2, 16, 16))
        before = layer(x, positions[0], memory, places, hidden)
        memory[:, -1] += 5
        after = layer(x, positions[0], memory, places, hidden)
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.equal(before[:, 1], after[:, 1])


def test_filters_of_cells_stay_within_their_map():
    torch.manual_seed(0)
    perceptron, sizes = randomized(CellPerceptron(8)), [(2, 3), (1, 2)]
    x = torch.randn(1, 8, 8)
    others = x.clone()
    others[:, 6:] += 1
    with torch.no_grad():
        before, after = perceptron(x, sizes), perceptron(others, sizes)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.equal(before[:, 6:], after[:, 6:])


def test_adapted_trunks_give_four_maps_and_segmenters_probabilities():
    torch.manual_seed(0)
    network, images = randomized(segmenter()).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = network.backbone(images)
        told = network(images)
        network.train()
        for norm in (part for part in network.modules() if isinstance(part, nn.BatchNorm2d)):
            norm.eval()
        classes, masks = network(images)
    assert [each.shape for each in maps] == [(2, 16, side, side) for side in (16, 8, 4, 2)]
    assert (classes.shape, masks.shape) == ((2, 6, 6), (2, 6, 16, 16))
    mixed = torch.einsum("nqc,nqhw->nchw", classes.softmax(-1)[..., :5], masks.sigmoid())
    expected = interpolate(mixed, size=(64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(told, expected)
