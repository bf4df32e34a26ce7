"""Builds `bitq.numerics._kernel` from kernel.c; setuptools runs it from the root of the project."""

import os
from pathlib import Path

from cffi import FFI

ffi = FFI()
ffi.cdef("""
int64_t bitq_quantize(const float *x, float *y, uint8_t *clipped, int64_t outer, int64_t channels, int64_t
inner,
                      int64_t block, int mantissa_bits, int lowest, int highest);
uint32_t bitq_peak(const float *x, int64_t length);
""")
ffi.set_source(
    "bitq.numerics._kernel",
    Path(__file__).with_name("kernel.c").read_text(encoding="utf-8"),
    extra_compile_args=["/O2", "/std:c11"] if os.name == "nt" else ["-O3", "-std=c11"],
)
