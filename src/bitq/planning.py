"""What the plans of a device's memories minimize, and how they are made."""

from enum import StrEnum


class Minimize(StrEnum):
    """What is the least of all plans of a layer, summed over all boundaries: the bits that move, or their energy."""

    movement = "movement"
    energy = "energy"


class Planning(StrEnum):
    """How the memories of a device are planned: all at once, or each for its least traffic, DRAM's first."""

    together = "together"
    one_by_one = "one-by-one"
