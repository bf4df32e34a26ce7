"""`tenstorrent`: the formats of weights as Tenstorrent's tools take them, and the weights in tiles as its devices do.

Two files. The one that is named is a JSON object with a dtype for the name of every weight with a format, as
`apply_weight_dtype_overrides(model, "overrides.json")` reads it (tenstorrent/tt-xla,
python_package/tt_torch/weight_dtype.py: names are fnmatch patterns, dtypes are bfp_bf4, bfp_bf8 and bf16). Beside it,
NAME.safetensors has the tiles (`bitq.exporting.tenstorrent.tiles`) of the weights of which tt-metal says how they are
laid out:

- of a linear layer as it is, [outputs, inputs], as that file packs it (`_pack_weight_carrier`);
- of a convolution the matrix [window x input channels, output channels], input channels innermost
  (tenstorrent/tt-metal, ttnn/cpp/ttnn/operations/conv/conv2d/prepare_conv2d_weights.cpp, `to_weight_tile_layout`).

Its metadata tell of every tensor with a format, under `tensors`, what holds it and how exactly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitq.accuracy.quantized import quantized_layers, weight_in_use
from bitq.errors import MOST_NAMED, BitqError, some_of
from bitq.exporting.target import Handed, Target, register
from bitq.exporting.tenstorrent.tiles import TILE_FORMATS, TileFormat, pack_tiles, unpack_tiles
from bitq.files import check_replaceable, write_atomically
from bitq.formats import Format
from bitq.formats.blocking import Along
from bitq.formats.elements import Float, Integer
from bitq.formats.scales import FloatScale, ScaledExponent
from bitq.multiplying import stored_name

_BF16 = "Float16_b"
_OVERRIDES = {"Bfp2_b": "bfp_bf4", "Bfp4_b": "bfp_bf4", "Bfp8_b": "bfp_bf8", _BF16: "bf16"}
"""By tt-metal's name of a format that of its tools, which have none for two bits: four hold them."""

_WIDEST = TILE_FORMATS[-1]
UNTESTED = "nobody has run this on Tenstorrent's hardware: the bytes are as its host code defines them"


class Holding(NamedTuple):
    """What holds a tensor on the device.

    Attributes:
        tensor: name of a weight in the network's state, or the path of a module and which of its activations.
        format: of the plan.
        dtype: tt-metal's name of a format; None, if no block floating point of it holds the numbers.
        held: whether every number is.
        snr_db: otherwise, of a weight, how far off the numbers are (dB).
        layout: of a weight in tiles, the rows and columns of the matrix; else why there are no tiles, or None.
    """

    tensor: str
    format: str
    dtype: str | None
    held: bool
    snr_db: float | None = None
    layout: str | tuple[int, int] | None = None


def write(model: nn.Module, example_input: Any, path: Path) -> Handed:
    """Write both files.

    Raises:
        BitqError: a path that does not end in .json, a weight that is not finite or has more digits than 8 bits under
            a scale hold; no weight with a format.
    """
    if path.suffix != ".json":
        raise BitqError(f"{path} must end in .json, as Tenstorrent's tools read it; the tiles get the same name")
    beside = path.with_suffix(".safetensors")
    check_replaceable(beside)
    tiles: dict[str, NDArray[np.uint8]] = {}
    weights: list[Holding] = []
    activations: list[Holding] = []
    for name, module in quantized_layers(model):
        formats = module._bitq.formats
        given = ((end, getattr(formats, end)) for end in ("input", "output"))
        activations += [_activation(f"{name}.{end}", fmt) for end, fmt in given if fmt is not None]
        weight = stored_name(module, name)
        if formats.weight is None or weight is None:
            continue
        known, packed = _weight(weight, module, formats.weight)
        weights.append(known)
        if packed is not None:
            tiles[weight] = packed
    overrides = {escape(each.tensor): _OVERRIDES[each.dtype] for each in weights if each.dtype is not None}
    if not overrides:
        raise BitqError("the network has no weight with a format that Tenstorrent's tools take, so nothing to override")
    from safetensors.numpy import save

    entries = json.dumps([each._asdict() for each in (*weights, *activations)])
    write_atomically(beside, save(tiles, {"tensors": entries}))
    write_atomically(path, json.dumps(overrides, indent=1).encode() + b"\n")
    figures = {
        "overrides": len(overrides),
        "weights_in_tiles": len(tiles),
        "tile_bytes": sum(each.nbytes for each in tiles.values()),
    }
    notes = tuple(_notes(weights, activations, beside))
    return Handed(path, notes, figures, lambda model, example_input: f"Not run: {UNTESTED}")


