"""YOLOv8 (Jocher, Chaurasia and Qiu, 2023), for detection and instance segmentation, with its checkpoints' keys.

No paper describes it. Papers describe its parts: cross-stage halves (Wang et al., "CSPNet", 2020), a pyramid up and
down again (Liu et al., "PANet", 2018), boxes as distances without anchor boxes (Tian et al., "FCOS", 2019), each
distance the mean of a distribution (Li et al., "Generalized Focal Loss", 2020), masks as mixtures of prototypes (Bolya
et al., "YOLACT", 2019). Depths and widths are those of its published configurations.
"""

from __future__ import annotations

from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bitq.networks.yolo.modules import ConvSiLU, PooledPyramid, Prototypes, Residual, at_centres

CLASSES = 80  # of COCO
BINS = 16  # of the distribution of a box's distance to each of its sides, in cells of its map
STRIDES = (8, 16, 32)
MASKS = 32
WIDTHS = (64, 128, 256, 512, 1024)  # of stride 2, 4, …, 32, before they are scaled
PRIOR = 0.01  # Probability of every class in a fresh network (Lin et al., "Focal Loss", 2017, Section 3.3).


class Size(NamedTuple):
    """What the networks of the family differ in: factors of depth and width, and the most channels before scaling."""

    depth: float
    width: float
    most: int

    def channels(self, unscaled: int) -> int:
        """How many channels stand for `unscaled` ones; a multiple of 8."""
        return 8 * round(min(unscaled, self.most) * self.width / 8)


SIZES = {
    "n": Size(1 / 3, 0.25, 1024),
    "s": Size(1 / 3, 0.5, 1024),
    "m": Size(2 / 3, 0.75, 768),
    "l": Size(1, 1, 512),
    "x": Size(1, 1.25, 512),
}


