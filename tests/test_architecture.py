"""The shape of the package: which way data flows, what loads torch, who uses its private names, and one name for each.

Each rule lists the exceptions it has today. An exception that is none any more fails its test: strike it out.
"""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import bitq

PACKAGE = Path(bitq.__file__).parent

RANKS = (
    {"errors", "interrupts"},
    {"outside"},
    {"calls", "layers", "memory", "nested", "placement", "planning", "private_torch", "progress", "randomness"},
    {"files", "formats", "multiplying", "validation"},
    {"running", "usercode"},
    {"allocator", "arrays", "batches", "database", "floating", "geometry"},
    {"csvfile", "devices", "images", "numerics", "store", "torchfile"},
    {"accuracy", "movement", "datasets", "loading", "networks", "demo", "salvage"},
    {"onnx", "tasks", "tracing"},
    {"tradeoff"},
    {"exporting", "report", "ladder"},
    {"api"},
    {"cli"},
    {"__main__"},
)
"""Modules and packages in `bitq`, the lowest first. One imports itself and what is of a lower rank, nothing else.

The package's own `__init__` gives the public names of them all, and so stands above.
"""

UPWARD: set[tuple[str, str]] = set()
"""Imports from a lower rank into the same or a higher one."""

WITHOUT = [
    ("bitq", "torch"),
    ("bitq.api", "torch._dynamo"),
    ("bitq.cli", "torch"),
    ("bitq.devices", "torch"),
    ("bitq.floating", "torch"),
    ("bitq.formats", "torch"),
    ("bitq.layers", "torch"),
    ("bitq.movement", "torch"),
    ("bitq.movement.together", "torch"),
    ("bitq.movement.network", "torch"),
    ("bitq.movement.relaxed", "casadi"),
    ("bitq.movement.sweep", "torch"),
    ("bitq.onnx", "torch"),
    ("bitq.progress", "torch"),
    ("bitq.store", "torch"),
    ("bitq.tradeoff.ray_workers", "ray"),
    ("bitq.report", "torch"),
    ("bitq.tradeoff.plan", "torch"),
]
"""Modules, and what importing them must not load."""

PRIVATE: set[str] = set()
"""Modules beside `bitq.private_torch` that use names which PyTorch does not promise."""

SAME_TYPES = {
    "Axes",
    "Axis",
    "BasicBlock",
    "Json",
    "Network",
    "Planned",
    "Shape",
}
"""Names that several classes or types have."""

SAME_FILES = {"sweep.py"}
"""Names that several modules have. Those of `bitq.cli` do not count: each is named after its command.
Nor do those of `bitq.numerics.reference`: each is named after what it is the slow twin of."""

APART = {PACKAGE / "cli", PACKAGE / "numerics" / "reference"}


def sources():
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = sources()
MODULES = {module_name(path): tree for path, tree in SOURCES.items()}


def imported(tree, module, known):
    """Modules of `known` that a module imports anywhere, for type checking alone too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name not in known and "." in name:
                name = name.rpartition(".")[0]
            if name in known:
                yield name


def top(module):
    return module.split(".")[1] if "." in module else ""


def upward(modules):
    """Pairs (module, imported) that go against `RANKS`."""
    rank = {name: place for place, names in enumerate(RANKS) for name in names} | {"": len(RANKS)}
    return {
        (module, other)
        for module, tree in modules.items()
        for other in imported(tree, module, modules)
        if top(module) != top(other) and rank[top(module)] <= rank[top(other)]
    }


def test_data_flows_one_way():
    assert {top(module) for module in MODULES} - {""} == set().union(*RANKS), "every module has its rank"
    assert upward(MODULES) == UPWARD


@pytest.mark.parametrize(
    "source",
    [
        "import bitq.tradeoff.search",
        "from bitq.tradeoff.search import search",
        "from bitq.tradeoff import search",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from bitq.tradeoff.search import search",
        "def late():\n    from bitq.tradeoff.search import search",
    ],
)
def test_an_import_upward_is_seen_however_it_is_written(source):
    found = upward({**MODULES, "bitq.store": ast.parse(source)})
    assert found == UPWARD | {("bitq.store", "bitq.tradeoff.search")}


def test_siblings_are_kept_apart_and_what_is_public_is_for_users():
    source = "from bitq.movement import optimize\nfrom bitq import Layer, layers"
    found = upward({**MODULES, "bitq.accuracy": ast.parse(source)})
    assert found == UPWARD | {("bitq.accuracy", "bitq.movement"), ("bitq.accuracy", "bitq")}


@pytest.mark.parametrize(("module", "other"), WITHOUT)
def test_importing_a_module_does_not_load_what_it_can_do_without(module, other):
    code = f"import sys, {module}; sys.exit({other!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def private(name):
    return name.startswith("_") and not name.startswith("__")


@cache
def private_attributes():
    """Names of attributes that PyTorch's classes keep to themselves."""
    modules = [each for each in vars(nn).values() if isinstance(each, type) and issubclass(each, nn.Module)]
    names = {name for each in (torch.Tensor, torch.optim.Optimizer, nn.Module(), *modules) for name in dir(each)}
    return {name for name in names if private(name)}


