"""Memory that is too little is told, before the work where that can be known."""

from pathlib import Path

import pytest
import torch

from bitq import memory
from bitq.errors import BitqError
from bitq.images import ArrayImages, Batches
from bitq.memory import check_fits, machine_bytes, memory_told, size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (150e9, "139.7 GiB"), (2.0**90, "1.074e+09 EiB")],
)
def test_sizes_are_readable(size, text):
    assert size_text(size) == text


def test_a_machine_has_the_memory_that_the_system_tells():
    with Path("/proc/meminfo").open() as file:
        total = int(file.readline().split()[1]) << 10
    assert 2**28 < machine_bytes() <= 1.1 * total


@pytest.mark.parametrize(("told", "most"), [("1048576\n", 2**20), ("max\n", None), ("", None), ("\ufeffx", None)])
def test_a_container_has_less(tmp_path, monkeypatch, told, most):
    before = machine_bytes()
    (tmp_path / "max").write_text(told)
    monkeypatch.setattr(memory, "_CONTAINERS", (*memory._CONTAINERS, str(tmp_path / "none"), str(tmp_path / "max")))
    assert machine_bytes() == (before if most is None else most)


def test_what_cannot_fit_is_refused_before(monkeypatch):
    monkeypatch.setattr(memory, "machine_bytes", lambda: 2.0**20)
    check_fits(2**20, "these")
    with pytest.raises(BitqError, match=r"^these take 1.5 MiB of memory and this machine has 1 MiB; give fewer$"):
        check_fits(1.5 * 2**20, "these", "give fewer")
    images = ArrayImages(torch.zeros(1025, 1, 16, 16, dtype=torch.uint8), torch.zeros(1025, dtype=torch.long))
    assert len(Batches(images, 1024)) == 2
    with pytest.raises(BitqError, match=r"^1025 images of shape \(1, 16, 16\), a batch, take 1.001 MiB .*--batch-size"):
        Batches(images, 10**6)


def test_other_mistakes_pass():
    mistake = RuntimeError("shapes do not fit")
    with pytest.raises(RuntimeError) as caught, memory_told("running"):
        raise mistake
    assert caught.value is mistake
