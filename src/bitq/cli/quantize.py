"""`bitq quantize`: write a checkpoint's weights packed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitq.cli.output import Json, bytes_text, print_json, ratio_text, show
from bitq.errors import BitqError
from bitq.formats import Format, parse_format

if TYPE_CHECKING:
    from bitq.numerics.packedfile import FileTensor
    from bitq.tradeoff.plan import Plan


def quantize(
    source: Annotated[
        Path,
        typer.Argument(metavar="IN", help="A checkpoint of float weights (.safetensors); its network is not needed."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")],
    plan: Annotated[
        Path | None,
        typer.Option(help="The folder of a finished search, or its plan.json: which weights get which formats."),
    ] = None,
    uniform: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Instead of a plan: one format, such as 8:e4:b16, mxfp4 or int8, for every tensor named weight with "
            "2 to 5 axes; `bitq formats` lists them. Blocks run along its second axis, the input channels; only a plan "
            "knows transposed convolutions.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a checkpoint with its weights packed in number formats of few bits, every other tensor as it is.

    Elements and what blocks share stand bit by bit, so the file is as small as the plan says. Every weight's scales are
    chosen by its own numbers alone. The file is a safetensors file with a checksum;
    `bitq.load_weights("OUT")` in Python gives the state of the network back, packed weights as the numbers that
    `bitq.quantize` makes of them.

    Examples:

    `bitq quantize resnet20.safetensors --plan runs/resnet20/plan.json resnet20-packed.safetensors`

    `bitq quantize resnet20.safetensors --format mxfp4 resnet20-mxfp4.safetensors`
    """
    if (plan is None) == (uniform is None):
        raise BitqError("give either --plan, with the plan.json of a search, or --format, such as --format 8:e4:b16")
    from bitq.files import check_replaceable
    from bitq.progress import Terminal
    from bitq.tradeoff.plan import load_plan
    from bitq.tradeoff.weights import quantize_file

    check_replaceable(out)
    if plan is not None:
        with suppress(OSError, ValueError):  # which reading it tells
            plan = plan / "plan.json" if plan.is_dir() else plan
        wanted: Plan | Format = load_plan(plan)
    else:
        wanted = parse_format(uniform or "")
    with Terminal() as terminal:
        entries, biases = quantize_file(
            source, wanted, out, lambda done, total: terminal.step("MiB packed", done >> 20, total >> 20)
        )
    told = _summary(source, out, entries, biases)
    if as_json:
        print_json(told)
        return
    show(
        f"{out}: {len(told['packed'])} of {len(entries)} tensors packed; "
        f"{bytes_text(told['tensor_bytes'])} instead of {bytes_text(told['tensor_bytes_before'])} "
        f"({ratio_text(told['tensor_bytes'], told['tensor_bytes_before'])})"
    )


def _summary(source: Path, out: Path, entries: tuple[FileTensor, ...], biases: dict[str, int]) -> dict[str, Any]:
    return {
        "source": str(source),
        "out": str(out),
        "file_bytes": out.stat().st_size,
        "tensor_bytes": sum(entry.size for entry in entries),
        "tensor_bytes_before": sum(entry.plain_size for entry in entries),
        "packed": [
            {
                "name": entry.name,
                "format": str(entry.format),
                "shape": list(entry.shape),
                "exponent_bias": biases.get(entry.name),
                "bytes": entry.size,
            }
            for entry in entries
            if entry.format
        ],
        "kept": [entry.name for entry in entries if not entry.format],
    }
