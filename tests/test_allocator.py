"""Freed memory is kept inside, and goes back to the system afterwards."""

import platform
import resource
from pathlib import Path

import pytest
import torch

from bitq.allocator import keeping_freed_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the allocator of glibc")

LARGE = 48 << 20  # bytes; glibc by itself returns so much to the system at once


def faults_of_a_second_use():
    """Page faults of a large tensor made where one of the same size was freed before."""
    torch.ones(LARGE // 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(LARGE // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_freed_memory_is_kept_inside_alone():
    with keeping_freed_memory():
        assert faults_of_a_second_use() < 16
        kept = resident_bytes()
    assert kept - resident_bytes() > LARGE / 2


def interrupted():
    with keeping_freed_memory():
        torch.ones(LARGE // 4)
        raise ZeroDivisionError(resident_bytes())


def test_an_error_inside_passes_and_the_memory_goes_back():
    with pytest.raises(ZeroDivisionError) as told:
        interrupted()
    assert told.value.args[0] - resident_bytes() > LARGE / 2
