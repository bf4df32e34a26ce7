"""What a user names on the command line: a network to import and a checkpoint to fill it with."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitq.errors import BitqError, shortened
from bitq.numerics.packedfile import opened, read_tensor
from bitq.torchfile import Other, StoredTensor, opened_torch
from bitq.usercode import UserCodeError, reason
from bitq.validation import shown

_WHAT = "a checkpoint of this network"

# What training scripts wrap a state in, and what parallel, compiled and trainer modules put before names.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("_orig_mod.", "module.", "_orig_mod.", "model.")
# What norms are folded into, and these norms.
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
# Optimizer states and wider types make a checkpoint a few times its network; a larger file is another's.
_MOST_BYTES_PER_BYTE, _MOST_BYTES_BESIDES = 16, 64 * 2**20


def load_network(name: str, not_from: Path | None = None) -> nn.Module:
    """The network that "package.module:function" gives, from the current folder or from what is installed.

    Importing and calling it runs the user's own code. `function` is called without arguments; a class or a
    finished torch.nn.Module is as good.

    Args:
        name: as the user gave it.
        not_from: a folder, as of a run from elsewhere, that no code is taken from.

    Raises:
        BitqError: no such module or function, one within `not_from`, an exception within, or a result that is no
            torch.nn.Module.
    """
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise BitqError(f"{name!r} does not name a network; write package.module:function")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if not_from is not None:
        _keep_out(module_name, not_from)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise BitqError(f"{name!r}: there is no module {error.name!r}, here or installed") from error
        raise UserCodeError(f"importing {module_name!r} failed: {reason(error)}") from error
    except (Exception, SystemExit) as error:
        raise UserCodeError(f"importing {module_name!r} failed: {reason(error)}") from error
    try:
        made = reduce(getattr, path.split("."), module)
    except AttributeError as error:
        raise BitqError(f"{name!r}: module {module_name!r} has no {path!r}") from error
    if not isinstance(made, nn.Module):
        try:
            made = made()  # type: ignore[operator]
        except (Exception, SystemExit) as error:
            raise UserCodeError(f"calling {name!r} without arguments failed: {reason(error)}") from error
    if not isinstance(made, nn.Module):
        raise BitqError(f"{name!r} returned a {type(made).__name__}; it must return a torch.nn.Module")
    return made


def _keep_out(module_name: str, folder: Path) -> None:
    """See that importing a module takes no code from a folder: not this module, nor what it imports in its turn.

    Raises:
        BitqError: the module lies there. Nothing was imported to find that out.
    """
    within = _written_and_resolved(folder)
    own = _written_and_resolved(Path(sys.prefix)) | _written_and_resolved(Path(__file__).parents[1])

    def inside(place: str) -> bool:
        found = _written_and_resolved(Path(place))
        under = [any(each.is_relative_to(top) for each in found for top in tops) for tops in (within, own)]
        return under == [True, False]  # the Python and the bitq that run may lie where they like

    places: Sequence[str] | None = None  # as sys.path
    whole = ""
    for part in module_name.split("."):
        whole = f"{whole}.{part}" if whole else part
        spec = PathFinder.find_spec(whole, places)
        if spec is None:  # built in, or what only its package finds
            break
        places = list(spec.submodule_search_locations or ())
        if any(map(inside, (*places, *([spec.origin] if spec.has_location and spec.origin else ())))):
            raise BitqError(
                f"module {whole!r} lies in the run's folder {folder}, which no code is taken from; give a network of "
                "your own, from another folder"
            )
    sys.path[:] = [place for place in sys.path if not inside(place)]


def _written_and_resolved(path: Path) -> set[Path]:
    """Where a path leads, with its links as they are written and followed."""
    return {Path(os.path.normpath(path.absolute())), path.resolve()}


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Fill `model` with the parameters and buffers of a .safetensors file or of one that torch.save wrote.

    Nothing in the file is executed, and no tensor is read before its name and shape are the network's. A state within
    {"state_dict": …} or {"model": …} and names that begin with "module." (as torch.nn.DataParallel saves them) are
    understood. Batch norms that were folded before the checkpoint was saved (`folded_norms`) are left out of the
    network (`leave_out`).

    Raises:
        BitqError: a file that is missing, damaged, no regular one, far larger than the network or holds more than
            tensors; a name or a shape that is not the network's; a tensor that is sparse, quantized, nested, complex
            or without values; a value that is not finite in the network's type.
    """
    expected = model.state_dict()
    network_bytes = sum(tensor.numel() * tensor.element_size() for tensor in expected.values())
    source = _opened_safetensors if path.suffix == ".safetensors" else opened_torch
    with source(path, _MOST_BYTES_PER_BYTE * network_bytes + _MOST_BYTES_BESIDES, _WHAT) as content:
        stored = _without_prefix(_state(content, path), expected)
        folded = folded_norms(model, stored)
        expected = state_without(model, folded)
        _check_names(stored, expected, path)
        state = {key: _finite(tensor.load(), expected[key].dtype, key, path) for key, tensor in stored.items()}
    leave_out(model, folded)
    model.load_state_dict(state, strict=False)


