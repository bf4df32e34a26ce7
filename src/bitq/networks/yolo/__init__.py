"""YOLO networks, with the keys of their checkpoints, whose batch norms may be folded: as `bitq.loading` takes them.

Parameters and operations are the published ones (github.com/ultralytics/ultralytics, table of YOLOv8 models: millions
of parameters, and twice the multiply-accumulates of an image of 640x640), to their digits. Of the networks with masks
the published operations count a transposed convolution four times, where it is computed once.
"""

from __future__ import annotations

from torch import nn

from bitq.networks.yolo.v8 import YoloV8


def yolov8n() -> nn.Module:
    """A fresh YOLOv8n for detection: 3,157,200 parameters, 4.372 billion multiply-accumulates an image."""
    return YoloV8("n")


def yolov8s() -> nn.Module:
    """A fresh YOLOv8s for detection: 11,166,560 parameters, 14.301 billion multiply-accumulates an image."""
    return YoloV8("s")


def yolov8m() -> nn.Module:
    """A fresh YOLOv8m for detection: 25,902,640 parameters, 39.468 billion multiply-accumulates an image."""
    return YoloV8("m")


def yolov8l() -> nn.Module:
    """A fresh YOLOv8l for detection: 43,691,520 parameters, 82.574 billion multiply-accumulates an image."""
    return YoloV8("l")


def yolov8x() -> nn.Module:
    """A fresh YOLOv8x for detection: 68,229,648 parameters, 128.902 billion multiply-accumulates an image."""
    return YoloV8("x")


def yolov8n_seg() -> nn.Module:
    """A fresh YOLOv8n with masks: 3,409,968 parameters, 6.001 billion multiply-accumulates an image."""
    return YoloV8("n", masks=True)


def yolov8s_seg() -> nn.Module:
    """A fresh YOLOv8s with masks: 11,821,056 parameters, 20.043 billion multiply-accumulates an image."""
    return YoloV8("s", masks=True)


def yolov8m_seg() -> nn.Module:
    """A fresh YOLOv8m with masks: 27,285,968 parameters, 52.269 billion multiply-accumulates an image."""
    return YoloV8("m", masks=True)


def yolov8l_seg() -> nn.Module:
    """A fresh YOLOv8l with masks: 45,997,728 parameters, 105.196 billion multiply-accumulates an image."""
    return YoloV8("l", masks=True)


def yolov8x_seg() -> nn.Module:
    """A fresh YOLOv8x with masks: 71,827,888 parameters, 164.178 billion multiply-accumulates an image."""
    return YoloV8("x", masks=True)
