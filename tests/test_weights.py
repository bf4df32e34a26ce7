"""A quantized network on disk is what it was in memory, as small as promised, and nothing else is taken for one."""

import hashlib
import json
import struct

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tiny
from bitq.accuracy.finetune import Training, finetune
from bitq.accuracy.kinds import kind_of
from bitq.accuracy.quantized import apply, observing, weight_in_use
from bitq.errors import BitqError
from bitq.formats import BlockFormat, TensorFormats, parse_format
from bitq.numerics import quantize
from bitq.tracing import trace
from bitq.tradeoff.space import build_space, stored_bytes
from bitq.tradeoff.weights import load_into, load_weights, save_weights

FORMATS = (BlockFormat(8, 2, 1), BlockFormat(8, 3, 16), BlockFormat(8, 6, 48), BlockFormat(16, 7, 4))

NETWORKS = {
    "convolutions": (tiny.network, (1, 1, 8, 8)),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(6, 9, (3, 2), groups=3), nn.PReLU(9)), (1, 6, 8, 8)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(6, 10, (2, 3), 2, groups=2)), (1, 6, 5, 5)),
    "one axis": (lambda: nn.Sequential(nn.Conv1d(3, 7, 5), nn.ConvTranspose1d(7, 2, 4)), (1, 3, 16)),
    "linear": (lambda: nn.Sequential(nn.Linear(50, 9), nn.Linear(9, 4, bias=False)), (1, 50)),
    "the root": (lambda: nn.Linear(33, 5), (1, 33)),
}


