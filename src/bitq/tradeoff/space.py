"""The search space: for every module and every choice of its three formats, what the network moves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitq.accuracy.kinds import float_reasons, kind_of, staying_float
from bitq.calls import Points
from bitq.devices import Device
from bitq.errors import BitqError
from bitq.floating import sentence
from bitq.formats import TENSORS, Choosable, Ranges, TensorFormats, format_for
from bitq.layers import Layer
from bitq.movement.asking import answered
from bitq.movement.levels import movement, movement_many
from bitq.movement.model import Widths
from bitq.movement.tiled import LevelMovement, levels_of
from bitq.movement.widths import FLOAT_BITS, weight_size, widths
from bitq.multiplying import Projection, TransposedProjection
from bitq.tracing.lifetimes import Activation
from bitq.tradeoff.activations import ActivationSizes, buffers, placed
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.moved import Moved
from bitq.tradeoff.records import Cost

Choice = tuple[int, int, int]
"""Indices into `Space.formats` for input, weight and output of one module."""

Choices = tuple[Choice, ...]
"""A plan: one choice for each module of a space."""

STAGE = "movement of every format"
"""What a listener hears of."""


@dataclass(frozen=True)
class Space:
    """All plans for a network on a device.

    Attributes:
        device: whose memories the bits move through.
        modules: paths of the modules whose formats are chosen, in order of execution.
        layers: for each of them, the layers it computes (several, if it is called several times).
        fixed: layers that keep 32-bit floats (products of two activations).
        offered: what tensors choose from, and which of them which.
        bits: for each module what it moves in every choice of formats. Modules of equal shape share one table.
        fixed_bits: array (boundaries,): traffic of the fixed layers.
        float_cost: cost of the network in 32-bit floats ("Original" in the paper).
        other_bytes: parameters and buffers that no plan changes, in bytes.
        ties: groups of tensors that have one format, each as (index of its module, 0 for input, 1 for weight, 2 for
            output).
        points: where what modules store comes out of the network, as `bitq.tracing.Traced.points` has it; a module that
            is not named stores its own result.
        unstored: modules that store no weight of their own, as it is an activation or another module's.
        counted: for each format that in whose bits it is counted, where that is not itself; else none.
        activations: stored activations as the network was traced; None if that is not known.
        largest_bits: DM_max where it is not of the formats offered but of those that `offered.measured_by` names, in
            bits.
    """

    device: Device
    modules: tuple[str, ...]
    layers: tuple[tuple[Layer, ...], ...]
    fixed: tuple[Layer, ...]
    offered: FormatSet
    bits: tuple[Moved, ...]
    fixed_bits: NDArray[np.float64]
    float_cost: Cost
    other_bytes: int
    ties: tuple[tuple[tuple[int, int], ...], ...] = ()
    points: Points = field(default_factory=dict)
    unstored: frozenset[str] = frozenset()
    counted: tuple[Choosable, ...] = ()
    largest_bits: float | None = None
    activations: tuple[Activation, ...] | None = None

    @property
    def formats(self) -> tuple[Choosable, ...]:
        """The candidates of all tensors, to which the axes of tables and the indices of choices belong."""
        return self.offered.formats

    @cached_property
    def movement_max(self) -> float:
        """DM_max: the largest movement of any plan in the space, in bits (paper, Eq. 2).

        If formats of any kind are offered, that of any plan of Table 2's grid of 8 bits, so that O is one measure
        whatever is offered beside.
        """
        if self.largest_bits is not None:
            return self.largest_bits
        modules = range(len(self.modules))
        return float(self.fixed_bits.sum() + sum(self.possible(each, self.movement(each)).max() for each in modules))

    def movement(self, module: int) -> NDArray[np.float64]:
        """Array (widths of input, of weight, of output): what a module moves over all boundaries, in bits."""
        bits: NDArray[np.float64] = self.bits[module].bits.sum(axis=-1)
        return bits

    def energy(self, module: int) -> NDArray[np.float64]:
        """Array (widths of input, of weight, of output): energy of what a module moves, in pJ (paper, Eq. 8)."""
        energy: NDArray[np.float64] = self.bits[module].bits @ _prices(self.device)
        return energy

    def model_bytes(self, module: int) -> NDArray[np.float64]:
        """Array (widths of input, of weight, of output): what is stored of a module's weight, in bytes."""
        own, layer, counted = self.bits[module], self.layers[module][0], self.counted or self.formats
        sizes = np.zeros(own.bits.shape[1])
        if self.modules[module] in self.unstored:
            return np.broadcast_to(sizes[None, :, None], own.bits.shape[:-1])
        for index in self.offered.indices("weight"):
            sizes[own.places[1][index]] = weight_size(layer, format_for(counted[index], "weight"))
        return np.broadcast_to(sizes[None, :, None], own.bits.shape[:-1])

    def possible(self, module: int, table: NDArray[np.float64]) -> NDArray[np.float64]:
        """What an array by a module's widths holds for the choices that the module has."""
        own = [np.array(self.offered.indices(tensor)) for tensor in TENSORS]
        inputs, weights, outputs = (place[each] for place, each in zip(self.bits[module].places, own, strict=True))
        if self.offered.output_as_input:
            found: NDArray[np.float64] = table[inputs[:, None], np.unique(weights)[None, :], outputs[:, None]]
        else:
            found = table[np.ix_(np.unique(inputs), np.unique(weights), np.unique(outputs))]
        return found

    @cached_property
    def arena(self) -> ActivationSizes | None:
        """What its activations take in every format; None if they are not known."""
        if self.activations is None:
            return None
        counted = self.counted or self.formats
        modules = {layer.name: module for module, layers in enumerate(self.layers) for layer in layers}

        def bits(layer: Layer, tensor: int, index: int) -> float:
            own: float = getattr(widths(layer, formats_in((counted[index],) * 3)), TENSORS[tensor])
            return own

        offered = [self.offered.indices(tensor) for tensor in TENSORS]
        return ActivationSizes.of(self.activations, modules, bits, offered, len(counted))

    def with_activations(self, activations: Sequence[Activation]) -> Space:
        """The same space of a network whose stored activations are known."""
        floating = placed(buffers(activations, lambda layer, tensor: FLOAT_BITS)).peak
        cost = self.float_cost.model_copy(update={"ram_bytes": floating})
        return replace(self, activations=tuple(activations), float_cost=cost)

    def of_first(self, offered: FormatSet, counted: tuple[Choosable, ...] = ()) -> Space:
        """The same space of fewer formats.

        Args:
            offered: of its formats the first ones.
            counted: of the new space.
        """
        own = {id(each): each.of_first(len(offered.formats)) for each in self.bits}
        bits = tuple(own[id(each)] for each in self.bits)
        return replace(self, offered=offered, counted=counted, bits=bits)

    def extents(self, module: int) -> dict[str, int]:
        """Elements of a module's "input", "weight" and "output" along their blocks, to which larger blocks are cut."""
        return self.layers[module][0].extents

    @property
    def fixed_energy_pj(self) -> float:
        """Energy of the fixed layers' traffic, in pJ."""
        return energy_pj(self.device, self.fixed_bits)

    def cost(self, choices: Sequence[Choice], placed: bool = True) -> Cost:
        """Cost of a plan: one choice for each module.

        Args:
            choices: the plan.
            placed: whether its memory of activations is that of a placement; else it is what none comes below, which
                is known far sooner and nearly always the same.
        """
        level_bits = self.level_bits(choices)
        counted = self.counted or self.formats
        weights = sum(
            weight_size(layers[0], format_for(counted[choice[1]], "weight"))
            for module, layers, choice in zip(self.modules, self.layers, choices, strict=True)
            if module not in self.unstored
        )
        energy = energy_pj(self.device, level_bits)
        ram = None
        if self.arena is not None:
            ram = self.arena.placed(choices).peak if placed else self.arena.lower_bound(choices)
        return Cost.of_levels(level_bits.tolist(), energy, weights + self.other_bytes, ram)

    def levels(self, layer: Layer, q: Widths, choices: Sequence[Choice]) -> tuple[LevelMovement, ...]:
        """What one of the network's layers moves at every memory, by the plan of its memories that `cost` counts.

        Args:
            layer: of the space.
            q: its widths in the formats that are chosen, or in 32-bit float if it is fixed.
            choices: one for each module.
        """
        for module, layers in enumerate(self.layers):
            if layer in layers:
                tilings = self.bits[module].plan(choices[module], layers.index(layer))
                return levels_of(layer, q, self.device, tilings)
        return movement(layer, q, self.device)

    def level_bits(self, choices: Sequence[Choice]) -> NDArray[np.float64]:
        """Array (boundaries,): what a plan moves over every boundary, outermost (DRAM) first, in bits."""
        bits: NDArray[np.float64] = self.fixed_bits + sum(
            moved.at(choice) for moved, choice in zip(self.bits, choices, strict=True)
        )
        return bits

    def tensor_formats(
        self, choices: Sequence[Choice], ranges: Mapping[str, Ranges] | None = None
    ) -> dict[str, TensorFormats]:
        """A plan's formats by module path.

        Args:
            choices: the plan.
            ranges: calibration, which tells activations without negative numbers; without it any may have some.
        """
        return {
            module: formats_in(tuple(self.formats[index] for index in choice), (ranges or {}).get(module))
            for module, choice in zip(self.modules, choices, strict=True)
        }

    def uniform(self, index: int) -> Choices:
        """The plan that gives every tensor the same format."""
        return ((index, index, index),) * len(self.modules)


