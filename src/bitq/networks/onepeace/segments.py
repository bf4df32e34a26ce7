"""Queries that each find one segment of an image (Cheng et al., "Masked-attention Mask Transformer", 2022)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitq.networks.onepeace.adapted import AdaptedTrunk
from bitq.networks.parts.asking_layer import AskingLayer
from bitq.networks.parts.deformable import Sizes, cells, waves
from bitq.networks.parts.perceptron import Perceptron
from bitq.networks.parts.pixels import PixelDecoder


class Segments(NamedTuple):
    """What queries found.

    Attributes:
        classes: scores [n, queries, classes + 1], the last for none, of which the softmax is the probability.
        masks: scores [n, queries, h/4, w/4], of which the sigmoid is.
    """

    classes: Tensor
    masks: Tensor


class MaskedLayer(AskingLayer):
    """Queries look into a map where their masks are, then at one another: [n, queries, width] to the same.

    Args:
        width, heads: of the attention.
        hidden: channels within the perceptron.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__(nn.MultiheadAttention(width, heads, batch_first=True), width, heads, hidden)
        self.heads = heads

    def forward(self, x: Tensor, positions: Tensor, memory: Tensor, places: Tensor, hidden: Tensor) -> Tensor:
        """See the class.

        Args:
            x: the queries.
            positions: [queries, width], added to what asks and is asked.
            memory: [n, cells, width].
            places: [1, cells, width], added to the cells that are asked.
            hidden: [n, queries, cells] which cells queries do not see.
        """
        seen = hidden.repeat_interleave(self.heads, 0)
        found = self.cross_attn(x + positions, memory + places, memory, attn_mask=seen, need_weights=False)[0]
        return self.thought(self.asked(self.norm1(x + found), positions))


class MaskedDecoder(nn.Module):
    """Segments of cells and pixels as `PixelDecoder` gives them.

    Args:
        width, heads, hidden: as of `MaskedLayer`.
        layers: how often the queries are refined, each time by another map, the coarsest first.
        queries: how many segments are looked for.
        classes: that they can be of.
    """

    def __init__(self, width: int, heads: int, hidden: int, layers: int, queries: int, classes: int) -> None:
        super().__init__()
        self.query_feat = nn.Parameter(torch.randn(queries, width))
        self.query_embed = nn.Parameter(torch.randn(queries, width))
        self.level_embed = nn.Parameter(torch.randn(3, width))
        self.layers = nn.ModuleList(MaskedLayer(width, heads, hidden) for _ in range(layers))
        self.post_norm = nn.LayerNorm(width)
        self.cls_embed = nn.Linear(width, classes + 1)
        self.mask_embed = Perceptron(width, width, width, 3)

    def forward(self, memory: Tensor, sizes: Sizes, pixels: Tensor) -> Segments:
        """What the last layer finds."""
        centres, _ = cells(sizes, memory)
        counts = [height * width for height, width in sizes]
        maps = torch.split(memory, counts, 1)[::-1]
        places = torch.split(waves(centres.flip(-1), memory.shape[-1] // 2), counts, 1)[::-1]
        levels = list(zip(maps, places, self.level_embed, sizes[::-1], strict=True))
        x = self.query_feat.expand(len(memory), -1, -1)
        masks = self._masks(x, pixels)
        for number, layer in enumerate(self.layers):
            map, place, level, size = levels[number % len(levels)]
            x = layer(x, self.query_embed, map + level, place, _hidden(masks, size))
            masks = self._masks(x, pixels)
        return Segments(self.cls_embed(self.post_norm(x)), masks)

    def _masks(self, x: Tensor, pixels: Tensor) -> Tensor:
        return torch.unflatten(self.mask_embed(self.post_norm(x)) @ pixels.flatten(2), 2, pixels.shape[2:])


def _hidden(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Which cells of a map of this size lie outside of masks; none, where all would."""
    sized = functional.interpolate(masks.detach(), size=size, mode="bilinear", align_corners=False)
    outside = sized.flatten(2) < 0
    return outside & ~outside.all(-1, keepdim=True)


class MaskedSegmenter(nn.Module):
    """Classes of pixels in images [n, 3, h, w].

    In evaluation probabilities [n, classes, h, w], of which several may be high; in training `Segments` of the last
    layer.

    Args:
        backbone: gives maps of strides 4, 8, 16 and 32.
        classes: that pixels can be of.
        queries: how many segments are looked for.
        width, heads, points, hidden: channels, heads and places of the attention, channels within the perceptrons.
        layers: how often cells and queries are refined.
    """

    def __init__(
        self,
        backbone: AdaptedTrunk,
        classes: int = 150,
        queries: int = 200,
        width: int = 1024,
        heads: int = 32,
        points: int = 4,
        hidden: int = 4096,
        layers: tuple[int, int] = (6, 9),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pixel_decoder = PixelDecoder(backbone.channels, width, heads, points, hidden, layers[0], coarser=False)
        self.transformer_decoder = MaskedDecoder(width, heads, hidden, layers[1], queries, classes)

    def forward(self, x: Tensor) -> Any:
        """See the class."""
        found: Segments = self.transformer_decoder(*self.pixel_decoder(self.backbone(x)))
        if self.training:
            return found
        classes = found.classes.softmax(-1)[..., :-1].transpose(1, 2)
        told = torch.unflatten(classes @ found.masks.sigmoid().flatten(2), 2, found.masks.shape[2:])
        return functional.interpolate(told, size=x.shape[2:], mode="bilinear", align_corners=False)
