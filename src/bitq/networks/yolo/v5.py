"""YOLOv5 (Jocher et al., 2020 to 2022) for instance segmentation, of its smallest size, with its checkpoints' keys.

No paper describes it; `bitq.networks.yolo.v8` says whose parts it has, too. Boxes are told beside anchor boxes (Redmon
and Farhadi, "YOLO9000", 2017), whose sizes are those of its published configuration.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bitq.networks.yolo.modules import ConvSiLU, PooledPyramid, Prototypes, Residual, at_centres

CLASSES, MASKS = 80, 32
STRIDES = (8, 16, 32)
ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
"""Width and height of the three anchor boxes of each map, in pixels."""
EACH = 5 + CLASSES + MASKS  # numbers that tell of one anchor box


class SplitStage(nn.Module):
    """Residual blocks beside a plain path: [n, inputs, h, w] to [n, outputs, h, w].

    Args:
        inputs, outputs: channels.
        blocks: how many.
        shortcut: whether each block adds its input.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int = 1, shortcut: bool = False) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1 = ConvSiLU(inputs, half, 1)
        self.cv2 = ConvSiLU(inputs, half, 1)
        self.cv3 = ConvSiLU(2 * half, outputs, 1)
        self.m = nn.Sequential(*(Residual(half, (1, 3), shortcut) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))
        return y


class AnchoredSegment(nn.Module):
    """What `YoloV5` returns, of its three maps.

    Args:
        channels: of the maps, of `STRIDES` pixels a cell.
        hidden: channels that the prototypes are made of.
    """

    def __init__(self, channels: tuple[int, int, int], hidden: int) -> None:
        super().__init__()
        self.m = nn.ModuleList(nn.Conv2d(inputs, len(ANCHORS[0]) * EACH, 1) for inputs in channels)
        self.proto = Prototypes(channels[0], hidden, MASKS, nn.Upsample(scale_factor=2))

    def forward(self, maps: list[Tensor]) -> Any:
        """See `YoloV5`."""
        prototypes = self.proto(maps[0])
        raw = [tell(x) for tell, x in zip(self.m, maps, strict=True)]
        decoded = [_decoded(x, stride, boxes) for x, stride, boxes in zip(raw, STRIDES, ANCHORS, strict=True)]
        return torch.cat(decoded, 2), prototypes


def _decoded(raw: Tensor, stride: int, anchors: tuple[tuple[int, int], ...]) -> Tensor:
    """Predictions as `YoloV5` returns them, of one map."""
    told = torch.unflatten(raw, 1, (len(anchors), EACH))  # [n, anchors, EACH, h, w]
    place, size, sure, classes, masks = torch.split(told, [2, 2, 1, CLASSES, MASKS], 2)
    centres = torch.cat(at_centres(raw), 1)[:, None]
    extents = raw.new_tensor(anchors)[:, :, None, None]
    boxes = [(centres + 2 * place.sigmoid() - 1) * stride, (2 * size.sigmoid()).square() * extents]
    each = torch.cat([*boxes, sure.sigmoid() * classes.sigmoid(), masks], 2)
    return each.transpose(1, 2).flatten(2)


class YoloV5(nn.Module):
    """Objects in images [n, 3, h, w], RGB in [0, 1], height and width multiples of 32.

    In evaluation as in training a pair, as `YoloV8` with masks returns it in evaluation: predictions [n, 4 + 80 + 32,
    a] and prototypes [n, 32, h/4, w/4]. There are a = 3·(h·w/64 + h·w/256 + h·w/1024) anchor boxes, those of the finest
    map first, of each map one after the other and each row by row. The probability of a class is that of an object
    times that of its class.

    Args:
        width: channels of the first layer.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        c2, c4, c8, c16, c32 = (width * 2**k for k in range(5))
        self.model = nn.ModuleDict(
            {
                "0": ConvSiLU(3, c2, 6, 2, padding=2),
                "1": ConvSiLU(c2, c4, 3, 2),
                "2": SplitStage(c4, c4, 1, True),
                "3": ConvSiLU(c4, c8, 3, 2),
                "4": SplitStage(c8, c8, 2, True),
                "5": ConvSiLU(c8, c16, 3, 2),
                "6": SplitStage(c16, c16, 3, True),
                "7": ConvSiLU(c16, c32, 3, 2),
                "8": SplitStage(c32, c32, 1, True),
                "9": PooledPyramid(c32, c32),
                "10": ConvSiLU(c32, c16, 1),
                "11": nn.Upsample(scale_factor=2),
                "13": SplitStage(c16 + c16, c16),
                "14": ConvSiLU(c16, c8, 1),
                "15": nn.Upsample(scale_factor=2),
                "17": SplitStage(c8 + c8, c8),
                "18": ConvSiLU(c8, c8, 3, 2),
                "20": SplitStage(c8 + c8, c16),
                "21": ConvSiLU(c16, c16, 3, 2),
                "23": SplitStage(c16 + c16, c32),
                "24": AnchoredSegment((c8, c16, c32), c8),
            }
        )

    def forward(self, x: Tensor) -> Any:
        """See the class."""
        made = []
        for number in range(11):
            x = self.model[str(number)](x)
            made.append(x)
        middle = self.model["14"](self._joined("13", self.model["11"](made[10]), made[6]))
        fine = self._joined("17", self.model["15"](middle), made[4])
        middle = self._joined("20", self.model["18"](fine), middle)
        coarse = self._joined("23", self.model["21"](middle), made[10])
        return self.model["24"]([fine, middle, coarse])

    def _joined(self, stage: str, *parts: Tensor) -> Tensor:
        y: Tensor = self.model[stage](torch.cat(parts, 1))
        return y
