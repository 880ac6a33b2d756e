"""OpenCV's matchers behind our interface, and hole filling."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import stereopsis
from stereopsis.geometry.holes import fill_from_background
from stereopsis.matching.sgm import BlockMatching, SemiGlobalMatching, SGMConfig
from stereopsis.types import Disparity

MATCHERS = [
    SemiGlobalMatching(),
    SemiGlobalMatching(SGMConfig(mode="hh")),
    SemiGlobalMatching(SGMConfig(mode="5dir")),
    BlockMatching(),
]
NAMES = ["3way", "hh", "5dir", "bm"]


def _shifted(shift: int, batch: int = 1, channels: int = 3, height: int = 60, width: int = 120):
    scene = torch.rand(batch, channels, height, width + shift, generator=torch.Generator().manual_seed(0))
    return scene[..., :width].contiguous(), scene[..., shift:].contiguous()


@pytest.mark.parametrize("matcher", MATCHERS, ids=NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_constant_shift_is_found(matcher, channels):
    left, right = _shifted(11, batch=2, channels=channels)
    result = matcher(left, right, max_disparity=30)
    assert result.disparity.shape == result.valid.shape == result.confidence.shape == (2, 1, 60, 120)
    assert result.disparity.dtype == result.confidence.dtype == torch.float32
    assert result.valid[..., 11:].float().mean() > 0.6
    found = result.disparity[..., 11:][result.valid[..., 11:]]
    assert (found - 11).abs().median() < 0.1
    assert (result.disparity[~result.valid] == 0).all()
    assert torch.equal(result.confidence, result.valid.float())


def test_max_disparity_is_rounded_up_to_sixteen():
    left, right = _shifted(14)
    result = SemiGlobalMatching()(left, right, max_disparity=1)
    assert (result.disparity[result.valid].median() - 14).abs() < 0.1


@pytest.mark.parametrize("matcher", MATCHERS, ids=NAMES)
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (7, 2), (7, 3), (17, 33)])
def test_any_size(matcher, size):
    view = torch.rand(1, 3, *size)
    assert matcher(view, view, max_disparity=16).disparity.shape == (1, 1, *size)


def test_half_precision_input_is_accepted():
    left, right = _shifted(11)
    assert SemiGlobalMatching()(left.bfloat16(), right.bfloat16(), max_disparity=16).disparity.dtype == torch.float32


@pytest.mark.parametrize(
    ("left", "right", "limit", "message"),
    [
        ((1, 3, 8, 8), (1, 3, 8, 9), 16, "must have the same size"),
        ((3, 8, 8), (3, 8, 8), 16, r"images must be \(B, 3, H, W\)"),
        ((1, 4, 8, 8), (1, 4, 8, 8), 16, r"images must be \(B, 3, H, W\)"),
        ((1, 3, 8, 8), (1, 3, 8, 8), 0, "max_disparity is 0; choose a number from 1"),
        ((1, 3, 8, 8), (1, 3, 8, 8), 5000, "max_disparity is 5000; choose a number from 1 to 2032"),
    ],
)
def test_bad_input(left, right, limit, message):
    with pytest.raises(ValueError, match=message):
        SemiGlobalMatching()(torch.zeros(left), torch.zeros(right), max_disparity=limit)


def test_nan_is_refused():
    view = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match="NaN or infinite"):
        SemiGlobalMatching()(view, view.clone().fill_(float("nan")))


@pytest.mark.parametrize("name", ["sgbm", "sgbm-hh", "bm"])
def test_registered_models_move_between_dtypes(name):
    left, right = _shifted(11)
    model = stereopsis.load(name, dtype=torch.float16)
    assert model(left, right, max_disparity=16).valid.any()


def _disparity(rows: list[list[float]]) -> Disparity:
    value = torch.tensor(rows)[None, None]
    return Disparity(value, value > 0, (value > 0).float())


def test_a_hole_takes_its_lower_neighbour():
    filled = fill_from_background(_disparity([[0, 5, 0, 0, 3, 0], [0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6]]))
    assert filled.disparity[0, 0].tolist() == [[5, 5, 3, 3, 3, 3], [0] * 6, [1, 2, 3, 4, 5, 6]]
    assert filled.valid[0, 0].all(dim=1).tolist() == [True, False, True]
    assert filled.confidence[0, 0, 0].tolist() == [0, 1, 0, 0, 1, 0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_filling_agrees_with_a_loop(row):
    expected = []
    for x, value in enumerate(row):
        left = next((v for v in reversed(row[:x]) if v), None)
        right = next((v for v in row[x:] if v), None)
        expected.append(value or min((v for v in (left, right) if v), default=0))
    filled = fill_from_background(_disparity([[float(v) for v in row]]))
    assert filled.disparity.flatten().tolist() == expected
    assert fill_from_background(filled).disparity.equal(filled.disparity)
