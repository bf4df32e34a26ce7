"""The ten pairs of network and task that the paper evaluates (its Table 1), and what it says of their energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from bitq.networks import INPUT_SHAPES, NETWORKS

CLASSIFICATION, DETECTION, INSTANCES, SEMANTIC = (
    "image classification",
    "object detection",
    "instance segmentation",
    "semantic segmentation",
)

CLAIMED = {
    CLASSIFICATION: (0.52, 0.30),
    DETECTION: (0.62, 0.25),
    INSTANCES: (0.58, 0.25),
    SEMANTIC: (0.33, 0.52),
}
"""What the paper's text claims by task: energy of BitQ16 over Original's, and of BitQ8 over BitQ16's."""

CLAIMED_OF_EIGHT = {CLASSIFICATION: 0.82, DETECTION: 0.87, INSTANCES: 0.83, SEMANTIC: 0.85}
"""And of BitQ8 over Original's."""


@dataclass(frozen=True)
class Pair:
    """A network and what it is for.

    Attributes:
        name: as in the paper, its suffix telling the task where that is needed.
        task: one of the four.
        make: the network, fresh.
        shape: of its input.
        note: how it differs from what the paper can have measured.
    """

    name: str
    task: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    note: str = ""


def _own(name: str, task: str, network: str, note: str = "") -> Pair:
    return Pair(name, task, NETWORKS[network], INPUT_SHAPES[network], note)


PAIRS = (
    _own("GoogLeNet", CLASSIFICATION, "googlenet"),
    _own("ResNet-18", CLASSIFICATION, "resnet18"),
    _own("ECA-MobileNetV2", CLASSIFICATION, "eca_mobilenet_v2"),
    _own("ConvNeXt-L", CLASSIFICATION, "convnext_large"),
    _own("YOLOv8_O", DETECTION, "yolov8n", "n, which has the paper's 37.3 AP"),
    _own("ONE-PEACE_O", DETECTION, "onepeace_detection", "which finds masks, too"),
    _own("YOLOv8_I", INSTANCES, "yolov8n_seg", "n, which has the paper's 30.5 AP"),
    _own("MaskDINO_I", INSTANCES, "maskdino_r50", "of ResNet-50, which has the paper's 46.3 AP"),
    _own("MaskDINO_S", SEMANTIC, "maskdino_r50_semantic", "of ResNet-50"),
    _own("ONE-PEACE_S", SEMANTIC, "onepeace_semantic", "of one crop"),
)
"""In the paper's order. It does not say at which sizes; these are those that the networks were published for."""
