"""Compile the C kernels; everything else stands in pyproject.toml."""

from setuptools import setup

setup(
    cffi_modules=[
        "tools/extensions/engine.py:ffi",
        "tools/extensions/kernel.py:ffi",
        "tools/extensions/packing.py:ffi",
    ]
)
