"""Swin Transformer (Liu et al., "Swin Transformer", 2021), as a backbone that gives maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitq.networks.parts.squares import joined, split, ways

MASKED = -100.0  # Added to the scores of tokens that only a shift brought together.


class WindowAttention(nn.Module):
    """Attention among the tokens of each window: [windows, side², width] to the same.

    Args:
        width: channels.
        heads: of the attention.
        side: of a window, in tokens.
    """

    index: Tensor

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_position_bias_table = nn.Embedding((2 * side - 1) ** 2, heads)
        self.register_buffer("index", ways(side), persistent=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """See the class; `mask` [windows of an image, 1, side², side²] is added to the scores of every head."""
        q, k, v = torch.unflatten(self.qkv(x), -1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        scores = scores + self.relative_position_bias_table(self.index).permute(2, 0, 1)
        scores = torch.unflatten(scores, 0, (-1, len(mask))) + mask
        mixed = scores.flatten(0, 1).softmax(-1) @ v
        y: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return y


class WindowBlock(nn.Module):
    """Attention within windows and a perceptron beside shortcuts: [n, h, w, width] to the same.

    Args:
        width, heads, side: as for `WindowAttention`.
        shift: by how many tokens the windows are moved, so that others meet.
    """

    def __init__(self, width: int, heads: int, side: int, shift: int) -> None:
        super().__init__()
        self.side, self.shift = side, shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, side)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        height, width = x.shape[1:3]
        y = functional.pad(self.norm1(x), (0, 0, 0, -width % self.side, 0, -height % self.side))
        rows, columns = y.shape[1:3]
        mask = self._mask(rows, columns, x)
        y = split(torch.roll(y, (-self.shift, -self.shift), (1, 2)), self.side)
        y = joined(self.attn(y, mask), self.side, (rows, columns))
        y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y[:, :height, :width]
        z: Tensor = x + self.mlp(self.norm2(x))
        return z

    def _mask(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """What keeps tokens of one window apart that the shift brought from opposite edges."""
        down, across = (
            (torch.arange(extent, device=like.device) >= extent - self.side).to(like.dtype)
            + (torch.arange(extent, device=like.device) >= extent - self.shift).to(like.dtype)
            for extent in (rows, columns)
        )
        regions = split((3 * down[:, None] + across)[None, :, :, None], self.side)
        apart = regions != regions.transpose(1, 2)
        return MASKED * (apart if self.shift else torch.zeros_like(apart)).to(like.dtype)[:, None]


class PatchMerging(nn.Module):
    """Four neighbours as one: [n, h, w, width] to [n, ceil(h/2), ceil(w/2), 2 * width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = functional.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        parts = [x[:, down::2, across::2] for across in (0, 1) for down in (0, 1)]
        y: Tensor = self.reduction(self.norm(torch.cat(parts, -1)))
        return y


class SwinMaps(nn.Module):
    """Images [n, 3, h, w], height and width multiples of 4, to maps of strides 4, 8, 16 and 32.

    Their channels are 1, 2, 4 and 8 times `width`. By default it is Swin-L with windows of 12x12.

    Args:
        width: channels of the first map.
        depths: blocks of the four stages.
        heads: of the attention of the four stages.
        side: of a window, in tokens.
    """

    def __init__(
        self,
        width: int = 192,
        depths: tuple[int, int, int, int] = (2, 2, 18, 2),
        heads: tuple[int, int, int, int] = (6, 12, 24, 48),
        side: int = 12,
    ) -> None:
        super().__init__()
        self.channels = (width, 2 * width, 4 * width, 8 * width)
        self.patch_embed = nn.Conv2d(3, width, 4, stride=4)
        self.patch_norm = nn.LayerNorm(width)
        self.stages = nn.ModuleList(
            nn.Sequential(*(WindowBlock(own, parts, side, side // 2 * (block % 2)) for block in range(depth)))
            for own, depth, parts in zip(self.channels, depths, heads, strict=True)
        )
        self.downsample = nn.ModuleList(PatchMerging(own) for own in self.channels[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(own) for own in self.channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """See the class."""
        y: Tensor = self.patch_norm(self.patch_embed(x).movedim(1, -1))
        maps = []
        for number, (stage, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            if number:
                y = self.downsample[number - 1](y)
            y = stage(y)
            maps.append(norm(y).movedim(-1, 1))
        return maps
