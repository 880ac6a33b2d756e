"""Thin convolutions: the kernel against torch's own."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from stereopsis.ops import native
from stereopsis.ops.thin_conv import thin_conv, thin_conv_reference

PER_LIBRARY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _norm(channels, dimensions=2):
    """As after a training."""
    norm = (nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm3d)(channels).eval().requires_grad_(False)
    for values in (norm.running_mean, norm.weight, norm.bias):
        nn.init.normal_(values)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


def _agree(sources, kernel, bias=None, **options):
    assert native.usable(*sources, kernel)
    with torch.inference_mode():
        found = thin_conv(sources, kernel, bias, **options)
        expected = thin_conv_reference([s.double() for s in sources], *_doubled(kernel, bias), **_doubled_norm(options))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def _doubled(*tensors):
    return [None if t is None else t.double() for t in tensors]


def _doubled_norm(options):
    norm = options.get("norm")
    if norm is None:
        return options
    double = type(norm)(norm.num_features).double().eval()
    double.load_state_dict(norm.state_dict())
    return {**options, "norm": double}


@PER_LIBRARY
@given(
    b=st.integers(1, 2),
    channels=st.sampled_from([(1,), (3,), (2, 4), (5, 1), (16,)]),
    outputs=st.sampled_from([1, 2, 4, 7, 8, 11, 24]),
    h=st.integers(1, 12),
    w=st.integers(1, 90),
    normalized=st.booleans(),
    biased=st.booleans(),
    relu=st.booleans(),
    stride=st.sampled_from([1, 2]),
    pool=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_maps(kernels, threads, b, channels, outputs, h, w, normalized, biased, relu, stride, pool, seed):
    torch.manual_seed(seed)
    grow = 2 if pool else 1
    odd = seed % grow  # of a last row and column that have no partner
    sources = [torch.randn(b, c, grow * h + odd, grow * w + odd) for c in channels]
    kernel, bias = torch.randn(outputs, sum(channels), 3, 3), torch.randn(outputs) if biased else None
    norm = _norm(sum(channels)) if normalized else None
    _agree(sources, kernel, bias, norm=norm, relu=relu, stride=stride, pool=pool)


@PER_LIBRARY
@given(
    b=st.integers(1, 2),
    c=st.sampled_from([1, 4, 16]),
    outputs=st.sampled_from([1, 4, 16]),
    k=st.integers(1, 12),
    h=st.integers(1, 9),
    w=st.integers(1, 40),
    normalized=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_volumes(kernels, threads, b, c, outputs, k, h, w, normalized, seed):
    torch.manual_seed(seed)
    _agree(
        [torch.randn(b, c, k, h, w)],
        torch.randn(outputs, c, 3, 3, 3) / math.sqrt(c),
        norm=_norm(c, 3) if normalized else None,
    )


def test_maps_that_need_many_strips(kernels, threads):
    torch.manual_seed(0)
    _agree([torch.randn(1, 16, 80, 700)], torch.randn(2, 16, 3, 3) / 4, norm=_norm(16))
    _agree([torch.randn(2, 2, 160, 140)], torch.randn(2, 2, 3, 3), stride=2, pool=True)


def test_the_kernel_reads_any_memory_layout(kernels):
    torch.manual_seed(0)
    turned = [torch.randn(2, 3, 9, 20).transpose(2, 3), torch.randn(2, 20, 9, 3).permute(0, 3, 1, 2)]
    _agree(
        [turned[0], turned[1].contiguous(memory_format=torch.channels_last)],
        torch.randn(3, 3, 4, 6).permute(2, 3, 0, 1),
    )


@pytest.mark.parametrize("pool", [False, True])
def test_what_is_not_a_number_stays_so(kernels, pool):
    x = torch.randn(1, 1, 8, 12)
    x[0, 0, 2, 5] = math.nan
    kernel = torch.randn(1, 1, 3, 3)
    found, expected = (operator([x], kernel, pool=pool) for operator in (thin_conv, thin_conv_reference))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert found.isnan().any()


def test_the_reference_is_torchs_own():
    torch.manual_seed(0)
    x, kernel, norm = torch.randn(2, 3, 5, 6, 7), torch.randn(4, 3, 3, 3, 3), _norm(3, 3)
    torch.testing.assert_close(
        thin_conv_reference([x], kernel, norm=norm), F.conv3d(norm(x).relu(), kernel, padding=1), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_normalisation_that_learns_does_so_and_gradients_pass(dimensions):
    norm = _norm(2, dimensions).train().requires_grad_(True)
    before = norm.running_mean.clone()
    x, kernel = torch.randn(2, 2, 5, 6, 7), torch.randn(3, 2, 3, 3, 3)
    x, kernel = (x, kernel) if dimensions == 3 else (x[:, :, 0], kernel[:, :, 0])
    out = thin_conv([x], kernel.requires_grad_(), norm=norm)
    assert not torch.equal(norm.running_mean, before)
    assert all(grad.any() for grad in torch.autograd.grad(out.square().sum(), [kernel, norm.weight]))
