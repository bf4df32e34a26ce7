"""By the door of the options of commands that count movement."""

from __future__ import annotations

from pathlib import Path

from attacks import attack

DIGITS = "9" * 5000


@attack(f"movement demo --device eyeriss --formats 8:e3:b{DIGITS}", "geometry 'b9.*' at character 6; it must be b16")
@attack("movement demo --device eyeriss --formats -8:e3:b16", "element '-8' at character 1; it must be s8")
@attack("movement demo --device eyeriss --formats ８:e3:b16", "element '.*' at character 1; it must be s8")
@attack(f"movement demo --device eyeriss --formats {DIGITS}", "formats '9.*' are neither such as 8:e3:b16 nor")
@attack("movement demo --device eyeriss --formats mxint\\x1b[2J:", "element 'mxint.* at character 1; it must be s8")
@attack(f"buffer demo --formats 8:e9999:b{DIGITS}", "scale 'e9999' at character 3; it must be eN")
@attack(f"buffer demo --from {DIGITS}", "--from '9.*' must be a size")
@attack(f"buffer demo --memory {DIGITS}", "has no memory '9.*' of limited size; give registers")
@attack(f"movement {DIGITS} --device eyeriss", "no network '9.*': give demo")
@attack(f"movement demo --device eyeriss --input-shape 1,1,28,{DIGITS}", "must be whole numbers above 0")
@attack(f"movement demo --device eyeriss --input-shape {DIGITS}=1,2", "which only ONNX files have")
@attack("movement demo --device eyeriss --input-shape 1" + ",1" * 2500, "has 2501 axes; it must have at most 16")
@attack(f"movement demo --device eyeriss --input x:float32[1,1,28,{DIGITS}]", "must be whole numbers above 0")
@attack(f"movement demo --device eyeriss --input {DIGITS}:float32[1,1,28,28]", "has no input '9.*'; its inputs are in")
@attack(f"movement demo --device eyeriss --input x:uint8[1,1,28,28]:0..{DIGITS}", "must end in a range LEAST..MOST of")
@attack("movement demo --device eyeriss --input " + "a:" * 20000, "must read .NAME:.DTYPE.SHAPE., such as ids")
@attack("movement demo --device eyeriss --input x:float32[1000000,1000,1000,1000]", "has over .* elements; it must")
def text(folder: Path) -> None:
    """Numbers where texts stand, and more digits than any number has."""


@attack("movement demo --device stm32f103c8 --input-shape 1,1,2,30000000", "takes .* GiB to tile, more than 0.5")
@attack("movement demo --device eyeriss --input-shape 1,1,1,1000000000000", "takes .* GiB to tile, more than 0.5")
@attack("buffer demo --input-shape 1,1,2,30000000", "takes .* GiB to tile, more than 0.5")
@attack("movement resnet18 --device eyeriss --input-shape 1,3,1,300000000000", "takes .* GiB to tile, more than 0.5")
@attack("movement demo --device stm32f103c8 --input-shape 1,1,2,100000", "", code=0)
@attack("movement wide:net --device eyeriss --input-shape 1000000,1000000", "1e\\+18 multiply-accumulates, more than")
def shapes(folder: Path) -> None:
    """Images of a thousand million columns, and more products than can be counted."""
    text = "import torch\n\ndef net():\n    return torch.nn.Linear(1000000, 1000000, device='meta')\n"
    (folder / "wide.py").write_text(text)
