"""The trunk of ONE-PEACE with an adapter for dense tasks (Chen et al., "Vision Transformer Adapter", 2023).

Small convolutions make maps of an image, into which the tokens look before every quarter of the layers, and which look
at the tokens behind it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitq.networks.onepeace.trunk import BiasedAttention, EncoderLayer, Patches, Trunk, TrunkSize, places, table
from bitq.networks.parts.deformable import DeformableAttention, Sizes, cells

EPSILON = 1e-6
PARTS = 4  # that the layers are in
POINTS = 4  # that each head reads of a map
EXTRA = 2  # times that the maps look once more at last


class TabledLayer(EncoderLayer):
    """A layer with its own scores of how tokens lie to one another: [n, tokens, width] to the same.

    Args:
        width, heads, hidden: as of `TrunkSize`.
        side: patches along the height and the width of an image.
    """

    def __init__(self, width: int, heads: int, hidden: int, side: int) -> None:
        super().__init__(BiasedAttention(width, heads), width, hidden)
        self.rel_pos_table = table(side, heads)

    def forward(self, x: Tensor, between: Tensor) -> Tensor:
        """See the class; `between` is as of `places`."""
        return super().forward(x, self.rel_pos_table(between).permute(2, 0, 1))


class Prior(nn.Module):
    """Images [n, 3, h, w] to maps of `width` channels and of strides 4, 8, 16 and 32.

    Args:
        channels: of the first convolutions.
        width: see above.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_convolved(3, channels, 2),
            *_convolved(channels, channels, 1),
            *_convolved(channels, channels, 1),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.conv2 = nn.Sequential(*_convolved(channels, 2 * channels, 2))
        self.conv3 = nn.Sequential(*_convolved(2 * channels, 4 * channels, 2))
        self.conv4 = nn.Sequential(*_convolved(4 * channels, 4 * channels, 2))
        self.fc1 = nn.Conv2d(channels, width, 1)
        self.fc2 = nn.Conv2d(2 * channels, width, 1)
        self.fc3 = nn.Conv2d(4 * channels, width, 1)
        self.fc4 = nn.Conv2d(4 * channels, width, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """See the class."""
        c1 = self.stem(x)
        c2 = self.conv2(c1)
        c3 = self.conv3(c2)
        return [self.fc1(c1), self.fc2(c2), self.fc3(c3), self.fc4(self.conv4(c3))]


def _convolved(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


class Look(nn.Module):
    """What queries find in maps: [n, queries, width] to the same.

    Args:
        width, heads: of the attention.
        levels: how many maps.
    """

    def __init__(self, width: int, heads: int, levels: int) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width, eps=EPSILON)
        self.feat_norm = nn.LayerNorm(width, eps=EPSILON)
        self.attn = DeformableAttention(width, heads, levels, POINTS, values=width // 2)

    def look(self, x: Tensor, own: Sizes, maps: Tensor, sizes: Sizes) -> Tensor:
        """See the class.

        Args:
            x: the queries, cells of maps of sizes `own`.
            own: see above.
            maps: [n, cells, width].
            sizes: of the maps.
        """
        centres, _ = cells(own, x)
        _, spans = cells(sizes, x)
        y: Tensor = self.attn(self.query_norm(x), centres, spans[None, None], self.feat_norm(maps), sizes)
        return y


class Injector(Look):
    """Tokens that take in what maps hold near them: as `look` takes them, to [n, queries, width]."""

    def __init__(self, width: int, heads: int, levels: int) -> None:
        super().__init__(width, heads, levels)
        self.gamma = nn.Parameter(torch.full((width,), EPSILON))

    def forward(self, x: Tensor, own: Sizes, maps: Tensor, sizes: Sizes) -> Tensor:
        """See the class."""
        return x + self.gamma * self.look(x, own, maps, sizes)


class CellPerceptron(nn.Module):
    """A perceptron of every cell, with a 3x3 filter of each channel and map within: [n, cells, width] to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = width // 4
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, sizes: Sizes) -> Tensor:
        """See the class; `sizes` are those of the maps."""
        filtered = [self.dwconv(y).flatten(2) for y in maps_of(self.fc1(x), sizes)]
        y: Tensor = self.fc2(functional.gelu(torch.cat(filtered, 2).transpose(1, 2)))
        return y


def maps_of(x: Tensor, sizes: Sizes) -> list[Tensor]:
    """Cells [n, cells, width] as maps [n, width, h, w]."""
    parts = torch.split(x.transpose(1, 2), [height * width for height, width in sizes], 2)
    return [torch.unflatten(part, 2, size) for part, size in zip(parts, sizes, strict=True)]


class Extractor(Look):
    """Cells of maps that take in what tokens near them hold: as `look` takes them, to [n, cells, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, 1)
        self.ffn = CellPerceptron(width)
        self.ffn_norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, x: Tensor, own: Sizes, maps: Tensor, sizes: Sizes) -> Tensor:
        """See the class."""
        x = x + self.look(x, own, maps, sizes)
        y: Tensor = x + self.ffn(self.ffn_norm(x), own)
        return y


class Interaction(nn.Module):
    """A quarter of the layers, before which tokens look into three maps, and behind which these look at tokens.

    Args:
        width, heads: of the attention.
        extra: how often the maps look once more.
    """

    def __init__(self, width: int, heads: int, extra: int) -> None:
        super().__init__()
        self.injector = Injector(width, heads, 3)
        self.extractor = Extractor(width, heads)
        self.extra_extractors = nn.ModuleList(Extractor(width, heads) for _ in range(extra))

    def forward(
        self, tokens: Tensor, own: Sizes, maps: Tensor, sizes: Sizes, layers: Iterable[nn.Module], between: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens and cells as they come out.

        Args:
            tokens: [n, 1 + patches, width], that of the image first.
            own: height and width of the image in patches.
            maps: [n, cells, width].
            sizes: of the maps.
            layers: that the tokens go through.
            between: as of `places`.
        """
        x = torch.cat([tokens[:, :1], self.injector(tokens[:, 1:], own, maps, sizes)], 1)
        for layer in layers:
            x = layer(x, between)
        for extractor in (self.extractor, *self.extra_extractors):
            maps = extractor(maps, sizes, x[:, 1:], own)
        return x, maps


class AdaptedTrunk(nn.Module):
    """Images [n, 3, 16·side, 16·side] to maps of `size.width` channels and of strides 4, 8, 16 and 32.

    Args:
        size: of the layers, which are a multiple of four.
        side: patches along the height and the width of an image; even.
        prior: channels of the first convolutions.

    Attributes:
        channels: of the maps.
        between: [tokens, tokens] as of `places`.
    """

    between: Tensor

    def __init__(self, size: TrunkSize, side: int, prior: int) -> None:
        super().__init__()
        width, heads, hidden, layers = size
        self.side = side
        self.channels = (width, width, width, width)
        self.level_embed = nn.Parameter(torch.randn(3, width))
        self.image_adapter = Patches(width, side, classed=True)
        self.encoder = Trunk(TabledLayer(width, heads, hidden, side) for _ in range(layers))
        self.register_buffer("between", places(side), persistent=False)
        self.spm = Prior(prior, width)
        self.interactions = nn.ModuleList(
            Interaction(width, heads, EXTRA if part == PARTS - 1 else 0) for part in range(PARTS)
        )
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.norm1 = nn.BatchNorm2d(width)
        self.norm2 = nn.BatchNorm2d(width)
        self.norm3 = nn.BatchNorm2d(width)
        self.norm4 = nn.BatchNorm2d(width)

    def forward(self, images: Tensor) -> list[Tensor]:
        """See the class."""
        fine, *others = self.spm(images)
        sizes: Sizes = [(each.shape[2], each.shape[3]) for each in others]
        own: Sizes = [(self.side, self.side)]
        parts = zip(others, self.level_embed, strict=True)
        inner = torch.cat([each.flatten(2).transpose(1, 2) + level for each, level in parts], 1)
        tokens, told = self.image_adapter.tokens(images), []
        count = len(self.encoder.layers) // PARTS
        for part, interaction in enumerate(self.interactions):
            layers = self.encoder.layers[part * count : (part + 1) * count]
            tokens, inner = interaction(tokens, own, inner, sizes, layers, self.between)
            told += maps_of(tokens[:, 1:], own)
        maps = maps_of(inner, sizes)
        maps = [self.up(maps[0]) + fine, *maps]
        norms = (self.norm1, self.norm2, self.norm3, self.norm4)
        return [norm(y + _sized(x, y)) for norm, y, x in zip(norms, maps, told, strict=True)]


def _sized(x: Tensor, like: Tensor) -> Tensor:
    if x.shape[2:] == like.shape[2:]:
        return x
    return functional.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)
