"""The CIFAR-10 ResNets (He et al., "Deep Residual Learning for Image Recognition", 2016), shortcuts of option A."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10


class Block(nn.Module):
    """Two 3x3 convolutions; where the shape changes, the shortcut subsamples and pads the channels with zeros.

    `forward` takes [n, inputs, h, w] and returns [n, outputs, ceil(h/stride), ceil(w/stride)].
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.missing = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.missing:
            before = self.missing // 2
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.missing - before))
        return functional.relu(y + x)


class CifarResNet(nn.Module):
    """Images [n, 3, 32, 32], normalized as for ImageNet, to logits [n, 10]; 6·blocks + 2 layers."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, blocks)
        self.layer2 = _stage(16, 32, 2, blocks)
        self.layer3 = _stage(32, 64, 2, blocks)
        self.linear = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.layer3(self.layer2(self.layer1(y)))
        logits: Tensor = self.linear(y.mean((2, 3)))
        return logits


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        Block(inputs, outputs, stride), *(Block(outputs, outputs, 1) for _ in range(blocks - 1))
    )


def resnet20() -> nn.Module:
    """A fresh ResNet-20: 270,410 parameters, 40.8 million multiply-accumulates per image."""
    return CifarResNet(3)
