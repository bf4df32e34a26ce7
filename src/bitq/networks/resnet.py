"""ResNet-18 and ResNet-50 (He et al., "Deep Residual Learning", 2016), with torchvision's keys."""

from __future__ import annotations

from torch import Tensor, nn

CLASSES = 1000


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; a 1x1 projection where the shape changes.

    `forward` takes [n, inputs, h, w] and returns [n, outputs, ceil(h/stride), ceil(w/stride)].
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same_shape = stride == 1 and inputs == outputs
        self.downsample = None if same_shape else _projection(inputs, outputs, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu2(y + shortcut)
        return y


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1 beside a shortcut; a projection where the shape changes.

    `forward` takes [n, inputs, h, w] and returns [n, 4 * hidden, ceil(h/stride), ceil(w/stride)].
    """

    def __init__(self, inputs: int, hidden: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, 4 * hidden, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * hidden)
        self.relu = nn.ReLU()
        same_shape = stride == 1 and inputs == 4 * hidden
        self.downsample = None if same_shape else _projection(inputs, 4 * hidden, stride)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(y + shortcut)
        return y


class ResNetMaps(nn.Module):
    """Images [n, 3, h, w] to maps of strides 4, 8, 16 and 32, of 4, 8, 16 and 32 times `width` channels.

    Args:
        depths: blocks of the four stages; those of ResNet-50 are 3, 4, 6 and 3.
        width: channels of the stem; those of ResNet-50 are 64.
    """

    def __init__(self, depths: tuple[int, int, int, int] = (3, 4, 6, 3), width: int = 64) -> None:
        super().__init__()
        self.channels = (4 * width, 8 * width, 16 * width, 32 * width)
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for stage, depth in enumerate(depths):
            inputs, hidden = self.channels[stage - 1] if stage else width, width * 2**stage
            first = Bottleneck(inputs, hidden, 2 if stage else 1)
            others = (Bottleneck(4 * hidden, hidden, 1) for _ in range(depth - 1))
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *others))

    def forward(self, x: Tensor) -> list[Tensor]:
        """See the class."""
        y: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for stage in range(4):
            y = self.get_submodule(f"layer{stage + 1}")(y)
            maps.append(y)
        return maps


class ResNet18(nn.Module):
    """Images [n, 3, h, w] to logits [n, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, 1)
        self.layer2 = _stage(64, 128, 2)
        self.layer3 = _stage(128, 256, 2)
        self.layer4 = _stage(256, 512, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            y = stage(y)
        y = self.fc(self.avgpool(y).flatten(1))
        return y


def resnet18() -> nn.Module:
    """A fresh ResNet-18: 11,689,512 parameters, 1.814 billion multiply-accumulates per image of 224x224."""
    return ResNet18()
