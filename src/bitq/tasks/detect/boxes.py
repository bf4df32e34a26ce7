"""Boxes: how far two overlap, and what a batch of images is labelled with."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import pi
from typing import NamedTuple

import torch
from torch import Tensor

ABSENT = -1
"""Class where an image has fewer objects than another."""

_LEAST = 1e-9  # of areas and lengths that divide


@dataclass(frozen=True)
class Truth:
    """The objects in the images of a batch, and how these were letterboxed.

    A place (x, y) of an image became (x, y) · scale + margin in what the network sees. Images have up to `most`
    objects, in front; the rest is 0, its class `ABSENT`.

    Attributes:
        boxes: left, top, right, bottom in pixels of the images as they are kept, [n, most, 4].
        classes: int64 [n, most].
        crowds: whether a box stands around many objects that are not told apart, bool [n, most].
        areas: of the objects, which may cover less than their boxes, in pixels of the images, [n, most].
        scales, margins: across and down, [n, 2].
        sizes: width and height of the images as they are kept, [n, 2].
        shape: height and width of what the network sees.
    """

    boxes: Tensor
    classes: Tensor
    crowds: Tensor
    areas: Tensor
    scales: Tensor
    margins: Tensor
    sizes: Tensor
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: slice | Tensor) -> Truth:
        """Of the images at `index`."""
        tensors = {each.name: getattr(self, each.name)[index] for each in fields(self) if each.name != "shape"}
        return replace(self, **tensors)

    def learned(self, image: int) -> Labelled:
        """What an image teaches, as the network sees it: its objects `taught`."""
        boxes = self.boxes[image] * self.scales[image].repeat(2) + self.margins[image].repeat(2)
        whole = self.taught(image)
        return Labelled(boxes[whole], self.classes[image][whole])

    def taught(self, image: int) -> Tensor:
        """Which objects of an image are no crowds and have an extent: bool [most]."""
        boxes = self.boxes[image]
        return (self.classes[image] != ABSENT) & ~self.crowds[image] & (boxes[:, 2:] > boxes[:, :2]).all(1)

    def restored(self, boxes: Tensor, image: int) -> Tensor:
        """Boxes [k, 4] in pixels of what the network sees, in those of an image, and cut to it."""
        found = (boxes - self.margins[image].repeat(2)) / self.scales[image].repeat(2)
        return found.clamp(min=0).minimum(self.sizes[image].repeat(2))


class Labelled(NamedTuple):
    """Boxes [k, 4], and their classes int64 [k]."""

    boxes: Tensor
    classes: Tensor


def corners(boxes: Tensor) -> Tensor:
    """Left, top, right, bottom from centre x, centre y, width, height: [..., 4]."""
    centres, halves = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centres - halves, centres + halves), -1)


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes [..., 4], whose other axes are broadcast."""
    shared = _areas(torch.cat((first[..., :2].maximum(second[..., :2]), first[..., 2:].minimum(second[..., 2:])), -1))
    return shared / (_areas(first) + _areas(second) - shared).clamp(min=_LEAST)


def complete_overlap(first: Tensor, second: Tensor) -> Tensor:
    """Complete intersection over union: less where centres lie apart or shapes differ (Zheng et al., 2020: CIoU).

    Args:
        first, second: boxes [..., 4], whose other axes are broadcast.

    Returns:
        IoU − d²/c² − αv: d is the distance of the centres, c the diagonal of what encloses both, v how far the aspects'
        angles differ, (4/π²) (atan(w/h) − atan(w'/h'))², and α = v / (1 − IoU + v), through which no gradient goes.
    """
    shared = overlap(first, second)
    hull = torch.cat((first[..., :2].minimum(second[..., :2]), first[..., 2:].maximum(second[..., 2:])), -1)
    diagonal = (hull[..., 2:] - hull[..., :2]).square().sum(-1).clamp(min=_LEAST)
    apart = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]).square().sum(-1) / 4
    unlike = 4 / pi**2 * (_angles(first) - _angles(second)).square()
    with torch.no_grad():
        share = unlike / (1 - shared + unlike).clamp(min=_LEAST)
    return shared - apart / diagonal - share * unlike


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def _angles(boxes: Tensor) -> Tensor:
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return torch.atan2(width, height.clamp(min=_LEAST))
