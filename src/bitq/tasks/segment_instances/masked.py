"""Masks of found objects drawn in their images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from bitq.pictures import hue
from bitq.tasks.detect.boxed import LEAST_PROBABLE, with_boxes
from bitq.tasks.detect.heads import found_among
from bitq.tasks.segment_instances.mixtures import mixed_of
from bitq.tasks.segment_instances.truth import Instances

STRENGTH = 0.5
"""Of the colours over the image, in [0, 1]."""


def masked(image: Image.Image, output: Any, target: Instances, place: int) -> Image.Image:
    """An image with the objects that were found in it, each pixel in the colour of the most probable one's class, and
    with their boxes; see `bitq.pictures.Drawer`."""
    mixed = mixed_of(output)
    heads = mixed.heads(target.boxes.shape)
    found, cells = found_among(heads.boxes[place], heads.logits[place].sigmoid())
    pixels = np.array(image, np.float32)
    over = pixels.copy()
    likely = int((found.scores >= LEAST_PROBABLE).sum())
    for box, number, cell in reversed(list(zip(found.boxes, found.classes.tolist(), cells, strict=True))[:likely]):
        logits = torch.einsum("m,mhw->hw", mixed.mixtures[place, :, cell].float(), mixed.prototypes[place].float())
        fine = functional.interpolate(logits[None, None], image.size[::-1], mode="bilinear")[0, 0]
        left, top, right, bottom = (max(0, int(side)) for side in box.ceil())
        within = slice(top, bottom), slice(left, right)
        over[within][(fine[within] > 0).numpy()] = hue(number)
    pixels += STRENGTH * (over - pixels)
    return with_boxes(Image.fromarray(pixels.round().astype(np.uint8), "RGB"), found)
