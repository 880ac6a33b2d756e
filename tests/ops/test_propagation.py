"""The scan: reference against its definition, kernel against the reference."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stereopsis.ops import native
from stereopsis.ops.propagation import propagate, propagate_reference

PER_LIBRARY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _doubles(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _propagate_slowly(x, gates):
    """Pixel by pixel, from the definition."""
    height, width = x.shape[-2:]
    out = torch.zeros_like(x)
    for column in range(width):
        for row in range(height):
            own = torch.ones_like(x[..., 0, 0])
            value = torch.zeros_like(own)
            for gate, offset in enumerate((-1, 0, 1)):
                if column > 0 and 0 <= row + offset < height:
                    g = gates[:, gate, :, row, column]
                    value = value + g * out[..., row + offset, column - 1]
                    own = own - g
            out[..., row, column] = value + own * x[..., row, column]
    return out


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 5), (6, 1), (5, 7)])
def test_the_scan_equals_its_definition(size):
    x, gates = _doubles(2, 3, *size), _doubles(2, 3, 3, *size, seed=1)
    gates = gates / gates.abs().sum(1, keepdim=True)
    torch.testing.assert_close(propagate_reference(x, gates), _propagate_slowly(x, gates))


def test_the_scan_keeps_a_constant_and_carries_to_the_right_alone():
    gates = _doubles(1, 3, 2, 6, 8).abs()
    gates = 0.9 * gates / gates.sum(1, keepdim=True)
    constant = torch.full((1, 2, 6, 8), 3.0, dtype=torch.float64)
    torch.testing.assert_close(propagate(constant, gates), constant)
    x = torch.zeros_like(constant)
    x[..., 3, 4] = 1
    out = propagate(x, gates)
    assert out[..., :4].eq(0).all()
    assert out[..., 3, 5].gt(0).all()
    assert out[..., 2:5, 5].gt(0).all()
    assert out[..., (1, 5), 5].eq(0).all()


def test_gradients_of_the_reference():
    x, gates = _doubles(1, 2, 3, 4).requires_grad_(), (0.2 * _doubles(1, 3, 2, 3, 4, seed=1)).requires_grad_()
    assert torch.autograd.gradcheck(propagate_reference, (x, gates))


@PER_LIBRARY
@given(b=st.integers(1, 2), c=st.integers(1, 5), h=st.integers(1, 9), w=st.integers(1, 40), seed=st.integers(0, 10_000))
def test_kernel_equals_the_reference_in_values_and_gradients(kernels, threads, b, c, h, w, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(b, c, h, w, generator=generator)
    gates = torch.randn(b, 3, c, h, w, generator=generator)
    gates = gates / gates.abs().sum(1, keepdim=True)
    assert native.usable(x, gates)
    weights = torch.randn(b, c, h, w, generator=generator)
    results = []
    for operator in (propagate, propagate_reference):
        inputs = [t.clone().requires_grad_() for t in (x, gates)]
        out = operator(*inputs)
        results.append((out.detach(), *torch.autograd.grad((out * weights).sum(), inputs)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (17, 64), (40, 65)])
def test_gates_are_normalised_on_the_way(kernels, threads, size):
    x, gates = torch.randn(2, 3, *size), torch.randn(2, 3, 3, *size)
    gates[..., 0, :] = 0
    expected = propagate_reference(x, gates / (gates.abs().sum(1, keepdim=True) + 1e-8))
    torch.testing.assert_close(propagate(x, gates, normalize=True), expected, rtol=1e-4, atol=1e-4)
    with_gradient = propagate(x.requires_grad_(), gates, normalize=True)
    torch.testing.assert_close(with_gradient, expected, rtol=1e-4, atol=1e-4)
    assert with_gradient.requires_grad


def test_kernel_reads_any_memory_layout(kernels):
    x = torch.randn(6, 4, 2, 12).transpose(0, 2)
    gates = (torch.rand(2, 3, 4, 12, 6) / 3).transpose(3, 4)
    torch.testing.assert_close(propagate(x, gates), propagate_reference(x, gates), rtol=1e-5, atol=1e-5)


def test_gates_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="three gates a value"):
        propagate(torch.randn(1, 2, 4, 4), torch.randn(1, 2, 2, 4, 4))
