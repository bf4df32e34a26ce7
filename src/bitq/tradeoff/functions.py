"""What a function is, in a few characters that are the same in every process: its name and a digest of what it does.

A loss or a metric decides what results mean, and its name tells little: `functools.partial` objects, lambdas of one
scope, closures over other values, callable objects in another state and edited functions share theirs. The digest
covers

- of a function: its bytecode with all constants, its defaults, the variables it closes over, the globals it reads;
- of an object, which a bound method belongs to: its class with all methods, and its state as pickle takes it apart;
- of what Python, PyTorch, NumPy and bitq bring: its name, since the results store tells their versions;
- of what another installed package brings: its name, the package's version and the module's file.

What pickle cannot take apart (an open file, a lock) cannot be told from others. Another version of Python makes other
bytecode, so functions of the user's own are others there.
"""

from __future__ import annotations

import copyreg
import dis
import enum
import functools
import hashlib
import importlib.util
import logging
import os
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from bitq.batches import contents

MOST_PARTS = 200_000
"""Of what a function refers to; where there are more, it is not identified."""

_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_BY_TEXT = (torch.dtype, torch.device, torch.layout, torch.memory_format, np.dtype, range, slice)
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)

_READING = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "IMPORT_NAME")
"""Operations that read a global, or a module."""

_VERSIONED = ("builtins", "bitq", "torch", "numpy")
_STANDARD = Path(os.__file__).parent

_SAID_ELSEWHERE = {
    *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__"),
    *("__annotations__", "__annotate_func__", "__annotations_cache__", "__parameters__", "__orig_bases__"),
    *("__abstractmethods__", "_abc_impl", "__dataclass_fields__", "__dataclass_params__"),
}
"""Attributes of a class that do nothing, or that its bases and methods say, too."""


@dataclass(frozen=True)
class Identity:
    """What a function is.

    Attributes:
        text: equal for equal functions, and for no others.
        unknown: why it cannot be told from others, "" if it can; `text` is then like no other.
    """

    text: str
    unknown: str = ""


def identity_of(function: Any) -> Identity:
    """What a function, a method or any other callable is."""
    name = name_of(function)
    if isinstance(function, types.FunctionType) and not function.__closure__ and _origin(function) == ():
        return Identity(f"{function.__module__}.{name}")
    try:
        found = _Digest()
        found.add(function)
    except _UnknownError as error:
        return Identity(f"{name} (unidentified {uuid4().hex[:12]})", str(error))
    except Exception as error:  # whatever a class of the user's own does when it is taken apart
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return Identity(f"{name} (unidentified {uuid4().hex[:12]})", reason)
    return Identity(f"{name} {found.hash.hexdigest()[:16]}")


def name_of(function: Any) -> str:
    """What a function calls itself."""
    if isinstance(function, functools.partial):
        return f"partial of {name_of(function.func)}"
    return str(getattr(function, "__qualname__", type(function).__qualname__))


class _UnknownError(Exception):
    """Something that cannot be told from others; says what."""


