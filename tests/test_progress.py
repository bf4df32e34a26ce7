"""The bar on a terminal, the lines elsewhere."""

import re
import time

import pytest

from bitq.progress import Terminal, time_text


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


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines(capsys, monkeypatch):
    """What was written on stderr, which is no terminal, since it was last asked for."""
    monkeypatch.setenv("FORCE_COLOR", "")

    def written():
        out, err = capsys.readouterr()
        assert out == ""
        return err.splitlines()

    return written


def test_without_a_terminal_a_line_now_and_then_tells_the_time_left(clock, lines):
    with Terminal(clock) as listener:
        for done in range(41):
            listener.step("working", done, 40)
            clock.now += 1.5
        listener.note("[found] something")
    assert lines() == [
        "working: 7/40",
        "working: 14/40, about 39 s left",
        "working: 21/40, about 28 s left",
        "working: 28/40, about 18 s left",
        "working: 35/40, about 8 s left",
        "[found] something",
    ]


def test_what_is_watched_for_too_short_a_time_tells_no_time_left(clock, lines):
    with Terminal(clock) as listener:
        for done in (0, 0, 1, 1, 2, 2, 3):
            listener.step("working", done, 3)
            clock.now += 10.5
    assert lines() == [
        "working: 0/3",
        "working: 1/3",
        "working: 1/3",
        "working: 2/3, about 21 s left",
        "working: 2/3, about 21 s left",
        "working: 3/3, about 0 s left",
    ]


def test_the_outlook_is_told_once_every_kind_of_stage_was_met(clock, lines):
    with Terminal(clock) as listener:
        listener.outlook({"looking": 10, "working": 30}, "")
        for stage, left in (("looking around", 30), ("working on one", 20), ("working on two", 10)):
            for done in range(11):
                listener.step(stage, done, 10)
                clock.now += 3 if stage.startswith("working") else 2
            listener.outlook({"working": left}, stage)
    assert lines() == [
        "looking around: 6/10",
        "working on one: 4/10, best so far looking around",
        "working on one: 8/10, about 6 s left; in all about 66 s left, best so far looking around",
        "working on two: 4/10, in all about 52 s left, best so far working on one",  # the pause between counts
        "working on two: 8/10, about 6 s left; in all about 38 s left, best so far working on one",
    ]


class Plan:
    """A plan on a simulated worker: evaluated, fine-tuned, evaluated; the worker tells its steps once a second."""

    def __init__(self, begins, steps, step_seconds, evaluation):
        self.first = begins + evaluation
        self.steps, self.step_seconds = steps, step_seconds
        self.ends = self.first + steps * step_seconds + 2 * evaluation

    def told(self, now):
        seconds = max(int(now - self.first - self.step_seconds), -1)
        return 0 if seconds < 0 else min(int(1 + seconds / self.step_seconds), self.steps)


def simulated(clock, listener, rounds, workers, start, steps, step_seconds, evaluation):
    """Fine-tuning on Ray as `RayWorkers` tells of it, and when each round ends. Workers start one after the other."""
    free = [clock.now + start * (1 + 0.2 * worker) for worker in range(workers)]
    count, ends = sum(rounds), []
    for jobs in rounds:
        free = [max(moment, clock.now) for moment in free]
        plans = []
        for _ in range(jobs):
            plans.append(Plan(min(free), steps, step_seconds, evaluation))
            free[free.index(min(free))] = plans[-1].ends
        ends.append(max(plan.ends for plan in plans))
        running = list(plans)
        listener.step("fine-tuning on Ray", 0, steps * jobs)
        while running:
            clock.now += 1
            finished = [plan for plan in running if plan.ends <= clock.now]
            running = [plan for plan in running if plan not in finished]
            told = sum(plan.told(clock.now) if plan in running else steps for plan in plans)
            listener.step("fine-tuning on Ray", told, steps * jobs)
            for _ in finished:
                count -= 1
                listener.outlook({"fine-tuning": steps * count}, "")
        clock.now += 2
    return ends


SECONDS = {"s": 1, "min": 60}


@pytest.mark.parametrize(
    ("workers", "start", "steps", "step_seconds", "evaluation"),
    [(2, 10, 30, 0.35, 3), (2, 20, 1000, 0.1, 2), (4, 40, 300, 0.5, 10), (8, 15, 1000, 0.05, 1), (1, 12, 100, 1.0, 5)],
)
def test_the_time_left_on_workers_that_start_late_is_about_right_from_the_first(
    clock, lines, workers, start, steps, step_seconds, evaluation
):
    """The first figures of the stage and of the whole in every round are within a factor of about two."""
    written = []

    class Heard(Terminal):
        def step(self, what, done, total):
            super().step(what, done, total)
            written.extend((clock.now, line) for line in lines())

    rounds = (workers + 1, workers, workers + 1)
    with Heard(clock) as listener:
        listener.outlook({"fine-tuning": steps * sum(rounds)}, "")
        ends = simulated(clock, listener, rounds, workers, start, steps, step_seconds, evaluation)
    first = {}
    for now, line in written:
        ending = next(end for end in (*ends, now) if end >= now)
        for kind, end in (("stage", ending), ("whole", ends[-1])):
            found = re.search({"stage": r"\d, ", "whole": "in all "}[kind] + r"about (\d+) (s|min)", line)
            if found and (kind, ending) not in first:
                first[kind, ending] = int(found[1]) * SECONDS[found[2]], end - now, line
    assert {kind for kind, _ in first} == {"stage", "whole"}
    for shown, true, line in first.values():
        assert true / 2.2 - 1 <= shown <= true * 2.2 + 1, (shown, true, line)


def test_what_was_told_done_of_plans_under_way_is_not_to_come_again(clock, lines):
    """Two plans at once: as one is finished, half of the other is done."""
    with Terminal(clock) as listener:
        listener.outlook({"fine-tuning": 400}, "")
        for done in range(0, 151, 5):
            listener.step("fine-tuning", done, 200)
            clock.now += 1
        lines()
        listener.outlook({"fine-tuning": 300}, "")
        clock.now += 10
        listener.step("fine-tuning", 150, 200)
        (line,) = lines()
        assert line.endswith("about 10 s left; in all about 50 s left")
        listener.outlook({"fine-tuning": 500}, "")  # 200 more are planned
        clock.now += 11
        listener.step("fine-tuning", 150, 200)
        (line,) = lines()
        assert line.endswith("about 10 s left; in all about 90 s left")


@pytest.mark.parametrize("terminal", ["1", ""])
def test_names_of_others_are_shown_not_obeyed(clock, capsys, monkeypatch, terminal):
    monkeypatch.setenv("FORCE_COLOR", terminal)
    monkeypatch.setattr("bitq.progress.PATIENCE_SECONDS", 0)
    steering = "\x1b[2J\x1b]0;owned\x07[bold]\x9b31m"
    with Terminal(clock) as listener:
        listener.outlook({}, steering)
        for done in range(3):
            listener.step(steering, done, 3)
            clock.now += 11
            time.sleep(0.15)
        listener.note(steering)
    err = capsys.readouterr().err
    assert not any(code in err for code in ("\x1b[2J", "\x1b]0;", "\x07", "\x9b"))
    assert err.count(r"\x1b[2J\x1b]0;owned\x07[bold]") > 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(85.4, "85 s"), (720, "12 min"), (12600, "3.5 h"), (172800, "48.0 h"), (363000, "4 days"), (1e9, "11,574 days")],
)
def test_times_are_told_in_units_that_fit(seconds, text):
    assert time_text(seconds) == text
