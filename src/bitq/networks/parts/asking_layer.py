"""What layers of queries have in common, whatever else they look at."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class AskingLayer(nn.Module):
    """Attention among queries, a perceptron behind it, and three norms, of which `norm1` is of what a layer looks at.

    Args:
        cross_attn: how queries look at it.
        width, heads: of the attention among queries.
        hidden: channels within the perceptron.
    """

    def __init__(self, cross_attn: nn.Module, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.cross_attn = cross_attn
        self.norm1 = nn.LayerNorm(width)
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm3 = nn.LayerNorm(width)

    def asked(self, x: Tensor, positions: Tensor) -> Tensor:
        """Queries [n, queries, width] that looked at one another; `positions` are added to what asks and is asked."""
        asking = x + positions
        y: Tensor = self.norm2(x + self.self_attn(asking, asking, x, need_weights=False)[0])
        return y

    def thought(self, x: Tensor) -> Tensor:
        """The same behind the perceptron."""
        y: Tensor = self.norm3(x + self.linear2(functional.relu(self.linear1(x))))
        return y
