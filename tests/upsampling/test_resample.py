"""Reducing, enlarging and filling of depth maps."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional as F

from stereopsis.geometry.resample import enlarge, fill_smooth, reduce
from stereopsis.types import Depth
from stereopsis.upsampling.classical import Interpolation, InterpolationConfig
from stereopsis.upsampling.dkn import DKN, DKNConfig
from stereopsis.upsampling.upsample import back_project, upsample

BICUBIC = Interpolation(InterpolationConfig("bicubic"))


def _map(h, w, seed=0):
    return 1 + torch.rand(1, 1, h, w, generator=torch.Generator().manual_seed(seed))


def _depth(values, valid=None):
    valid = torch.ones_like(values, dtype=torch.bool) if valid is None else valid
    return Depth(torch.where(valid, values, 0.0), valid)


def _pillow(values, size):
    picture = Image.fromarray(values[0, 0].numpy()).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture))[None, None]


def test_bicubic_is_that_of_pillow_in_both_directions():
    large = _map(48, 64)
    small = reduce(large, 8)
    torch.testing.assert_close(small, _pillow(large, (6, 8)), rtol=0, atol=1e-5)
    torch.testing.assert_close(enlarge(_depth(small), (48, 64)).depth, _pillow(small, (48, 64)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", ["bicubic", "bilinear", "area", "cubic", "nearest", "every"])
def test_reductions(how):
    flat = torch.full((2, 1, 40, 60), 3.0)
    for scale, size in ((1, (40, 60)), (4, (10, 15)), (7.5, (5, 8)), (100, (1, 1))):
        small = reduce(flat, scale, how)
        assert small.shape == (2, 1, *size)
        torch.testing.assert_close(small, torch.full_like(small, 3.0))
    ramp = torch.arange(64.0).expand(1, 1, 64, 64)
    middle = {"every": 24.0, "nearest": 28.0}.get(how, 27.5)
    assert reduce(ramp, 8, how)[0, 0, 4, 3].item() == pytest.approx(middle)


def test_enlarging_keeps_holes_where_they_are():
    values, valid = _map(6, 8), torch.ones(1, 1, 6, 8, dtype=torch.bool)
    valid[..., 2:4, 3:5] = False
    for how in ("bicubic", "nearest"):
        large = enlarge(_depth(values, valid), (24, 32), how)
        expected = valid.repeat_interleave(4, 2).repeat_interleave(4, 3)
        assert torch.equal(large.valid, expected)
        assert large.depth[~large.valid].eq(0).all()
        assert large.depth[large.valid].min() > 0.8  # no 0 of a hole reaches over its border


@given(h=st.integers(1, 20), w=st.integers(1, 20), share=st.floats(0, 1), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_filling_keeps_what_is_known_and_stays_in_its_range(h, w, share, seed):
    values = _map(h, w, seed)
    valid = torch.rand(1, 1, h, w, generator=torch.Generator().manual_seed(seed)) >= share
    results = []
    for content in (0.0, 1e6, math.nan):
        results.append(fill_smooth(torch.where(valid, values, content), valid))
    filled = results[0]
    assert all(torch.equal(filled, other) for other in results[1:])
    assert torch.equal(filled[valid], values[valid])
    if valid.any():
        assert filled.min() >= values[valid].min() - 1e-5
        assert filled.max() <= values[valid].max() + 1e-5
    else:
        assert filled.eq(0).all()


def test_each_map_of_a_batch_is_filled_from_itself():
    values = torch.tensor([1.0, 5.0]).view(2, 1, 1, 1).expand(2, 1, 9, 9)
    valid = torch.zeros(2, 1, 9, 9, dtype=torch.bool)
    valid[..., 0, 0] = True
    torch.testing.assert_close(fill_smooth(values.masked_fill(~valid, 0), valid), values.contiguous())


class _Seen(nn.Module):
    def __init__(self, enlargement):
        super().__init__()
        self.enlargement = enlargement

    def forward(self, image, depth):
        return depth


@pytest.mark.parametrize("size", [(30, 40), (31, 40), (33, 44), (60, 80), (225, 300)])
def test_upsampling_takes_any_ratio(size):
    image = torch.rand(1, 3, *size)
    result = upsample(BICUBIC, image, _depth(_map(30, 40)))
    assert result.depth.shape == (1, 1, *size)
    assert result.valid.all()


def test_a_map_of_the_images_size_is_left_alone_and_the_model_chooses_the_filter():
    small = _depth(_map(6, 8))
    assert upsample(BICUBIC, torch.rand(1, 3, 6, 8), small) is not None
    assert torch.equal(upsample(_Seen("nearest"), torch.rand(1, 3, 6, 8), small).depth, small.depth)
    nearest = upsample(_Seen("nearest"), torch.rand(1, 3, 24, 32), small).depth
    assert set(nearest.unique().tolist()) == set(small.depth.unique().tolist())


@pytest.mark.parametrize(
    ("image", "depth", "words"),
    [
        ((20, 40), (30, 40), "must not be larger"),
        ((60, 100), (30, 40), "another shape"),
        ((240, 640), (60, 80), "another shape"),
        ((60, 80), None, "no valid pixel"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(image, depth, words):
    given = _depth(torch.zeros(1, 1, 30, 40), torch.zeros(1, 1, 30, 40, dtype=torch.bool))
    given = given if depth is None else _depth(_map(*depth))
    with pytest.raises(ValueError, match=words) as error:
        upsample(BICUBIC, torch.rand(1, 3, *image), given)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_a_scale_below_one_is_refused():
    with pytest.raises(ValueError, match=r"scale is 0\.5; it must be at least 1"):
        reduce(_map(8, 8), 0.5)


@pytest.mark.parametrize("holes", [False, True])
def test_back_projection_comes_nearer_to_what_was_measured_and_to_the_truth(holes):
    truth = F.interpolate(_map(9, 12), size=(72, 96), mode="nearest")
    small = reduce(truth, 8)
    valid = torch.ones_like(small, dtype=torch.bool)
    if holes:
        valid[..., 3:5, 4:6] = False
    depth = _depth(torch.where(valid, small, 0.0), valid)
    results = [enlarge(depth, (72, 96))]
    for _ in range(3):
        results.append(back_project(results[-1], depth, "bicubic"))

    def residual(result):
        dense = fill_smooth(result.depth, result.valid)
        return (reduce(dense, 8) - small)[valid].square().mean()

    assert all(residual(b) < 0.9 * residual(a) for a, b in pairwise(results))
    errors = [(result.depth - truth)[result.valid].square().mean() for result in results]
    assert errors[-1] < errors[0]
    for result in results:
        assert torch.equal(result.valid, results[0].valid)
        assert (result.depth[~result.valid] == 0).all()
    again = upsample(BICUBIC, torch.rand(1, 3, 72, 96), depth, 3, "bicubic")
    assert torch.allclose(again.depth, results[-1].depth, atol=1e-5)


def _scene() -> torch.Tensor:
    """Steps on slanted ground, smoothed a little."""
    y, x = torch.meshgrid(torch.arange(192.0), torch.arange(256.0), indexing="ij")
    step = 20 * ((x + 0.3 * y) % 70 > 30).float() + 10 * ((y - 0.2 * x) % 50 > 25).float()
    return F.avg_pool2d((40 + 0.05 * y + step)[None, None], 3, 1, 1)[..., 1:-1, 1:-1]


def _waves(like: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(torch.randn(like.shape, generator=torch.Generator().manual_seed(0)), 9, 1, 4)


@pytest.mark.parametrize("how", ["bicubic", "bilinear", "area", "cubic", "nearest", "every"])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_back_projection_by_the_filter_that_was_used(how, scale):
    truth = _scene()[..., :184, :248]
    small = _depth(reduce(truth, scale, how))
    rough = _depth(truth + 3 * _waves(truth))
    error = [(m.depth - truth).square().mean() for m in (rough, back_project(rough, small, how))]
    assert error[1] < 0.6 * error[0]


@pytest.mark.parametrize("how", ["bicubic", "bilinear", "area", "cubic"])
def test_back_projection_finds_the_filter(how):
    truth = _scene()[..., :184, :248]
    small = _depth(reduce(truth, 4, how))
    rough = _depth(truth + _waves(truth))
    found, told = back_project(rough, small), back_project(rough, small, how)
    assert torch.allclose(found.depth, told.depth, atol=0.05)


def test_back_projection_adds_no_noise_and_no_displacement():
    truth = _scene()[..., :184, :248]
    result = _depth(truth)
    small = reduce(truth, 8, "bicubic")
    noisy = small + 0.5 * small.std() * torch.randn(small.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(back_project(result, _depth(noisy)).depth, truth)
    assert not torch.equal(back_project(result, _depth(noisy), "bicubic").depth, truth)
    every = _depth(reduce(truth, 8, "every"))
    added = [(back_project(result, every, how).depth - truth).abs().mean() for how in (None, "bicubic")]
    assert added[0] < 0.3 * added[1]


def test_networks_for_any_ratio_are_pulled_once():
    depth, image = _depth(reduce(_scene()[..., :96, :128], 4, "area")), torch.rand(1, 3, 96, 128)
    model = DKN(DKNConfig(fast=True, widths=(8, 8), scale=None)).eval()
    with torch.inference_mode():
        assert torch.equal(upsample(model, image, depth).depth, upsample(model, image, depth, 1).depth)
        assert not torch.equal(upsample(model, image, depth).depth, upsample(model, image, depth, 0).depth)
        same = _depth(_scene()[..., :96, :128])
        assert torch.equal(upsample(model, image, same).depth, upsample(model, image, same, 0).depth)


@pytest.mark.parametrize(("noise", "sizes"), [(0.0, [(64, 96), (256, 384)]), (0.3, [(64, 96), (256, 384)])])
def test_noisy_maps_are_enlarged_in_steps(noise, sizes):
    seen = []

    class Smoothing(nn.Module):
        any_ratio = True

        def forward(self, image, depth):
            seen.append((tuple(image.shape[-2:]), depth.depth))
            return _depth(F.avg_pool2d(depth.depth, 9, 1, 4, count_include_pad=False))

    y, x = torch.meshgrid(torch.linspace(1, 2, 16), torch.linspace(1, 3, 24), indexing="ij")
    small = (y + x)[None, None] + noise * (_map(16, 24, 1) - 1.5)
    found = upsample(Smoothing(), torch.rand(1, 3, 256, 384), _depth(small))
    assert [size for size, _ in seen] == sizes
    assert found.depth.shape == (1, 1, 256, 384)
    # noise makes the second call go on from the first one's result
    went_on = not torch.equal(seen[1][1], enlarge(_depth(small), (256, 384)).depth)
    assert went_on == bool(noise)


def test_negative_back_projections_are_refused():
    with pytest.raises(ValueError, match="back_projections is -1; it must not be negative"):
        upsample(BICUBIC, torch.rand(1, 3, 8, 8), _depth(_map(4, 4)), back_projections=-1)
