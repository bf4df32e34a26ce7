"""Quantization under PyTorch's transformations: operators, gradients, compilation, export, vmap, autocast."""

import copy

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn.functional import conv2d

from bitq.formats import BlockFormat
from bitq.numerics import native, ops, quantize, reference, torch_path
from bitq.numerics.recipe import Axes, Recipe

FORMAT, BIAS = BlockFormat(8, 3, 16), -7  # codes reach E = 0: larger elements are clipped
quantize_op, into_op, pass_op = (
    getattr(torch.ops.bitq, name).default for name in ("quantize", "quantize_into", "pass_gradient")
)


def sample(*shape, seed=3):
    return torch.randn(shape or (2, 20, 5, 5), generator=torch.Generator().manual_seed(seed)) * 2


def blocked(x, bias=BIAS):
    return reference.quantize(x.detach(), FORMAT, exponent_bias=bias)[1]


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "scattered": lambda x: x.transpose(0, 2)[:, ::2],
    "bfloat16": lambda x: x.bfloat16(),
    "empty": lambda x: x[:0],
}


@pytest.mark.parametrize("mantissa_bits", [5, 24])
@pytest.mark.parametrize("bias", [None, BIAS])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_operators_are_what_pytorch_expects(layout, bias, mantissa_bits):
    x = LAYOUTS[layout](sample()).requires_grad_()
    args = (str(BlockFormat(mantissa_bits + 3, 3, 16)), 1, [], bias, None, "nearest", None)
    torch.library.opcheck(quantize_op, (x, *args))
    torch.library.opcheck(quantize_op, (x, *args, True))
    torch.library.opcheck(into_op, (x.detach(), *args, torch.empty_like(x.detach())))
    y, clipped = quantize_op(x, *args, True)
    grad = torch.randn_like(y).requires_grad_()
    torch.library.opcheck(pass_op, (grad, clipped, list(y.stride())))


def test_stochastic_operator_is_what_pytorch_expects():
    args = (sample().requires_grad_(), "8:e3:b16", 1, [], BIAS, None, "stochastic", torch.tensor([5]))
    torch.library.opcheck(quantize_op, args)
    torch.library.opcheck(quantize_op, (*args, True))


def test_operator_has_the_gradient_with_and_without_bits():
    x = sample().requires_grad_()
    for with_clipped in (False, True):
        y, _ = quantize_op(x, "8:e3:b16", 1, [], BIAS, None, "nearest", None, with_clipped)
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(grad == 0, blocked(x))
    assert blocked(x).any()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "scattered", "bfloat16"])
def test_gradient_of_any_layout_reaches_the_right_elements(layout):
    x = LAYOUTS[layout](sample()).requires_grad_()
    grad = sample(*x.shape, seed=4).to(x.dtype)
    expected = grad.masked_fill(blocked(x), 0)
    for upstream in (grad, grad.transpose(0, 1).contiguous().transpose(0, 1)):
        (found,) = torch.autograd.grad(quantize(x, FORMAT, exponent_bias=BIAS), x, upstream)
        assert torch.equal(found, expected)


def test_nothing_is_kept_for_backward_unless_something_was_clipped():
    def kept(bias):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            quantize(x, FORMAT, exponent_bias=bias)
        return sum(sizes)

    x = sample().requires_grad_()
    assert kept(3) == kept(None) == 0
    if native._kernel is not None:
        assert kept(BIAS) == -(-x.numel() // 8)


def test_double_backward_sees_through_the_mask():
    x = sample().requires_grad_()
    (grad,) = torch.autograd.grad((quantize(x, FORMAT, exponent_bias=BIAS) ** 3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), x)
    y = quantize(x.detach(), FORMAT, exponent_bias=BIAS)
    assert torch.equal(second, (6 * y).masked_fill(blocked(x), 0))


def test_forward_mode_gives_the_same_derivative():
    x, tangent = sample(), sample(seed=5)
    expected = tangent.masked_fill(blocked(x), 0)
    y, found = torch.func.jvp(lambda t: quantize(t, FORMAT, exponent_bias=BIAS), (x,), (tangent,))
    assert torch.equal(found, expected)
    assert torch.equal(y, quantize(x, FORMAT, exponent_bias=BIAS))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        found = forward_ad.unpack_dual(quantize(dual, FORMAT, exponent_bias=BIAS)).tangent
    assert torch.equal(found, expected)


@pytest.mark.parametrize("bias", [None, BIAS])
@pytest.mark.parametrize("batch_dim", [0, 2])
def test_vmap_treats_each_sample_alone(bias, batch_dim):
    def f(t):
        return quantize(t, FORMAT, dim=0, exponent_bias=bias)

    x = sample(20, 3, 6) * torch.logspace(-3, 3, 6)
    samples = x.unbind(batch_dim)
    found = torch.func.vmap(f, in_dims=batch_dim)(x)
    assert torch.equal(found, torch.stack([f(t) for t in samples]))

    def loss(t):
        return (f(t) ** 2).sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=batch_dim)(x)
    assert torch.equal(found, torch.stack([torch.func.grad(loss)(t) for t in samples]))
    whole = torch.func.grad(lambda t: sum(loss(s) for s in t.unbind(batch_dim)))(x)
    assert torch.equal(found, whole.movedim(batch_dim, 0))


