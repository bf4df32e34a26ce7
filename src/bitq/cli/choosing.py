"""The options by which a command that fine-tunes plans is told what tensors choose from, and how."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from bitq.cli.uses import check_uses

if TYPE_CHECKING:
    from bitq.tradeoff.formatset import FormatSet

FORMATS, TUNING = "Formats", "Fine-tuning"


class PaperGrid(StrEnum):
    """The formats of Table 2, by bits of an element if nothing were shared (paper: q_b)."""

    paper8 = "paper8"
    paper16 = "paper16"

    @property
    def bits(self) -> int:
        """Of an element."""
        return int(self.value.removeprefix("paper"))


Weights = Annotated[
    str | None, typer.Option(metavar="LIST", help="What weights choose from instead.", rich_help_panel=FORMATS)
]
Activations = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="What inputs and outputs choose from instead.", rich_help_panel=FORMATS),
]
Grid = Annotated[
    PaperGrid | None,
    typer.Option(help="The formats of the paper's Table 2 with 8 or 16 bits instead.", rich_help_panel=FORMATS),
]
OutputAsInput = Annotated[
    bool,
    typer.Option(
        "--output-as-input",
        help="A layer's output takes the format of the same layer's input.",
        rich_help_panel=FORMATS,
    ),
]
Alpha = Annotated[
    float, typer.Option(help="Weight of data movement in O = (1 - accuracy) + alpha * movement / largest movement.")
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        help="Of the first step; falls to zero along a half cosine.",
        show_default="0.001, 0.0001 with boxes",
        rich_help_panel=TUNING,
    ),
]
Amp = Annotated[
    bool,
    typer.Option(
        "--amp",
        help="Train in bfloat16 (automatic mixed precision), about twice as fast where the processor has it.",
        rich_help_panel=TUNING,
    ),
]


def check_grid(grid: PaperGrid | None, formats: str | None, weights: str | None, activations: str | None) -> None:
    """Refuse formats beside a grid, which is all that tensors choose from then."""
    check_uses(
        f"--grid {grid} is all that tensors choose from",
        grid is not None,
        {"--formats": formats, "--weights": weights, "--activations": activations},
    )


def offered_of(
    formats: str | None, weights: str | None, activations: str | None, output_as_input: bool, grid: PaperGrid | None
) -> FormatSet:
    """What these options have tensors choose from."""
    from bitq.tradeoff.formatset import FormatSet

    return FormatSet.of(formats, weights, activations, output_as_input, grid.bits if grid else None)
