"""Traffic and energy against the size of a memory, against the same layers moved one by one."""

import json
import math
from dataclasses import asdict, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from bitq.devices import Device, Memory, load_device
from bitq.errors import BitqError
from bitq.formats import BlockFormat, TensorFormats, grid
from bitq.layers import Layer
from bitq.movement import optimize
from bitq.movement import sweep as module
from bitq.movement.bound import compulsory
from bitq.movement.levels import movement
from bitq.movement.sweep import FLOAT, Sweep, by_module, sweep
from bitq.movement.widths import widths
from bitq.report import charts
from bitq.report.sweep import picture, sweep_figures, verdicts
from strategies import layers

E3 = BlockFormat(8, 3, 16)
UNIFORM = TensorFormats(E3, E3, E3)
SMALL = {"N": 2, "K": 3, "C": 3, "P": 5, "Q": 3, "R": 2, "S": 2}
CONV = Layer("conv", K=8, C=4, P=8, Q=8, R=3, S=3, padding=(1, 1), module="conv")
FORMATS = st.none() | st.sampled_from(grid(8) + grid(16))


@st.composite
def nested(draw):
    """One to three memories, each larger than the one inside of it, and DRAM."""
    sizes = sorted(draw(st.lists(st.integers(16, 400), min_size=1, max_size=3, unique=True)))
    memories = [
        Memory(f"m{i}", 8.0 * size, draw(st.sampled_from([0.0, 0.16, 3.5])), "") for i, size in enumerate(sizes)
    ]
    return Device("any", "any", "", (*memories, Memory("DRAM", math.inf, 20.0, "")))


def resized(device, name, size):
    memories = (replace(each, capacity_bits=8 * size) if each.name == name else each for each in device.memories)
    return replace(device, memories=tuple(memories))


@given(st.data())
@settings(max_examples=60)
def test_every_size_moves_what_its_layers_move(data):
    network = data.draw(st.lists(layers(most=SMALL), min_size=1, max_size=3))
    network += data.draw(st.lists(st.sampled_from(network), max_size=2))  # equal shapes, in other formats perhaps
    formats = {name: [TensorFormats(*(data.draw(FORMATS) for _ in range(3))) for _ in network] for name in ("a", "b")}
    device = data.draw(nested())
    name = data.draw(st.sampled_from([memory.name for memory in device.memories[:-1]]))
    boundary = next(i for i, (memory, _) in enumerate(device.boundaries) if memory.name == name)
    found = sweep(network, formats, device, memory=name, most_bytes=None if boundary else 1024)
    assert (found.memory, found.source) == tuple(each.name for each in device.boundaries[boundary])
    assert [series.name for series in found.series] == [FLOAT, "a", "b"]
    for series, own in zip(found.series, ([TensorFormats()] * len(network), *formats.values()), strict=True):
        sizes = [widths(layer, each) for layer, each in zip(network, own, strict=True)]
        for size, bits, energy in zip(found.sizes_bytes, series.traffic_bits, series.energy_pj, strict=True):
            there = resized(device, name, size)
            levels = [movement(layer, q, there) for layer, q in zip(network, sizes, strict=True)]
            assert bits == math.fsum(each[boundary].bits for each in levels)
            assert energy == pytest.approx(sum(level.energy_pj for each in levels for level in each), rel=1e-12)
        assert series.floor_bits == math.fsum(compulsory(a).bits(q) for a, q in zip(network, sizes, strict=True))
        assert series.floor_bits <= min(series.traffic_bits)
        if boundary == 0:
            assert all(wider <= narrower for narrower, wider in pairwise(series.traffic_bits))
        at_own = found.series[0].traffic_bits[found.reference]
        for told, target in ((series.float_bytes, at_own), (series.floor_bytes, series.floor_bits)):
            enough = [size for size, bits in zip(found.sizes_bytes, series.traffic_bits, strict=True) if bits <= target]
            assert told == (enough[0] if enough else None)


