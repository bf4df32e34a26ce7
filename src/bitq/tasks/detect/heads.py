"""What detectors of YOLOv8's kind answer, and the objects that this says there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

import torch
from torch import Tensor

from bitq.batches import described
from bitq.errors import BitqError
from bitq.tasks.detect.boxes import Labelled, corners, overlap

BINS = 16
"""Distances from a cell's centre to a side of its box, 0, 1, … cells, that a map gives logits of (Li et al., 2020)."""

CONFIDENCE, OVERLAP, MOST = 0.001, 0.7, 300
"""Of what is found in an image: the least probability of a class, the overlap from which on the less probable of two
boxes of a class is dropped, and how many boxes are kept. They are those that YOLOv8 is measured with."""

_CONSIDERED = 30_000  # pairs of a box and a class in an image, the most probable ones


@dataclass(frozen=True)
class Heads:
    """An answer, cell by cell of all maps.

    Attributes:
        boxes: left, top, right, bottom in pixels of what the network sees, [n, cells, 4].
        logits: of the classes, [n, cells, classes].
        sides: logits of the distances to left, top, right and bottom, [n, cells, 4, BINS]; None of networks that tell
            boxes otherwise.
        centres: x and y of the cells, in pixels, [cells, 2].
        strides: width of the cells, in pixels, [cells, 1].
    """

    boxes: Tensor
    logits: Tensor
    sides: Tensor | None
    centres: Tensor
    strides: Tensor


def heads_of(output: Any, shape: tuple[int, int]) -> Heads:
    """A network's answer, in training or in evaluation mode.

    Args:
        output: maps [n, 4 · BINS + classes, height, width], one for each stride, in a list or tuple; or a pair of what
            they say in detail and these maps. That is [n, 4 + classes, cells]: centre x, centre y, width and height in
            pixels, then the classes' probabilities.
        shape: height and width of what the network sees.

    Returns:
        With the boxes that were given in detail, if they were; else those that the maps give.

    Raises:
        BitqError: another output.
    """
    decoded, maps = _parts(output)
    flat = torch.cat([each.flatten(2) for each in maps], 2).transpose(1, 2).float()
    sides = flat[..., : 4 * BINS].reshape(*flat.shape[:2], 4, BINS)
    centres, strides = cells_of([(each.shape[2], each.shape[3]) for each in maps], shape)
    centres, strides = centres.to(flat.device), strides.to(flat.device)
    if decoded is None:
        steps = torch.arange(BINS, dtype=sides.dtype, device=sides.device)
        away = (sides.softmax(-1) * steps).sum(-1) * strides  # no product that automatic mixed precision would round
        boxes = torch.cat((centres - away[..., :2], centres + away[..., 2:]), -1)
    else:
        boxes = corners(decoded[:, :4].transpose(1, 2).float())
    return Heads(boxes, flat[..., 4 * BINS :], sides, centres, strides)


def classes_of(output: Any) -> int:
    """How many classes an answer, as `heads_of` takes it, tells apart; BitqError of another output."""
    return _parts(output)[1][0].shape[1] - 4 * BINS


def _parts(output: Any) -> tuple[Tensor | None, list[Tensor]]:
    """What is given in detail, if it is, and the maps."""
    decoded, maps = output if _is_pair(output) else (None, output)
    if isinstance(maps, list | tuple) and maps and all(isinstance(each, Tensor) and each.dim() == 4 for each in maps):
        count, channels = maps[0].shape[:2]
        cells = sum(each[0, 0].numel() for each in maps)
        alike = all(each.shape[:2] == (count, channels) for each in maps)
        fits = decoded is None or decoded.shape == (count, channels - 4 * BINS + 4, cells)
        if alike and channels > 4 * BINS and fits:
            return decoded, list(maps)
    raise BitqError(
        f"detection cannot judge {described(output)}; the output must be a list of maps (n, {4 * BINS} + classes, "
        "height, width), one for each stride, or in evaluation (n, 4 + classes, cells) and this list, as of YOLOv8"
    )


def _is_pair(output: Any) -> bool:
    pair = isinstance(output, list | tuple) and len(output) == 2
    return pair and isinstance(output[0], Tensor) and output[0].dim() == 3


def cells_of(sizes: Sequence[tuple[int, int]], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Centres [cells, 2] and strides [cells, 1] of all maps' cells, row by row, in pixels.

    Args:
        sizes: heights and widths of the maps.
        shape: height and width of what the network sees.

    Raises:
        BitqError: cells that are no squares, or of other widths than powers of two.
    """
    centres, strides = [], []
    for height, width in sizes:
        stride = shape[0] / height
        if shape[1] != stride * width or not log2(stride).is_integer():
            raise BitqError(
                f"a map has {height} x {width} cells for an image of {shape[0]} x {shape[1]} pixels; cells must be "
                "squares of 8, 16, 32, … pixels: give an --image-size that the network's strides divide"
            )
        down, across = ((torch.arange(side) + 0.5) * stride for side in (height, width))
        centres.append(torch.cartesian_prod(down, across).flip(1))
        strides.append(torch.full((height * width, 1), stride))
    return torch.cat(centres), torch.cat(strides)


@dataclass(frozen=True)
class Detected:
    """Objects found in an image, the most probable first.

    Attributes:
        boxes: left, top, right, bottom in pixels of what the network sees, [k, 4].
        classes: int64 [k].
        scores: probabilities of their classes, [k].
    """

    boxes: Tensor
    classes: Tensor
    scores: Tensor


def found_in_image(heads: Heads, image: int) -> Detected:
    """The objects that an answer says are in an image, as `found_among`."""
    return found_among(heads.boxes[image], heads.logits[image].sigmoid())[0]


def found_among(boxes: Tensor, scores: Tensor) -> tuple[Detected, Tensor]:
    """The objects that cells say there are, and the places of their cells, int64 [k].

    A cell may give several, of different classes. Of two boxes of one class that overlap by more than `OVERLAP` the
    more probable one stays (non-maximum suppression).

    Args:
        boxes: left, top, right, bottom, [cells, 4].
        scores: probabilities of the classes, [cells, classes].
    """
    cells, classes = (scores > CONFIDENCE).nonzero(as_tuple=True)
    likely = scores[cells, classes]
    order = likely.sort(descending=True, stable=True).indices[:_CONSIDERED]
    kept = order[kept_of(Labelled(boxes[cells[order]], classes[order]))]
    return Detected(boxes[cells[kept]], classes[kept], likely[kept]), cells[kept]


def kept_of(given: Labelled) -> Tensor:
    """Places of the boxes that stay, at most `MOST`, of boxes whose most probable comes first."""
    kept: list[Tensor] = []
    left = torch.arange(len(given.boxes), device=given.boxes.device)
    while len(left) and len(kept) < MOST:
        first, left = left[0], left[1:]
        kept.append(first)
        same = given.classes[left] == given.classes[first]
        left = left[~(same & (overlap(given.boxes[left], given.boxes[first]) > OVERLAP))]
    return torch.stack(kept) if kept else left
