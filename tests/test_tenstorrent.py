"""Weights in Tenstorrent's tiles: bytes computed by hand from its definition, and what holds which format."""

import json
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import bitq as package
from bitq.errors import BitqError
from bitq.exporting import export
from bitq.exporting.tenstorrent.tiles import TILE_FORMATS, pack_tiles, unpack_tiles
from bitq.formats import TensorFormats, parse_format

BFP2, BFP4, BFP8 = TILE_FORMATS
EIGHTH = 2.0**-3


def tile_with(row, place=(0, 0)):
    """A tile of zeros but for one row of a face."""
    tile = np.zeros((32, 32), np.float32)
    tile[place[0], place[1] : place[1] + len(row)] = row
    return tile


# 1 has the exponent field 127 and, of 8 bits, the magnitude 64; of 4 bits 4; of 2 bits 1.
BY_HAND = [
    (
        BFP8,
        [1, 0.5, -0.25, 127 / 64, 127.5 / 64, 64.5 / 64, 65.5 / 64, -0.0, 0.5 / 64, -0.75 / 64, 1.5 / 64, -127.9 / 64],
        [0x40, 0x20, 0x90, 0x7F, 0x7F, 0x40, 0x42, 0, 0, 0x81, 2, 0xFF],
    ),
    (BFP4, [1, -1.75, 1.875, 0.25, 0.125, 0.375, -0.625, 0.1], [0xF4, 0x17, 0x20, 0x0A]),
    (BFP2, [1, -1, 0.5, 1.5, -0.75, 0.4999, 0, 1], [0b01001101, 0b01000011]),
]


@pytest.mark.parametrize(("fmt", "row", "codes"), BY_HAND)
@pytest.mark.parametrize(("place", "number"), [((0, 0), 0), ((3, 0), 3), ((5, 16), 21), ((16, 0), 32), ((31, 16), 63)])
def test_bytes_are_as_computed_by_hand(fmt, row, codes, place, number):
    (packed,) = pack_tiles(tile_with(row, place), fmt).reshape(-1, fmt.tile_bytes)
    expected = np.zeros(fmt.tile_bytes, np.uint8)
    expected[number] = 127
    first = 64 + number * 16 * fmt.bits // 8
    expected[first : first + len(codes)] = codes
    assert packed.tolist() == expected.tolist()
    assert fmt.tile_bytes == {2: 320, 4: 576, 8: 1088}[fmt.bits]


def test_small_numbers_and_zeros():
    least, large = 2.0**-126, 2.0**127
    row = [large * 1.5, least, 2.0**-149, 2.0**120, -(2.0**121) * 1.75]
    packed = pack_tiles(tile_with(row), BFP8).ravel()
    assert packed[0] == 254
    assert packed[64:70].tolist() == [96, 0, 0, 0, 0x82, 0]  # 2^120 is half a step, 1.75 · 2^121 one and three quarters
    subnormal = pack_tiles(tile_with([2.0**-149, -(2.0**-130)]), BFP8)
    assert not subnormal.any(), "a block of zeros has exponent 0"
    smallest = pack_tiles(tile_with([least, -least]), BFP8)
    assert smallest.ravel()[[0, 64, 65]].tolist() == [1, 0x40, 0xC0]
    assert unpack_tiles(smallest, BFP8, (1, 3)).tolist() == [[least, -least, 0]]
    for wrong in (np.nan, np.inf, -np.inf):
        with pytest.raises(BitqError, match="NaN or infinity"):
            pack_tiles(tile_with([1, wrong]), BFP8)


def test_dropped_bits_decide_no_tie():
    """Bits of a small number that fall below the 24 of the largest are dropped before it is rounded."""
    tie = 0.5 / 64
    assert pack_tiles(tile_with([1, tie * (1 + 2.0**-20)]), BFP8).ravel()[65] == 0
    assert pack_tiles(tile_with([1, tie * (1 + 2.0**-16)]), BFP8).ravel()[65] == 1
    assert pack_tiles(tile_with([1, tie * 3 * (1 - 2.0**-23)]), BFP8).ravel()[65] == 1


@pytest.mark.parametrize("fmt", TILE_FORMATS)
def test_tiles_are_row_major_and_read_back_as_the_format_rounds(fmt):
    rng = np.random.default_rng(0)
    matrix = (rng.normal(size=(70, 50)) * 2.0 ** rng.integers(-9, 9, (70, 50))).astype(np.float32)
    matrix = (matrix.view(np.uint32) & 0xFFFF0000).view(np.float32)  # of bfloat16, where nothing is dropped
    packed = pack_tiles(matrix, fmt)
    assert packed.shape == (3, 2, fmt.tile_bytes)
    found = unpack_tiles(packed, fmt, matrix.shape)
    expected = package.quantize(torch.from_numpy(matrix), parse_format(f"s{fmt.bits}:e8m0:v16"), 1)
    assert np.array_equal(found, expected.numpy())
    assert np.array_equal(packed, pack_tiles(found, fmt)), "what tiles hold is packed as it is"
    row = matrix[33, 16:32]  # the second row of the tile in the second row of tiles, right face
    exponent = max(abs(Fraction(float(x))) for x in row)
    assert 2.0 ** (int(packed[1, 0, 17]) - 127) <= exponent < 2.0 ** (int(packed[1, 0, 17]) - 126)


