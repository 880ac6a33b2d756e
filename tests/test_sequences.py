"""Sequences from Python: warm start, budgets, the filter and the range of colours."""

import math

import pytest
import torch
from views import shifted_pair

import stereopsis
from stereopsis import Disparity
from stereopsis.matching.anynet import AnyNet
from stereopsis.pipeline.sequence import ColorRange, SequenceMatcher, match_sequence


class _Recorder(AnyNet):
    """Remembers what it is called with, and answers with a plane a pixel further each time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict] = []

    def forward(self, left, right, max_disparity=None, budget=None, previous=None):
        self.calls.append({"budget": budget, "previous": previous, "size": tuple(left.shape[-2:])})
        disparity = torch.full((1, 1, *left.shape[-2:]), float(len(self.calls)))
        return Disparity(disparity, torch.ones_like(disparity, dtype=torch.bool), torch.ones_like(disparity), 3)


def _pairs(count, height=32, width=48):
    return [shifted_pair(4, height, width, seed) for seed in range(count)]


def test_each_frame_starts_from_the_one_before():
    model = _Recorder()
    maps = list(match_sequence(_pairs(3), model, warm_start=True))
    assert [m.disparity.mean().item() for m in maps] == [1, 2, 3]
    assert model.calls[0]["previous"] is None
    assert [call["previous"].disparity.mean().item() for call in model.calls[1:]] == [1, 2]


def test_a_frame_starts_from_the_map_before_it_was_filtered():
    model = _Recorder()
    pair = _pairs(1)[0]
    maps = list(match_sequence([pair, pair, pair], model, warm_start=True, smooth=0.5))
    assert maps[1].disparity.mean() < 2
    assert model.calls[2]["previous"].disparity.mean() == 2


def test_another_size_starts_anew():
    model = _Recorder()
    frames = [*_pairs(2), *_pairs(2, 48, 64)]
    assert len(list(match_sequence(frames, model, warm_start=True, smooth=0.5))) == 4
    assert [call["previous"] is None for call in model.calls] == [True, False, True, False]


def test_reset_forgets():
    model = _Recorder()
    matcher = SequenceMatcher(model, warm_start=True, smooth=0.5)
    pair = _pairs(1)[0]
    matcher(*pair)
    matcher.reset()
    assert matcher(*pair).disparity.disparity.mean() == 2
    assert model.calls[1]["previous"] is None


def test_the_costs_are_learnt_once_a_size():
    model = _Recorder()
    matcher = SequenceMatcher(model, budget=0.02, warm_start=True)
    found = [matcher(*pair) for pair in _pairs(3)]
    assert [frame.stage for frame in found] == [3, 3, 3]
    budgets = [call["budget"] for call in model.calls]
    assert budgets[:4] == [math.inf] * 4
    assert len(budgets) == 7
    assert all(0 < budget < 0.02 for budget in budgets[4:])  # what converting the views has left
    assert [call["previous"] is None for call in model.calls] == [True, True, False, False, True, False, False]


def test_the_check_shares_the_budget_and_asks_for_the_left_view_last():
    model = _Recorder()
    left, right = _pairs(1)[0]
    found = stereopsis.match(left, right, model=model, check=10.0, budget=0.02, previous=_map(7.0, 48))
    assert model.calls[0]["budget"] == model.calls[1]["budget"]
    assert 0 < model.calls[0]["budget"] < 0.01  # converting the views takes its part
    assert [call["previous"] is None for call in model.calls] == [True, False]
    assert found.disparity.max() == 2


def test_frames_are_matched_when_they_are_asked_for():
    model = _Recorder()
    maps = match_sequence(iter(_pairs(3)), model)
    assert not model.calls
    next(maps)
    assert len(model.calls) == 1


def test_the_network_itself():
    torch.manual_seed(0)
    model = AnyNet().eval()
    frames = _pairs(2, 48, 64)
    cold = [m.disparity for m in match_sequence(frames, model, max_disparity=32)]
    warm = [m.disparity for m in match_sequence(frames, model, max_disparity=32, warm_start=True)]
    assert torch.allclose(cold[0], warm[0], atol=1e-4)
    assert not torch.allclose(cold[1], warm[1], atol=1e-4)
    assert SequenceMatcher(model, budget=1e3)(*frames[0]).stage == 4
    assert SequenceMatcher(model, budget=1e-9)(*frames[0]).stage == 1


@pytest.mark.parametrize("options", [{"budget": 0.02}, {"warm_start": True}])
def test_a_model_without_stages(options):
    with pytest.raises(ValueError, match="has no stages, so it takes neither a budget nor a warm start"):
        match_sequence([], "sgbm", **options)


def test_a_single_pair_for_a_model_without_stages():
    pair = _pairs(1)[0]
    for options in ({"budget": 0.02}, {"previous": _map(3.0, 48)}):
        with pytest.raises(ValueError, match="has no stages, so it takes neither a budget nor a previous map"):
            stereopsis.match(*pair, model="sgbm", **options)


@pytest.mark.parametrize("budget", [0.0, -1.0, math.nan])
def test_a_bad_budget(budget):
    with pytest.raises(ValueError, match=r"budget is .* s; it must be above 0"):
        stereopsis.match(*_pairs(1)[0], model=_Recorder(), budget=budget, check=1.0)


def _map(value, width=100, valid=True):
    disparity = torch.full((1, 1, 32, width), float(value) * valid)
    return Disparity(disparity, torch.full_like(disparity, valid, dtype=torch.bool), torch.ones_like(disparity))


def test_the_range_of_colours_is_that_of_the_first_map():
    colors = ColorRange()
    assert colors(_map(0, valid=False)) is None
    ramp = _map(1)
    ramp.disparity[:] = torch.linspace(10, 60, 100)
    low, high = 11 - 4.8, 59 + 4.8
    assert colors(ramp) == pytest.approx((low, high), abs=0.1)
    assert colors(_map(30)) == pytest.approx((low, high), abs=0.1)
    assert colors(_map(0.5, 80)) == pytest.approx((0, 1.5))
    assert ColorRange((2, 9))(ramp) == (2, 9)
