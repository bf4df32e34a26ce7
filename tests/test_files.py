"""A file is seen whole or not at all, and a killed writer leaves nothing for long."""

import errno
import multiprocessing
import os
import re
import signal
import stat

import pytest

from bitq import files
from bitq.errors import BitqError
from bitq.files import remove_leftovers, replacing, write_atomically


def dying(path, moment):
    """Write a file in a process that is killed at a moment."""
    pid = os.fork()
    if not pid:

        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        with replacing(path) as file:
            if moment == "made":
                die()
            file.write(b"n")
            file.flush()
            if moment == "half written":
                die()
            file.write(b"ew")
            if moment == "whole":
                os.fsync = die
            if moment == "on disk":
                type(path).replace = die
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


MOMENTS = ("made", "half written", "whole", "on disk")


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_a_killed_writer_began_is_removed_by_the_next(tmp_path, moment):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    dying(path, moment)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    write_atomically(tmp_path / "other", b"other")
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"file": b"old", "other": b"other"}


def test_what_is_being_written_is_not_taken_for_a_leftover(tmp_path):
    with replacing(tmp_path / "slow") as file:
        file.write(b"slow")
        dying(tmp_path / "killed", "made")
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
        write_atomically(tmp_path / "quick", b"quick")
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"slow": b"slow", "quick": b"quick"}


def test_what_is_not_locked_yet_is_made_anew(tmp_path, monkeypatch):
    """Another writer looks for leftovers just as a file was made."""
    locked, looked = files._locked, []

    def late(handle, wait):
        if wait and not looked:
            looked.append(True)
            remove_leftovers(tmp_path)
            assert not list(tmp_path.iterdir())
        return locked(handle, wait)

    monkeypatch.setattr(files, "_locked", late)
    write_atomically(tmp_path / "file", b"new")
    assert looked
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"file": b"new"}


def write_often(folder, start, own):
    start.wait()
    for turn in range(100):
        write_atomically(folder / f"own-{own}", str(turn).encode())
        write_atomically(folder / "shared", bytes([own]) * 1000)


def test_many_write_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)
    writers = [context.Process(target=write_often, args=(tmp_path, start, own)) for own in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert {each.name for each in tmp_path.iterdir()} == {"shared", *(f"own-{own}" for own in range(4))}
    assert all((tmp_path / f"own-{own}").read_bytes() == b"99" for own in range(4))
    assert (tmp_path / "shared").read_bytes() in {bytes([own]) * 1000 for own in range(4)}


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_what_fails_leaves_nothing(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises((BitqError, KeyboardInterrupt)), replacing(path) as file:  # noqa: PT012
        file.write(b"new")
        raise error
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"file": b"old"}


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "the disk is full or a quota is used up; make room"),
        (errno.EDQUOT, "the disk is full or a quota is used up; make room"),
        (errno.EFBIG, "larger than the system allows"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "this user may not"),
        (errno.EIO, "input/output error"),
    ],
)
def test_why_nothing_is_written_is_told(tmp_path, monkeypatch, number, told):
    def fsync(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(BitqError, match=f"file cannot be written: .*{re.escape(told)}"):
        write_atomically(tmp_path / "file", b"new")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told(tmp_path):
    resource = pytest.importorskip("resource")
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
        try:
            write_atomically(tmp_path / "file", bytes(100_000))
        except BitqError as error:
            os._exit(0 if "larger than the system allows" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not list(tmp_path.iterdir())


def test_what_is_no_regular_file_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "null").symlink_to(os.devnull)
    (tmp_path / "to folder").symlink_to("folder")
    before = {each.name: each.lstat().st_ino for each in tmp_path.iterdir()}
    for name, told in (
        ("pipe", "is no regular file"),
        ("null", "is no regular file"),
        ("folder", "is a folder"),
        ("to folder", "is a folder"),
    ):
        with pytest.raises(BitqError, match=told):
            write_atomically(tmp_path / name, b"new")
    assert {each.name: each.lstat().st_ino for each in tmp_path.iterdir()} == before
    with pytest.raises(BitqError, match="/dev/null is no regular file"):
        files.check_replaceable(files.Path("/dev/null"))


@pytest.mark.parametrize("target", ["elsewhere", "missing"])
def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path, target):
    (tmp_path / "elsewhere").write_bytes(b"another's")
    (tmp_path / "file").symlink_to(target)
    write_atomically(tmp_path / "file", b"new")
    assert stat.S_ISREG((tmp_path / "file").lstat().st_mode)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"elsewhere": b"another's", "file": b"new"}


def test_leftovers_that_are_none_stay(tmp_path):
    (tmp_path / "kept").write_bytes(b"mine")
    (tmp_path / ".bitq-link.part").symlink_to("kept")
    os.mkfifo(tmp_path / ".bitq-pipe.part")
    (tmp_path / ".bitq-folder.part").mkdir()
    (tmp_path / ".bitq-notes").write_bytes(b"mine")
    before = {each.name for each in tmp_path.iterdir()}
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "no folder")
    assert {each.name for each in tmp_path.iterdir()} == before


def test_the_mode_follows_the_users_mask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_what_need_not_last_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: pytest.fail("waited for the disk"))
    with replacing(tmp_path / "file", durable=False) as file:
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
