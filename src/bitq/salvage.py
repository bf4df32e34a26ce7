"""What can still be read of a damaged results store, in a fresh one; the damaged file is kept aside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from bitq.database import Database, check, neighbours, reading
from bitq.errors import BitqError
from bitq.store import NEWEST, SCHEMA, Evaluation, Store, columns, evaluation, fact, held

MOST_ROWS = 1_000_000

_WALKS = tuple(
    f"SELECT rowid FROM evaluations {way} {order}"
    for order in ("ASC", "DESC")
    for way in ("NOT INDEXED ORDER BY rowid", "ORDER BY key")
)
"""Four ways to the rows, two through the table and two through its index: where one breaks off, another may go on."""


@dataclass(frozen=True)
class Salvaged:
    """What came out of a store.

    Attributes:
        kept: evaluations in the store now.
        lost: those that could not be read, or were not as they had been written, as far as they are known.
        aside: where the damaged file lies now; None if nothing was wrong with it.
    """

    kept: int
    lost: int
    aside: Path | None


def salvage(path: Path, valid: Callable[[Evaluation], None]) -> Salvaged:
    """Put a fresh store with every evaluation that can still be read and is valid in the place of a damaged one.

    Args:
        path: of the store. One with nothing wrong is left as it is.
        valid: raises BitqError for an evaluation that is none.

    Raises:
        BitqError: no store, one of a newer version, one at work, or one that does not say any more what its run was
            about: results that may be of another network are not kept.
    """
    with held(path.parent):
        if not check(path):
            raise BitqError(f"there is no results store at {path}; give the folder of a search")
        fresh = path.with_name(f".{path.name}.salvaged")
        _remove(fresh)  # of a salvage that was stopped
        try:
            with reading(path) as database:
                facts = _facts(database)
                with Store(fresh) as store:
                    store.bind(facts or {})
                    lost = _copied(database, valid, store)
                    kept = store.count()
                whole = facts is not None and not lost and _is_whole(database)
            if whole:
                return Salvaged(kept, 0, None)
            if not facts or "identity" not in facts:
                raise BitqError(
                    f"{path} does not say any more which network and data its results are of, so none of them can be "
                    "used; search again in another run folder"
                )
            return Salvaged(kept, lost, _swap(path, fresh))
        finally:
            _remove(fresh)


def _facts(database: Database) -> dict[str, object] | None:
    """What a run is about; None if a part of that is lost, since what is left may be of any run."""
    try:
        database.version(SCHEMA, NEWEST)
    except BitqError as error:
        if error.__cause__ is None:
            raise
        raise BitqError(
            f"nothing of {database.path} can be read any more; remove it, or search again in another run folder"
        ) from error
    try:
        return dict(map(fact, database.each("SELECT name, value FROM run")))
    except BitqError:
        return None


def _copied(database: Database, valid: Callable[[Evaluation], None], store: Store) -> int:
    """Copy the evaluations that can be read and are valid; how many others there are, as far as they are known."""
    version, rows, lost = database.version(SCHEMA, NEWEST), set[object](), 0
    for walk in _WALKS:
        with suppress(BitqError):
            for (row,) in database.each(walk):
                rows.add(row)
                if len(rows) >= MOST_ROWS:
                    break
    for row in sorted(rows, key=str):
        statement = f"SELECT {columns(version)} FROM evaluations NOT INDEXED WHERE rowid = ?"
        try:
            each = evaluation(database.ask(statement, (row,))[0])
            valid(each)
        except (BitqError, IndexError):
            lost += 1
        else:
            store.restore(each)
    return lost


def _is_whole(database: Database) -> bool:
    try:
        return database.ask("PRAGMA integrity_check(1)") == [(b"ok",)]
    except BitqError:
        return False


def _swap(path: Path, fresh: Path) -> Path:
    """Keep the damaged file, and what SQLite has beside it, under another name."""
    names = (path.with_name(f"{path.stem}.damaged-{number}{path.suffix}") for number in count(1))
    aside = next(name for name in names if not any(map(os.path.lexists, (name, *neighbours(name)))))
    try:
        shutil.copy2(path, aside)
        for old, kept in zip(neighbours(path), neighbours(aside), strict=True):
            if old.exists():
                shutil.copy2(old, kept)
        for old in neighbours(path):  # or they would be taken for the fresh file's
            old.unlink(missing_ok=True)
        fresh.replace(path)
    except OSError as error:
        raise BitqError(f"{aside} cannot be written: make room in {path.parent}, and give the command again") from error
    return aside


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)  # a link first, or what is beside its end would be removed
    for beside in neighbours(path):
        beside.unlink(missing_ok=True)
