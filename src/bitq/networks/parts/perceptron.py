"""Linear layers one after the other."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional


class Perceptron(nn.Module):
    """`layers` linear layers with ReLU between them: [..., inputs] to [..., outputs]."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * (layers - 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        for number, layer in enumerate(self.layers):
            x = layer(functional.relu(x) if number else x)
        return x
