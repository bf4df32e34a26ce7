"""What PyTorch does not promise is there, and asked for in one file: `make test-torch TORCH=2.10.0` asks a version."""

import ast
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest
import torch

SOURCE = Path(__file__).parents[1] / "src" / "bitq"
HOME = SOURCE / "private_torch.py"

NAMES = (
    "torch._ops.HigherOrderOperator",
    "torch._subclasses.fake_tensor.DataDependentOutputException",
    "torch._subclasses.fake_tensor.DynamicOutputShapeException",
    "torch._subclasses.fake_tensor.FakeTensor",
    "torch._subclasses.fake_tensor.FakeTensorMode",
    "torch.nn.modules.conv._ConvNd",
    "torch.nn.parameter.is_lazy",
    "torch.utils._python_dispatch.TorchDispatchMode",
    "torch.utils._python_dispatch.TorchDispatchMode.supports_higher_order_operators",
    "torch.ops.aten.mm.default._schema.name",
    "torch.ops.aten.mm.default._schema.arguments[0].name",
    "torch.ops.aten.mm.default.decompose",
    "torch.ops.prim.device.default",
    "torch.zeros(1).untyped_storage()._cdata",
    "torch.nn.Module()._forward_hooks",
    "torch.nn.Module()._forward_pre_hooks",
    "torch.nn.Module()._backward_hooks",
    "torch.compile(torch.nn.Module())._orig_mod",
    "torch._C._current_graph_task_id",
    "torch._C._are_functorch_transforms_active",
    "torch._C._len_torch_dispatch_stack",
    "torch._C._get_tracing_state",
    "torch._C._autograd._saved_tensors_hooks_is_enabled",
    "torch._C._autograd._top_saved_tensors_default_hooks",
    "torch.autograd.forward_ad._current_level",
    "torch.zeros(1)._version",
    "torch.nn.Module()._parameters",
    "torch.nn.Module()._modules",
    "torch.nn.Conv2d(1, 1, 1)._conv_forward",
    "torch.nn.ConvTranspose2d(1, 1, 1)._output_padding",
    "torch.zeros(1)._is_view",
)


@pytest.mark.parametrize("name", NAMES)
def test_this_version_of_torch_has(name):
    with suppress(ImportError):
        import_module(name.rpartition(".")[0])
    try:
        eval(name, {"torch": torch})
    except AttributeError as error:
        pytest.fail(f"PyTorch {torch.__version__} lacks {name}, which bitq needs: {error}", pytrace=False)


def private(file):
    """Names of a file that PyTorch keeps to itself: imported ones, and attributes whose name begins with _."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            yield from (each.name for each in node.names if "._" in node.module or each.name.startswith("_"))
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            yield node.attr


def test_every_private_name_is_listed_here():
    parts = {part for name in NAMES for part in name.replace("(", ".").replace("[", ".").split(".")}
    assert set(private(HOME)) - parts == set()


def test_private_names_stand_in_one_file():
    ours = {name for name in private(HOME) if name in " ".join(NAMES)}
    for file in SOURCE.rglob("*.py"):
        where = file.relative_to(SOURCE).as_posix()
        if file != HOME:
            assert not ours & set(private(file)), where
            assert "torch._" not in file.read_text(), where
