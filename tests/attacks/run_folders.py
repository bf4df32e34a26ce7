"""By the door of a run's folder: plan.json, results.sqlite, the weights, and code that lies beside them."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import torch

from attacks import attack
from bitq.demo.resnet8 import resnet8
from bitq.formats import TensorFormats
from bitq.store import NEWEST, Store
from bitq.tradeoff.weights import save_weights
from test_plan import LAYER, LEVEL, PLAN, changed

TRACE = "open('TRACE', 'w').close(); import os; os.abort()\ndef make(): pass\n"
EVALUATE = "evaluate run --data d.npz"
NAMED = r"runs its code, so it has to be named by you: if you trust it, give bitq evaluate run --data d.npz"
SEARCH = "search demo --run run --formats 8:e3:b16 --steps 1 --rounds 1 --plans 1 --uniforms 1"
DAMAGED = r"results\.sqlite is damaged: .*`bitq report run --salvage` keeps all that can still be read"


def run(folder: Path, plan: Any = PLAN) -> Path:
    """A run's folder with a plan and a few results."""
    path = folder / "run"
    path.mkdir()
    (path / "plan.json").write_text(plan if isinstance(plan, str) else json.dumps(plan))
    with Store(path / "results.sqlite") as store:
        store.bind({"identity": 2, "network": "demo"})
        for number in range(40):
            store.put("float", {"number": number}, {"validation": 0.5, "test": 0.5, "padding": "x" * 500}, 1.0)
    return path


def planned(*place: object, value: object) -> dict[str, Any]:
    """The plan with another value at a place."""
    found: dict[str, Any] = changed(PLAN, place, value)
    return found


def harmed(folder: Path, *statements: str) -> None:
    """A run whose store was changed by these statements."""
    with sqlite3.connect(run(folder) / "results.sqlite", isolation_level=None) as database:
        database.execute("PRAGMA journal_mode = DELETE")
        for statement in statements:
            database.execute(statement)
    database.close()


# Code


@attack(EVALUATE, NAMED + r" --network payload:make$")
def code_in_the_current_folder(folder: Path) -> None:
    """A plan that names a module beside the run."""
    run(folder, planned("network", value="payload:make"))
    (folder / "payload.py").write_text(TRACE)


@attack(EVALUATE, NAMED + r" --network os:abort$")
def code_of_the_library(folder: Path) -> None:
    """A plan that names a function that everybody has."""
    run(folder, planned("network", value="os:abort"))


@attack(EVALUATE, NAMED + r" --network package.module:function$")
def code_in_the_shell(folder: Path) -> None:
    """A plan that names a network to be pasted into a shell."""
    run(folder, planned("network", value="a:b; touch TRACE #"))


@attack(f"{EVALUATE} --network run.payload:make", r"module 'run' lies in the run's folder run, which no code")
@attack(f"{EVALUATE} --network run.deep.payload:make", r"module 'run' lies in the run's folder run")
@attack("evaluate . --data d.npz --network payload:make", r"module 'payload' lies in the run's folder \.")
@attack("evaluate run/../../here --data d.npz --network payload:make", r"module 'payload' lies in the run's folder")
def code_in_the_runs_folder(folder: Path) -> None:
    """Modules in the folder of the run, which the user is talked into naming."""
    path = run(folder)
    (path / "__init__.py").write_text(TRACE)
    (path / "deep").mkdir()
    for place in (folder, path, path / "deep"):
        (place / "payload.py").write_text(TRACE)
    (folder / "plan.json").write_text(json.dumps(PLAN))
    (folder.parent / "here").unlink(missing_ok=True)
    (folder.parent / "here").symlink_to(folder)


# plan.json


@attack("report run", r"layers\.0\.levels\.0\.lower_bound_bits must be a number of at least 1e-06, not 5e-324")
def bound_of_nothing(folder: Path) -> None:
    """A lower bound by which a division overflows."""
    run(folder, planned("layers", 0, "levels", 0, "lower_bound_bits", value=5e-324))


@attack("report run", r"layers\.0\.levels\.0\.energy_pj must be a number of at most 1e\+60, not 1e\+308")
def endless_energies(folder: Path) -> None:
    """Energies whose sum is infinite."""
    run(folder, planned("layers", 0, "levels", value=[{**LEVEL, "energy_pj": 1e308}] * 9))


@attack("report run", r"movement_bits_max must be a number of at least 1e-06, not 0")
def nothing_moves(folder: Path) -> None:
    """A largest movement of nothing, which others are divided by."""
    run(folder, planned("totals", "movement_bits_max", value=0))


