"""What all networks of ONE-PEACE begin with: images as tokens, and the layers that these go through."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bitq.networks.parts.squares import ways

SCALE = 1e-2  # of fresh residual branches


class TrunkSize(NamedTuple):
    """How large the layers are.

    Attributes:
        width: channels of a token.
        heads: of the attention.
        hidden: channels within the perceptrons.
        layers: how many.
    """

    width: int
    heads: int
    hidden: int
    layers: int


PUBLISHED = TrunkSize(width=1536, heads=24, hidden=6144, layers=40)
"""As in the paper (Table 1)."""


class ChannelsLastNorm(nn.Module):
    """Layer normalization over the channels of every position: [n, c, h, w] to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.layer_norm(x.movedim(1, -1))
        return y.movedim(-1, 1)


class Gated(nn.Module):
    """A linear layer that another gates (Shazeer, "GLU Variants", 2020): [..., inputs] to [..., outputs]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(inputs, outputs, bias=False)
        self.wi_1 = nn.Linear(inputs, outputs, bias=False)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.act(self.wi_0(x)) * self.wi_1(x)
        return y


class BiasedAttention(nn.Module):
    """Attention among tokens, with scores for how they lie to one another: [n, tokens, width] to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln = nn.LayerNorm(width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """See the class; `bias` [heads, tokens, tokens] is added to the scores."""
        q, k, v = (
            torch.unflatten(projected(x), -1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = self.scores(q, k, bias).softmax(-1) @ v
        y: Tensor = self.out_proj(self.ln(mixed.transpose(1, 2).flatten(2)))
        return y

    def scores(self, q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
        """[n, heads, tokens, tokens] of queries and keys [n, heads, tokens, width / heads]."""
        scores: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
        return scores


class EncoderLayer(nn.Module):
    """Attention and a gated perceptron beside shortcuts: [n, tokens, width] to the same.

    Args:
        attention: among the tokens.
        width: channels of a token.
        hidden: channels within the perceptron.
    """

    def __init__(self, attention: BiasedAttention, width: int, hidden: int) -> None:
        super().__init__()
        self.gamma_1 = nn.Parameter(torch.full((width,), SCALE))
        self.gamma_2 = nn.Parameter(torch.full((width,), SCALE))
        self.self_attn = attention
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.image_ffn = nn.Sequential(
            Gated(width, hidden), nn.Identity(), nn.LayerNorm(hidden), nn.Linear(hidden, width)
        )
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """See the class and `BiasedAttention`."""
        x = x + self.gamma_1 * self.self_attn(self.self_attn_layer_norm(x), bias)
        y: Tensor = x + self.gamma_2 * self.image_ffn(self.final_layer_norm(x))
        return y


class Trunk(nn.Module):
    """The layers, one after the other: [n, tokens, width] to the same."""

    def __init__(self, layers: Iterable[EncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """See the class and `BiasedAttention`."""
        for layer in self.layers:
            x = layer(x, bias)
        return x


class Patches(nn.Module):
    """Images [n, 3, 16·side, 16·side] as tokens [n, tokens, width], one of each patch of 16x16 pixels, row by row.

    Args:
        width: channels of a token.
        side: patches along the height and the width of an image.
        classed: whether a token of the whole image comes before them.
    """

    def __init__(self, width: int, side: int, classed: bool) -> None:
        super().__init__()
        few = width // 4
        self.cls_embedding = nn.Parameter(width**-0.5 * torch.randn(1, 1, width)) if classed else None
        self.pos_embed = nn.Parameter(width**-0.5 * torch.randn(side**2 + 1, width))
        self.embed_images = nn.Sequential(
            nn.Conv2d(3, few, 4, stride=4),
            ChannelsLastNorm(few),
            nn.GELU(),
            nn.Conv2d(few, few, 2, stride=2),
            ChannelsLastNorm(few),
            nn.GELU(),
            nn.Conv2d(few, width, 2, stride=2),
        )

    def tokens(self, x: Tensor) -> Tensor:
        """See the class."""
        patches: Tensor = self.embed_images(x).flatten(2).transpose(1, 2)
        if self.cls_embedding is None:
            return patches + self.pos_embed[1:]
        return torch.cat([self.cls_embedding.expand(len(x), -1, -1), patches], 1) + self.pos_embed


def table(side: int, heads: int) -> nn.Embedding:
    """Scores of each head for each way from a patch to another, and for three with the token of the image."""
    return nn.Embedding((2 * side - 1) ** 2 + 3, heads)


def places(side: int) -> Tensor:
    """[1 + side², 1 + side²] which row of a `table` tells how a token lies to another; that of the image is first."""
    most = (2 * side - 1) ** 2
    found = torch.empty(side**2 + 1, side**2 + 1, dtype=torch.long)
    found[1:, 1:], found[0], found[:, 0], found[0, 0] = ways(side), most, most + 1, most + 2
    return found
