"""By the door of the terminal and of what is written: names that steer, and places that are no files."""

from __future__ import annotations

import os
from pathlib import Path

import safetensors.torch
import torch

from attacks import attack

ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e"


def _checkpoint(folder: Path) -> None:
    safetensors.torch.save_file({"0.weight": torch.ones(4, 8)}, folder / "in.safetensors")


@attack(f"quantize in.safetensors '{ESCAPE}.safetensors' --format 8:e4:b16", "^$", code=0)
@attack(f"quantize in.safetensors '{ESCAPE}.safetensors' --format 8:e4:b16 --json", "^$", code=0)
@attack(f"quantize in.safetensors out.safetensors --format '{ESCAPE}'", r"x1b\]0;owned")
@attack(f"quantize in.safetensors out.safetensors '--{ESCAPE}'", r"x1b\]0;owned")
def a_name_that_steers(folder: Path) -> None:
    """Set the terminal's title, clear it and write from right to left by the name of a file or an option."""
    _checkpoint(folder)


@attack("quantize in.safetensors 'no\udcfftext.safetensors' --format 8:e4:b16", "^$", code=0)
@attack("quantize in.safetensors 'no\udcfftext.safetensors' --format 8:e4:b16 --json", "^$", code=0)
@attack("devices 'no\udcfftext.toml'", r"no\\udcfftext")
def a_name_that_is_no_text(folder: Path) -> None:
    """Crash the output by a file's name that is no UTF-8."""
    _checkpoint(folder)


@attack("quantize in.safetensors /dev/null --format 8:e4:b16", "/dev/null is no regular file")
@attack("quantize in.safetensors pipe --format 8:e4:b16", "pipe is no regular file")
@attack("quantize in.safetensors device --format 8:e4:b16", "device is no regular file")
@attack("quantize in.safetensors folder --format 8:e4:b16", "folder is a folder")
@attack("buffer demo --out pipe.png", "pipe.png is no regular file")
def an_output_that_is_no_file(folder: Path) -> None:
    """Let a device be replaced by a file, a pipe without a reader be waited for, or a folder be written."""
    _checkpoint(folder)
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.png")
    (folder / "device").symlink_to("/dev/full")
    (folder / "folder").mkdir()


@attack("quantize in.safetensors link/out.safetensors --format 8:e4:b16", "a part of its path is no folder")
def links_in_a_circle(folder: Path) -> None:
    """Follow links for ever."""
    _checkpoint(folder)
    (folder / "link").symlink_to("link")


@attack("quantize in.safetensors in.safetensors/out.safetensors --format 8:e4:b16", "a part of its path is no folder")
def a_file_as_a_folder(folder: Path) -> None:
    """Make a folder where a file is."""
    _checkpoint(folder)