@attack("report run", r"plan\.json has \d+ bytes, but a plan has at most 16777216")
@attack("quantize in.safetensors out.safetensors --plan run", r"but a plan has at most")
@attack("movement demo --device eyeriss --formats run", r"but a plan has at most")
def megabytes_of_layers(folder: Path) -> None:
    """60 MiB of layers that are empty, each a hundred times as large in memory."""
    (folder / "in.safetensors").touch()
    run(folder, '{"layers": [' + "{}," * 20_000_000 + "{}]}")


@attack("report run", r"plan\.json is not a plan: it has about \d+ values, more than the 250000 that it may have")
def many_layers(folder: Path) -> None:
    """As many of them as the file may have bytes for."""
    run(folder, '{"layers": [' + "{}," * 5_000_000 + "{}]}")


@attack("report run", r"plan\.json is not a plan: layers\.0\.name is missing")
def layers_of_nothing(folder: Path) -> None:
    """As many of them as it may have values."""
    run(folder, {**PLAN, "layers": [{}] * 80_000})


@attack("report run", r"plan\.json is not a plan: extra0 is an entry that is not known")
def many_entries(folder: Path) -> None:
    """As many entries as it may have values, each of which is a mistake."""
    run(folder, {**PLAN, **{f"extra{number}": 1 for number in range(240_000)}})


@attack("report run", r"it has brackets 100000 deep in each other, more than the 64")
def deep(folder: Path) -> None:
    """Brackets that overflow the stack."""
    run(folder, "[" * 100_000 + "]" * 100_000)


@attack("report run", r"it has a number of 100000 digits, more than the 400")
def long_number(folder: Path) -> None:
    """A number that Python refuses to read or to print."""
    run(folder, '{"bits": ' + "9" * 100_000 + "}")


@attack("report run", r"it has NaN where a finite number must stand")
def no_number(folder: Path) -> None:
    """A number that is none."""
    run(folder, json.dumps(planned("alpha", value=float("nan"))))


@attack("report run", r"it names 'network' twice in one place")
def twice(folder: Path) -> None:
    """An entry twice, so that readers differ on it."""
    run(folder, json.dumps(PLAN)[:-1] + ', "network": "other"}')


@attack("report run", r"it is not text in UTF-8 from byte 13 on")
def no_text(folder: Path) -> None:
    """Bytes that are no UTF-8."""
    run(folder, "")
    (folder / "run" / "plan.json").write_bytes(b'{"network": "\xff\xfe"}')


@attack("report run", r"network must be a text")
def half_a_character(folder: Path) -> None:
    """A text that cannot be written in UTF-8."""
    run(folder, json.dumps(planned("network", value="NAME")).replace("NAME", "\\ud800"))


@attack("report run", r"layers\.0\.input: s8:e8m0:v99999999999: geometry 'v99999999999' at character 9; it must be")
@attack("evaluate run", r"geometry 'v99999999999' at character 9; it must be")
def endless_block(folder: Path) -> None:
    """A format in the plan whose blocks no tensor fills."""
    run(folder, planned("layers", 0, "input", value={"format": "s8:e8m0:v99999999999"}))


@attack("report run", r"layers\.0\.weight\.format must be a text of at most 8192 characters")
def endless_table(folder: Path) -> None:
    """A format with a table of as many levels as a text can name."""
    levels = ";".join(map(str, range(5000)))
    run(folder, planned("layers", 0, "weight", value={"format": f"l({levels}):f32:b4"}))


@attack("report run", r"layers\.0\.input\.tensor_range\.0 must be a number of at most 0, not 1")
def range_without_zero(folder: Path) -> None:
    """A range of an activation that 0 does not lie in."""
    entry = {"format": "u8:f32:tensor", "tensor_range": [1, 2]}
    run(folder, planned("layers", 0, "input", value=entry))


@attack("report run", r"layers\.0\.stored_at\.0\.number must be a number of at least 0, not -1")
def call_before_the_first(folder: Path) -> None:
    """An output that is stored before anything was computed."""
    run(folder, planned("layers", 0, "stored_at", value=[{"module": "a", "function": "relu", "number": -1}]))


@attack("report run", r"it has about \d+ values, more than the 250000 that it may have")
def endless_calls(folder: Path) -> None:
    """An output that is stored a hundred thousand times."""
    call = {"module": "a", "function": "relu", "number": 0}
    run(folder, planned("layers", 0, "stored_at", value=[call] * 100_000))


