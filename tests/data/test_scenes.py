"""Procedural scenes: what they claim about the two views holds between the two views."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from stereopsis.data.scenes import SceneConfig, _draw_surfaces, render
from stereopsis.data.shapes import HOLES, NUMBERS, OPEN, SOLID, THIN, holes, inside
from stereopsis.ops.tile_warp import warp_rows

CONFIG = SceneConfig(height=64, width=128, max_disparity=40.0, surfaces=(2, 6), vertical_offset=0.0, glossy=0.0)
SEEDS = range(24)


@pytest.fixture(scope="module")
def scenes(drawn_bank):
    """Many scenes and their mirror images."""
    rendered = [render(seed, 2, drawn_bank, CONFIG) for seed in SEEDS]
    return {"as rendered": rendered, "mirrored": [scene.mirrored() for scene in rendered]}


@pytest.fixture(params=["as rendered", "mirrored"])
def batches(request, scenes):
    return scenes[request.param]


def _spread(disparity):
    """How far the disparities of a pixel and its neighbours lie apart."""
    return F.max_pool2d(disparity, 3, 1, 1) + F.max_pool2d(-disparity, 3, 1, 1)


def _away_from_edges(own, other, sign):
    """Neither at an edge of this view nor, seen there, of the other: edges fall between the pixels of one view."""
    at = (torch.arange(own.shape[3]) + sign * own).round().long().clamp(0, own.shape[3] - 1)
    return (_spread(own) < 1.5) & (_spread(other).gather(3, at) < 1.5)


def _reconstruction(scene, offset=0.0):
    """Errors of the left view made from the right one, where both see the point."""
    column = torch.arange(scene.left.shape[3])
    warped = warp_rows(scene.right, column - (scene.disparity + offset))
    seen = scene.visible & _away_from_edges(scene.disparity, scene.disparity_right, -1)
    return (warped - scene.left).abs().mean(1, keepdim=True)[seen]


def test_the_right_view_warped_by_the_truth_is_the_left_view(batches):
    for scene in batches:
        error = _reconstruction(scene)
        # what is left: bilinear sampling of sharp texture, and edges within the pixel
        assert error.mean() < 0.01
        assert (error < 0.05).float().mean() > 0.95


def test_the_truth_has_no_offset(batches):
    """A quarter of a pixel more or less must show: the median error is some times larger."""
    error = {
        offset: torch.stack([_reconstruction(scene, offset).median() for scene in batches]).mean().item()
        for offset in (-0.25, -0.1, 0.0, 0.1, 0.25)
    }
    assert error[0.0] < 0.5e-3
    assert min(error[-0.25], error[0.25]) > 3 * error[0.0]
    assert min(error[-0.1], error[0.1]) > 1.3 * error[0.0]


def test_visible_pixels_find_their_own_disparity_in_the_other_view(batches):
    for scene in batches:
        for own, other, visible, sign in (
            (scene.disparity, scene.disparity_right, scene.visible, -1),
            (scene.disparity_right, scene.disparity, scene.visible_right, 1),
        ):
            at = torch.arange(own.shape[3]) + sign * own
            assert at[visible].min() >= -0.5
            assert at[visible].max() <= own.shape[3] - 0.5
            difference = (warp_rows(other, at) - own).abs()
            assert difference[visible].median() < 0.05
            assert (difference[visible] < 1).float().mean() > 0.9
            assert (difference[visible & _away_from_edges(own, other, sign)] < 0.5).float().mean() > 0.999


def test_hidden_pixels_lie_behind_what_the_other_view_sees_or_outside_it(batches):
    found = []
    for scene in batches:
        at = (torch.arange(scene.disparity.shape[3]) - scene.disparity).round()
        outside = (at < 0) | (at > scene.disparity.shape[3] - 1)
        assert not (outside & scene.visible).any()
        behind = scene.disparity_right.gather(3, at.long().clamp(0, scene.disparity.shape[3] - 1)) - scene.disparity
        occluded = ~scene.visible & ~outside
        inner = occluded & _away_from_edges(scene.disparity, scene.disparity_right, -1)
        found.append(behind[inner] > 0)
    # the other view's pixel shows something nearer; where that is thinner than a pixel, it may miss it
    assert torch.cat(found).float().mean() > 0.97
    assert len(torch.cat(found)) > 1000


def test_some_of_every_scene_is_seen_by_both_views(batches):
    shares = torch.stack([scene.visible.float().mean() for scene in batches])
    assert shares.min() > 0.3
    assert shares.mean() > 0.7


def test_slant_is_the_slope_of_the_disparity(batches):
    for scene in batches:
        d, slant = scene.disparity, scene.slant
        # central differences, inside one surface: where the second difference is small
        for axis, channel in ((3, 0), (2, 1)):
            length = d.shape[axis]
            before, at, after = (d.narrow(axis, start, length - 2) for start in (0, 1, 2))
            smooth = (after - 2 * at + before).abs() < 0.02
            expected = (after - before) / 2
            found = slant[:, channel : channel + 1].narrow(axis, 1, length - 2)
            error = (found - expected).abs()[smooth]
            assert smooth.float().mean() > 0.7
            assert (error < 0.02).float().mean() > 0.995


def test_disparities_are_positive_and_reach_far_into_the_range(batches):
    nearest = torch.stack([scene.disparity.max() for scene in batches])
    assert min(scene.disparity.min().item() for scene in batches) > 0
    assert min(scene.disparity_right.min().item() for scene in batches) > 0
    assert nearest.max() > 0.7 * CONFIG.max_disparity


def test_hardly_anything_comes_nearer_than_the_limit(drawn_bank):
    disparity = torch.stack([render(seed, 2, drawn_bank, CONFIG).disparity for seed in range(60)])
    assert (disparity > CONFIG.max_disparity).float().mean() < 1e-3
    assert disparity.max() < 1.2 * CONFIG.max_disparity


def test_images_are_in_range_and_textured(batches):
    for scene in batches:
        for view in (scene.left, scene.right):
            assert view.shape == (2, 3, 64, 128)
            assert view.isfinite().all()
            assert view.min() >= 0
            assert view.max() <= 1
            assert (view.std(dim=(1, 2, 3)) > 0.005).all()


def test_a_seed_is_a_scene(drawn_bank):
    config = replace(CONFIG, vertical_offset=0.5)
    first, again, other = (render(seed, 2, drawn_bank, config) for seed in (5, 5, 6))
    for name, value in vars(first).items():
        same = torch.equal(value, getattr(again, name)) if isinstance(value, torch.Tensor) else value == 5
        assert same, name
    assert not torch.equal(first.left, other.left)
    assert not torch.equal(first.disparity, other.disparity)


def test_samples_of_a_batch_differ(drawn_bank):
    scene = render(3, 3, drawn_bank, CONFIG)
    assert not torch.equal(scene.disparity[0], scene.disparity[1])
    assert not torch.equal(scene.left[1], scene.left[2])


def test_rendering_leaves_the_global_generator_alone(drawn_bank):
    state = torch.get_rng_state()
    render(3, 1, drawn_bank, CONFIG)
    assert torch.equal(torch.get_rng_state(), state)


def test_right_pixels_find_their_point_on_curved_surfaces():
    """The left column of a right pixel solves x - d(x, y) = x_right, in which slope and bend take part."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(128.0), indexing="ij")
    errors = []
    for seed in SEEDS:
        for surface in _draw_surfaces(seed, 2, CONFIG)[0]:
            left = surface.left_of_right(x[None], y[None])
            d = surface.disparity(left, y[None])
            inside = surface.inside(left, y[None])
            if surface.curved:
                errors.append((left - d - x)[inside].abs())
            else:
                torch.testing.assert_close((left - d)[inside], x.expand_as(left)[inside], rtol=0, atol=1e-3)
    assert len(errors) > 20
    assert (torch.cat(errors) < 1e-3).float().mean() > 0.999


