"""A layer refuses what cannot be, and counts what its loops say."""

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitq.errors import BitqError
from bitq.layers import LOOPS, Layer


@pytest.mark.parametrize("field", [*LOOPS, "groups"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", None])
def test_an_extent_is_a_whole_number_of_at_least_one(field: str, value: object) -> None:
    with pytest.raises(BitqError, match=rf"layer 'x': {field} is .*whole number"):
        Layer("x", **{field: value})


@pytest.mark.parametrize("field", ["stride", "dilation", "input_dilation", "padding", "input_size"])
@pytest.mark.parametrize("value", [1, (1,), (1, 1, 1), (1, -1), (1, 0.5), "11"])
def test_a_geometry_is_two_whole_numbers(field: str, value: object) -> None:
    with pytest.raises(BitqError, match=rf"layer 'x': {field} is .*two whole numbers"):
        Layer("x", P=3, Q=3, **{field: value})


def test_groups_divide_the_output_channels() -> None:
    with pytest.raises(BitqError, match="groups=4 does not divide K=6"):
        Layer("x", K=6, groups=4)


def test_a_padding_that_leaves_no_input_is_refused() -> None:
    with pytest.raises(BitqError, match="leaves no input"):
        Layer("x", P=2, R=3, padding=(2, 0))


def test_numbers_of_other_kinds_become_plain_ones() -> None:
    layer = Layer("x", K=np.int64(8), stride=[2, np.int32(1)])  # type: ignore[arg-type]
    assert layer == Layer("x", K=8, stride=(2, 1))
    assert hash(layer) == hash(Layer("x", K=8, stride=(2, 1)))


extents = st.integers(1, 5)


@given(size=st.integers(1, 12), kernel=extents, stride=extents, dilation=extents, padding=st.integers(0, 4))
def test_default_input_is_the_smallest_that_gives_the_outputs(
    size: int, kernel: int, stride: int, dilation: int, padding: int
) -> None:
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    smallest = (outputs - 1) * stride + dilation * (kernel - 1) + 1 - 2 * padding
    if outputs < 1 or smallest < 1:
        return
    layer = Layer("x", P=outputs, R=kernel, stride=(stride, 1), dilation=(dilation, 1), padding=(padding, 0))
    assert layer.size == (smallest, 1)
    assert smallest <= size < smallest + stride


@given(
    size=st.integers(1, 6),
    kernel=extents,
    stride=extents,
    dilation=extents,
    output_padding=st.integers(0, 4),
)
def test_a_transposed_convolution_multiplies_every_input_with_every_tap(
    size: int, kernel: int, stride: int, dilation: int, output_padding: int
) -> None:
    reach = dilation * (kernel - 1)
    layer = Layer(
        "x",
        P=(size - 1) * stride + reach + 1 + output_padding % stride,
        R=kernel,
        C=3,
        dilation=(dilation, 1),
        padding=(reach, 0),
        input_dilation=(stride, 1),
        transposed=True,
    )
    assert layer.size[0] == size
    inside = [
        (p, r)
        for p in range(layer.P)
        for r in range(kernel)
        if (p + r * dilation - reach) % stride == 0 and 0 <= (p + r * dilation - reach) // stride < size
    ]
    assert layer.macs == 3 * len(inside) == 3 * size * kernel


@pytest.mark.parametrize(
    ("loops", "count"),
    [
        ({"P": 4, "R": 4, "padding": (3, 0), "input_size": (1, 1), "transposed": True}, 4),  # one input, four taps
        ({"P": 4, "R": 4, "padding": (3, 0), "input_size": (1, 1)}, 16),  # four outputs, four taps
        ({"P": 1, "R": 3, "padding": (1, 0), "input_size": (2, 1), "input_dilation": (2, 1)}, 6),  # 3 is cropped to 1
        ({"Q": 9, "S": 3, "dilation": (1, 3), "input_size": (1, 8), "input_dilation": (1, 2), "N": 2}, 2 * 8 * 3),
    ],
)
def test_what_counts_as_a_multiplication(loops: dict[str, Any], count: int) -> None:
    assert Layer("x", **loops).macs == count


@given(n=extents, k=extents, c=extents, p=extents, q=extents, r=extents, s=extents, groups=st.integers(1, 4))
def test_a_layer_is_the_sum_of_its_groups(
    n: int, k: int, c: int, p: int, q: int, r: int, s: int, groups: int
) -> None:
    layer = Layer("x", N=n, K=k * groups, C=c, P=p, Q=q, R=r, S=s, groups=groups)
    assert layer.macs == n * k * c * p * q * r * s * groups == groups * layer.group.macs
    assert layer.group.groups == 1
    assert [layer.extent(loop) for loop in LOOPS] == [layer.group.extent(loop) for loop in LOOPS]
    for shape in ("input_shape", "weight_shape", "output_shape"):
        assert prod(getattr(layer, shape)) == groups * prod(getattr(layer.group, shape))
