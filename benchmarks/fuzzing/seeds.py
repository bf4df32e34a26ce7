"""Good inputs of all kinds, of a few kilobytes, made by bitq and the libraries that write such files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from confined import confined

NETWORK = """
import torch
from torch import nn


def make():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3),
        )
"""
"""Of the module that cases name."""

PAYLOAD = """
import pathlib

pathlib.Path("../executed").touch()

from net import make
"""
"""Importable where a command runs; nothing but a user may have it imported."""

DEVICE = """
schema_version = 1
name = "tiny"
title = "Tiny device"
description = "Two memories."
partial_sum_bits = 16

[[memories]]
name = "SRAM"
capacity_bytes = 512
energy_pj_per_bit = 0.16
source = "made up"

[[memories]]
name = "DRAM"
energy_pj_per_bit = 20.0
source = "made up"
"""

SIDE, CLASSES = 8, 3
SEARCH = ("search", "net:make", "--device", "d.toml", "--run", "run", "--checkpoint", "net.safetensors")
FEW = ("--formats", "8:e3..e4:b16", "--steps", "1", "--rounds", "1", "--plans", "1", "--uniforms", "1")
"""So little of a search as there can be."""


def make(folder: Path) -> None:
    """Write net.py, payload.py, d.toml, data.npz, pictures/, net.safetensors, net.pt, legacy.pt and run/ into a folder.

    Raises:
        RuntimeError: bitq does not search the tiny network.
    """
    (folder / "net.py").write_text(NETWORK)
    (folder / "payload.py").write_text(PAYLOAD)
    (folder / "d.toml").write_text(DEVICE)
    rng = np.random.default_rng(0)
    counts = {"train": 24, "val": 12, "test": 12}
    labels = {name: np.arange(count) % CLASSES for name, count in counts.items()}
    pixels = {name: rng.random((count, 1, SIDE, SIDE), dtype=np.float32) for name, count in counts.items()}
    arrays = {f"x_{name}": array for name, array in pixels.items()} | {
        f"y_{name}": each for name, each in labels.items()
    }
    np.savez(folder / "data.npz", **arrays)
    for name in counts:
        for place, (image, label) in enumerate(zip(pixels[name][:6], labels[name], strict=False)):
            path = folder / "pictures" / name / f"class{label}" / f"{place}.{'jpg' if place % 2 else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((255 * image[0]).astype(np.uint8)).save(path)
    space: dict[str, object] = {}
    exec(NETWORK, space)
    state = space["make"]().state_dict()  # type: ignore[operator]
    safetensors.torch.save_file(state, folder / "net.safetensors")
    torch.save(state, folder / "net.pt")
    torch.save(state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    ended = confined((*SEARCH, "--data", "data.npz", *FEW), folder, seconds=120)
    if ended.code:
        raise RuntimeError(f"no run to begin with: {ended.err}")
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    (folder / "run" / "report.html").unlink()  # a megabyte, which nothing reads


def take(seeds: Path, folder: Path, *names: str) -> None:
    """Copy files and folders."""
    for name in names:
        if (seeds / name).is_dir():
            shutil.copytree(seeds / name, folder / name, symlinks=True)
        else:
            shutil.copy(seeds / name, folder / name)
