"""Where buffers lie in one memory, against trying every offset."""

import random

import pytest

from bitq.errors import BitqError
from bitq.placement import Buffer, alive, place


def drawn(seed, count, steps, sizes):
    random_ = random.Random(seed)
    found = []
    for _ in range(count):
        first = random_.randrange(steps)
        found.append(Buffer(random_.choice(sizes), first, min(first + random_.randrange(1, steps), steps - 1)))
    return found


def overlap(buffers, offsets, one, other):
    a, b = buffers[one], buffers[other]
    together = a.first <= b.last and b.first <= a.last
    return together and offsets[one] < offsets[other] + b.size and offsets[other] < offsets[one] + a.size


def check(buffers, placed, alignment=1):
    for one in range(len(buffers)):
        assert placed.offsets[one] % alignment == 0
        assert 0 <= placed.offsets[one] <= placed.peak - buffers[one].size
        assert not any(overlap(buffers, placed.offsets, one, other) for other in range(one))
    assert max(alive(buffers), default=0) <= placed.lower_bound <= placed.peak


def fits(buffers, capacity, offsets=()):
    """Whether buffers fit in a capacity, by every whole offset of every one."""
    if len(offsets) == len(buffers):
        return True
    return any(
        not any(overlap(buffers, (*offsets, low), len(offsets), other) for other in range(len(offsets)))
        and fits(buffers, capacity, (*offsets, low))
        for low in range(capacity - buffers[len(offsets)].size + 1)
    )


HARD = (
    [(2, 3, 7), (2, 4, 7), (1, 1, 3), (1, 1, 2), (1, 2, 3), (2, 0, 0), (2, 0, 1), (1, 2, 2)],
    [(3, 3, 6), (3, 0, 1), (2, 6, 6), (2, 0, 0), (1, 1, 2), (1, 2, 3), (1, 1, 3), (2, 2, 2), (2, 4, 4)],
)
"""Sizes and lifetimes that cannot be stacked as high as their fullest step."""


def test_the_peak_is_the_least_of_all_offsets():
    for seed in range(60):
        buffers = drawn(seed, 6, 5, (1, 2, 3, 4))
        placed = place(buffers)
        check(buffers, placed)
        assert placed.is_least
        assert placed.peak == max(alive(buffers)) or not fits(buffers, placed.peak - 1)


@pytest.mark.parametrize("hard", HARD)
def test_a_peak_above_the_fullest_step_is_proved(hard):
    buffers = [Buffer(*each) for each in hard]
    placed = place(buffers)
    check(buffers, placed)
    assert placed.is_least
    assert placed.peak == max(alive(buffers)) + 1
    assert not fits(buffers, placed.peak - 1)
    unproved = place(buffers, most_tried=0)
    check(buffers, unproved)
    assert unproved.lower_bound == max(alive(buffers)) < unproved.peak


@pytest.mark.parametrize("alignment", [1, 16])
def test_many_buffers_are_placed_near_their_bound_in_little_time(alignment):
    buffers = drawn(1, 120, 50, tuple(range(1, 4000, 37)))
    placed = place(buffers, alignment)
    check(buffers, placed, alignment)
    assert placed.peak <= 1.1 * placed.lower_bound
    assert place(buffers, alignment) == placed


def test_what_lives_apart_lies_at_the_bottom():
    placed = place([Buffer(5, 0, 1), Buffer(7, 2, 3), Buffer(0, 0, 9)])
    assert (placed.offsets, placed.peak, placed.lower_bound) == ((0, 0, 0), 7, 7)
    assert place([]).peak == 0
    assert alive([Buffer(5, 0, 1), Buffer(7, 1, 3)]) == (5, 12, 7, 7)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: Buffer(-1, 0, 0), "size -1"),
        (lambda: Buffer(1, 3, 2), "from step 3 to 2"),
        (lambda: place([], 0), "alignment is 0"),
    ],
)
def test_what_is_no_buffer_is_refused(wrong, told):
    with pytest.raises(BitqError, match=told):
        wrong()
