"""Procedural scenes: what they claim about the two views holds between the two views."""

from dataclasses import replace

import pytest
import torch

from stereopsis.data.scenes import SHAPES, SceneConfig, _draw_surfaces, render
from stereopsis.ops.tile_warp import warp_rows

CONFIG = SceneConfig(height=64, width=128, max_disparity=40.0, surfaces=(2, 6), vertical_offset=0.0)
SEEDS = range(24)


@pytest.fixture(scope="module")
def scenes(drawn_bank):
    """Many scenes and their mirror images."""
    rendered = [render(seed, 2, drawn_bank, CONFIG) for seed in SEEDS]
    return {"as rendered": rendered, "mirrored": [scene.mirrored() for scene in rendered]}


@pytest.fixture(params=["as rendered", "mirrored"])
def batches(request, scenes):
    return scenes[request.param]


def _reconstruction(scene, offset=0.0):
    """Errors of the left view made from the right one, where both see the point."""
    column = torch.arange(scene.left.shape[3])
    warped = warp_rows(scene.right, column - (scene.disparity + offset))
    return (warped - scene.left).abs().mean(1, keepdim=True)[scene.visible]


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
            difference = (warp_rows(other, at) - own).abs()[visible]
            assert difference.median() < 0.05
            assert (difference < 1).float().mean() > 0.97


def test_hidden_pixels_lie_behind_what_the_other_view_sees_or_outside_it(batches):
    hidden = 0
    for scene in batches:
        at = (torch.arange(scene.disparity.shape[3]) - scene.disparity).round()
        outside = (at < 0) | (at > scene.disparity.shape[3] - 1)
        assert not (outside & scene.visible).any()
        behind = scene.disparity_right.gather(3, at.long().clamp(0, scene.disparity.shape[3] - 1)) - scene.disparity
        occluded = ~scene.visible & ~outside
        hidden += occluded.sum().item()
        # the other view's pixel shows something nearer; at edges, rounding may hit the farther side
        assert occluded.sum() == 0 or (behind[occluded] > 0).float().mean() > 0.7
    assert hidden > 1000


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
            d, _, _ = surface.disparity(left, y[None])
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


def test_every_shape_is_drawn(drawn_bank, monkeypatch):
    """Each kind of surface alone in front of the background, warped as above."""
    for shape in SHAPES:
        monkeypatch.setattr("stereopsis.data.scenes.SHAPES", (shape,))
        scene = render(2, 2, drawn_bank, replace(CONFIG, surfaces=(3, 3)))
        error = _reconstruction(scene)
        assert error.mean() < 0.01, shape
        assert (scene.disparity.diff(dim=3).abs() > 1).any(), shape  # an edge of the surface shows
