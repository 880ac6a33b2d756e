"""Cost volumes: references against their definitions, kernels against the references."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stereopsis.ops import native
from stereopsis.ops.cost_volume import (
    absolute_volume,
    absolute_volume_reference,
    residual_volume,
    residual_volume_reference,
)

PER_LIBRARY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _doubles(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_absolute_volume_is_the_l1_distance_of_partners():
    left, right = _doubles(2, 3, 4, 7), _doubles(2, 3, 4, 7, seed=1)
    volume = absolute_volume(left, right, 9)
    assert volume.shape == (2, 9, 4, 7)
    for d in range(9):
        for x in range(7):
            partner = right[..., x - d] if x >= d else torch.zeros_like(right[..., 0])
            torch.testing.assert_close(volume[:, d, :, x], (left[..., x] - partner).abs().sum(1))


def test_residual_volume_of_whole_disparities_is_a_part_of_the_absolute_one():
    left, right = _doubles(1, 3, 4, 20), _doubles(1, 3, 4, 20, seed=1)
    absolute = absolute_volume(left, right, 10)
    for d in (2, 5, 7):
        disparity = torch.full((1, 1, 4, 20), float(d), dtype=torch.float64)
        torch.testing.assert_close(residual_volume(left, right, disparity, 2), absolute[:, d - 2 : d + 3])


def test_residual_volume_samples_as_grid_sample_with_aligned_corners_does():
    left, right = _doubles(2, 3, 4, 12), _doubles(2, 3, 4, 12, seed=1)
    disparity = 6 * _doubles(2, 1, 4, 12, seed=2)  # some partners are outside, on either side
    volume = residual_volume(left, right, disparity, 2)
    rows, columns = torch.meshgrid(torch.arange(4).double(), torch.arange(12).double(), indexing="ij")
    for index, residual in enumerate(range(-2, 3)):
        x = columns - (disparity[:, 0] + residual)
        grid = torch.stack([2 * x / 11 - 1, (2 * rows / 3 - 1).expand_as(x)], dim=-1)
        warped = F.grid_sample(right, grid, padding_mode="zeros", align_corners=True)
        torch.testing.assert_close(volume[:, index], (left - warped).abs().sum(1))


@pytest.mark.parametrize("residual", [-2, -1, 0, 1, 2])
def test_the_cheapest_residual_is_the_true_one(residual):
    """A pair shifted by 6, and a map that is wrong by a known residual."""
    scene = _doubles(1, 4, 8, 46)
    left, right = scene[..., :40], scene[..., 6:]  # left x matches right x - 6
    start = torch.full((1, 1, 8, 40), 6.0 - residual, dtype=torch.float64)
    volume = residual_volume(left, right, start, 2)[..., 10:-2]
    assert (volume.argmin(1) - 2 == residual).all()
    assert volume.amin(1).max() < 1e-9


def test_gradients_of_the_references():
    left, right = _doubles(1, 2, 2, 5).requires_grad_(), _doubles(1, 2, 2, 5, seed=1).requires_grad_()
    disparity = (torch.rand(1, 1, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1) * 0.9
    assert torch.autograd.gradcheck(lambda a, b: absolute_volume_reference(a, b, 3), (left, right))
    assert torch.autograd.gradcheck(
        lambda a, b, d: residual_volume_reference(a, b, d, 2), (left, right, disparity.requires_grad_())
    )


@st.composite
def problems(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    b, c = draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 4, 9]))
    h, w = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    left, right = (torch.randn(b, c, h, w, generator=generator) for _ in range(2))
    reach = draw(st.sampled_from([3, w + 8, 2000]))  # the last: far beyond both borders
    whole = torch.randint(-reach, reach, (b, 1, h, w), generator=generator).float()
    # whole disparities, or such as keep off the corners of the interpolation
    fraction = 0.1 + 0.8 * torch.rand(b, 1, h, w, generator=generator) if draw(st.booleans()) else 0.0
    return (left, right, whole + fraction), draw(st.integers(1, 3))


def _values_and_gradients(operator, problem, radius, weights):
    inputs = [t.clone().requires_grad_() for t in problem]
    costs = operator(*inputs, radius)
    return costs.detach(), torch.autograd.grad((costs * weights).sum(), inputs)


@PER_LIBRARY
@given(case=problems())
def test_kernel_equals_the_reference_in_values_and_gradients(kernels, threads, case):
    problem, radius = case
    assert native.usable(*problem)
    b, _, h, w = problem[0].shape
    weights = torch.randn(b, 2 * radius + 1, h, w)
    found, found_gradients = _values_and_gradients(residual_volume, problem, radius, weights)
    expected, expected_gradients = _values_and_gradients(residual_volume_reference, problem, radius, weights)
    # x - d of some thousand pixels carries a rounding error of about 1e-4
    tolerance = {"rtol": 1e-4, "atol": 2e-3 if problem[2].abs().max() > 100 else 1e-4}
    torch.testing.assert_close(found, expected, **tolerance)
    for ours, theirs in zip(found_gradients, expected_gradients, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs, **tolerance)


@PER_LIBRARY
@given(case=problems(), candidates=st.sampled_from([1, 5, 50]))
def test_absolute_kernel_equals_the_reference_in_values_and_gradients(kernels, threads, case, candidates):
    features = case[0][:2]
    b, _, h, w = features[0].shape
    weights = torch.randn(b, candidates, h, w)
    results = []
    for operator in (absolute_volume, absolute_volume_reference):
        inputs = [t.clone().requires_grad_() for t in features]
        costs = operator(*inputs, candidates)
        results.append((costs.detach(), *torch.autograd.grad((costs * weights).sum(), inputs)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30, -1e30])
def test_disparities_beyond_all_bounds_compare_with_nothing(kernels, value):
    left, right = torch.randn(1, 2, 3, 20), torch.randn(1, 2, 3, 20)
    disparity = torch.full((1, 1, 3, 20), value)
    found = residual_volume(left, right, disparity, 2)
    torch.testing.assert_close(found, residual_volume_reference(left, right, disparity, 2), rtol=1e-5, atol=1e-5)
    assert found.isfinite().all()


def test_kernel_reads_any_memory_layout(kernels):
    left = torch.randn(2, 4, 6, 12).to(memory_format=torch.channels_last)
    right = torch.randn(6, 4, 2, 12).transpose(0, 2)
    disparity = (torch.rand(2, 1, 12, 6) * 9).transpose(2, 3)
    torch.testing.assert_close(
        residual_volume(left, right, disparity, 2),
        residual_volume_reference(left, right, disparity, 2),
        rtol=1e-5,
        atol=1e-5,
    )
