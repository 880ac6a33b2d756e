"""The doctor on pairs that are right, and on pairs with one thing wrong."""

import math

import numpy as np
import pytest
import torch
from views import shifted_pair, texture

from stereopsis.calibration import read_rig
from stereopsis.calibration.diagnosis import examine, find_matches, geometry_warnings
from stereopsis.io import read_image
from stereopsis.types import StereoCalibration

RIG = StereoCalibration(fx=500, fy=500, cx=160, cy=100, cx_right=165, baseline=0.12, width=320, height=200)


def tensor(view: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(view.copy()).permute(2, 0, 1).float() / 255


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    left, right = shifted_pair(23, 200, 320)
    return tensor(left), tensor(right)


def test_a_good_pair(pair):
    found = examine(*pair, calibration=RIG, max_disparity=64)
    assert found.ok
    assert found.verdict == "This pair is fit for matching."
    assert (found.width, found.height, found.rectified, found.swapped) == (320, 200, True, False)
    assert found.exposure_matched
    assert found.max_disparity_enough
    assert found.vertical_median == pytest.approx(0, abs=0.05)
    assert found.disparity_range == pytest.approx((23, 23), abs=0.5)
    assert geometry_warnings(*pair) == []


def test_depth_of_a_good_pair(pair):
    found = examine(*pair, calibration=RIG, max_disparity=64)
    assert found.depth_range == pytest.approx([500 * 0.12 / 28] * 2, rel=0.01)
    assert found.nearest_depth == pytest.approx(500 * 0.12 / 69)
    assert found.depth_resolution == pytest.approx({z: z * z / 60 for z in (1.0, 5.0, 10.0)})


def test_without_a_calibration_there_is_no_depth(pair):
    found = examine(*pair)
    assert (found.depth_range, found.nearest_depth, found.depth_resolution) == (None, None, None)


def test_grey_and_batched_views(pair):
    grey = [view.mean(0, keepdim=True)[None] for view in pair]
    assert examine(*grey).ok


def test_swapped_views(pair):
    found = examine(pair[1], pair[0])
    assert found.swapped
    assert found.rectified
    assert found.max_disparity_enough is None
    assert len(found.problems) == 1
    assert "exchange LEFT and RIGHT" in found.problems[0]
    assert found.verdict.endswith("1 problem found.")
    assert geometry_warnings(pair[1], pair[0]) == list(found.problems)


def test_a_vertical_offset_is_not_rectified(pair):
    left, right = (np.asarray(view) for view in pair)
    found = examine(torch.from_numpy(left[:, 5:]), torch.from_numpy(right[:, :-5]))
    assert found.rectified is False
    assert found.vertical_median == pytest.approx(5, abs=0.2)
    assert "rectify them first" in found.problems[0]


def test_a_rotation_is_not_rectified(pair):
    import cv2

    turn = cv2.getRotationMatrix2D((160, 100), 2, 1)
    right = cv2.warpAffine(pair[1].permute(1, 2, 0).numpy(), turn, (320, 200))
    assert examine(pair[0], torch.from_numpy(right).permute(2, 0, 1)).rectified is False


def test_exposure(pair):
    found = examine(pair[0], 0.6 * pair[1])
    assert found.exposure_matched is False
    assert found.brightness_ratio == pytest.approx(1 / 0.6, rel=0.05)
    assert "one exposure" in found.problems[0]


def test_a_limit_that_is_too_low(pair):
    found = examine(*pair, max_disparity=16)
    assert found.max_disparity_enough is False
    assert found.problems[0].endswith("raise it to 32.")


def test_negative_disparity():
    scene = tensor(texture(200, 360))
    # The upper half lies in front of the plane where disparity is 0, the lower half behind it.
    left = torch.cat([scene[:, :100, 20:340], scene[:, 100:, 20:340]], 1)
    right = torch.cat([scene[:, :100, 32:352], scene[:, 100:, 12:332]], 1)
    found = examine(left, right)
    assert found.swapped is False
    assert "have a negative disparity" in found.problems[0]
    # A calibration with that offset tells that the cameras are in order all the same.
    assert not examine(right, left, calibration=RIG).ok


def test_the_same_view_twice(pair):
    assert "no parallax" in examine(pair[0], pair[0]).problems[0]


def test_nothing_to_match():
    found = examine(torch.zeros(3, 64, 64), torch.zeros(3, 64, 64))
    assert found.rectified is found.swapped is found.max_disparity_enough is None
    assert "Only 0 points match" in found.problems[0]
    assert geometry_warnings(torch.zeros(3, 64, 64), torch.zeros(3, 64, 64)) == []


def test_two_different_scenes():
    views = [tensor(texture(200, 320, seed)) for seed in (1, 2)]
    assert not examine(*views).ok


def test_large_views_are_measured_in_their_own_pixels():
    left, right = shifted_pair(60, 300, 1600)
    matches = find_matches(tensor(left), tensor(right))
    assert len(matches) <= matches.candidates
    assert np.median(matches.disparity) == pytest.approx(60, abs=0.2)


def test_points_at_infinity_have_infinite_depth():
    rig = StereoCalibration(fx=500, fy=500, cx=160, cy=100, cx_right=60, baseline=0.12)
    left, right = shifted_pair(23, 200, 320)
    found = examine(tensor(left), tensor(right), calibration=rig)
    assert found.swapped  # 23 px less an offset of 100 px is behind the cameras
    assert examine(tensor(left), tensor(right), calibration=rig, max_disparity=64).nearest_depth == math.inf


@pytest.mark.parametrize(
    ("left", "right", "limit", "message"),
    [
        ((3, 40, 50), (3, 40, 49), 192, "left is 50x40 and right is 49x40"),
        ((3, 40, 50), (3, 40, 50), 0, "max_disparity is 0; it must be at least 1"),
        ((2, 3, 40, 50), (2, 3, 40, 50), 192, r"The view is \(2, 3, 40, 50\); it must be one image"),
    ],
)
def test_bad_arguments(left, right, limit, message):
    with pytest.raises(ValueError, match=message):
        examine(torch.zeros(left), torch.zeros(right), max_disparity=limit)


REAL = [
    ("data/stereo/kitti2015/image_2/000004_10.png", "data/stereo/kitti2015/image_3/000004_10.png"),
    ("data/stereo/middlebury2003/cones/cones_left.png", "data/stereo/middlebury2003/cones/cones_right.png"),
]


@pytest.mark.parametrize("names", REAL, ids=["kitti", "cones"])
def test_real_pairs(shared_data, names):
    left, right = (read_image(shared_data(name)) for name in names)
    assert examine(left, right).problems == ()
    assert examine(right, left).swapped


def test_a_raw_pair_before_and_after_rectification(shared_data):
    folder = shared_data("data/sequences/euroc/MicroEuroc/mav0")
    files = sorted((folder / "cam0/data").glob("*.png"))
    left, right = read_image(files[0]), read_image(folder / "cam1/data" / files[0].name)
    raw = examine(left, right)
    assert raw.rectified is False
    assert raw.vertical_median > 5
    rectification = read_rig(folder).rectify()
    found = examine(*rectification(left, right), calibration=rectification.calibration)
    assert found.problems == ()
    assert found.vertical_median < 0.5
