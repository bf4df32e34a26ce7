"""The results store: every finished evaluation of a run, in SQLite, so that nothing is measured twice."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bitq.errors import BitqError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS evaluations (
    key TEXT PRIMARY KEY,      -- digest of kind and configuration
    kind TEXT NOT NULL,
    config TEXT NOT NULL,      -- JSON: all that the result depends on
    result TEXT NOT NULL,      -- JSON
    seconds REAL NOT NULL,
    finished REAL NOT NULL,    -- Unix time
    versions TEXT NOT NULL DEFAULT '{}'  -- JSON: of what computed it
);
CREATE TABLE IF NOT EXISTS run (name TEXT PRIMARY KEY, value TEXT NOT NULL);
PRAGMA user_version = 2;
"""

_UNWRITABLE = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY")
"""What SQLite calls a disk that is full or fails."""

_WITHOUT_VERSIONS = 1
"""The schema before evaluations told versions."""

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """One finished evaluation: what was evaluated, what came out, how long it took (seconds), with which versions."""

    kind: str
    config: Json
    result: Json
    seconds: float
    finished: float
    versions: Json


class Store:
    """The evaluations of one run folder, durable as soon as they are finished.

    Use as a context manager.

    Args:
        path: of the file; is made with its folder if there is none.
        alone: hold the folder until the end, so that no two searches do the same work; readers are not kept out.

    Raises:
        BitqError: the file is not a results store, the disk is full, or another process holds the folder.
    """

    def __init__(self, path: Path, alone: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        with ExitStack() as taken:
            if alone:
                taken.enter_context(_held(path.parent))
            try:
                self._db = taken.enter_context(closing(sqlite3.connect(path, timeout=30)))
                _prepare(self._db)
            except sqlite3.Error as error:
                if error.sqlite_errorname.startswith(_UNWRITABLE):
                    raise self._cannot_write(error) from None
                raise BitqError(f"{path} is not a results store ({error}); give another run folder") from None
            self._taken = taken.pop_all()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._taken.close()

    def bind(self, identity: Json) -> None:
        """Tie the run folder to what it is about (network, data, settings), or check that it is the same.

        Raises:
            BitqError: the folder holds a run of something else; names the first difference.
        """
        known = {name: json.loads(value) for name, value in self._db.execute("SELECT name, value FROM run")}
        for name, value in identity.items():
            if name in known and known[name] != json.loads(json.dumps(value)):
                raise BitqError(
                    f"run folder {self.path.parent} was made with {name} = {known[name]!r}, not {value!r}; "
                    "give another folder with --run"
                )
        self._write(
            "INSERT OR IGNORE INTO run VALUES (?, ?)", [(name, json.dumps(value)) for name, value in identity.items()]
        )

    def identity(self) -> dict[str, Any]:
        """What `bind` tied the run to."""
        return {name: json.loads(value) for name, value in self._db.execute("SELECT name, value FROM run")}

    def get(self, kind: str, config: Json) -> Json | None:
        """The result of an evaluation that was finished before, or None."""
        row = self._db.execute("SELECT result FROM evaluations WHERE key = ?", (_key(kind, config),)).fetchone()
        found: Json | None = None if row is None else json.loads(row[0])
        return found

    def get_or_run(self, kind: str, config: Json, run: Callable[[], Json]) -> Json:
        """The stored result of (kind, config); computed and stored first if there is none."""
        stored = self.get(kind, config)
        if stored is not None:
            return stored
        start = time.perf_counter()
        result = run()
        self.put(kind, config, result, time.perf_counter() - start)
        fresh: Json = json.loads(json.dumps(result))  # as it will be read next time
        return fresh

    def put(self, kind: str, config: Json, result: Json, seconds: float) -> None:
        """Keep what an evaluation gave; the first result of (kind, config) stays.

        Raises:
            BitqError: the disk is full or the file cannot be written.
        """
        row = (
            _key(kind, config),
            kind,
            json.dumps(config),
            json.dumps(result),
            seconds,
            time.time(),
            json.dumps(versions()),
        )
        self._write("INSERT OR IGNORE INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?)", [row])

    def _write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        try:
            with self._db:
                self._db.executemany(statement, rows)
        except sqlite3.OperationalError as error:
            raise self._cannot_write(error) from None

    def _cannot_write(self, error: Exception) -> BitqError:
        return BitqError(
            f"{self.path} cannot be written ({error}); all that was finished before is kept: make room, "
            "and the same command continues"
        )

    def evaluations(self, kind: str | None = None) -> tuple[Evaluation, ...]:
        """All finished evaluations (of one kind), oldest first."""
        rows = self._db.execute(
            "SELECT kind, config, result, seconds, finished, versions FROM evaluations"
            " WHERE ? IS NULL OR kind = ? ORDER BY finished, rowid",
            (kind, kind),
        )
        return tuple(Evaluation(k, json.loads(c), json.loads(r), s, f, json.loads(v)) for k, c, r, s, f, v in rows)


def _key(kind: str, config: Json) -> str:
    content = json.dumps([kind, config], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def _prepare(db: sqlite3.Connection) -> None:
    """Make the tables, or bring those of an earlier version up to date."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    if db.execute("PRAGMA user_version").fetchone() == (_WITHOUT_VERSIONS,):
        with db:
            db.execute("ALTER TABLE evaluations ADD COLUMN versions TEXT NOT NULL DEFAULT '{}'")
            db.execute("PRAGMA user_version = 2")
    db.executescript(_SCHEMA)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep a folder locked, where there are locks; the system lets it go when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BitqError(
                f"another search is at work in {folder}; wait for it, or give another folder with --run"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


@cache
def versions() -> dict[str, str]:
    """Versions that results depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("bitq", "torch", "numpy")}
