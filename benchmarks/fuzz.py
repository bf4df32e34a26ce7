"""Changes good inputs of all kinds into hostile ones, gives them to the real commands, and counts how these end.

    python benchmarks/fuzz.py --count 10000 --seed 1
    python benchmarks/fuzz.py --count 300 --only graph
    python benchmarks/fuzz.py --seed 1 --case 4711            # that one again, told in full

Right is exit 0, or exit 2 and one sentence. A failure is everything else: a traceback, a signal, 20 seconds, 2 GiB, a
file outside of the folder or one changed that is not the command's to write, control characters, words of libraries,
an endless message, numbers that are none. Failures of one kind, command and place are one group: its first input, with
no change that it does not take, is written with a run.sh. Ends with 1 if there was a failure.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import re
import shlex
import shutil
import stat
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path

import torch
from rich.table import Table

from bitq.cli.output import show
from bitq.progress import Terminal
from confined import Ended, confined
from fuzzing import Case, Kind, kinds, seeds
from fuzzing.values import MARK

sys.set_int_max_str_digits(0)  # numbers of any length are written, too
torch.set_num_threads(1)
warnings.simplefilter("ignore")  # of libraries, about the odd things that are written

_FINITE = ("--mean", "--std", "--alpha", "--learning-rate", "--max-accuracy-loss")
"""Options for which nothing but finite numbers makes sense."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case; `group` says what is wrong with it, "" if nothing is."""

    case: Case
    words: tuple[str, ...]
    changes: tuple[str, ...]
    ended: Ended
    group: str
    cpu_seconds: float


@dataclass
class Found:
    """All outcomes so far: cases by kind and end, CPU seconds by kind, failures by group, and where each group lies."""

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    cpu: Counter[str] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    kept: dict[str, Path] = field(default_factory=dict)


