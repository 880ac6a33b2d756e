"""The filter against flicker."""

import pytest
import torch

from stereopsis import Disparity
from stereopsis.matching.temporal import TemporalFilter


def _maps(values: torch.Tensor, valid: torch.Tensor | None = None) -> Disparity:
    values = values.expand(1, 1, *values.shape[-2:])
    valid = torch.ones_like(values, dtype=torch.bool) if valid is None else valid
    return Disparity(torch.where(valid, values, 0.0), valid, torch.ones_like(values))


def test_noise_of_a_static_scene_falls():
    generator = torch.Generator().manual_seed(0)
    scene = torch.rand(3, 32, 48, generator=generator)
    smooth = TemporalFilter(0.8)
    before, after = [], []
    for _ in range(40):
        maps = _maps(20 + 0.2 * torch.randn(32, 48, generator=generator))
        image = (scene + 0.01 * torch.randn(3, 32, 48, generator=generator)).clamp(0, 1)
        before.append(maps.disparity)
        after.append(smooth(maps, image).disparity)
    noise, left = (torch.cat(maps[10:]).var(0).mean() for maps in (before, after))
    # (1 - w) / (1 + w) is 0.11 for w = 0.8, and 0.25 for w = 0.6 as the noise of image and map leave it
    assert left < 0.35 * noise
    assert torch.cat(after[10:]).mean() == pytest.approx(20, abs=0.02)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_a_moving_edge_is_not_smeared(noise):
    generator = torch.Generator().manual_seed(0)
    smooth = TemporalFilter(0.8)
    background, square = torch.rand(3, 32, 96, generator=generator), torch.rand(3, 12, 12, generator=generator)
    errors = []
    for frame in range(20):
        columns = slice(4 + 3 * frame, 16 + 3 * frame)
        image, truth = background.clone(), torch.full((32, 96), 4.0)
        image[:, 10:22, columns], truth[10:22, columns] = square, 12.0
        maps = _maps(truth + noise * torch.randn(32, 96, generator=generator))
        filtered = smooth(maps, image)
        near = slice(max(columns.start - 6, 0), columns.stop + 6)
        errors.append([(m.disparity[0, 0] - truth)[8:24, near].abs().mean() for m in (maps, filtered)])
    plain, after = torch.tensor(errors).mean(0)
    assert after <= plain + 1e-3


def test_an_edge_that_the_image_does_not_show_is_kept():
    smooth, image = TemporalFilter(0.9), torch.full((3, 8, 8), 0.5)
    smooth(_maps(torch.full((8, 8), 4.0)), image)
    assert smooth(_maps(torch.full((8, 8), 12.0)), image).disparity.allclose(torch.tensor(12.0), atol=0.01)


def test_a_change_of_the_image_alone_stops_the_mixing():
    smooth = TemporalFilter(0.9)
    smooth(_maps(torch.full((8, 8), 4.0)), torch.zeros(3, 8, 8))
    assert smooth(_maps(torch.full((8, 8), 4.5)), torch.ones(3, 8, 8)).disparity.allclose(torch.tensor(4.5))


def test_strength_0_is_the_identity():
    smooth = TemporalFilter(0)
    for _ in range(3):
        maps = _maps(torch.rand(8, 8))
        assert smooth(maps, torch.zeros(3, 8, 8)).disparity.equal(maps.disparity)


def test_the_weight_of_a_step():
    smooth, image = TemporalFilter(0.5), torch.zeros(1, 3, 4, 4)
    smooth(_maps(torch.full((4, 4), 10.0)), image)
    expected = 10.5 - 0.5 * torch.exp(torch.tensor(-0.5)) * 0.5
    assert smooth(_maps(torch.full((4, 4), 10.5)), image).disparity.allclose(expected)


def test_pixels_that_are_not_valid_are_neither_mixed_nor_invented():
    smooth, image = TemporalFilter(0.9), torch.zeros(3, 4, 4)
    holed = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    holed[..., 0] = False
    smooth(_maps(torch.full((4, 4), 10.0)), image)
    present = smooth(_maps(torch.full((4, 4), 10.2), holed), image)
    assert present.valid.equal(holed)
    assert (present.disparity[..., 0] == 0).all()
    assert (present.disparity[..., 1:] < 10.2).all()
    after = smooth(_maps(torch.full((4, 4), 10.2)), image)
    assert (after.disparity[..., 0] == 10.2).all()


def test_forgetting():
    smooth, image = TemporalFilter(0.9), torch.zeros(3, 4, 4)
    later = _maps(torch.full((4, 4), 10.5))
    smooth(_maps(torch.full((4, 4), 10.0)), image)
    smooth.reset()
    assert smooth(later, image).disparity.equal(later.disparity)
    larger = _maps(torch.full((6, 4), 10.0))
    assert smooth(larger, torch.zeros(3, 6, 4)).disparity.equal(larger.disparity)


@pytest.mark.parametrize("strength", [-0.1, 1.0, float("nan")])
def test_a_bad_strength(strength):
    with pytest.raises(ValueError, match=r"strength is .*; it must lie in \[0, 1\)"):
        TemporalFilter(strength)


def test_an_image_of_another_size():
    with pytest.raises(ValueError, match="The image is 5x4 and the map 4x4; they must have one size"):
        TemporalFilter(0.5)(_maps(torch.zeros(4, 4)), torch.zeros(3, 4, 5))
