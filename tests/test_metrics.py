"""Error measures of disparity."""

import math

import pytest
import torch

from stereopsis.evaluation.metrics import disparity_metrics


def test_values_by_hand():
    truth = torch.tensor([10.0, 100.0, 20.0, 50.0, 0.0])
    prediction = torch.tensor([10.5, 104.0, 24.0, 51.5, 9.0])
    metrics = disparity_metrics(prediction, truth, truth > 0)
    assert metrics == pytest.approx(
        {"epe": (0.5 + 4 + 4 + 1.5) / 4, "bad1": 75, "bad2": 50, "bad3": 50, "d1": 25, "density": 1}
    )


def test_thresholds_are_exceeded_not_reached():
    truth = torch.full((3,), 10.0)
    metrics = disparity_metrics(truth + torch.tensor([1.0, 2.0, 3.0]), truth, truth > 0)
    assert [metrics[key] for key in ("bad1", "bad2", "bad3")] == pytest.approx([200 / 3, 100 / 3, 0])


def test_only_pixels_valid_in_both_count():
    truth = torch.tensor([[1.0, 2.0], [3.0, torch.inf]])
    prediction = torch.tensor([[1.0, torch.nan], [5.0, 0.0]])
    metrics = disparity_metrics(prediction, truth, truth.isfinite(), torch.tensor([[True, False], [True, True]]))
    assert (metrics["epe"], metrics["density"]) == pytest.approx((1.0, 2 / 3))


def test_an_empty_prediction_has_density_zero():
    truth = torch.ones(4)
    metrics = disparity_metrics(truth, truth, truth > 0, truth < 0)
    assert metrics.pop("density") == 0
    assert all(math.isnan(value) for value in metrics.values())


def test_bad_input():
    ones = torch.ones(4)
    with pytest.raises(ValueError, match="no known pixel"):
        disparity_metrics(ones, ones, ones < 0)
    with pytest.raises(ValueError, match="give maps of one shape"):
        disparity_metrics(torch.ones(5), ones, ones > 0)
    with pytest.raises(ValueError, match="marked as valid is NaN"):
        disparity_metrics(ones * torch.nan, ones, ones > 0)
