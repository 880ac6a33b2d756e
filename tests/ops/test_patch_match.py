"""Stereo patch matching: exact shifts are found, the kernel equals the reference, and no border is left out."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stereopsis.ops import native
from stereopsis.ops.patch_match import DIRECTIONS, patch_match, patch_match_reference, take_patches

PER_LIBRARY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
OPERATORS = [patch_match, patch_match_reference]


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _cosines(target, side, size):
    """(b, bands, patches, windows) by the definition, patch by patch."""
    below, right = -target.shape[2] % size, -target.shape[3] % size
    target, side = (F.pad(view.double(), (0, right, 0, below), "replicate") for view in (target, side))
    out = []
    for y in range(0, target.shape[2], size):
        rows = []
        for x in range(0, target.shape[3], size):
            patch = target[:, :, y : y + size, x : x + size].flatten(1)
            windows = [side[:, :, y : y + size, u : u + size].flatten(1) for u in range(side.shape[3] - size + 1)]
            rows.append(torch.stack([F.cosine_similarity(patch, window) for window in windows], 1))
        out.append(torch.stack(rows, 1))
    return torch.stack(out, 1)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("shift", [0, 1, 7, 23])
@pytest.mark.parametrize("direction", ["left", "right"])
def test_an_exact_shift_is_found(operator, shift, direction):
    scene = _random(2, 3, 32, 96 + shift)
    target, side = scene[..., :96], scene[..., shift:]  # what the target has at x the side view has at x - shift
    if direction == "right":
        target, side = side, target
    found = operator(target, side, 8, direction)
    own = torch.arange(0, 96, 8)
    expected = own - shift if direction == "left" else own + shift
    inside = (expected >= 0) & (expected <= 96 - 8)
    assert inside.sum() >= 8
    assert (found == expected)[..., inside].all()


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", [(1, 2, 9, 21), (2, 1, 4, 4), (1, 3, 1, 1), (1, 2, 6, 70)])
def test_the_largest_cosine_by_definition(operator, direction, shape):
    target, side = _random(*shape), _random(*shape, seed=1)
    cosines, found = _cosines(target, side, 4), operator(target, side, 4, direction)
    assert found.shape == cosines.shape[:3]
    distance = torch.arange(cosines.shape[3]) - torch.arange(0, 4 * cosines.shape[2], 4)[:, None]
    allowed = DIRECTIONS[direction] * distance >= 0
    best = cosines.masked_fill(~allowed, -2).amax(3)
    torch.testing.assert_close(cosines.gather(3, found[..., None])[..., 0], best, atol=1e-6, rtol=0)
    assert allowed.expand_as(cosines).gather(3, found[..., None]).all()


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_of_equal_windows_the_nearest(operator, value):
    target = torch.full((1, 2, 8, 100), value)
    own = torch.arange(0, 104, 8).clamp(max=96).view(1, 1, -1)
    for direction in DIRECTIONS:
        assert torch.equal(operator(target, target, 8, direction), own)


@st.composite
def problems(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    shape = [draw(st.integers(1, high)) for high in (2, 9, 20, 170)]
    target, side = (torch.randn(*shape, generator=generator) for _ in range(2))
    return target, side, draw(st.sampled_from([1, 3, 8, 16])), draw(st.sampled_from(sorted(DIRECTIONS)))


@PER_LIBRARY
@given(problem=problems())
def test_kernel_equals_the_reference(kernels, threads, problem):
    target, side, size, direction = problem
    assert native.usable(target, side)
    found, expected = (operator(target, side, size, direction) for operator in OPERATORS)
    differ = (found != expected).nonzero()
    if len(differ):  # only where two windows are as good as each other
        cosines = _cosines(target, side, size)
        both = [cosines.gather(3, columns[..., None])[..., 0] for columns in (found, expected)]
        torch.testing.assert_close(*both, atol=1e-5, rtol=0)
        assert len(differ) <= 0.1 * found.numel() or size * target.shape[1] < 4


def test_many_channels(kernels):
    """More than stay in the cache at once."""
    target = _random(1, 70, 32, 200).relu()
    side = F.pad(target, (0, 9))[..., 9:]
    assert torch.equal(patch_match(target, side), patch_match_reference(target, side))


def test_any_memory_layout(kernels):
    target, side = _random(1, 4, 16, 90), _random(1, 4, 16, 90, seed=1)
    expected = patch_match_reference(target, side, 8)
    assert torch.equal(patch_match(target.to(memory_format=torch.channels_last), side.mT.contiguous().mT, 8), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_stay_inside(kernels, value):
    target, side = _random(1, 2, 16, 90), _random(1, 2, 16, 90, seed=1)
    side[..., 40] = value
    found = patch_match(target, side, 8)
    assert found.min() >= 0
    assert found.max() <= 96 - 8


@pytest.mark.parametrize("size", [(32, 64), (21, 53)])
def test_patches_are_laid_where_they_match(size):
    """By the definition, at this scale and at a coarser one with the same columns."""
    side = _random(2, 3, *size)
    bands, blocks = (-(-length // 8) for length in size)
    columns = torch.randint(0, size[1] - 8, (2, bands, blocks), generator=torch.Generator().manual_seed(0))
    for scale in (1, 2, 4):
        view, patch = side[..., ::scale, ::scale], 8 // scale
        found = take_patches(view, columns // scale, patch)
        assert found.shape == view.shape
        for b, y, x in ((0, 0, 0), (1, view.shape[2] - 1, view.shape[3] - 1), (0, view.shape[2] // 2, 5)):
            u = min(int(columns[b, y // patch, x // patch]) // scale + x % patch, view.shape[3] - 1)
            assert torch.equal(found[b, :, y, x], view[b, :, y, u])


def test_taking_patches_is_differentiable():
    side = _random(1, 2, 4, 8).double().requires_grad_()
    columns = torch.tensor([[[0, 0], [3, 1]]])
    assert torch.autograd.gradcheck(lambda s: take_patches(s, columns, 2 * 2), side)


def test_what_does_not_fit_is_one_sentence():
    with pytest.raises(ValueError, match=r"the target is \(1, 2, 8, 8\) and the side view \(1, 2, 8, 9\)"):
        patch_match(torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 9))
    with pytest.raises(ValueError, match="the patch size is 0; it must be at least 1"):
        patch_match(torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8), 0)
