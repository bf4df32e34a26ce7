"""What can be read of a damaged results store is kept, what cannot is told, and nothing else is made of it."""

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitq.database import neighbours
from bitq.errors import BitqError
from bitq.salvage import salvage
from bitq.store import NEWEST, Store

COUNT = 60


def fill(path, count=COUNT):
    """A store of so many evaluations, each with its number and some padding, on a few dozen pages."""
    with Store(path) as store:
        store.bind({"identity": 2, "network": "demo"})
        for number in range(count):
            store.put("square", {"number": number}, {"square": number * number, "padding": "x" * 700}, 0.5)


@pytest.fixture
def path(tmp_path):
    fill(tmp_path / "results.sqlite")
    return tmp_path / "results.sqlite"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "results.sqlite"
    fill(path)
    return path.read_bytes()


def is_square(each):
    if each.result["square"] != each.config["number"] ** 2:
        raise BitqError("no square")


def anything(each):
    """Everything is valid."""


def numbers(path):
    with Store(path, read_only=True) as store:
        return [each.config["number"] for each in store.evaluations()]


def test_a_whole_store_is_left_as_it_is(path):
    before = path.read_bytes()
    assert salvage(path, is_square).__dict__ == {"kept": COUNT, "lost": 0, "aside": None}
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_rows_that_are_wrong_are_lost_and_all_others_stay_as_they_were(path):
    with Store(path) as store:
        before = store.evaluations()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE evaluations SET result = '{' WHERE rowid = 7")
        database.execute("UPDATE evaluations SET seconds = -1 WHERE rowid = 9")
        database.execute("UPDATE evaluations SET result = '{\"square\": 1}' WHERE rowid = 11")
    database.close()
    harmed = path.read_bytes()
    found = salvage(path, is_square)
    assert (found.kept, found.lost) == (COUNT - 3, 3)
    assert found.aside == path.with_name("results.damaged-1.sqlite")
    assert found.aside.read_bytes() == harmed
    with Store(path) as store:
        lost = {6, 8, 10}
        assert store.evaluations() == tuple(each for each in before if each.config["number"] not in lost)
        assert store.identity() == {"identity": 2, "network": "demo"}
    assert salvage(path, is_square).aside is None
    assert {each.name for each in path.parent.iterdir()} == {path.name, found.aside.name}


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_is_overwritten_no_row_is_made_up(content, tmp_path_factory, data):
    """Rows that come out are those that went in, or a result that is still valid; the store works again."""
    path = tmp_path_factory.mktemp("harmed") / "results.sqlite"
    harmed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(100, len(content) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=100) | st.just(bytes(4096)))
        harmed[at : at + len(piece)] = piece
    path.write_bytes(bytes(harmed[: len(content)]))
    try:
        found = salvage(path, is_square)
    except BitqError:
        assert path.read_bytes() == bytes(harmed[: len(content)])
        return
    kept = numbers(path)
    assert len(kept) == len(set(kept)) == found.kept
    assert set(kept) <= set(range(COUNT))
    fill(path)
    assert sorted(numbers(path)) == list(range(COUNT))


def test_one_page_lost_is_not_all_lost(content, tmp_path):
    path = tmp_path / "results.sqlite"
    kept = []
    for page in range(3, len(content) // 4096):
        path.write_bytes(content[: 4096 * page] + bytes(4096) + content[4096 * (page + 1) :])
        try:
            kept.append(salvage(path, is_square).kept)
        except BitqError:  # the page with what the run is about
            kept.append(0)
    assert sorted(kept)[3] > COUNT // 2  # three pages hold what leads to others, or what the run is about
    assert max(kept) < COUNT + 1


def test_what_is_in_the_log_is_kept_too(path, tmp_path):
    """As a kill leaves it: rows in the log alone."""
    copy = tmp_path / "killed" / "results.sqlite"
    copy.parent.mkdir()
    with Store(path) as store:
        store.put("square", {"number": COUNT}, {"square": COUNT**2}, 0.5)
        for old, new in zip((path, *neighbours(path)), (copy, *neighbours(copy)), strict=True):
            if old.exists() and not old.name.endswith("-shm"):
                new.write_bytes(old.read_bytes())
    with sqlite3.connect(copy) as database:
        database.execute("UPDATE evaluations SET result = '{' WHERE rowid = 1")
    database.close()
    assert salvage(copy, is_square).kept == COUNT
    assert sorted(numbers(copy)) == list(range(1, COUNT + 1))


def test_results_of_an_unknown_run_are_not_kept(path):
    with sqlite3.connect(path) as database:
        database.execute("UPDATE run SET value = '{'")
    database.close()
    before = path.read_bytes()
    with pytest.raises(BitqError, match="does not say any more which network and data"):
        salvage(path, anything)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_what_lies_where_a_file_goes_is_not_overwritten(path):
    """Links in a hostile folder lead nowhere."""
    mine = path.with_name("mine")
    mine.write_text("mine")
    for name in ("results.damaged-1.sqlite", "results.damaged-2.sqlite-wal", ".results.sqlite.salvaged"):
        path.with_name(name).symlink_to(mine)
    path.with_name("mine-wal").write_text("mine, too")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE evaluations SET result = '{' WHERE rowid = 1")
    database.close()
    assert salvage(path, is_square).aside == path.with_name("results.damaged-3.sqlite")
    assert (mine.read_text(), path.with_name("mine-wal").read_text()) == ("mine", "mine, too")


def test_no_store_a_newer_one_and_one_at_work_are_refused(path):
    with pytest.raises(BitqError, match="there is no results store at"):
        salvage(path.with_name("other.sqlite"), anything)
    with Store(path, alone=True), pytest.raises(BitqError, match="another search is at work"):
        salvage(path, anything)
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {NEWEST + 1}")
    database.close()
    before = path.read_bytes()
    with pytest.raises(BitqError, match="newer version"):
        salvage(path, anything)
    assert path.read_bytes() == before
