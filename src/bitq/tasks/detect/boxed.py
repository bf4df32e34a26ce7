"""Found objects drawn in their images."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageDraw

from bitq.pictures import hue
from bitq.tasks.detect.boxes import Truth
from bitq.tasks.detect.heads import Detected, found_in_image, heads_of

LEAST_PROBABLE = 0.25
"""Boxes that are less probable are not drawn."""


def boxed(image: Image.Image, output: Any, target: Truth, place: int) -> Image.Image:
    """An image with the boxes that were found in it, as `with_boxes`; see `bitq.pictures.Drawer`."""
    return with_boxes(image, found_in_image(heads_of(output, target.shape), place))


def with_boxes(image: Image.Image, found: Detected) -> Image.Image:
    """An image with boxes, each with the number of its class and its probability in percent."""
    draw = ImageDraw.Draw(image)
    size = max(image.size) / 28
    width = max(1, round(size / 8))
    for box, number, score in zip(found.boxes.tolist(), found.classes.tolist(), found.scores.tolist(), strict=True):
        if score < LEAST_PROBABLE:
            break
        colour = hue(number)
        draw.rectangle(_upright(box), outline=colour, width=width)
        corner, told = (max(box[0], 0.0), max(box[1], 0.0)), f"{number}: {100 * score:.0f} %"
        draw.rectangle(draw.textbbox(corner, told, font_size=size), fill=colour)
        draw.text(corner, told, fill="black", font_size=size)
    return image


def _upright(box: list[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    return left, top, max(left, right), max(top, bottom)
