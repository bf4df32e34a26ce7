"""Kill a search at its writes and at random moments, go on with it, and compare with a search that nothing disturbed.

    python benchmarks/kill.py --count 100 --seed 0
    python benchmarks/kill.py --count 10 --ray     # of two Ray workers: they, the search, or both are killed

The search is the real command, forked from a process that has loaded everything, with a network that takes it a
second. Three of four kills hit it at a write: just before a file is opened, as half of it is written, before the disk
is waited for, before it is renamed or removed, or before a statement of the results store. The rest hit it anywhere.
Some searches are killed again as they go on. In the end plan, weights, checkpoints and results must be the same to the
byte, apart from times, nothing finished may have been done twice, and no file of a killed writer may be left. Where
this is not so the folder is kept; exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitq.__main__ import main as command
from bitq.cli import main as bitq
from bitq.progress import Terminal

NETWORK = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4),
    )
"""
DEVICE = """
schema_version = 1
name = "small"
title = "Small device"
memories = [
    { name = "SRAM", capacity_bytes = 512, energy_pj_per_bit = 0.16, source = "made up" },
    { name = "DRAM", energy_pj_per_bit = 20.0, source = "made up" },
]
"""
WORDS = (
    *("search", "subject:network", "--data", "data.npz", "--device", "small.toml", "--run", "run"),
    *("--formats", "8:e2..e4:b8..b16", "--steps", "4", "--rounds", "2", "--plans", "1", "--uniforms", "1"),
)
LONGEST_SECONDS = 300.0
"""After which a search hangs."""

ENDING_SECONDS = 150.0
"""After which what killed searches started must have ended; agents of Ray wait a minute for its head."""

AGAIN = 0.3
"""Share of the searches that are killed a second time."""

SOLVED_ANEW = 2
"""Layers and widths that every search has to solve, as the cache lacks them."""

_LOOK_SECONDS = 0.01
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EVENTS = {"os.rename": 2, "os.remove": 1, "os.mkdir": 1}
"""Audit events that change files, and how many of their arguments are paths."""

_STATEMENTS = ("BEGIN", "INSERT", "COMMIT", "CREATE", "PRAGMA", "ALTER", "UPDATE", "DELETE")
_WORKER = re.compile(r"ray::(?!\w+Agent\b)")
_KEPT = re.compile(r"INSERT .*INTO evaluations VALUES \('(\w+)'")


@dataclass(frozen=True)
class Kill:
    """When a search is killed, and who.

    Attributes:
        write: before which write, counted from 1; None at a time.
        seconds: after its start.
        victims: "search", one "worker" of it, or "all".
    """

    write: int | None = None
    seconds: float | None = None
    victims: str = "search"

    def __str__(self) -> str:
        when = f"at write {self.write}" if self.write else f"after {self.seconds:.2f} s"
        return f"{self.victims} {when}"


@dataclass(frozen=True)
class Ended:
    """How a search ended.

    Attributes:
        code: negative for a signal.
        writes: it made, if it came to its end.
        kept: keys of the evaluations that it put into the store.
        seconds: it took.
        started: processes that it started, with when they were born.
    """

    code: int
    writes: int
    kept: frozenset[str]
    seconds: float
    started: Mapping[int, str]


