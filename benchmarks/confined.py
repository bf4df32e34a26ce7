"""Run commands of bitq on hostile inputs: each in a process of its own that is stopped before it hurts, and watched.

Processes are forked from one that has imported everything, so that a command costs what it computes.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PRELOADED = (
    *("bitq.cli", "bitq.api", "bitq.onnx", "bitq.datasets", "bitq.loading", "bitq.report", "bitq.demo"),
    *("bitq.tradeoff.weights", "bitq.movement.sweep", "onnx.reference", "onnx.inliner", "rich.progress"),
)
SECONDS, MEMORY_BYTES = 20.0, 2 << 30
_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code; negative for a signal.
        out, err: what it wrote.
        seconds: it took.
        memory_bytes: it held at most.
        stopped: why it was killed, "" if it was not: "time" or "memory".
    """

    code: int
    out: str
    err: str
    seconds: float
    memory_bytes: int
    stopped: str = ""

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
        if not all(c.isprintable() or c in "\n\t\r" for c in self.out + self.err):
            return "control characters"
        last = self.err.strip().splitlines()[-1:]
        if self.code == 2 and not (last and last[0].startswith("Error: ")):
            return "no sentence"
        return ""


def confined(
    words: Sequence[str], folder: Path, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES
) -> Ended:
    """Run `bitq WORDS` in a folder.

    Args:
        words: after the program's name.
        folder: where it runs; home and temporary files lie there, too.
        seconds: after which it is killed.
        memory_bytes: resident, above which it is killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with tempfile.TemporaryDirectory(prefix="confined-") as aside:
        out, err, peak = (Path(aside) / name for name in ("out", "err", "peak"))
        process = context.Process(target=_command, args=(tuple(words), str(folder), str(out), str(err), str(peak)))
        start = time.monotonic()
        process.start()
        stopped, most = "", 0
        while process.is_alive():
            process.join(_LOOK_SECONDS)
            most = max(most, _resident(process.pid))
            if most > memory_bytes:
                stopped = "memory"
            elif time.monotonic() - start > seconds:
                stopped = "time"
            if stopped:
                process.kill()
                process.join()
        took = time.monotonic() - start
        told = int(peak.read_text()) if peak.exists() else 0
        if max(told, most) > memory_bytes:
            stopped = "memory"
        texts = [path.read_text(errors="backslashreplace") if path.exists() else "" for path in (out, err)]
        return Ended(process.exitcode or 0, *texts, took, max(told, most), stopped)


def _command(words: tuple[str, ...], folder: str, out: str, err: str, peak: str) -> None:
    os.chdir(folder)
    os.environ.update(HOME=folder, TMPDIR=folder, BITQ_CACHE_DIR=str(Path(folder) / ".cache"), COLUMNS="160")
    tempfile.tempdir = None
    for number, path in ((1, out), (2, err)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(handle, number)
        os.close(handle)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv = ["bitq", *words]
    import torch

    torch.set_num_threads(1)
    from bitq.cli import main

    code = 1
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        Path(peak).write_text(str(kib << 10))
    os._exit(code)


def _resident(pid: int | None) -> int:
    """Bytes that a process holds in memory, 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/statm").read_text()
    except OSError:
        return 0
    return int(status.split()[1]) * os.sysconf("SC_PAGESIZE")
