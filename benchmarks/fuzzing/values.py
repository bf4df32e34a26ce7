"""Odd values, and odd changes of bytes and of trees of values, that many kinds share."""

from __future__ import annotations

import json
import math
import os
import shutil
from random import Random
from typing import Any

from fuzzing import Input

MARK = "</script><b id=fuzz>"
"""Must not stand in a page as it is."""

VERBATIM = {
    "@@DEEP@@": "[" * 5000 + "]" * 5000,
    "@@LONG@@": "9" * 5000,
    "@@HUGE@@": "1e400",
    "@@MAPS@@": '{"a":' * 3000,
}
"""What writers of JSON and TOML do not write: put into the text instead of these."""

MOST_TEXT = 4 << 20
"""Characters that one change makes of fewer."""

INTEGERS = (0, 1, -1, 2, 3, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, -(2**63), 10**30)
FLOATS = (0.0, -0.0, 0.5, 1.5, -1.0, 5e-324, 1e-300, 1e16, 1e38, 1e308, -1e308, math.inf, -math.inf, math.nan)
TEXTS = (
    *("", " ", "a", "0", "nan", "\0", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "a\nb", "a\tb"),
    *("\r\n", "\u202eabc", "\u2028"),
    *("../../etc/passwd", "/dev/zero", "~", "%s%n", "{}", "ä" * 300, "x" * 5000, "🙂", "\ufeff", MARK, "<img src=x>"),
    *("payload:make", "os:abort", "net:make", "demo", "[bold]x[/bold]", "-1", "1e999", "--help", "\ud800"),
)


def odd(rng: Random) -> Any:
    """A value of any type."""
    return rng.choice(
        (
            lambda: rng.choice(INTEGERS),
            lambda: rng.choice(FLOATS),
            lambda: rng.choice(TEXTS),
            lambda: rng.choice((None, True, False, [], {}, [[]], {"": 0}, [1, 2], {"a": {"b": 1}})),
            lambda: rng.choice(tuple(VERBATIM)),
        )
    )()


def near(rng: Random, value: Any) -> Any:
    """A value of the same type, often a wrong one."""
    match value:
        case bool():
            return not value
        case int():
            return rng.choice((value + 1, value - 1, -value, value * 2, value << 16, value << 32, *INTEGERS))
        case float():
            return rng.choice((value * 2, -value, value * 1e-9, value * 1e30, *FLOATS))
        case str() if len(value) < 10_000:
            return rng.choice((value * 2, value[:-1], value.upper(), value * 200, *TEXTS))
    return odd(rng)


