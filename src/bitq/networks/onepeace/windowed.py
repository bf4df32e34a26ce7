"""The trunk of ONE-PEACE as a backbone of detectors (Li et al., "Exploring Plain Vision Transformer Backbones", 2022).

Most layers attend within windows; of every four the last attends among all patches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitq.networks.onepeace.trunk import BiasedAttention, EncoderLayer, Patches, Trunk, TrunkSize, table
from bitq.networks.parts.norms import ChannelNorm
from bitq.networks.parts.squares import joined, split, ways

EVERY = 4  # layers, of which the last attends among all patches


class PlacedAttention(BiasedAttention):
    """Attention whose queries score how many rows and columns lie between them and others, too.

    (Li et al., "MViTv2", 2022.) Every query is multiplied with the vectors of all distances; those that occur
    are picked.

    Args:
        width, heads: as of `BiasedAttention`.
        side: of the square of tokens.
    """

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__(width, heads)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, width // heads))

    def scores(self, q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
        """See `BiasedAttention`."""
        side = (len(self.rel_pos_h) + 1) // 2
        across = torch.arange(side, device=q.device)
        between = across[:, None] - across + side - 1
        down = _picked(q @ self.rel_pos_h.mT, between.repeat_interleave(side, 0))
        right = _picked(q @ self.rel_pos_w.mT, between.repeat(side, 1))
        return super().scores(q, k, bias) + (down[..., None] + right[..., None, :]).flatten(-2)


def _picked(scores: Tensor, between: Tensor) -> Tensor:
    """Of scores [n, heads, tokens, 2·side - 1] those of these distances [tokens, side]: [n, heads, tokens, side]."""
    return scores.gather(-1, between.expand(*scores.shape[:2], -1, -1))


class SquareAdapter(Patches):
    """Images to tokens, and to scores of how those of a square of any side lie to one another.

    Args:
        width, heads: channels of a token, heads of the attention.
        side: patches along the height and the width of an image.
        pretrained: side of the square whose scores are learnt; those of others are stretched.
    """

    def __init__(self, width: int, heads: int, side: int, pretrained: int) -> None:
        super().__init__(width, side, classed=False)
        self.pretrained = pretrained
        self.rel_pos_table = table(pretrained, heads)

    def bias(self, side: int) -> Tensor:
        """[heads, side², side²]."""
        learnt = self.rel_pos_table.weight
        between = ways(side).to(learnt.device)
        if side == self.pretrained:
            scores: Tensor = self.rel_pos_table(between)
        else:
            reach, wanted = 2 * self.pretrained - 1, 2 * side - 1
            known = torch.unflatten(learnt[: reach**2].mT, 1, (reach, reach))
            stretched = functional.interpolate(known[None], size=(wanted, wanted), mode="bicubic")[0]
            scores = functional.embedding(between, stretched.flatten(1).mT)
        return scores.permute(2, 0, 1)


class WindowedTrunk(nn.Module):
    """Images [n, 3, 16·side, 16·side] to maps [n, width, side, side].

    Args:
        size: of the layers.
        side: patches along the height and the width of an image, a multiple of `window`.
        window: side of the windows, and of the images that it was pretrained with, in patches.
    """

    def __init__(self, size: TrunkSize, side: int, window: int) -> None:
        super().__init__()
        width, heads, hidden, layers = size
        self.side, self.window = side, window
        self.image_adapter = SquareAdapter(width, heads, side, window)
        self.encoder = Trunk(
            EncoderLayer(PlacedAttention(width, heads, side if _among_all(number) else window), width, hidden)
            for number in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        size = self.side, self.side
        within, among = self.image_adapter.bias(self.window), self.image_adapter.bias(self.side)
        y = torch.unflatten(self.image_adapter.tokens(x), 1, size)
        for number, layer in enumerate(self.encoder.layers):
            if _among_all(number):
                y = torch.unflatten(layer(y.flatten(1, 2), among), 1, size)
            else:
                y = joined(layer(split(y, self.window), within), self.window, size)
        return y.movedim(-1, 1)


def _among_all(number: int) -> bool:
    return number % EVERY == EVERY - 1


class SimplePyramid(nn.Module):
    """One map as four of `channels` channels, four and two times as fine, as fine, and half as fine.

    Args:
        net: gives the map, of `width` channels.
        width, channels: see above.
    """

    def __init__(self, net: nn.Module, width: int, channels: int) -> None:
        super().__init__()
        self.net = net
        half, quarter = width // 2, width // 4
        self.simfp_2 = nn.Sequential(
            nn.ConvTranspose2d(width, half, 2, stride=2),
            ChannelNorm(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, stride=2),
            _merged(quarter, channels),
        )
        self.simfp_3 = nn.Sequential(nn.ConvTranspose2d(width, half, 2, stride=2), _merged(half, channels))
        self.simfp_4 = _merged(width, channels)
        self.simfp_5 = nn.Sequential(nn.MaxPool2d(2), _merged(width, channels))

    def forward(self, x: Tensor) -> list[Tensor]:
        """See the class."""
        y = self.net(x)
        return [level(y) for level in (self.simfp_2, self.simfp_3, self.simfp_4, self.simfp_5)]


def _merged(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False),
        ChannelNorm(outputs),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        ChannelNorm(outputs),
    )