def test_sizes_are_powers_of_two_their_halves_and_the_ends():
    device = load_device("stm32f103c8")
    found = sweep([CONV], {}, device, least_bytes=700, most_bytes=5000)
    assert found.sizes_bytes == (700, 768, 1024, 1536, 2048, 3072, 4096, 5000)
    assert found.reference_bytes == 5000  # nearest to the 20 KiB there are
    assert sweep([CONV], {}, device, least_bytes=32768, most_bytes=32768).sizes_bytes == (32768,)
    found = sweep([CONV], {}, device)
    assert (found.sizes_bytes[0], found.sizes_bytes[-1], found.reference_bytes) == (1 << 10, 4 << 20, 20480)
    assert 20480 in found.sizes_bytes
    assert sweep([CONV], {}, device, memory="registers").sizes_bytes[0] == 52
    assert sweep([CONV], {}, device, memory="registers").sizes_bytes[-1] == 20480


def test_sizes_stay_between_the_neighbours():
    device = load_device("stm32h743")
    assert sweep([CONV], {}, device).sizes_bytes[0] == 131072  # what the DTCM inside of it holds
    with pytest.raises(BitqError, match="DTCM inside of it; begin with 131072"):
        sweep([CONV], {}, device, least_bytes=1024)
    with pytest.raises(BitqError, match="AXI SRAM outside of it; end with 524288"):
        sweep([CONV], {}, device, memory="DTCM", most_bytes=1 << 20)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"memory": "L1"}, "no memory 'L1' of limited size; give registers, SRAM"),
        ({"memory": "external"}, "no memory 'external'"),
        ({"least_bytes": 4096, "most_bytes": 2048}, "4096 to 2048 bytes"),
        ({"least_bytes": 0}, "cannot span 0"),
        ({"least_bytes": math.nan}, "cannot span nan"),
        ({"most_bytes": math.inf}, "to inf"),
        ({"memory": "registers", "least_bytes": 4}, "fits no tiling"),
    ],
)
def test_mistakes_are_told(arguments, said):
    with pytest.raises(BitqError, match=said):
        sweep([CONV], {}, load_device("stm32f103c8"), **arguments)


def test_float32_is_always_there_and_nothing_else_is_called_so():
    device = load_device("stm32f103c8")
    with pytest.raises(BitqError, match="other names than 'float32'"):
        sweep([CONV], {FLOAT: [UNIFORM]}, device)
    with pytest.raises(BitqError, match="at least one layer"):
        sweep([], {}, device)


def test_products_of_activations_take_formats():
    product = Layer("scores", N=16, K=16, C=8, weight_is_parameter=False)
    float32, other = sweep([product], {"8": [UNIFORM]}, load_device("stm32f103c8")).series
    assert other.floor_bits < 0.3 * float32.floor_bits


def test_formats_of_modules():
    other = replace(CONV, name="other", module="other")
    assert by_module([CONV, other, CONV], {"conv": UNIFORM}) == (UNIFORM, TensorFormats(), UNIFORM)
    beside = replace(CONV, name="conv.matmul", weight_is_parameter=False)
    own = replace(beside, module="conv.matmul")
    assert by_module([beside, own], {"conv": UNIFORM, "conv.matmul": UNIFORM}) == (TensorFormats(), UNIFORM)


def test_equal_shapes_are_solved_once_and_progress_is_told(monkeypatch):
    calls, steps = [], []

    def counted(layer, triples, device):
        calls.append((layer, len(triples)))
        return movement_many(layer, triples, device)

    movement_many = module.movement_many
    monkeypatch.setattr(module, "movement_many", counted)
    network = [CONV, replace(CONV, name="again", module="again"), replace(CONV, name="wide", K=9)]
    found = sweep(
        network,
        {"8": [UNIFORM] * 3, "same": [UNIFORM] * 3},
        load_device("stm32f103c8"),
        progress=lambda what, done, total: steps.append((done, total)),
    )
    assert len(calls) == 2 * len(found.sizes_bytes)
    assert {count for _, count in calls} == {2}  # widths of float32 and of the format
    assert list(dict.fromkeys(steps)) == [(done, len(calls)) for done in range(len(calls))]  # told again and again


