"""The results store: every finished evaluation of a run, in SQLite, so that nothing is measured twice.

A store may come from anywhere: `bitq.database` opens it, and every row is checked where it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from bitq.database import MOST_ENTRY_BYTES, Database, Schema, check, damaged, neighbours, reading
from bitq.errors import BitqError, shortened
from bitq.outside import unreadable
from bitq.validation import parsed

_EVALUATIONS = """CREATE TABLE evaluations (
    key TEXT PRIMARY KEY,      -- digest of kind and configuration
    kind TEXT NOT NULL,
    config TEXT NOT NULL,      -- JSON: all that the result depends on
    result TEXT NOT NULL,      -- JSON
    seconds REAL NOT NULL,
    finished REAL NOT NULL     -- Unix time
{})"""
_VERSIONS = "versions TEXT NOT NULL DEFAULT '{}'"  # JSON: of what computed it
_RUN = "CREATE TABLE run (name TEXT PRIMARY KEY, value TEXT NOT NULL)"
SCHEMA: Schema = {"evaluations": (_EVALUATIONS.format(f", {_VERSIONS}"), _EVALUATIONS.format("")), "run": (_RUN,)}
"""The tables as this version makes them first, then as earlier ones did."""

WITHOUT_VERSIONS, NEWEST = 1, 2
"""The schema before evaluations told versions, and this version's."""

MOST_VALUES, MOST_VALUES_OF_ALL, MOST_TEXT_OF_ALL = 2_000_000, 5_000_000, 1 << 28
"""JSON values in one row; in all, and the bytes of their text. Those of a large network's scores are some 100,000."""