def _weight(name: str, module: nn.Module, fmt: Format) -> tuple[Holding, NDArray[np.uint8] | None]:
    """What holds a weight, and its tiles."""
    if isinstance(module, nn.Embedding):
        return Holding(name, fmt.text, None, False, layout="a table is looked up in bfloat16 rows"), None
    element = fmt.elements[0]
    if fmt.scale is None and isinstance(element, Float):
        return Holding(name, fmt.text, _BF16, element.mantissa_bits <= 7, layout="no block floating point"), None
    if fmt.element_bits > _WIDEST.bits:
        raise BitqError(
            f"weight {name!r} has the format {fmt.text}, whose elements have more than the {_WIDEST.bits} bits of "
            f"{_WIDEST.name}; give it one of {_WIDEST.bits} bits or fewer"
        )
    with torch.no_grad():
        value = weight_in_use(module).detach().float()
    if not torch.isfinite(value).all():
        raise BitqError(f"weight {name!r} has NaN or infinity, which block floating point does not hold")
    rows = _matrix(module, value)
    if rows is None:
        why = "ttnn itself lays out grouped, transposed and 3-D convolutions"
        return Holding(name, fmt.text, _WIDEST.name, False, layout=why), None
    shape = rows.shape[0], rows.shape[1]
    for chosen in TILE_FORMATS:
        packed = pack_tiles(rows, chosen)
        off = rows - unpack_tiles(packed, chosen, shape)
        if not off.any():
            return Holding(name, fmt.text, chosen.name, True, layout=shape), packed
    snr = 10 * float(np.log10(np.square(rows, dtype=np.float64).sum() / np.square(off, dtype=np.float64).sum()))
    return Holding(name, fmt.text, _WIDEST.name, False, snr, shape), packed


def _matrix(module: nn.Module, weight: Tensor) -> NDArray[np.float32] | None:
    """A weight as the matrix that tt-metal tiles; None, if that is not known."""
    if isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups == 1:
        inner = weight.movedim(0, -1).movedim(0, -2)  # [*window, input channels, output channels]
        return np.ascontiguousarray(inner.reshape(-1, weight.shape[0]).numpy())
    return weight.numpy() if weight.dim() == 2 else None


def _activation(name: str, fmt: Format) -> Holding:
    """The narrowest format of the device that has all numbers of an activation's.

    Its blocks are 16 channels of a position, as the device keeps activations with their channels last.
    """
    element, geometry = fmt.elements[0], fmt.geometry
    along = isinstance(geometry, Along) and geometry.size % 16 == 0
    floats = isinstance(fmt.scale, FloatScale | ScaledExponent)
    if len(fmt.elements) > 1 or floats or not along or not isinstance(element, Integer):
        return Holding(name, fmt.text, None, False)
    bits = element.bits + (not element.signed)
    fitting: TileFormat | None = next((each for each in TILE_FORMATS if each.bits >= bits), None)
    return Holding(name, fmt.text, None if fitting is None else fitting.name, fitting is not None)


def _notes(weights: list[Holding], activations: list[Holding], beside: Path) -> Iterator[str]:
    yield f"the tiles are in {beside}, whose metadata tell of every tensor what holds it"
    off = sorted((each for each in weights if each.snr_db is not None), key=lambda each: each.snr_db or 0.0)
    if off:
        named = ", ".join(f"{each.tensor} ({each.format}: {each.snr_db:.1f} dB)" for each in off[:MOST_NAMED])
        yield (
            f"no block floating point of 16 numbers along the rows of a tile holds {len(off)} of {len(weights)} "
            f"weights as they are; {_WIDEST.name} comes next to them, the farthest {named}"
        )
    reasons = {each.layout: None for each in weights if isinstance(each.layout, str)}
    for reason in reasons:
        yield f"no tiles of {_named([each for each in weights if each.layout == reason])}: {reason}"
    unheld = [each for each in activations if each.dtype is None]
    if unheld:
        yield f"no block floating point of the device has the numbers of {_named(unheld)}"
    if activations:
        yield "Tenstorrent's tools take no format for a single activation; the metadata tell what would hold each"
    yield UNTESTED


def _named(tensors: list[Holding]) -> str:
    return some_of([f"{each.tensor} ({each.format})" for each in tensors])


register("tenstorrent", Target(write, takes_input=False))