def change_tree(rng: Random, tree: Any) -> tuple[Any, str]:
    """A tree of dictionaries and lists with one thing changed, and what."""
    places = list(_places(tree))
    if not places:
        return odd(rng), "all of it is another value"
    holder, key = rng.choice(places)
    where, old = repr(key)[:40], holder[key]
    match rng.randrange(9):
        case 0 | 1 | 2:
            holder[key] = near(rng, old)
        case 3 | 4:
            holder[key] = odd(rng)
        case 5:
            del holder[key]
            return tree, f"{where} is left out"
        case 6:
            other_holder, other = rng.choice(places)
            holder[key], other_holder[other] = other_holder[other], old
            return tree, f"{where} and {other!r:.40} change places"
        case 7 if isinstance(holder, dict):
            holder[rng.choice(TEXTS)] = odd(rng)
            return tree, "one more key"
        case 7:
            times = min(rng.choice((2, 100, 3000)), MOST_TEXT // max(len(json.dumps(old)), 1))
            holder[key:key] = [old] * times
            return tree, f"{where} stands {times} times more"
        case _ if isinstance(old, list):
            rng.shuffle(old)
            return tree, f"{where} in another order"
        case _:
            holder[key] = [old] if rng.random() < 0.5 else {"a": old}
    return tree, f"{where} = {holder[key]!r:.60}"


def _places(tree: Any) -> Any:
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


def json_text(tree: Any) -> bytes:
    """JSON with the verbatim texts in their places."""
    return verbatim(json.dumps(tree, ensure_ascii=False))


def verbatim(text: str) -> bytes:
    """Text with the verbatim texts in their places, as bytes; what UTF-8 cannot say is left wrong."""
    for name, instead in VERBATIM.items():
        text = text.replace(f'"{name}"', instead)
    return text.encode(errors="surrogatepass")


def change_bytes(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Damaged bytes, and how."""
    size = len(content)
    at, span = rng.randrange(size + 1), rng.choice((1, 2, 8, 100))
    match rng.randrange(8):
        case 0 | 1:
            if not size:
                return b"\0", "a zero byte"
            at = rng.randrange(min(size, 256) if rng.random() < 0.5 else size)
            changed = content[at] ^ (1 << rng.randrange(8))
            return content[:at] + bytes((changed,)) + content[at + 1 :], f"a bit changed at {at}"
        case 2:
            return content[:at] + rng.randbytes(span) + content[at + span :], f"{span} random bytes at {at}"
        case 3:
            return content[:at], f"cut off at {at} of {size}"
        case 4:
            return content[:at] + content[at + span :], f"{span} bytes left out at {at}"
        case 5:
            return content[:at] + content[max(at - span, 0) : at] + content[at:], f"{span} bytes repeated at {at}"
        case 6:
            filled = rng.choice((b"\0", b"\xff", b"A", b"\x1b["))
            return content[:at] + filled * span + content[at + span * len(filled) :], f"{filled!r} {span} times at {at}"
    others = (b"", b"\0", b"\0" * 4096, b"PK\3\4", b"\x80\4.", b"{}", b"[]", rng.randbytes(100))
    return rng.choice(others), "other bytes"


def damage(name: str) -> Any:
    """A change of the bytes of a file."""

    def damaged(rng: Random, given: Input) -> str:
        changed, how = change_bytes(rng, given.content(name))
        given.path(name).write_bytes(changed)
        return f"{name}: {how}"

    return damaged


def change_json(name: str) -> Any:
    """A change of one thing in a file of JSON; of its bytes, where it is none any more."""

    def changed(rng: Random, given: Input) -> str:
        try:
            tree = json.loads(given.content(name))
        except (ValueError, RecursionError):
            return str(damage(name)(rng, given))
        tree, how = change_tree(rng, tree)
        given.path(name).write_bytes(json_text(tree))
        return f"{name}: {how}"

    return changed


def change_word(rng: Random, given: Input) -> str:
    """The command in its other form, for machines or readers."""
    if "--json" in given.words:
        given.words.remove("--json")
        return "without --json"
    given.words.append("--json")
    return "with --json"


def special(name: str) -> Any:
    """A change of what a file is: a folder, a pipe, a link, a device, nothing, or one of another size."""

    def replaced(rng: Random, given: Input) -> str:
        path = given.path(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        match rng.randrange(9):
            case 0:
                return f"{name} is missing"
            case 1:
                path.mkdir()
                return f"{name} is a folder"
            case 2:
                os.mkfifo(path)
                return f"{name} is a pipe"
            case 3:
                path.symlink_to(path.name)
                return f"{name} is a link to itself"
            case 4:
                path.symlink_to("nowhere")
                return f"{name} is a link to nothing"
            case 5:
                target = rng.choice(("/dev/zero", "/dev/full", "/dev/null", "/dev/stdin", "/proc/self/mem"))
                path.symlink_to(target)
                return f"{name} is {target}"
            case 6:
                path.touch()
                return f"{name} is empty"
            case 7:
                with path.open("wb") as file:
                    file.truncate(rng.choice((2**20, 2**31, 2**36, 2**40)))
                return f"{name} is all zeros, of {path.stat().st_size} bytes"
        path.write_bytes(b"\0" * 16)
        path.chmod(0o000)
        return f"{name} may not be read"

    return replaced