@attack("report run", r"plan\.json is no regular file")
@attack("evaluate run", r"plan\.json is no regular file")
@attack("movement demo --device eyeriss --formats run/plan.json", r"plan\.json is no regular file")
def pipe_as_plan(folder: Path) -> None:
    """A pipe that nobody writes to."""
    (run(folder) / "plan.json").unlink()
    os.mkfifo(folder / "run" / "plan.json")


@attack("report run", r"two layers have the same name")
def same_names(folder: Path) -> None:
    """Two layers of one name."""
    run(folder, {**PLAN, "layers": [LAYER, LAYER]})


# The weights


@attack("evaluate run", r"do not belong together: .*run the search command again")
def weights_of_another_plan(folder: Path) -> None:
    """A plan beside weights that another search wrote."""
    path = run(folder, PLAN)
    formats: dict[str, TensorFormats] = {}
    with torch.no_grad():
        save_weights(path / "weights.safetensors", resnet8(), formats, outcome="fedcba9876543210")


# results.sqlite


@attack("report run", DAMAGED)
@attack(SEARCH, DAMAGED)
@attack("report run --salvage", "", code=0)
def page_overwritten(folder: Path) -> None:
    """Bytes of a page overwritten."""
    harmed(folder)
    with (folder / "run" / "results.sqlite").open("r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * 100)


@attack("report run", "of one of its entries, its result is not JSON at line 1, column 2")
def half_a_result(folder: Path) -> None:
    """A result that breaks off."""
    harmed(folder, "UPDATE evaluations SET result = '{' WHERE rowid = 3")


@attack("report run", "of one of its entries, its result has no named entries")
def another_result(folder: Path) -> None:
    """A result of another kind."""
    harmed(folder, "UPDATE evaluations SET result = '[1]' WHERE rowid = 3")


@attack("report run", "a result of kind 'float' is not one of bitq: test is missing")
def result_without_an_entry(folder: Path) -> None:
    """A result that lacks an entry."""
    harmed(folder, "UPDATE evaluations SET result = '{\"validation\": 0.5}' WHERE rowid = 3")


@attack("report run", "beyond all that is measured or counted")
def result_without_measure(folder: Path) -> None:
    """A result that overflows where a percentage is made of it."""
    harmed(folder, "UPDATE evaluations SET result = '{\"validation\": 1e308, \"test\": 0.5}' WHERE rowid = 3")


@attack("report run", "its key is not that of its kind and configuration")
def result_of_something_else(folder: Path) -> None:
    """A result under the key of something else."""
    harmed(folder, "UPDATE evaluations SET config = '{\"number\": 77}' WHERE rowid = 3")


@attack("report run", "its duration is no number of seconds")
def endless_seconds(folder: Path) -> None:
    """A duration that is infinite."""
    harmed(folder, "UPDATE evaluations SET seconds = 9e999 WHERE rowid = 3")


@attack("report run", "the time of its end is no number of seconds")
def no_date(folder: Path) -> None:
    """A time that no calendar has."""
    harmed(folder, "UPDATE evaluations SET finished = 1e300 WHERE rowid = 3")


@attack("report run", "its kind is no text")
def no_text_in_a_row(folder: Path) -> None:
    """A text that is no UTF-8."""
    harmed(folder, "UPDATE evaluations SET kind = CAST(x'ff' AS TEXT) WHERE rowid = 3")


@attack("report run", "its result has about 27[0-9]+ values, more than the 2000000")
def result_that_swells(folder: Path) -> None:
    """A result a hundred times as large in memory as in the file."""
    harmed(folder)
    with sqlite3.connect(folder / "run" / "results.sqlite") as database:
        database.execute("UPDATE evaluations SET result = ? WHERE rowid = 3", ("[" + "{}," * 900_000 + "[]]",))


@attack("report run", "of one of its entries, its value is not JSON")
def half_a_fact(folder: Path) -> None:
    """What the run is about breaks off."""
    harmed(folder, "UPDATE run SET value = '{'")


@attack("report run", "is not a results store")
@attack(SEARCH, "is not a results store")
@attack("report run --salvage", "is not a results store")
def view_without_end(folder: Path) -> None:
    """A view in the table's place that never ends."""
    harmed(
        folder,
        "DROP TABLE evaluations",
        "CREATE VIEW evaluations AS WITH RECURSIVE endless(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM endless)"
        " SELECT n AS key, n AS kind, '{}' AS config, '{}' AS result, 1.0 AS seconds, 1.0 AS finished, '{}' AS versions"
        " FROM endless",
    )


@attack("report run", "is not a results store")
@attack(SEARCH, "is not a results store")
def trigger(folder: Path) -> None:
    """A trigger that acts when a result is kept."""
    harmed(folder, "CREATE TRIGGER t AFTER INSERT ON evaluations BEGIN DELETE FROM evaluations; END")


@attack("report run", "is not a results store")
def generated_column(folder: Path) -> None:
    """A column that is computed when it is read."""
    harmed(folder, "ALTER TABLE run ADD COLUMN more AS (zeroblob(1 << 30))")


@attack("report run", "is not a results store")
def virtual_table(folder: Path) -> None:
    """A table that a module of SQLite makes up."""
    harmed(folder, "CREATE VIRTUAL TABLE more USING fts5(text)")


@attack("report run", "is not a results store")
def other_rules(folder: Path) -> None:
    """A table whose rules drop what they are given."""
    harmed(folder, "DROP TABLE run", "CREATE TABLE run (name TEXT UNIQUE ON CONFLICT REPLACE, value TEXT NOT NULL)")


@attack("report run", r"is damaged: reading it does not come to an end|is not a results store")
def many_tables(folder: Path) -> None:
    """More tables than there is memory for."""
    harmed(
        folder,
        "PRAGMA writable_schema = ON",
        "INSERT INTO sqlite_master WITH RECURSIVE numbers(n) AS"
        " (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT 300000)"
        " SELECT 'table', 't' || n, 't' || n, 2, 'CREATE TABLE t' || n || ' (a, b, c, d)' FROM numbers",
    )


@attack("report run", rf"newer version of bitq \(its format is {NEWEST + 1}, this version knows {NEWEST}\)")
@attack("report run --salvage", "written by a newer version of bitq")
@attack(SEARCH, "written by a newer version of bitq")
def newer(folder: Path) -> None:
    """A store of a newer version, which an older one would spoil."""
    harmed(folder, f"PRAGMA user_version = {NEWEST + 1}")


@attack("report run", r"results\.sqlite is not a results store; give another run folder")
@attack(SEARCH, r"results\.sqlite is not a results store; give another run folder")
@attack("report run --salvage", r"results\.sqlite is not a results store; give another run folder")
def no_store(folder: Path) -> None:
    """Another file in its place."""
    (run(folder) / "results.sqlite").write_bytes(b"garbage" * 1000)


@attack("report run", r"results\.sqlite is no regular file")
@attack(SEARCH, r"results\.sqlite is no regular file")
@attack("report run --salvage", r"results\.sqlite is no regular file")
def pipe_as_store(folder: Path) -> None:
    """A pipe that nobody writes to."""
    (run(folder) / "results.sqlite").unlink()
    os.mkfifo(folder / "run" / "results.sqlite")


@attack("report run", r"results\.sqlite-wal must be a regular file")
@attack(SEARCH, r"results\.sqlite-wal must be a regular file")
def pipe_beside_the_store(folder: Path) -> None:
    """A pipe where SQLite keeps its log."""
    run(folder)
    os.mkfifo(folder / "run" / "results.sqlite-wal")


@attack("report run", r"results\.sqlite-wal must be a regular file")
@attack(SEARCH, r"results\.sqlite-wal must be a regular file")
@attack("report run --salvage", r"results\.sqlite-wal must be a regular file")
def link_beside_the_store(folder: Path) -> None:
    """A link where SQLite keeps its log, to a file that it would write."""
    run(folder)
    (folder / "mine").write_text("mine")
    (folder / "run" / "results.sqlite-wal").symlink_to(folder / "mine")


@attack("report run", r"results\.sqlite has \d+ bytes, but a results store has at most")
def huge_store(folder: Path) -> None:
    """A store of a terabyte."""
    with (run(folder) / "results.sqlite").open("ab") as file:
        file.truncate(1 << 40)


@attack("report run --salvage", "does not say any more which network and data its results are of")
def results_of_nobody(folder: Path) -> None:
    """Results without what they are of, which would be taken for the next search's."""
    harmed(folder, "DELETE FROM run", "UPDATE evaluations SET result = '{' WHERE rowid = 3")


@attack(SEARCH, "has results but does not say of which network")
def results_for_anybody(folder: Path) -> None:
    """The same, searched in."""
    harmed(folder, "DELETE FROM run")


@attack(SEARCH, r"run/checkpoints is a link, and what it leads to may be another's")
def weights_that_go_elsewhere(folder: Path) -> None:
    """A link in the place of the folder that holds every plan's weights, to one with what looks like leftovers."""
    run(folder)
    (folder / "mine").mkdir()
    (folder / "mine" / ".bitq-mine.part").write_text("mine")
    (folder / "run" / "checkpoints").symlink_to(folder / "mine")