def test_the_outermost_memory_is_the_optimum_of_one_buffer():
    found = sweep([CONV], {"8": [UNIFORM]}, load_device("eyeriss"))
    for series, formats in zip(found.series, (TensorFormats(), UNIFORM), strict=True):
        for size, bits in zip(found.sizes_bytes, series.traffic_bits, strict=True):
            assert bits == optimize(CONV, widths(CONV, formats), 8 * size).bits


def example(**changes):
    found = sweep([CONV], {"8:e3:b16": [UNIFORM], "plan": [UNIFORM]}, load_device("stm32f103c8"))
    return replace(found, **changes)


def test_a_sweep_survives_the_store_and_damage_is_refused():
    found = example()
    stored = json.loads(json.dumps(asdict(found)))
    read = TypeAdapter(Sweep).validate_python
    assert read(stored) == found
    first = stored["series"][0]
    for damage in (
        {"reference_bytes": 7.0},
        {"sizes_bytes": stored["sizes_bytes"][1:]},
        {"series": [{**first, "traffic_bits": [math.nan] * len(stored["sizes_bytes"])}]},
        {"series": [{**first, "floor_bits": 0.0}]},
        {"series": [{**first, "energy_pj": [-1.0] * len(stored["sizes_bytes"])}]},
        {"series": [{**first, "energy_pj": first["energy_pj"][1:]}]},
    ):
        with pytest.raises(ValueError, match="sweep"):
            read({**stored, **damage})


def test_verdicts_say_what_is_needed():
    found = example()
    series = found.series[1]
    assert verdicts(found)[0] == (
        "8:e3:b16 needs at most 1 KiB for the traffic that float32 has at 20 KiB, and at most 1 KiB to move nothing "
        "twice, where float32 needs 1.5 KiB."
    )
    assert verdicts(found)[1].startswith("The plan needs at most 1 KiB for")
    never = replace(series, float_bytes=None, floor_bytes=1.5 * 2**20)
    assert verdicts(replace(found, series=(found.series[0], never))) == [
        "8:e3:b16 needs more than 4 MiB for the traffic that float32 has at 20 KiB, and 1.5 MiB to move nothing "
        "twice, where float32 needs 1.5 KiB."
    ]
    assert verdicts(replace(found, series=found.series[:1])) == ["float32 needs 1.5 KiB to move nothing twice."]


def test_charts_hold_every_point():
    found = example()
    specs = sweep_figures(found)
    assert list(specs) == ["buffer-traffic", "buffer-energy"]
    for spec in specs.values():
        rows = spec["datasets"]["rows"]
        assert len(rows) == len(found.series) * len(found.sizes_bytes)
        assert rows[0] == {
            "series": FLOAT,
            "kib": 1.0,
            "traffic": found.series[0].traffic_bits[0] / 1e6,
            "energy": found.series[0].energy_pj[0] / 1e6,
        }
        kinds = [mark["kind"] for mark in spec["datasets"]["marks"]]
        assert kinds == ["own", "level", *["floor"] * 3, *["reached"] * 3]
    color = json.dumps(specs["buffer-traffic"])
    assert charts.ORANGE in color  # the plan
    assert charts.GREY in color  # float32


def test_a_device_without_energies_has_no_chart_of_them():
    found = example()
    free = [replace(series, energy_pj=(0.0,) * len(found.sizes_bytes)) for series in found.series]
    assert list(sweep_figures(replace(found, series=tuple(free)))) == ["buffer-traffic"]
    assert picture(replace(found, series=tuple(free)), "free", "svg").startswith(b"<svg")


def test_one_size_is_drawn_too():
    found = sweep([CONV], {"8:e3:b16": [UNIFORM]}, load_device("stm32f103c8"), least_bytes=2048, most_bytes=2048)
    drawn = picture(found, "one size", "svg").decode()
    assert "8:e3:b16 needs at most 2 KiB for the traffic that float32 has at 2 KiB" in drawn
