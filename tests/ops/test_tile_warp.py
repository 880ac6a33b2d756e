"""Warping along rows and the local cost volume: reference against an oracle, kernels against the reference."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stereopsis.ops import native
from stereopsis.ops.tile_warp import TILE, tile_warp_cost, tile_warp_cost_reference, warp_rows

PER_LIBRARY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _away_from_kinks(shape, low, high, generator):
    """Real disparities whose fractional part keeps off 0, where linear interpolation has a corner."""
    whole = torch.randint(low, high, shape, generator=generator).float()
    return whole + 0.1 + 0.8 * torch.rand(shape, generator=generator)


@st.composite
def problems(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    b, c = draw(st.integers(1, 2)), draw(st.sampled_from([1, 3, 16, 24]))
    h, w = TILE * draw(st.integers(1, 3)), TILE * draw(st.integers(1, 9))
    left = torch.randn(b, c, h, w, generator=generator)
    right = torch.randn(b, c, h, w, generator=generator)
    reach = draw(st.sampled_from([4, w + 8, 3000]))  # the last: far beyond both borders
    shape = (b, 1, h, w)
    if draw(st.booleans()):  # what initialisation gives
        disparity = torch.randint(-reach, reach, shape, generator=generator).float()
    else:
        disparity = _away_from_kinks(shape, -reach, reach, generator)
    return left, right, disparity


@pytest.mark.parametrize("width", [2, 7, 24])
def test_warp_rows_is_grid_sample_with_repeated_borders(width):
    generator = torch.Generator().manual_seed(width)
    right = torch.randn(2, 5, 6, width, generator=generator, dtype=torch.float64)
    position = (torch.rand(2, 1, 6, width, generator=generator, dtype=torch.float64) * 3 - 1) * width
    row = torch.arange(6, dtype=torch.float64).view(1, 6, 1).expand(2, 6, width)
    grid = torch.stack([2 * position[:, 0] / (width - 1) - 1, 2 * row / 5 - 1], -1)
    expected = F.grid_sample(right, grid, mode="bilinear", padding_mode="border", align_corners=True)
    torch.testing.assert_close(warp_rows(right, position), expected, rtol=0, atol=1e-12)


def test_warp_rows_of_one_column():
    right = torch.randn(1, 3, 4, 1)
    assert torch.equal(warp_rows(right, torch.tensor(7.3).expand(1, 1, 4, 1)), right)


def test_cost_channels_are_row_column_kind():
    generator = torch.Generator().manual_seed(0)
    b, c, h, w = 2, 3, 8, 12
    left, right = torch.randn(b, c, h, w, generator=generator), torch.randn(b, c, h, w, generator=generator)
    disparity = _away_from_kinks((b, 1, h, w), -3, 15, generator)
    costs = tile_warp_cost_reference(left, right, disparity)
    assert costs.shape == (b, 64, h // 4, w // 4)
    grid = costs.view(b, 4, 4, 4, h // 4, w // 4)  # b, row, column, kind, tile row, tile column

    def l1(n, y, x, d):
        position = min(max(x - d, 0.0), w - 1.0)
        low = min(int(position), w - 2)
        at = right[n, :, y, low] + (position - low) * (right[n, :, y, low + 1] - right[n, :, y, low])
        return (left[n, :, y, x] - at).abs().sum()

    for n in range(b):
        for y in range(h):
            for x in range(w):
                d = disparity[n, 0, y, x].item()
                expected = [left[n, :, y, x].abs().sum(), *(l1(n, y, x, d + k) for k in (-1, 0, 1))]
                found = grid[n, y % 4, x % 4, :, y // 4, x // 4]
                torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-5)


def test_true_disparity_costs_nothing():
    right = torch.randn(1, 8, 4, 32)
    left = warp_rows(right, torch.arange(32) - torch.full((1, 1, 4, 32), 2.5))
    costs = tile_warp_cost(left, right, torch.full((1, 1, 4, 32), 2.5)).view(1, 4, 4, 4, 1, 8)
    assert costs[:, :, :, 2].abs().max() < 1e-5
    assert costs[..., 2:].select(3, 1).min() > 0.1  # d' - 1, off the left border
    assert costs[..., 2:].select(3, 3).min() > 0.1


def test_gradients_of_the_reference():
    generator = torch.Generator().manual_seed(1)
    shape = (1, 2, 4, 8)
    left = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    right = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    disparity = _away_from_kinks((1, 1, 4, 8), -4, 12, generator).double().requires_grad_()
    assert torch.autograd.gradcheck(tile_warp_cost_reference, (left, right, disparity))


def _values_and_gradients(operator, problem, weights):
    inputs = [t.clone().requires_grad_() for t in problem]
    costs = operator(*inputs)
    return costs.detach(), torch.autograd.grad((costs * weights).sum(), inputs)


@PER_LIBRARY
@given(problem=problems())
def test_kernel_equals_the_reference_in_values_and_gradients(kernels, threads, problem):
    left, _, disparity = problem
    assert native.usable(left, disparity)
    b, _, h, w = left.shape
    weights = torch.randn(b, 64, h // 4, w // 4)
    found, found_gradients = _values_and_gradients(tile_warp_cost, problem, weights)
    expected, expected_gradients = _values_and_gradients(tile_warp_cost_reference, problem, weights)
    assert found.isfinite().all()
    # x - d' of some thousand pixels carries a rounding error of about 1e-4
    tolerance = {"rtol": 1e-4, "atol": 2e-3 if disparity.abs().max() > 100 else 1e-4}
    torch.testing.assert_close(found, expected, **tolerance)
    for ours, theirs in zip(found_gradients, expected_gradients, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("disparity", [-1e6, -50.0, -1.0, 0.0, 50.0, 1e6])
@pytest.mark.parametrize("operator", [tile_warp_cost, tile_warp_cost_reference])
def test_far_out_of_the_image_the_outermost_pixel_is_compared(operator, disparity):
    left, right = torch.randn(1, 3, 4, 16), torch.randn(1, 3, 4, 16)
    inputs = [left.requires_grad_(), right.requires_grad_(), torch.full((1, 1, 4, 16), disparity, requires_grad=True)]
    costs = operator(*inputs)
    gradients = torch.autograd.grad(costs.sum(), inputs)
    assert all(t.isfinite().all() for t in (costs, *gradients))
    if abs(disparity) >= 50:
        edge = right[..., 0 if disparity > 0 else -1, None]
        expected = (left - edge).abs().sum(1).view(1, 1, 4, 4, 4).permute(0, 2, 4, 1, 3)
        torch.testing.assert_close(costs.view(1, 4, 4, 4, 1, 4)[:, :, :, 2], expected)
        assert gradients[2].eq(0).all()


def test_two_threads_give_what_one_gives(kernels):
    generator = torch.Generator().manual_seed(2)
    problem = (
        torch.randn(3, 16, 20, 24, generator=generator),
        torch.randn(3, 16, 20, 24, generator=generator),
        _away_from_kinks((3, 1, 20, 24), -10, 30, generator),
    )
    weights = torch.randn(3, 64, 5, 6, generator=generator)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            results.append(_values_and_gradients(tile_warp_cost, problem, weights))
    finally:
        torch.set_num_threads(before)
    for costs, gradients in results[1:]:
        assert torch.equal(costs, results[0][0])
        assert all(torch.equal(a, b) for a, b in zip(gradients, results[0][1], strict=True))


def test_kernel_reads_any_memory_layout(kernels):
    left = torch.randn(2, 8, 8, 12).to(memory_format=torch.channels_last)
    right = torch.randn(8, 8, 2, 12).transpose(0, 2)
    disparity = (torch.rand(2, 1, 12, 8) * 9).transpose(2, 3)
    torch.testing.assert_close(
        tile_warp_cost(left, right, disparity), tile_warp_cost_reference(left, right, disparity), rtol=1e-5, atol=1e-5
    )


def test_bfloat16_features_are_compared_in_float32(kernels):
    left, right = torch.randn(1, 8, 4, 12).bfloat16(), torch.randn(1, 8, 4, 12).bfloat16()
    disparity = torch.rand(1, 1, 4, 12) * 9
    costs = tile_warp_cost(left, right, disparity)
    assert costs.dtype == torch.float32
    torch.testing.assert_close(
        costs, tile_warp_cost_reference(left.float(), right.float(), disparity), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("size", [(6, 8), (8, 6)])
def test_sizes_that_are_no_whole_tiles_are_refused(size):
    features = torch.randn(1, 4, *size)
    with pytest.raises(ValueError, match="multiple of 4"):
        tile_warp_cost(features, features, torch.zeros(1, 1, *size))


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_inputs_of_different_sizes_are_refused(odd):
    shapes = [(1, 4, 8, 8), (1, 4, 8, 8), (1, 1, 8, 8)]
    shapes[odd] = (1, *shapes[odd][1:3], 12)
    with pytest.raises(ValueError, match="one batch, height and width"):
        tile_warp_cost(*(torch.randn(shape) for shape in shapes))
