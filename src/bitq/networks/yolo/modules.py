"""What YOLOv5 and YOLOv8 are made of, with the names that their checkpoints have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON, MOMENTUM = 1e-3, 0.03  # of batch norms, as the published weights were trained


class ConvSiLU(nn.Module):
    """Convolution, batch normalization and SiLU: [n, inputs, h, w] to [n, outputs, ceil(h/stride), ceil(w/stride)]."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int | None = None) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, EPSILON, MOMENTUM)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


class Residual(nn.Module):
    """Two convolutions, beside a shortcut if wanted: [n, channels, h, w] to the same.

    Args:
        channels: of input, middle and output.
        kernels: of the two convolutions.
        shortcut: whether the input is added.
    """

    def __init__(self, channels: int, kernels: tuple[int, int], shortcut: bool) -> None:
        super().__init__()
        self.cv1, self.cv2 = (ConvSiLU(channels, channels, kernel) for kernel in kernels)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class PooledPyramid(nn.Module):
    """What 5x5, 9x9 and 13x13 windows hold at most, beside their centre (He et al., "Spatial Pyramid Pooling", 2014).

    The three are one 5x5 pooling again and again: [n, inputs, h, w] to [n, outputs, h, w].
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.cv1 = ConvSiLU(inputs, inputs // 2, 1)
        self.cv2 = ConvSiLU(2 * inputs, outputs, 1)
        self.m = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        windows = [self.cv1(x)]
        for _ in range(3):
            windows.append(self.m(windows[-1]))
        y: Tensor = self.cv2(torch.cat(windows, 1))
        return y


class Prototypes(nn.Module):
    """The masks that those of all objects are mixed of (Bolya et al., "YOLACT", 2019), at twice the input's resolution.

    `forward` takes [n, inputs, h, w] and returns [n, masks, 2h, 2w].
    """

    def __init__(self, inputs: int, hidden: int, masks: int, upsample: nn.Module) -> None:
        super().__init__()
        self.cv1 = ConvSiLU(inputs, hidden, 3)
        self.upsample = upsample
        self.cv2 = ConvSiLU(hidden, hidden, 3)
        self.cv3 = ConvSiLU(hidden, masks, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.cv3(self.cv2(self.upsample(self.cv1(x))))
        return y


def at_centres(cell: Tensor) -> tuple[Tensor, Tensor]:
    """Column and row of the centre of every cell of a map [n, c, h, w]: two of [n, 1, h, w], in cells from the corner.

    Sums of ones, not ranges: code that only sees how tensors follow from one another can follow that, too.
    """
    ones = torch.ones_like(cell[:, :1])
    return ones.cumsum(3) - 0.5, ones.cumsum(2) - 0.5
