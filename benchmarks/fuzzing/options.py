"""Words of the command line: numbers, texts, formats, shapes and paths that are odd, of every command."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from random import Random

from fuzzing import Change, Input, Kind, UnchangedError
from fuzzing.runs import NAMED
from fuzzing.seeds import FEW, SIDE, take
from fuzzing.values import FLOATS, INTEGERS, TEXTS, change_word

NUMBERS = (
    *(str(each) for each in (*INTEGERS, *FLOATS)),
    *("", " ", "1e400", "9" * 400, "0x10", "1_000", "١", "½", "1,", ",", "1e-400", "--", "-", "+1"),
    *("1.5", "1e3", "0.0000001"),
)
FORMATS = (
    *("8:e3:b16", "mxint8", "msfp12", "8:e3:b0", "8:e0:b1", "0:e0:b0", "8:e8:b1"),
    *("16:e5:b" + "9" * 30, "8:e3:b" + "9" * 4000),
    *("-8:e3:b16", "8:e3", ":::", "8:e3:b16:", "8:e３:b16", "run", "run/plan.json", "/dev/zero", "pipe", "d.toml", "."),
)
SHAPES = (
    *(f"1,1,{SIDE},{SIDE}", "1,1,2,100000", "0,1,8,8", "1,1,8", "1", "", ",", "1,1,8,8,8"),
    *("1,1,1,1", "-1,1,8,8", "x=1,1,8,8"),
    *("1,1,8,9223372036854775807", "1,1,100000,100000", "9" * 5000, "1,1,8.0,8", "1000000,1,8,8"),
    *(",".join("1" * 100), "=1", "1,1,3,3"),
)
AMOUNTS = (
    *(*NUMBERS, "1Mbit", "1 uJ", "1 µJ", "99999999999999999TB", "1e99Mbit", "4KiB"),
    *("1e-9KiB", "0 bit", "-1KiB", "1KiB\0"),
)
SCALES = (*NUMBERS, "0.5,0.5,0.5", "nan,nan,nan", "0,", "1e38", "1e-38", "0.5;0.5", "1,2,3,4")
PACKED = ("folder", "pipe", "loop", "run", "x" * 300, "d.toml/a", "o\x1b[31m", "net.safetensors", "nothing")
WORDS = ("--none", "-x", "\x1b[31m", "--\x1b[31m", "é", "x" * 5000, "--x" + "y" * 5000, "--json=1", "")
PATHS = (
    *("/dev/zero", "/dev/full", "/dev/null", "pipe", "loop", "nothing", ".", "/", "folder", "empty"),
    *("x" * 300, "a\0b", "d.toml"),
)
OUTS = (
    *("out.png", "out.svg", "out.csv", "out", "folder", "pipe", "loop", "folder/none/out.png"),
    *("o\x1b[31m.png", "x" * 300 + ".png", "d.toml/a.png", ""),
)
NETWORKS = (
    *("net:make", "net:none", "none:make", "net:", ":make", ":", "net", "demo", "net:make.x"),
    *("os:sep", "net:torch", "json:loads"),
    *("net:make:make", "a.b.c:d", "..:x", "none.onnx", "pipe.onnx", "/dev/zero", "net.py"),
    *("x" * 5000 + ":a", "ü:ü", "\x1b[31m:a", "nét:make"),
)
"""Of these nothing is run but what is a user's own, or harmless."""

_LAYERS = ("--input-shape", f"1,1,{SIDE},{SIDE}")
BRIEF = ("--formats", "8:e3..e4:b16", "--rules", "uniform,random", "--seeds", "0", "--steps", "1", "--plans", "2")
COMMANDS = (
    ("devices", "d.toml"),
    ("movement", "net:make", "--device", "d.toml", "--formats", "8:e3:b16", *_LAYERS),
    ("movement", "demo", "--device", "d.toml", "--csv"),
    ("buffer", "net:make", *_LAYERS, "--device", "d.toml", "--from", "1KiB", "--to", "4KiB", "--memory", "SRAM"),
    ("quantize", "net.safetensors", "out.safetensors", "--format", "8:e4:b16"),
    ("search", "net:make", "--data", "data.npz", "--device", "d.toml", "--run", "new", *FEW),
    ("search", "net:make", "--data", "pictures", "--device", "d.toml", "--run", "new", *FEW, "--channels", "1"),
    ("compare", "net:make", "--data", "data.npz", "--device", "d.toml", "--run", "new", *BRIEF),
    ("evaluate", "run", "--data", "data.npz", *NAMED),
    ("evaluate", "run", "--data", "pictures", *NAMED, "--channels", "1"),
    ("report", "run", "--alpha", "0.3"),
)
VALUES = {
    **dict.fromkeys(("--formats", "--format"), FORMATS),
    **dict.fromkeys(("--device", "--data", "--checkpoint", "--plan"), (*PATHS, *TEXTS[:-1], "d.toml", "run")),
    **dict.fromkeys(("--from", "--to", "--max-movement", "--max-energy", "--max-model-bytes", "--max-ram"), AMOUNTS),
    "--grid": ("paper8", "paper16", *TEXTS[:-1]),
    "--input-shape": SHAPES,
    "--memory": TEXTS[:-1],
    "--rules": (*TEXTS[:-1], "", ",", "fast:alpha", "fast:alpha=nan", "flexblock:upper=", "uniform:x=1", "named,named"),
    "--seeds": (*NUMBERS, "0,0", "0,1,"),
    "--network": NETWORKS,
    "--out": OUTS,
    "--run": ("new", "run", "folder", "pipe", "loop", "d.toml", "d.toml/run", "x" * 300, "n\x1b[31m", "net.py", "\n"),
    **dict.fromkeys(("--mean", "--std"), SCALES),
    "--levels": ("together", "one-by-one", "joint"),
    "--minimize": ("movement", "energy", "latency"),
}
"""Of options, by name; of all others, numbers."""

