"""`bitq export`: hand a finished run over as a file that something else runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitq.cli.given import Inputs, bound, read_inputs, shape_of
from bitq.cli.inputs import DEMO, NetworkOfRun
from bitq.cli.output import Json, print_json, show
from bitq.cli.shapes import DEMO_SHAPE
from bitq.errors import BitqError, printable, shortened

if TYPE_CHECKING:
    from torch import nn

    from bitq.exporting import Handed
    from bitq.exporting.target import Target
    from bitq.tradeoff.plan import Plan


def export(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder of a finished search, with plan.json and weights.safetensors; or a plan.json alone, with "
            "--network and --checkpoint."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file to write; for C the folder.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="FORM",
            help="What to write: `onnx`, one file of standard operators; `onnx-qdq`, for runtimes that take "
            "pairs of QuantizeLinear and DequantizeLinear alone: activations have to be integers with one scale; "
            "`amd`, for AMD Quark and its compiler; `tenstorrent`, overrides of weights' formats (.json), with the "
            "weights in tiles beside them; or `c`, a folder with C99 for a microcontroller.",
        ),
    ] = "onnx",
    target: Annotated[
        str | None,
        typer.Option(
            metavar="RUNTIME",
            help="What has to take it: `qnn` (with --to onnx-qdq), Qualcomm's, whose rules for weights in blocks are "
            "kept, or the layers that cannot are told; or a device of `bitq devices` (with --to c): layers are walked "
            "in tiles that lie in its outermost memory on the chip, in the order that moves the least.",
            show_default="any",
        ),
    ] = None,
    network: NetworkOfRun = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Weights in place of the run's: a .safetensors file, packed or not, or what torch.save wrote "
            "(nothing in it is run)."
        ),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(
            help="An ONNX file of the plan's network, with its weights, in place of a network in PyTorch: its layers "
            "are matched by what they compute and their order, whatever they are called."
        ),
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            metavar="SHAPE",
            help="Shape of the network's input in elements, such as 1,3,224,224. Any number of inputs can be given at "
            "once to what is written; its other axes are fixed.",
        ),
    ] = None,
    inputs: Inputs = None,
    as_json: Json = False,
) -> None:
    """Write a searched network so that it runs without bitq, and gives the numbers that it gives here.

    An ONNX file has standard ONNX operators alone: weights are integers of few bits with their scales
    (DequantizeLinear, blocked), where that says their format exactly; activations are quantized by a function of
    standard operators that comes with the file, one for each format. What cannot be said so is refused, with its
    module. Where the package onnxruntime is installed, the file is run once on random numbers and compared.

    C computes on the packed numbers themselves, with integers alone and static memory; with a compiler here, it is
    compiled, run once and compared.

    Examples:

    `bitq export runs/demo --out demo.onnx`

    `bitq export runs/demo --to c --out demo_c`

    `bitq export runs/resnet20 --network nets:resnet20 --input-shape 1,3,32,32 --out resnet20.onnx`

    `bitq export plan.json --network nets:resnet20 --checkpoint w.safetensors --to tenstorrent --out resnet20.json`

    `bitq export plan.json --onnx resnet20.onnx --to onnx-qdq --out planned.onnx`
    """
    from bitq.exporting import export as exported
    from bitq.exporting import target_of
    from bitq.nested import mapped

    found = target_of(to, target)
    found.check(out)
    if not found.takes_input and (input_shape is not None or inputs):
        given = "--input" if inputs else "--input-shape"
        raise BitqError(f"what --to {to} writes depends on no input; leave {given} out")
    if input_shape is not None and inputs:
        raise BitqError("--input says what --input-shape does, and more; give one of them")
    folder, plan = _planned(run)
    if onnx is not None:
        _refuse_beside_onnx(to, found, {"--network": network, "--checkpoint": checkpoint, "--input": inputs})
        assert found.rewrite is not None
        shape = None if input_shape is None else shape_of(input_shape, "--input-shape", "1,3,224,224")
        rewritten = partial(found.rewrite, plan, onnx, out, shape)
        _hand_over(rewritten, None, None, to, out, as_json)
        return
    name = network or plan.network
    if network is None and plan.network != DEMO:
        raise BitqError(
            f"{run} names the network {shortened(plan.network)!r}; importing that runs its code, so it has to be "
            "named by you: give --network package.module:function"
        )
    if found.takes_input and input_shape is None and not inputs and name != DEMO:
        raise BitqError(f"network {shortened(name)!r} needs --input-shape, such as 1,3,224,224, or --input")
    model = _quantized(name, folder, plan, run, checkpoint)
    example = None
    if found.takes_input:
        example = mapped(_example(model, name, input_shape, inputs), _filled, "the input")
    _hand_over(partial(exported, model, example, out, to, target), model, example, to, out, as_json)


def _refuse_beside_onnx(to: str, target: Target, given: Mapping[str, object]) -> None:
    if target.rewrite is None:
        raise BitqError(f"--to {to} is not written of an ONNX file; give --network, or --to onnx or onnx-qdq")
    if others := [name for name, value in given.items() if value]:
        raise BitqError(f"--onnx gives the network, its weights and its inputs; leave {', '.join(others)} out")


def _hand_over(
    write: Callable[[], Handed], model: nn.Module | None, example: Any, to: str, out: Path, as_json: bool
) -> None:
    """Write, run what was written beside the network, and tell of both."""
    from bitq.progress import Terminal

    with Terminal() as terminal:
        terminal.step(f"exporting to {to}", 0, 2)
        handed = write()
        terminal.step(f"running {shortened(out.name, 40)}", 1, 2)
        ran = handed.ran(model, example)
        terminal.step("done", 2, 2)
    counts = {**({} if out.is_dir() else {"bytes": out.stat().st_size}), **handed.figures}
    if as_json:
        print_json({"out": str(out), **counts, "notes": list(handed.notes), "ran": ran})
        return
    told = ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in counts.items())
    show(printable(f"{out}: {told}"), *(printable(f"Note: {note}") for note in handed.notes), printable(ran))


def _planned(run: Path) -> tuple[Path | None, Plan]:
    """The folder of a run, if it is one, and the plan."""
    from bitq.files import RunFolder
    from bitq.tradeoff.plan import load_plan

    if run.suffix == ".json" and not run.is_dir():
        return None, load_plan(run)
    return run, load_plan(RunFolder(run).plan)


def _quantized(name: str, folder: Path | None, plan: Plan, given: Path, checkpoint: Path | None) -> nn.Module:
    """The network in its formats, with the weights of a checkpoint or else of the run.

    Raises:
        BitqError: a plan alone, without weights; a network or a checkpoint of other layers.
    """
    from bitq.accuracy.quantized import apply
    from bitq.tradeoff.weights import load_float_or_packed, load_quantized

    model = _network(name, folder)
    if checkpoint is None:
        if folder is None:
            raise BitqError(f"{given} is a plan without weights; give --checkpoint, or the folder of the run")
        load_quantized(model, folder)
        return model
    load_float_or_packed(model, checkpoint)
    apply(model, plan)
    return model.eval()


def _network(name: str, not_from: Path | None) -> nn.Module:
    if name == DEMO:
        from bitq.demo.resnet8 import resnet8

        return resnet8()
    from bitq.loading import load_network

    return load_network(name, not_from=not_from)


def _example(model: nn.Module, name: str, shape: str | None, inputs: list[str] | None) -> Any:
    """Inputs without data, as the options or the demo have them."""
    import torch

    if inputs:
        return bound(read_inputs(inputs), model, name)
    extents = DEMO_SHAPE if shape is None else shape_of(shape, "--input-shape", "1,3,224,224")
    return torch.empty(extents, device="meta")


def _filled(path: str, held: Any) -> Any:
    """An input with data: normal floats, whole numbers 0 and 1."""
    import torch

    if not isinstance(held, torch.Tensor) or held.device.type != "meta":
        return held
    if held.is_floating_point():
        return torch.randn(held.shape).to(held.dtype)
    return torch.zeros(held.shape, dtype=held.dtype)
