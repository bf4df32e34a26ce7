"""Classes of pixels drawn over their images."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

from bitq.pictures import hue

STRENGTH = 0.6
"""Of the colours over the image, in [0, 1]."""


def coloured(image: Image.Image, output: Tensor, target: Tensor, place: int) -> Image.Image:
    """An image whose pixels have the colours of the classes that were found; see `bitq.pictures.Drawer`."""
    found = output[place].argmax(0).numpy()
    palette = np.array([hue(number) for number in range(output.shape[1])], np.uint8)
    over = Image.fromarray(palette[found], "RGB").resize(image.size, Image.Resampling.NEAREST)
    return Image.blend(image, over, STRENGTH)
