"""MaskDINO (Li et al., "Mask DINO: Towards a Unified Transformer-Based Framework", 2023), of ResNet-50 and Swin-L.

Instances of COCO's 80 classes with 300 queries, or ADE20K's 150 classes of pixels with 100. Four maps, 6 layers that
refine them, 9 that refine queries, perceptrons of 2048 channels: the paper's network of 52 million parameters. What
only its training computes is left out: queries made of noised answers, and what the layers between would answer. The
paper leaves open how modules are called: these names are our own, and no published checkpoint fits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitq.networks.maskdino.queries import Queried, QueryDecoder
from bitq.networks.parts.pixels import PixelDecoder
from bitq.networks.resnet import ResNetMaps
from bitq.networks.swin import SwinMaps

TEMPERATURE = 0.06  # of the classes of queries where they are mixed to classes of pixels


class MaskDino(nn.Module):
    """Queried in images [n, 3, h, w], normalized as is usual for ImageNet, height and width multiples of 32.

    In evaluation what the last layer found; or, for pixels, scores [n, classes, h, w]. In training a list of `Queried`:
    for objects what the cells tell, and then what the last layer does.

    Args:
        backbone: gives maps of strides 4, 8, 16 and 32, of `channels` channels each.
        classes: that objects or pixels can be of.
        queries: how many objects or segments are looked for.
        of_pixels: whether pixels get classes, not objects masks.
        width, heads, points, hidden: channels, heads and places of the attention, channels within the perceptrons.
        layers: how often cells and queries are refined.
    """

    def __init__(
        self,
        backbone: ResNetMaps | SwinMaps,
        classes: int = 80,
        queries: int = 300,
        of_pixels: bool = False,
        width: int = 256,
        heads: int = 8,
        points: int = 4,
        hidden: int = 2048,
        layers: tuple[int, int] = (6, 9),
    ) -> None:
        super().__init__()
        self.of_pixels = of_pixels
        self.backbone = backbone
        self.pixel_decoder = PixelDecoder(backbone.channels, width, heads, points, hidden, layers[0], coarser=True)
        self.predictor = QueryDecoder(
            width, heads, 4, points, hidden, layers[1], queries, classes, masks_first=not of_pixels
        )

    def forward(self, x: Tensor) -> Any:
        """See the class."""
        found = self.predictor(*self.pixel_decoder(self.backbone(x)))
        if self.training:
            return found
        return _classes_of_pixels(found[-1], x) if self.of_pixels else found[-1]


def _classes_of_pixels(found: Queried, images: Tensor) -> Tensor:
    classes = (found.classes.sigmoid() / TEMPERATURE).softmax(-1)
    masks = functional.interpolate(found.masks, size=images.shape[2:], mode="bilinear", align_corners=False).sigmoid()
    return torch.unflatten(classes.transpose(1, 2) @ masks.flatten(2), 2, images.shape[2:])


def maskdino_r50() -> nn.Module:
    """A fresh MaskDINO for instances, of ResNet-50: 52,090,644 parameters (paper: 52 million).

    279.3 billion multiply-accumulates per image of 800x1088 (paper: 286 billion, a mean over images of COCO).
    """
    return MaskDino(ResNetMaps())


def maskdino_swin_l() -> nn.Module:
    """A fresh MaskDINO for instances, of Swin-L: 222,358,408 parameters (paper: 223 million).

    874.9 billion multiply-accumulates per image of 800x1088.
    """
    return MaskDino(SwinMaps())


def maskdino_r50_semantic() -> nn.Module:
    """A fresh MaskDINO for classes of pixels, of ResNet-50: 52,108,634 parameters.

    86.1 billion multiply-accumulates per image of 512x512.
    """
    return MaskDino(ResNetMaps(), 150, 100, of_pixels=True)


def maskdino_swin_l_semantic() -> nn.Module:
    """A fresh MaskDINO for classes of pixels, of Swin-L: 222,376,398 parameters.

    269.8 billion multiply-accumulates per image of 512x512.
    """
    return MaskDino(SwinMaps(), 150, 100, of_pixels=True)
