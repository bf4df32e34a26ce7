"""SQLite files from outside: opened so that nothing in them can act, and every failure of theirs told in one sentence.

A schema is a program: views, triggers, virtual tables and generated columns compute when a table is read or written. So
a file must have the very tables that its owner wrote, and nothing else, before a row of it is touched.
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bitq.errors import BitqError
from bitq.outside import opened_outside

MOST_BYTES, MOST_LOG_BYTES, MOST_ENTRY_BYTES = 1 << 30, 1 << 28, 1 << 26
"""Of a file, of what SQLite keeps beside it, and of one entry."""

BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a file while it is open, or after a kill."""

_MAGIC = b"SQLite format 3\0"
_WAIT_SECONDS = 10.0
_TICK = 10_000  # steps of SQLite's machine between two looks
_TICKS_TO_OPEN, _TICKS_TO_ASK = 5, 40_000  # a schema of ours takes less than one; 400 million steps, some seconds

Schema = Mapping[str, Sequence[str]]
"""By the name of each table, the statements that may have made it."""


class Database:
    """An open file. Errors are those of `told`, beside what each says. A context manager.

    Args:
        path: of a file that `check` found right, or of none.
        options: how it is opened, as SQLite's URI has it: mode=ro, mode=rwc, mode=ro&immutable=1.
    """

    def __init__(self, path: Path, options: str) -> None:
        self.path, self._left = path, 0
        with told(path):
            self.connection = sqlite3.connect(f"{path.resolve().as_uri()}?{options}", _WAIT_SECONDS, uri=True)
            try:
                self.connection.text_factory = bytes  # what is no UTF-8 is found where an entry is read
                self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_ENTRY_BYTES)
                self.connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
                self.connection.set_progress_handler(self._tick, _TICK)
                self._left = _TICKS_TO_OPEN
                self.connection.execute("PRAGMA trusted_schema = OFF")
                self.connection.execute("PRAGMA cell_size_check = ON")
            except BaseException:
                self.connection.close()
                raise

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def version(self, schema: Schema, newest: int) -> int:
        """Its user_version, once it is known that it has tables of this schema and nothing else; 0 if it has none.

        Raises:
            BitqError: another file, or one of a newer version.
        """
        with told(self.path):
            ((version,),) = self.connection.execute("PRAGMA user_version").fetchall()
            if version > newest:
                raise BitqError(
                    f"{self.path} was written by a newer version of bitq (its format is {version}, this version knows "
                    f"{newest}); it is left as it is: update bitq, or give another run folder"
                )
            rows = self.connection.execute("SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master").fetchall()
        if version < 0 or not all(_is_of(row, schema) for row in rows):
            raise _other(self.path)
        self._left = _TICKS_TO_ASK
        return int(version)

    def check_pages(self) -> None:
        """Raise BitqError if the file's pages do not fit together."""
        if self.ask("PRAGMA quick_check(1)") != [(b"ok",)]:
            raise damaged(self.path, "its pages do not fit together")

    def ask(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """The rows of an answer."""
        return list(self.each(statement, values))

    def each(self, statement: str, values: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
        """The rows of an answer, one in memory at a time."""
        with told(self.path):
            self._left = _TICKS_TO_ASK
            yield from self.connection.execute(statement, values)

    def write(self, statement: str, rows: Collection[tuple[object, ...]]) -> None:
        """Do a statement with each of some rows, with all or with none."""
        with told(self.path):
            self._left = _TICKS_TO_ASK
            with self.connection:
                self.connection.executemany(statement, rows)

    def _tick(self) -> bool:
        """Whether SQLite shall stop."""
        self._left -= 1
        return self._left < 0


def check(path: Path) -> bool:
    """Whether there is a database at a path to be opened; False if there is no file or an empty one.

    Raises:
        BitqError: what is there, or beside it, is no regular file, too large, or no database.
    """
    if not os.path.lexists(path):
        return False
    with opened_outside(path, MOST_BYTES, "a results store") as file:
        begin = file.read(len(_MAGIC))
    for beside in neighbours(path):
        with suppress(FileNotFoundError):  # whoever had it open may have closed it
            found = beside.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_LOG_BYTES:
                raise BitqError(
                    f"{beside} must be a regular file of at most {MOST_LOG_BYTES} bytes, and no link, as what SQLite "
                    "keeps beside a results store is; remove it"
                )
    if begin not in (b"", _MAGIC):
        raise _other(path)
    return bool(begin)


def neighbours(path: Path) -> tuple[Path, ...]:
    """What SQLite may keep beside a file."""
    real = path.resolve()
    return tuple(real.with_name(real.name + end) for end in BESIDE)


def reading(path: Path) -> Database:
    """A database that `check` found, to be read and not changed, not even where nobody may write."""
    log, _, journal = neighbours(path)
    if not log.exists() and not journal.exists():  # nobody has it open, and nothing is left to be taken over
        return Database(path, "mode=ro&immutable=1")
    try:
        with Database(path, "mode=ro") as database:
            database.ask("PRAGMA user_version")
        return Database(path, "mode=ro")
    except BitqError as error:
        if error.__cause__ is None or not _named(error.__cause__, _FORBIDDEN):
            raise
        if any(each.exists() and each.stat().st_size for each in (log, journal)):
            raise BitqError(
                f"{path} was not closed by the search that wrote it, and to be read it must be written, which this "
                f"user may not in {path.parent}; copy the folder and give the copy"
            ) from error
    return Database(path, "mode=ro&immutable=1")


_FORBIDDEN = ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")
_FULL = ("SQLITE_FULL", "SQLITE_IOERR")


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Tell SQLite's failures inside in one sentence.

    Raises:
        BitqError: the disk is full, the file busy or not to be written, or what it holds is damaged.
    """
    try:
        yield
    except sqlite3.ProgrammingError:  # a mistake of ours
        raise
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _sentence(path, error) from error


def _sentence(path: Path, error: Exception) -> BitqError:
    kept = "all that was finished before is kept"
    if _named(error, _FULL):
        full = "the disk is full" if _named(error, _FULL[:1]) else "the disk fails, or is full"
        return BitqError(f"{path} cannot be written: {full}; {kept}: make room, and the same command continues")
    if _named(error, _BUSY):
        return BitqError(f"{path} is busy: another process is at work in it; wait for that, and run the command again")
    if _named(error, _FORBIDDEN):
        return BitqError(
            f"{path} may not be written by this user; {kept}: change the permissions of it and of its folder, or give "
            "another run folder"
        )
    if _named(error, ("SQLITE_NOTADB",)):
        return _other(path)
    if _named(error, ("SQLITE_INTERRUPT",)):
        return damaged(path, "reading it does not come to an end")
    if _named(error, ("SQLITE_TOOBIG",)):
        return damaged(path, f"it has an entry of more than {MOST_ENTRY_BYTES} bytes")
    return damaged(path, "its pages do not fit together")


def damaged(path: Path, what: str) -> BitqError:
    """What is told of a file that is not as it was written."""
    return BitqError(
        f"{path} is damaged: {what}; `bitq report {path.parent} --salvage` keeps all that can still be read, and the "
        "search command then does the rest again"
    )


def _other(path: Path) -> BitqError:
    return BitqError(f"{path} is not a results store; give another run folder")


def _named(error: BaseException, begins: tuple[str, ...]) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(begins)


def _is_of(row: tuple[object, ...], schema: Schema) -> bool:
    """Whether an entry of SQLite's own table is one of the schema's tables, stored as such, or the index of its key."""
    kind, name, table, page, statement = (
        each.decode(errors="replace") if isinstance(each, bytes) else each for each in row
    )
    if not isinstance(page, int) or page < 2 or table not in schema:
        return False
    if kind == "index":
        return name == f"sqlite_autoindex_{table}_1" and statement is None
    return kind == "table" and name == table and plain(str(statement)) in map(plain, schema[str(name)])


def plain(statement: str) -> str:
    """A statement without comments and superfluous spaces."""
    words = " ".join(re.sub(r"--[^\n]*", " ", statement).split())
    return re.sub(r" ?([(),]) ?", r"\1", words)
