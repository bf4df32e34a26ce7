"""ECA-MobileNetV2 (Wang et al., "ECA-Net", 2020, on Sandler et al., "MobileNetV2", 2018), with ECA-Net's own keys."""

from __future__ import annotations

from torch import Tensor, nn

CLASSES = 1000
# Expansion, channels, blocks and stride of every stage (MobileNetV2, Table 2).
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
WIDE = 96  # Channels from which an attention sees a neighbour on either side, in the published checkpoint ("k13").


class ChannelAttention(nn.Module):
    """Scales every channel by its mean and those of its neighbours: [n, c, h, w] to the same.

    Args:
        reach: channels that decide about one, itself included; odd.
    """

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, reach, padding=reach // 2, bias=False)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        means = self.avg_pool(x).flatten(1)
        scales: Tensor = self.sigmoid(self.conv(means.unsqueeze(1))).squeeze(1)
        return x * scales[..., None, None]


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project, attend; with a shortcut where the shape stays.

    `forward` takes [n, inputs, h, w] and returns [n, outputs, ceil(h/stride), ceil(w/stride)].
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [_filter(inputs, hidden, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            _filter(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            ChannelAttention(3 if outputs >= WIDE else 1),
        )
        self.same_shape = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.conv(x)
        return x + y if self.same_shape else y


def _filter(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


class EcaMobileNetV2(nn.Module):
    """Images [n, 3, h, w] to logits [n, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        features: list[nn.Module] = [_filter(3, 32, 3, stride=2)]
        inputs = 32
        for expansion, outputs, blocks, stride in STAGES:
            for block in range(blocks):
                features.append(InvertedResidual(inputs, outputs, 1 if block else stride, expansion))
                inputs = outputs
        self.features = nn.Sequential(*features, _filter(inputs, 1280, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.25), nn.Linear(1280, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return y


def eca_mobilenet_v2() -> nn.Module:
    """A fresh ECA-MobileNetV2: 3,504,903 parameters, 301 million multiply-accumulates per image of 224x224.

    MobileNetV2 itself has 3,504,872 parameters; every one of the 17 attentions adds 1 or 3.
    """
    return EcaMobileNetV2()
