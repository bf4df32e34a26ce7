"""A run's folder: its results store (SQLite) byte by byte and row by row, and its files changed for others."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

from fuzzing import MOST_BYTES, Input, Kind, UnchangedError
from fuzzing.seeds import FEW, SEARCH, take
from fuzzing.values import (
    FLOATS,
    INTEGERS,
    TEXTS,
    change_json,
    change_tree,
    change_word,
    damage,
    json_text,
    odd,
    special,
)

STORE = "run/results.sqlite"
NAMED = ("--network", "net:make")
EVALUATED = ("evaluate", "run", "--data", "data.npz", *NAMED, "--json")
_MOST_STEPS = 10**6  # of SQLite's machine
FILES = ("plan.json", "weights.safetensors", "results.sqlite", "report.html", "checkpoints", "results.sqlite-wal")


def make(rng: Random, seeds: Path, folder: Path) -> list[str]:
    """A command on a run's folder."""
    take(seeds, folder, "run", "net.py", "payload.py", "net.safetensors", "data.npz", "d.toml")
    return list(
        rng.choice(
            (
                EVALUATED,
                ("report", "run", "--json"),
                ("report", "run", "--alpha", "0.1"),
                (*SEARCH, "--data", "data.npz", *FEW, "--json"),
            )
        )
    )


def _page(rng: Random, given: Input) -> str:
    """Damage where SQLite has its structure: headers of the file and of its pages."""
    pages = max(len(given.content(STORE)) // 4096, 1)
    with given.path(STORE).open("r+b") as file:
        at = min(rng.randrange(pages), pages - 1) * 4096 + rng.randrange(rng.choice((16, 100, 4096)))
        span = rng.choice((1, 4, 100, 4096))
        file.seek(at)
        file.write(rng.randbytes(span) if rng.random() < 0.7 else rng.choice((b"\0", b"\xff")) * span)
    return f"store: {span} bytes at {at}"


def _row(rng: Random, given: Input) -> str:
    """A value of a row for another, or JSON in it with one thing changed."""
    return _sql(given, lambda db: _changed_row(rng, db))


def _changed_row(rng: Random, db: sqlite3.Connection) -> str:
    table = rng.choice(("evaluations", "evaluations", "evaluations", "run"))
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    rows = db.execute(f"SELECT rowid, * FROM {table} ORDER BY rowid").fetchall()
    if not rows:
        raise UnchangedError
    rowid, *values = rng.choice(rows)
    if rng.random() < 0.15:
        db.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))
        return f"{table}: row {rowid} left out"
    place = rng.randrange(len(columns))
    new, how = values[place], "the same"
    try:
        tree, how = change_tree(rng, json.loads(values[place]))
        new = json_text(tree).decode(errors="replace")
    except (ValueError, TypeError, RecursionError):
        new = rng.choice((None, *INTEGERS[:15], *FLOATS, *TEXTS[:-1], "{", "[]", "null", b"\xff\0", b"{}", "x" * 10**6))
        how = f"{new!r:.60}"
    if rng.random() < 0.15:
        new = rng.choice((odd_text(rng), b"\xff\xfe", None, 1, 1.5, "{", "[]", "null", '{"a": NaN}'))
        how = f"{new!r:.60}"
    db.execute(f"UPDATE {table} SET {columns[place]} = ? WHERE rowid = ?", (new, rowid))
    return f"{table}.{columns[place]} of row {rowid}: {how}"


def odd_text(rng: Random) -> str:
    """JSON of any odd value."""
    return json_text(odd(rng)).decode(errors="replace")


