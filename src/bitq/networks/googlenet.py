"""GoogLeNet (Szegedy et al., "Going Deeper with Convolutions", 2015), with torchvision's keys and its choices.

As there: batch normalization, 3x3 kernels where the paper has 5x5, and the input range its weights were trained for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = 1000
# Mean and deviation that users normalize ImageNet's channels with; the published weights expect 0.5 and 0.5.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ConvBlock(nn.Module):
    """Convolution, batch normalization and ReLU: [n, inputs, h, w] to [n, outputs, h', w']."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.relu(self.bn(self.conv(x)))
        return y


class Inception(nn.Module):
    """Four branches side by side: [n, inputs, h, w] to [n, one + three + five + pooled, h, w].

    Args:
        inputs: channels.
        one: outputs of the 1x1 branch.
        three, five: (channels of the 1x1 reduction, outputs) of the two 3x3 branches.
        pooled: outputs of the branch that pools first.
    """

    def __init__(self, inputs: int, one: int, three: tuple[int, int], five: tuple[int, int], pooled: int) -> None:
        super().__init__()
        self.branch1 = ConvBlock(inputs, one, 1)
        self.branch2 = nn.Sequential(ConvBlock(inputs, three[0], 1), ConvBlock(*three, 3))
        self.branch3 = nn.Sequential(ConvBlock(inputs, five[0], 1), ConvBlock(*five, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), ConvBlock(inputs, pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.cat([branch(x) for branch in (self.branch1, self.branch2, self.branch3, self.branch4)], 1)


class Auxiliary(nn.Module):
    """The parameters of a classifier that training had beside the network's middle; never run here."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv = ConvBlock(inputs, 128, 1)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.fc2 = nn.Linear(1024, CLASSES)


class GoogLeNet(nn.Module):
    """Images [n, 3, h, w] to logits [n, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvBlock(3, 64, 7, stride=2)
        self.maxpool1 = _halving(3)
        self.conv2 = ConvBlock(64, 64, 1)
        self.conv3 = ConvBlock(64, 192, 3)
        self.maxpool2 = _halving(3)
        self.inception3a = Inception(192, 64, (96, 128), (16, 32), 32)
        self.inception3b = Inception(256, 128, (128, 192), (32, 96), 64)
        self.maxpool3 = _halving(3)
        self.inception4a = Inception(480, 192, (96, 208), (16, 48), 64)
        self.inception4b = Inception(512, 160, (112, 224), (24, 64), 64)
        self.inception4c = Inception(512, 128, (128, 256), (24, 64), 64)
        self.inception4d = Inception(512, 112, (144, 288), (32, 64), 64)
        self.inception4e = Inception(528, 256, (160, 320), (32, 128), 128)
        self.maxpool4 = _halving(2)
        self.inception5a = Inception(832, 256, (160, 320), (32, 128), 128)
        self.inception5b = Inception(832, 384, (192, 384), (48, 128), 128)
        self.aux1 = Auxiliary(512)
        self.aux2 = Auxiliary(528)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1024, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.maxpool1(self.conv1(_rescaled(x)))
        y = self.maxpool2(self.conv3(self.conv2(y)))
        y = self.maxpool3(self.inception3b(self.inception3a(y)))
        for block in (self.inception4a, self.inception4b, self.inception4c, self.inception4d, self.inception4e):
            y = block(y)
        y = self.inception5b(self.inception5a(self.maxpool4(y)))
        y = self.fc(self.dropout(self.avgpool(y).flatten(1)))
        return y


def _halving(kernel: int) -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel, stride=2, ceil_mode=True)


def _rescaled(x: Tensor) -> Tensor:
    """Images normalized by `MEAN` and `DEVIATION` as if by 0.5 and 0.5."""
    mean, deviation = (x.new_tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return x * (deviation / 0.5) + (mean - 0.5) / 0.5


def googlenet() -> nn.Module:
    """A fresh GoogLeNet: 6,624,904 parameters, 1.498 billion multiply-accumulates per image of 224x224.

    The 6,379,984 parameters of the two auxiliary classifiers come on top: the published checkpoint has them.
    """
    return GoogLeNet()