def test_vmap_of_stochastic_rounding_follows_its_randomness():
    x = torch.full((4, 64), 0.3)

    def f(t):
        return quantize(t, FORMAT, dim=0, rounding="stochastic")

    torch.manual_seed(0)
    same = torch.func.vmap(f, randomness="same")(x)
    different = torch.func.vmap(f, randomness="different")(x)
    assert all(torch.equal(row, same[0]) for row in same)
    assert not torch.equal(different[0], different[1])
    with pytest.raises(RuntimeError, match="random"):
        torch.func.vmap(f)(x)


def test_jacobian_is_the_diagonal_of_the_mask():
    x = sample()[0, :, 0, 0]
    jacobian = torch.func.jacrev(lambda t: quantize(t, FORMAT, dim=0, exponent_bias=BIAS))(x)
    mask = reference.quantize(x, FORMAT, dim=0, exponent_bias=BIAS)[1]
    assert torch.equal(jacobian, torch.diag((~mask).float()))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(backend):
    def f(t):
        return quantize(t, FORMAT, exponent_bias=BIAS) * 3

    compiled = torch.compile(f, backend=backend, fullgraph=True)
    for x in (sample(), sample(3, 20, 6, 5)):  # the second with dynamic shapes
        leaf = x.clone().requires_grad_()
        y = compiled(leaf)
        y.sum().backward()
        assert torch.equal(y, f(x))
        assert torch.equal(leaf.grad, 3.0 * ~blocked(x))
        with torch.no_grad():
            assert torch.equal(compiled(x), f(x))


@pytest.mark.parametrize(
    ("dtype", "fmt", "bias", "rounding"),
    [
        (torch.float32, BlockFormat(8, 3, 16), None, "nearest"),
        (torch.float32, BlockFormat(8, 3, 16), -3, "stochastic"),
        (torch.bfloat16, BlockFormat(32, 8, 4), -3, "nearest"),
        (torch.float16, BlockFormat(16, 1, 7), -3, "half_away"),
    ],
)
def test_fused_torch_path_has_the_same_bits(dtype, fmt, bias, rounding):
    raw = torch.randint(-(2**31), 2**31, (4, 50, 31), generator=torch.Generator().manual_seed(1)).to(torch.int32)
    raw = raw.view(torch.float32) if dtype == torch.float32 else raw.to(torch.int16).view(dtype)
    key = torch.tensor([-123456789]) if rounding == "stochastic" else None
    pattern = torch.int32 if dtype == torch.float32 else torch.int16

    def f(t):
        return torch_path.quantize(t, Recipe(fmt, Axes(1), bias, rounding), key, True)

    torch.compiler.reset()
    compiled = torch.compile(f, fullgraph=True)
    for x in (raw, sample(4, 50, 31).to(dtype)):
        (y, clipped), (fused, fused_clipped) = f(x), compiled(x)
        assert torch.equal(y.isnan(), fused.isnan())
        assert torch.equal(y.nan_to_num(7.0).view(pattern), fused.nan_to_num(7.0).view(pattern))
        assert (clipped is None) == (fused_clipped is None)
        assert clipped is None or torch.equal(clipped, fused_clipped)


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(20, 4, 3)

    def forward(self, x):
        weight = quantize(self.conv.weight, FORMAT, inner_dims=(2, 3))
        return quantize(conv2d(quantize(x, FORMAT, exponent_bias=BIAS), weight), FORMAT, exponent_bias=BIAS)


