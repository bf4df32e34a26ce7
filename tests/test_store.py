"""The results store keeps what was finished, and only that, whatever happens."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitq.errors import BitqError
from bitq.store import MOST_VALUES, NEWEST, Store, _key

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(st.text(), json_values, max_size=4)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "folder" / "results.sqlite"


def test_nothing_is_computed_twice(path):
    calls = []

    def run():
        calls.append(1)
        return {"loss": 0.5}

    with Store(path) as store:
        assert store.get("probe", {"a": 1, "b": [2]}) is None
        assert store.get_or_run("probe", {"a": 1, "b": [2]}, run) == {"loss": 0.5}
        assert store.get_or_run("probe", {"b": [2], "a": 1}, run) == {"loss": 0.5}  # the order means nothing
    with Store(path) as store:
        assert store.get_or_run("probe", {"a": 1, "b": [2]}, run) == {"loss": 0.5}
    assert len(calls) == 1
    with Store(path) as store:
        store.get_or_run("finetune", {"a": 1, "b": [2]}, run)
        store.get_or_run("probe", {"a": 1, "b": [2, 2]}, run)
    assert len(calls) == 3


@given(kind=st.text(), config=documents, result=documents)
def test_any_json_returns_as_it_was(tmp_path_factory, kind, config, result):
    path = tmp_path_factory.mktemp("store") / "results.sqlite"
    with Store(path) as store:
        assert store.get_or_run(kind, config, lambda: result) == result
    with Store(path) as store:
        assert store.get(kind, config) == result
        (evaluation,) = store.evaluations()
        assert (evaluation.kind, evaluation.config, evaluation.result) == (kind, config, result)


def test_what_a_run_returns_is_what_the_store_gives_later(path):
    with Store(path) as store:
        first = store.get_or_run("probe", {"formats": (1, 2)}, lambda: {"pair": (3, 4)})
        assert first == store.get("probe", {"formats": [1, 2]}) == {"pair": [3, 4]}


def test_what_fails_leaves_nothing(path):
    def run():
        raise RuntimeError("diverged")

    with Store(path) as store:
        with pytest.raises(RuntimeError, match="diverged"):
            store.get_or_run("probe", {}, run)
        with pytest.raises(TypeError):
            store.get_or_run("probe", {}, lambda: {"not json": object()})
        assert store.get("probe", {}) is None
        assert store.evaluations() == ()


def test_evaluations_come_in_the_order_they_were_finished(path):
    with Store(path) as store:
        for i in (3, 1, 2):
            store.get_or_run("even" if i % 2 == 0 else "odd", {"i": i}, lambda: {})
        assert [one.config["i"] for one in store.evaluations()] == [3, 1, 2]
        assert [one.config["i"] for one in store.evaluations("odd")] == [3, 1]
        assert store.evaluations("none") == ()
        assert all(one.seconds >= 0 for one in store.evaluations())


def test_a_run_folder_belongs_to_one_run(path):
    with Store(path) as store:
        assert store.identity() == {}
        store.bind({"network": "demo", "bits": 8, "shape": (1, 28)})
    with Store(path) as store:
        store.bind({"network": "demo", "bits": 8, "shape": [1, 28]})
        store.bind({"steps": 10})
        with pytest.raises(BitqError, match=r"folder was made with bits = 8, not 16; give another folder"):
            store.bind({"network": "demo", "bits": 16})
        assert store.identity() == {"network": "demo", "bits": 8, "shape": [1, 28], "steps": 10}


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\x00" + bytes(500), b"\xff" * 8192])
def test_another_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "results.sqlite"
    path.write_bytes(content)
    with pytest.raises(BitqError, match="not a results store"):
        Store(path)
    assert path.read_bytes() == content


def test_a_folder_in_its_place_is_refused(tmp_path):
    with pytest.raises(BitqError, match="is a folder; give a results store"):
        Store(tmp_path)


KILLED = """
import sys
from pathlib import Path
from bitq.store import MOST_VALUES, NEWEST, Store, _key
with Store(Path(sys.argv[1])) as store:
    for i in range(10**6):
        store.get_or_run("probe", {"i": i}, lambda: {"square": i * i, "padding": "x" * 3000})
        print(i, flush=True)
