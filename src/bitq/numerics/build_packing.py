"""Builds `bitq.numerics._packing` from packing.c; setuptools runs it from the root of the project."""

import os
from pathlib import Path

from cffi import FFI

ffi = FFI()
ffi.cdef("""
void bitq_peaks(const float *x, uint32_t *peaks, int64_t first, int64_t last, int64_t depth, int64_t length,
                int64_t block, int64_t run);
void bitq_codes(const uint32_t *peaks, uint8_t *codes, int64_t count, int bias, int top);
void bitq_write_mantissas(const float *x, const uint8_t *codes, uint8_t *to, int64_t first, int64_t last,
                          int64_t depth, int64_t length, int64_t block, int64_t run, int mantissa_bits, int bias);
void bitq_write_codes(const uint8_t *codes, uint8_t *to, int64_t at, int64_t count, int width);
void bitq_read_codes(const uint8_t *from, int64_t size, int64_t at, uint8_t *codes, int64_t count, int width);
void bitq_read_values(const uint8_t *from, int64_t size, const uint8_t *codes, float *y, int64_t first, int64_t last,
                      int64_t depth, int64_t length, int64_t block, int64_t run, int mantissa_bits, int bias);
""")
ffi.set_source(
    "bitq.numerics._packing",
    Path(__file__).with_name("packing.c").read_text(encoding="utf-8"),
    extra_compile_args=["/O2", "/std:c11"] if os.name == "nt" else ["-O3", "-std=c11"],
)
