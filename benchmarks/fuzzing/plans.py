"""plan.json of a finished run, by all commands that read it."""

from __future__ import annotations

from pathlib import Path
from random import Random

from fuzzing import Kind
from fuzzing.runs import EVALUATED
from fuzzing.seeds import SIDE, take
from fuzzing.values import change_json, change_word, damage, special

FILE = "run/plan.json"


def make(rng: Random, seeds: Path, folder: Path) -> list[str]:
    """A command that reads a plan."""
    take(seeds, folder, "run", "net.py", "payload.py", "net.safetensors", "data.npz", "d.toml")
    network = ("net:make", "--input-shape", f"1,1,{SIDE},{SIDE}")
    return list(
        rng.choice(
            (
                EVALUATED,
                EVALUATED,
                ("report", "run"),
                ("movement", *network, "--device", "d.toml", "--formats", "run", "--json"),
                ("buffer", *network, "--device", "d.toml", "--formats", FILE, "--json"),
                ("quantize", "net.safetensors", "out.safetensors", "--plan", "run", "--json"),
                ("quantize", "net.safetensors", "out.safetensors", "--plan", FILE),
            )
        )
    )


KIND = Kind("plan", make, (*[change_json(FILE)] * 10, damage(FILE), special(FILE), change_word))
