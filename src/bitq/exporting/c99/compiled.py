"""Exported C beside the network: what a compiler of this machine makes of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bitq.batches import arguments
from bitq.errors import BitqError, shortened
from bitq.exporting.c99.steps import Schedule
from bitq.nested import tensors

LONGEST = 600
"""Seconds that a compiler or the program may take."""


def outputs(folder: Path, network: Schedule, inputs: NDArray[np.float32], compiler: str) -> NDArray[np.float32]:
    """What a program made of a folder's files gives, [n, *output_shape], for inputs [n, *input_shape].

    Raises:
        BitqError: the compiler or the program fails.
    """
    with TemporaryDirectory() as own:
        program = Path(own) / "run"
        words = [compiler, "-std=c99", "-O2", str(folder / "network.c"), str(folder / "main.c"), "-o", str(program)]
        made = subprocess.run(words, capture_output=True, text=True, timeout=LONGEST, check=False)
        if made.returncode:
            raise BitqError(f"{compiler} cannot compile {folder}: {shortened(made.stderr, 300)}")
        given = np.ascontiguousarray(inputs, np.float32).tobytes()
        told = subprocess.run([str(program)], input=given, capture_output=True, timeout=LONGEST, check=False)
        if told.returncode:
            raise BitqError(f"what {compiler} made of {folder} ends with {told.returncode}")
    return np.frombuffer(told.stdout, np.float32).reshape(len(inputs), *network.output_shape)


def ran(folder: Path, network: Schedule, model: nn.Module, example_input: Any) -> str:
    """How far the C and the network agree on an input, in a sentence."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return "It was not run: there is no C compiler here"
    args, kwargs = arguments(model, example_input)
    (given,) = tensors((args, kwargs))
    found = torch.from_numpy(outputs(folder, network, given.numpy(), compiler).copy())
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            (expected,) = tensors(model(*args, **kwargs))
    finally:
        model.train(training)
    same, farthest = int((found == expected).sum()), float((found - expected).abs().max())
    if same == expected.numel():
        return f"Compiled here, it gives the same {same} numbers on a random input"
    return (
        f"Compiled here, it gives {same} of {expected.numel()} numbers alike on a random input; the others differ by "
        f"{farthest:.2g} at most, where the largest is {float(expected.abs().max()):.2g}: it sums exactly"
    )
