"""What a machine without a GPU can prove of the Triton kernels: their bits, interpreted, and what they compile to."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed: pip install --no-deps triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from bitq import parse_format  # noqa: E402
from bitq.numerics import blocks, triton_path, triton_tiles, triton_uniform  # noqa: E402
from bitq.numerics.recipe import ROUNDINGS, Axes, recipe_for  # noqa: E402

POINTERS = {torch.float32: "*i32", torch.bfloat16: "*i16", torch.float16: "*i16"}
PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"


@pytest.mark.timeout(900)  # some twenty seconds each on a machine that has nothing else to do
@pytest.mark.parametrize(
    "tests", [["interpreted_triton.py"], ["interpreted_formats.py"], ["test_exact_formats.py", "-k", "triton"]]
)
def test_interpreted_kernels_have_the_bits_of_their_twins(tests):
    file, *chosen = tests
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", Path(__file__).with_name(file), *chosen],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    assert told.returncode == 0, told.stdout[-5000:] + told.stderr
    assert "[100%]" in told.stdout


def compiled(kernel, pointers, constants, architecture, aligned=(), warps=4):
    """A kernel with these arguments for a GPU, its other arguments whole numbers."""
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in names}
    known = {(names.index(n),): [["tt.divisibility", 16]] for n in (*(p for p in pointers if p in names), *aligned)}
    source = ASTSource(
        kernel,
        signature,
        {(names.index(n),): value for n, value in constants.items()},
        {at: attribute for at, attribute in known.items() if names[at[0]] not in constants},
    )
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps})


def resources(kernel, architecture, folder):
    """Registers and bytes spilt, as the assembler tells."""
    (folder / "kernel.ptx").write_text(kernel.asm["ptx"])
    suffix = "a" if architecture == 90 else ""
    told = subprocess.run(
        [PTXAS, "-v", f"-arch=sm_{architecture}{suffix}", folder / "kernel.ptx", "-o", folder / "kernel.cubin"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    spilt = sum(map(int, re.findall(r"(\d+) bytes spill", told)))
    return int(re.search(r"Used (\d+) registers", told)[1]), spilt


ACTIVATIONS, LAST, WEIGHT = (64, 64, 56, 56), (64, 56, 56, 64), (512, 512, 3, 3)
NEAREST, AWAY, ZERO, STOCHASTIC = ROUNDINGS
CASES = [  # shape, axes, block size, dtype, rounding, marks clipped elements, derives the bias
    (ACTIVATIONS, (1, ()), 16, torch.float32, NEAREST, False, False),
    (ACTIVATIONS, (1, ()), 16, torch.bfloat16, NEAREST, True, False),
    (ACTIVATIONS, (1, ()), 24, torch.float16, AWAY, True, False),
    (ACTIVATIONS, (1, ()), 48, torch.float32, STOCHASTIC, True, False),
    (LAST, (3, ()), 16, torch.bfloat16, NEAREST, False, False),
    (LAST, (3, ()), 24, torch.float32, NEAREST, True, False),
    (LAST, (3, ()), 4, torch.float32, ZERO, False, True),
    (LAST, (3, ()), 1, torch.float16, NEAREST, False, False),
    (LAST, (3, ()), 8, torch.bfloat16, STOCHASTIC, False, True),
    (WEIGHT, (1, (2, 3)), 16, torch.float32, NEAREST, False, True),
    (WEIGHT, (1, (2, 3)), 48, torch.bfloat16, NEAREST, False, True),
]


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize(("shape", "axes", "block_size", "dtype", "rounding", "marked", "derived"), CASES)
def test_kernels_compile_to_wide_moves_and_exact_operations(
    monkeypatch, tmp_path, architecture, shape, axes, block_size, dtype, rounding, marked, derived
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    x = torch.empty(shape, device="meta")
    drawn = rounding == STOCHASTIC
    layout = blocks.layout(x.shape, x.stride(), Axes(*axes), block_size)
    cut = triton_tiles.job(layout, triton_tiles.tile_size(dtype, marked, drawn)).cut
    pointers = {"x": POINTERS[dtype], "y": POINTERS[dtype], "marks": "*i32", "top": "*i32", "key": "*i64"}
    absent = {"marks": not marked, "top": not derived, "key": not drawn}
    constants = {**cut._asdict(), "KIND": triton_tiles.KINDS[dtype], "ROUNDING": ROUNDINGS.index(rounding)}
    constants |= {name: None for name, missing in absent.items() if missing}
    warps = triton_tiles.warps(dtype)
    kernel = compiled(triton_uniform._round, pointers, constants, architecture, warps=warps)
    check(kernel, architecture, tmp_path)
    if derived:
        del constants["ROUNDING"]
        constants["NEVER_NEGATIVE"] = False
        constants = {n: value for n, value in constants.items() if n in triton_tiles._largest.arg_names and n != "top"}
        largest = compiled(triton_tiles._largest, pointers, constants, architecture, warps=warps)
        check(largest, architecture, tmp_path)


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("pointer", ["*i32", "*i16"])
def test_gradient_kernel_compiles_to_wide_moves(monkeypatch, tmp_path, architecture, pointer):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    pointers = {"grad": pointer, "passed": pointer, "clipped": "*u8"}
    octets = {"OCTETS": triton_tiles.TILE // 8}
    check(compiled(triton_path._pass, pointers, octets, architecture, ["count"]), architecture, tmp_path)


class NoDevice:
    """All that Triton asks of a driver where it compiles what is launched."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """The kernels that are launched meanwhile, only compiled."""
    found = []
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(triton.runtime.driver, "_active", NoDevice())
    monkeypatch.setattr(
        triton.JITFunction,
        "__getitem__",
        lambda self, grid: lambda *args, **options: found.append(self.warmup(*args, grid=grid, **options)),
    )
    return found


GRIDS = [  # format, shape, dtype, marks clipped elements
    ("e2m1:e8m0:v32", ACTIVATIONS, torch.float32, False),
    ("e4m3:e8m0.rceil:v32", (256, 4096), torch.bfloat16, False),
    ("n4:e4:b16", ACTIVATIONS, torch.bfloat16, True),
    ("s24:e8m0:v32:stochastic", (256, 4096), torch.float32, False),
    ("e2m1:e4m3*f32:v16", (256, 4096), torch.bfloat16, False),
    ("e2m1:e4m3*f32:v16", ACTIVATIONS, torch.float32, True),
    ("e4m3:f32*f32:v32", (256, 4096), torch.float32, False),
    ("i8:f32:channel", (64, 512, 3, 3), torch.float32, False),
    ("u8:f32:channel", (64, 1024), torch.float16, False),
    ("i8:f32:tensor", (64, 4096), torch.bfloat16, False),
    ("l(-1;-0.5;0;0.25;1):f32:v64", (256, 4096), torch.bfloat16, False),
    ("e4m3", (64, 4096), torch.float32, False),
]


@pytest.mark.parametrize(("text", "shape", "dtype", "marked"), GRIDS)
def test_what_is_launched_compiles(launched, tmp_path, text, shape, dtype, marked):
    x, inner = torch.empty(shape, dtype=dtype), (2, 3) if shape[-1] == 3 else ()
    recipe = recipe_for(x, parse_format(text), 1, inner)
    key = torch.zeros(1, dtype=torch.int64) if recipe.rounding == STOCHASTIC else None
    assert triton_path.quantize(x, recipe, key, marked) is not None
    assert launched
    for kernel in launched:
        check(kernel, 90, tmp_path, most=168)
        assert not re.search(r"(add|sub|mul)\.f", kernel.asm["ptx"])  # `.rn` the assembler leaves apart


def check(kernel, architecture, folder, most=96):
    """Elements are moved four words at a time, nothing flushes subnormal numbers or rounds by an approximation, next
    to nothing spills, and five such programs, or three, find registers on a processor at a time."""
    text = kernel.asm["ptx"]
    assert "ld.global.v4.b32" in text
    assert "st.global.v4.b32" in text or "st.global" not in text
    assert not re.search(r"\.ftz|\.approx|\.rz\b|\.sat|fma\.|(sqrt|ex2|lg2)\.\w+\.?f|div\.(?!rn\.f64)\w+\.?f", text)
    registers, spilt = resources(kernel, architecture, folder)
    assert spilt <= 32
    assert registers <= most
