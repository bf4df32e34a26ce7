"""What networks find in images, drawn over them, as small JPEG files: for metrics that say how."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from bitq.batches import Batch, forward, pairs, to_device

Drawer = Callable[[Image.Image, Any, Any, int], Image.Image]
"""(an image as the network sees it, the network's output for its batch, the batch's target, its place there) to the
same image with what was found in it."""

LONGEST, QUALITY = 360, 80
"""Pixels of a picture's longer side, and its quality as JPEG."""

_CPU = torch.device("cpu")
_DRAWERS: dict[Any, Drawer] = {}


def drawn_by(drawer: Drawer) -> Callable[[Any], Any]:
    """Say of a metric how what it judges is drawn."""

    def register(metric: Any) -> Any:
        _DRAWERS[metric] = drawer
        return metric

    return register


def has_pictures(metric: Any) -> bool:
    """Whether what a metric judges can be drawn."""
    return metric in _DRAWERS


def pictures(model: nn.Module, batches: Iterable[Batch], metric: Any, count: int) -> tuple[bytes, ...]:
    """What a network in evaluation mode finds in the first images, at most `count`, as JPEG files."""
    device = next((each.device for each in model.parameters()), _CPU)
    found: list[bytes] = []
    with torch.inference_mode():
        for inputs, target in pairs(model, batches):
            if not (isinstance(inputs, Tensor) and inputs.dim() == 4 and inputs.shape[1] in (1, 3)):
                break
            output = to_device(forward(model, to_device(inputs, device)), _CPU)
            for place in range(min(len(inputs), count - len(found))):
                image = _DRAWERS[metric](shown(inputs[place]), output, to_device(target, _CPU), place)
                found.append(_written(image))
            if len(found) >= count:
                break
    return tuple(found)


def shown(x: Tensor) -> Image.Image:
    """An image [3 or 1, h, w] as a network sees it, for people: numbers that lie in [0, 1] are taken for shades, others
    are stretched to that, channel by channel, as their normalization is not known."""
    x = x.detach().float().cpu()
    if x.min() < 0 or x.max() > 1:
        least, most = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
        x = (x - least) / (most - least).clamp(min=1e-12)
    pixels = (x.nan_to_num() * 255).round().to(torch.uint8).expand(3, -1, -1)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy(), "RGB")


def hue(number: int) -> tuple[int, int, int]:
    """A colour for a class: neighbouring numbers get unlike ones."""
    turned = Image.new("HSV", (1, 1), (int(number * 0.618034 * 256) % 256, 200, 235)).convert("RGB")
    red, green, blue = turned.tobytes()
    return red, green, blue


def _written(image: Image.Image) -> bytes:
    image.thumbnail((LONGEST, LONGEST))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY)
    return content.getvalue()
