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

ffi = FFI()
ffi.cdef("""
int64_t bitq_quantize(const void *x, void *y, uint8_t *clipped, int kind, int64_t outer, int64_t channels,
                      int64_t inner, int64_t block, int mantissa_bits, int top_code, int has_bias, int bias,
                      int rounding, uint64_t key, int fresh, int threads);
void bitq_pass(const void *from, void *to, const uint8_t *clipped, int64_t count, int bytes, int threads);
""")
ffi.set_source(
    "bitq.numerics._kernel",
    Path(__file__).with_name("kernel.c").read_text(encoding="utf-8"),
    extra_compile_args=FLAGS + OPENMP,
    extra_link_args=OPENMP,
)