def main() -> int:
    """Kill, go on, compare; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="searches to kill (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    parser.add_argument("--ray", action="store_true", help="fine-tune on Ray workers and kill them, too")
    parser.add_argument("--failed", type=Path, default=Path("runs/kill"), help="folder for what failed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-") as scratch:
        return _killings(Path(scratch), options)


def _killings(scratch: Path, options: argparse.Namespace) -> int:
    words = (*WORDS, "--workers", "2") if options.ray else WORDS
    template, reference = scratch / "template", scratch / "reference"
    prepare(template)
    warm_up(scratch / "warm", template)
    shutil.copytree(template, reference)
    undisturbed = run(reference, words)
    if undisturbed.code:
        print((reference / "err").read_text(), file=sys.stderr)
        return 1
    chance = random.Random(options.seed)
    writes = list(range(1, undisturbed.writes + 1))
    chance.shuffle(writes)
    hit, failed, again = set(), 0, 0
    started = dict(undisturbed.started)
    with Terminal() as terminal:
        for number in range(options.count):
            terminal.step(f"killing searches ({failed} failed)", number, options.count)
            turns = [number]
            while chance.random() < AGAIN:
                turns.append(chance.randrange(options.count))
            kills = [_kill(chance, turn, writes, undisturbed.seconds, options.ray) for turn in turns]
            folder = scratch / str(number)
            shutil.copytree(template, folder)
            wrong = list(killed(folder, words, kills, chance, started)) + list(differences(folder, reference))
            hit |= {kill.write for kill in kills if kill.write}
            again += len(kills) - 1
            if wrong:
                failed += 1
                told = "\n".join([f"seed {options.seed}, search {number}", *map(str, kills), *wrong, ""])
                terminal.note(told)
                kept = options.failed / f"{options.seed}-{number}"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(folder, kept)
                (kept / "told.txt").write_text(told)
            shutil.rmtree(folder)
    left = _left(started)
    if left:
        print(f"left running: {', '.join(left)}", file=sys.stderr)
    print(
        f"{options.count} searches killed, {again} times more as they went on, at {len(hit)} of {len(writes)} writes "
        f"and at random: {failed} failed"
    )
    return int(bool(failed or left))


def _kill(chance: random.Random, number: int, writes: list[int], seconds: float, ray: bool) -> Kill:
    """At a write, another one every time, but of every fourth search, and for workers, at a random moment."""
    victims = chance.choice(("search", "worker", "all")) if ray else "search"
    moment = chance.uniform(0, seconds)
    if number % 4 and victims == "search":
        return Kill(write=writes[(number - number // 4 - 1) % len(writes)])
    return Kill(seconds=moment, victims=victims)


def prepare(folder: Path) -> None:
    """Write what the search is given: a network, images with one bright quadrant in noise, a device."""
    folder.mkdir()
    (folder / "subject.py").write_text(NETWORK)
    (folder / "small.toml").write_text(DEVICE)
    generator = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 240), ("val", 100), ("test", 100)):
        labels = generator.integers(0, 4, count)
        pixels = generator.standard_normal((count, 1, 8, 8)).astype(np.float32)
        for image, label in zip(pixels, labels, strict=True):
            image[0, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 0.7
        arrays |= {f"x_{part}": pixels, f"y_{part}": labels}
    np.savez(folder / "data.npz", **arrays)


def warm_up(folder: Path, template: Path) -> None:
    """Load all that the search will need by one search here; those that are forked then cost what they compute.

    The movement it solves is kept for them, but for a few layers, so that they write into the cache, too.
    """
    torch.set_num_threads(1)
    shutil.copytree(template, folder)
    os.environ["BITQ_CACHE_DIR"] = str(template / ".cache")
    before = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as told:
            bitq(WORDS)
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(told.getvalue()) from None
    finally:
        os.chdir(before)
        sys.modules.pop("subject", None)
    for entry in sorted((template / ".cache").rglob("*.traffic"))[:SOLVED_ANEW]:
        entry.unlink()


def killed(
    folder: Path, words: tuple[str, ...], kills: list[Kill], chance: random.Random, started: dict[int, str]
) -> Iterator[str]:
    """Run a search that is killed so, and then to its end; what is wrong with that, beside its results.

    Processes that it starts are added to `started`.
    """
    for kill in (*kills, None):
        before = results(folder / "run")
        ended = run(folder, words, kill, chance)
        if twice := ended.kept & before.keys():
            yield f"{kill}: done although it was finished: {', '.join(sorted(twice))}"
        after = results(folder / "run")
        if any(after.get(key) != row for key, row in before.items()):
            yield f"{kill}: finished evaluations changed"
        started |= ended.started
        if ended.code not in ((0, -signal.SIGKILL) if kill else (0,)):
            yield f"{kill or 'going on'}: exit {ended.code}: {_last_line(folder / 'err')}"


def _last_line(path: Path) -> str:
    return "".join(path.read_text(errors="backslashreplace").strip().splitlines()[-1:])


def differences(folder: Path, reference: Path) -> Iterator[str]:
    """What a search left that an undisturbed one did not, or otherwise."""
    names, wanted = (
        {str(path.relative_to(each)) for path in (each / "run").rglob("*")} for each in (folder, reference)
    )
    if names != wanted:
        yield f"files: {sorted(names ^ wanted)}"
    for part in folder.rglob(".bitq-*"):
        yield f"left of a killed writer: {part.relative_to(folder)}"
    for name in sorted(names & wanted):
        path = reference / name
        timeless = path.is_file() and path.name not in ("results.sqlite", "report.html")
        if timeless and (folder / name).read_bytes() != path.read_bytes():
            yield f"{name} differs"
    found, expected = ({key: row[:3] for key, row in results(each / "run").items()} for each in (folder, reference))
    if found != expected:
        yield f"results differ: {sorted(key for key in found.keys() | expected if found.get(key) != expected.get(key))}"


def results(run: Path) -> dict[str, tuple[Any, ...]]:
    """What a store holds, by key: kind, configuration, result, and when it was finished; the store stays as it is."""
    if not (run / "results.sqlite").exists():
        return {}
    with tempfile.TemporaryDirectory(prefix="kill-store-") as aside:
        for path in run.glob("results.sqlite*"):
            shutil.copy(path, aside)
        with contextlib.closing(sqlite3.connect(Path(aside) / "results.sqlite")) as database:
            try:
                rows = database.execute("SELECT key, kind, config, result, finished FROM evaluations").fetchall()
            except sqlite3.OperationalError:  # killed before it made the table
                return {}
    return {key: (kind, config, _timeless(result), finished) for key, kind, config, result, finished in rows}


def _timeless(result: str) -> str:
    found: Mapping[str, Any] = json.loads(result)
    return json.dumps({name: value for name, value in found.items() if name != "seconds"})


def run(folder: Path, words: tuple[str, ...], kill: Kill | None = None, chance: random.Random | None = None) -> Ended:
    """Search in a folder, in a process forked from this one, and kill it."""
    start = time.monotonic()
    pid = os.fork()
    if not pid:
        _search(folder, words, kill.write if kill else None)
    started: dict[int, str] = {}
    pending = None if kill is None else kill.seconds
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        time.sleep(_LOOK_SECONDS)
        if "--workers" in words:
            started |= _descendants(pid)
        now = time.monotonic() - start
        if pending is not None and kill is not None and now > pending:
            pending = None
            workers = [each for each in _descendants(pid) if _WORKER.match(_name(each))]
            if kill.victims != "worker":
                _end([pid, *(_descendants(pid) if kill.victims == "all" else ())])
            elif workers:
                _end([(chance or random.Random()).choice(workers)])
        elif now > LONGEST_SECONDS:
            _end([pid])
    seconds = time.monotonic() - start
    log = (folder / "log").read_text().split() if (folder / "log").exists() else []
    (folder / "log").unlink(missing_ok=True)
    writes = next((int(word) for word in log if word.isdigit() and len(word) < 10), 0)
    kept = frozenset(word for word in log if len(word) == 64)
    return Ended(os.waitstatus_to_exitcode(ended[1]), writes, kept, seconds, started)


def _search(folder: Path, words: tuple[str, ...], stop: int | None) -> None:
    """Run the command here, die before write `stop`, and log the keys of what it puts into the store; never returns."""
    code = 1
    try:
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        os.environ.update(BITQ_CACHE_DIR=str(folder / ".cache"))
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        sys.argv = ["bitq", *words]
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        count = _dying(str(folder.resolve()), stop, log)
        try:
            command()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        os.write(log, f"{next(count) - 1}\n".encode())
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _dying(folder: str, stop: int | None, log: int) -> Iterator[int]:
    """Let this process die before write `stop` in a folder; gives the number of the next write."""
    numbers = iter(range(1, 1 << 62))

    def write(before: Callable[[], None] = lambda: None) -> None:
        if next(numbers) == stop:
            before()
            os.kill(os.getpid(), signal.SIGKILL)

    def statement(text: str) -> None:
        if text.startswith(_STATEMENTS):
            if found := _KEPT.match(text):
                os.write(log, found[1].encode() + b"\n")
            write()

    def audited(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            paths = arguments[:1] if (arguments[2] or 0) & _WRITES else ()
        else:
            paths = arguments[: _EVENTS.get(event, 0)]
        if any(os.path.abspath(path).startswith(folder) for path in paths if isinstance(path, str | Path)):  # noqa: PTH100
            write()

    synced, connected = os.fsync, sqlite3.connect

    def fsync(handle: int) -> None:
        write(lambda: os.truncate(handle, os.fstat(handle).st_size // 2))
        write()
        synced(handle)

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connected(*arguments, **options)
        connection.set_trace_callback(statement)
        return connection

    os.fsync, sqlite3.connect = fsync, connect
    sys.addaudithook(audited)
    return numbers


def _end(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _left(started: Mapping[int, str]) -> tuple[str, ...]:
    """Names of processes that do not end; they are killed then."""
    deadline = time.monotonic() + ENDING_SECONDS
    while alive := [pid for pid, born in started.items() if _born(pid) == born]:
        if time.monotonic() > deadline:
            names = tuple(map(_name, alive))
            _end(alive)
            return names
        time.sleep(_LOOK_SECONDS)
    return ()


def _descendants(pid: int) -> dict[int, str]:
    """Processes that a process started, they too, and so on, with when they were born."""
    parents = {int(path.name): _stat(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    found, new = {}, {pid}
    while new:
        new = {child for child, stat in parents.items() if stat and int(stat[1]) in new}
        found |= {child: parents[child][19] for child in new}
    return found


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the name, from the state on; none once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] == "Z" else fields


def _born(pid: int) -> str:
    return "".join(_stat(pid)[19:20])


def _name(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return ""
    return words.decode(errors="backslashreplace").strip()[:200]


if __name__ == "__main__":
    sys.exit(main())
