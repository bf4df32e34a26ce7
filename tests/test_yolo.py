"""YOLO networks are the published ones, load folded checkpoints, decode what they say, and take formats everywhere."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bitq import TensorFormats, apply, fold, parse_format
from bitq.accuracy.kinds import quantizable, staying_float
from bitq.loading import load_checkpoint
from bitq.networks import INPUT_SHAPES, NETWORKS
from bitq.networks.yolo.v5 import ANCHORS
from bitq.tracing import record, trace
from bitq.tradeoff.weights import load_into, save_weights

# Digests of "key shape type" lines of the published definitions' state dicts (ultralytics 8.2.0; of YOLOv5 of our own,
# which a published checkpoint fits). Published: millions of parameters, and billions of operations, which are twice the
# multiply-accumulates.
PUBLISHED = {
    "yolov5n_seg": ("ef81dcf21fc6b1e42f3565e157c940e7", 2.0, 7.1),
    "yolov8n": ("23a3c8ac24d751968929a37198d6ba06", 3.2, 8.7),
    "yolov8s": ("1ea57042bb07049b5aa133f4395c7b87", 11.2, 28.6),
    "yolov8m": ("2b00259a40e51d69d5159abdb32e2f4b", 25.9, 78.9),
    "yolov8l": ("553043ec21af99792a7f3e0db7e60e75", 43.7, 165.2),
    "yolov8x": ("81618c54de5566bf1de53154d815b7df", 68.2, 257.8),
    "yolov8n_seg": ("bd81a25b23ebecd545595e4118785e55", 3.4, 12.6),
    "yolov8s_seg": ("87cac535a80a52fc87970ae58d328d99", 11.8, 42.6),
    "yolov8m_seg": ("6840f969686654717dd2bde284f39844", 27.3, 110.2),
    "yolov8l_seg": ("52b65b2401426bee787dcb6036a1110a", 46.0, 220.5),
    "yolov8x_seg": ("f3b37b49de2d61395a029b7b81c7d222", 71.8, 344.1),
}


def meta(name):
    with torch.device("meta"):
        return NETWORKS[name]().eval()


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_shapes_and_parameters_are_the_published_ones(name):
    network = meta(name)
    lines = (f"{key} {tuple(value.shape)} {value.dtype}" for key, value in network.state_dict().items())
    parameters = sum(p.numel() for p in network.parameters())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32] == PUBLISHED[name][0]
    assert round(parameters / 1e6, 1) == PUBLISHED[name][1]


@pytest.mark.parametrize("name", ["yolov5n_seg", "yolov8n", "yolov8x", "yolov8n_seg"])
def test_operations_are_the_published_ones(name):
    layers = trace(meta(name), torch.empty(INPUT_SHAPES[name], device="meta"))
    counted = sum((4 if layer.transposed else 1) * layer.macs for layer in layers)  # as published, see the package
    assert round(2 * counted / 1e9, 1) == PUBLISHED[name][2]


@pytest.fixture
def alive():
    """A small network whose norms have statistics, and images."""
    torch.manual_seed(0)

    def make(name):
        network = NETWORKS[name]().eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.3, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.uniform_(module.bias, -0.3, 0.3)
        return network

    return make, torch.rand(2, 3, 64, 96)


def test_predictions_are_what_the_maps_say(alive):
    make, images = alive
    network = make("yolov8n")
    with torch.no_grad():
        for p in network.model["22"].parameters():
            if p.dim() == 1:
                p.add_(torch.randn_like(p))
        predictions, known = network(images)
        for module in (network, network.model["22"]):  # the norms stay as they are
            module.training = True
        maps = network(images)
    assert all(map(torch.equal, maps, known))
    assert [tuple(x.shape) for x in maps] == [(2, 144, 8, 12), (2, 144, 4, 6), (2, 144, 2, 3)]
    assert predictions.shape == (2, 84, 8 * 12 + 4 * 6 + 2 * 3)
    place = 0
    for x, stride in zip(maps, (8, 16, 32), strict=True):
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                scores = x[1, :, row, column].double()
                bins = scores[:64].view(4, 16).exp()
                left, top, right, bottom = [
                    stride * sum(i * p for i, p in enumerate(side.tolist())) / side.sum().item() for side in bins
                ]
                x0, x1 = stride * (column + 0.5) - left, stride * (column + 0.5) + right
                y0, y1 = stride * (row + 0.5) - top, stride * (row + 0.5) + bottom
                box = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
                found = predictions[1, :, place]
                assert torch.allclose(found[:4], box, rtol=1e-4, atol=1e-3)
                assert torch.allclose(found[4:], scores[64:].sigmoid().float(), atol=1e-5)
                place += 1


def test_masks_come_with_prototypes(alive):
    make, images = alive
    network = make("yolov8n_seg")
    predictions, (maps, mixtures, prototypes) = network(images)
    assert torch.equal(predictions[:, 84:], mixtures)
    assert (predictions.shape, prototypes.shape) == ((2, 116, 126), (2, 32, 16, 24))
    assert ([x.shape[1] for x in maps], mixtures.shape) == ([144] * 3, (2, 32, 126))
    assert [x.shape for x in network.train()(images)[1:]] == [mixtures.shape, prototypes.shape]


def test_predictions_lie_beside_anchor_boxes(alive):
    make, images = alive
    network = make("yolov5n_seg")
    with torch.no_grad():
        maps: list[torch.Tensor] = []
        hooks = [each.register_forward_hook(lambda _, __, x: maps.append(x)) for each in network.model["24"].m]
        predictions, prototypes = network(images)
        for hook in hooks:
            hook.remove()
    assert (predictions.shape, prototypes.shape) == ((2, 116, 3 * 126), (2, 32, 16, 24))
    place = 0
    for x, stride, anchors in zip(maps, (8, 16, 32), ANCHORS, strict=True):
        for number, (across, down) in enumerate(anchors):
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    told = x[1, 117 * number : 117 * (number + 1), row, column]
                    y = told.sigmoid().tolist()
                    box = [(column + 2 * y[0] - 0.5) * stride, (row + 2 * y[1] - 0.5) * stride]
                    box += [across * (2 * y[2]) ** 2, down * (2 * y[3]) ** 2]
                    found = predictions[1, :, place]
                    assert torch.allclose(found[:4], torch.tensor(box), rtol=1e-4, atol=1e-3)
                    assert torch.allclose(found[4:84], y[4] * told[5:85].sigmoid(), atol=1e-6)
                    assert torch.equal(found[84:], told[85:])
                    place += 1


@pytest.mark.parametrize("name", ["yolov5n_seg", "yolov8n", "yolov8n_seg"])
def test_a_folded_checkpoint_is_the_same_network(alive, tmp_path, name):
    make, images = alive
    network = make(name)
    norms = {path for path, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    with torch.no_grad():
        expected = network(images)
        assert set(fold(network, images).values()) == norms
        save_file(network.state_dict(), tmp_path / "folded.safetensors")
        loaded = NETWORKS[name]().eval()
        load_checkpoint(loaded, tmp_path / "folded.safetensors")
        assert loaded.state_dict().keys() == network.state_dict().keys()
        torch.testing.assert_close(loaded(images), expected, rtol=1e-4, atol=1e-4)


def test_the_packed_weights_of_a_folded_network_come_back(alive, tmp_path):
    make, images = alive
    network = make("yolov8n")
    fmt = parse_format("8:e3:b16")
    fold(network, images)
    formats = dict.fromkeys(quantizable(network), TensorFormats(None, fmt, None))
    save_weights(tmp_path / "weights.safetensors", network, formats)
    apply(network, formats)
    loaded = NETWORKS["yolov8n"]().eval()
    load_into(loaded, tmp_path / "weights.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(images)[0], network(images)[0])


def test_every_layer_takes_formats_and_trains_in_them(alive):
    make, images = alive
    network = make("yolov8n_seg")
    traced = record(network, images)
    assert {layer.name for layer in traced.layers} == set(quantizable(network))
    assert staying_float(network, traced.layers) == ()
    before = network(images)[0]
    fmt = parse_format("8:e3:b16")
    apply(network, dict.fromkeys(quantizable(network), TensorFormats(fmt, fmt, fmt)), points=traced.points)
    after = network(images)[0]
    assert 0 < (after - before).norm() < 0.1 * before.norm()
    maps, mixtures, prototypes = network.train()(images)
    sum(x.square().mean() for x in (*maps, mixtures, prototypes)).backward()
    trained = {key: p for key, p in network.named_parameters() if p.requires_grad}
    assert network.state_dict().keys() - trained.keys() >= {"model.22.dfl.conv.weight"}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())
