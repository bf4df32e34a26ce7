"""Block floating point as AMD Quark's operator has it: attributes, and the numbers that its definition gives."""

import numpy as np
import pytest
import torch
from torch import nn

import tiny
from bitq.errors import BitqError
from bitq.exporting import export
from bitq.formats import TensorFormats, parse_format
from bitq.numerics import quantize
from bitq.numerics.recipe import recipe_for
from test_exporting import calibrated, mixed

onnx = pytest.importorskip("onnx", reason="needs ONNX: pip install 'bitq[onnx]'")
pytest.importorskip("onnxscript", reason="needs ONNX Script: pip install 'bitq[onnx]'")
pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

from bitq.exporting.amd.quark import OPERATOR, QUARK, operator_of  # noqa: E402
from bitq.exporting.standard_onnx.rounding import UnsayableError  # noqa: E402


def defined(block, bit_width, rounding_mode):
    """A block by the operator's definition, number by number: its exponent, a step, a rounding and a bound."""
    exponent = max(int(np.float32(x).view(np.uint32)) >> 23 & 255 for x in block)
    step = 2.0 ** (exponent - 127 - (bit_width - 10))
    bound = 2.0 ** (exponent - 126) - step
    found = []
    for x in map(float, block):
        k = abs(x) / step
        whole = np.floor(k + 0.5) if rounding_mode == 0 else np.rint(k)
        found.append(float(np.copysign(min(whole * step, bound), x)))
    return found


BY_HAND = [  # of bfp16: steps of 1/64 in a block whose largest exponent is 0
    ([1, 1.5 / 64, 2.5 / 64, -0.5 / 64, 127.5 / 64, -0.25, 0, 1 / 128], 2, [64, 2, 2, 0, 127, -16, 0, 0]),
    ([1, 1.5 / 64, 2.5 / 64, -0.5 / 64, 127.5 / 64, -0.25, 0, 1 / 128], 0, [64, 2, 3, -1, 127, -16, 0, 1]),
]


@pytest.mark.parametrize(("block", "mode", "codes"), BY_HAND)
def test_the_definition_is_as_computed_by_hand(block, mode, codes):
    assert defined(block, 16, mode) == [code / 64 for code in codes]


@pytest.mark.parametrize("text", ["amd-bfp16", "s4:e8m0:v16", "s2:e8m0:v4", "msfp12", "s8:e8m0:v8:half_away"])
def test_what_the_operator_is_said_to_compute_is_what_its_definition_gives(text):
    fmt = parse_format(text)
    generator = torch.Generator().manual_seed(0)
    size = fmt.geometry.size
    shape = 40, 4 * size
    x = torch.randn(shape, generator=generator) * 2.0 ** torch.randint(-30, 30, shape, generator=generator)
    ties = quantize(x, fmt, 1) + torch.sign(x) * torch.rand_like(x).round() * 2.0**-3
    x = torch.where(torch.rand(x.shape, generator=generator) < 0.5, x, ties)
    x[:4, :size] = 0
    x[4:8] = x[4:8].sign() * (2 - 2.0**-20)  # rounds up to the next power of two, which saturates
    operator = operator_of(recipe_for(x, fmt, 1), tuple(x.shape))
    assert operator.same
    attributes = operator.attributes
    blocks = x.reshape(-1, size).tolist()
    expected = [defined(block, attributes["bit_width"], attributes["rounding_mode"]) for block in blocks]
    assert torch.equal(quantize(x, operator.format, 1), torch.tensor(expected).reshape(x.shape))
    assert torch.equal(quantize(x, fmt, 1), torch.tensor(expected).reshape(x.shape))