_RECURSIVE = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT"
_STATEMENTS = (
    "DROP TABLE evaluations",
    "DROP TABLE run",
    "DELETE FROM run",
    "DELETE FROM evaluations",
    "ALTER TABLE evaluations RENAME TO other",
    "ALTER TABLE evaluations RENAME COLUMN result TO other",
    "ALTER TABLE evaluations DROP COLUMN versions",
    "ALTER TABLE evaluations ADD COLUMN other TEXT",
    "ALTER TABLE run RENAME COLUMN value TO other",
    "DROP TABLE evaluations; CREATE TABLE evaluations (a)",
    "DROP TABLE evaluations; CREATE TABLE evaluations (key, kind, config, result, seconds, finished, versions)",
    f"DROP TABLE evaluations; CREATE VIEW evaluations AS {_RECURSIVE} n AS key, n AS kind, n AS config, n AS result, "
    "n AS seconds, n AS finished, n AS versions FROM c",
    f"DROP TABLE run; CREATE VIEW run AS {_RECURSIVE} 'a' || n AS name, '1' AS value FROM c",
    "DROP TABLE evaluations; CREATE VIEW evaluations AS SELECT * FROM evaluations",
    "DROP TABLE run; CREATE VIEW run AS SELECT 'network' AS name, hex(zeroblob(300000000)) AS value",
    "CREATE TRIGGER t AFTER INSERT ON evaluations BEGIN DELETE FROM evaluations; END",
    "CREATE TRIGGER t BEFORE INSERT ON evaluations BEGIN SELECT RAISE(ABORT, 'no'); END",
    "CREATE TRIGGER t AFTER INSERT ON evaluations BEGIN UPDATE evaluations SET result = '{}'; END",
    "CREATE TABLE other AS SELECT * FROM evaluations",
    "UPDATE evaluations SET kind = 'other'",
    "UPDATE evaluations SET result = '{}'",
    "UPDATE evaluations SET config = '{}'",
    "UPDATE evaluations SET result = CAST(result AS BLOB)",
    "UPDATE evaluations SET seconds = 9e999, finished = -9e999",
    "UPDATE evaluations SET finished = 1e300",
    "UPDATE evaluations SET seconds = 'a', finished = 'b'",
    "UPDATE evaluations SET key = key || 'x'",
    "UPDATE evaluations SET result = (SELECT result FROM evaluations ORDER BY rowid DESC)",
    "INSERT INTO evaluations SELECT key || 'x', kind, config, result, seconds, finished, versions FROM evaluations",
    "PRAGMA user_version = 0",
    "PRAGMA user_version = 1",
    "PRAGMA user_version = 3",
    "PRAGMA user_version = -1",
    "PRAGMA user_version = 2147483647",
    "PRAGMA application_id = 7",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = 'CREATE TABLE evaluations (key'",
    "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET rootpage = 2",
    "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET rootpage = 999999",
    "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET name = 'x', tbl_name = 'x'",
)


def _statement(rng: Random, given: Input) -> str:
    statement = rng.choice(_STATEMENTS)
    return _sql(given, lambda db: db.executescript(statement) and statement)


def _sql(given: Input, act: object) -> str:
    given.content(STORE)
    try:
        with closing(sqlite3.connect(given.path(STORE))) as db:
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_BYTES)
            db.set_progress_handler(lambda: 1, _MOST_STEPS)  # an earlier change may have made a view without an end
            told = act(db)  # type: ignore[operator]
            db.commit()
            return f"store: {told:.150}"
    except (sqlite3.Error, OverflowError, UnicodeError) as error:
        raise UnchangedError from error


def _swap(rng: Random, given: Input) -> str:
    """One file of the folder under the name of another."""
    run = given.folder / "run"
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and not path.is_symlink()]
    if len(files) < 2:
        raise UnchangedError
    one, other = rng.sample(files, 2)
    shutil.copy(one, other)
    return f"{other.name} is {one.name}"


def _special(rng: Random, given: Input) -> str:
    name = f"run/{rng.choice(FILES)}"
    if rng.random() < 0.3:
        names = sorted(path.name for path in (given.folder / "run" / "checkpoints").glob("*"))
        name = f"run/checkpoints/{rng.choice(names)}" if names else name
    return str(special(name)(rng, given))


def _damage(rng: Random, given: Input) -> str:
    files = [path for path in sorted((given.folder / "run").rglob("*")) if path.is_file() and path.suffix != ".html"]
    if not files:
        raise UnchangedError
    return str(damage(str(rng.choice(files).relative_to(given.folder)))(rng, given))


def _salvage(rng: Random, given: Input) -> str:
    if given.words[0] != "report" or "--salvage" in given.words:
        raise UnchangedError
    given.words.append("--salvage")
    return "with --salvage"


KIND = Kind(
    "run",
    make,
    (
        *(*[_page] * 4, *[_row] * 8, *[_statement] * 4, *[_damage] * 2),
        *(_swap, _special, _salvage, change_json("run/plan.json"), change_word),
    ),
)