class CrossStage(nn.Module):
    """A half that residual blocks refine one after the other; all that they give is joined.

    `forward` takes [n, inputs, h, w] and returns [n, outputs, h, w].

    Args:
        inputs, outputs: channels.
        blocks: how many.
        shortcut: whether each block adds its input.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int, shortcut: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1 = ConvSiLU(inputs, 2 * half, 1)
        self.cv2 = ConvSiLU((2 + blocks) * half, outputs, 1)
        self.m = nn.ModuleList(Residual(half, (3, 3), shortcut) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        kept, refined = self.cv1(x).chunk(2, 1)
        parts = [kept, refined]
        for block in self.m:
            parts.append(block(parts[-1]))
        y: Tensor = self.cv2(torch.cat(parts, 1))
        return y


class Expectation(nn.Module):
    """The mean of every distribution, in bins: [n, 4 * BINS, a] scores to [n, 4, a]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(BINS, 1, 1, bias=False)
        self.conv.weight = nn.Parameter(torch.arange(float(BINS)).view(1, BINS, 1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.conv(torch.unflatten(x, 1, (4, BINS)).transpose(1, 2).softmax(1)).squeeze(1)
        return y


class Detect(nn.Module):
    """Boxes and classes at every cell of three maps, as `YoloV8` returns them.

    Args:
        channels: of the maps, of `STRIDES` pixels a cell.
    """

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        sides, classes = max(16, channels[0] // 4, 4 * BINS), max(channels[0], CLASSES)
        self.cv2 = _branches(channels, sides, 4 * BINS)
        self.cv3 = _branches(channels, classes, CLASSES, -log(1 / PRIOR - 1))
        self.dfl = Expectation()

    def forward(self, maps: list[Tensor]) -> Any:
        """See `YoloV8`."""
        raw = [torch.cat([box(x), cls(x)], 1) for box, cls, x in zip(self.cv2, self.cv3, maps, strict=True)]
        return raw if self.training else (self.decoded(raw), raw)

    def decoded(self, raw: list[Tensor]) -> Tensor:
        """The predictions of maps, both as `YoloV8` returns them."""
        centres = [torch.cat(at_centres(x), 1).flatten(2) for x in raw]
        pixels = torch.cat([torch.full_like(x[:, :1], s) for x, s in zip(centres, STRIDES, strict=True)], 2)
        scores = torch.cat([x.flatten(2) for x in raw], 2)
        sides, classes = torch.split(scores, [4 * BINS, CLASSES], 1)
        before, behind = self.dfl(sides).chunk(2, 1)
        boxes = torch.cat([torch.cat(centres, 2) + (behind - before) / 2, before + behind], 1) * pixels
        return torch.cat([boxes, classes.sigmoid()], 1)


class Segment(Detect):
    """Detection, and how to mix the mask of every object, as `YoloV8` returns them.

    Args:
        channels: of the maps, of `STRIDES` pixels a cell.
        hidden: channels that the prototypes are made of.
    """

    def __init__(self, channels: tuple[int, int, int], hidden: int) -> None:
        super().__init__(channels)
        self.proto = Prototypes(channels[0], hidden, MASKS, nn.ConvTranspose2d(hidden, hidden, 2, stride=2))
        self.cv4 = _branches(channels, max(channels[0] // 4, MASKS), MASKS)

    def forward(self, maps: list[Tensor]) -> Any:
        """See `YoloV8`."""
        prototypes = self.proto(maps[0])
        mixtures = torch.cat([mix(x).flatten(2) for mix, x in zip(self.cv4, maps, strict=True)], 2)
        found = super().forward(maps)
        if self.training:
            return found, mixtures, prototypes
        predictions, raw = found
        return torch.cat([predictions, mixtures], 1), (raw, mixtures, prototypes)


def _branches(channels: tuple[int, int, int], hidden: int, outputs: int, bias: float = 0.0) -> nn.ModuleList:
    """For each map what gives its cells scores, whose biases are `bias` at first."""
    branches = nn.ModuleList()
    for inputs in channels:
        last = nn.Conv2d(hidden, outputs, 1)
        nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
        branches.append(nn.Sequential(ConvSiLU(inputs, hidden, 3), ConvSiLU(hidden, hidden, 3), last))
    return branches


class YoloV8(nn.Module):
    """Objects in images [n, 3, h, w], RGB in [0, 1], height and width multiples of 32.

    With a = h·w/64 + h·w/256 + h·w/1024 cells of the three maps, the finest first, each row by row:

    In training the scores that losses are computed from: a list of [n, 64 + 80, h/s, w/s] for s = 8, 16, 32; of each
    cell 16 scores of the distance to the left, the upper, the right and the lower side, then of the classes.

    In evaluation a pair: predictions [n, 4 + 80, a], and the scores that they come of, as in training. Predictions are
    of the box its centre's column and row, its width and its height, in pixels of the input; then the probability of
    every class. Which boxes are the same object is left to the caller (non-maximum suppression).

    With masks, in training three: the list, how to mix each cell's mask [n, 32, a], and prototypes [n, 32, h/4, w/4].
    An object's mask is the sigmoid of the sum of the prototypes times its 32 numbers, within its box. In evaluation a
    pair: predictions [n, 4 + 80 + 32, a], which end in these numbers, and the three.

    Args:
        size: one of `SIZES`.
        masks: whether objects get masks.
    """

    def __init__(self, size: str, masks: bool = False) -> None:
        super().__init__()
        self.size = SIZES[size]
        c2, c4, c8, c16, c32 = map(self.size.channels, WIDTHS)
        self.model = nn.ModuleDict(
            {
                "0": ConvSiLU(3, c2, 3, 2),
                "1": ConvSiLU(c2, c4, 3, 2),
                "2": self._stage(c4, c4, 3, True),
                "3": ConvSiLU(c4, c8, 3, 2),
                "4": self._stage(c8, c8, 6, True),
                "5": ConvSiLU(c8, c16, 3, 2),
                "6": self._stage(c16, c16, 6, True),
                "7": ConvSiLU(c16, c32, 3, 2),
                "8": self._stage(c32, c32, 3, True),
                "9": PooledPyramid(c32, c32),
                "10": nn.Upsample(scale_factor=2),
                "12": self._stage(c32 + c16, c16),
                "13": nn.Upsample(scale_factor=2),
                "15": self._stage(c16 + c8, c8),
                "16": ConvSiLU(c8, c8, 3, 2),
                "18": self._stage(c8 + c16, c16),
                "19": ConvSiLU(c16, c16, 3, 2),
                "21": self._stage(c16 + c32, c32),
                "22": Segment((c8, c16, c32), self.size.channels(256)) if masks else Detect((c8, c16, c32)),
            }
        )

    def forward(self, x: Tensor) -> Any:
        """See the class."""
        made = []
        for number in range(10):
            x = self.model[str(number)](x)
            made.append(x)
        middle = self._joined("12", self.model["10"](made[9]), made[6])
        fine = self._joined("15", self.model["13"](middle), made[4])
        middle = self._joined("18", self.model["16"](fine), middle)
        coarse = self._joined("21", self.model["19"](middle), made[9])
        return self.model["22"]([fine, middle, coarse])

    def _joined(self, stage: str, *parts: Tensor) -> Tensor:
        y: Tensor = self.model[stage](torch.cat(parts, 1))
        return y

    def _stage(self, inputs: int, outputs: int, blocks: int = 3, shortcut: bool = False) -> CrossStage:
        return CrossStage(inputs, outputs, round(blocks * self.size.depth), shortcut)
