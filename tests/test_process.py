"""`bitq` as a process: whatever its streams are and whenever it is interrupted, it says a sentence."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

BITQ = [sys.executable, "-m", "bitq"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))}
INTERRUPTED = "Error: interrupted before the end"
FULL = "Error: the result cannot be written to standard output: the disk is full or a quota is used up; make room\n"
CLOSED = "Error: standard output is closed; to throw the result away, send it to the null device\n"
SMALL = "movement demo --device stm32f103c8"


def shell(command, **environment):
    """Exit code, stdout, stderr of a command line; BITQ stands for the program."""
    script = command.replace("BITQ", '"$@"')
    words = ["sh", "-c", script, "sh", *BITQ]
    done = subprocess.run(words, capture_output=True, text=True, env={**ENVIRONMENT, **environment})
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "words", ["devices", "devices --json", "--help", "search --help", f"{SMALL} --csv", f"{SMALL} --json", SMALL]
)
def test_a_result_that_cannot_be_written_is_told(words):
    assert shell(f"BITQ {words} > /dev/full") == (2, "", FULL)
    assert shell(f"BITQ {words} >&-") == (2, "", CLOSED)


def test_streams_that_a_command_can_do_without():
    told = shell("BITQ devices eyeriss")
    assert told[0] == 0
    for closed in ("<&-", "2>&-", "2>/dev/full", "<&- 2>&-"):
        assert shell(f"BITQ devices eyeriss {closed}") == told
    for closed in ("2>&-", "2>/dev/full", ">&- 2>&- <&-"):
        assert shell(f"BITQ devices none {closed}") == (2, "", "")


def test_a_file_is_not_given_the_number_of_a_closed_stream(tmp_path):
    out = tmp_path / "curves.csv"
    code, _, _ = shell(f"BITQ buffer demo --from 4KiB --to 8KiB --out {out} 2>&- <&-")
    assert code == 0
    assert out.read_text().startswith("formats,memory,")


def test_a_reader_that_leaves_early():
    code, out, err = shell("{ BITQ devices --json; echo $? >&2; } | true")
    assert (code, out, err) == (0, "", "141\n")


def test_any_encoding_will_do():
    table = shell("BITQ movement demo --device stm32f103c8", PYTHONIOENCODING="ascii")
    assert (table[0], table[2]) == (0, "")
    assert table[1].isascii()
    plain = json.loads(shell("BITQ devices eyeriss --json")[1])
    assert json.loads(shell("BITQ devices eyeriss --json", PYTHONIOENCODING="ascii:strict")[1]) == plain


# Interrupts

START = """
import os
from bitq.__main__ import main
from bitq.interrupts import interrupts
interrupts.start()
os.write(2, b"started\\n")
main()
"""


def started(words, folder, *options):
    """A command whose interpreter has come as far as to run it."""
    process = subprocess.Popen(
        [sys.executable, "-c", START, *words.split(), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**ENVIRONMENT, "BITQ_CACHE_DIR": ""},
    )
    assert process.stderr.readline() == "started\n"
    return process


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        *((signal.SIGINT, moment) for moment in (0, 0.02, 0.1, 0.25, 0.5, 0.9, 1.5, 3)),
        *((signal.SIGTERM, moment) for moment in (0, 0.3, 1)),
    ],
)
@pytest.mark.parametrize(
    ("words", "continued"),
    [
        ("movement resnet18 --device eyeriss", ""),
        ("search demo --run run", "; the same command continues where it stopped"),
    ],
)
def test_an_interrupt_at_any_moment_is_a_sentence(tmp_path, words, continued, number, moment):
    process = started(words, tmp_path)
    time.sleep(moment)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 128 + number, err
    assert out == ""
    *before, last = err.splitlines()
    assert last == INTERRUPTED + continued
    assert not any("Error" in line or "Traceback" in line or "Warning" in line for line in before)


NETWORKS = """
import sys, time

def wait(marker):
    open(marker, "w").close()
    time.sleep(60)

class Lasting:
    def __del__(self):
        wait("begun")

def lasting():
    Lasting()

def tidying():
    try:
        wait("begun")
    finally:
        wait("tidying")

def tidy():
    try:
        wait("begun")
    finally:
        open("tidied", "w").close()

def translating():
    try:
        wait("begun")
    except KeyboardInterrupt:
        raise ImportError("numpy is not installed") from None
"""
IMPORTING = "from networks import *\ntranslating()"


@pytest.mark.parametrize(
    ("network", "markers"),
    [
        ("networks:lasting", ["begun"]),
        ("importing:network", ["begun"]),
        ("networks:tidying", ["begun", "tidying"]),
        ("networks:tidy", ["begun"]),
        ("networks:translating", ["begun"]),
    ],
)
def test_an_interrupt_is_not_lost_or_taken_for_something_else(tmp_path, network, markers):
    (tmp_path / "networks.py").write_text(NETWORKS)
    (tmp_path / "importing.py").write_text(IMPORTING)
    process = started(f"movement {network} --device eyeriss --input-shape 1,1", tmp_path)
    for marker in markers:
        while not (tmp_path / marker).exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", INTERRUPTED + "\n")
    assert process.returncode == 130
    assert (tmp_path / "tidied").exists() == (network == "networks:tidy")


def test_an_interrupt_while_the_interpreter_ends(tmp_path):
    script = f"import atexit, time\natexit.register(lambda: (open('ending', 'w').close(), time.sleep(60)))\n{START}"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "devices"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
    )
    while not (tmp_path / "ending").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == f"started\n{INTERRUPTED}\n"
    assert process.returncode == 130


def test_an_interrupt_that_was_ignored_stays_ignored():
    script = f"import os, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{START}"
    script = script.replace("main()\n", "os.kill(os.getpid(), signal.SIGINT)\nmain()\n")
    done = subprocess.run([sys.executable, "-c", script, "devices"], capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (0, "started\n")
