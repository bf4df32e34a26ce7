"""Builds `bitq.numerics._kernel` from kernel.c; setuptools runs it from the root of the project."""

import os
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from cffi import FFI

FLAGS = ["/O2", "/std:c11"] if os.name == "nt" else ["-O3", "-std=c11", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += [] if os.name == "nt" else ["-ffp-contract=off"]


def openmp() -> list[str]:
    """The flag that compiles and links OpenMP, if the compiler has it; without, the kernel uses one thread."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "").split()
    if os.name == "nt" or not compiler:
        return []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n", encoding="utf-8")
        command = [*compiler, "-fopenmp", str(source), "-o", str(source.with_suffix(""))]
        try:
            found = subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            found = False
    return ["-fopenmp"] if found else []


OPENMP = openmp()
HERE = Path("src/bitq/numerics")  # setuptools runs this from the project's root and wants relative sources
HEADER = (HERE / "kernel.h").read_text(encoding="utf-8")

ffi = FFI()
ffi.cdef(HEADER)
ffi.set_source(
    "bitq.numerics._kernel",
    f"#include <stdint.h>\n{HEADER}",
    sources=[str(HERE / "kernel.c")],
    include_dirs=[str(HERE)],
    depends=[str(path) for path in sorted(HERE.glob("*.h"))],
    extra_compile_args=FLAGS + OPENMP,
    extra_link_args=OPENMP,
)
