"""Exact networks: the same whole numbers under every library, layout, number of threads and batch."""

import pytest
import torch
from torch import nn

from stereopsis.compression.integer import (
    FRACTION,
    IntegerNet,
    quantize,
    shift_right,
    to_fixed,
    whole_state,
)
from stereopsis.compression.layers import conv, deconv
from stereopsis.zoo.weights import full_state


def _net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(deconv(16, 24), nn.ReLU(), deconv(24, 32), nn.ReLU(), conv(32, 48, 3, 1))


@pytest.fixture(scope="module")
def exact() -> IntegerNet:
    net = IntegerNet(_net())
    net.freeze()
    return net


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(-3000, 3000, (2, 16, 7, 9), generator=generator).double()


@pytest.fixture(scope="module")
def expected(exact, x) -> torch.Tensor:
    return exact.integer(x)


def test_whole_numbers_that_16_bits_hold(expected):
    assert torch.equal(expected, expected.round())
    assert 10 < expected.abs().max() < 2**15


def test_without_onednn(exact, x, expected):
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(exact.integer(x), expected)


def test_channels_last(exact, x, expected):
    assert torch.equal(exact.integer(x.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(exact, x, expected, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(exact.integer(x), expected)
    finally:
        torch.set_num_threads(before)


def test_one_by_one(exact, x, expected):
    assert torch.equal(torch.cat([exact.integer(item[None]) for item in x]), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_gpu(exact, x, expected):
    assert torch.equal(exact.cuda().integer(x.cuda()).cpu(), expected)
    exact.cpu()


def test_order_of_channels_does_not_matter(x):
    layer = IntegerNet(nn.Sequential(conv(16, 8, 5, 1)))
    layer.freeze()
    order = torch.randperm(16)
    turned = IntegerNet(nn.Sequential(conv(16, 8, 5, 1)))
    turned.load_state_dict(layer.state_dict())
    turned[0].weight_q.copy_(layer[0].weight_q[:, order])
    assert torch.equal(turned.integer(x[:, order]), layer.integer(x))


def test_training_sees_what_runs(exact, x, expected):
    float_path = exact(x.float() / 2**FRACTION) * 2**FRACTION
    assert (float_path - expected).abs().max() <= 2
    assert (float_path - expected).abs().mean() < 0.05


def test_rounding_passes_gradients():
    net = IntegerNet(_net())
    net(torch.randn(1, 16, 4, 4)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())
    x = torch.tensor([-200.0, 0.3, 200.0], requires_grad=True)
    to_fixed(x).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0]  # downhill leads back inside from above alone


def test_post_training(x):
    net = _net()
    samples = [x.float() / 2**FRACTION]
    exact = quantize(net, samples)
    before, after = int(exact[0].fractions[0]), int(exact[-1].fractions[1])
    found = exact.integer((samples[0] * 2**before).round().double()) / 2**after
    truth = net(samples[0])
    assert (found - truth).square().mean().sqrt() < 0.02 * truth.std()
    assert before == exact[0].fractions[0]


def test_what_cannot_be_exact_is_refused():
    with pytest.raises(ValueError, match="Softplus has no exact form"):
        IntegerNet(nn.Sequential(conv(3, 3), nn.Softplus()))
    with pytest.raises(ValueError, match="no samples to calibrate with"):
        quantize(_net(), [])
    huge = IntegerNet(nn.Sequential(conv(8, 8, 5, 1)))
    with torch.no_grad():
        huge[0].bias.fill_(1e12)
    with pytest.raises(ValueError, match=r"exact below 2\^53"):
        huge.freeze()


def test_shift_rounds_to_nearest():
    values = torch.tensor([-96, -33, -32, -31, 31, 32, 33, 95, 96])
    assert shift_right(values, 6).tolist() == [-1, -1, 0, 0, 0, 1, 1, 1, 2]


def test_float_weights_follow_from_whole_numbers(exact, x, expected):
    stored = whole_state(exact)
    assert not any(name.endswith("weight") for name in stored)
    other = IntegerNet(_net())
    with torch.no_grad():
        for layer in other:
            layer.weight.mul_(3)
    other.load_state_dict(full_state(other, stored))
    assert torch.equal(other.integer(x), expected)
    other.freeze()
    for layer, frozen in zip(other, exact, strict=True):
        assert torch.equal(layer.weight_q, frozen.weight_q)
        assert torch.equal(layer.multiplier, frozen.multiplier)
        assert (layer.weight - frozen.weight).abs().max() <= 0.6 * frozen.weight.abs().max() / 127
