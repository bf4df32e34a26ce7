"""Builds `bitq.movement._engine` from its C sources; setuptools runs it from the root of the project."""

from pathlib import Path

from cffi import FFI

HERE = Path("src/bitq/movement")  # setuptools runs this from the project's root and wants relative sources
HEADER = (HERE / "engine.h").read_text(encoding="utf-8")

ffi = FFI()
ffi.cdef(HEADER)
ffi.cdef('extern "Python" int bitq_ask(void);')  # what Python answers, see bitq.movement.asking
ffi.set_source(
    "bitq.movement._engine",
    f"#include <stdint.h>\n{HEADER}",
    sources=[str(HERE / name) for name in ("axis.c", "candidates.c", "choose.c", "parts.c", "chain.c")],
    include_dirs=[str(HERE)],
    depends=[str(HERE / name) for name in ("engine.h", "axis.h", "candidates.h", "parts.h")],
    # No contraction: costs are compared in the same double arithmetic that Python prints.
    extra_compile_args=["-O3", "-std=c11", "-ffp-contract=off"],
    py_limited_api=True,
)
