"""How little any schedule could move: compulsory traffic, and what a buffer too small for everything adds to it.

The line of argument is that of Demmel and Dinh, "Communication-optimal convolutional neural nets" (2018), and of its
successor for mixed precisions (arXiv 2204.08279). Constants, edges, strides and the join with compulsory traffic are
derived here:

1. *Schedules.* The multiply-accumulates (MACs) happen in any order, each while its input, weight and output lie in
   the buffer. An output has one partial sum, which is written when it leaves and read back when it returns. A tiling
   is such a schedule: if all that leaves goes before anything arrives, the buffer never holds more than the tiles the
   capacity is checked for. MACs with padding need no input, so only those with stored inputs are counted.

2. *Geometry.* For exponents s = (x, y, z) there are weights a > 0 of the MACs whose sum over any set of MACs that
   touches I inputs, W weights and O outputs is at most I^x W^y O^z (a Hölder-Brascamp-Lieb inequality). With a = 1/L
   it says |MACs| <= L I^x W^y O^z. L(s) is found for each factor of the iteration space by itself: the loops N, K and
   C, and the two image axes as pairs (output, tap). If one input meets at most l1 points of the factor, one weight l2
   and one output l3, then L(1,0,0) = l1, L(0,1,0) = l2, L(0,0,1) = l3. Any two of the three elements name the point,
   so L(1,1,0) = L(1,0,1) = L(0,1,1) = 1. In between, log L is at most the linear interpolation (Hölder). Factors
   multiply (sum over one after the other). N has l = (1, N, 1), K (K, 1, 1), C (1, 1, C), a long axis of stride 1
   (R, P, R). A stride makes classes of taps, r · dilation modulo the stride, that share neither inputs nor weights:
   each has its own L, and a = 1/L of the class stays true because I and W are sums over the classes (Hölder for
   x + y >= 1; otherwise a factor classes^(1 - x - y) is lost). At s = (1/2, 1/2, 1/2) and stride 1 all this is the
   small-filter bound |MACs| <= sqrt(R S I W O), at (1, 0, 1) and its like the general one, better for large filters.

3. *Segments.* Charge every arrival in the buffer β q bits, 0 < β <= 1 for each tensor: an input or weight when it is
   read, an output when it is begun or read back. Let V be the sum. With M bits of capacity, cut the schedule where
   the charge passes M + X, M + 2X, ... The MACs of a segment touch what lay in the buffer at its start (M bits,
   nothing in the first) and what arrived since (less than X, in the first M + X). So their weights add up to at most
   G = max{I^x W^y O^z : charges of I, W and O <= M + X}, the product of ((M + X) s / (σ β q))^s over the tensors with
   σ = x + y + z. For σ > 1 and X = M / (σ - 1), thus M + X = σX, the weights A of all MACs obey A / G <= V / X:
   a charge of u(M + X), u <= 1, does at most u^σ G <= σu G, which settles V <= M + X; beyond, V = M + X + kX + rest
   with a whole k and rest = t(M + X) - M < X, and A / G <= 1 + k + t^σ <= 1 + k + σt = V / X.

4. *Join.* Every used input and every weight is read and every output begun at least once: C bits of a tensor. What an
   output does in the buffer begins with an arrival and ends with a write, so traffic is q(input) · reads +
   q(weight) · reads + q(output) · (2 · arrivals - outputs) >= V + Σ (1 - β) C. Each s and β gives a bound; the
   largest is taken. With partial sums of their own width, q(output) is theirs, in the buffer too; the last write of
   every output is as wide as the output, which takes the same bits from every schedule.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import compress, product

import numpy as np
from numpy.typing import NDArray

from bitq.errors import BitqError
from bitq.layers import Layer
from bitq.movement.axis import Axis, kept_rows
from bitq.movement.model import Traffic, Widths

STEPS = 12  # exponents are multiples of 1/12; any would be true, finer ones are hardly better
LEAST_LOG = -40.0  # of β, so that it stays above 0
ROUNDING = 1 - 1e-9

Floats = NDArray[np.float64]
Classes = tuple[tuple[int, int, int, int], ...]
"""For each class of a factor: its points, and the most of them at one input, at one weight and at one output."""


def lower_bound(layer: Layer, widths: Widths, capacity_bits: float = float("inf")) -> float:
    """Bits below which no tiling, order or other schedule comes that computes nothing twice (see this module).

    Never less than compulsory traffic, and more the smaller the capacity.

    Args:
        layer: any layer; groups may be interleaved.
        widths: bits per element.
        capacity_bits: of the buffer.

    Raises:
        BitqError: a capacity that is not positive.
    """
    if not capacity_bits > 0:
        raise BitqError(f"a capacity of {capacity_bits!r} bits holds nothing; it must be a positive number of bits")
    least = compulsory(layer)
    bits = least.bits(widths)
    factors = _factors(layer)
    if capacity_bits == float("inf") or not all(factors):
        return bits
    each = np.array([widths.input, widths.weight, widths.accumulated])
    once = each * (least.input_reads, least.weight_reads, least.output_writes)
    capacity = max(capacity_bits, each.sum())  # with less, no MAC has its three elements
    finishing = (widths.output - widths.accumulated) * least.outputs
    return max(bits, ROUNDING * _joined(_log_charge(factors, layer.groups, each, capacity), once) + finishing)


def compulsory(layer: Layer) -> Traffic:
    """Every used input and every weight read once, every output written once, in elements."""
    one = layer.group
    rows, columns = (kept_rows(axis, axis.out, axis.taps)[0] for axis in (Axis.of(one, 0), Axis.of(one, 1)))
    return Traffic(
        input_reads=one.N * one.C * rows * columns,
        weight_reads=one.K * one.C * one.R * one.S,
        output_writes=one.N * one.K * one.P * one.Q,
        output_reads=0,
    ).scaled(layer.groups)


def _factors(layer: Layer) -> tuple[Classes, ...]:
    N, K, C = (layer.extent(loop) for loop in "NKC")
    return ((N, 1, N, 1),), ((K, K, 1, 1),), ((C, 1, 1, C),), *(_classes(Axis.of(layer, axis)) for axis in (0, 1))


@lru_cache(maxsize=1024)
def _classes(axis: Axis) -> Classes:
    """The pairs (output, tap) that use a stored row, by class of taps."""
    outs = np.arange(axis.out)
    found = []
    for first in dict.fromkeys(tap * axis.dilation % axis.stride for tap in range(axis.taps)):
        per_row, per_out, per_tap = np.zeros(axis.size, int), np.zeros(axis.out, int), []
        for tap in range(axis.taps):
            if tap * axis.dilation % axis.stride == first:
                row, between = np.divmod(outs * axis.stride + tap * axis.dilation - axis.padding, axis.spread)
                stored = (between == 0) & (row >= 0) & (row < axis.size)
                per_row[row[stored]] += 1  # one tap meets a row once
                per_out += stored
                per_tap.append(int(stored.sum()))
        if any(per_tap):
            found.append((sum(per_tap), int(per_row.max()), max(per_tap), int(per_out.max())))
    return tuple(found)


@cache
def _exponents() -> tuple[Floats, Floats]:
    """All s = (x, y, z) of the grid in the unit cube with 1 < x + y + z <= 2, an array (3, number), and its logarithm.

    The logarithm of 0 only ever meets a factor 0 or a bound below.
    """
    steps = [s for s in product(range(STEPS + 1), repeat=3) if STEPS < sum(s) <= 2 * STEPS]
    s = np.array(steps, dtype=np.float64).T.copy() / STEPS
    return s, np.log(np.maximum(s, np.exp(LEAST_LOG)))


@lru_cache(maxsize=1024)
def _log_weights(factors: tuple[Classes, ...]) -> Floats:
    """The logarithm of Σ a over the points of the iteration space of a group, for all exponents.

    As a mixture of corners, (1,0,0), (0,1,0) and (0,0,1) have 2 - σ of the weight, each at least 1 minus the other two
    exponents; the rest of it goes to the cheapest.
    """
    s, _ = _exponents()
    sigma = s.sum(axis=0)
    least = np.maximum(0, 1 - sigma + s)
    free = 2 - sigma - least.sum(axis=0)
    weights = np.zeros(len(sigma))
    for classes in factors:
        points, *most = np.log(np.array(classes)).T[:, :, None]
        constants = most[0] * least[0] + most[1] * least[1] + most[2] * least[2] + np.min(most, axis=0) * free
        weights += np.logaddexp.reduce(points - constants, axis=0) - least[2] * np.log(len(classes))
    return weights


def _log_charge(factors: tuple[Classes, ...], groups: int, each: Floats, capacity: float) -> Floats:
    """The logarithm of X A / G in bits, the least V if β = 1, for all exponents."""
    s, log_s = _exponents()
    over = s.sum(axis=0) - 1
    widths = (s * (np.log(each)[:, None] - log_s)).sum(axis=0)
    logs: Floats = np.log(groups) + _log_weights(factors) + widths + over * (np.log(over) - np.log(capacity))
    return logs


def _joined(log_charge: Floats, once: Floats) -> float:
    """The largest V Π β^s + Σ (1 - β) C of all exponents, with β = 1 for some tensors and the best for the others."""
    s, log_s = _exponents()
    log_share = log_s - np.log(once)[:, None]
    best = 0.0
    for some in product((False, True), repeat=3):
        cheap = list(compress(range(3), some))  # tensors with β < 1
        part = s[cheap]
        room = 1 - part.sum(axis=0)
        log_v = (log_charge + (part * log_share[cheap]).sum(axis=0)) / np.where(room > 0, room, 1)
        log_beta = np.clip(log_share[cheap] + log_v, LEAST_LOG, 0)
        bits = np.exp(log_charge + (part * log_beta).sum(axis=0)) + once[cheap] @ (1 - np.exp(log_beta))
        best = max(best, float(bits.max()))  # where room <= 0 the β is not the best, but as true as any
    return best