def bits_of(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_weights_return_bit_by_bit(tmp_path, name, fmt):
    make, shape = NETWORKS[name]
    model, path = make(), tmp_path / "weights.safetensors"
    layers = trace(model, torch.empty(shape, device="meta"))
    weights = {layer.module: model.get_submodule(layer.module).weight.nbytes for layer in layers}
    formats = {module: TensorFormats(None, fmt, None) for module in weights}
    float_state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    biases = save_weights(path, model, formats)

    apply(model, formats)
    expected = dict(float_state)
    for module in formats:
        expected[f"{module}.weight".lstrip(".")] = weight_in_use(model.get_submodule(module))
    loaded = load_weights(path)
    assert loaded.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(bits_of(loaded[key]), bits_of(tensor)), key
        assert loaded[key].dtype == tensor.dtype
    assert biases.keys() == formats.keys()

    fresh = make()
    load_into(fresh, path)
    for key, tensor in fresh.state_dict().items():
        assert torch.equal(bits_of(tensor), bits_of(expected[key]))
        assert tensor.shape == float_state[key].shape

    space = build_space(layers, weights, stored_bytes(model), tiny.DEVICE, [fmt])
    content = path.read_bytes()
    assert len(content) - 8 - struct.unpack("<Q", content[:8])[0] == space.cost(space.uniform(0)).model_bytes


def test_tensors_without_a_format_stay_as_they_are(tmp_path):
    model, path = tiny.network(), tmp_path / "new" / "weights.safetensors"
    fmt = BlockFormat(8, 3, 4)
    assert list(save_weights(path, model, {"0": TensorFormats(fmt, None, fmt), "8": TensorFormats(None, fmt)})) == ["8"]
    loaded, state = load_weights(path), model.state_dict()
    assert [key for key, tensor in state.items() if not torch.equal(loaded[key], tensor)] == ["8.weight"]


@pytest.mark.parametrize(
    "text", ["mxfp4", "nvfp4", "int8", "uint8", "bsfp", "flexblock12", "bf16", "l(-1;0;1):f32:channel"]
)
def test_weights_of_any_format(tmp_path, text):
    """Each as the numbers that `quantize` gives, in as many bytes as its format says."""
    fmt, path = parse_format(text), tmp_path / "weights.safetensors"
    model = tiny.network()
    assert save_weights(path, model, dict.fromkeys(("0", "3", "8"), TensorFormats(weight=fmt))) == {}
    loaded = load_weights(path)
    with safetensors.safe_open(path, framework="pt") as file:
        for name in ("0", "3", "8"):
            layer = model.get_submodule(name)
            shape, dim, inner = kind_of(layer).blocks(layer, tuple(layer.weight.shape))
            expected = quantize(layer.weight.detach().reshape(shape), fmt, dim, inner).reshape(layer.weight.shape)
            assert torch.equal(bits_of(loaded[f"{name}.weight"]), bits_of(expected))
            assert file.get_slice(f"{name}.weight").get_shape() == [-(-fmt.num_bits(shape, dim, inner) // 8)]


def test_files_of_the_schema_before_are_read(content, path, tmp_path):
    before = tmp_path / "before.safetensors"
    path.write_bytes(content)
    before.write_bytes(tampered(content, lambda told: told.update(schema_version=2)))
    expected, loaded = load_weights(path), load_weights(before)
    assert expected.keys() == loaded.keys()
    assert all(torch.equal(bits_of(tensor), bits_of(expected[name])) for name, tensor in loaded.items())


def test_weights_that_diverged_are_refused_and_nothing_is_written(tmp_path):
    model = tiny.network()
    with torch.no_grad():
        model[8].weight[0, 0] = torch.nan
    with pytest.raises(BitqError, match="NaN or infinite"):
        save_weights(tmp_path / "weights.safetensors", model, {"8": TensorFormats(None, FORMATS[0], None)})
    assert not list(tmp_path.iterdir())


def test_a_loaded_network_computes_the_same_bits(tmp_path):
    """Quantizing twice changes nothing, so the weights and with them the outputs are equal bit by bit."""
    model, fmt = tiny.network(), BlockFormat(8, 4, 16)
    with torch.no_grad(), observing(model, ("0", "3", "8")) as seen:
        model.eval()(tiny.images(100, 1)[0])
    formats = dict.fromkeys(("0", "3", "8"), TensorFormats(fmt, fmt, fmt))
    apply(model, formats, seen)
    finetune(model, tiny.loader(500, 1), Training(steps=10))
    save_weights(tmp_path / "weights.safetensors", model, formats)
    other = tiny.network(seed=1).eval()
    load_into(other, tmp_path / "weights.safetensors")
    apply(other, formats, seen)
    with torch.no_grad():
        inputs = tiny.images(200, 2)[0]
        assert torch.equal(other(inputs), model(inputs))


# Files that are something else


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of a file of weights."""
    path = tmp_path_factory.mktemp("saved") / "weights.safetensors"
    fmt = BlockFormat(8, 3, 4)
    save_weights(path, tiny.network(), dict.fromkeys(("0", "3", "8"), TensorFormats(fmt, fmt, fmt)))
    return path.read_bytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


def test_a_file_cut_short_is_refused(content, path):
    for length in [0, 7, 8, 100, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(BitqError, match=r"weights\.safetensors"):
            load_weights(path)


def test_other_files_are_refused(path):
    with pytest.raises(BitqError, match=r"weights\.safetensors"):
        load_weights(path)
    safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(BitqError, match="has no packed tensors"):
        load_weights(path)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(BitqError, match="safetensors"):
        load_weights(path)


def tampered(content, change):
    """The file with another description of its packed weights, and the checksum that goes with it."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    told = json.loads(header["__metadata__"]["bitq"])
    change(told)
    header["__metadata__"]["bitq"] = json.dumps(told)
    return sealed(header, content[8 + length :])


def sealed(header, data):
    """A file with this header and the checksum that the documented layout says."""
    header["__metadata__"]["bitq_sha256"] = "0" * 64
    text = json.dumps(header).encode()
    begin = struct.pack("<Q", len(text)) + text
    digest = hashlib.sha256(data + begin).hexdigest().encode()
    return begin.replace(b"0" * 64, digest) + data


def entry(**changes):
    return lambda told: told["packed"]["0.weight"].update(changes)


@pytest.mark.parametrize(
    "change",
    [
        entry(format="8:e3"),
        entry(format="8:e4:b4"),
        entry(format="8:e9:b4"),
        entry(format="mxfp4"),
        entry(format="e2m1:e8m0:v4", exponent_bias=None),
        entry(format="l(" + "0;" * 4000 + "1):f32:tensor", exponent_bias=None),
        entry(exponent_bias=None),
        entry(shape=[6, 1, 3, 2]),
        entry(shape=[6, 1, 3, 1 << 39]),
        entry(shape=[1 << 40] * 8),
        entry(shape=[-6, 1, 3, 3]),
        entry(shape=[]),
        entry(dim=4),
        entry(dim=-1),
        entry(dim=2),
        entry(inner_dims=[2, 2]),
        entry(inner_dims=[7]),
        entry(inner_dims=[2, 3] * 50_000),
        entry(exponent_bias=10**6),
        entry(exponent_bias=10**30),
        entry(exponent_bias=0.5),
        entry(extra=1),
        entry(dtype="float64"),
        entry(blocked_shape=[6, 1, 3, 2]),
        entry(blocked_shape=[54]),
        lambda told: told["packed"].update({"9.weight": told["packed"]["0.weight"]}),
        lambda told: told["packed"].update({"1.weight": told["packed"]["0.weight"]}),
        lambda told: told.update(schema_version=1),
        lambda told: told.pop("packed"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(content, path, change):
    path.write_bytes(tampered(content, lambda told: None))
    load_weights(path)
    path.write_bytes(tampered(content, change))
    with pytest.raises(BitqError, match=r"weights\.safetensors") as caught:
        load_weights(path)
    assert len(str(caught.value)) < len(str(path)) + 250


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (entry(shape=[6, 1, 3, 1 << 39]), "a packed tensor of shape (6, 1, 3, 549755813888) has more than"),
        (entry(shape=[0] + [1 << 40] * 7), "has more than"),
        (entry(format="x" * 9000), "format must be a text of at most 8192 characters, not 'xxxx"),
        (entry(exponent_bias=10**30), "exponent_bias must be a number of at most 1048576, not"),
        (entry(extra=1), "extra is an entry that is not known; leave it out"),
        (lambda told: told["packed"].update({"x" * 5000: told["packed"]["0.weight"]}), "its header names 'xxxx"),
    ],
)
def test_what_does_not_fit_is_told_in_plain_words(content, path, change, says):
    path.write_bytes(tampered(content, change))
    with pytest.raises(BitqError) as caught:
        load_weights(path)
    told = str(caught.value)
    assert says in told
    assert len(told.replace(str(path), "")) < 250


def refused_in_one_sentence(path):
    """Why a file is refused, or None if it loads into no more memory than its bits can stand for."""
    try:
        tensors = load_weights(path)
    except BitqError as error:
        refusal = str(error)
    else:
        most = 16 * path.stat().st_size  # a float of 32 bits for every mantissa of two
        assert sum(tensor.nbytes for tensor in tensors.values()) <= most
        return None
    assert "\n" not in refusal
    assert str(path) in refusal
    return refusal


@settings(max_examples=300)
@given(data=st.data())
def test_damage_is_told(content, tmp_path_factory, data):
    """Whatever bytes change, are missing or come after the end: the same tensors, or one sentence."""
    damaged = bytearray(content)
    kind = data.draw(st.sampled_from(["bytes", "bytes", "cut", "longer"]))
    if kind == "cut":
        del damaged[data.draw(st.integers(0, len(content) - 1)) :]
    elif kind == "longer":
        damaged += data.draw(st.binary(min_size=1, max_size=9))
    for _ in range(data.draw(st.integers(1, 3)) if kind == "bytes" else 0):
        damaged[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(bytes(damaged))
    if refused_in_one_sentence(path) is None:
        assert bytes(damaged) == content


@settings(max_examples=300)
@given(data=st.data())
def test_forgeries_are_tensors_or_refused(content, tmp_path_factory, data):
    """With a checksum that is right, any header and any data."""
    length = struct.unpack("<Q", content[:8])[0]
    header, told = json.loads(content[8 : 8 + length]), None
    damaged = bytearray(content[8 + length :])
    for _ in range(data.draw(st.integers(0, 2))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    told = json.loads(header["__metadata__"]["bitq"])
    entries = list(told["packed"].values())
    values = st.integers(-(2**70), 2**70) | st.integers(-9, 9) | st.text(max_size=9) | st.none() | st.booleans()
    values |= st.lists(st.integers(0, 9) | st.sampled_from([1 << 39, 1 << 40]), max_size=9)
    formats = st.builds("{}:e{}:b{}".format, *[st.integers(1, 33)] * 3)
    for _ in range(data.draw(st.integers(0, 2))):
        where = data.draw(st.sampled_from([*entries, header["0.weight"], told, header["__metadata__"]]))
        where[data.draw(st.sampled_from([*where, "other"]))] = data.draw(values | formats)
    if header["__metadata__"].get("bitq") is not None and data.draw(st.booleans()):
        header["__metadata__"]["bitq"] = json.dumps(told)
    path = tmp_path_factory.getbasetemp() / "forged.safetensors"
    path.write_bytes(sealed(header, bytes(damaged)))
    refused_in_one_sentence(path)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (lambda: nn.Sequential(nn.Conv2d(1, 6, 3, bias=True)), "it has no '0.bias'"),
        (lambda: nn.Sequential(nn.Conv2d(1, 6, 5, bias=False)), "it has no '0.weight' of shape"),
        (lambda: nn.Sequential(nn.Conv2d(1, 6, 3, bias=False)), "the network has no '1."),
    ],
)
def test_another_network_is_refused_and_unchanged(content, path, other, reason):
    path.write_bytes(content)
    model = other()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(BitqError, match="is of another network") as caught:
        load_into(model, path)
    assert reason in str(caught.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_an_equal_number_of_elements_is_no_equal_shape(content, path):
    path.write_bytes(content)
    model = tiny.network()
    model[8] = nn.Linear(tiny.CLASSES, 24)  # its weight is transposed
    model[8].bias = nn.Parameter(torch.zeros(4))
    with pytest.raises(BitqError, match=r"another network.*'8\.weight'"):
        load_into(model, path)


def changed(content, name, dtype, data):
    """The file with other numbers in an unpacked tensor, moved to where no alignment matters: the end."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    begin, end = header[name]["data_offsets"]
    kept = content[8 + length :]
    for each in header.values():
        if "data_offsets" in each and each["data_offsets"][0] >= end:
            each["data_offsets"] = [offset - (end - begin) for offset in each["data_offsets"]]
    kept = kept[:begin] + kept[end:]
    header[name] |= {"dtype": dtype, "data_offsets": [len(kept), len(kept) + len(data)]}
    return sealed(header, kept + data)


@pytest.mark.parametrize(
    ("dtype", "data", "reason"),
    [
        ("F32", struct.pack("<4f", 1, 2, float("nan"), 4), "'8.bias' is not finite"),
        ("F32", struct.pack("<4f", 1, 2, 3, float("-inf")), "'8.bias' is not finite"),
        ("F64", struct.pack("<4d", 1, 2, 3, 1e300), "'8.bias' is not finite"),
        ("C64", struct.pack("<8f", *range(8)), "'8.bias' is of torch.complex64, but torch.float32 in the network"),
        ("F8_E8M0", bytes(4), "'8.bias' is of torch.float8_e8m0fnu, but torch.float32"),
        ("I32", struct.pack("<4i", 1, 2, 3, 4), "'8.bias' is of torch.int32, but torch.float32"),
    ],
)
def test_numbers_that_no_training_leaves_are_refused(content, path, dtype, data, reason):
    model = tiny.network()
    path.write_bytes(changed(content, "8.bias", "F32", struct.pack("<4f", 1, 2, 3, 4)))
    load_into(model, path)
    assert model[8].bias.tolist() == [1, 2, 3, 4]
    path.write_bytes(changed(content, "8.bias", dtype, data))
    with pytest.raises(BitqError, match=reason):
        load_into(model, path)
    assert model[8].bias.tolist() == [1, 2, 3, 4]


def test_what_is_no_parameter_may_be_infinite(path):
    """As the mask of an attention layer is."""
    model = tiny.network()
    model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    save_weights(path, model, {})
    other = tiny.network()
    other.register_buffer("mask", torch.zeros(3, 3))
    load_into(other, path)
    assert torch.equal(other.mask, model.mask)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1])
def test_empty_tensors_that_claim_absurd_axes_are_refused(content, path, length):
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    header["other"] = {"dtype": "F32", "shape": [0, length], "data_offsets": [len(data)] * 2}
    path.write_bytes(sealed(header, data))
    with pytest.raises(BitqError, match=r"weights\.safetensors: 'other'"):
        load_weights(path)
