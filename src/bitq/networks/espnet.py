"""ESPNet (Mehta et al., "ESPNet: Efficient Spatial Pyramid of Dilated Convolutions", 2018), p = 2 and q = 8.

For CamVid, with the keys of a published checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = 12  # of CamVid, the last of them void
REPEATS = (2, 8)  # of the blocks of strides 4 and 8 (paper: alpha2 = 2, alpha3 = 8)
EPSILON = 1e-3
# Of blue, green and red, in shades from 0 to 255, as the published weights were trained; those saw them over 255.
MEAN, DEVIATION = (110.33, 108.41, 105.03), (72.13, 72.69, 69.90)


class Activated(nn.Module):
    """Batch normalization and PReLU: [n, channels, h, w] to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, EPSILON)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.act(self.bn(x))
        return y


class Unbiased(nn.Module):
    """A convolution alone: [n, inputs, h, w] to [n, outputs, ceil(h/stride), ceil(w/stride)]."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 * dilation, dilation, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.conv(x)
        return y


class ConvActivated(Activated):
    """Convolution, batch normalization and PReLU: [n, inputs, h, w] to [n, outputs, ceil(h/stride), ceil(w/stride)]."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(outputs)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return super().forward(self.conv(x))


class Pyramid(nn.Module):
    """Few channels, filtered at five dilations; joined as sums of ever more of them, against gridding (paper, 3.2).

    `forward` takes [n, inputs, h, w] and returns [n, outputs, ceil(h/stride), ceil(w/stride)].

    Args:
        inputs, outputs: channels.
        kernel, stride: of the convolution that reduces the channels.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        few = outputs // 5
        self.c1 = Unbiased(inputs, few, kernel, stride)
        self.d1 = Unbiased(few, outputs - 4 * few, 3)
        self.d2, self.d4, self.d8, self.d16 = (Unbiased(few, few, 3, dilation=dilation) for dilation in (2, 4, 8, 16))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = self.c1(x)
        sums = [self.d2(y)]
        for filtered in (self.d4, self.d8, self.d16):
            sums.append(sums[-1] + filtered(y))
        return torch.cat([self.d1(y), *sums], 1)


class Downsampling(Pyramid):
    """At half the resolution, and activated: [n, inputs, h, w] to [n, outputs, ceil(h/2), ceil(w/2)]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, 2)
        self.bn = nn.BatchNorm2d(outputs, EPSILON)
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.act(self.bn(super().forward(x)))
        return y


class ActivatedPyramid(Pyramid):
    """Activated, beside a shortcut if wanted: [n, inputs, h, w] to [n, outputs, h, w]."""

    def __init__(self, inputs: int, outputs: int, shortcut: bool) -> None:
        super().__init__(inputs, outputs)
        self.bn = Activated(outputs)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = super().forward(x)
        z: Tensor = self.bn(x + y if self.shortcut else y)
        return z


class Encoder(nn.Module):
    """Images [n, 3, h, w] to features at strides 2, 4 and 8, of 19, 131 and 256 channels, each with the image's own."""

    def __init__(self) -> None:
        super().__init__()
        self.level1 = ConvActivated(3, 16, 3, 2)
        self.b1 = Activated(16 + 3)
        self.level2_0 = Downsampling(16 + 3, 64)
        self.level2 = nn.ModuleList(ActivatedPyramid(64, 64, True) for _ in range(REPEATS[0]))
        self.b2 = Activated(128 + 3)
        self.level3_0 = Downsampling(128 + 3, 128)
        self.level3 = nn.ModuleList(ActivatedPyramid(128, 128, True) for _ in range(REPEATS[1]))
        self.b3 = Activated(256)
        self.classifier = Unbiased(256, CLASSES, 1)
        self.halving = nn.AvgPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        halved = self.halving(x)
        fine = self.b1(torch.cat([self.level1(x), halved], 1))
        first = y = self.level2_0(fine)
        for block in self.level2:
            y = block(y)
        middle = self.b2(torch.cat([y, first, self.halving(halved)], 1))
        first = y = self.level3_0(middle)
        for block in self.level3:
            y = block(y)
        return fine, middle, self.b3(torch.cat([first, y], 1))


class EspNet(nn.Module):
    """Images [n, 3, h, w], RGB in [0, 1], height and width multiples of 8, to logits [n, 12, h, w].

    The order and the range of channels that the published weights expect are made here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.level3_C = Unbiased(128 + 3, CLASSES, 1)
        self.br = nn.BatchNorm2d(CLASSES, EPSILON)
        self.conv = ConvActivated(16 + 3 + CLASSES, CLASSES, 3)
        self.up_l3 = nn.Sequential(_doubling())
        self.combine_l2_l3 = nn.Sequential(Activated(2 * CLASSES), ActivatedPyramid(2 * CLASSES, CLASSES, False))
        self.up_l2 = nn.Sequential(_doubling(), Activated(CLASSES))
        self.classifier = _doubling()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        fine, middle, coarse = self.encoder(_as_trained(x))
        coarse = self.up_l3(self.br(self.encoder.classifier(coarse)))
        middle = self.up_l2(self.combine_l2_l3(torch.cat([self.level3_C(middle), coarse], 1)))
        y: Tensor = self.classifier(self.conv(torch.cat([middle, fine], 1)))
        return y


def _doubling() -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(CLASSES, CLASSES, 2, stride=2, bias=False)


def _as_trained(x: Tensor) -> Tensor:
    """Images in [0, 1] as the published weights saw them: blue first, normalized by `MEAN` and `DEVIATION`."""
    mean, deviation = (x.new_tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return (x.flip(1) - mean / 255) / deviation


def espnet() -> nn.Module:
    """A fresh ESPNet: 354,517 parameters, 1.335 billion multiply-accumulates per image of 360x480.

    With the 20 outputs of Cityscapes it has 365,109 parameters (paper: 0.36 million).
    """
    return EspNet()