@pytest.mark.parametrize(
    ("text", "bit_width", "block_size", "same"),
    [
        ("amd-bfp16", 16, 8, True),
        ("8:e4:b16", 12, 16, False),
        ("n4:e8m0:v8", 13, 8, True),
        ("s4:e8m0.ceil:v16", 12, 16, False),
        ("s4:e8m0:b24p3", 12, 24, False),
        ("s5:e8m0:t4x8", 13, 8, False),
    ],
)
def test_attributes(text, bit_width, block_size, same):
    fmt = parse_format(text)
    x = torch.randn(2, 48, 6, 6)
    operator = operator_of(recipe_for(x, fmt, 1), (None, 48, 6, 6))
    found = operator.attributes
    assert (found["bit_width"], found["block_size"], operator.same) == (bit_width, block_size, same)
    assert (found["axis"], found["rounding_mode"], found["bfp_method"]) == (1, 2, "to_bfp")
    assert operator.without_negative == text.startswith("n")
    values = quantize(x, fmt, 1)
    assert torch.equal(quantize(values, operator.format, 1), values), "what a tensor has is held as it is"


@pytest.mark.parametrize("text", ["int8", "mxfp4", "s20:e8m0:v8", "s8:e8m0:channel", "s8:e8m0:v64:stochastic", "bsfp"])
def test_what_the_operator_does_not_say(text):
    fmt = parse_format(text)
    with pytest.raises(UnsayableError, match=f"^which {OPERATOR} does not say"):
        operator_of(recipe_for(torch.ones(2, 8), fmt, 1), (None, 8))


class Mixed(nn.Module):
    """Layers of which ONNX has the weight as it is and transposed."""

    def __init__(self):
        super().__init__()
        self.convolve, self.tokens, self.head = nn.Conv2d(1, 16, 3), nn.Linear(16, 24), nn.Linear(24, 4)

    def forward(self, x):
        x = torch.relu(self.convolve(x)).flatten(2).mT
        return self.head(torch.relu(self.tokens(x)).mean(1))


@pytest.mark.parametrize("chosen", [mixed("amd-bfp16", "amd-bfp16"), mixed("8:e4:b8", "4:e2:b8")])
def test_a_network_by_the_operator(chosen, tmp_path):
    torch.manual_seed(0)
    x, _ = tiny.images(40, 1)
    model = calibrated(Mixed().eval(), chosen, x)
    handed = export(model, x[:2], tmp_path / "net.onnx", to="amd")
    content = onnx.load(handed.path)
    assert {(each.domain, each.version) for each in content.opset_import} >= {(QUARK, 1)}
    operators = [node for node in content.graph.node if node.op_type == OPERATOR]
    assert {node.domain for node in operators} == {QUARK}
    assert handed.figures["operators"] == len(operators)
    assert handed.figures["weights_by_operator"] == 3
    assert {node.op_type for node in content.graph.node} <= {
        OPERATOR, "Conv", "Relu", "Reshape", "Transpose", "MatMul", "Add", "ReduceMean", "Gemm"
    }  # fmt: skip
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in content.graph.initializer}
    (tokens,) = [node for node in operators if node.input[0] == "tokens.weight.quantized"]
    assert weights["tokens.weight.quantized"].shape == (16, 24), "transposed beforehand, as MatMul reads it"
    assert next(each.i for each in tokens.attribute if each.name == "axis") == 0
    told = handed.ran(model, x)
    assert "nobody has run this on AMD's hardware" in told
    notes = " ".join(handed.notes)
    if chosen.weight == parse_format("amd-bfp16"):
        assert "not BFP16" not in notes
        assert "finer steps" not in notes
        assert "ONNX Runtime gives" in told
    else:
        assert "9 of 9 operators are not BFP16" in notes
        assert "finer steps: convolve (8:e4:b8)" in notes


def test_integers_go_as_pairs_and_what_nothing_says_is_told(tmp_path):
    torch.manual_seed(0)
    x, _ = tiny.images(40, 1)
    model = calibrated(Mixed().eval(), mixed("int8-tensor", "int4"), x)
    handed = export(model, x[:2], tmp_path / "net.onnx", to="amd")
    assert (handed.figures["pairs"], handed.figures["packed_weights"], handed.figures["operators"]) == (6, 3, 0)
    model = calibrated(Mixed().eval(), TensorFormats(parse_format("mxfp4")), x)
    with pytest.raises(BitqError, match=r"^an activation of module '\w+' has .* does not say: it has integers"):
        export(model, x[:2], tmp_path / "other.onnx", to="amd")
    assert not (tmp_path / "other.onnx").exists()