def test_two_mirrors_give_the_scene_back(scenes):
    scene = scenes["as rendered"][0]
    twice = scene.mirrored().mirrored()
    for name, value in vars(scene).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(twice, name)), name


def test_the_mirror_swaps_the_views(scenes):
    scene, mirror = scenes["as rendered"][1], scenes["mirrored"][1]
    assert torch.equal(mirror.left, scene.right.flip(-1))
    assert torch.equal(mirror.disparity, scene.disparity_right.flip(-1))
    assert torch.equal(mirror.visible, scene.visible_right.flip(-1))


def test_vertical_offset_moves_the_right_view_alone(drawn_bank):
    level, tilted = (render(4, 2, drawn_bank, replace(CONFIG, vertical_offset=v)) for v in (0.0, 1.5))
    assert torch.equal(level.left, tilted.left)
    assert torch.equal(level.disparity, tilted.disparity)
    assert not torch.equal(level.right, tilted.right)


@pytest.mark.parametrize("size", [(33, 70), (16, 200)])
def test_any_size(drawn_bank, size):
    scene = render(0, 1, drawn_bank, replace(CONFIG, height=size[0], width=size[1]))
    assert scene.left.shape == (1, 3, *size)
    assert scene.slant.shape == scene.slant_right.shape == (1, 2, *size)


@pytest.mark.parametrize("shape", SOLID + OPEN + THIN)
def test_every_shape_is_drawn(drawn_bank, monkeypatch, shape):
    """Each kind of surface alone in front of the background, warped as above."""
    for family in ("SOLID", "OPEN", "THIN"):
        monkeypatch.setattr(f"stereopsis.data.scenes.{family}", (shape,))
    scene = render(2, 2, drawn_bank, replace(CONFIG, surfaces=(3, 3), pierced=0.0))
    assert _reconstruction(scene).mean() < 0.015
    assert (scene.disparity.diff(dim=3).abs() > 1).any()  # an edge of the surface shows


