"""Camera effects: reproducible, in range, and on the views they should be on."""

from dataclasses import replace

import pytest
import torch

from stereopsis.data.augment import NO_EFFECTS, AugmentConfig, augment


def _views(batch=3, height=40, width=60):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.rand(batch, 3, height, width, generator=generator),
        torch.rand(batch, 3, height, width, generator=generator),
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_same_seed_gives_the_same_views(seed):
    first, second = (augment(*_views(), seed, AugmentConfig()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    other = augment(*_views(), seed + 1, AugmentConfig())
    assert not torch.equal(first[0], other[0])


def test_the_global_generator_has_no_part_in_it():
    torch.manual_seed(0)
    first = augment(*_views(), 7, AugmentConfig())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    second = augment(*_views(), 7, AugmentConfig())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "config", [AugmentConfig(), AugmentConfig(brightness=0.9, contrast=0.9, asymmetric=0.5, noise=0.3, occluder=1)]
)
def test_values_and_shapes_stay_what_they_were(config):
    for seed in range(20):
        left, right = _views()
        kept = left.clone(), right.clone()
        views = augment(left, right, seed, config)
        for view in views:
            assert view.shape == left.shape
            assert view.dtype == torch.float32
            assert view.isfinite().all()
            assert view.min() >= 0
            assert view.max() <= 1
        assert torch.equal(left, kept[0])  # what was given is not written to
        assert torch.equal(right, kept[1])


def test_without_effects_a_grey_pair_is_left_as_it_is():
    left, right = (view[:, :1].expand(-1, 3, -1, -1) for view in _views())
    for found, given in zip(augment(left, right, 3, NO_EFFECTS), (left, right), strict=True):
        torch.testing.assert_close(found, given, rtol=0, atol=2e-4)


def test_grey_takes_the_colour_of_both_views():
    config = replace(NO_EFFECTS, brightness=0.25, contrast=0.25, blur=0.9, vignette=0.3, grey=1)
    for view in augment(*_views(), 3, config):
        torch.testing.assert_close(view, view[:, :1].expand_as(view), rtol=0, atol=1e-5)


def test_symmetric_effects_treat_both_views_alike():
    left, _ = _views()
    config = replace(NO_EFFECTS, brightness=0.5, contrast=0.5, vignette=0.5)
    found = augment(left, left.clone(), 5, config)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)
    assert (found[0] - left).abs().mean() > 0.01


def test_asymmetric_effects_and_noise_differ_between_the_views():
    left, _ = _views()
    for change in ({"asymmetric": 0.2, "noise": 0.0}, {"asymmetric": 0.0, "noise": 0.2}):
        config = replace(NO_EFFECTS, **({"asymmetric": 0.08, "noise": 0.02} | change))
        found = augment(left, left.clone(), 5, config)
        assert (found[0] - found[1]).abs().mean() > 1e-3


def test_blur_smooths():
    left, right = _views()
    config = replace(NO_EFFECTS, blur=2.0)
    sharp, blurred = augment(left, right, 2, NO_EFFECTS)[0], augment(left, right, 2, config)[0]
    assert (blurred.diff(dim=3).abs().mean((1, 2, 3)) < sharp.diff(dim=3).abs().mean((1, 2, 3))).all()
    torch.testing.assert_close(blurred.mean(), sharp.mean(), rtol=0.02, atol=0)


def test_the_occluder_is_one_rectangle_of_the_right_view():
    left, right = _views(batch=8)
    plain, covered = (augment(left, right, 11, AugmentConfig(occluder=chance)) for chance in (0.0, 1.0))
    assert torch.equal(plain[0], covered[0])
    for before, after in zip(plain[1], covered[1], strict=True):
        changed = (before != after).any(0)
        rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
        assert 0 < len(rows) <= 0.4 * 40
        assert 0 < len(columns) <= 0.3 * 60
        # all in between changed too, but for chance and where the patch overlaps itself
        assert rows[-1] - rows[0] + 1 <= 0.4 * 40
        assert columns[-1] - columns[0] + 1 <= 0.3 * 60


def _without_effects(seed, grey):
    """Every sample's colour is scaled, so compare on grey ones."""
    views = [view[:, :1].expand(-1, 3, -1, -1) if grey else view for view in _views()]
    return views, augment(*views, seed, NO_EFFECTS)


def test_a_vignette_darkens_the_corners_of_both_views_alike():
    views = [torch.full((2, 3, 40, 60), 0.6) for _ in range(2)]
    left, right = augment(*views, 0, replace(NO_EFFECTS, vignette=0.8))
    assert torch.equal(left, right)
    assert (left[:, :, 0, 0] < left[:, :, 20, 30]).all()
    torch.testing.assert_close(left[:, :, 20, 30], torch.full((2, 3), 0.6), rtol=0, atol=2e-3)


def test_motion_smears_both_views_alike():
    views, plain = _without_effects(0, grey=True)
    left, right = augment(*views, 0, replace(NO_EFFECTS, motion=1.0))
    assert (left.std(dim=(2, 3)) < 0.9 * plain[0].std(dim=(2, 3))).all()
    assert (right.std(dim=(2, 3)) < 0.9 * plain[1].std(dim=(2, 3))).all()
    point = torch.zeros(1, 3, 41, 61)
    point[..., 20, 30] = 1
    smeared, _ = augment(point, point, 5, replace(NO_EFFECTS, motion=1.0))
    assert smeared[0, 0].sum() == pytest.approx(1, abs=0.3)  # gamma's floor lifts the dark by 1e-4 a pixel
    y, x = (smeared[0, 0] > 0.1).nonzero().float().mean(0).tolist()
    assert abs(y - 20) <= 1
    assert abs(x - 30) <= 1


def test_jpeg_changes_little_and_keeps_the_channels_in_order():
    views = [torch.zeros(1, 3, 40, 60) for _ in range(2)]
    views[0][:, 0] = 0.8  # red
    left, _ = augment(*views, 0, replace(NO_EFFECTS, jpeg=1.0))
    assert left[:, 0].mean() > left[:, 1:].mean() + 0.1
    given, plain = _without_effects(3, grey=True)
    difference = (augment(*given, 3, replace(NO_EFFECTS, jpeg=1.0))[0] - plain[0]).abs()
    assert 0 < difference.mean() < 0.1


def test_dirt_lies_on_one_lens():
    for seed in range(4):
        views, plain = _without_effects(seed, grey=True)
        found = augment(*views, seed, replace(NO_EFFECTS, dirt=1.0))
        for sample in range(3):
            changed = [not torch.equal(a[sample], b[sample]) for a, b in zip(found, plain, strict=True)]
            assert sorted(changed) == [False, True]
            darker = [(a[sample] <= b[sample]).all() for a, b in zip(found, plain, strict=True)]
            assert all(darker)
