"""The quantized network on disk: packed weights, everything else as it is, in one safetensors file.

Layout (our choice): a quantized weight "layer.weight" is stored as the uint8 tensor "layer.weight" of its packed
bits; the header's metadata entry "bitq" is a JSON object with `schema_version` and, under `packed`, for each such
tensor its format, shape, blocked axis, inner axes and exponent bias. All other tensors are stored as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import ldexp
from pathlib import Path
from typing import Annotated, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from bitq.accuracy.quantized import MaxAbs, apply, blocked_weight
from bitq.errors import BitqError
from bitq.formats import BlockFormat, TensorFormats
from bitq.numerics import Packed, pack
from bitq.tradeoff.plan import Plan, PlanFormat, load_plan, write_atomically

PLAN, WEIGHTS = "plan.json", "weights.safetensors"
"""What a run hands over, by file name."""

Axis = Annotated[int, Field(ge=0, le=7)]


class _PackedTensor(BaseModel):
    model_config = ConfigDict(extra="forbid")
    format: str
    shape: Annotated[list[Annotated[int, Field(ge=0, le=1 << 40)]], Field(max_length=8)]
    dim: Axis
    inner_dims: list[Axis]
    exponent_bias: int


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")
    schema_version: Literal[1] = 1
    packed: dict[str, _PackedTensor]


def save_weights(path: Path, model: nn.Module, formats: Mapping[str, TensorFormats]) -> dict[str, int]:
    """Write a network's state with the weights of a plan packed.

    Args:
        path: written atomically.
        model: float or quantized; its parameters are the float weights behind the quantized ones.
        formats: by module path; blocks run as in `bitq.apply`.

    Returns:
        The exponent bias of each packed weight, by module path.

    Raises:
        BitqError: a weight with NaN or infinity.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    packed: dict[str, _PackedTensor] = {}
    biases = {}
    for module, entry in formats.items():
        name = f"{module}.weight" if module else "weight"
        if entry.weight is None:
            continue
        weight, dim, inner = blocked_weight(model.get_submodule(module), tensors[name])
        bits = pack(weight, entry.weight, dim, inner)
        tensors[name], biases[module] = bits.payload, bits.exponent_bias
        packed[name] = _PackedTensor(
            format=str(entry.weight),
            shape=list(weight.shape),
            dim=dim,
            inner_dims=list(inner),
            exponent_bias=bits.exponent_bias,
        )
    header = {"bitq": _Header(packed=packed).model_dump_json()}
    write_atomically(path, safetensors.torch.save({n: t.clone() for n, t in tensors.items()}, header))
    return biases


def load_weights(path: Path) -> dict[str, Tensor]:
    """A state dict with the packed weights unpacked, bit-identical to the quantized ones.

    A transposed convolution's weight comes as [groups, C, K of a group, ...]; `load_into` gives it the shape it has.

    Raises:
        BitqError: no such file, or not one that `save_weights` wrote.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        header = _Header.model_validate_json(metadata["bitq"])
    except (OSError, safetensors.SafetensorError) as error:
        raise BitqError(f"{path} cannot be read as a safetensors file: {' '.join(str(error).split())}") from None
    except (KeyError, ValidationError, json.JSONDecodeError):
        raise BitqError(f"{path} was not written by bitq: its header says nothing of packed weights") from None
    for name, entry in header.packed.items():
        if name not in tensors:
            raise BitqError(f"{path}: its header names {name!r}, which the file has not")
        try:
            tensors[name] = _unpacked(tensors[name], entry)
        except (BitqError, RuntimeError) as error:  # torch's own, for shapes beyond all memory
            raise BitqError(f"{path}: {name!r}: {' '.join(str(error).split())}") from None
    return tensors


def _unpacked(payload: Tensor, entry: _PackedTensor) -> Tensor:
    fmt, inner = BlockFormat.parse(entry.format), tuple(entry.inner_dims)
    return Packed(payload, fmt, tuple(entry.shape), torch.float32, entry.dim, inner, entry.exponent_bias).unpack()


def load_quantized(model: nn.Module, folder: Path) -> Plan:
    """Turn a float network into the quantized one of a finished run, in place and in evaluation mode.

    Args:
        model: the network the run was about; its own weights do not matter.
        folder: of the run, with plan.json and weights.safetensors.

    Returns:
        The plan.

    Raises:
        BitqError: a file that is missing or damaged, or a run of another network.
    """
    plan = load_plan(folder / PLAN)
    calibrated = {
        layer.module: MaxAbs(_max_abs(layer.input), _max_abs(layer.output))
        for layer in plan.layers
        if layer.formats != TensorFormats()
    }
    load_into(model, folder / WEIGHTS)
    apply(model, plan.formats(), calibrated)
    model.eval()
    return plan


def _max_abs(entry: PlanFormat | None) -> float | None:
    """A magnitude from which calibration derives just this exponent bias."""
    return None if entry is None else ldexp(1.0, entry.exponent_bias + entry.format.top_code)


def load_into(model: nn.Module, path: Path) -> None:
    """Fill a network with the weights of a file.

    Raises:
        BitqError: a file that cannot be read, or of another network (names the first difference).
    """
    state, tensors = model.state_dict(), load_weights(path)
    for name, tensor in state.items():
        if name not in tensors or not _fits(tensors[name], tensor):
            raise BitqError(f"{path} is of another network: it has no {name!r} of shape {tuple(tensor.shape)}")
    extra = next((name for name in tensors if name not in state), None)
    if extra is not None:
        raise BitqError(f"{path} is of another network: the network has no {extra!r}")
    model.load_state_dict({name: tensors[name].reshape(tensor.shape) for name, tensor in state.items()})


def _fits(given: Tensor, own: Tensor) -> bool:
    """Equal shapes, or those of a transposed convolution's weight, whose groups are set apart in front."""
    return given.shape == own.shape or (given.ndim == own.ndim + 1 and given.flatten(0, 1).shape == own.shape)
