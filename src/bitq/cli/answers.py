"""What a search offers, on the terminal: the answers to what people ask, each in a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from bitq.cli.output import accuracy_text, bits_text, bytes_text, energy_text, ratio_text

if TYPE_CHECKING:
    from bitq.tradeoff.records import Cost, Offer, Offers


def offers_table(found: Offers, references: Mapping[str, Cost], measure: str) -> Table:
    """A line for every question; one that nothing which was measured answers says so. `measure` names the metric."""
    table = Table(
        title="What was measured offers: the least O, and the fewest bits moved\n"
        f"so near to float32 (points of {measure} and O on validation data)",
        title_justify="left",
        title_style="",
        header_style="bold",
        box=None,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", overflow="fold")
    reached = measure.replace(" ", "\n") + "\n(test)"
    for heading in ("points\nlost", reached, "moved", "of\nint8", "energy", "model", "O"):
        table.add_column(heading, justify="right", no_wrap=True)
    for question, offer in found.by_question:
        short = question.removeprefix("fewest bits ")  # as the title says
        answer = offer.title if offer else "nothing that was measured"
        table.add_row(f"{short}:\n  {answer}", *(_cells(offer, references) if offer else ()))
    return table


def int8_text(cost: Cost, references: Mapping[str, Cost]) -> str:
    """What is moved beside plain int8, such as "84.7 %"."""
    return ratio_text(cost.movement_bits, references["int8"].movement_bits) if "int8" in references else "-"


def offers_document(found: Offers, references: Mapping[str, Cost]) -> dict[str, Any]:
    """The answers for JSON, and what they are told beside."""
    return {
        "offers": [
            {"question": question, **(offer.model_dump() if offer else {})} for question, offer in found.by_question
        ],
        "references": {name: cost.model_dump() for name, cost in references.items()},
    }


def _cells(offer: Offer, references: Mapping[str, Cost]) -> tuple[str, ...]:
    return (
        f"{100 * offer.lost:.2f}",
        accuracy_text(offer.test),
        bits_text(offer.movement_bits),
        int8_text(offer, references),
        energy_text(offer.energy_pj),
        bytes_text(offer.model_bytes),
        f"{offer.objective:.4f}",
    )
