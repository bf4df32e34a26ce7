"""A detector of proposed regions, refined three times, with masks (Cai and Vasconcelos, "Cascade R-CNN", 2021).

As ONE-PEACE's published set-up has it: a net of two convolutions proposes regions, whose contents go through four
convolutions and a linear layer for boxes and through four convolutions for masks, all with layer normalization.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitq.networks.onepeace.regions import SHAPES, alone, anchors, likeliest, moved, pooled
from bitq.networks.parts.norms import ChannelNorm

STRIDES = [4, 8, 16, 32, 64]
OVERLAP = 0.7  # above which of two proposals of a map one is dropped
OF_OBJECTS = 0.6  # above which of two objects of a class one loses score
CANDIDATES = 1000  # for objects: the likeliest regions and classes, where the published code looks at all
WEIGHTS = ((10.0, 5.0), (20.0, 10.0), (30.0, 15.0))  # of how far the three stages move boxes
BOX_SIDE, MASK_SIDE = 7, 14  # of what is read of a region
DEPTH = 4  # convolutions


class Detections(NamedTuple):
    """What a detector found, the likeliest first.

    Attributes:
        boxes: [n, found, 4] left, upper, right and lower side in pixels.
        classes: [n, found] their numbers.
        scores: [n, found] their probabilities; 0 where nothing is left.
        masks: scores [n, found, 28, 28] within the boxes, of which the sigmoid is the probability.
    """

    boxes: Tensor
    classes: Tensor
    scores: Tensor
    masks: Tensor


class Scored(NamedTuple):
    """What losses are computed from.

    Attributes:
        objectness: scores [n, anchors] of the boxes at every cell, the finest map's first.
        moves: [n, anchors, 4] how they are moved.
        stages: of each stage scores [n, regions, classes + 1], the last for none, and moves [n, regions, 4].
        masks: scores [n, found, classes, 28, 28].
    """

    objectness: Tensor
    moves: Tensor
    stages: list[tuple[Tensor, Tensor]]
    masks: Tensor


class RegionHead(nn.Module):
    """Of every cell of five maps, whether boxes around it hold objects, and how they are moved: as `Scored` has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        convolutions = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.conv = nn.Sequential(*(part for each in convolutions for part in (each, nn.ReLU())))
        self.objectness_logits = nn.Conv2d(channels, len(SHAPES), 1)
        self.anchor_deltas = nn.Conv2d(channels, 4 * len(SHAPES), 1)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of each map scores [n, cells * 3] and moves [n, cells * 3, 4]."""
        scores, moves = [], []
        for x in maps:
            y = self.conv(x)
            scores.append(self.objectness_logits(y).movedim(1, -1).flatten(1))
            by = torch.unflatten(self.anchor_deltas(y), 1, (len(SHAPES), 4))
            moves.append(by.permute(0, 3, 4, 1, 2).flatten(1, 3))
        return scores, moves


class BoxHead(nn.Module):
    """What regions [m, channels, 7, 7] hold: scores [m, classes + 1] and moves [m, 4]."""

    def __init__(self, channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(*(_convolved(channels) for _ in range(DEPTH)))
        self.fc1 = nn.Linear(channels * BOX_SIDE**2, hidden)
        self.cls_score = nn.Linear(hidden, classes + 1)
        self.bbox_pred = nn.Linear(hidden, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        y = functional.relu(self.fc1(self.conv(x).flatten(1)))
        return self.cls_score(y), self.bbox_pred(y)


class MaskHead(nn.Sequential):
    """Regions [m, channels, 14, 14] to scores [m, classes, 28, 28]."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(
            *(_convolved(channels) for _ in range(DEPTH)),
            nn.ConvTranspose2d(channels, channels, 2, stride=2),
            nn.ReLU(),
            nn.Conv2d(channels, classes, 1),
        )


def _convolved(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), ChannelNorm(channels), nn.ReLU())


class Cascade(nn.Module):
    """Objects in images [n, 3, h, w], height and width multiples of 32.

    In evaluation `Detections`, in training `Scored`. Which regions are compared with answers is left to losses: all
    that are proposed go on in training, too.

    Args:
        backbone: gives maps of strides 4, 8, 16 and 32, of `channels` channels each.
        channels: see above.
        hidden: channels behind the linear layer.
        classes: that objects can be of.
        regions: how many are proposed, and how many of each map are looked at for that.
        found: how many objects are told.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int = 256,
        hidden: int = 1024,
        classes: int = 80,
        regions: int = 1000,
        found: int = 100,
    ) -> None:
        super().__init__()
        self.classes, self.regions, self.found = classes, regions, found
        self.backbone = backbone
        self.proposal_generator = RegionHead(channels)
        self.box_head = nn.ModuleList(BoxHead(channels, hidden, classes) for _ in WEIGHTS)
        self.mask_head = MaskHead(channels, classes)

    def forward(self, x: Tensor) -> Any:
        """See the class."""
        size = x.shape[2], x.shape[3]
        maps: list[Tensor] = self.backbone(x)
        levels = [*maps, maps[-1][:, :, ::2, ::2]]
        scores, moves = self.proposal_generator(levels)
        boxes = self._proposed(anchors(levels, STRIDES), scores, moves, size)
        stages, probabilities = [], []
        for head, weights in zip(self.box_head, WEIGHTS, strict=True):
            told, by = (torch.unflatten(each, 0, (len(x), -1)) for each in head(pooled(maps, boxes, BOX_SIDE)))
            stages.append((told, by))
            probabilities.append(told.softmax(-1)[..., :-1])
            boxes = moved(boxes, by, weights, size).detach()
        found = self._found(boxes, torch.stack(probabilities).mean(0).detach())
        masks = torch.unflatten(self.mask_head(pooled(maps, found[0], MASK_SIDE)), 0, (len(x), -1))
        if self.training:
            return Scored(torch.cat(scores, 1), torch.cat(moves, 1), stages, masks)
        own = found[1][..., None, None, None].expand(-1, -1, 1, *masks.shape[3:])
        return Detections(*found, masks.gather(2, own).squeeze(2))

    def _proposed(
        self, boxes: list[Tensor], scores: list[Tensor], moves: list[Tensor], size: tuple[int, int]
    ) -> Tensor:
        """The likeliest regions [n, regions, 4] of all maps, whose boxes are [cells * 3, 4]."""
        regions, likely = [], []
        for own, score, by in zip(boxes, scores, moves, strict=True):
            probable, at = score.detach().topk(min(self.regions, score.shape[1]), 1)
            region = moved(_at(own.expand(len(by), -1, -1), at), _at(by.detach(), at), (1, 1), size)
            regions.append(region)
            likely.append(probable.sigmoid() * alone(region, OVERLAP))
        return _at(torch.cat(regions, 1), torch.cat(likely, 1).topk(self.regions, 1).indices)

    def _found(self, boxes: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, classes and scores as of `Detections`: every region may be an object of every class."""
        count = min(CANDIDATES, probabilities[0].numel())
        scores, at = probabilities.flatten(1).topk(count, 1)
        candidates, kinds = _at(boxes, at // self.classes), at % self.classes
        places, found = likeliest(candidates, scores, kinds, self.found, OF_OBJECTS)
        return _at(candidates, places), kinds.gather(1, places), found


def _at(boxes: Tensor, places: Tensor) -> Tensor:
    return boxes.gather(1, places[..., None].expand(-1, -1, 4))
