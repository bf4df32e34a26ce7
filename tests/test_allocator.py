"""Freed memory is kept inside, and goes back to the system afterwards."""

import platform
import resource
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from bitq.allocator import keeping_freed_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the allocator of glibc")

LARGE = 48 << 20  # bytes; glibc by itself returns so much to the system at once


def faults():
    """Page faults of steps of a training, once the first ones have met all the memory they need."""
    images = torch.zeros(64, 8, 64, 64)
    layers = [torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(6)]
    network = torch.nn.Sequential(*(part for layer in layers for part in (layer, torch.nn.ReLU())))

    def step():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        network(images).sum().backward()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    return sum([step() for _ in range(12)][6:])


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measured():
    """Page faults outside and inside, and the bytes that go back to the system at the end."""
    outside = faults()
    with keeping_freed_memory():
        inside = faults()
        kept = resident_bytes()
    return outside, inside, kept - resident_bytes()


def test_steps_meet_their_memory_again_inside_alone():
    with get_context("spawn").Pool(1) as fresh:  # no other test's holes in the memory
        outside, inside, returned = fresh.apply(measured)
    assert inside < outside / 4
    assert returned > LARGE


def interrupted():
    with keeping_freed_memory():
        torch.ones(LARGE // 4)
        raise ZeroDivisionError(resident_bytes())


def test_an_error_inside_passes_and_the_memory_goes_back():
    with pytest.raises(ZeroDivisionError) as told:
        interrupted()
    assert told.value.args[0] - resident_bytes() > LARGE / 2
