"""Device files (TOML)."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from random import Random
from typing import Any

from fuzzing import Input, Kind
from fuzzing.seeds import SIDE, take
from fuzzing.values import VERBATIM, change_tree, change_word, damage, special, verbatim

FILE = "d.toml"
_MOST_PARSED = 20_000  # bytes; long keys take their parser the square of their length


def make(rng: Random, seeds: Path, folder: Path) -> list[str]:
    """A command that reads a device file."""
    take(seeds, folder, FILE, "net.py")
    network = ("net:make", "--input-shape", f"1,1,{SIDE},{SIDE}")
    return list(
        rng.choice(
            (
                ("devices", FILE),
                ("devices", FILE, "--json"),
                ("movement", *network, "--device", FILE, "--json"),
                ("movement", *network, "--device", FILE, "--csv", "--formats", "8:e3:b16"),
                ("movement", *network, "--device", FILE, "--minimize", "energy"),
                ("buffer", *network, "--device", FILE, "--json"),
            )
        )
    )


def _change_tree(rng: Random, given: Input) -> str:
    content = given.content(FILE)
    if len(content) > _MOST_PARSED:
        return str(damage(FILE)(rng, given))
    try:
        tree = tomllib.loads(content.decode())
    except (ValueError, RecursionError):
        return str(damage(FILE)(rng, given))
    tree, how = change_tree(rng, tree)
    given.path(FILE).write_bytes(verbatim(_toml(tree)))
    return how


def _text(rng: Random, given: Input) -> str:
    text = rng.choice(
        (
            "[" + ".".join(["a"] * rng.choice((50, 5000, 400_000))) + "]\n",
            "a." * rng.choice((50, 5000, 200_000)) + "b = 1\n",
            'x = "' + "\\U0001F600" * 50_000 + '"\n',
            "x = " + "{a=" * 3000 + "1" + "}" * 3000 + "\n",
            "x = 0x" + "f" * 100_000 + "\n",
            "x = 1e" + "9" * 5000 + "\n",
            "x = 0001-01-01T00:00:00Z\n",
            "[[memories]]\n" * rng.choice((1, 1000, 50_000)),
            "".join(f"k{number} = {number}\n" for number in range(20_000)),
            "x = '''" + "a" * 1_000_000 + "'''\n",
            "\ufeff",
            "\r",
        )
    )
    content = given.content(FILE)
    given.path(FILE).write_bytes(text.encode() + content if rng.random() < 0.5 else content + text.encode())
    return f"text {text:.30}"


def _toml(tree: Any) -> str:
    """TOML of a table; whatever is no table is left as JSON has it."""
    if not isinstance(tree, dict):
        return json.dumps(tree)
    return "".join(f"{_key(key)} = {_value(value)}\n" for key, value in tree.items())


def _key(key: str) -> str:
    return json.dumps(key) if key not in VERBATIM else "verbatim"


def _value(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_value, value)) + "]"
        case float() if not math.isfinite(value):
            return {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
        case None:
            return "1979-05-27"
    return json.dumps(value)


KIND = Kind("device", make, (*[_change_tree] * 8, _text, damage(FILE), special(FILE), change_word))