@pytest.mark.parametrize("shape", SOLID + OPEN)
def test_shapes_fill_some_of_their_square_and_nothing_far_from_it(shape):
    axis = torch.linspace(-3, 3, 121)
    q, p = torch.meshgrid(axis, axis, indexing="ij")
    numbers = torch.rand(32, NUMBERS, 1, 1, generator=torch.Generator().manual_seed(0))
    found = inside(shape, p.expand(32, -1, -1), q.expand(32, -1, -1), numbers)
    assert found.any(-1).any(-1).float().mean() > 0.9
    assert not found[:, (p.abs() > 2) | (q.abs() > 2)].any()


def test_holes_are_holes():
    axis = torch.linspace(-1, 1, 81)
    q, p = torch.meshgrid(axis, axis, indexing="ij")
    numbers = torch.rand(32, 4 * HOLES, 1, 1, generator=torch.Generator().manual_seed(0))
    share = holes(p.expand(32, -1, -1), q.expand(32, -1, -1), numbers).float().mean((1, 2))
    assert share.min() > 0
    assert share.max() < 0.7


@pytest.mark.parametrize("right", [False, True])
def test_only_the_window_a_surface_may_touch_is_computed(right):
    """What lies outside the window is not the surface's."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(128.0), indexing="ij")
    x, y = x.expand(2, -1, -1), y.expand(2, -1, -1)
    small = 0
    for seed in SEEDS:
        for surface in _draw_surfaces(seed, 2, CONFIG)[0]:
            window = (slice(None), *surface.window(64, 128, right=right))
            found = surface.inside(surface.left_of_right(x, y) if right else x, y)
            found[window] = False
            assert not found.any(), surface.shape
            small += x[window].numel() < x.numel() / 2
    assert small > 20


def test_a_highlight_moves_between_the_views(drawn_bank):
    plain, glossy = (render(7, 2, drawn_bank, replace(CONFIG, glossy=chance)) for chance in (0.0, 1.0))
    assert torch.equal(plain.disparity, glossy.disparity)
    assert (glossy.left - plain.left).max() > 0.1
    assert _reconstruction(glossy).mean() > 2 * _reconstruction(plain).mean()


def test_the_claims_hold_for_thousands_of_scenes(drawn_bank):
    """Warping gives the left view back but for sampling noise, and the masks follow from the two disparity maps."""
    config = replace(CONFIG, height=32, width=96)
    errors, agreement = [], []
    for seed in range(256):
        scene = render(10_000 + 2 * seed, 8, drawn_bank, config)
        column = torch.arange(96)
        inner = _away_from_edges(scene.disparity, scene.disparity_right, -1)
        warped = warp_rows(scene.right, column - scene.disparity)
        error = (warped - scene.left).abs().mean(1, keepdim=True) * (scene.visible & inner)
        errors.append(error.sum((1, 2, 3)) / (scene.visible & inner).sum((1, 2, 3)).clamp(min=1))
        at = column - scene.disparity
        there = warp_rows(scene.disparity_right, at)
        seen = (at >= 0) & (at <= 95) & ((there - scene.disparity).abs() < 0.5)
        agreement.append((seen == scene.visible)[inner & ((at < -1) | (at >= 0))])
    errors = torch.cat(errors)
    assert len(errors) == 2048
    assert errors.median() < 0.005
    assert (errors < 0.03).float().mean() > 0.999
    assert torch.cat(agreement).float().mean() > 0.995


def test_fog_takes_contrast_from_what_is_far(drawn_bank):
    clear, foggy = (render(9, 4, drawn_bank, replace(CONFIG, fog=chance)) for chance in (0.0, 1.0))
    assert torch.equal(clear.disparity, foggy.disparity)
    change = (clear.left - foggy.left).abs().mean(1, keepdim=True)
    far = clear.disparity < clear.disparity.median()
    assert change[far].mean() > 1.5 * change[~far].mean()
    assert _reconstruction(foggy).mean() < 0.01


def test_depth_is_that_of_the_rig(drawn_bank):
    from stereopsis import geometry
    from stereopsis.types import Disparity

    scene = render(11, 2, drawn_bank, CONFIG)
    for sample in range(2):
        rig = scene.calibration(sample)
        d = scene.disparity[sample : sample + 1]
        depth = geometry.disparity_to_depth(Disparity(d, torch.ones_like(d).bool(), torch.ones_like(d)), rig)
        torch.testing.assert_close(depth.depth, scene.depth[sample : sample + 1], rtol=1e-5, atol=0)
    assert (scene.depth > 0).all()
