"""Denoising, restoration, removal of texture and saliency maps."""

import pytest
import torch
from torch import nn

from stereopsis.data.scenes import SceneConfig, render
from stereopsis.data.textures import make_bank
from stereopsis.evaluation.upsampling import upsampling_metrics
from stereopsis.geometry.resample import enlarge, reduce
from stereopsis.types import Depth
from stereopsis.upsampling.classical import JointBilateral, JointBilateralConfig
from stereopsis.upsampling.dkn import DKN, DKNConfig
from stereopsis.upsampling.restoration import denoise, remove_texture, restore, upsample_saliency
from stereopsis.zoo import load

NOISE = 0.005**0.5  # the paper's variance, of maps in [0, 1]
BILATERAL = JointBilateral(JointBilateralConfig(radius=6, step=1, sigma_space=3.0, sigma_color=0.05))


@pytest.fixture(scope="module")
def network():
    """FDKN without the residual, untrained: kernels of all sorts whose weights add to 1."""
    torch.manual_seed(0)
    model = DKN(DKNConfig(fast=True, residual=False, scale=1)).eval()
    nn.init.normal_(model.depth_stream.head.weight, std=0.5)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def scenes():
    """Two procedural scenes and their maps of disparity, in [0, 1]."""
    batch = render(7_000_001, 2, make_bank(3, photo_crops=0, drawn=8), SceneConfig(128, 192, max_disparity=60))
    low, high = (f(batch.disparity, (2, 3), keepdim=True) for f in (torch.amin, torch.amax))
    return batch.left, (batch.disparity - low) / (high - low)


def _random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _noisy(values, seed=0):
    return values + NOISE * torch.randn(values.shape, generator=torch.Generator().manual_seed(seed))


def _depth(values):
    return Depth(values, torch.ones_like(values, dtype=torch.bool))


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (32, 48), (33, 50)])
@pytest.mark.parametrize(("c", "t"), [(1, 3), (3, 1), (3, 3)])
def test_any_size_and_channels(network, size, c, t):
    guide, image = _random(2, c, *size), _random(2, t, *size, seed=1)
    found = restore(network, guide, image)
    assert found.shape == image.shape
    # weights that add to 1 leave the range of what they average
    assert found.amin() >= image.amin() - 1e-5
    assert found.amax() <= image.amax() + 1e-5
    smooth = remove_texture(network, guide, 2)
    assert smooth.shape == guide.shape
    assert smooth.var() <= guide.var()
    assert denoise(network, guide, _depth(image)).depth.shape == image.shape
    assert upsample_saliency(network, guide, reduce(image[:, :1], 4).clamp(0, 1)).shape == (2, 1, *size)


def test_a_constant_stays_one(network):
    image, flat = _random(1, 3, 30, 41), torch.full((1, 3, 30, 41), 0.3)
    torch.testing.assert_close(restore(network, image, flat), flat)
    torch.testing.assert_close(remove_texture(network, flat), flat)
    torch.testing.assert_close(denoise(network, image, _depth(flat - 7)).depth, flat - 7)
    for score in (0.0, 0.3, 1.0):
        found = upsample_saliency(network, image, torch.full((1, 1, 4, 5), score))
        torch.testing.assert_close(found, torch.full((1, 1, 30, 41), score))


def test_channels_are_filtered_one_by_one(network):
    guide, image = _random(2, 3, 24, 37), _random(2, 3, 24, 37, seed=1)
    apart = torch.cat([restore(network, guide, image[:, n : n + 1]) for n in range(3)], 1)
    torch.testing.assert_close(restore(network, guide, image), apart)


def test_a_guide_of_one_channel_is_tripled(network):
    guide, image = _random(1, 1, 24, 37), _random(1, 3, 24, 37, seed=1)
    assert torch.equal(restore(network, guide, image), restore(network, guide.expand(-1, 3, -1, -1), image))


def test_what_is_far_away_does_not_change_a_pixel(network):
    guide, image = _random(1, 3, 16, 128), _random(1, 3, 16, 128, seed=1) / 4
    lit = image.clone()
    lit[..., 120:] = 1.0
    before, after = restore(network, guide, image), restore(network, guide, lit)
    assert torch.equal(before[..., :64], after[..., :64])
    assert not torch.equal(before[..., 120:], after[..., 120:])


def test_noise_beside_a_step_falls_and_the_step_stays():
    truth = torch.full((1, 1, 64, 64), 0.2)
    truth[..., 32:] = 0.8
    guide = (1 - truth / 2).expand(-1, 3, -1, -1)
    noisy = _noisy(truth)
    noisy[0, 0, 0, 0] = -0.01  # a value like any other
    for found in (denoise(BILATERAL, guide, _depth(noisy)).depth, restore(BILATERAL, guide, noisy)):
        assert (found - truth).square().mean() < (noisy - truth).square().mean() / 20
        assert found[..., 31].mean() < 0.25
        assert found[..., 32].mean() > 0.75
    blind = restore(BILATERAL, torch.full_like(guide, 0.5), noisy)
    assert blind[..., 32].mean() - blind[..., 31].mean() < 0.2


def test_holes_are_not_averaged(network):
    image, values = _random(1, 3, 32, 40), 2 + _random(1, 1, 32, 40, seed=1)
    valid = _random(1, 1, 32, 40, seed=2) > 0.2
    found = denoise(network, image, Depth(torch.where(valid, values, 1e6), valid))
    assert found.valid[valid].all()
    assert found.depth[found.valid].max() <= 3 + 1e-4


def test_denoising_is_repeated_under_the_same_guide(network):
    image, depth = _random(1, 3, 20, 28), _depth(_random(1, 1, 20, 28, seed=1))
    once = denoise(network, image, depth)
    assert torch.equal(denoise(network, image, depth, 2).depth, denoise(network, image, once).depth)


class _Counting(nn.Module):
    """Halves the map and remembers what it was called with."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, image, depth, valid=None):
        assert valid.all()
        self.calls.append((image, depth))
        return Depth(depth / 2, valid)


def test_texture_is_removed_by_iteration(network):
    image, model = _random(1, 3, 20, 28), _Counting()
    torch.testing.assert_close(remove_texture(model, image, 3), image / 8)
    assert len(model.calls) == 3
    for n, (guide, target) in enumerate(model.calls):
        assert torch.equal(guide, target)
        torch.testing.assert_close(guide, image / 2**n)
    remove_texture(model, image)
    assert len(model.calls) == 3 + 4  # as many as in the paper
    once = restore(network, image, image)
    assert torch.equal(remove_texture(network, image, 2), restore(network, once, once))


def test_a_score_of_0_is_a_value():
    image, scores = _random(1, 3, 32, 48), torch.zeros(1, 1, 4, 6)
    scores[..., 3:] = 1
    found = upsample_saliency(load("bicubic"), image, scores)
    torch.testing.assert_close(found, enlarge(_depth(scores), (32, 48)).depth.clamp(0, 1))
    assert found[..., :8].eq(0).all()
    assert found[..., -8:].gt(0.999).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: denoise(m, torch.ones(1, 3, 8, 8), _depth(torch.ones(1, 1, 8, 9))), "must have one batch and one"),
        (lambda m: restore(m, torch.ones(1, 3, 8, 8), torch.ones(1, 3, 8, 9)), "must have one batch and one size"),
        (lambda m: restore(m, torch.ones(1, 3, 8, 8), torch.ones(2, 3, 8, 8)), "must have one batch and one size"),
        (lambda m: restore(m, torch.ones(1, 4, 8, 8), torch.ones(1, 3, 8, 8)), "has 4 channels; it must have 1 or 3"),
        (lambda m: remove_texture(m, torch.ones(1, 2, 8, 8)), "has 2 channels; it must have 1 or 3"),
        (lambda m: remove_texture(m, torch.ones(1, 3, 8, 8), 0), "iterations is 0; it must be at least 1"),
        (lambda m: denoise(m, torch.ones(1, 3, 8, 8), _depth(torch.ones(1, 1, 8, 8)), -1), "iterations is -1; it must"),
        (lambda m: upsample_saliency(m, torch.ones(1, 3, 8, 8), torch.ones(1, 1, 9, 9)), "must not be larger"),
        (lambda m: upsample_saliency(m, torch.ones(1, 3, 8, 8), torch.ones(1, 1, 2, 8)), "another shape"),
        (lambda m: upsample_saliency(m, torch.ones(1, 3, 8, 8), torch.full((1, 1, 2, 2), 255.0)), "outside [0, 1]"),
        (lambda m: upsample_saliency(m, torch.ones(1, 3, 8, 8), torch.full((1, 1, 2, 2), torch.nan)), "or NaN"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(network, call, words):
    for model in (network, BILATERAL):
        with pytest.raises(ValueError) as error:
            call(model)
        assert words in str(error.value)
        assert str(error.value).endswith(".")


def test_saliency_of_an_eighth_follows_the_object(scenes):
    image, disparity = scenes
    truth = (disparity > 0.5).float()
    small = reduce(truth, 8).clamp(0, 1)
    with torch.inference_mode():
        ours, bicubic = (upsample_saliency(load(name), image, small) for name in ("fdkn_x8.scenes", "bicubic"))
    assert (ours - truth).abs().mean() < 0.75 * (bicubic - truth).abs().mean()


def test_the_papers_noise_falls_and_edges_remain(scenes):
    model, (image, truth) = load("fdkn.denoise"), scenes
    noisy = _noisy(truth)
    with torch.inference_mode():
        found = denoise(model, image, _depth(noisy)).depth
    known = torch.ones_like(truth[:1], dtype=torch.bool)
    for before, after, exact in zip(noisy.split(1), found.split(1), truth.split(1), strict=True):
        start, end = (upsampling_metrics(values, exact, known) for values in (before, after))
        assert end["rmse"] < start["rmse"] / 2
        assert end["edge_rmse"] < start["edge_rmse"] / 1.5


def test_a_clean_map_keeps_its_edges(scenes):
    model, (image, truth) = load("fdkn.denoise"), scenes
    with torch.inference_mode():
        found = denoise(model, image, _depth(truth)).depth
    known = torch.ones_like(truth, dtype=torch.bool)
    assert upsampling_metrics(found, truth, known)["edge_rmse"] < 0.02
