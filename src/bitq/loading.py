"""What a user names on the command line: a network to import and a checkpoint to fill it with."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from functools import reduce
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bitq.errors import BitqError
from bitq.outside import opened_outside

# What training scripts wrap a state in, and what parallel, compiled and trainer modules put before names.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("_orig_mod.", "module.", "_orig_mod.", "model.")
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
        raise BitqError(f"importing {module_name!r} failed: {_told(error)}") from error
    except (Exception, SystemExit) as error:
        raise BitqError(f"importing {module_name!r} failed: {_told(error)}") from error
    try:
        made = reduce(getattr, path.split("."), module)
    except AttributeError as error:
        raise BitqError(f"{name!r}: module {module_name!r} has no {path!r}") from error
    if not isinstance(made, nn.Module):
        try:
            made = made()  # type: ignore[operator]
        except (Exception, SystemExit) as error:
            raise BitqError(f"calling {name!r} without arguments failed: {_told(error)}") from error
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

    Nothing in the file is executed. A state within {"state_dict": …} or {"model": …} and names that begin
    with "module." (as torch.nn.DataParallel saves them) are understood.

    Raises:
        BitqError: a file that is missing, damaged, far larger than the network or holds more than tensors; a
            name or a shape that is not the network's; a value that is not finite in the network's type.
    """
    expected = model.state_dict()
    content = _read(path, sum(t.numel() * t.element_size() for t in expected.values()))
    state = _without_prefix(_state(content, path), expected)
    for key, tensor in expected.items():
        if key not in state and not key.endswith("num_batches_tracked"):  # which nothing needs after training
            raise BitqError(f"{path} has no {key!r}, which the network needs")
        if key in state and (given := tuple(state[key].shape)) != (shape := tuple(tensor.shape)):
            raise BitqError(f"{path}: {key!r} has shape {given}, but {shape} in the network")
    for key, tensor in state.items():
        if key not in expected:
            raise BitqError(f"{path} has {key!r}, which the network lacks")
        if not torch.isfinite(tensor.to(expected[key].dtype)).all():
            raise BitqError(f"{path}: {key!r} is not finite; give a checkpoint that has not diverged")
    model.load_state_dict(state, strict=False)


def _read(path: Path, network_bytes: int) -> Any:
    """What a checkpoint holds, if it is not far larger than its network, unpacked or not."""
    most = _MOST_BYTES_PER_BYTE * network_bytes + _MOST_BYTES_BESIDES
    with opened_outside(path, most, "a checkpoint of this network") as file:
        try:
            if path.suffix == ".safetensors":
                return load_file(path)
            if zipfile.is_zipfile(file):  # as torch.save writes, and may be compressed by others
                with zipfile.ZipFile(file) as archive:
                    if sum(entry.file_size for entry in archive.infolist()) > most:
                        raise BitqError(f"{path} unpacks to more than the {most} bytes of a checkpoint of this network")
            file.seek(0)
            with warnings.catch_warnings(action="ignore"):  # of odd pickles, which are told if they cannot be read
                return torch.load(file, map_location="cpu", weights_only=True)
        except BitqError:
            raise
        except pickle.UnpicklingError as error:
            raise BitqError(
                f"{path} is damaged, or holds more than tensors, which never runs; save model.state_dict() alone"
            ) from error
        except Exception as error:  # whatever a decoder of untrusted bytes runs into
            raise BitqError(
                f"{path} is damaged, or no checkpoint; save model.state_dict() with torch.save or as .safetensors"
            ) from error


def _state(content: Any, path: Path) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise BitqError(f"{path} holds no state of a network; save what model.state_dict() returns")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise BitqError(
                f"{path} holds no state of a network: {key!r} is no tensor; save what model.state_dict() returns"
            )
        if not _is_plain(value):
            raise BitqError(f"{path}: {key!r} has no plain numbers in memory; save it dense, real and not quantized")
    return dict(content)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has a number for each element, in memory."""
    odd = tensor.is_nested or tensor.is_quantized or tensor.is_complex()
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not odd


def _without_prefix(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if not state.keys() & expected.keys() and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _told(error: BaseException) -> str:
    """An exception of foreign code in one line."""
    return f"{type(error).__name__}: {error}".partition("\n")[0].removesuffix(": ")
