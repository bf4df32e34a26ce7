"""The classifiers that come with bitq are the published ones: keys, shapes, parameters and multiply-accumulates."""

import hashlib
import json

import pytest
import torch
from torch import nn

from bitq.networks import NETWORKS
from bitq.networks.eca_mobilenet import ChannelAttention
from bitq.networks.googlenet import MEAN, GoogLeNet
from bitq.tracing import trace

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
