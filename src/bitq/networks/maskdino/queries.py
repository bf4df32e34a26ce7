"""The decoder of MaskDINO: queries that each find one object's class, box and mask."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bitq.networks.parts.asking_layer import AskingLayer
from bitq.networks.parts.deformable import DeformableAttention, Sizes, cells, waves
from bitq.networks.parts.perceptron import Perceptron

SMALLEST = 0.05  # Height and width of the first boxes of the finest map; those of the next are twice as large.
EDGE = 1e-3  # Sides of boxes are kept so far from 0 and 1 where they are turned into scores.


class Queried(NamedTuple):
    """What queries found.

    Attributes:
        classes: scores [n, queries, classes], of which the sigmoid is the probability.
        boxes: [n, queries, 4] column and row of the centre, width and height, in images of width and height 1.
        masks: scores [n, queries, h/4, w/4], likewise.
    """

    classes: Tensor
    boxes: Tensor
    masks: Tensor


class QueryLayer(AskingLayer):
    """Queries look at one another, then into the maps near their boxes: [n, queries, width] to the same.

    Args:
        width, heads, levels, points: as for `DeformableAttention`.
        hidden: channels within the perceptron.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int, hidden: int) -> None:
        super().__init__(DeformableAttention(width, heads, levels, points), width, heads, hidden)
        self.points = points

    def forward(self, x: Tensor, positions: Tensor, boxes: Tensor, memory: Tensor, sizes: Sizes) -> Tensor:
        """See the class.

        Args:
            x: the queries.
            positions: [n, queries, width], added to what asks and is asked.
            boxes: of the queries, as in `Queried`.
            memory, sizes: as for `DeformableAttention`.
        """
        x = self.asked(x, positions)
        spans = (boxes[..., 2:] / (2 * self.points))[:, :, None].expand(-1, -1, len(sizes), -1)
        return self.thought(self.norm1(x + self.cross_attn(x + positions, boxes[..., :2], spans, memory, sizes)))


class QueryDecoder(nn.Module):
    """Of the cells the likeliest objects, refined layer by layer.

    Args:
        width, heads, levels, points, hidden: as for `QueryLayer`.
        layers: how often the queries are refined.
        queries: how many objects are looked for.
        classes: that they can be of.
        masks_first: whether the first boxes are those around the first masks, not what cells say (paper, 3.4).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        levels: int,
        points: int,
        hidden: int,
        layers: int,
        queries: int,
        classes: int,
        masks_first: bool,
    ) -> None:
        super().__init__()
        self.queries, self.masks_first = queries, masks_first
        self.enc_output = nn.Linear(width, width)
        self.enc_output_norm = nn.LayerNorm(width)
        self.ref_point_head = Perceptron(2 * width, width, width, 2)
        self.layers = nn.ModuleList(QueryLayer(width, heads, levels, points, hidden) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.class_embed = nn.Linear(width, classes)
        self.bbox_embed = Perceptron(width, width, 4, 3)
        self.mask_embed = Perceptron(width, width, width, 3)

    def forward(self, memory: Tensor, sizes: Sizes, pixels: Tensor) -> list[Queried]:
        """What the last layer finds; before that, where `masks_first`, what the cells do.

        See `PixelDecoder` for what is taken.
        """
        proposed = self.enc_output_norm(self.enc_output(memory))
        best = self.class_embed(proposed).amax(-1).topk(self.queries, 1).indices[..., None]
        x = proposed.gather(1, best.expand(-1, -1, proposed.shape[-1]))
        boxes = _first_boxes(sizes, memory).expand(len(memory), -1, -1).gather(1, best.expand(-1, -1, 4))
        depth, found = len(self.layers), []
        for number in range(depth + 1):
            if number:
                boxes = boxes.detach()
                positions = self.ref_point_head(waves(boxes[..., [1, 0, 2, 3]], x.shape[-1] // 2))
                x = self.layers[number - 1](x, positions, boxes, memory, sizes)
            y = self.decoder_norm(x)
            boxes = (_scores(boxes) + self.bbox_embed(y)).sigmoid()
            first = self.masks_first and not number
            if first or number == depth:
                masks = torch.unflatten(self.mask_embed(y) @ pixels.flatten(2), 2, pixels.shape[2:])
                found.append(Queried(self.class_embed(y), boxes, masks))
            if first:
                boxes = _around(found[0].masks)
        return found


def _scores(boxes: Tensor) -> Tensor:
    """What boxes are the sigmoid of."""
    return torch.logit(boxes.clamp(EDGE, 1 - EDGE))


def _first_boxes(sizes: Sizes, like: Tensor) -> Tensor:
    """[1, cells, 4] a box around every cell."""
    centres, _ = cells(sizes, like)
    extents = [torch.full_like(like[0, :1, :2], SMALLEST * 2**level) for level in range(len(sizes))]
    spread = [extent.expand(h * w, -1) for extent, (h, w) in zip(extents, sizes, strict=True)]
    return torch.cat([centres, torch.cat(spread)[None]], -1)


def _around(masks: Tensor) -> Tensor:
    """The boxes [n, queries, 4] around what scores above 0 of masks [n, queries, h, w]; all 0 around nothing."""
    inside = masks > 0
    sides = []
    for axis in (2, 3):  # along the columns, then along the rows
        there, extent = inside.any(axis), masks.shape[5 - axis]
        place = torch.arange(extent, device=masks.device)
        last = torch.where(there, place + 1, 0).amax(-1)
        first = torch.minimum(torch.where(there, place, extent).amin(-1), last)
        sides.append(((first + last) / (2 * extent), (last - first) / extent))
    (x, width), (y, height) = sides
    return torch.stack([x, y, width, height], -1).to(masks.dtype)
