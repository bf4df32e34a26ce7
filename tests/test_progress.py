"""The bar on a terminal, the lines elsewhere."""

import time

import pytest

from bitq.progress import Terminal


def left_as_it_was(written):
    """The cursor is shown again, the bar erased, and nothing comes after."""
    show_cursor, erase_line = "\x1b[?25h", "\x1b[2K"
    return written.endswith(erase_line) and "working" not in written[written.rindex(show_cursor) :]


@pytest.mark.parametrize("terminal", ["1", ""])
@pytest.mark.parametrize("patience", [0, 60])
def test_what_takes_long_shows_its_progress_on_a_terminal(capsys, monkeypatch, patience, terminal):
    monkeypatch.setenv("FORCE_COLOR", terminal)  # a terminal, to rich
    monkeypatch.setattr("bitq.progress.PATIENCE_SECONDS", patience)
    with Terminal() as listener:
        for done in range(4):
            time.sleep(0.15)
            listener.step("working", done, 3)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("working" in err) == ("2/3" in err) == (patience == 0 and terminal == "1")
    assert err == "" or left_as_it_was(err)


def test_an_error_leaves_the_terminal_as_it_was(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("bitq.progress.PATIENCE_SECONDS", 0)

    def work():
        with Terminal() as listener:
            for done in range(2):
                time.sleep(0.15)
                listener.step("working", done, 3)
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        work()
    assert left_as_it_was(capsys.readouterr().err)


def test_without_a_terminal_a_line_now_and_then_tells_the_time_left(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "")
    monkeypatch.setattr("bitq.progress.LINE_SECONDS", 0.2)
    with Terminal() as listener:
        for done in range(5):
            listener.step("working", done, 4)
            time.sleep(0.15)
        listener.note("[found] something")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[-1] == "[found] something"
    assert lines[:-1]
    assert all(line.startswith("working: ") and line.endswith(" s left") for line in lines[:-1])


def test_the_outlook_is_told_once_every_kind_of_stage_was_met(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "")
    monkeypatch.setattr("bitq.progress.LINE_SECONDS", 0.05)
    with Terminal() as listener:
        listener.outlook({"looking": 2, "working": 6}, "")
        for stage in ("looking around", "working on one", "working on two"):
            for done in range(3):
                listener.step(stage, done, 2)
                time.sleep(0.1)
            listener.outlook({"working": {"looking around": 6, "working on one": 4, "working on two": 2}[stage]}, stage)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.endswith(" s left")
    assert "in all" not in first
    assert "best so far" not in first
    assert "; in all about " in last
    assert last.endswith("best so far working on one")
