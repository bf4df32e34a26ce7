"""Files from outside: what is no regular file of bounded size is not read, and messages are fit to print."""

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitq.errors import LONGEST_MESSAGE, BitqError, printable
from bitq.outside import opened_outside, read_outside


def test_regular_files_and_links_to_them_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_outside(tmp_path / "link", 5, "a plan") == b"12345"
    with opened_outside(tmp_path / "file", 5, "a plan") as file:
        file.seek(3)
        assert file.read() == b"45"


def test_what_is_no_regular_file_of_bounded_size_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_bytes(b"123456")
    os.mkfifo(tmp_path / "pipe")
    for path, told in (
        (tmp_path / "file", "has 6 bytes, but a plan has at most 5"),
        (tmp_path / "pipe", "is no regular file"),
        (tmp_path, "is a folder; give a plan"),
        (tmp_path / "none", "there is no file"),
        (tmp_path / "file" / "none", "there is no file"),
        (tmp_path / "a\0b", "is no name of a file"),
        (tmp_path / ("x" * 300), "cannot be read (file name too long)"),
        ("/dev/zero", "is no regular file"),
    ):
        with pytest.raises(BitqError, match=re.escape(told)):
            read_outside(path, 5, "a plan")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read_is_told_so(tmp_path):
    (tmp_path / "file").touch(mode=0)
    with pytest.raises(BitqError, match="may not be read"):
        read_outside(tmp_path / "file", 5, "a plan")


@given(st.text(), st.integers(1, 5000))
def test_messages_are_one_short_printable_line(name, times):
    told = str(BitqError(f"file {name * times} is\nnone"))
    assert told.isprintable()
    assert len(told) <= LONGEST_MESSAGE


def test_what_a_terminal_would_obey_is_shown_as_an_escape():
    assert printable("\x1b[31mred\x1b[0m é\n\u202e") == "\\x1b[31mred\\x1b[0m é\n\\u202e"
    assert str(BitqError("no 'c\x1b[31m.pt'")) == r"no 'c\x1b[31m.pt'"