_MORE = {
    "movement": ("--levels", "--minimize", "--csv"),
    "buffer": ("--out", "--formats"),
    "quantize": ("--plan", "--format"),
    "search": (
        *("--checkpoint", "--grid", "--alpha", "--tied", "--max-accuracy-loss", "--max-movement", "--max-energy"),
        *("--max-model-bytes", "--max-ram", "--learning-rate", "--amp", "--seed", "--without-qat"),
        *("--without-movement", "--without-tradeoff", "--ablations", "--batch-size", "--image-size", "--channels"),
        *("--mean", "--std", "--limit"),
    ),
    "compare": ("--checkpoint", "--bits", "--alpha", "--tied", "--within", "--learning-rate", "--amp", "--without-qat"),
    "evaluate": ("--seed", "--batch-size", "--image-size", "--channels", "--mean", "--std", "--limit"),
    "report": ("--alpha",),
}
_SWITCHES = frozenset(
    ("--csv", "--tied", "--amp", "--without-qat", "--without-movement", "--without-tradeoff", "--ablations")
)
_COSTLY = frozenset(("--steps", "--rounds", "--plans", "--uniforms"))
"""Where a large number is a user's own wish, and takes as long as it says."""

_SMALL = ("0", "-1", "1", "nan", "1.5", "", "-9223372036854775808", "2")


def make(rng: Random, seeds: Path, folder: Path) -> list[str]:
    """Any command, with pipes, links and folders about."""
    take(seeds, folder, "d.toml", "net.py", "net.safetensors", "data.npz", "pictures", "run")
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.onnx")
    (folder / "loop").symlink_to("loop")
    (folder / "nothing").symlink_to("none")
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    return list(rng.choice(COMMANDS))


def _value(rng: Random, option: str) -> str:
    values = _SMALL if option in _COSTLY else VALUES.get(option, NUMBERS)
    return rng.choice(values)


def _change(rng: Random, given: Input) -> str:
    """An option of the command with another value."""
    places = [place for place, word in enumerate(given.words[:-1]) if word.startswith("--") and word not in _SWITCHES]
    if not places:
        raise UnchangedError
    place = rng.choice(places)
    given.words[place + 1] = _value(rng, given.words[place])
    return f"{given.words[place]} {given.words[place + 1]!r:.40}"


def _more(rng: Random, given: Input) -> str:
    """One option more."""
    option = rng.choice((*_MORE.get(given.words[0], ("--json",)), *(("--json",) if rng.random() < 0.1 else ())))
    given.words += [option] if option in (*_SWITCHES, "--json") else [option, _value(rng, option)]
    return f"with {' '.join(given.words[-2:])!r:.60}"


def _argument(rng: Random, given: Input) -> str:
    """What the command is about."""
    command = given.words[0]
    if command in ("movement", "buffer", "search", "compare"):
        trained = command in ("search", "compare")
        values: tuple[str, ...] = tuple(name for name in NETWORKS if name != "demo" or not trained)
    elif command == "quantize" and rng.random() < 0.5:
        given.words[2] = rng.choice(PACKED)
        return f"to {given.words[2]!r:.40}"
    else:
        values = (*PATHS, *TEXTS[1:-1], "run", "run/plan.json", "pictures")
    if command == "report":  # which writes there
        values = tuple(name for name in values if not _elsewhere(name))
    given.words[1] = rng.choice(values)
    return f"of {given.words[1]!r:.40}"


def _word(rng: Random, given: Input) -> str:
    """A word left out, repeated, or one of nobody's."""
    place = rng.randrange(1, len(given.words) + 1)
    match rng.randrange(3):
        case 0 if len(given.words) > 2:
            return f"without {given.words.pop(min(place, len(given.words) - 1))!r:.40}"
        case 1:
            given.words.insert(place, given.words[place - 1])
            return f"{given.words[place]!r:.40} twice"
    given.words.insert(place, rng.choice(WORDS))
    return f"with {given.words[place]!r:.40}"


def _elsewhere(name: str) -> bool:
    return name.startswith("/") or ".." in name


def _harmless(change: Change) -> Change:
    """The change, unless the command would then write outside of its folder, as a user may have it do."""

    def changed(rng: Random, given: Input) -> str:
        before = list(given.words)
        told = change(rng, given)
        command, *words = given.words
        written = [word for option, word in pairwise(words) if option in ("--out", "--run")]
        if command in ("quantize", "report"):
            written += [word for option, word in pairwise(("", *words)) if not option.startswith("--")][-1:]
        if any(map(_elsewhere, written)):
            given.words[:] = before
            raise UnchangedError
        return told

    return changed


_CHANGES = (*[_change] * 6, *[_more] * 5, *[_argument] * 2, _word, change_word)
KIND = Kind("options", make, tuple(map(_harmless, _CHANGES)))
