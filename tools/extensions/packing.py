"""Builds `bitq.numerics._packing` from packing.c; setuptools runs it from the root of the project."""

import os
from pathlib import Path

from cffi import FFI

HERE = Path("src/bitq/numerics")  # setuptools runs this from the project's root and wants relative sources
HEADER = (HERE / "packing.h").read_text(encoding="utf-8")

ffi = FFI()
ffi.cdef(HEADER)
ffi.set_source(
    "bitq.numerics._packing",
    f"#include <stdint.h>\n{HEADER}",
    sources=[str(HERE / "packing.c")],
    include_dirs=[str(HERE)],
    depends=[str(HERE / name) for name in ("packing.h", "stacks.h", "numbers.h")],
    extra_compile_args=["/O2", "/std:c11"] if os.name == "nt" else ["-O3", "-std=c11"],
)