def folded_norms(model: nn.Module, stored: Iterable[str]) -> dict[str, str]:
    """Batch norms that were folded before a state was stored, as the names of its tensors tell.

    Nothing of such a norm is stored, but a bias of the one layer without bias beside it in the same module.

    Returns:
        By the paths of these layers those of their norms.
    """
    names = set(stored)
    present = {name.rpartition(".")[0] for name in names}
    folded = {}
    for path, parent in model.named_modules():
        children = {f"{path}.{name}".lstrip("."): child for name, child in parent.named_children()}
        norms = [name for name, child in children.items() if isinstance(child, _NORMS)]
        layers = [name for name, child in children.items() if isinstance(child, _LAYERS) and child.bias is None]
        if len(norms) == len(layers) == 1 and norms[0] not in present and f"{layers[0]}.bias" in names:
            folded[layers[0]] = norms[0]
    return folded


def state_without(model: nn.Module, folded: Mapping[str, str]) -> dict[str, Tensor]:
    """What the state of a network will be after `leave_out`."""
    left_out = {f"{norm}.{name}" for norm in folded.values() for name in model.get_submodule(norm).state_dict()}
    state = {key: tensor for key, tensor in model.state_dict().items() if key not in left_out}
    return state | {f"{layer}.bias": _zeros(model, layer, norm) for layer, norm in folded.items()}


def leave_out(model: nn.Module, folded: Mapping[str, str]) -> None:
    """Give layers a bias of zeros in place of the norms behind them, each of which becomes a `torch.nn.Identity`.

    Args:
        model: a network; is changed.
        folded: as `folded_norms` returns it.
    """
    for layer, norm in folded.items():
        module: Any = model.get_submodule(layer)
        module.bias = nn.Parameter(_zeros(model, layer, norm), module.weight.requires_grad)
        parent, _, last = norm.rpartition(".")
        setattr(model.get_submodule(parent), last, nn.Identity())


def _zeros(model: nn.Module, layer: str, norm: str) -> Tensor:
    module: Any = model.get_submodule(layer)
    zeros: Tensor = module.weight.new_zeros(model.get_submodule(norm).num_features)
    return zeros


@contextmanager
def _opened_safetensors(path: Path, most_bytes: int, what: str) -> Iterator[dict[str, StoredTensor]]:
    with opened(path, most_bytes, what) as file:
        yield {
            name: StoredTensor(tuple(file.get_slice(name).get_shape()), partial(read_tensor, path, file, name))
            for name in file.keys()  # noqa: SIM118 - no mapping
        }


def _state(content: Any, path: Path) -> dict[str, StoredTensor]:
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Other) and value.kind and isinstance(key, str):
            raise BitqError(f"{path}: {shown(key)} is {value.kind}; save what model.state_dict() returns, all dense")
    if not isinstance(content, Mapping) or not all(_is_parameter(*item) for item in content.items()):
        raise BitqError(f"{path} holds no state of a network; save what model.state_dict() returns")
    return dict(content)


def _is_parameter(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, StoredTensor)


def _check_names(state: Mapping[str, StoredTensor], expected: Mapping[str, Tensor], path: Path) -> None:
    for key, tensor in expected.items():
        if key not in state and not key.endswith("num_batches_tracked"):  # which nothing needs after training
            raise BitqError(f"{path} has no {shown(key)}, which the network needs")
        if key in state and (given := state[key].shape) != (shape := tuple(tensor.shape)):
            raise BitqError(f"{path}: {shown(key)} has shape {shortened(str(given))}, but {shape} in the network")
    for key in state:
        if key not in expected:
            raise BitqError(f"{path} has {shown(key)}, which the network lacks")


def _finite(tensor: Tensor, dtype: torch.dtype, key: str, path: Path) -> Tensor:
    if tensor.is_complex() and not dtype.is_complex:
        raise BitqError(f"{path}: {shown(key)} is complex, but real in the network; give a checkpoint of this network")
    try:
        finite = bool(torch.isfinite(tensor.to(dtype)).all())
    except (NotImplementedError, RuntimeError) as error:  # a type too new or too rare for torch to convert
        raise BitqError(f"{path}: {shown(key)} is of a type that cannot become {dtype}; save it as floats") from error
    if not finite:
        raise BitqError(f"{path}: {shown(key)} is not finite; give a checkpoint that has not diverged")
    return tensor


def _without_prefix(state: dict[str, StoredTensor], expected: Mapping[str, Tensor]) -> dict[str, StoredTensor]:
    for prefix in _PREFIXES:
        if not state.keys() & expected.keys() and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state
