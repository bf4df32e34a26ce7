"""`--stored`: what of a layer's output is stored."""

from __future__ import annotations

from enum import StrEnum


class StoredChoice(StrEnum):
    """As `bitq.tradeoff.stored.Stored` has it."""

    after_activation = "after-activation"
    paper = "paper"


HELP = (
    "after-activation: what a layer stores is its output after the activation functions and sums that alone read it, "
    "in one format that its readers read; paper: its own result, and each tensor of each layer in a format of its own."
)