def formats(weight, activation="s8:e8m0:v16"):
    fmt = parse_format(activation)
    return TensorFormats(fmt, parse_format(weight), fmt)


def exported(folder, model):
    handed = export(model, None, folder / "net.json", to="tenstorrent")
    with safe_open(folder / "net.safetensors", "numpy") as file:
        tiles = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        told = {each["tensor"]: each for each in json.loads(file.metadata()["tensors"])}
    return handed, json.loads((folder / "net.json").read_text()), tiles, told


@pytest.mark.parametrize(
    ("weight", "dtype", "override"),
    [
        ("8:e4:b16", "Bfp4_b", "bfp_bf4"),
        ("s2:e8m0:v32", "Bfp2_b", "bfp_bf4"),
        ("n3:e8m0:v16", "Bfp4_b", "bfp_bf4"),
        ("s5:e5m0:b64", "Bfp8_b", "bfp_bf8"),
        ("mxfp4", "Bfp8_b", "bfp_bf8"),
    ],
)
def test_linear_layers_are_held_in_the_narrowest_format(weight, dtype, override, tmp_path):
    torch.manual_seed(0)
    layer = nn.Linear(70, 40)
    model = nn.Sequential(layer)
    package.apply(model, {"0": formats(weight)})
    handed, overrides, tiles, told = exported(tmp_path, model)
    assert overrides == {"0.weight": override}
    known = told["0.weight"]
    assert (known["dtype"], known["held"], known["layout"]) == (dtype, True, [40, 70])
    fmt = next(each for each in TILE_FORMATS if each.name == dtype)
    expected = package.quantize(layer.weight.detach(), parse_format(weight), 1)
    assert np.array_equal(unpack_tiles(tiles["0.weight"], fmt, (40, 70)), expected.numpy())
    assert handed.figures == {"overrides": 1, "weights_in_tiles": 1, "tile_bytes": 6 * fmt.tile_bytes}
    assert told["0.input"] == told["0.output"] | {"tensor": "0.input"}
    assert (told["0.input"]["dtype"], told["0.input"]["held"]) == ("Bfp8_b", True)
    assert any("nobody has run this on Tenstorrent" in note for note in handed.notes)
    assert handed.ran(model, None).startswith("Not run: nobody")


def test_what_no_format_of_theirs_holds_is_told_with_how_far_it_is_off(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 20, 3), nn.Conv2d(20, 20, 3, groups=4), nn.Flatten(), nn.Linear(32, 4))
    with torch.no_grad():
        model[0].weight *= 2.0 ** -torch.arange(0, 10, 0.5).floor().reshape(20, 1, 1, 1)
    package.apply(
        model, {"0": formats("8:e4:b16"), "1": formats("8:e4:b16", "int8-tensor"), "3": formats("int8", "bf16")}
    )
    handed, overrides, tiles, told = exported(tmp_path, model)
    assert overrides == {"0.weight": "bfp_bf8", "1.weight": "bfp_bf8", "3.weight": "bfp_bf8"}
    assert set(tiles) == {"0.weight", "3.weight"}
    found = unpack_tiles(tiles["0.weight"], BFP8, (144, 20))
    expected = package.quantize(model[0].weight.detach(), parse_format("8:e4:b16"), 1, (2, 3))
    ordered = expected.permute(2, 3, 1, 0).reshape(144, 20).numpy()  # window, input channels, output channels
    off = np.abs(found - ordered)
    assert 30 < told["0.weight"]["snr_db"] < 60
    assert 0 < off.max() <= np.abs(ordered).max() / 64
    assert told["1.input"]["dtype"] is None
    notes = " ".join(handed.notes)
    assert re.search(r"holds \d of 3 weights as they are; Bfp8_b comes next to them, the farthest .* dB\)", notes)
    assert "no tiles of 1.weight (8:e4:b16): ttnn itself lays out grouped" in notes
    assert "of the device has the numbers of 1.input (i8:f32:tensor), 1.output" in notes


@pytest.mark.parametrize(
    ("weight", "says"), [("s12:e8m0:v16", "have more than the 8 bits of Bfp8_b"), ("i16:f32:channel", "have more than")]
)
def test_wider_weights_are_refused_before_anything_is_written(weight, says, tmp_path):
    model = nn.Sequential(nn.Linear(20, 4))
    package.apply(model, {"0": formats(weight)})
    with pytest.raises(BitqError, match=f"^weight '0.weight' has the format .*{says}"):
        export(model, None, tmp_path / "net.json", to="tenstorrent")
    with pytest.raises(BitqError, match=r"must end in \.json"):
        export(model, None, tmp_path / "net", to="tenstorrent")
    package.apply(model, {"0": TensorFormats(parse_format("mxint8"))})
    with pytest.raises(BitqError, match="no weight with a format"):
        export(model, None, tmp_path / "net.json", to="tenstorrent")
    assert not list(tmp_path.iterdir())
