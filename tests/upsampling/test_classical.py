"""Upsampling without learning: against slow definitions, and in the interface of the networks."""

import math

import pytest
import torch

from stereopsis.geometry.resample import reduce
from stereopsis.types import Depth
from stereopsis.upsampling.classical import (
    GuidedFilter,
    GuidedFilterConfig,
    Interpolation,
    InterpolationConfig,
    JointBilateral,
    JointBilateralConfig,
)
from stereopsis.upsampling.upsample import upsample
from stereopsis.zoo import get_entry, list_models, load

NAMES = ("bicubic", "guided-filter", "joint-bilateral", "nearest")


def _scene(h=14, w=17, b=1, t=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(b, 3, h, w, generator=generator)
    return image, 1 + torch.rand(b, t, h, w, generator=generator), torch.rand(b, 1, h, w, generator=generator) > 0.3


def test_names():
    assert set(NAMES) < set(list_models(family="upsampling"))
    assert not any(get_entry(name).needs_weights for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_interface(name):
    model = load(name)
    image, depth, valid = _scene(b=2, t=2)
    dense, holed = model(image, depth), model(image, Depth(depth, valid.expand_as(depth)))
    for result in (dense, holed, model(image[:, :1], depth, valid)):
        assert result.depth.shape == result.valid.shape == depth.shape
        assert result.depth.isfinite().all()
        assert result.depth[~result.valid].eq(0).all()
        assert result.valid[valid.expand_as(depth)].all()
    assert dense.valid.all()
    flat = model(image, torch.full_like(depth, 2.0), valid)
    torch.testing.assert_close(flat.depth[flat.valid], torch.full_like(flat.depth[flat.valid], 2.0))
    torch.testing.assert_close(model(image, 1000 * depth, valid).depth, 1000 * holed.depth, rtol=1e-4, atol=1e-2)
    with pytest.raises(ValueError, match="enlarge the map first"):
        model(image, depth[..., :-1])


@pytest.mark.parametrize("name", NAMES)
def test_what_a_hole_holds_does_not_matter(name):
    model = load(name)
    image, depth, valid = _scene()
    expected = model(image, depth, valid)
    for content in (1e6, math.nan):
        found = model(image, torch.where(valid, depth, content), valid)
        assert torch.equal(found.depth, expected.depth)
        assert torch.equal(found.valid, expected.valid)


def test_joint_bilateral_equals_its_definition():
    image, depth, valid = _scene(7, 8)
    config = JointBilateralConfig(radius=2, step=1, sigma_space=1.5, sigma_color=0.3)
    found = JointBilateral(config)(image, depth, valid)
    for y, x in ((0, 0), (3, 4), (6, 7)):
        total = weights = 0.0
        for v in range(max(y - 2, 0), min(y + 3, 7)):
            for u in range(max(x - 2, 0), min(x + 3, 8)):
                color = (image[0, :, v, u] - image[0, :, y, x]).square().sum().item()
                weight = math.exp(-((v - y) ** 2 + (u - x) ** 2) / 4.5 - color / 0.18) * valid[0, 0, v, u].item()
                total, weights = total + weight * depth[0, 0, v, u].item(), weights + weight
        assert found.depth[0, 0, y, x].item() == pytest.approx(total / weights, rel=1e-4)


def test_guided_filter_equals_its_definition():
    image, depth, valid = _scene(7, 8)
    image = image[:, :1]
    found = GuidedFilter(GuidedFilterConfig(radius=1, epsilon=0.01))(image, depth, valid)

    def window(y, x):
        return slice(max(y - 1, 0), y + 2), slice(max(x - 1, 0), x + 2)

    def line(y, x):
        keep = valid[0, 0][window(y, x)]
        g, p = image[0, 0][window(y, x)][keep].double(), depth[0, 0][window(y, x)][keep].double()
        if not len(g):
            return None
        a = ((g * p).mean() - g.mean() * p.mean()) / (g.var(unbiased=False) + 0.01)
        return a, p.mean() - a * g.mean()

    for y, x in ((0, 0), (3, 4), (6, 7)):
        rows, columns = window(y, x)
        lines = [line(v, u) for v in range(7)[rows] for u in range(8)[columns]]
        values = [a * image[0, 0, y, x].double() + b for a, b in (pair for pair in lines if pair is not None)]
        assert found.depth[0, 0, y, x].item() == pytest.approx(sum(values).item() / len(values), rel=1e-4)


def test_holes_without_support_stay():
    image, depth, _ = _scene(60, 60)
    valid = torch.zeros(1, 1, 60, 60, dtype=torch.bool)
    valid[..., :3, :3] = True
    for name in NAMES:
        result = load(name)(image, depth, valid)
        assert not result.valid[..., 30:, :].any()


@pytest.mark.parametrize("name", ["guided-filter", "joint-bilateral"])
def test_guided_filters_sharpen_an_edge_that_the_image_has(name):
    truth = torch.ones(1, 1, 48, 48)
    truth[..., 21:] = 3
    image = (truth / 4).expand(-1, 3, -1, -1)
    small = reduce(truth, 8)
    low = Depth(small, torch.ones_like(small, dtype=torch.bool))
    errors = [(upsample(model, image, low).depth - truth).square().mean() for model in (load(name), load("bicubic"))]
    assert errors[0] < errors[1]


def test_interpolation_keeps_the_callers_map():
    image, depth, valid = _scene()
    for enlargement in ("nearest", "bicubic"):
        model = Interpolation(InterpolationConfig(enlargement))
        assert model.enlargement == enlargement
        assert torch.equal(model(image, depth, valid).depth, torch.where(valid, depth, 0.0))
