"""Run commands of bitq on hostile inputs: each in a process of its own that is stopped before it hurts, and watched.

Processes are forked from one that has imported everything (`preloaded`), so that a command costs what it computes.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

SECONDS, MEMORY_BYTES = 20.0, 2 << 30
LONGEST_SENTENCE = 1300
_LOOK_SECONDS = 0.02
_STACK_SECONDS = 0.05  # for a process to write where it is, before it is killed

_INTERNAL = re.compile(
    r"""
    \b[A-Z_]\w*(Error|Exception|Reader|Writer)\b | (?<![\w'"./:-])_[A-Za-z]\w*[A-Z]\w* | <class\ ' | \ object\ at\ 0x
    | \bpydantic\b | Input\ should\ be | Extra\ inputs\ are | Field\ required | \[type=
    | (?i:\berrno\b) | Traceback | site-packages | \w\.(py|cpp|cc|h|rs):\d | NoneType | \bc10::
    | \btorch\._ | enforce\ fail
    | codec\ can't | object\ (is\ not|has\ no|cannot) | unsupported\ operand | invalid\ literal | ordinal\ not\ in
    """,
    re.VERBOSE,
)
"""What only those understand who wrote a program: names of its classes and the words of its libraries."""

_OF_USER = re.compile(r"(?<=^Error: )(importing|calling) .* failed: .*")
"""What the code of a user's own network said."""

_FRAME = re.compile(r'File "([^"]*)", line \d+,? in (\S+)')
_EXCEPTION = re.compile(r"^([A-Za-z_][\w.]*)(?::|$)", re.MULTILINE)


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code; negative for a signal.
        out, err: what it wrote.
        seconds: it took.
        memory_bytes: it held at most.
        stopped: why it was killed, "" if it was not: "time" or "memory".
        cpu_seconds: it computed; what it took, where it did not live to tell.
        left: what it left outside of the folder where it ran: beside it, at home, among temporary files.
        stack: where it was when it was killed, as Python's faulthandler tells it.
    """

    code: int
    out: str
    err: str
    seconds: float
    memory_bytes: int
    stopped: str = ""
    cpu_seconds: float = 0.0
    left: tuple[str, ...] = ()
    stack: str = ""

    @property
    def sentence(self) -> str:
        """The last line on stderr."""
        return "".join(self.err.strip().split("\n")[-1:])

    @property
    def fault(self) -> str:
        """What is wrong with this end, "" if it is a result or a refusal in one sentence."""
        if self.stopped:
            return self.stopped
        if self.code < 0:
            return signal.Signals(-self.code).name
        if "Traceback (most recent call last)" in self.err:
            return "traceback"
        if self.code not in (0, 2):
            return f"exit {self.code}"
        if self.left:
            return "a file outside"
        if not all(c.isprintable() or c in "\n\t\r" for c in self.out + self.err):
            return "control characters"
        if self.code == 0:
            return "no number" if any(_told_of_no_number(self.out)) else ""
        if not self.sentence.startswith("Error: "):
            return "no sentence"
        if self.internal:
            return "internal name"
        return "long message" if len(self.sentence) > LONGEST_SENTENCE else ""

    @property
    def internal(self) -> str:
        """The first word of a library in the sentence, "" if there is none."""
        found = _INTERNAL.search(_OF_USER.sub("", self.sentence))
        return found[0] if found else ""

    @property
    def place(self) -> str:
        """The exception, and where in bitq it was raised or the process was killed; "" where nothing tells."""
        frames = _FRAME.findall(self.stack)[::-1] or _FRAME.findall(self.err)
        own = [f"{Path(file).name} {name}" for file, name in frames if "/bitq/" in file] or [""]
        raised = _EXCEPTION.findall(self.err)[-1:] if "Traceback" in self.err else []
        return " at ".join(filter(None, [*raised, own[-1]]))


def confined(
    words: Sequence[str], folder: Path, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES
) -> Ended:
    """Run `bitq WORDS` in a folder.

    Args:
        words: after the program's name.
        folder: where it runs; nobody else may write beside it meanwhile.
        seconds: after which it is killed.
        memory_bytes: resident, above which it is killed.
    """
    _serve()
    context = multiprocessing.get_context("forkserver")
    with tempfile.TemporaryDirectory(prefix="confined-") as name:
        aside = Path(name)
        beside = set(folder.parent.iterdir())
        for inner in ("home", "temporary"):
            (aside / inner).mkdir()
        process = context.Process(target=_command, args=(tuple(words), str(folder), name, int(seconds)))
        process.start()
        start = time.monotonic()  # the first of all waits for the imports
        stopped, most = "", 0
        while process.is_alive():
            process.join(_LOOK_SECONDS)
            most = max(most, _resident(process.pid))
            if most > memory_bytes:
                stopped = "memory"
            elif time.monotonic() - start > seconds:
                stopped = "time"
            if stopped:
                _kill(process)
        took = time.monotonic() - start
        with suppress(ProcessLookupError, PermissionError):  # what it started
            os.killpg(process.pid or 0, signal.SIGKILL)
        used = aside / "used"
        # Its own word first: another thread that starts a process may have taken the exit code of this one.
        cpu, peak, code = json.loads(used.read_text()) if used.exists() else (took, 0, process.exitcode or 0)
        if max(peak, most) > memory_bytes:
            stopped = "memory"
        out, err, stack = (_text(aside / name) for name in ("out", "err", "stack"))
        made = [*_files(aside / "home"), *_files(aside / "temporary"), *set(folder.parent.iterdir()) - beside]
        left = tuple(sorted(path.name for path in made))
        return Ended(code, out, err, took, max(peak, most), stopped, cpu, left, stack)


@cache
def _serve() -> None:
    """Start the process that all others are forked from; it finds the same modules as this one."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in (str(Path(__file__).parent), *sys.path) if path)
    try:
        multiprocessing.get_context("forkserver").set_forkserver_preload(["preloaded"])
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _kill(process: Any) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGUSR1)
    time.sleep(_STACK_SECONDS)
    process.kill()
    process.join()


def _command(words: tuple[str, ...], folder: str, aside: str, seconds: int) -> None:
    os.setsid()
    signal.alarm(3 * seconds + 1)  # if nobody watches any more
    os.chdir(folder)
    home, temporary, cached = (str(Path(aside) / name) for name in ("home", "temporary", "cache"))
    os.environ.update(HOME=home, TMPDIR=temporary, BITQ_CACHE_DIR=cached, COLUMNS="160")
    tempfile.tempdir = None
    for number, name in ((0, os.devnull), (1, "out"), (2, "err")):
        handle = os.open(Path(aside) / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv = ["bitq", *words]
    with (Path(aside) / "stack").open("w") as stack:
        faulthandler.register(signal.SIGUSR1, stack)
        code = _ran()
    used = resource.getrusage(resource.RUSAGE_SELF)
    (Path(aside) / "used").write_text(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss << 10, code]))
    os._exit(code)


def _ran() -> int:
    """The exit code of the command that `sys.argv` says."""
    import torch

    torch.set_num_threads(1)
    from bitq.cli import main

    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    return 1


def _told_of_no_number(out: str) -> Iterator[bool]:
    """For every number of JSON that a command printed, whether it is none or infinite."""
    if out.startswith(("{", "[")):
        numbers: list[float] = []

        def number(text: str) -> float:
            numbers.append(float(text))
            return numbers[-1]

        try:
            json.loads(out, parse_float=number, parse_constant=number)
        except (ValueError, RecursionError):
            yield True
        yield from (not abs(each) < float("inf") for each in numbers)


def _resident(pid: int | None) -> int:
    """Bytes that a process holds in memory, 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/statm").read_text()
    except OSError:
        return 0
    return int(status.split()[1]) * os.sysconf("SC_PAGESIZE")


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="backslashreplace") if path.exists() else ""


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]
