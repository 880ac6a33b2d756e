import numpy as np
import pytest
import torch

from stereopsis.io import read_disparity
from stereopsis.visualization import ERROR_COLORS, colorize, error_map, side_by_side


def test_colorize_runs_from_blue_to_red_and_blackens_what_is_not_valid():
    values = torch.linspace(0, 10, 11).reshape(1, 1, 1, 11)
    values[..., 5] = float("nan")
    picture = colorize(values, vmin=0, vmax=10)
    assert picture.dtype == np.uint8
    assert picture.shape == (1, 11, 3)
    assert picture[0, 1, 2] > picture[0, 1, 0]
    assert picture[0, 9, 0] > picture[0, 9, 2]
    assert (picture[0, 5] == 0).all()
    valid = torch.ones_like(values, dtype=torch.bool)
    valid[..., 3] = False
    assert (colorize(values, valid)[0, 3] == 0).all()


def test_scale_ignores_outliers_and_invalid_values():
    values = np.linspace(0, 1, 1000).reshape(10, 100)
    spoiled = values.copy()
    spoiled[0, 0] = 1e6
    valid = np.ones_like(values, bool)
    valid[0, 0] = False
    # A change by one level of 255 is rounding; without the rule the whole picture would be one colour.
    difference = colorize(values)[1:].astype(int) - colorize(spoiled)[1:]
    assert np.abs(difference).mean() < 3
    assert len(np.unique(colorize(spoiled, valid).reshape(-1, 3), axis=0)) > 100


def test_maps_without_range_or_valid_pixels():
    assert len(np.unique(colorize(np.full((4, 4), 3.0)).reshape(-1, 3), axis=0)) == 1
    assert (colorize(np.full((4, 4), np.nan)) == 0).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"colormap": "rainbows"}, "colormap is 'rainbows'; it must be one of autumn"),
        ({"vmin": 2, "vmax": 1}, "vmax is 1 and vmin is 2"),
        ({"valid": np.ones((2, 3), bool)}, "one shape"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        colorize(np.ones((2, 2)), **arguments)


def test_batches_are_refused():
    with pytest.raises(ValueError, match="one map"):
        colorize(torch.zeros(2, 1, 3, 3))


def test_error_map_changes_colour_at_the_kitti_threshold():
    # The truth of 20 px has the threshold 3 px, the truth of 100 px has 5 px.
    truth = np.array([[20.0, 20, 100, 100, 0, 20, 20]])
    found = np.array([[22.9, 23.1, 104.9, 105.1, 9, 20, np.nan]])
    picture = error_map(found, truth)[0].tolist()
    colors = [list(color) for _, color in ERROR_COLORS]
    assert picture == [colors[4], colors[5], colors[4], colors[5], [0, 0, 0], colors[0], colors[-1]]
    mask = np.array([[False] + [True] * 6])
    assert error_map(torch.from_numpy(found)[None], torch.from_numpy(truth)[None], mask)[0, 0].tolist() == [0, 0, 0]


def test_side_by_side_takes_pictures_of_any_kind():
    picture = side_by_side(np.zeros((4, 5, 3), np.uint8), torch.full((1, 3, 6, 2), 0.5), np.ones((3, 3)), gap=1)
    assert picture.shape == (6, 12, 3)
    assert (picture[:4, :5] == 0).all()
    assert (picture[4:, :5] == 255).all()
    assert (picture[:, 6:8] == 128).all()
    with pytest.raises(ValueError, match="at least one"):
        side_by_side()
    with pytest.raises(ValueError, match="shape"):
        side_by_side(np.zeros((2, 2, 5)))


def test_real_map(shared_data):
    values, valid = read_disparity(shared_data("data/stereo/middlebury2003/cones/cones_disparity_left.png"), 4)
    picture = colorize(values, valid)
    assert picture.shape == (375, 450, 3)
    assert (picture.sum(-1) == 0).mean() == pytest.approx(1 - valid.float().mean().item(), abs=1e-3)
    assert (error_map(values, values, valid)[valid[0].numpy()] == ERROR_COLORS[0][1]).all()
