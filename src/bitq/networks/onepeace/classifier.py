"""ONE-PEACE as a classifier of images."""

from __future__ import annotations

from torch import Tensor, nn

from bitq.networks.onepeace.trunk import (
    PUBLISHED,
    BiasedAttention,
    EncoderLayer,
    Patches,
    Trunk,
    TrunkSize,
    places,
    table,
)

CLASSES = 1000
SIDE = 16  # patches, of the images of 256 pixels that it was pretrained with


class Adapter(Patches):
    """Images to tokens, that of the image first, and to the scores of how they lie to one another.

    Attributes:
        rp_bucket: [tokens, tokens] which row of `rel_pos_table` tells how a token lies to another.
    """

    rp_bucket: Tensor

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__(width, side, classed=True)
        self.rel_pos_table = table(side, heads)
        self.register_buffer("rp_bucket", places(side))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [n, tokens, width] and scores [heads, tokens, tokens]."""
        return self.tokens(x), self.rel_pos_table(self.rp_bucket).permute(2, 0, 1)


class OnePeace(nn.Module):
    """Images [n, 3, 16·side, 16·side], normalized as its pretraining did, to logits [n, classes].

    Args:
        side: patches along the height and the width of an image.
        size: of the layers.
        classes: outputs.
    """

    def __init__(self, side: int = SIDE, size: TrunkSize = PUBLISHED, classes: int = CLASSES) -> None:
        super().__init__()
        width, heads, hidden, layers = size
        self.image_adapter = Adapter(width, heads, side)
        self.encoder = Trunk(EncoderLayer(BiasedAttention(width, heads), width, hidden) for _ in range(layers))
        self.fc_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        tokens = self.encoder(*self.image_adapter(x))
        y: Tensor = self.head(self.fc_norm(tokens[:, 1:].mean(1)))
        return y
