"""Exported C on other processors: emulated Cortex-M boards give the bits of NumPy, RISC-V compilers do not complain."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from bitq.exporting.c99.folder import replace_files
from bitq.exporting.c99.integers import run
from bitq.exporting.c99.lowering import lowered
from bitq.exporting.c99.source import written
from exported_c import STRICT, Branches, Gates, calibrated, mixed

CORTEX = Path(__file__).parent / "cortex"
ARM, QEMU, RISCV = "arm-none-eabi-gcc", "qemu-system-arm", "riscv64-unknown-elf-gcc"


@pytest.fixture(scope="module", params=[Branches, Gates])
def exported(request, tmp_path_factory):
    """A folder with C, inputs, and what NumPy makes of them."""
    torch.manual_seed(0)
    folder, x = tmp_path_factory.mktemp("cortex"), torch.randn(3, 2, 8, 8)
    network = lowered(calibrated(request.param(), mixed("int8-tensor", "8:e2:b4", "8:e3:b4"), x), x[:1])
    replace_files(folder / "net", written(network, "net").files)
    (folder / "inputs").write_bytes(x.numpy().tobytes())
    return folder, run(network, x.numpy())


@pytest.mark.skipif(not shutil.which(ARM), reason="needs gcc-arm-none-eabi and libnewlib-arm-none-eabi")
@pytest.mark.skipif(not shutil.which(QEMU), reason="needs qemu-system-arm")
@pytest.mark.parametrize(
    ("core", "board"), [("cortex-m3", "lm3s6965evb"), ("cortex-m3", "mps2-an385"), ("cortex-m7", "mps2-an500")]
)
def test_a_cortex_gives_the_same_bits(core, board, exported):
    folder, expected = exported
    files = [str(each) for each in (*CORTEX.glob("*.c"), folder / "net" / "network.c")]
    words = [ARM, f"-mcpu={core}", "-mthumb", "-O2", *STRICT, "-nostartfiles", "--specs=nano.specs"]
    words += ["-T", str(CORTEX / "board.ld"), f"-I{folder / 'net'}", *files, "-o", str(folder / "program")]
    told = subprocess.run(words, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    words = [QEMU, "-M", board, "-nographic", "-monitor", "none", "-serial", "none"]
    words += ["-semihosting-config", "enable=on,target=native", "-kernel", "program"]
    (folder / "outputs").unlink(missing_ok=True)
    subprocess.run(words, cwd=folder, check=True, timeout=60, capture_output=True)
    found = np.frombuffer((folder / "outputs").read_bytes(), np.float32).reshape(expected.shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.skipif(not shutil.which(RISCV), reason="needs gcc-riscv64-unknown-elf and picolibc-riscv64-unknown-elf")
@pytest.mark.parametrize("target", [("-march=rv32imc", "-mabi=ilp32"), ("-march=rv64gc", "-mabi=lp64d")])
def test_risc_v_takes_it_without_a_warning(target, exported):
    folder, _ = exported
    words = [RISCV, *target, "--specs=picolibc.specs", "-O2", *STRICT, "-c", "network.c", "-o", "network.o"]
    told = subprocess.run(words, cwd=folder / "net", capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
