"""The pixel decoder of Mask2Former and MaskDINO: a backbone's maps refined together, and an embedding of every pixel.

(Cheng et al., "Masked-attention Mask Transformer", 2022; Li et al., "Mask DINO", 2023.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitq.networks.parts.deformable import Refinement, Sizes, cells, waves

GROUPS = 32  # of group normalization


class PixelDecoder(nn.Module):
    """Maps of strides 4, 8, 16 and 32 to cells of strides 8, 16, 32 and, if `coarser`, 64; and pixels of stride 4.

    Args:
        channels: of the four maps.
        width: channels of the results.
        heads, points: of the attention among maps.
        hidden: channels within the perceptrons.
        layers: how often the cells are refined.
        coarser: whether cells of stride 64 are made.
    """

    def __init__(
        self,
        channels: tuple[int, int, int, int],
        width: int,
        heads: int,
        points: int,
        hidden: int,
        layers: int,
        coarser: bool,
    ) -> None:
        super().__init__()
        fine, *others = channels
        self.input_proj = nn.ModuleList(_normed(nn.Conv2d(inputs, width, 1)) for inputs in others)
        if coarser:
            self.input_proj.append(_normed(nn.Conv2d(others[-1], width, 3, stride=2, padding=1)))
        levels = len(self.input_proj)
        self.level_embed = nn.Parameter(torch.randn(levels, width))
        self.layers = nn.ModuleList(Refinement(width, heads, levels, points, hidden) for _ in range(layers))
        self.adapter_1 = _normed(nn.Conv2d(fine, width, 1, bias=False))
        self.layer_1 = _normed(nn.Conv2d(width, width, 3, padding=1, bias=False))
        self.mask_features = nn.Conv2d(width, width, 1)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Sizes, Tensor]:
        """Cells [n, cells, width], the sizes of their maps, and pixels [n, width, h/4, w/4]."""
        fine, *others = maps
        given = [*others, others[-1]][: len(self.input_proj)]
        made = [project(x) for project, x in zip(self.input_proj, given, strict=True)]
        sizes = [(x.shape[2], x.shape[3]) for x in made]
        centres, spans = cells(sizes, fine)
        levels = [level.expand(h * w, -1) for level, (h, w) in zip(self.level_embed, sizes, strict=True)]
        positions = waves(centres.flip(-1), self.level_embed.shape[1] // 2) + torch.cat(levels)
        x = torch.cat([each.flatten(2) for each in made], 2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x, positions, centres, spans[None, None], sizes)
        height, width = sizes[0]
        finest = torch.unflatten(x[:, : height * width].transpose(1, 2), 2, (height, width))
        up = functional.interpolate(finest, size=fine.shape[2:], mode="bilinear", align_corners=False)
        pixels: Tensor = self.mask_features(functional.relu(self.layer_1(self.adapter_1(fine) + up)))
        return x, sizes, pixels


def _normed(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.GroupNorm(min(GROUPS, convolution.out_channels), convolution.out_channels))
