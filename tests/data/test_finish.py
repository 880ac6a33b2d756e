"""Panels, boards and reflections: looks that change no disparity."""

from dataclasses import replace

import pytest
import torch

from stereopsis.data.scenes import SceneConfig, render
from stereopsis.data.textures import make_bank

PLAIN = SceneConfig(64, 128, max_disparity=30, surfaces=(4, 9))


@pytest.fixture(scope="module")
def bank():
    return make_bank(photo_crops=0, drawn=3)


def test_scenes_without_finishes_are_those_of_earlier_versions(bank):
    """Older recipes keep their scenes. The figures are of the renderer before it had finishes."""
    scene = render(7, 2, bank, PLAIN)
    for name, deviation, means in (
        ("left", 0.25281, (0.53290, 0.18224)),
        ("right", 0.24567, (0.52511, 0.20006)),
        ("disparity", 4.13578, (8.92899, 10.81669)),
        ("disparity_right", 4.12484, (8.89943, 10.90685)),
    ):
        # libraries may round sines differently, which can move an outline by a pixel
        part = getattr(scene, name)
        assert part.mean((1, 2, 3)).tolist() == pytest.approx(means, rel=1e-3), name
        assert part.std().item() == pytest.approx(deviation, rel=1e-3), name
    assert scene.visible.sum().item() == pytest.approx(14815, abs=10)
    assert scene.visible_right.sum().item() == pytest.approx(14818, abs=10)


@pytest.mark.parametrize("changed", [{"panels": 1.0}, {"reflections": 1.0}])
def test_finishes_change_pictures_and_no_disparity(bank, changed):
    plain, finished = (render(7, 2, bank, config) for config in (PLAIN, replace(PLAIN, **changed)))
    assert torch.equal(plain.disparity, finished.disparity)
    assert torch.equal(plain.visible, finished.visible)
    for before, after in ((plain.left, finished.left), (plain.right, finished.right)):
        assert ((before - after).abs().amax(1) > 0.02).float().mean() > 0.1
        assert after.min() >= 0
        assert after.max() <= 1


def test_a_panel_looks_the_same_from_both_sides(bank):
    """Its pattern lies on the surface."""
    scene = render(3, 4, bank, replace(PLAIN, panels=1.0, glossy=0.0, vertical_offset=0.0, fog=0.0))
    columns = torch.arange(128) - scene.disparity
    grid = torch.stack([2 * columns / 127 - 1, torch.linspace(-1, 1, 64)[:, None].expand_as(columns)], -1)[:, 0]
    seen = torch.nn.functional.grid_sample(scene.right, grid, align_corners=True)
    error = (seen - scene.left).abs().mean(1, keepdim=True)[scene.visible]
    assert error.median() < 0.01
    assert error.mean() < 0.03


def test_a_reflection_stands_at_a_smaller_disparity(bank):
    """Warped by the true disparity, views of reflecting surfaces differ more than those of plain ones."""
    errors = []
    for share in (0.0, 1.0):
        scene = render(3, 4, bank, replace(PLAIN, reflections=share, glossy=0.0, vertical_offset=0.0, fog=0.0))
        columns = torch.arange(128) - scene.disparity
        grid = torch.stack([2 * columns / 127 - 1, torch.linspace(-1, 1, 64)[:, None].expand_as(columns)], -1)[:, 0]
        seen = torch.nn.functional.grid_sample(scene.right, grid, align_corners=True)
        errors.append((seen - scene.left).abs().mean(1, keepdim=True)[scene.visible].mean())
    assert errors[1] > 1.5 * errors[0]


def test_boards_are_drawn_in_their_squares(bank):
    """One square has one colour, its neighbour the other."""
    from stereopsis.data.finish import RIM, SurfacePoints, finish, finish_numbers

    half = 40.0  # four squares of ten pixels on either side of the middle
    v, u = torch.meshgrid(torch.arange(-50.0, 50.0) + 0.5, torch.arange(-50.0, 50.0) + 0.5, indexing="ij")
    p, q, one = u[None], v[None], torch.ones(1, 100, 100)
    numbers = finish_numbers(0, 1, [False, True])
    numbers[:, 1, 3] = 0.25  # 2 x (3 + 1) squares
    points = SurfacePoints(one.long(), p, q, p, q, 20 * one, half / RIM * one, half / RIM * one, 0 * one, False)
    board = finish(torch.full((1, 3, 100, 100), 0.5), points, numbers, bank, 0.0, 0.0)[0, 0]
    middles = board[15:90:10, 15:90:10]  # of the squares
    assert middles.shape == (8, 8)
    parity = torch.arange(8)[:, None] + torch.arange(8)
    dark, light = middles[parity % 2 == 0], middles[parity % 2 == 1]
    assert max(dark.max() - dark.min(), light.max() - light.min()) < 1e-5
    assert (dark.mean() - light.mean()).abs() > 0.2
    rim = torch.cat([board[2], board[-3], board[:, 2], board[:, -3]])
    assert rim.max() - rim.min() < 1e-5