def main() -> int:
    """Run the cases that the options name; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = kinds()
    parser.add_argument("--count", type=int, default=1000, help="cases (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="cases to pass over (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    parser.add_argument("--only", choices=known, help="one kind of input")
    parser.add_argument("--case", type=int, help="one case by its number")
    parser.add_argument("--processes", type=int, default=2, help="commands at a time (default: 2)")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="folder for what failed")
    options = parser.parse_args()
    names = list(known)
    every = range(names.index(options.only), sys.maxsize, len(names)) if options.only else range(sys.maxsize)
    numbers = [options.case] if options.case is not None else list(every[options.first : options.count])
    cases = [Case(known[names[number % len(names)]], options.seed, number) for number in numbers]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, Terminal() as terminal:
        terminal.note("making good inputs of every kind")
        good = Path(folder) / "seeds"
        good.mkdir()
        seeds.make(good)
        if options.case is not None:
            tell(judged(cases[0], good, range(cases[0].count), Path(folder)))
        found = fuzz(cases, good, Path(folder), options.keep, options.processes, terminal)
    show(table(found, known))
    for group, count in found.groups.most_common():
        print(f"{count:6d}  {group}\n        {found.kept.get(group, 'not written')}")
    return 1 if found.groups else 0


def fuzz(cases: Sequence[Case], good: Path, folder: Path, keep: Path, processes: int, terminal: Terminal) -> Found:
    """Run all cases, so many at a time, and write an input of every group of failures.

    An interrupt ends it with what was found.
    """
    found, done, left = Found(), 0, iter(cases)

    def started(count: int) -> set[Future[Outcome]]:
        return {pool.submit(judged, case, good, range(case.count), folder) for case in islice(left, count)}

    try:
        with ThreadPoolExecutor(processes) as pool:
            running = started(2 * processes)
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                running |= started(len(finished))
                for each in finished:
                    outcome, done = each.result(), done + 1
                    enter(found, outcome)
                    if outcome.group and outcome.group not in found.kept:
                        found.kept[outcome.group] = written(outcome, good, folder, keep)
                        terminal.note(f"case {outcome.case.index}: {outcome.group}")
                    terminal.step("cases", done, len(cases))
    except KeyboardInterrupt:
        terminal.note(f"interrupted after {done} of {len(cases)} cases")
    return found


def judged(case: Case, good: Path, kept: Sequence[int], folder: Path) -> Outcome:
    """Build a case with these changes alone, run it, and judge how it ended."""
    start = time.thread_time()
    with tempfile.TemporaryDirectory(dir=folder, prefix="case-") as name:
        given, changes = case.build(good, Path(name) / "in", kept)
        before = _files(given.folder)
        ended = confined(given.words, given.folder)
        wrong = ended.fault or next(_further(given.words, given.folder, before, ended), "")
    words = tuple(given.words)
    group = signature(case.kind, words, wrong, ended) if wrong else ""
    return Outcome(case, words, changes, ended, group, ended.cpu_seconds + time.thread_time() - start)


def signature(kind: Kind, words: Sequence[str], wrong: str, ended: Ended) -> str:
    """What failures of the same cause have in common."""
    where = ended.place
    if wrong == "a file outside":
        where = " ".join(ended.left)
    elif wrong == "internal name":
        where = f"{ended.internal} after {' '.join(ended.sentence.split()[1:3])}"
    elif not where and not ended.stopped:
        where = re.sub(r"'[^']*'|\"[^\"]*\"|-?[\d.]+(e[+-]?\d+)?|\S{40,}|[^ -~]", "_", ended.sentence)[:90]
    return f"{kind.name}: {' '.join(words[:1])}: {wrong}: {where}"


def _files(folder: Path) -> dict[str, tuple[int, ...]]:
    """What tells that a file was changed, by its name in a folder."""
    found = {
        str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*") if "__pycache__" not in path.parts
    }
    return {
        name: (each.st_mode, each.st_ino, each.st_size, each.st_mtime_ns)
        for name, each in found.items()
        if not stat.S_ISDIR(each.st_mode)
    }


def _further(words: Sequence[str], folder: Path, before: Mapping[str, tuple[int, ...]], ended: Ended) -> Iterator[str]:
    """What else is wrong with an end that has the right form."""
    after = _files(folder)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    if changed and words[0] != "search":
        own = {word for option, word in pairwise(words) if option in ("--out", words[1])}
        if words[0] == "report":
            own = {name for name in changed if Path(name).name.startswith(("report.html", "results."))}
            changed = {name for name in changed if not name.endswith("-shm")}  # SQLite's, for those who read, too
        if (ended.code and changed and "--salvage" not in words) or changed - {str(Path(name)) for name in own}:
            names = " ".join(sorted({Path(name).name for name in changed}))
            yield f"{'refused, but ' if ended.code else ''}changed {names}"
    if not ended.code:
        given = dict(pairwise(words))
        if unreal := [option for option in _FINITE if not _finite(given.get(option, ""))]:
            yield f"accepted {unreal[0]}"
        for page in (folder / name for name in changed if Path(name).name == "report.html"):  # others are of any size
            if page.is_file() and MARK in page.read_text(errors="replace"):
                yield "unescaped in the page"


def _finite(text: str) -> bool:
    try:
        return all(map(math.isfinite, map(float, text.split(","))))
    except ValueError:
        return True


def enter(found: Found, outcome: Outcome) -> None:
    """Count an outcome."""
    kind = outcome.case.kind.name
    found.ends[kind, "failed" if outcome.group else "refused" if outcome.ended.code else "accepted"] += 1
    found.cpu[kind] += outcome.cpu_seconds
    if outcome.group:
        found.groups[outcome.group] += 1


def written(outcome: Outcome, good: Path, folder: Path, keep: Path) -> Path:
    """Write a failing input with the changes it takes and a run.sh; returns its folder."""
    kept = list(range(outcome.case.count))
    for number in tuple(kept):
        fewer = [each for each in kept if each != number]
        if (again := judged(outcome.case, good, fewer, folder)).group == outcome.group:
            kept, outcome = fewer, again
    wrong = outcome.group.split(": ")[2].replace(" ", "-")[:30].replace("/", "-")
    target = keep / f"{outcome.case.kind.name}-{wrong}-{hashlib.sha256(outcome.group.encode()).hexdigest()[:8]}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    outcome.case.build(good, target / "in", kept)
    command = shlex.join(outcome.words)
    lines = [
        "#!/bin/sh",
        f"# {ascii(outcome.group)[1:-1]}",
        *(f"# {ascii(change)[1:-1]}" for change in outcome.changes),
        f"# python benchmarks/fuzz.py --seed {outcome.case.seed} --case {outcome.case.index}",
        f'cd "$(dirname "$0")/in" && ${{BITQ:-bitq}} {command}',
    ]
    (target / "run.sh").write_bytes("\n".join([*lines, ""]).encode(errors="surrogateescape"))
    return target


def tell(outcome: Outcome) -> None:
    """Print all that is known of a case."""
    print(f"bitq {shlex.join(outcome.words)}"[:2000].encode(errors="backslashreplace").decode())
    for change in outcome.changes:
        print(f"  {ascii(change)[1:-1]}")
    ended = outcome.ended
    print(
        f"exit {ended.code} {ended.stopped} {ended.seconds:.2f} s, {ended.memory_bytes >> 20} MiB",
        outcome.group or "right",
    )
    print(
        ascii(ended.out[-500:]), ended.err[-3000:].encode("ascii", "backslashreplace").decode(), ended.stack, sep="\n"
    )


def table(found: Found, known: Mapping[str, Kind]) -> Table:
    """How the cases ended, by kind."""
    shown = Table()
    for heading in ("kind", "cases", "exit 0", "exit 2, one sentence", "failures", "groups", "CPU s / case"):
        shown.add_column(heading, justify="left" if heading == "kind" else "right")
    total = ["total", *[0] * 5, 0.0]
    for name in known:
        right, refused, failed = (found.ends[name, end] for end in ("accepted", "refused", "failed"))
        groups = sum(group.startswith(f"{name}: ") for group in found.groups)
        row = [name, right + refused + failed, right, refused, failed, groups, found.cpu[name]]
        total = ["total", *(a + b for a, b in zip(total[1:], row[1:], strict=True))]  # type: ignore[operator]
        if row[1]:
            shown.add_row(*map(str, row[:-1]), f"{found.cpu[name] / row[1]:.2f}")  # type: ignore[operator]
    shown.add_section()
    shown.add_row(*map(str, total[:-1]), f"{total[-1] / max(total[1], 1):.2f}")  # type: ignore[operator]
    return shown


if __name__ == "__main__":
    sys.exit(main())
