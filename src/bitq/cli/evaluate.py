"""`bitq evaluate`: measure a finished run again, from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitq.cli.inputs import BatchSize, Channels, DataPath, ImageSize, Limit, Mean, Std, load_source
from bitq.cli.output import Json, print_json, show
from bitq.files import RunFolder


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished search, with plan.json and weights.safetensors.")],
    data: DataPath = None,
    batch_size: BatchSize = 64,
    image_size: ImageSize = None,
    channels: Channels = 3,
    mean: Mean = "0",
    std: Std = "1",
    limit: Limit = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="That the search was given.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure the accuracy of a plan again on the test images, from the packed weights and the plan alone.

    The network is the one the plan names; give the same image options as to the search.

    Example: `bitq evaluate runs/demo`
    """
    from bitq.accuracy.evaluate import finite, score
    from bitq.tradeoff.plan import load_plan
    from bitq.tradeoff.weights import load_quantized

    plan = load_plan(RunFolder(run).plan)
    source = load_source(plan.network, data, None, batch_size, image_size, channels, mean, std, limit, seed)
    load_quantized(source.model, run)
    found = finite(score(source.model, source.test))
    if as_json:
        print_json({"run": str(run), "accuracy": found.accuracy, "planned": plan.totals.accuracy, "loss": found.loss})
    else:
        show(
            f"{plan.network}: accuracy {found.accuracy:.2%} on the test images, {plan.totals.accuracy:.2%} in the plan"
        )
