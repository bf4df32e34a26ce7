"""What commands import and what they all make alike, once: `confined` forks their processes from one that has this."""

from __future__ import annotations

import gc
import subprocess
import sys

import onnx.inliner
import onnx.reference
import PIL.JpegImagePlugin
import PIL.PngImagePlugin
import rich.progress
import torch._dynamo  # seconds, which torch takes at a command's first hollow tensor
from markupsafe import Markup

import bitq.api
import bitq.cli
import bitq.datasets
import bitq.demo.resnet8
import bitq.loading
import bitq.movement.joint
import bitq.movement.sweep
import bitq.networks
import bitq.onnx.products
import bitq.report.sweep
import bitq.tradeoff.weights  # noqa: F401
from bitq.report import page

# Made elsewhere: the JavaScript engine that bundles it has threads, which a fork does not take along.
_MADE = "import sys; from bitq.report import page; sys.stdout.buffer.write(page._script().encode())"
_script = Markup(subprocess.run([sys.executable, "-c", _MADE], check=True, capture_output=True).stdout.decode())
page._script = lambda: _script

gc.freeze()  # a process that collects does not copy all of it