class _Digest:
    """Digest of a value and of all that it refers to; what is met again counts as a number."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self._numbers: dict[int, int] = {}
        self._held: list[Any] = []  # so that no identity returns
        self._count = 0

    def add(self, value: Any) -> None:
        self._count += 1
        if self._count > MOST_PARTS:
            raise _UnknownError(f"it refers to over {MOST_PARTS} things")
        kind = type(value)
        if kind in _ATOMS or kind in _BY_TEXT:
            self._say(kind.__name__, repr(value))
        elif kind is tuple:
            self._all("tuple", value)
        elif kind is frozenset or kind is set:  # in no order
            self._say(kind.__name__, sorted(_digest(part) for part in value))
        elif kind is types.CodeType:
            self._code(value)
        elif id(value) in self._numbers:
            self._say("again", self._numbers[id(value)])
        else:
            self._numbers[id(value)] = len(self._held)
            self._held.append(value)
            self._compound(value)

    def _compound(self, value: Any) -> None:
        match value:
            case types.ModuleType():
                self._say("module", value.__name__)
            case type():
                self._class(value)
            case types.FunctionType():
                self._function(value)
            case types.MethodType():
                self._all("method", (value.__func__, value.__self__))
            case types.BuiltinFunctionType():
                self._builtin(value)
            case staticmethod() | classmethod():
                self._all(type(value).__name__, (value.__func__,))
            case property():
                self._all("property", (value.fget, value.fset, value.fdel))
            case functools._lru_cache_wrapper():
                self._all("cached", (value.__wrapped__,))
            case types.MappingProxyType():
                self._all("mapping", dict(value).items())
            case enum.Enum():
                self._all(value.name, (type(value),))
            case logging.Logger():
                self._say("logger", value.name)
            case Tensor():
                self._say(type(value).__qualname__, str(value.dtype), tuple(value.shape))
                self.hash.update(contents(value))
            case np.ndarray() | np.generic() if not value.dtype.hasobject:
                self._say(type(value).__qualname__, value.dtype.str, value.shape)
                self.hash.update(value.tobytes())
            case _ if type(value) is list:
                self._all("list", value)
            case _ if type(value) is dict:
                self._all("dict", value.items())
            case _ if isinstance(value, _SLOTS):
                self._say("slot", value.__name__)
            case _:
                self._object(value)

    def _object(self, value: Any) -> None:
        """Any other object, as pickle takes it apart."""
        kind = type(value)
        try:
            reduce = copyreg.dispatch_table.get(kind)
            taken = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception as error:
            raise _UnknownError(f"a {kind.__qualname__} cannot be taken apart") from error
        if isinstance(taken, str):  # what pickle would import by this name
            if _origin(value) is None and _origin(kind) is None:
                raise _UnknownError(f"a {kind.__qualname__} tells no more than its name")
            self._say("named", kind.__module__, kind.__qualname__, taken)
            return
        make, given, state, listed, mapped = (*taken, None, None, None)[:5]
        self._all("object", (make, given, state, list(listed or ()), list(mapped or ())))

    def _class(self, kind: type) -> None:
        self._say("class", kind.__module__, kind.__qualname__)
        origin = _origin(kind)
        if origin is not None:
            self._say(*origin)
            return
        self._all("bases", kind.__bases__)
        for name, value in vars(kind).items():
            if name not in _SAID_ELSEWHERE:
                self._say(name)
                self.add(value)

    def _builtin(self, function: types.BuiltinFunctionType) -> None:
        """A function made in C."""
        owner = function.__self__
        self._say("builtin", function.__module__, function.__qualname__)
        if owner is not None and not isinstance(owner, types.ModuleType):
            self.add(owner)
        elif function.__module__:
            self._say(*(_origin(function) or ()))

    def _function(self, function: types.FunctionType) -> None:
        self._say("function", function.__module__, function.__qualname__)
        self._all("closes over", function.__closure__ or ())
        origin = _origin(function)
        if origin is not None:
            self._say(function.__globals__["__name__"], function.__code__.co_qualname, *origin)
            return
        self._code(function.__code__)
        self._all("defaults", (function.__defaults__, function.__kwdefaults__, vars(function)))
        known, package = function.__globals__, function.__globals__.get("__package__") or ""
        attributes = {name for code in _codes(function.__code__) for name in code.co_names}
        for operation, name in sorted(set(_named(function.__code__))):
            self._say(operation, name)
            if operation == "IMPORT_NAME":
                self._imported(name, package, attributes)
            elif isinstance(known.get(name), types.ModuleType):
                self._module(known[name], attributes, set())
            elif name in known:
                self.add(known[name])

    def _imported(self, name: str, package: str, attributes: set[str]) -> None:
        """A module that is imported when the function is called."""
        for found in (f"{package}.{name}".strip("."), name):
            if found in sys.modules:
                self._module(sys.modules[found], attributes, set())
                return
        if _origin_of(name) is None:
            raise _UnknownError(f"it imports {name} when it is called")

    def _module(self, module: types.ModuleType, attributes: set[str], met: set[str]) -> None:
        """What a function may read of a module of the user's own: whatever it names."""
        self._say("module", module.__name__)
        origin = _origin_of(module.__name__)
        if origin is not None:
            self._say(*origin)
        elif module.__name__ not in met:
            met.add(module.__name__)
            for name in sorted(attributes & vars(module).keys()):
                self._say(name)
                value = vars(module)[name]
                if isinstance(value, types.ModuleType):
                    self._module(value, attributes, met)
                else:
                    self.add(value)

    def _code(self, code: types.CodeType) -> None:
        self._say("code", code.co_name, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
        self._say(code.co_flags, code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        self._say(code.co_exceptiontable)
        self._all("constants", code.co_consts)

    def _all(self, what: str, values: Any) -> None:
        self._say(what, len(values))
        for value in values:
            if isinstance(value, types.CellType):
                try:
                    value = value.cell_contents
                except ValueError:  # not filled yet
                    self._say("empty")
                    continue
            self.add(value)

    def _say(self, *words: Any) -> None:
        self.hash.update(repr(words).encode())


def _digest(value: Any) -> str:
    found = _Digest()
    found.add(value)
    return found.hash.hexdigest()


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code and that of all functions within it."""
    yield code
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _codes(value)


def _named(code: types.CodeType) -> Iterator[tuple[str, str]]:
    """(how, name) of all globals that code reads, and of all modules it imports."""
    for each in _codes(code):
        for instruction in dis.get_instructions(each):
            if instruction.opname in _READING:
                yield instruction.opname, instruction.argval


def _origin(value: Any) -> tuple[str, ...] | None:
    """What tells the version of what a package brings, () where the results store tells it; None for the user's own."""
    if isinstance(value, types.FunctionType):  # whatever a decorator says that it is
        return _origin_of(value.__globals__.get("__name__", ""))
    return _origin_of(getattr(value, "__module__", None) or "")


@functools.cache
def _origin_of(name: str) -> tuple[str, ...] | None:
    top = name.partition(".")[0]
    if top in _VERSIONED:
        return ()
    file = _file(name)
    if top in sys.stdlib_module_names and top != "__main__" and (file is None or _STANDARD in file.parents):
        return ()
    if file is None or not {"site-packages", "dist-packages"} & {*file.parts}:
        return None
    return str(getattr(sys.modules.get(top), "__version__", "")), hashlib.sha256(file.read_bytes()).hexdigest()


def _file(name: str) -> Path | None:
    """Where a module comes from, loaded or not."""
    module = sys.modules.get(name)
    if module is not None:
        found = getattr(module, "__file__", None)
    else:
        try:
            found = getattr(importlib.util.find_spec(name.partition(".")[0]), "origin", None)
        except (ImportError, ValueError):
            found = None
    return Path(found) if found and Path(found).is_file() else None
