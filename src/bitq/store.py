"""The results store: every finished evaluation of a run, in SQLite, so that nothing is measured twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    finished REAL NOT NULL     -- Unix time
);
CREATE TABLE IF NOT EXISTS run (name TEXT PRIMARY KEY, value TEXT NOT NULL);
PRAGMA user_version = 1;
"""

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """One finished evaluation: what was evaluated, what came out, how long it took (seconds)."""

    kind: str
    config: Json
    result: Json
    seconds: float
    finished: float


class Store:
    """The evaluations of one run folder, durable as soon as they are finished.

    Use as a context manager. Raises BitqError if the file is not a results store.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        try:
            self._db = sqlite3.connect(path, timeout=30)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise BitqError(f"{path} is not a results store ({error}); give another run folder") from None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

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
        with self._db:
            self._db.executemany(
                "INSERT OR IGNORE INTO run VALUES (?, ?)",
                [(name, json.dumps(value)) for name, value in identity.items()],
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
        row = (
            _key(kind, config),
            kind,
            json.dumps(config),
            json.dumps(result),
            time.perf_counter() - start,
            time.time(),
        )
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO evaluations VALUES (?, ?, ?, ?, ?, ?)", row)
        fresh: Json = json.loads(json.dumps(result))  # as it will be read next time
        return fresh

    def evaluations(self, kind: str | None = None) -> tuple[Evaluation, ...]:
        """All finished evaluations (of one kind), oldest first."""
        rows = self._db.execute(
            "SELECT kind, config, result, seconds, finished FROM evaluations"
            " WHERE ? IS NULL OR kind = ? ORDER BY finished, rowid",
            (kind, kind),
        )
        return tuple(Evaluation(k, json.loads(c), json.loads(r), s, f) for k, c, r, s, f in rows)


def _key(kind: str, config: Json) -> str:
    content = json.dumps([kind, config], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()
