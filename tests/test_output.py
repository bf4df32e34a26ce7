"""What commands write is text: no name of others is obeyed by a terminal, and JSON stays JSON."""

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.table import Table

from bitq.cli.output import print_json, print_text, show
from bitq.cli.tables import MOST_ROWS, FirstThatFits, TextColumn

STEERING = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\udcff"
SHOWN = r"\x1b[2J\x1b]0;owned"


def obeyed(text):
    return [character for character in text if not character.isprintable() and character != "\n"]


def table(*names):
    made = Table(*names, header_style="bold")
    made.add_row(*names)
    return made


@pytest.mark.parametrize("terminal", ["1", ""])
def test_tables_and_text_show_escape_codes(capsys, monkeypatch, terminal):
    monkeypatch.setenv("FORCE_COLOR", terminal)
    show(STEERING, table("name", STEERING, "[bold]last"), STEERING)
    out = capsys.readouterr().out
    assert out.count(SHOWN) == 4
    assert out.count("[bold]last") == 2
    styles = ("\x1b[1m", "\x1b[0m") if terminal else ()
    for style in styles:
        assert style in out
        out = out.replace(style, "")
    assert not obeyed(out)


def test_tables_of_plain_names_are_as_they_were(capsys):
    show(table("name", "µJ ↔"))
    assert capsys.readouterr().out.splitlines()[1:4:2] == ["┃ name ┃ µJ ↔ ┃", "│ name │ µJ ↔ │"]


def written(write, encoding):
    raw = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding, errors="backslashreplace"))
        write()
        sys.stdout.flush()
        return raw.getvalue().decode(encoding)


@given(st.recursive(st.text(st.characters()) | st.integers(), st.lists), st.sampled_from(["utf-8", "ascii", "latin-1"]))
def test_json_is_the_same_document_in_any_encoding(document, encoding):
    text = written(lambda: print_json(document), encoding)
    assert json.loads(text) == document
    assert not obeyed(text)


def test_json_is_readable_where_it_can_be():
    assert written(lambda: print_json("µJ é 漢"), "utf-8") == '"µJ é 漢"\n'


def test_csv_shows_escape_codes():
    assert written(lambda: print_text(f"a,b\n{STEERING},é\n"), "utf-8").startswith(f"a,b\n{SHOWN}")


@given(st.integers(12, 200), st.lists(st.tuples(st.text("ab ", max_size=40), st.text("漢x", max_size=12)), min_size=1))
def test_a_table_is_stacked_where_it_would_not_fit(columns, cells):
    """The first way that fits is taken whole, whatever the cells are; the last folds its first column."""
    name = TextColumn("name", [cell for cell, _ in cells], "total", left=True)
    other = TextColumn.of("length", [len(cell) for _, cell in cells], str)
    wide = TextColumn("wide", [cell for _, cell in cells])
    ways = ([[name], [other], [wide]], [[name, other, wide]])
    with io.StringIO() as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr("bitq.cli.output.PIPE_COLUMNS", columns)
        show(FirstThatFits(ways))
        lines = stream.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= columns
    beside = lines[0].count("┳") == 2
    natural = 10 + sum(max(map(cell_len, (each.heading, *each.cells, each.total))) for each in (name, other, wide))
    assert beside == (natural <= columns)
    if beside:
        assert cell_len(lines[0]) == natural
    assert sum("total" in line for line in lines) == 1


def test_a_table_tells_what_it_leaves_out(capsys):
    amounts = [1.0] * (MOST_ROWS + 3)
    show(FirstThatFits([[[TextColumn("name", ["x"] * len(amounts), left=True)], [TextColumn.of("n", amounts, str)]]]))
    out = capsys.readouterr().out
    assert out.count("│ x ") == MOST_ROWS
    assert "and 3 more, which --json tells" in out
    assert f"{float(len(amounts))}" in out
