"""What the tensors of a network choose their formats from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from bitq.errors import BitqError
from bitq.formats import EXPONENT_BITS, TENSORS, Choosable, Format, TensorName, formats_of, grid, parse_format
from bitq.formats.elements import Integer
from bitq.formats.families import Family
from bitq.formats.format import made
from bitq.tradeoff.anyformats import MEASURED_BY, NAME, TensorKind, is_any, spelled

MOST = 400
"""Formats that a search chooses from."""

EXAMPLE = f"{NAME} or 8:e2..e6:b8..b32,mxint8,int4..int8"

Listed = str | Sequence[Choosable]


@dataclass(frozen=True)
class FormatSet:
    """Formats, and which tensors may take which of them.

    Attributes:
        formats: of all tensors together.
        weights, activations: those of weights, and those of inputs and outputs; None: all of them. Formats without
            negative numbers are of activations alone, and of those that have none.
        output_as_input: a layer's output takes the format of the same layer's input.
        measured_by: the largest movement, which O is measured by, is that of the grid of so many bits in place of that
            of these formats.

    Raises:
        BitqError: no format, one twice, more than 400, or a kind of tensor that is left without any.
    """

    formats: tuple[Choosable, ...]
    weights: tuple[Choosable, ...] | None = None
    activations: tuple[Choosable, ...] | None = None
    output_as_input: bool = False
    measured_by: int | None = None

    def __post_init__(self) -> None:
        for name in ("formats", "weights", "activations"):
            own = getattr(self, name)
            if own is not None and (not own or len(set(own)) < len(own) or not set(own) <= set(self.formats)):
                raise BitqError(f"{name} of a search must be formats, each once, of those that it chooses from")
        if len(self.formats) > MOST:
            raise BitqError(f"a search chooses from at most {MOST} formats, not {len(self.formats)}; name fewer")
        if not self.indices("weight"):
            raise BitqError("weights have negative numbers, but no format that may hold them is named; name one")

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
        bits: int | None = None,
    ) -> Self:
        """What a user asks for.

        Args:
            formats: a list as `bitq.formats.formats_of` reads it, in which `any` stands for those of
                `bitq.tradeoff.anyformats`; or what it would name, where float32 leaves a tensor as it is. By default
                `any`.
            weights, activations: what these may take instead.
            output_as_input: see the class.
            bits: 8 or 16: the grid of Table 2 instead of any of these.

        Raises:
            BitqError: a list that cannot be read, or what the class raises.
        """
        lists = (formats, weights, activations)
        if bits is not None:
            if any(each is not None for each in lists):
                raise BitqError(f"the grid of {bits!r} bits is all that tensors choose from; leave other formats out")
            return cls(grid(bits), output_as_input=output_as_input)
        if None not in lists:
            raise BitqError("formats are given for all tensors, and others for weights and activations; leave one out")
        common = NAME if formats is None else formats
        of_weights = _read(common if weights is None else weights, "weights")
        if weights is None:
            of_weights = tuple(each for each in of_weights if not _never_negative(each))
        elif unsigned := next(filter(_never_negative, of_weights), None):
            raise BitqError(f"{unsigned} has no negative numbers, but weights do; leave it out of their formats")
        of_activations = _read(common if activations is None else activations, "activations")
        found = tuple(dict.fromkeys((*of_weights, *of_activations)))

        def own(part: tuple[Choosable, ...]) -> tuple[Choosable, ...] | None:
            return None if len(part) == len(found) else part

        used = [each for each in (weights, activations, common if None in (weights, activations) else None) if each]
        named = any(is_any(part) for each in used if isinstance(each, str) for part in each.split(","))
        return cls(found, own(of_weights), own(of_activations), output_as_input, MEASURED_BY if named else None)

    @cached_property
    def grid_bits(self) -> int | None:
        """If all that every tensor may take is the grid of Table 2 for so many bits: these."""
        alone = self.weights is None and self.activations is None and not self.output_as_input
        alone = alone and self.measured_by is None
        return next((bits for bits in EXPONENT_BITS if alone and self.formats == grid(bits)), None)

    def allows(self, choice: tuple[int, int, int]) -> bool:
        """Whether a module may have these formats, by their indices, of input, weight and output."""
        offered = all(index in self.indices(tensor) for index, tensor in zip(choice, TENSORS, strict=True))
        return offered and not (self.output_as_input and choice[0] != choice[2])

    def indices(self, tensor: TensorName) -> tuple[int, ...]:
        """Of the formats that this tensor of a layer may take."""
        return self._weights if tensor == "weight" else self._activations

    @cached_property
    def _weights(self) -> tuple[int, ...]:
        kept = set(self.formats if self.weights is None else self.weights)
        return tuple(
            index for index, each in enumerate(self.formats) if each in kept and not _never_negative(each)
        )

    @cached_property
    def _activations(self) -> tuple[int, ...]:
        kept = set(self.formats if self.activations is None else self.activations)
        return tuple(index for index, each in enumerate(self.formats) if each in kept)

    @cached_property
    def of_all(self) -> tuple[int, ...]:
        """Indices of the formats that every tensor may take."""
        return tuple(sorted({*self._weights} & {*self._activations}))

    @cached_property
    def unsigned(self) -> tuple[int, ...]:
        """By index, that of the format with the same numbers but the negative ones, in a bit less, if activations may
        take it, or else the same index."""
        places = {self.formats[index]: index for index in self._activations}
        return tuple(places.get(_without_sign(each), index) for index, each in enumerate(self.formats))

    @property
    def signed(self) -> Self:
        """The same without formats that have no negative numbers, and with names that mean none."""

        def kept(those: tuple[Choosable, ...] | None) -> tuple[Choosable, ...] | None:
            if those is None:
                return None
            found = (each for each in those if not _never_negative(each))
            return tuple(replace(e, non_negative=e.activation) if isinstance(e, Family) else e for e in found)

        formats, weights, activations = map(kept, (self.formats, self.weights, self.activations))
        return replace(self, formats=formats or (), weights=weights, activations=activations)

    @property
    def with_unsigned(self) -> Self:
        """The same, with the partners without a sign (`unsigned`) of what activations may take behind all others."""
        partners = dict.fromkeys(_without_sign(self.formats[index]) for index in self._activations)
        more = tuple(each for each in partners if each not in self.formats)
        activations = None if self.activations is None else (*self.activations, *more)
        return replace(self, formats=(*self.formats, *more), activations=activations)

    def described(self) -> dict[str, object]:
        """For a run's identity, what tells it from others: the bits of a grid, as ever, or all of the set."""
        if self.grid_bits is not None:
            return {"bits": self.grid_bits}
        own = {"formats": self.formats, "weights": self.weights, "activations": self.activations}
        named = {name: None if each is None else list(map(str, each)) for name, each in own.items()}
        measured = {} if self.measured_by is None else {"measured by": self.measured_by}
        return {**named, "output as input": self.output_as_input, "bits": None, **measured}


def _read(given: Listed, kind: TensorKind) -> tuple[Choosable, ...]:
    if not isinstance(given, str):
        return tuple(dict.fromkeys(given))
    named = formats_of(spelled(given, kind), EXAMPLE)
    return tuple(parse_format("f32") if each is None else each for each in named)


def _never_negative(each: Choosable) -> bool:
    return isinstance(each, Format) and each.never_negative


def _without_sign(each: Choosable) -> Choosable:
    """`nM` of the same scale and blocks holds what `s(M+1)` and `i(M+1)` do of numbers that are not negative."""
    if not isinstance(each, Format) or len(each.elements) > 1:
        return each
    element = each.elements[0]
    if not isinstance(element, Integer) or element.kind not in ("s", "i") or element.bits < 2:
        return each
    return made((Integer("n", element.bits - 1),), each.scale, each.geometry, each.rounding)