def formats_in(chosen: Sequence[Choosable], ranges: Ranges | None = None) -> TensorFormats:
    """The formats that candidates for input, weight and output of a module mean.

    Args:
        chosen: three candidates.
        ranges: of the module's activations; None: they may have negative numbers.
    """
    own = ranges or Ranges()
    return TensorFormats(
        *(format_for(each, tensor, own.non_negative(tensor)) for each, tensor in zip(chosen, TENSORS, strict=True))
    )


def energy_pj(device: Device, level_bits: Sequence[float] | NDArray[np.float64]) -> float:
    """Energy of traffic at every boundary, outermost first, in pJ (paper, Eq. 8)."""
    return float(np.asarray(level_bits) @ _prices(device))


def _prices(device: Device) -> NDArray[np.float64]:
    """Energy of one bit over every boundary, outermost first, in pJ."""
    return np.array([source.energy_pj_per_bit for _, source in device.boundaries])


def space_of(
    model: nn.Module,
    layers: Sequence[Layer],
    device: Device,
    wanted: int | FormatSet,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Space:
    """The search space of a network's own weights: every choice of formats, for every module that can take one.

    Args:
        model: the network.
        layers: as it was traced.
        device: the memories.
        wanted: what is chosen from; 8 or 16: the grid of formats of so many bits (paper: q_b).
        progress: as for `build_space`.

    Raises:
        BitqError: no layer whose formats can be chosen, or a memory too small for any tiling.
    """
    given = FormatSet.grid(wanted) if isinstance(wanted, int) else wanted
    weights = weight_bytes(model, layers)
    if not weights and (floating := staying_float(model, layers)):
        raise BitqError(f"the network has no layer whose formats could be chosen: {sentence(floating[0])}")
    found = build_space(layers, weights, stored_bytes(model), device, given, progress)
    return replace(found, ties=_shared_weights(model, found.modules))


def _shared_weights(model: nn.Module, modules: Sequence[str]) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Ties of modules that have one weight, such as an embedding and the layer that predicts its rows."""
    sharing: dict[int, list[tuple[int, int]]] = {}
    for index, name in enumerate(modules):
        module = model.get_submodule(name)
        if not _of_activations(module):
            sharing.setdefault(id(module.weight), []).append((index, 1))
    return tuple(tuple(group) for group in sharing.values() if len(group) > 1)


def modules_of(model: nn.Module, layers: Sequence[Layer]) -> tuple[str, ...]:
    """The modules of `space_of`, in order of execution, without what it takes to know what they move."""
    floating = float_reasons(model, layers)
    return tuple(dict.fromkeys(layer.module for layer in layers if layer.name not in floating))


def weight_bytes(model: nn.Module, layers: Sequence[Layer]) -> dict[str, int]:
    """What the weights of `modules_of` take as stored today, in bytes, by path."""
    found: dict[str, int] = {}
    modules = {name: model.get_submodule(name) for name in modules_of(model, layers)}
    lent = {f"{name}.weight" for name in modules}
    for name, module in modules.items():
        other = isinstance(module, Projection | TransposedProjection) and module.stored in lent
        found[name] = 0 if other or _of_activations(module) else _bytes(module.weight)  # type: ignore[arg-type]
        if isinstance(module, Projection | TransposedProjection):
            lent.add(module.stored)
    return found


def stored_bytes(model: nn.Module) -> int:
    """What a network stores today: all parameters and buffers as they are, in bytes."""
    return sum(_bytes(tensor) for tensor in model.state_dict().values())


def _of_activations(module: nn.Module) -> bool:
    return kind_of(module).of_activations


def _bytes(tensor: Tensor) -> int:
    return prod(tensor.shape) * tensor.element_size()


def build_space(
    layers: Sequence[Layer],
    weight_bytes: Mapping[str, int],
    stored_bytes: int,
    device: Device,
    formats: Sequence[Choosable] | FormatSet,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Space:
    """Tabulate the movement of every choice of formats for every module.

    Args:
        layers: the traced network.
        weight_bytes: by path of the modules whose formats can be chosen, what their weight takes as stored today, in
            bytes: 4 an element in float32, 2 in bfloat16; 0 where it is an activation or another module's.
        stored_bytes: all parameters and buffers as stored today, in bytes.
        device: the memories.
        formats: the candidates; a sequence of them is for all tensors.
        progress: called with (what, done, total) after each distinct layer.

    Raises:
        BitqError: no layer whose formats can be chosen, or a memory too small for any tiling.
    """
    chosen: dict[str, list[Layer]] = {}
    fixed = []
    for layer in layers:
        if layer.module in weight_bytes and (layer.weight_is_parameter or not weight_bytes[layer.module]):
            chosen.setdefault(layer.module, []).append(layer)
        else:
            fixed.append(layer)
    if not chosen:
        raise BitqError("the network has no convolution or linear module whose formats could be chosen")
    offered = formats if isinstance(formats, FormatSet) else FormatSet(tuple(formats))
    moved = _moved(chosen.values(), device, offered, progress)
    boundaries = len(device.boundaries)
    fixed_bits = sum((_float_bits(layer, device) for layer in fixed), np.zeros(boundaries))
    float_bits = fixed_bits + sum(_float_bits(layer, device) for group in chosen.values() for layer in group)
    found = Space(
        device=device,
        modules=tuple(chosen),
        layers=tuple(tuple(group) for group in chosen.values()),
        fixed=tuple(fixed),
        offered=offered,
        bits=moved,
        fixed_bits=fixed_bits,
        float_cost=Cost.of_levels(float_bits.tolist(), energy_pj(device, float_bits), stored_bytes),
        other_bytes=stored_bytes - sum(weight_bytes[module] for module in chosen),
        unstored=frozenset(module for module in chosen if not weight_bytes[module]),
    )
    if offered.measured_by is None:
        return found
    measure = FormatSet.grid(offered.measured_by)
    by_grid = _moved(chosen.values(), device, measure, progress)
    return replace(found, largest_bits=replace(found, offered=measure, bits=by_grid).movement_max)


def _float_bits(layer: Layer, device: Device) -> NDArray[np.float64]:
    bits: NDArray[np.float64] = movement_many(layer, [[FLOAT_BITS] * 3], device)[0]
    return bits


def _moved(
    modules: Collection[Sequence[Layer]],
    device: Device,
    offered: FormatSet,
    progress: Callable[[str, int, int], None],
) -> tuple[Moved, ...]:
    """For each module what its layers move; modules of equal shapes share one table, each made by a thread."""
    keys = [tuple(layer.unnamed for layer in group) for group in modules]
    distinct = dict(zip(keys, modules, strict=True))

    def moved(group: Sequence[Layer]) -> Moved:
        of_formats = [[widths(layer, formats_in((fmt,) * 3)) for layer in group] for fmt in offered.formats]
        return Moved.of(group, device, of_formats, [offered.indices(tensor) for tensor in TENSORS])

    def tell(done: int) -> None:
        progress(STAGE, done, len(distinct))

    tables = answered(moved, tuple(distinct.values()), torch.get_num_threads(), tell)
    found = dict(zip(distinct, tables, strict=True))
    return tuple(found[key] for key in keys)
