"""Classifiers and ESPNet are the published ones: keys, shapes, parameters and multiply-accumulates."""

import hashlib
import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from bitq.accuracy.kinds import quantizable, staying_float
from bitq.networks import INPUT_SHAPES, NETWORKS
from bitq.networks.eca_mobilenet import ChannelAttention
from bitq.networks.espnet import Pyramid
from bitq.networks.googlenet import MEAN, GoogLeNet
from bitq.tracing import record, trace

DILATIONS = (1, 2, 4, 8, 16)  # of ESPNet

# Digests of "key shape type" lines of the published definitions' state dicts: torchvision 0.28.0, and for
# eca_mobilenet_v2 that of ECA-Net's authors as of their last commit. `published` is what they state: millions of
# parameters and, for torchvision, billions of multiply-accumulates.
EXPECTED = {
    "resnet18": {
        "digest": "82defb239f201f124804d912a50686e7",
        "parameters": 11_689_512,
        "macs": 1_814_073_344,
        "published": 1.814,
        "layers": 21,
    },
    "googlenet": {
        "digest": "8846cb9916e75830febef94ffc6c0377",
        "parameters": 6_624_904,
        "macs": 1_498_376_192,
        "published": 1.498,
        "layers": 58,
    },
    "eca_mobilenet_v2": {
        "digest": "748e31f781ffb45fc21bb4a859b2548e",
        "parameters": 3_504_903,
        "macs": 300_777_952,
        "published": 0.301,
        "layers": 70,
    },
    "convnext_large": {
        "digest": "b9c8798fb33e84678717bb327fc1c6ed",
        "parameters": 197_767_336,
        "macs": 34_361_433_600,
        "published": 34.361,
        "layers": 113,
    },
}


