"""ConvNeXt-L (Liu et al., "A ConvNet for the 2020s", 2022), with torchvision's keys; without stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitq.networks.parts.norms import ChannelNorm

CLASSES = 1000
WIDTHS = (192, 384, 768, 1536)
DEPTHS = (3, 3, 27, 3)
EPSILON = 1e-6


class Axes(nn.Module):
    """Reorder the axes of a tensor."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.permute(self.order)


class Block(nn.Module):
    """A 7x7 filter of each channel and a perceptron at every position, beside a shortcut: [n, c, h, w] to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), 1e-6))
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            Axes(0, 2, 3, 1),
            nn.LayerNorm(channels, eps=EPSILON),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
            Axes(0, 3, 1, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = x + self.layer_scale * self.block(x)
        return y


class ConvNeXtLarge(nn.Module):
    """Images [n, 3, h, w] to logits [n, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        features = [nn.Sequential(nn.Conv2d(3, WIDTHS[0], 4, stride=4), ChannelNorm(WIDTHS[0]))]
        for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
            if stage:
                before = WIDTHS[stage - 1]
                features.append(nn.Sequential(ChannelNorm(before), nn.Conv2d(before, width, 2, stride=2)))
            features.append(nn.Sequential(*(Block(width) for _ in range(depth))))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(ChannelNorm(WIDTHS[-1]), nn.Flatten(), nn.Linear(WIDTHS[-1], CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.classifier(self.avgpool(self.features(x)))
        return y


def convnext_large() -> nn.Module:
    """A fresh ConvNeXt-L: 197,767,336 parameters, 34.36 billion multiply-accumulates per image of 224x224."""
    return ConvNeXtLarge()
