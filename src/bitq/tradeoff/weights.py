"""The quantized network on disk: the weights of a plan packed, everything else as it is, in one safetensors file.

`bitq.numerics.packedfile` says how the file is laid out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from bitq.accuracy.kinds import kind_of
from bitq.accuracy.quantized import apply
from bitq.errors import BitqError, shortened
from bitq.files import RunFolder, check_replaceable
from bitq.formats import Format, TensorFormats
from bitq.loading import folded_norms, leave_out, load_checkpoint, state_without
from bitq.multiplying import stored_name
from bitq.numerics.packedfile import DIGEST, DTYPES, ENTRY, PACKABLE, FileTensor, opened, read_packed, write_packed
from bitq.numerics.packing import WeightBlocks, weight_blocks
from bitq.tradeoff.plan import Plan, PlanLayer, load_plan
from bitq.validation import shown

load_weights = read_packed


OUTCOME = "bitq_outcome"
"""The entry of the header's metadata with the outcome that the weights are of; see `Plan.outcome`."""


def save_weights(
    path: Path, model: nn.Module, formats: Mapping[str, TensorFormats], outcome: str | None = None
) -> dict[str, int]:
    """Write a network's state with the weights of a plan packed.

    Args:
        path: written atomically.
        model: float or quantized; its parameters are the float weights behind the quantized ones.
        formats: by module path; blocks run as in `bitq.apply`.
        outcome: of the plan that the weights belong to, which the header then tells.

    Returns:
        The exponent bias of each packed weight of a format `eN`, by module path.

    Raises:
        BitqError: a weight with NaN or infinity, or one that is no tensor of the state, as a parametrization's.
    """
    state = model.state_dict()
    names = packed_names(model, (module for module, entry in formats.items() if entry.weight is not None))
    check_savable(state, names)
    modules = {name: module for module, name in names.items()}
    types = {dtype: name for name, dtype in DTYPES.items()}
    entries = []
    for name, tensor in state.items():
        entry = FileTensor(name, types[tensor.dtype], tuple(tensor.shape))
        if name in modules:
            module = modules[name]
            layer = model.get_submodule(module)
            entry = _packed(entry, formats[module].weight, kind_of(layer).blocks(layer, entry.shape))
        entries.append(entry)
    biases = write_packed(path, entries, state.__getitem__, {} if outcome is None else {OUTCOME: outcome})
    return {module: biases[name] for module, name in names.items() if name in biases}


def packed_names(model: nn.Module, modules: Iterable[str]) -> dict[str, str]:
    """By path of these modules, the names of their weights in a network's state; activations are not stored."""
    names = {module: stored_name(model.get_submodule(module), module) for module in modules}
    return {module: name for module, name in names.items() if name is not None}


def check_savable(state: Mapping[str, object], names: Mapping[str, str]) -> None:
    """Refuse a network whose packed weights no file could hold.

    Args:
        state: of the network.
        names: of the weights that are to be packed, by the paths of their modules.

    Raises:
        BitqError: such a weight is no tensor of the state, as a parametrization's, or the state holds what safetensors
            does not.
    """
    for module, name in names.items():
        if name not in state:
            raise BitqError(
                f"the network's state has no {name!r}; a parametrized weight of module {module!r} can be saved after "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )
    for name, held in state.items():
        if not isinstance(held, Tensor):
            raise BitqError(
                f"{name!r} of the network's state is a {type(held).__name__}, which a safetensors file does not hold; "
                "keep tensors alone in it, as by leaving out get_extra_state"
            )
        if held.dtype not in DTYPES.values():
            raise BitqError(f"{name!r} is of {held.dtype}, which a safetensors file does not hold")


