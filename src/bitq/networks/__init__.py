"""Networks of the paper's evaluation, and two small ones with masks, as plain PyTorch.

They have the keys of published checkpoints, but for MaskDINO and the decoders of ONE-PEACE. Nothing is downloaded:
weights are random until a checkpoint is loaded. Every function takes no argument. Classifiers take images [n, 3, h, w],
normalized as is usual for ImageNet, and return logits [n, 1000]; what the other networks take and return say their
classes.
"""

from bitq.networks.convnext import convnext_large
from bitq.networks.eca_mobilenet import eca_mobilenet_v2
from bitq.networks.espnet import espnet
from bitq.networks.googlenet import googlenet
from bitq.networks.maskdino import maskdino_r50, maskdino_r50_semantic, maskdino_swin_l, maskdino_swin_l_semantic
from bitq.networks.onepeace import onepeace, onepeace_detection, onepeace_semantic
from bitq.networks.resnet import resnet18
from bitq.networks.yolo import (
    yolov5n_seg,
    yolov8l,
    yolov8l_seg,
    yolov8m,
    yolov8m_seg,
    yolov8n,
    yolov8n_seg,
    yolov8s,
    yolov8s_seg,
    yolov8x,
    yolov8x_seg,
)

_DETECTING = (yolov8n, yolov8s, yolov8m, yolov8l, yolov8x)
_WITH_MASKS = (yolov5n_seg, yolov8n_seg, yolov8s_seg, yolov8m_seg, yolov8l_seg, yolov8x_seg)
_BY_INPUT = {
    (1, 3, 224, 224): (resnet18, googlenet, eca_mobilenet_v2, convnext_large),
    (1, 3, 256, 256): (onepeace,),
    (1, 3, 360, 480): (espnet,),
    (1, 3, 512, 512): (maskdino_r50_semantic, maskdino_swin_l_semantic),
    (1, 3, 800, 1088): (maskdino_r50, maskdino_swin_l),
    (1, 3, 896, 896): (onepeace_semantic,),
    (1, 3, 1280, 1280): (onepeace_detection,),
    (1, 3, 640, 640): (*_DETECTING, *_WITH_MASKS),
}

NETWORKS = {make.__name__: make for makes in _BY_INPUT.values() for make in makes}
"""By name."""

INPUT_SHAPES = {make.__name__: shape for shape, makes in _BY_INPUT.items() for make in makes}
"""Of the input that their figures are published for, by name."""

__all__ = [
    "INPUT_SHAPES",
    "NETWORKS",
    "convnext_large",
    "eca_mobilenet_v2",
    "espnet",
    "googlenet",
    "maskdino_r50",
    "maskdino_r50_semantic",
    "maskdino_swin_l",
    "maskdino_swin_l_semantic",
    "onepeace",
    "onepeace_detection",
    "onepeace_semantic",
    "resnet18",
    "yolov5n_seg",
    "yolov8l",
    "yolov8l_seg",
    "yolov8m",
    "yolov8m_seg",
    "yolov8n",
    "yolov8n_seg",
    "yolov8s",
    "yolov8s_seg",
    "yolov8x",
    "yolov8x_seg",
]
