"""`bitq search`: find, fine-tune and write the plan of a network."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from bitq.cli.output import Json, bits_text, bytes_text, energy_text, print_json, show
from bitq.cli.sources import (
    BatchSize,
    Channels,
    Checkpoint,
    DataPath,
    ImageSize,
    Limit,
    Mean,
    Network,
    Std,
    load_source,
)

if TYPE_CHECKING:
    from bitq.tradeoff.outcome import Row

DEMO_DEVICE = "stm32f103c8"


def search(
    network: Network,
    data: DataPath = None,
    checkpoint: Checkpoint = None,
    device: Annotated[
        str, typer.Option(help="A name that `bitq devices` lists, or a device file (TOML).")
    ] = DEMO_DEVICE,
    run: Annotated[
        Path | None,
        typer.Option(help="Folder for plan.json, weights.safetensors, report.html and results.sqlite; `runs/NETWORK`."),
    ] = None,
    bits: Annotated[int, typer.Option(help="Bits of an element if nothing were shared: 8 or 16.")] = 8,
    alpha: Annotated[
        float, typer.Option(help="Weight of data movement in O = (1 - accuracy) + alpha * movement / largest movement.")
    ] = 0.2,
    steps: Annotated[int, typer.Option(help="Optimizer steps of every fine-tuning.")] = 1000,
    learning_rate: Annotated[float, typer.Option(help="Of the first step; falls to zero along a half cosine.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of everything random; the same seed finds the same plan.")] = 0,
    uniforms: Annotated[int, typer.Option(help="Uniform formats to fine-tune and compare with.")] = 1,
    rounds: Annotated[int, typer.Option(help="How often sensitivities are measured anew around the plan so far.")] = 2,
    plans: Annotated[int, typer.Option(help="Plans to fine-tune, each corrected by the ones before.")] = 3,
    batch_size: BatchSize = 64,
    image_size: ImageSize = None,
    channels: Channels = 3,
    mean: Mean = "0",
    std: Std = "1",
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Find the block floating point format of every tensor with the least O, fine-tune, and write plan and report.

    The search measures how sensitive every tensor is to every format, knows exactly what every choice moves
    through the device's memories, solves for the best plan, fine-tunes it and the best uniform format alike, and
    reports accuracy measured on test images. Interrupted, it continues where it was: run the same command again.

    Examples:

    `bitq search demo`

    `bitq search my_package.nets:make --checkpoint net.safetensors --data images/ --image-size 64 --device stm32h743`
    """
    from bitq.accuracy.finetune import Training
    from bitq.tradeoff.api import search as search_network
    from bitq.tradeoff.run import Settings

    training = Training(steps=steps, learning_rate=learning_rate, seed=seed)
    settings = Settings(
        alpha=alpha, training=training, supernet=training, rounds=rounds, uniforms=uniforms, plans=plans
    )
    source = load_source(network, data, checkpoint, batch_size, image_size, channels, mean, std, limit, seed)
    folder = run or Path("runs") / network.replace(":", ".").replace("/", ".")
    result = search_network(
        source.model,
        source.train,
        source.validation,
        source.test,
        device=device,
        run=folder,
        bits=bits,
        settings=settings,
        network=network,
        command=shlex.join(["bitq", *sys.argv[1:]]),
    )
    if as_json:
        print_json(
            {
                "run": str(folder),
                "rows": [asdict(row) for row in result.rows],
                "totals": result.plan.totals.model_dump(),
            }
        )
    else:
        show(_table(result.rows), f"Plan, weights and report: {folder}/ (open {folder / 'report.html'})")


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title=None, header_style="bold")
    table.add_column("")
    for heading in ("accuracy", "DRAM", "on-chip", "energy", "model", "O"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.accuracy:.2%}",
            bits_text(row.dram_bits),
            bits_text(row.on_chip_bits),
            energy_text(row.energy_pj),
            bytes_text(row.model_bytes),
            f"{row.objective:.4f}",
        )
    return table
