"""Planes on tiles: the plane equation, and splits that keep the plane."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stereopsis.ops.tile_plane import expand_plane, split_tiles


def _dyadic(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random multiples of 1/8, with which the plane equation is exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-400, 400, shape, generator=generator) / 8


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_expand_plane_follows_equation_5(size):
    plane = _dyadic(2, 3, 3, 5, seed=size)
    pixels = expand_plane(plane, size)
    assert pixels.shape == (2, 1, 3 * size, 5 * size)
    middle = (size - 1) / 2
    for b in range(2):
        for y in range(3 * size):
            for x in range(5 * size):
                d, dx, dy = plane[b, :, y // size, x // size].tolist()
                assert pixels[b, 0, y, x] == d + (x % size - middle) * dx + (y % size - middle) * dy


def test_dx_runs_along_the_columns_and_dy_along_the_rows():
    dx_only = expand_plane(torch.tensor([10.0, 1.0, 0.0]).view(1, 3, 1, 1), 4)[0, 0]
    assert dx_only.tolist() == [[8.5, 9.5, 10.5, 11.5]] * 4
    dy_only = expand_plane(torch.tensor([10.0, 0.0, 1.0]).view(1, 3, 1, 1), 4)[0, 0]
    assert torch.equal(dy_only, dx_only.T)


@pytest.mark.parametrize("size", [4, 2])
@given(seed=st.integers(0, 1000), height=st.integers(1, 4), width=st.integers(1, 4))
def test_children_on_the_same_map_hold_the_parents_plane(size, seed, height, width):
    """Within a scale a child's centre lies a quarter of the parent's side away: 1.0 for 4 to 2, 0.5 for 2 to 1."""
    parent = _dyadic(2, 3, height, width, seed=seed)
    children = split_tiles(parent, step=size / 4, scale=1)
    assert torch.equal(expand_plane(children, size // 2), expand_plane(parent, size))


@given(seed=st.integers(0, 1000), height=st.integers(1, 4), width=st.integers(1, 4))
def test_children_on_a_map_of_twice_the_size_hold_the_parents_plane(seed, height, width):
    """There d counts pixels half as large, so it doubles; slopes stay; centres lie two of those pixels away."""
    parent = _dyadic(2, 3, height, width, seed=seed)
    children = split_tiles(parent, step=2, scale=2)
    doubled = parent * torch.tensor([2.0, 1.0, 1.0]).view(1, 3, 1, 1)
    assert torch.equal(expand_plane(children, 4), expand_plane(doubled, 8))


def test_another_step_breaks_the_plane():
    parent = _dyadic(1, 3, 2, 2)
    children = split_tiles(parent, step=0.5, scale=1)
    assert not torch.equal(expand_plane(children, 2), expand_plane(parent, 4))


def test_slopes_and_descriptor_are_copied_to_the_children():
    parent = _dyadic(2, 16, 3, 4)
    children = split_tiles(parent, step=2, scale=2)
    assert children.shape == (2, 16, 6, 8)
    for row in (0, 1):
        for column in (0, 1):
            assert torch.equal(children[:, 1:, row::2, column::2], parent[:, 1:])


@pytest.mark.parametrize(
    "operator",
    [lambda h: expand_plane(h[:, :3], 4), lambda h: split_tiles(h, step=2, scale=2)],
    ids=["expand_plane", "split_tiles"],
)
def test_gradients(operator):
    h = torch.randn(2, 5, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(operator, (h,))
