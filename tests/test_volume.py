"""3-D convolutions: their loops, formats, stored weights, and a search of a network of them."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import bitq
from bitq.formats import BlockFormat, TensorFormats
from bitq.movement.widths import weight_size, widths
from bitq.numerics import pack, quantize
from bitq.tracing import trace
from test_tracing import convolve, whole

FORMATS = TensorFormats(BlockFormat(8, 3, 4), BlockFormat(8, 2, 4), BlockFormat(8, 4, 8))


@st.composite
def volumes(draw):
    """A 3-D convolution and its input, in whole numbers."""

    def per_axis(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(3))

    groups = draw(st.integers(1, 3))
    channels, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 2))
    module = nn.Conv3d(
        channels, outputs, per_axis(1, 3), per_axis(1, 3), per_axis(0, 2), per_axis(1, 2), groups, bias=False
    ).double()
    return module, whole((draw(st.integers(1, 2)), channels, *per_axis(1, 6)), 2)


def unfolded(module, x):
    """What the layer of two axes reads: rows for each output along the third one, channels for each tap there."""
    taps, stride, padding, dilation = module.kernel_size, module.stride, module.padding, module.dilation
    axis = next((axis for axis in range(3) if taps[axis] == 1 and padding[axis] == 0), 0)
    x = functional.pad(x.movedim(2 + axis, 2), (0, 0, 0, 0, padding[axis], padding[axis]))
    count = (x.shape[2] - dilation[axis] * (taps[axis] - 1) - 1) // stride[axis] + 1
    rows = [
        x[:, :, [output * stride[axis] + tap * dilation[axis] for tap in range(taps[axis])]].flatten(1, 2)
        for output in range(count)
    ]
    return axis, torch.stack(rows, 1).flatten(0, 1)


@given(volumes())
@settings(max_examples=100, deadline=None)
def test_it_computes_what_its_layer_says(case):
    module, x = case
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.weight.copy_(whole(tuple(module.weight.shape), 1))
        try:
            expected = module(x)
        except RuntimeError:
            assume(False)
    (layer,) = trace(nn.Sequential(module), x)
    assert 2 * layer.macs == counter.get_total_flops()
    axis, images = unfolded(module, x)
    weight = module.weight.detach().movedim(2 + axis, 2).flatten(1, 2)
    found = convolve(layer, images, weight)
    found = found.unflatten(0, (len(x), -1)).movedim(1, 2 + axis)
    assert torch.equal(found, expected)
    assert layer.depth == module.kernel_size[axis]
    fmt = FORMATS.weight
    packed = pack(module.weight.detach().float(), fmt, 1, (2, 3, 4))
    assert weight_size(layer, fmt) == -(-packed.num_bits // 8)
    assert widths(layer, FORMATS).input == FORMATS.input.bits_per_element(tuple(x.shape), 1)


def test_its_formats_act_as_written_by_hand():
    conv = nn.Conv3d(6, 4, (3, 2, 3), padding=1)
    net, x = nn.Sequential(conv), torch.randn(2, 6, 4, 5, 5)
    own = quantize(x, FORMATS.input, 1), quantize(conv.weight, FORMATS.weight, 1, (2, 3, 4))
    expected = quantize(functional.conv3d(*own, conv.bias, padding=1), FORMATS.output, 1)
    bitq.apply(net, {"0": FORMATS})
    assert torch.equal(net(x), expected)


class Video(nn.Module):
    """Convolutions over time and place."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv3d(3, 6, (1, 3, 3), padding=(0, 1, 1)), nn.BatchNorm3d(6)
        self.second, self.last = nn.Conv3d(6, 4, 3, stride=2, padding=1), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.second(self.norm(self.first(x)).relu()).mean((2, 3, 4)))


def test_a_network_of_them_is_folded_searched_packed_and_loaded(tmp_path):
    torch.manual_seed(0)
    net, x = Video().eval(), torch.randn(4, 3, 4, 6, 6)
    net.norm.running_mean.normal_()
    before = net(x)
    assert bitq.fold(net, x) == {"first": "norm"}
    assert torch.allclose(net(x), before, atol=1e-5)
    batch = x, torch.tensor([0, 1, 2, 0])
    effort = bitq.Settings.quick(training=bitq.Training(steps=1))
    result = bitq.search(net, [batch], [batch], device="stm32h743", run=tmp_path, formats="8:e4:b16", settings=effort)
    assert [layer.depth for layer in result.plan.layers] == [1, 3, 1]
    fresh = Video()
    bitq.fold(fresh.eval(), x)
    bitq.load_quantized(fresh, tmp_path)
    assert torch.equal(fresh(x), result.model(x))
