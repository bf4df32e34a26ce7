"""Attention that reads few places of several maps (Zhu et al., "Deformable DETR", 2021), in plain PyTorch."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor, nn
from torch.nn import functional

Sizes = list[tuple[int, int]]
"""Height and width of each map, in cells."""


class DeformableAttention(nn.Module):
    """Every query reads a few places of each map, near its own, and mixes what it finds there (paper, Eq. 3).

    The mixing is a product of two activations, one for each head of each query. The four neighbours of a place are
    weighted as they are read (bilinearly), which is counted nowhere.

    Args:
        width: channels.
        heads, levels, points: places are `points` of each of the `levels` maps, others for each head.
        values: channels of what is found, which all heads share; `width` where none are said.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int, values: int | None = None) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, values or width)
        self.output_proj = nn.Linear(values or width, width)
        nn.init.zeros_(self.sampling_offsets.weight)
        self.sampling_offsets.bias = nn.Parameter(_rays(heads, levels, points))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)

    def forward(self, queries: Tensor, centres: Tensor, spans: Tensor, memory: Tensor, sizes: Sizes) -> Tensor:
        """[n, queries, width].

        Args:
            queries: [n, queries, width].
            centres: [n, queries, 2] column and row of each, in images of width and height 1.
            spans: [n or 1, queries or 1, levels, 2] what an offset of 1 means there.
            memory: [n, cells of all maps, width], row by row.
            sizes: of the maps.
        """
        shape = (self.heads, self.levels, self.points, 2)
        offsets = torch.unflatten(self.sampling_offsets(queries), -1, shape)
        places = centres[:, :, None, None, None] + offsets * spans[:, :, None, :, None]
        grids = (2 * places - 1).transpose(1, 2).flatten(0, 1)
        weights = torch.unflatten(self.attention_weights(queries), -1, (self.heads, -1)).softmax(-1)
        values = torch.unflatten(self.value_proj(memory), -1, (self.heads, -1)).permute(0, 2, 3, 1).flatten(0, 1)
        found = []
        for level, value in enumerate(torch.split(values, [height * width for height, width in sizes], 2)):
            maps, grid = torch.unflatten(value, -1, sizes[level]), grids[:, :, level]
            found.append(functional.grid_sample(maps, grid, align_corners=False))
        mixed = weights.transpose(1, 2).flatten(0, 1).unsqueeze(2) @ torch.cat(found, -1).permute(0, 2, 3, 1)
        y = torch.unflatten(mixed.squeeze(2), 0, (-1, self.heads)).transpose(1, 2).flatten(2)
        attended: Tensor = self.output_proj(y)
        return attended


def _rays(heads: int, levels: int, points: int) -> Tensor:
    """First offsets: the points of each head lie one cell behind the other in a direction of its own (paper, A.4)."""
    angles = torch.arange(heads) * (2 * pi / heads)
    rays = torch.stack([angles.cos(), angles.sin()], -1)
    rays = rays / rays.abs().amax(-1, keepdim=True)
    steps = torch.arange(1.0, points + 1)
    return (rays[:, None, None] * steps[:, None]).expand(-1, levels, -1, -1).flatten()


class Refinement(nn.Module):
    """Cells of all maps, each told by places of all: [n, cells, width] to the same.

    Args:
        width, heads, levels, points: as for `DeformableAttention`.
        hidden: channels within the perceptron.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(width, heads, levels, points)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, positions: Tensor, centres: Tensor, spans: Tensor, sizes: Sizes) -> Tensor:
        """See the class; `positions` [1, cells, width] are added to what asks."""
        x = self.norm1(x + self.self_attn(x + positions, centres, spans, x, sizes))
        y: Tensor = self.norm2(x + self.linear2(functional.relu(self.linear1(x))))
        return y


def waves(places: Tensor, channels: int) -> Tensor:
    """Places [..., k] as sines and cosines of ever longer waves: [..., k * channels] (Vaswani et al., 2017)."""
    lengths = 10000 ** (2 * torch.arange(channels // 2, device=places.device, dtype=places.dtype) / channels)
    angles = 2 * pi * places[..., None] / lengths
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-3)


def cells(sizes: Sizes, like: Tensor) -> tuple[Tensor, Tensor]:
    """Of the cells of all maps, row by row, the centres [1, cells, 2] and, of each map, what a cell spans [levels, 2].

    Both are along the columns, then along the rows of an image of width and height 1.

    Args:
        sizes: of the maps.
        like: of the type and on the device of the result.
    """
    centres = []
    for height, width in sizes:
        row, column = (
            (torch.arange(extent, device=like.device, dtype=like.dtype) + 0.5) / extent for extent in (height, width)
        )
        centres.append(torch.stack([column.repeat(height), row.repeat_interleave(width)], -1))
    spans = torch.tensor([(1 / width, 1 / height) for height, width in sizes], device=like.device, dtype=like.dtype)
    return torch.cat(centres)[None], spans