"""


def test_what_was_finished_survives_a_kill(path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE, text=True)
    finished = [int(process.stdout.readline()) for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with Store(path) as store:
        for i in finished:
            assert store.get("probe", {"i": i})["square"] == i * i
        assert all(one.result["square"] == one.config["i"] ** 2 for one in store.evaluations())
        assert store.get_or_run("probe", {"i": -1}, lambda: {"square": 1}) == {"square": 1}


def test_a_full_disk_is_told_and_loses_nothing(path):
    with Store(path) as store:
        store.get_or_run("probe", {"i": 1}, lambda: {"square": 1})
        ((pages,),) = store._db.ask("PRAGMA page_count")
        store._db.ask(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(BitqError, match=r"results.sqlite cannot be written: the disk is full; all that"):
            store.get_or_run("probe", {"i": 2}, lambda: {"padding": "x" * 10**5})
        assert store.get("probe", {"i": 1}) == {"square": 1}
        assert store.get("probe", {"i": 2}) is None
    with Store(path) as store:
        assert store.get_or_run("probe", {"i": 2}, lambda: {"square": 4}) == {"square": 4}
        assert [one.config["i"] for one in store.evaluations()] == [1, 2]


HOLDING = """
import sys, time
from pathlib import Path
from bitq.store import MOST_VALUES, NEWEST, Store, _key
with Store(Path(sys.argv[1]), alone=True):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_search_holds_the_folder_until_it_ends_however_it_ends(path):
    process = subprocess.Popen([sys.executable, "-c", HOLDING, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(BitqError, match=r"another search is at work in .*folder; wait for it"):
        Store(path, alone=True)
    with Store(path) as reader:  # as a report while the search goes on
        assert reader.evaluations() == ()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with Store(path, alone=True) as store:
        store.get_or_run("probe", {}, lambda: {})
    with Store(path, alone=True) as store:
        assert len(store.evaluations()) == 1


def held_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files as Linux lists them")
def test_what_is_refused_holds_nothing_and_the_same_process_may_try_again(tmp_path):
    path = tmp_path / "results.sqlite"
    path.write_bytes(b"no database")
    before = held_files()
    for _ in range(3):
        with pytest.raises(BitqError, match="not a results store"):
            Store(path, alone=True)
    assert held_files() == before
    path.unlink()
    with Store(path, alone=True) as store:
        store.put("probe", {}, {"loss": 1}, 0.0)
        with pytest.raises(BitqError, match="another search is at work"):
            Store(path, alone=True)
    assert held_files() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_whatever_stops_the_opening_lets_the_folder_go(path, monkeypatch, error):
    def stop(db):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("bitq.store._prepare", stop)
        with pytest.raises(error):
            Store(path, alone=True)
    with Store(path, alone=True) as store:
        assert store.evaluations() == ()


def test_a_database_that_cannot_be_closed_lets_the_folder_go(path):
    opened = []
    thread = threading.Thread(target=lambda: opened.append(Store(path, alone=True)))
    thread.start()
    thread.join()
    with pytest.raises(sqlite3.ProgrammingError, match="thread"), opened[0]:
        pass
    with Store(path, alone=True) as store:
        assert store.evaluations() == ()


def test_evaluations_tell_versions_and_stores_of_before_are_read(path):
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as db:
        db.executescript(
            "CREATE TABLE evaluations (key TEXT PRIMARY KEY, kind TEXT NOT NULL, config TEXT NOT NULL,"
            " result TEXT NOT NULL, seconds REAL NOT NULL, finished REAL NOT NULL);"
            "CREATE TABLE run (name TEXT PRIMARY KEY, value TEXT NOT NULL);"
            f"INSERT INTO evaluations VALUES ('{_key('old', {})}', 'old', '{{}}', '{{\"a\": 1}}', 1.0, 2.0);"
            "PRAGMA user_version = 1;"
        )
    with Store(path, read_only=True) as store:
        assert [(one.result, one.versions) for one in store.evaluations()] == [({"a": 1}, {})]
    with Store(path) as store:
        store.get_or_run("new", {}, lambda: {"a": 2})
        old, new = store.evaluations()
        assert (old.result, old.versions) == ({"a": 1}, {})
        assert new.versions.keys() == {"python", "bitq", "torch", "numpy"}


def test_several_writers_share_a_store(path):
    def work(worker):
        with Store(path) as store:
            for i in range(20):
                store.get_or_run("probe", {"i": i}, lambda i=i: {"square": i * i})
                store.get_or_run("own", {"worker": worker, "i": i}, lambda: {})

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Store(path) as store:
        assert sorted(one.config["i"] for one in store.evaluations("probe")) == list(range(20))
        assert len(store.evaluations("own")) == 80


def test_the_file_is_plain_sqlite(path):
    with Store(path) as store:
        store.get_or_run("probe", {"i": 1}, lambda: {"loss": 0.25})
    with sqlite3.connect(path) as db:
        ((config, result),) = db.execute(
            "SELECT config, result FROM evaluations WHERE kind = 'probe'"
        ).fetchall()
    assert (json.loads(config), json.loads(result)) == ({"i": 1}, {"loss": 0.25})


# Stores from elsewhere


def rows_changed(path, statement):
    with sqlite3.connect(path) as db:
        db.execute(statement)
    db.close()


@pytest.mark.parametrize("words", [{}, {"alone": True}, {"read_only": True}], ids=str)
def test_a_newer_store_is_refused_and_untouched(path, words):
    with Store(path) as store:
        store.put("probe", {}, {"loss": 1}, 0.0)
    rows_changed(path, f"PRAGMA user_version = {NEWEST + 1}")
    before = path.read_bytes()
    with pytest.raises(BitqError, match=rf"newer version of bitq \(its format is {NEWEST + 1}, this version knows"):
        Store(path, **words)
    assert path.read_bytes() == before
    assert words == {} or list(path.parent.iterdir()) == [path]


def test_reading_leaves_no_trace(path):
    with Store(path) as store:
        store.put("probe", {"i": 1}, {"loss": 1}, 0.0)
    before = path.read_bytes()
    with Store(path, read_only=True) as store:
        assert store.get("probe", {"i": 1}) == {"loss": 1}
        with pytest.raises(BitqError, match="may not be written by this user"):
            store.put("probe", {"i": 2}, {"loss": 1}, 0.0)
    assert (path.read_bytes(), list(path.parent.iterdir())) == (before, [path])


def test_a_reader_sees_what_a_search_at_work_has_finished(path):
    with Store(path, alone=True) as store:
        store.put("probe", {"i": 1}, {"loss": 1}, 0.0)
        with Store(path, read_only=True) as reader:
            assert reader.get("probe", {"i": 1}) == {"loss": 1}


def test_a_busy_store_is_told_as_busy(path, monkeypatch):
    monkeypatch.setattr("bitq.database._WAIT_SECONDS", 0.1)
    Store(path).__exit__()
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        for words in ({}, {"alone": True}, {"read_only": True}):
            if words == {"read_only": True}:
                path.with_name("results.sqlite-journal").touch()  # as another that writes has one
            with pytest.raises(BitqError, match="is busy: another process is at work in it; wait"):
                Store(path, **words)
    other.close()


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE evaluations SET result = '{'", "its result is not JSON at line 1, column 2"),
        ("UPDATE evaluations SET result = '{\"a\": 1, \"a\": 2}'", "its result names 'a' twice"),
        ("UPDATE evaluations SET result = 3", "its result has no named entries"),
        ("UPDATE evaluations SET config = '[]'", "its configuration has no named entries"),
        ("UPDATE evaluations SET config = '{\"i\": 2}'", "its key is not that of its kind and configuration"),
        ("UPDATE evaluations SET kind = 'other'", "its key is not that of its kind and configuration"),
        ("UPDATE evaluations SET kind = CAST(x'ff' AS TEXT)", "its kind is no text"),
        ("UPDATE evaluations SET seconds = 'long'", "its duration is no number of seconds"),
        ("UPDATE evaluations SET seconds = -1.0", "its duration is no number of seconds"),
        ("UPDATE evaluations SET seconds = 9e999", "its duration is no number of seconds"),
        ("UPDATE evaluations SET finished = 1e300", "the time of its end is no number of seconds"),
        ("UPDATE evaluations SET versions = 'new'", "its versions is not JSON"),
    ],
)
def test_a_row_that_was_not_written_so_is_told_and_not_used(path, statement, reason):
    with Store(path) as store:
        store.put("probe", {"i": 1}, {"loss": 1}, 0.0)
    rows_changed(path, statement)
    with Store(path) as store:
        with pytest.raises(BitqError, match=re.escape(reason)) as caught:
            store.evaluations()
        assert f"`bitq report {path.parent} --salvage`" in str(caught.value)
        with pytest.raises(BitqError, match=re.escape(reason)):
            store.get("probe", {"i": 1})