def chain(node):
    """The dotted name that an expression is, () if it is none."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute):
        inner = chain(node.value)
        return (*inner, node.attr) if inner else ()
    return ()


def private_names(tree):
    """Private names of PyTorch that a module uses, as they are written there; attributes, where it imports PyTorch."""
    roots, found = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            for alias in node.names:
                roots.add(alias.asname or alias.name)
                if any(map(private, (*node.module.split("."), alias.name))):
                    found.add(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "torch":
                    roots.add(alias.asname or "torch")
                    if any(map(private, alias.name.split("."))):
                        found.add(alias.name)
    attributes = private_attributes() if roots else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names = chain(node)
            if node.attr in attributes or (names and names[0] in roots and any(map(private, names[1:]))):
                found.add(".".join(names) or node.attr)
        elif isinstance(node, ast.Constant) and re.match(r"torch\.([\w.]+\.)?_", str(node.value)):
            found.add(node.value)
        elif isinstance(node, ast.ClassDef):
            found |= {each.name for each in node.body if isinstance(each, ast.FunctionDef) and each.name in attributes}
    return found


def test_private_names_of_torch_are_used_in_one_module():
    using = {module: names for module, tree in MODULES.items() if (names := private_names(tree))}
    using.pop("bitq.private_torch", None)
    assert using.keys() == PRIVATE, using


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import torch\ntorch._C._get_tracing_state()", {"torch._C", "torch._C._get_tracing_state"}),
        ("from torch._ops import HigherOrderOperator", {"torch._ops.HigherOrderOperator"}),
        ("import torch._dynamo", {"torch._dynamo"}),
        ("import torch.autograd.forward_ad as ad\nad._current_level", {"ad._current_level"}),
        ("from torch.autograd import forward_ad\nforward_ad._current_level", {"forward_ad._current_level"}),
        ("import torch\nweight()._version", {"_version"}),
        ("from torch import nn\nself._parameters", {"self._parameters"}),
        ("import logging\nlogging.getLogger('torch._subclasses')", {"torch._subclasses"}),
        ("import torch\nclass Own:\n    def _apply(self, change): ...", {"_apply"}),
        ("import torch\ndef _apply(change): ...", set()),
        ("class Own:\n    def _apply(self): return self._version", set()),
        ("import torch\ntorch.Tensor.__add__, own._space, torch.nn.Module", set()),
    ],
)
def test_a_private_name_is_seen_however_it_is_used(source, names):
    assert private_names(ast.parse(source)) == names


def defined_types(tree):
    """Classes, and what is assigned to a name like a class's, at a module's top."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and re.match(r"[A-Z]\w*[a-z]", target.id):
                    yield target.id


def shared(pairs):
    """Names that stand in several places."""
    places = defaultdict(set)
    for name, place in pairs:
        places[name].add(place)
    return {name for name, where in places.items() if len(where) > 1}


def test_every_type_has_a_name_of_its_own():
    assert shared((name, module) for module, tree in MODULES.items() for name in defined_types(tree)) == SAME_TYPES


def test_every_module_has_a_name_of_its_own():
    counted = [path for path in SOURCES if path.name != "__init__.py" and path.parent not in APART]
    assert shared((path.name, path) for path in counted) == SAME_FILES
