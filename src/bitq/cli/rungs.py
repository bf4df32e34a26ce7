"""The ladder of uniform formats on a terminal: what `bitq evaluate NETWORK --formats …` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from bitq.cli.inputs import Source, notes_of
from bitq.cli.output import accuracy_text, bits_text, bytes_text, energy_text, print_json, ram_text, ratio_text, show

if TYPE_CHECKING:
    from bitq.tradeoff.records import Row
    from bitq.tradeoff.stored import Stored


def print_rungs(source: Source, formats: str, device: str, stored: Stored, as_json: bool) -> None:
    """Measure a network in each of some formats on its test data, and print accuracy and cost.

    Args:
        source: the network and its data; ranges of activations come from the training data.
        formats: as `bitq.ladder.formats_of` reads them.
        device: name or file.
        stored: what of a layer's output is.
        as_json: one document instead of a table.

    Raises:
        BitqError: what `bitq.ladder.evaluate` refuses.
    """
    from bitq.ladder import evaluate

    rows = evaluate(
        source.model,
        source.test,
        formats,
        calibration=source.train,
        device=device,
        loss=source.loss,
        metric=source.metric,
        stored=stored,
    )
    if as_json:
        told = [row.model_dump(exclude={"objective"}) for row in rows]
        print_json({"device": device, **source.measured, "rows": told})
    else:
        table = _table(rows, source.measure)
        hint = "Nothing was fine-tuned. `bitq search` does that, and chooses a format for each tensor."
        show(table, *notes_of(source.measured), hint)


def _table(rows: Sequence[Row], measure: str) -> Table:
    table = Table(header_style="bold")
    table.add_column("")
    float32 = next((row for row in rows if row.role == "float32"), None)
    for heading in (measure, "movement", *(["of float32"] if float32 else []), "energy", "model", "RAM"):
        table.add_column(heading, justify="right")
    for row in rows:
        share = [ratio_text(row.movement_bits, float32.movement_bits)] if float32 else []
        cost = (energy_text(row.energy_pj), bytes_text(row.model_bytes), ram_text(row.ram_bytes))
        table.add_row(row.name, accuracy_text(row.accuracy), bits_text(row.movement_bits), *share, *cost)
    return table