@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_the_operator_and_its_gradient(strict):
    network, x = Network(), sample()
    exported = torch.export.export(network, (x,), strict=strict).module()
    assert torch.equal(exported(x), network(x))
    exported(x).square().sum().backward()
    network(x).square().sum().backward()
    assert torch.allclose(dict(exported.named_parameters())["conv.weight"].grad, network.conv.weight.grad)


def test_tracing_records_the_operator():
    from torch.fx.experimental.proxy_tensor import make_fx

    def f(t):
        return quantize(t, FORMAT, exponent_bias=BIAS)

    other = sample(seed=9)
    for mode in ("real", "fake", "symbolic"):
        assert torch.equal(make_fx(f, tracing_mode=mode)(sample())(other), f(other))
    assert torch.equal(torch.jit.trace(f, sample())(other), f(other))


def test_autocast_leaves_the_dtype_and_the_bits():
    network, x = Network(), sample()
    with torch.autocast("cpu", torch.bfloat16):
        y = quantize(x, FORMAT, exponent_bias=BIAS)
        half = network(x)
    assert torch.equal(y, quantize(x, FORMAT, exponent_bias=BIAS))
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, quantize(half, FORMAT, exponent_bias=BIAS))
    half.sum().backward()
    assert network.conv.weight.grad is not None
    copied = copy.deepcopy(network)
    assert torch.equal(copied(x), network(x))


def test_meta_tensors_keep_shape_and_strides():
    x = torch.empty(2, 9, 4, 4, device="meta").to(memory_format=torch.channels_last)
    y = quantize(x, FORMAT)
    assert (y.shape, y.stride(), y.device.type) == (x.shape, x.stride(), "meta")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "scattered", "bfloat16"])
def test_out_is_written_wherever_it_lies(layout):
    x = LAYOUTS[layout](sample())
    expected = quantize(x, FORMAT)
    for out in (torch.empty_like(x), torch.empty(x.shape[::-1], dtype=x.dtype).permute(3, 2, 1, 0), x.clone()):
        assert quantize(x, FORMAT, out=out) is out
        assert torch.equal(out, expected)
    alias = x.clone(memory_format=torch.preserve_format)
    assert torch.equal(quantize(alias, FORMAT, out=alias), expected)
    memory = torch.zeros(2 * x.numel(), dtype=x.dtype)
    source, target = (memory[at : at + x.numel()].view(x.shape) for at in (0, 20))  # overlapping
    source.copy_(x)
    assert torch.equal(quantize(source, FORMAT, out=target), expected)
    compiled = torch.compile(lambda t, o: quantize(t, FORMAT, out=o), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x, torch.empty_like(x)), expected)


def test_threads_do_not_change_a_bit():
    x = sample(70, 64, 40)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            leaf = x.clone().requires_grad_()
            y = quantize(leaf, FORMAT, 1, (), -8, None, "stochastic", torch.Generator().manual_seed(1))
            y.backward(torch.ones_like(y))
            results.append((y.detach(), leaf.grad, quantize(x, FORMAT)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_torch_path_fuses_to_the_same_bits_and_gradients(device, monkeypatch):
    def f(t, rounding):
        return quantize(t, FORMAT, exponent_bias=BIAS, rounding=rounding)

    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    expected = {rounding: f(sample(), rounding) for rounding in ("nearest", "half_away", "toward_zero")}
    monkeypatch.setattr(ops, "_fused", lambda x: torch.compiler.is_compiling())
    torch.compiler.reset()
    compiled = torch.compile(f, fullgraph=True)
    for rounding, values in expected.items():
        leaf = sample().to(device).requires_grad_()
        y = compiled(leaf, rounding)
        y.sum().backward()
        assert torch.equal(y.cpu(), values)
        assert torch.equal(leaf.grad.cpu() == 0, reference.quantize(sample(), FORMAT, 1, (), BIAS, None, rounding)[1])


def test_philox_gives_its_published_numbers():
    # Random123, kat_vectors: philox4x32 10
    assert reference.philox(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert reference.philox(2**128 - 1, 2**64 - 1) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    key = torch.tensor([-0x123456789ABCDEF])
    assert torch_path.uniforms(torch.Size([131]), key).tolist() == reference.uniforms(int(key) % 2**64, 131)