_LATEST, _LONGEST = 2.5e11, 1e12  # seconds: dates have four digits, no evaluation takes 30,000 years

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
        read_only: change nothing, neither the file nor its folder.

    Raises:
        BitqError: the file is not a results store, damaged, busy, or of a newer version; the disk is full, or another
            process holds the folder. What is refused is left as it was.
    """

    def __init__(self, path: Path, alone: bool = False, read_only: bool = False) -> None:
        self.path = path
        if not read_only:
            _make_folder(path.parent)
        with ExitStack() as taken:
            if alone:
                taken.enter_context(held(path.parent))
            known = check(path)
            if not known and read_only:
                raise BitqError(f"{path} is not a results store; give the folder of a search")
            journal = neighbours(path)[-1]
            if known and alone and not journal.exists():  # one that is there has to be taken over first
                with reading(path) as database:  # so that what is refused is not even touched
                    database.version(SCHEMA, NEWEST)
            self._db = taken.enter_context(reading(path) if read_only else Database(path, "mode=rwc"))
            self._written_by = self._db.version(SCHEMA, NEWEST)
            self._db.check_pages()
            if not read_only:
                self._written_by = _prepare(self._db)
            elif not self._written_by:
                raise BitqError(f"{path} is not a results store: it has no tables; run the search command again")
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
        known = self.identity()
        for name, value in identity.items():
            if name in known and known[name] != json.loads(json.dumps(value)):
                raise BitqError(
                    f"run folder {self.path.parent} was made with {name} = {_short(known[name])}, not {_short(value)}; "
                    "give another folder with --run"
                )
        self._db.write(
            "INSERT OR IGNORE INTO run VALUES (?, ?)", [(name, json.dumps(value)) for name, value in identity.items()]
        )

    def identity(self) -> dict[str, Any]:
        """What `bind` tied the run to."""
        found = {}
        for row in self._db.each("SELECT name, value FROM run"):
            with _row_told(self.path):
                name, value = fact(row)
                found[name] = value
        return found

    def get(self, kind: str, config: Json) -> Json | None:
        """The result of an evaluation that was finished before, or None.

        Raises:
            BitqError: what is stored of it is damaged.
        """
        rows = self._db.ask(f"SELECT {columns(self._written_by)} FROM evaluations WHERE key = ?", (_key(kind, config),))
        with _row_told(self.path):
            return evaluation(rows[0]).result if rows else None

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
        self.restore(Evaluation(kind, config, result, seconds, time.time(), versions()))

    def restore(self, each: Evaluation) -> None:
        """Keep an evaluation as it was stored elsewhere; errors as of `put`."""
        texts = (json.dumps(each.config), json.dumps(each.result))
        for text in texts:
            if len(text) >= MOST_ENTRY_BYTES // 2 or _about(text.encode()) >= MOST_VALUES:
                raise BitqError(f"a result of kind {each.kind!r} is too large to be kept: {len(text)} bytes in JSON")
        row = (_key(each.kind, each.config), each.kind, *texts, each.seconds, each.finished, json.dumps(each.versions))
        self._db.write("INSERT OR IGNORE INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?)", [row])

    def count(self) -> int:
        """How many evaluations there are."""
        ((found,),) = self._db.ask("SELECT count(*) FROM evaluations")
        return int(found)  # type: ignore[call-overload, no-any-return]

    def evaluations(self, kind: str | None = None) -> tuple[Evaluation, ...]:
        """All finished evaluations (of one kind), oldest first.

        Raises:
            BitqError: a row that is damaged, or more than a run holds.
        """
        found, values, size = [], 0, 0
        for row in self._db.each(
            f"SELECT {columns(self._written_by)} FROM evaluations WHERE ? IS NULL OR kind = ? ORDER BY finished, rowid",
            (kind, kind),
        ):
            texts = [each for each in row if isinstance(each, bytes)]
            values += sum(map(_about, texts))
            size += sum(map(len, texts))
            if values > MOST_VALUES_OF_ALL or size > MOST_TEXT_OF_ALL:
                raise BitqError(
                    f"{self.path} holds more than {MOST_VALUES_OF_ALL} values or {MOST_TEXT_OF_ALL >> 20} MiB of them, "
                    "which no run has; give another run folder"
                )
            with _row_told(self.path):
                found.append(evaluation(row))
        return tuple(found)


def columns(version: int) -> str:
    """Those of the table of evaluations, as `evaluation` takes them."""
    made_with = "versions" if version > WITHOUT_VERSIONS else "CAST('{}' AS TEXT)"
    return f"key, kind, config, result, seconds, finished, {made_with}"


def evaluation(row: tuple[object, ...]) -> Evaluation:
    """A row of the table of evaluations (its `columns`), as it was written.

    Raises:
        BitqError: it was not written so; says what is wrong.
    """
    key, kind, config, result, seconds, finished, made_with = row
    found = Evaluation(
        _text(kind, "its kind"),
        _entries(config, "its configuration"),
        _entries(result, "its result"),
        _seconds(seconds, "its duration", _LONGEST),
        _seconds(finished, "the time of its end", _LATEST),
        _entries(made_with, "its versions"),
    )
    if _key(found.kind, found.config) != _text(key, "its key"):
        raise BitqError("its key is not that of its kind and configuration")
    return found


def fact(row: tuple[object, ...]) -> tuple[str, Any]:
    """A row of the table that says what a run is about; errors as of `evaluation`."""
    name, value = row
    return _text(name, "its name"), _json(value, "its value")


def _about(text: bytes) -> int:
    """About how many values a JSON text has, and no fewer but one."""
    return text.count(b",") + 2 * (text.count(b"[") + text.count(b"{"))


def _text(value: object, what: str) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else _wrong(f"{what} is no text")
    except UnicodeDecodeError:
        return _wrong(f"{what} is no text")


def _json(value: object, what: str) -> Any:
    text = _text(value, what)
    try:
        return parsed(text.encode(), MOST_VALUES, nan=True)
    except BitqError as error:
        _wrong(f"{what} {error}")


def _entries(value: object, what: str) -> Json:
    found = _json(value, what)
    return found if isinstance(found, dict) else _wrong(f"{what} has no named entries")


def _seconds(value: object, what: str, most: float) -> float:
    fits = isinstance(value, float) and 0 <= value <= most
    return value if fits else _wrong(f"{what} is no number of seconds")  # type: ignore[return-value]


def _wrong(what: str) -> NoReturn:
    raise BitqError(what)


@contextmanager
def _row_told(path: Path) -> Iterator[None]:
    try:
        yield
    except BitqError as error:
        raise damaged(path, f"of one of its entries, {error}") from None


def _short(value: object) -> str:
    return shortened(repr(value), 100)


def _key(kind: str, config: Json) -> str:
    content = json.dumps([kind, json.loads(json.dumps(config))], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def _prepare(database: Database) -> int:
    """Make the tables, or bring those of an earlier version up to date; the version that it has then."""
    database.ask("PRAGMA journal_mode = WAL")
    database.ask("PRAGMA synchronous = FULL")
    database.ask("BEGIN IMMEDIATE")
    names = [name for _, name, *_ in database.ask("PRAGMA table_xinfo(evaluations)")]
    if not names:
        database.ask(SCHEMA["evaluations"][0])
    elif b"versions" not in names:
        database.ask(f"ALTER TABLE evaluations ADD COLUMN {_VERSIONS}")
    if not database.ask("PRAGMA table_xinfo(run)"):
        database.ask(_RUN)
    database.ask(f"PRAGMA user_version = {NEWEST}")
    database.ask("COMMIT")
    return NEWEST


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if folder.exists() or isinstance(error, NotADirectoryError):
            raise BitqError(f"{folder} is no folder; give another one with --run") from None
        raise BitqError(f"{folder} cannot be made by this user; give another folder with --run") from None


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a folder locked, where there are locks; the system lets it go when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise unreadable(folder, "the folder of a run", error) from error
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
