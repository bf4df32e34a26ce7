"""What commands write is text: no name of others is obeyed by a terminal, and JSON stays JSON."""

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from bitq.cli.output import print_json, print_text, show

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
