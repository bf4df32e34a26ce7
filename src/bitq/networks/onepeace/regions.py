"""Boxes in images: where they may lie, how they are moved, which overlap, and what of maps lies within them.

Boxes [..., 4] are left, upper, right and lower side in pixels.
"""

from __future__ import annotations

from math import log, sqrt

import torch
from torch import Tensor
from torch.nn import functional

SHAPES = (0.5, 1.0, 2.0)  # Heights over widths of the boxes at each cell.
EXTENT = 8  # Side of a square box at a cell, in cells.
MOST = log(1000 / 16)  # of what a box's width and height grow to, as a logarithm.
ROUNDS = 32  # in which it is settled which boxes are alone
USUAL, USUAL_LEVEL = 224, 2  # A box of this side is read from this map (Lin et al., "Feature Pyramid Networks", Eq. 1).


def anchors(maps: list[Tensor], strides: list[int]) -> list[Tensor]:
    """Boxes [cells * 3, 4] around the upper left corner of each cell of each map, row by row, in `SHAPES`."""
    found = []
    for x, stride in zip(maps, strides, strict=True):
        height, width = x.shape[2:]
        row, column = (stride * torch.arange(extent, device=x.device, dtype=x.dtype) for extent in (height, width))
        corners = torch.stack([column.repeat(height), row.repeat_interleave(width)], -1)
        halves = [(EXTENT * stride / sqrt(shape) / 2, EXTENT * stride * sqrt(shape) / 2) for shape in SHAPES]
        half = torch.tensor(halves, device=x.device, dtype=x.dtype)
        found.append(torch.cat([corners[:, None] - half, corners[:, None] + half], -1).flatten(0, 1))
    return found


def moved(boxes: Tensor, by: Tensor, weights: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """Boxes moved and stretched (Girshick et al., "R-CNN", 2014, Appendix C), within images of this height and width.

    Args:
        boxes: [..., 4].
        by: [..., 4] how far the centre moves, in widths and heights, and logarithms of what they grow by.
        weights: that both of these were multiplied with.
        size: of the images.
    """
    corner, extent = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
    shift, growth = by[..., :2], by[..., 2:]
    centre = corner + extent / 2 + shift / weights[0] * extent
    half = extent * (growth / weights[1]).clamp(max=MOST).exp() / 2
    ends = torch.tensor([size[1], size[0]] * 2, device=boxes.device, dtype=boxes.dtype)
    return torch.cat([centre - half, centre + half], -1).clamp(min=0).minimum(ends)


def overlaps(boxes: Tensor) -> Tensor:
    """Of each two of boxes [n, m, 4], what they share over what they cover together: [n, m, m]."""
    one, other = boxes[:, :, None], boxes[:, None]
    sides = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])
    shared = sides.clamp(min=0).prod(-1)
    area = _area(boxes)
    return shared / (area[:, :, None] + area[:, None] - shared).clamp(min=1e-9)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def alone(boxes: Tensor, overlap: float) -> Tensor:
    """Which of boxes [n, m, 4], the likeliest first, are not empty and overlap none before them that is alone: [n, m].

    Each of `ROUNDS` settles all whose rivals are settled (Zheng et al., "Cluster-NMS", 2021): a box may be told wrongly
    only behind a longer chain of boxes that each overlap the next.
    """
    rivals = (overlaps(boxes) > overlap).tril(-1)
    some = _area(boxes) > 0
    found = some
    for _ in range(ROUNDS):
        found = some & ~(rivals & found[:, None]).any(-1)
    return found


def likeliest(boxes: Tensor, scores: Tensor, kinds: Tensor, count: int, overlap: float) -> tuple[Tensor, Tensor]:
    """Places and scores [n, count] of the likeliest boxes, one after the other.

    Those of its kind that overlap one that is taken lose the overlap's share of their score (Bodla et al., "Soft-NMS",
    2017).

    Args:
        boxes: [n, m, 4].
        scores: [n, m] from 0 to 1.
        kinds: [n, m], equal for boxes that may be the same object.
        count: how many are taken, up to m.
        overlap: above which boxes may be the same object.
    """
    near = overlaps(boxes)
    same = (near > overlap) & (kinds[:, :, None] == kinds[:, None])
    left = torch.where(same, 1 - near, 1)
    taken = []
    for _ in range(count):
        score, place = scores.max(1, keepdim=True)
        row = left.gather(1, place[..., None].expand(-1, -1, left.shape[2])).squeeze(1)
        scores = (scores * row).scatter(1, place, -1)
        taken.append((place, score))
    places, found = zip(*taken, strict=True)
    return torch.cat(places, 1), torch.cat(found, 1)


def pooled(maps: list[Tensor], boxes: Tensor, side: int) -> Tensor:
    """What lies within boxes [n, boxes, 4], as [n * boxes, c, side, side] (He et al., "Mask R-CNN", 2017: RoIAlign).

    Each box is read from the one of `maps` [n, c, h/s, w/s], s = 4, 8, 16, 32, that suits its size; of each of side²
    parts the mean of 2x2 places, between cells.
    """
    height, width = (4 * extent for extent in maps[0].shape[2:])
    steps = (torch.arange(2 * side, device=boxes.device, dtype=boxes.dtype) + 0.5) / (2 * side)
    extent = torch.tensor([width, height], device=boxes.device, dtype=boxes.dtype)
    corner, other = 2 * boxes[..., :2] / extent - 1, 2 * boxes[..., 2:] / extent - 1
    x, y = (corner[..., None] + steps * (other - corner)[..., None]).unbind(-2)  # [n, boxes, 2·side]
    columns, rows = x[:, :, None].expand(-1, -1, 2 * side, -1), y[..., None].expand(-1, -1, -1, 2 * side)
    grid = torch.stack([columns, rows], -1).flatten(1, 2)
    level = (torch.log2(_area(boxes).clamp(min=1e-9).sqrt() / USUAL) + USUAL_LEVEL).floor().clamp(0, len(maps) - 1)
    chosen = level.repeat_interleave(2 * side, 1)[:, None, :, None]
    found = torch.zeros(1, device=boxes.device, dtype=boxes.dtype)
    for number, each in enumerate(maps):
        read = functional.grid_sample(each, grid, padding_mode="border", align_corners=False)
        found = torch.where(chosen == number, read, found)
    parts = torch.unflatten(functional.avg_pool2d(found, 2), 2, (-1, side))  # [n, c, boxes, side, side]
    return parts.transpose(1, 2).flatten(0, 1)
