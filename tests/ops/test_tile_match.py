"""Tile matching: the torch reference against brute force, the C kernels against the reference."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stereopsis.ops import native
from stereopsis.ops.tile_match import (
    TILE,
    matching_cost,
    right_tile_padding,
    subpixel_cost,
    tile_match,
    tile_match_reference,
)

PER_LIBRARY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # each example is the same for one library


def _costs(left, right, max_disparity):
    """The whole volume, (b, D, h, w), as Eq. 2 says it."""
    b, _, h, w = left.shape
    volume = torch.empty(b, max_disparity, h, w)
    for d in range(max_disparity):
        for x in range(w):
            column = min(max(TILE * x + 1 - d, 0), right.shape[3] - 1)
            volume[:, d, :, x] = (left[..., x] - right[..., column]).abs().sum(1)
    return volume


def _brute_force(left, right, max_disparity, exclude=None, band=1.5):
    volume = _costs(left, right, max_disparity)
    if exclude is not None:
        near = (exclude - torch.arange(max_disparity).view(1, -1, 1, 1)).abs() <= band
        volume = volume.masked_fill(near, float("inf"))
    return volume.min(1, keepdim=True).indices.float()  # the first on ties, 0 where all are left out


def _integers(*shape, generator, spread=3):
    """Integer-valued features, so that sums are exact in any order and ties are frequent."""
    return torch.randint(-spread, spread + 1, shape, generator=generator).float()


@st.composite
def problems(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    b, c, h = draw(st.integers(1, 2)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    w = draw(st.integers(1, 40))
    width = max(TILE * w + draw(st.integers(-5, 5)), 1)
    max_disparity = draw(st.integers(1, 200) if draw(st.booleans()) else st.integers(1, 12))
    spread = draw(st.sampled_from([0, 1, 3]))  # 0: constant images, all ties
    left = _integers(b, c, h, w, generator=generator, spread=spread)
    right = _integers(b, c, h, width, generator=generator, spread=spread)
    exclude = None
    if draw(st.booleans()):
        exclude = torch.randint(0, 4 * max_disparity, (b, 1, h, w), generator=generator) / 4
    return left, right, max_disparity, exclude, draw(st.sampled_from([0.5, 1.5, 2.0]))


@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_reference_equals_brute_force(problem):
    assert torch.equal(tile_match_reference(*problem), _brute_force(*problem))


@PER_LIBRARY
@given(problem=problems())
def test_kernel_equals_the_reference_exactly_on_integers(kernels, threads, problem):
    assert native.usable(problem[0], problem[1])
    assert torch.equal(tile_match(*problem), tile_match_reference(*problem))


@pytest.mark.parametrize(
    ("w", "width", "max_disparity"),
    [
        (1, 4, 1),
        (1, 1, 7),  # one column, everything clamped
        (3, 12, 1),
        (3, 12, 50),  # more candidates than columns
        (5, 19, 13),
        (16, 64, 16),  # whole blocks of the kernel
        (17, 68, 17),
        (33, 131, 30),
    ],
)
@pytest.mark.parametrize("excluding", [False, True])
def test_kernel_equals_brute_force_at_odd_sizes(kernels, w, width, max_disparity, excluding):
    generator = torch.Generator().manual_seed(w)
    left = _integers(2, 16, 3, w, generator=generator)
    right = _integers(2, 16, 3, width, generator=generator)
    exclude = torch.rand(2, 1, 3, w, generator=generator) * max_disparity if excluding else None
    problem = (left, right, max_disparity, exclude)
    assert torch.equal(tile_match(*problem), _brute_force(*problem))


@pytest.mark.parametrize("channels", [3, 16])
def test_kernel_finds_the_lowest_cost_of_real_features(kernels, threads, channels):
    generator = torch.Generator().manual_seed(channels)
    left = torch.randn(2, channels, 7, 37, generator=generator)
    right = torch.randn(2, channels, 7, 148, generator=generator)
    found, expected = tile_match(left, right, 61), tile_match_reference(left, right, 61)
    # where the sums' order decides between two candidates, either will do
    torch.testing.assert_close(
        matching_cost(left, right, found), matching_cost(left, right, expected), rtol=1e-5, atol=0
    )
    assert (found == expected).float().mean() > 0.999


def test_kernel_reads_any_memory_layout(kernels):
    left = torch.randn(3, 16, 5, 11).to(memory_format=torch.channels_last)
    right = torch.randn(5, 16, 3, 44).transpose(0, 2)
    exclude = (torch.rand(3, 1, 11, 5) * 20).transpose(2, 3)
    found = tile_match(left, right, 20, exclude)
    assert torch.equal(found, tile_match_reference(left.contiguous(), right.contiguous(), 20, exclude.contiguous()))


@pytest.mark.parametrize("match", [tile_match, tile_match_reference])
def test_ties_go_to_the_smallest_disparity(match):
    flat = torch.ones(1, 4, 2, 6)
    assert match(flat, torch.ones(1, 4, 2, 24), 20).eq(0).all()
    # 0 and 1 lie in the band of 0.25 +- 1.5, so 2 is the first of the equal ones
    exclude = torch.full((1, 1, 2, 6), 0.25)
    assert match(flat, torch.ones(1, 4, 2, 24), 20, exclude).eq(2).all()


@pytest.mark.parametrize("match", [tile_match, tile_match_reference])
@pytest.mark.parametrize("shift", [0, 1, 2, 3, 5, 18])
def test_a_shifted_view_gives_the_shift(match, shift):
    columns = torch.randn(1, 8, 3, 64)
    x = TILE * torch.arange(16) + 1 - shift
    left = columns[..., x.clamp(min=0)]
    found = match(left, columns, 19)
    inside = x >= 0
    assert inside.any()
    assert found[..., inside].eq(shift).all()


@pytest.mark.parametrize("match", [tile_match, tile_match_reference])
def test_the_excluded_band_holds_no_answer(match):
    columns = torch.randn(1, 8, 3, 64)
    left = columns[..., (TILE * torch.arange(16) + 1 - 6).clamp(min=0)]  # the best is 6
    found = match(left, columns, 19, torch.full((1, 1, 3, 16), 6.5))
    assert ((found - 6.5).abs() > 1.5).all()
    assert (found != 6).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_go_through_the_reference(dtype):
    generator = torch.Generator().manual_seed(0)
    left, right = _integers(1, 4, 2, 5, generator=generator), _integers(1, 4, 2, 20, generator=generator)
    found = tile_match(left.to(dtype), right.to(dtype), 9)
    assert found.dtype == dtype
    assert torch.equal(found.float(), _brute_force(left, right, 9))


def test_matching_cost_is_the_l1_distance_at_a_disparity():
    generator = torch.Generator().manual_seed(3)
    left, right = torch.randn(2, 3, 2, 6, generator=generator), torch.randn(2, 3, 2, 24, generator=generator)
    volume = _costs(left, right, 30)
    for d in (0, 1, 7, 29):
        cost = matching_cost(left, right, torch.full((2, 1, 2, 6), float(d)))
        torch.testing.assert_close(cost[:, 0], volume[:, d])


def test_subpixel_cost_is_linear_between_integers():
    generator = torch.Generator().manual_seed(4)
    left, right = torch.randn(1, 3, 2, 6, generator=generator), torch.randn(1, 3, 2, 24, generator=generator)
    volume = _costs(left, right, 10)
    cost = subpixel_cost(left, right, torch.full((1, 1, 2, 6), 4.25))
    torch.testing.assert_close(cost[:, 0], 0.75 * volume[:, 4] + 0.25 * volume[:, 5])  # Eq. 9
    whole = subpixel_cost(left, right, torch.full((1, 1, 2, 6), 4.0))
    torch.testing.assert_close(whole[:, 0], volume[:, 4])


def test_gradients_of_the_costs():
    generator = torch.Generator().manual_seed(5)
    left = torch.randn(2, 3, 2, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    right = torch.randn(2, 3, 2, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    whole = torch.randint(0, 12, (2, 1, 2, 4), generator=generator).double()
    part = (whole + 0.2 + 0.6 * torch.rand(whole.shape, generator=generator)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: matching_cost(a, b, whole), (left, right))
    assert torch.autograd.gradcheck(subpixel_cost, (left, right, part))


def test_right_tiles_keep_the_width_and_start_one_column_early():
    features = torch.arange(1.0, 13).view(1, 1, 1, 12).expand(-1, -1, 4, -1)
    tiles = right_tile_padding(features).unfold(3, TILE, 1)
    assert tiles.shape[3] == 12
    assert tiles[0, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert tiles[0, 0, 0, 1].tolist() == [1, 2, 3, 4]  # the tile that starts at pixel u stands in column u + 1
    assert tiles[0, 0, 0, -1].tolist() == [11, 12, 0, 0]


@pytest.mark.parametrize(
    ("right", "exclude"),
    [((1, 3, 2, 16), None), ((1, 4, 1, 16), None), ((2, 4, 2, 16), None), ((1, 4, 2, 16), (1, 1, 2, 5))],
)
def test_inputs_that_do_not_belong_together_are_refused(right, exclude):
    exclude = None if exclude is None else torch.zeros(exclude)
    with pytest.raises(ValueError, match="must agree"):
        tile_match(torch.randn(1, 4, 2, 4), torch.randn(right), 8, exclude)
