"""The regression of a disparity from costs: kernels against references."""

import math

import pytest
import torch

from stereopsis.ops import native
from stereopsis.ops.soft_argmin import (
    mass_near_mean,
    mass_near_mean_reference,
    soft_argmin,
    soft_argmin_reference,
)


@pytest.mark.parametrize("scale", [0.1, 10.0, 1000.0])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 7, 33), (1, 12, 24, 78)])
def test_kernels_equal_the_references(kernels, threads, shape, scale):
    costs = scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert native.usable(costs)
    distribution, mean = soft_argmin(costs)
    expected = soft_argmin_reference(costs.double())
    torch.testing.assert_close(distribution.double(), expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mean.double(), expected[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mass_near_mean(distribution), mass_near_mean_reference(distribution))


def test_what_is_not_a_number_stays_so(kernels):
    costs = torch.randn(1, 4, 2, 20)
    costs[0, 1, 1, 7] = math.nan
    costs[0, :, 0, 3] = math.inf
    for found, expected in zip(soft_argmin(costs), soft_argmin_reference(costs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_gradients():
    costs = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(soft_argmin, costs)
    assert soft_argmin(costs.detach().float().requires_grad_())[1].requires_grad


def test_mass_near_the_mean():
    peak, torn = torch.zeros(1, 12, 1, 1), torch.zeros(1, 12, 1, 1)
    peak[:, 5], torn[:, (0, 11)] = 1, 0.5
    even = torch.full((1, 12, 1, 1), 1 / 12)
    # around 5.5: 5 and 6 whole, 4 and 7 half
    assert [mass_near_mean(p).item() for p in (peak, even, torn)] == pytest.approx([1, 3 / 12, 0])
