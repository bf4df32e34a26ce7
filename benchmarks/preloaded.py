"""What commands import and what they all make alike, once: `confined` forks their processes from one that has this."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys

from markupsafe import Markup

from bitq.report import page

MODULES = (
    *("bitq.cli", "bitq.api", "bitq.datasets", "bitq.loading", "bitq.networks", "bitq.demo.resnet8"),
    *("bitq.report.sweep", "bitq.tradeoff.weights", "bitq.movement.together", "bitq.movement.sweep"),
    "bitq.onnx.products",
    *("onnx.reference", "onnx.inliner", "rich.progress", "PIL.PngImagePlugin", "PIL.JpegImagePlugin"),
    "torch._dynamo",  # seconds, which a command takes at its first tensor without memory
)

for module in MODULES:
    importlib.import_module(module)

# Made elsewhere: the JavaScript engine that bundles it has threads, which a fork does not take along.
_MADE = "import sys; from bitq.report import page; sys.stdout.buffer.write(page._script().encode())"
_script = Markup(subprocess.run([sys.executable, "-c", _MADE], check=True, capture_output=True).stdout.decode())
page._script = lambda: _script

gc.freeze()  # a process that collects does not copy all of it
