"""Networks of the paper's evaluation as plain PyTorch, one file each, with the keys of the published checkpoints.

Nothing is downloaded: weights are random until a checkpoint is loaded. Every function takes no argument and returns
a network from images [n, 3, h, w], normalized as is usual for ImageNet and published at 224x224, to logits [n, 1000].
"""

from bitq.networks.convnext import convnext_large
from bitq.networks.eca_mobilenet import eca_mobilenet_v2
from bitq.networks.googlenet import googlenet
from bitq.networks.resnet import resnet18

NETWORKS = {
    "resnet18": resnet18,
    "googlenet": googlenet,
    "eca_mobilenet_v2": eca_mobilenet_v2,
    "convnext_large": convnext_large,
}

__all__ = ["NETWORKS", "convnext_large", "eca_mobilenet_v2", "googlenet", "resnet18"]
