"""What the tensors of a network choose their formats from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bitq.errors import BitqError
from bitq.formats import EXPONENT_BITS, TENSORS, Choosable, TensorName, formats_of, grid, parse_format

MOST = 100
"""Formats that a search chooses from: what moves is known of every three of them."""

EXAMPLE = "8:e2..e6:b8..b32,mxint8,int4..int8"

Listed = str | Sequence[Choosable]


@dataclass(frozen=True)
class FormatSet:
    """Formats, and which tensors may take which of them.

    Attributes:
        formats: of all tensors together.
        weights, activations: those of weights, and those of inputs and outputs; None: all of them.
        output_as_input: a layer's output takes the format of the same layer's input.

    Raises:
        BitqError: no format, one twice, more than 100, or a kind of tensor that is left without any.
    """

    formats: tuple[Choosable, ...]
    weights: tuple[Choosable, ...] | None = None
    activations: tuple[Choosable, ...] | None = None
    output_as_input: bool = False

    def __post_init__(self) -> None:
        for name in ("formats", "weights", "activations"):
            own = getattr(self, name)
            if own is not None and (not own or len(set(own)) < len(own) or not set(own) <= set(self.formats)):
                raise BitqError(f"{name} of a search must be formats, each once, of those that it chooses from")
        if len(self.formats) > MOST:
            raise BitqError(f"a search chooses from at most {MOST} formats, not {len(self.formats)}; name fewer")

    @classmethod
    def grid(cls, bits: int) -> Self:
        """The paper's Table 2 for elements of 8 or 16 bits.

        Raises:
            BitqError: other bits.
        """
        return cls(grid(bits))

    @classmethod
    def of(
        cls,
        formats: Listed | None = None,
        weights: Listed | None = None,
        activations: Listed | None = None,
        output_as_input: bool = False,
        bits: int = 8,
    ) -> Self:
        """What a user asks for.

        Args:
            formats: a list as `bitq.formats.formats_of` reads it, or what it would name, where float32 leaves a tensor
                as it is; by default the grid of `bits`.
            weights, activations: what these may take instead.
            output_as_input: see the class.
            bits: of the default.

        Raises:
            BitqError: a list that cannot be read, or what the class raises.
        """
        if None not in (formats, weights, activations):
            raise BitqError("formats are given for all tensors, and others for weights and activations; leave one out")
        common: tuple[Choosable, ...] = grid(bits) if formats is None else _read(formats)
        of_weights = common if weights is None else _read(weights)
        of_activations = common if activations is None else _read(activations)
        found = tuple(dict.fromkeys((*of_weights, *of_activations)))

        def own(part: tuple[Choosable, ...]) -> tuple[Choosable, ...] | None:
            return None if len(part) == len(found) else part

        return cls(found, own(of_weights), own(of_activations), output_as_input)

    @cached_property
    def grid_bits(self) -> int | None:
        """If all that every tensor may take is the grid of Table 2 for so many bits: these."""
        alone = self.weights is None and self.activations is None and not self.output_as_input
        return next((bits for bits in EXPONENT_BITS if alone and self.formats == grid(bits)), None)

    @cached_property
    def possible(self) -> NDArray[np.bool_]:
        """Array (formats, formats, formats): which choices for input, weight and output a module has."""
        taken = [np.isin(np.arange(len(self.formats)), self.indices(tensor)) for tensor in TENSORS]
        found: NDArray[np.bool_] = taken[0][:, None, None] & taken[1][None, :, None] & taken[2][None, None, :]
        if self.output_as_input:
            found &= np.eye(len(self.formats), dtype=bool)[:, None, :]
        found.flags.writeable = False
        return found

    def indices(self, tensor: TensorName) -> tuple[int, ...]:
        """Of the formats that this tensor of a layer may take."""
        own = self.weights if tensor == "weight" else self.activations
        return tuple(index for index, each in enumerate(self.formats) if own is None or each in own)

    @property
    def of_all(self) -> tuple[int, ...]:
        """Indices of the formats that every tensor may take."""
        diagonal = np.einsum("iii->i", self.possible)
        return tuple(map(int, np.flatnonzero(diagonal)))

    def described(self) -> dict[str, object]:
        """For a run's identity, what tells it from others: the bits of a grid, as ever, or all of the set."""
        if self.grid_bits is not None:
            return {"bits": self.grid_bits}
        own = {"formats": self.formats, "weights": self.weights, "activations": self.activations}
        named = {name: None if each is None else list(map(str, each)) for name, each in own.items()}
        return {**named, "output as input": self.output_as_input, "bits": None}


def _read(given: Listed) -> tuple[Choosable, ...]:
    if not isinstance(given, str):
        return tuple(dict.fromkeys(given))
    return tuple(parse_format("f32") if each is None else each for each in formats_of(given, EXAMPLE))
