"""ONE-PEACE (Wang et al., "ONE-PEACE: Exploring One General Representation Model Toward Unlimited Modalities", 2023).

The vision branch: 40 layers of 1536 channels and 24 heads, whose perceptrons are gated (GeGLU) and 6144 wide (Table 1),
as image classifier with the keys of the published one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = 1000
WIDTH, HEADS, HIDDEN, LAYERS = 1536, 24, 6144, 40
PATCH = 16
SIDE = 16  # patches, of the images of 256 pixels that it was pretrained with
SCALE = 1e-2  # of fresh residual branches


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
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
        mixed = scores.softmax(-1) @ v
        y: Tensor = self.out_proj(self.ln(mixed.transpose(1, 2).flatten(2)))
        return y


class EncoderLayer(nn.Module):
    """Attention and a gated perceptron beside shortcuts: [n, tokens, width] to the same."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.gamma_1 = nn.Parameter(torch.full((width,), SCALE))
        self.gamma_2 = nn.Parameter(torch.full((width,), SCALE))
        self.self_attn = BiasedAttention(width, heads)
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

    def __init__(self, width: int, heads: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, heads, hidden) for _ in range(layers))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """See the class and `BiasedAttention`."""
        for layer in self.layers:
            x = layer(x, bias)
        return x


class Adapter(nn.Module):
    """Images [n, 3, h, w] to tokens [n, 1 + h·w/256, width]: one of the image, and of each patch of 16x16 pixels.

    Attributes:
        rp_bucket: [tokens, tokens] which row of `rel_pos_table` tells how a token lies to another.
    """

    rp_bucket: Tensor

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        few = width // 4
        self.cls_embedding = nn.Parameter(width**-0.5 * torch.randn(1, 1, width))
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
        self.rel_pos_table = nn.Embedding((2 * side - 1) ** 2 + 3, heads)
        self.register_buffer("rp_bucket", _places(side))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, and the scores of how they lie to one another [heads, tokens, tokens]."""
        patches = self.embed_images(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_embedding.expand(len(x), -1, -1), patches], 1) + self.pos_embed
        return tokens, self.rel_pos_table(self.rp_bucket).permute(2, 0, 1)


def _places(side: int) -> Tensor:
    """[1 + side², 1 + side²] a number for each way from a patch to another, and three with the token of the image."""
    across = torch.arange(side)
    row, column = across.repeat_interleave(side), across.repeat(side)
    ways = (row[:, None] - row + side - 1) * (2 * side - 1) + column[:, None] - column + side - 1
    most = (2 * side - 1) ** 2
    found = torch.empty(side**2 + 1, side**2 + 1, dtype=torch.long)
    found[1:, 1:], found[0], found[:, 0], found[0, 0] = ways, most, most + 1, most + 2
    return found


class OnePeace(nn.Module):
    """Images [n, 3, 16·side, 16·side], normalized as its pretraining did, to logits [n, classes].

    Args:
        side: patches along the height and the width of an image.
        width, heads, hidden, layers: of the encoder.
        classes: outputs.
    """

    def __init__(
        self,
        side: int = SIDE,
        width: int = WIDTH,
        heads: int = HEADS,
        hidden: int = HIDDEN,
        layers: int = LAYERS,
        classes: int = CLASSES,
    ) -> None:
        super().__init__()
        self.image_adapter = Adapter(width, heads, side)
        self.encoder = Trunk(width, heads, hidden, layers)
        self.fc_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        tokens = self.encoder(*self.image_adapter(x))
        y: Tensor = self.head(self.fc_norm(tokens[:, 1:].mean(1)))
        return y


def onepeace() -> nn.Module:
    """A fresh image classifier: 1,516,109,128 parameters, 397.5 billion multiply-accumulates per image of 256x256.

    Its adapter has 3.4 million parameters, its attention 378 million, its perceptrons 1.13 billion, as in the paper
    (Table 1).
    """
    return OnePeace()
