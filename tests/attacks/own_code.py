"""By the door of the user's own code: networks that fail where they are run, and what their exceptions say."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attacks import attack

SEARCH = "search nets:make --data data.npz --run run --steps 1 --rounds 1 --plans 1 --uniforms 1"


def network(folder: Path, body: str, layer: str = "nn.Linear(36, 4)") -> None:
    """A module nets.py, the forward of whose network has this body, and images for it."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    (folder / "nets.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
        f"    def __init__(self):\n        super().__init__()\n        self.layer = {layer}\n\n"
        f"    def forward(self, x):\n{lines}\n\n\ndef make():\n    return Net()\n"
    )
    images = np.random.default_rng(0).integers(0, 256, (20, 6, 6), np.uint8)
    labels = np.arange(20) % 4
    np.savez(folder / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)


@attack(SEARCH, r"^Error: the network cannot run on .*: Trouble: \\x1b\[2Jx+…x+ \(nets\.py, line 13\)$")
def an_exception_that_paints(folder: Path) -> None:
    """An exception, only while training, whose words clear the terminal and are very long."""
    trouble = "class Trouble(Exception): pass\nif self.training:\n    raise Trouble('\\x1b[2J' + 'x' * 10000)\n"
    network(folder, f"{trouble}return self.layer(x.flatten(1))")


@attack(SEARCH, r"the network cannot run on .*: Wordless \(nets\.py, line 15\)$")
def an_exception_without_words(folder: Path) -> None:
    """An exception whose text raises another one."""
    network(
        folder,
        "class Wordless(Exception):\n    def __str__(self):\n        raise KeyError\n"
        "if self.training:\n    raise Wordless\nreturn self.layer(x.flatten(1))",
    )


@attack(SEARCH, r"a parametrized weight of module 'layer' can be saved after .*remove_parametrizations$")
def a_weight_that_no_file_holds(folder: Path) -> None:
    """A parametrized weight, which was refused once everything had been fine-tuned."""
    network(
        folder,
        "return self.layer(x.flatten(1))",
        "nn.utils.parametrizations.weight_norm(nn.Linear(36, 4))",
    )
