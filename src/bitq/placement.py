"""Where buffers of known sizes and lifetimes lie in one memory so that it may be the smallest.

No arrangement is smaller than what lives at the fullest step. Buffers placed one after the other, each as low as it
goes, nearly always reach that; where they do not, a search over arrangements finds the least or proves that there is
none smaller. It places buffers from the bottom up: for every arrangement there is one no higher in which each buffer
lies directly on those placed before it, and none lower than the one before. Where all that is left lies higher there
is a gap, and what has to lie above that tells how high it will be. (Such a search for arrangements that fit: Moffitt,
"MiniMalloc: A Lightweight Memory Allocator for Hardware-Accelerated Machine Learning", ASPLOS 2023.)
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from bitq.errors import BitqError

MOST_TRIED = 100_000
"""Buffers that the search looks at, of each part that lives at other steps than all others: some seconds at most."""

MOST_SEARCHED = 200
"""Buffers of a part that is searched. Larger ones that miss the bound are left as they were stacked."""


@dataclass(frozen=True)
class Buffer:
    """What lies in a memory for a while.

    Attributes:
        size: in bytes, or any other unit.
        first, last: steps from and to which it lives, both included.

    Raises:
        BitqError: a size or step below 0, or a last step before the first.
    """

    size: int
    first: int
    last: int

    def __post_init__(self) -> None:
        if self.size < 0 or self.first < 0:
            raise BitqError(f"a buffer has size {self.size} from step {self.first} on; neither may be below 0")
        if self.last < self.first:
            raise BitqError(f"a buffer lives from step {self.first} to {self.last}; the last may not come first")


@dataclass(frozen=True)
class Placement:
    """Where buffers lie.

    Attributes:
        offsets: of each buffer, from the beginning of the memory.
        peak: size of the memory that holds them.
        lower_bound: no arrangement is smaller, proved.
    """

    offsets: tuple[int, ...]
    peak: int
    lower_bound: int

    @property
    def is_least(self) -> bool:
        """Whether no arrangement is smaller, proved."""
        return self.peak == self.lower_bound


def place(buffers: Sequence[Buffer], alignment: int = 1, most_tried: int = MOST_TRIED) -> Placement:
    """Place buffers so that none that live at the same step overlap, and the memory that holds them is small.

    Args:
        buffers: in any order; the result is the same every time.
        alignment: every offset is a multiple of it, and every size counts as the next one.
        most_tried: buffers that are looked at, again each time, for a smaller arrangement than they stack to.

    Returns:
        The placement, which is the least but for large inputs that are hard to pack: its bound says so.

    Raises:
        BitqError: an alignment below 1.
    """
    if alignment < 1:
        raise BitqError(f"the alignment is {alignment}; it must be 1 or more")
    offsets, peak, bound = [0] * len(buffers), 0, 0
    for part in _apart(buffers):
        counted = [replace(buffers[each], size=-(-buffers[each].size // alignment)) for each in part]
        own = _Packing(counted).packed(most_tried)
        for each, offset in zip(part, own.offsets, strict=True):
            offsets[each] = offset * alignment
        peak, bound = max(peak, own.peak), max(bound, own.lower_bound)
    return Placement(tuple(offsets), peak * alignment, bound * alignment)


def alive(buffers: Sequence[Buffer]) -> tuple[int, ...]:
    """What lives at every step up to the last, in sum of sizes."""
    change = [0] * (max((each.last for each in buffers), default=-1) + 2)
    for each in buffers:
        change[each.first] += each.size
        change[each.last + 1] -= each.size
    return tuple(accumulate(change[:-1]))


def fullest(lives: Sequence[tuple[int, int]]) -> list[int]:
    """Of the steps of what lives from one to another, both included, those at which all is that lives at some other:
    behind each of them something ends before another begins."""
    starts, ends = sorted({first for first, _ in lives}), sorted(last for _, last in lives)
    nexts = (*starts[1:], ends[-1] + 1) if ends else ()
    return [
        start for start, after in zip(starts, nexts, strict=True) if bisect_left(ends, start) < bisect_left(ends, after)
    ]


def _apart(buffers: Sequence[Buffer]) -> Iterator[list[int]]:
    """Buffers that take room by their places, in parts of which no two live at the same step."""
    part: list[int] = []
    end = -1
    sized = (place for place, each in enumerate(buffers) if each.size)
    for each in sorted(sized, key=lambda place: (buffers[place].first, place)):
        if part and buffers[each].first > end:
            yield part
            part = []
        part.append(each)
        end = max(end, buffers[each].last)
    if part:
        yield part


class _Packing:
    """The search for the least arrangement of some buffers, all of them larger than 0.

    Of their steps only the `fullest` are looked at.
    """

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = buffers
        full = fullest([(each.first, each.last) for each in buffers])
        self._spans = [range(bisect_left(full, each.first), bisect_right(full, each.last)) for each in buffers]
        self._living: list[list[int]] = [[] for _ in full]
        for place, span in enumerate(self._spans):
            for at in span:
                self._living[at].append(place)
        self._rest = [sum(buffers[place].size for place in own) for own in self._living]
        self._bound = max(self._rest)

    def packed(self, most_tried: int) -> Placement:
        """The least arrangement, or the least that was found."""
        self._best, self._peak, self._left = [0], sum(each.size for each in self._buffers) + 1, most_tried
        for order in self._orders():
            stacked = self._stacked(order)
            if (height := self._height(stacked)) < self._peak:
                self._best, self._peak = stacked, height
            if self._peak == self._bound:
                break
        if (
            self._peak > self._bound
            and len(self._buffers) <= MOST_SEARCHED
            and self._search([0] * len(self._living), list(self._rest), {}, 0)
        ):
            self._bound = self._peak
        return Placement(tuple(self._best), self._peak, self._bound)

    def _orders(self) -> Iterator[list[int]]:
        """In which order buffers are stacked at first, one after the other."""
        size, span = [each.size for each in self._buffers], [len(each) for each in self._spans]
        keys: tuple[Callable[[int], tuple[int, ...]], ...] = (
            lambda each: (-size[each],),
            lambda each: (-span[each], -size[each]),
            lambda each: (-size[each] * span[each],),
            lambda each: (-max(self._rest[at] for at in self._spans[each]), -size[each]),
            lambda each: (self._spans[each].start, -size[each]),
            lambda each: (-self._spans[each].stop, -size[each]),
        )
        for key in keys:
            yield sorted(range(len(size)), key=lambda each: (*key(each), each))

    def _stacked(self, order: Iterable[int]) -> list[int]:
        """Offsets, if each buffer in turn goes as low as those before let it."""
        offsets: dict[int, int] = {}
        for each in order:
            size, low = self._buffers[each].size, 0
            near = (other for other in offsets if _meet(self._spans[each], self._spans[other]))
            for begin, end in sorted((offsets[other], offsets[other] + self._buffers[other].size) for other in near):
                if begin - low >= size:
                    break
                low = max(low, end)
            offsets[each] = low
        return [offsets[each] for each in range(len(self._buffers))]

    def _height(self, offsets: Sequence[int]) -> int:
        return max(own + each.size for own, each in zip(offsets, self._buffers, strict=True))

    def _search(self, heights: list[int], rest: list[int], offsets: dict[int, int], low: int) -> bool:
        """Look for an arrangement below the best, among those in which these buffers lie so and the others no lower.

        Args:
            heights: at each step, below which nothing more can lie.
            rest: at each step, the sum of sizes of buffers that are not placed.
            offsets: of buffers that are placed.
            low: offset of the last of them.

        Returns:
            Whether all were looked at, or one that is proved to be the least was found.
        """
        if len(offsets) == len(self._buffers):
            self._best = [offsets[each] for each in range(len(self._buffers))]
            self._peak = self._height(self._best)
            return True
        open_ = [each for each in range(len(self._buffers)) if each not in offsets]
        lowest = {each: max(low, *(heights[at] for at in self._spans[each])) for each in open_}
        raised = [
            max(height, min((lowest[each] for each in own if each in lowest), default=height))
            for height, own in zip(heights, self._living, strict=True)
        ]
        lowest = {each: max(raised[at] for at in self._spans[each]) for each in open_}
        ceiling = min(own + self._buffers[each].size for each, own in lowest.items())
        seen = set()
        for each in sorted(open_, key=lambda one: (lowest[one], -self._buffers[one].size, one)):
            if max(height + more for height, more in zip(raised, rest, strict=True)) >= self._peak:
                return True
            own = self._buffers[each]
            kind = own.size, self._spans[each]
            if lowest[each] >= ceiling or kind in seen:
                continue  # what fits below lies there already, or one like it was tried
            seen.add(kind)
            self._left -= len(open_)
            if self._left < 0:
                return False
            higher, less = list(raised), list(rest)
            for at in self._spans[each]:
                higher[at] = lowest[each] + own.size
                less[at] -= own.size
            if not self._search(higher, less, {**offsets, each: lowest[each]}, lowest[each]):
                return False
            if self._peak == self._bound:
                return True
        return True


def _meet(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop
