"""Depth as sensors give it."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

from stereopsis.data.sensors import ANY_SENSOR, SensorConfig, misalign, sense
from stereopsis.geometry.resample import Reduction, enlarge, reduce
from stereopsis.types import Depth


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def truth():
    return 1 + torch.rand(1, 1, 48, 64, generator=_generator(1))


def test_the_protocols_sensor_is_bicubic_and_nothing_else(truth):
    small = reduce(truth, 8, "bicubic")
    wanted = enlarge(Depth(small, torch.ones_like(small, dtype=torch.bool)), (48, 64))
    found = sense(truth, SensorConfig((8, 8)), _generator())
    assert torch.equal(found.depth, wanted.depth)
    assert found.valid.all()


def test_the_same_state_gives_the_same_map(truth):
    first, second, other = (sense(truth, ANY_SENSOR, _generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.depth, second.depth)
    assert torch.equal(first.valid, second.valid)
    assert not torch.equal(first.depth, other.depth)


def test_noise_is_a_share_of_the_range(truth):
    config = SensorConfig((1.0, 1.0), noise=0.05)
    spread = [
        ((sense(scale * truth, config, _generator(seed)).depth - scale * truth) / (truth.max() - truth.min())).std()
        for seed in range(12)
        for scale in (1, 100)
    ]
    one, hundred = torch.stack(spread).view(-1, 2).unbind(1)
    assert torch.allclose(100 * one, hundred, rtol=1e-3, atol=1e-4)
    assert one.max() <= 0.052
    assert one.max() > 0.02
    assert one.min() < 1e-6  # half of the maps are clean


def test_flying_pixels_lie_between_the_sides_of_a_step():
    step = torch.ones(1, 1, 40, 40)
    step[..., 20:] = 2
    config, shares = SensorConfig((1.0, 1.0), flying=0.8), []
    for seed in range(20):
        found = sense(step, config, _generator(seed)).depth
        changed = found != step
        assert not changed[..., :19].any()
        assert not changed[..., 21:].any()
        assert found.min() >= 1
        assert found.max() <= 2
        shares.append(changed[..., 19:21].float().mean().item())
    assert sorted(shares)[5] == 0  # half of the maps have none
    assert 0.5 < max(shares) < 0.9


def test_holes_keep_below_their_share_and_hold_nothing(truth):
    config = SensorConfig((2.0, 2.0), holes=0.4)
    shares = []
    for seed in range(20):
        found = sense(truth, config, _generator(seed))
        assert (found.depth[~found.valid] == 0).all()
        shares.append((~found.valid).float().mean().item())
    assert min(shares) == 0
    assert 0.1 < max(shares) <= 0.45


def test_every_filter_and_ratio_is_drawn(truth, monkeypatch):
    seen = []

    def watched(values, scale, how):
        seen.append((scale, how))
        return reduce(values, scale, how)

    monkeypatch.setattr("stereopsis.data.sensors.reduce", watched)
    generator = _generator()
    for _ in range(80):
        sense(truth, replace(ANY_SENSOR, noise=0, flying=0, holes=0), generator)
    assert {how for _, how in seen} == set(get_args(Reduction))
    scales = torch.tensor([scale for scale, _ in seen])
    assert 1 <= scales.min() < 1.5
    assert 12 < scales.max() <= 16


def test_guides_are_bent_by_about_the_given_distance():
    ramp = torch.arange(80.0).expand(4, 3, 80, 80)
    bent = misalign(ramp, 2.0, _generator())
    moved = (bent - ramp)[..., 10:-10]
    assert 1 < moved.std() < 2.2  # what lies between the drawn displacements moves less
    assert moved.diff(dim=-1).abs().max() < 0.5
    assert torch.equal(moved[:, 0], moved[:, 1])
    assert misalign(ramp, 0.0, _generator()) is ramp
    assert torch.allclose(misalign(ramp, 1e-6, _generator()), ramp, atol=1e-3)
