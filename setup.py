"""Compile the C kernels; everything else stands in pyproject.toml."""

from setuptools import setup

setup(
    cffi_modules=[
        "src/bitq/movement/build_engine.py:ffi",
        "src/bitq/numerics/build_kernel.py:ffi",
        "src/bitq/numerics/build_packing.py:ffi",
    ]
)