def test_what_is_too_large_to_be_read_again_is_not_kept(path):
    with Store(path) as store:
        with pytest.raises(BitqError, match="is too large to be kept"):
            store.put("probe", {}, {"values": [0] * MOST_VALUES}, 0.0)
        assert store.evaluations() == ()


def as_nobody(folder, work):
    """What `work` tells in a process whose user may write nowhere in a folder; "" if it goes well."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        told = "not even that"
        try:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            work()
            told = ""
        except BitqError as error:
            told = str(error)
        except BaseException as error:
            told = f"a traceback: {error!r}"
        finally:
            os.write(writer, told.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        told = answer.read()
    os.waitpid(child, 0)
    return told


@pytest.fixture
def public():
    """A folder that everybody may read and nobody may write."""
    with tempfile.TemporaryDirectory(prefix="public-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


def test_folders_that_may_not_be_written(public):
    path, empty = public / "results.sqlite", public / "empty"
    empty.mkdir()
    with Store(path) as store:
        store.put("probe", {"i": 1}, {"loss": 1}, 0.0)
    for folder in (empty, public):
        folder.chmod(0o555)
    path.chmod(0o444)
    for where in (empty / "results.sqlite", path):
        told = as_nobody(public, lambda where=where: Store(where, alone=True))
        assert "may not be written by this user" in told
        assert "not a results store" not in told
        assert "make room" not in told
    assert "cannot be made by this user" in as_nobody(public, lambda: Store(empty / "new" / "results.sqlite"))

    def read():
        with Store(path, read_only=True) as store:
            assert store.get("probe", {"i": 1}) == {"loss": 1}

    assert as_nobody(public, read) == ""


def test_a_log_that_cannot_be_read_where_nobody_may_write(public):
    """Rows in it would be missed in silence."""
    path, kept = public / "results.sqlite", public / "kept"
    kept.mkdir()
    with Store(path) as store:
        store.put("probe", {"i": 1}, {"loss": 1}, 0.0)
        for name in ("results.sqlite", "results.sqlite-wal"):
            shutil.copy(public / name, kept / name)
    for each in kept.iterdir():
        each.chmod(0o444)
    kept.chmod(0o555)
    told = as_nobody(public, lambda: Store(kept / "results.sqlite", read_only=True))
    kept.chmod(0o755)
    assert "was not closed by the search that wrote it" in told
    assert "copy the folder" in told