def quantize_file(
    source: Path,
    wanted: Plan | Format,
    path: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[tuple[FileTensor, ...], dict[str, int]]:
    """Write a checkpoint again with its weights packed; needs no network, and memory for one tensor at a time.

    What a whole weight shares, such as an exponent bias, is its own, as `bitq.apply` gives it.

    Args:
        source: a safetensors file with the tensors of a network's state.
        wanted: a plan, whose layers name the weights and tell their shapes; or one format for every tensor
            "….weight" of two to five axes, taken for that of a linear layer or of a convolution that is not transposed.
        path: written atomically.
        progress: called with (bytes of tensors read, all bytes of them).

    Returns:
        What the file holds, and the exponent bias of each packed tensor of a format `eN`.

    Raises:
        BitqError: a file that is missing, damaged or packed already; a weight that is missing, of another shape than
            the plan's, of a type that cannot be packed, or with NaN or infinity; nothing to pack.
    """
    check_replaceable(path)
    if _same(path, source):
        raise BitqError(f"{path} is the checkpoint itself; give another name for the packed one")
    with opened(source) as file:
        metadata = file.metadata() or {}
        if ENTRY in metadata:
            raise BitqError(f"{source} holds packed weights already; give the float checkpoint")
        tensors = {}
        for name in file.keys():  # noqa: SIM118 - no mapping
            view = file.get_slice(name)
            try:
                tensors[name] = FileTensor(name, view.get_dtype(), tuple(view.get_shape()))
            except BitqError as error:
                raise BitqError(f"{source} is damaged: {error}") from None
            if tensors[name].dtype not in DTYPES:
                raise BitqError(f"{source}: {shown(name)} is of type {tensors[name].dtype}, which torch does not know")
        packed = _uniform(tensors, wanted) if isinstance(wanted, Format) else _planned(tensors, wanted, source)
        if not packed:
            raise BitqError(f"{source} has no weight to pack")
        for entry in packed.values():
            if entry.dtype not in PACKABLE:
                raise BitqError(
                    f"{source}: {shown(entry.name)} is of type {entry.dtype}; weights of type "
                    f"{', '.join(PACKABLE)} can be packed"
                )
        entries = tuple({**tensors, **packed}.values())
        try:
            return entries, write_packed(path, entries, file.get_tensor, metadata, progress)
        except BitqError as error:
            raise BitqError(f"{source}: {error}") from None


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one is not there, or cannot be seen, as is told where it is read or written
        return False


def _planned(tensors: Mapping[str, FileTensor], plan: Plan, source: Path) -> dict[str, FileTensor]:
    """The tensors that a plan packs."""
    packed = {}
    for layer in plan.layers:
        if layer.formats.weight is None or layer.weight_is_parameter is False:
            continue
        name = layer.parameter or f"{layer.module}.weight".lstrip(".")
        if name not in tensors:
            raise BitqError(
                f"{source} has no {shown(name)}, to which the plan gives a format; is it the planned network's?"
            )
        entry = tensors[name]
        if not _fits(entry.shape, layer):
            loops = ", ".join(f"{loop}={layer.loops[loop]}" for loop in "KCRS")
            raise BitqError(
                f"{source}: {shown(name)} of shape {shortened(str(entry.shape), 60)} is not the weight of the plan's "
                f"layer {shown(layer.name)} ({loops}, {layer.groups} groups)"
            )
        packed[name] = _packed(entry, layer.formats.weight, weight_blocks(entry.shape, layer.transposed, layer.groups))
    return packed


def _fits(shape: tuple[int, ...], layer: PlanLayer) -> bool:
    if layer.table is not None:
        return shape == layer.table
    k, c, r, s = (layer.loops[loop] for loop in "KCRS")
    c //= layer.depth
    channels = (c * layer.groups, k // layer.groups) if layer.transposed else (k, c)
    return shape[:2] == channels and prod(shape[2:]) == layer.depth * r * s


def _uniform(tensors: Mapping[str, FileTensor], fmt: Format) -> dict[str, FileTensor]:
    """All tensors that look like weights of linear layers and convolutions."""
    return {
        name: _packed(entry, fmt, weight_blocks(entry.shape))
        for name, entry in tensors.items()
        if name.split(".")[-1] == "weight" and 2 <= len(entry.shape) <= 5 and entry.dtype in PACKABLE
    }


def _packed(entry: FileTensor, fmt: Format | None, blocks: WeightBlocks) -> FileTensor:
    return FileTensor(entry.name, entry.dtype, entry.shape, fmt, blocks)


def checksum(path: Path) -> str:
    """The checksum that a file of packed weights tells of itself, as `Plan.weights` has it."""
    return _metadata(path).get(DIGEST, "")


def _metadata(path: Path) -> Mapping[str, str]:
    with opened(path) as file:
        return file.metadata() or {}


def load_quantized(model: nn.Module, folder: str | Path) -> Plan:
    """Turn a float network into the quantized one of a finished run, in place and in evaluation mode.

    Args:
        model: the network the run was about; its own weights do not matter.
        folder: of the run, with plan.json and weights.safetensors.

    Returns:
        The plan. Those of earlier versions do not tell which weights belong to them (`Plan.weights` is None).

    Raises:
        BitqError: a file that is missing or damaged, a plan and weights that do not belong together, or a run of
            another network.
    """
    files = RunFolder(Path(folder))
    plan = load_plan(files.plan)
    told = _metadata(files.weights)
    if plan.weights not in (None, told.get(DIGEST)) or told.get(OUTCOME, plan.outcome) != plan.outcome:
        raise BitqError(
            f"{files.weights} and {files.plan} do not belong together: a search was stopped between them, or one is of "
            "another run; run the search command again, which writes both and repeats no finished evaluation"
        )
    load_into(model, files.weights)
    apply(model, plan)
    model.eval()
    return plan


def load_float_or_packed(model: nn.Module, path: Path) -> None:
    """Fill a network with a checkpoint: what `save_weights` or `quantize_file` wrote, or what others did.

    Raises:
        BitqError: as `load_into` and `bitq.loading.load_checkpoint`.
    """
    if path.suffix == ".safetensors" and path.is_file() and ENTRY in _metadata(path):
        load_into(model, path)
    else:
        load_checkpoint(model, path)


def load_into(model: nn.Module, path: Path) -> None:
    """Fill a network with the weights of a file; as `bitq.loading.load_checkpoint` does, where norms were folded.

    Raises:
        BitqError: a file that cannot be read, one of another network (names the first difference), or numbers that no
            training leaves: of another kind than the network's, or parameters that are not finite.
    """
    tensors = load_weights(path)
    folded = folded_norms(model, tensors)
    state = state_without(model, folded)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    parameters |= {f"{layer}.bias" for layer in folded}
    for name, tensor in state.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise BitqError(f"{path} is of another network: it has no {name!r} of shape {tuple(tensor.shape)}")
        given = tensors[name]
        if given.dtype not in DTYPES.values() or given.is_floating_point() != tensor.is_floating_point():
            raise BitqError(f"{path}: {name!r} is of {given.dtype}, but {tensor.dtype} in the network; write it anew")
        if name in parameters and not torch.isfinite(given.to(tensor.dtype)).all():
            raise BitqError(f"{path}: {name!r} is not finite; write it anew from a network that has not diverged")
    extra = next((name for name in tensors if name not in state), None)
    if extra is not None:
        raise BitqError(f"{path} is of another network: the network has no {shown(extra)}")
    leave_out(model, folded)
    model.load_state_dict(tensors)