def digest(network: nn.Module) -> str:
    lines = (f"{key} {tuple(value.shape)} {value.dtype}" for key, value in network.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.fixture(scope="module", params=EXPECTED)
def named(request):
    """A network's name and the network without data."""
    with torch.device("meta"):
        return request.param, NETWORKS[request.param]().eval()


def test_keys_and_shapes_are_those_of_the_published_definition(named):
    name, network = named
    assert digest(network)[:32] == EXPECTED[name]["digest"]


def test_parameters_and_macs_are_the_published_ones(named):
    name, network = named
    expected = EXPECTED[name]
    run = {key: p.numel() for key, p in network.named_parameters() if not key.startswith("aux")}
    layers = trace(network, torch.empty(1, 3, 224, 224, device="meta"))
    assert sum(run.values()) == expected["parameters"]
    assert (len(layers), sum(layer.macs for layer in layers)) == (expected["layers"], expected["macs"])
    assert round(expected["macs"] / 1e9, 3) == expected["published"]
    weights = {key.removesuffix(".weight") for key, p in network.named_parameters() if p.dim() > 1 and key in run}
    assert {layer.name for layer in layers} == {key for key in weights if not key.endswith("layer_scale")}


def test_a_batch_of_any_size_gives_logits(named):
    name, network = named
    assert network(torch.empty(2, 3, 96, 64, device="meta")).shape == (2, 1000)
    batch = trace(network, torch.empty(3, 3, 224, 224, device="meta"))
    assert sum(layer.macs for layer in batch) == 3 * EXPECTED[name]["macs"]


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    network = NETWORKS["eca_mobilenet_v2"]()
    network(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() and p.grad.isfinite().all() for p in network.parameters())


def test_googlenet_sees_images_as_its_weights_were_trained():
    network = GoogLeNet().eval()
    seen = []
    network.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        network((pixels - torch.tensor(MEAN).view(3, 1, 1)) / deviation)
    assert torch.allclose(seen[0], (pixels - 0.5) / 0.5, atol=1e-6)


def test_espnet_is_the_published_one_and_takes_formats_everywhere():
    with torch.device("meta"):
        network = NETWORKS["espnet"]().eval()
    state = {key: tuple(value.shape) for key, value in network.state_dict().items() if "num_batches" not in key}
    lines = "\n".join(sorted(f"{key} {shape}" for key, shape in state.items()))
    traced = record(network, torch.empty(INPUT_SHAPES["espnet"], device="meta"))
    # Of a published checkpoint for CamVid, p = 2 and q = 8: its "key shape" lines in order.
    assert hashlib.sha256(lines.encode()).hexdigest()[:32] == "56d1e640215038569452355b0f7b3244"
    assert sum(p.numel() for p in network.parameters()) == 354_517
    assert sum(layer.macs for layer in traced.layers) == 1_335_320_100
    assert {layer.name for layer in traced.layers} == set(quantizable(network))
    assert staying_float(network, traced.layers) == ()
    assert network(torch.empty(2, 3, 64, 96, device="meta")).shape == (2, 12, 64, 96)


def test_espnet_joins_sums_of_its_dilations_and_learns():
    torch.manual_seed(0)
    network = NETWORKS["espnet"]()
    network(torch.rand(2, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    block, x = network.encoder.level2_0, torch.randn(1, 19, 12, 16)
    with torch.no_grad():
        y = block.c1(x)
        each = {d: functional.conv2d(y, getattr(block, f"d{d}").conv.weight, padding=d, dilation=d) for d in DILATIONS}
        joined = [each[1], each[2], each[2] + each[4], each[2] + each[4] + each[8], sum(each[d] for d in DILATIONS[1:])]
        torch.testing.assert_close(Pyramid.forward(block, x), torch.cat(joined, 1), rtol=1e-4, atol=1e-5)


def test_espnet_sees_images_as_its_weights_were_trained():
    network = NETWORKS["espnet"]().eval()
    seen = []
    network.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    shades = torch.randint(256, (1, 3, 16, 16)).double()
    with torch.no_grad():
        network((shades / 255).float())
    for place, (channel, mean, deviation) in enumerate(((2, 110.33, 72.13), (1, 108.41, 72.69), (0, 105.03, 69.90))):
        expected = (shades[:, channel] - mean) / deviation / 255
        assert torch.allclose(seen[0][:, place].double(), expected, atol=1e-6)


def test_channel_attention_scales_by_the_means_of_neighbours():
    torch.manual_seed(0)
    attention = ChannelAttention(3)
    images = torch.randn(2, 5, 4, 3)
    weight = attention.conv.weight.flatten().tolist()
    with torch.no_grad():
        scaled = attention(images)
    means = images.mean((2, 3))
    for image in range(2):
        for channel in range(5):
            near = [means[image, c].item() if 0 <= c < 5 else 0.0 for c in range(channel - 1, channel + 2)]
            score = sum(w * mean for w, mean in zip(weight, near, strict=True))
            expected = images[image, channel] * torch.sigmoid(torch.tensor(score))
            assert torch.allclose(scaled[image, channel], expected, atol=1e-6)


def test_movement_knows_the_networks_by_name_and_their_input(bitq):
    options = ("--device", "stm32h743", "--input-shape", "1,3,32,32", "--json")
    code, out, _ = bitq("movement", "eca_mobilenet_v2", *options)
    document = json.loads(out)
    assert code == 0
    with torch.device("meta"):
        network = NETWORKS["eca_mobilenet_v2"]()
    layers = trace(network, torch.empty(1, 3, 32, 32, device="meta"))
    assert [entry["name"] for entry in document["layers"]] == [layer.name for layer in layers]
    assert document["totals"]["macs"] == sum(layer.macs for layer in layers)


@pytest.mark.parametrize("name", ["resnet18", "bitq.networks:resnet18"])
def test_input_and_layers_of_a_known_network_need_no_shape(name):
    from bitq.cli.shapes import input_and_layers

    found = input_and_layers(name, None)
    assert found.shape == (1, 3, 224, 224)
    assert (found.stays_float, found.assumed) == ((), None)
    assert sum(layer.macs for layer in found.layers) == EXPECTED["resnet18"]["macs"]


def test_an_unknown_network_is_told_which_are_known(mistake):
    said = mistake("movement", "resnet19", "--device", "stm32h743")
    assert "give demo, resnet18, googlenet, eca_mobilenet_v2, convnext_large, " in said
