import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stereopsis.geometry import (
    depth_error,
    depth_to_disparity,
    disparity_to_depth,
    hidden_from_right,
    left_right_check,
    register_depth,
    unproject,
)
from stereopsis.types import Depth, Disparity, StereoCalibration

RIG = StereoCalibration(700, 710, 32.5, 20.25, 42.5, 0.12, 64, 48)
PLAIN = StereoCalibration(700, 710, 32.5, 20.25, 32.5, 0.12, 64, 48)


@pytest.fixture
def disparity():
    return torch.from_numpy(np.random.default_rng(0).uniform(1, 60, (1, 1, 48, 64)).astype(np.float32))


@pytest.mark.parametrize("rig", [RIG, PLAIN], ids=["doffs", "plain"])
def test_depth_and_points_agree_with_opencv(disparity, rig):
    points = cv2.reprojectImageTo3D(disparity[0, 0].numpy(), rig.Q)
    depth = disparity_to_depth(disparity, rig)
    np.testing.assert_allclose(depth.depth[0, 0].numpy(), points[..., 2], rtol=1e-5)
    np.testing.assert_allclose(unproject(depth, rig).points.numpy(), points.reshape(-1, 3), rtol=1e-4, atol=1e-5)
    assert (points[..., 2] > 0).all()


def test_documented_example_of_the_offset():
    rig = StereoCalibration(700, 700, 320, 240, 330, 0.12)
    assert disparity_to_depth(torch.full((1, 1, 1, 1), 20.0), rig).depth.item() == pytest.approx(2.8)


def test_depth_agrees_with_kornia(disparity):
    camera = pytest.importorskip("kornia.geometry.camera", reason="kornia is the oracle of this test")
    from kornia.geometry.depth import depth_from_disparity

    torch.testing.assert_close(
        disparity_to_depth(disparity, PLAIN).depth, depth_from_disparity(disparity, 0.12, 700.0), rtol=1e-5, atol=0
    )
    # Kornia knows no offset of the principal points, so it is given the disparity that an equal cx would show.
    torch.testing.assert_close(
        disparity_to_depth(disparity, RIG).depth,
        depth_from_disparity(disparity + RIG.doffs, 0.12, 700.0),
        rtol=1e-5,
        atol=0,
    )
    left, right = (torch.from_numpy(p).float()[None] for p in PLAIN.projections)
    stereo = camera.StereoCamera(left, right)
    for rig in (PLAIN, RIG):
        expected = stereo.reproject_disparity_to_3D((disparity + rig.doffs).permute(0, 2, 3, 1))
        points = unproject(disparity_to_depth(disparity, rig), rig).points
        torch.testing.assert_close(points, expected.reshape(-1, 3), rtol=1e-4, atol=1e-5)


def test_invalid_pixels_are_zero_and_not_valid():
    values = torch.tensor([[[[5.0, 0.0, 30.0, float("nan"), float("inf"), -3.0]]]])
    depth = disparity_to_depth(values, StereoCalibration(100, 100, 0, 0, 0, 0.1))
    assert depth.valid.tolist() == [[[[True, False, True, False, False, False]]]]
    assert (depth.depth[~depth.valid] == 0).all()
    # A negative offset can make the sum negative, which would be depth behind the camera.
    behind = disparity_to_depth(values, StereoCalibration(100, 100, 10, 0, 0, 0.1))
    assert behind.valid.tolist() == [[[[False, False, True, False, False, False]]]]
    mask = torch.tensor([[[[False, True, True, True, True, True]]]])
    # With an offset a disparity of 0 has a depth, where the caller says that it is valid.
    offset = StereoCalibration(100, 100, 0, 0, 10, 0.1)
    assert disparity_to_depth(values, offset, mask).valid.tolist() == [[[[False, True, True, False, False, True]]]]
    assert disparity_to_depth(values, offset, mask).depth[0, 0, 0, 1] == 1


def test_confidence_travels_with_the_map(disparity):
    confidence = torch.rand_like(disparity)
    valid = torch.rand_like(disparity) > 0.3
    depth = disparity_to_depth(Disparity(disparity, valid, confidence), RIG)
    assert depth.confidence is confidence
    assert torch.equal(depth.valid, valid)
    assert depth_to_disparity(depth, RIG).confidence is confidence


@settings(max_examples=50, deadline=None)
@given(doffs=st.floats(-40, 40), d=st.floats(0.5, 500), baseline=st.floats(0.01, 2))
def test_depth_and_disparity_are_inverse(doffs, d, baseline):
    rig = StereoCalibration(700, 700, 320, 240, 320 + doffs, baseline)
    depth = disparity_to_depth(torch.full((1, 1, 2, 2), d), rig)
    if d + doffs <= 1e-2:
        return
    back = depth_to_disparity(depth, rig)
    assert back.valid.all()
    torch.testing.assert_close(back.disparity, torch.full((1, 1, 2, 2), d), rtol=1e-4, atol=1e-4)


def test_points_behind_the_zero_of_disparity_are_not_valid():
    assert not depth_to_disparity(
        torch.full((1, 1, 1, 1), 100.0), StereoCalibration(100, 100, 0, 0, 10, 0.1)
    ).valid.any()


def test_wrong_size_is_refused(disparity):
    with pytest.raises(ValueError, match=r"64 px wide and the calibration is for 32 px.*scale\(\)"):
        disparity_to_depth(disparity, RIG.scale(0.5))


def test_depth_is_differentiable(disparity):
    values = disparity.clone().requires_grad_()
    disparity_to_depth(values, RIG).depth.sum().backward()
    assert torch.isfinite(values.grad).all()
    hole = torch.zeros(1, 1, 48, 64, requires_grad=True)
    disparity_to_depth(hole, PLAIN).depth.sum().backward()
    assert (hole.grad == 0).all()


def test_unproject_takes_colours_and_one_map_alone(disparity):
    depth = disparity_to_depth(disparity, RIG)
    image = torch.rand(1, 3, 48, 64)
    cloud = unproject(depth, RIG, image)
    assert cloud.colors.shape == cloud.points.shape == (48 * 64, 3)
    assert torch.equal(cloud.colors[65], (image[0, :, 1, 1] * 255).round().to(torch.uint8))
    grey = unproject(depth, RIG, image[0, :1]).colors
    assert torch.equal(grey[:, 0], grey[:, 2])
    with pytest.raises(ValueError, match="batch holds 2 maps"):
        unproject(torch.cat([depth.depth] * 2), RIG)
    with pytest.raises(ValueError, match="must be"):
        unproject(depth, RIG, image[..., :-1])


def test_registration_to_the_same_camera_changes_nothing(disparity):
    depth = disparity_to_depth(disparity, RIG)
    same = register_depth(depth, RIG, RIG.K, np.eye(3), np.zeros(3), (48, 64))
    torch.testing.assert_close(same.depth, depth.depth)
    assert same.valid.all()


def test_registration_moves_a_plane_and_keeps_the_nearest():
    rig = StereoCalibration(100, 100, 50, 40, 50, 0.1)
    depth = torch.full((1, 1, 80, 100), 4.0)
    depth[..., 30:50, 40:60] = 2.0
    # Seen from 0.2 m to the right, the plane moves 5 px to the left and the near square 10 px.
    moved = register_depth(depth, rig, rig.K, np.eye(3), torch.tensor([-0.2, 0, 0]), (80, 100))
    assert (moved.depth[0, 0, 30:50, 30:50] == 2).all()
    assert (moved.depth[0, 0, 0:30, 0:95] == 4).all()
    assert not moved.valid[..., 95:].any()
    # What the square hid before is a hole now.
    assert not moved.valid[0, 0, 30:50, 50:55].any()
    assert (moved.depth[~moved.valid] == 0).all()


def test_footprint_closes_the_gaps_of_a_larger_target():
    rig = StereoCalibration(50, 50, 24.5, 19.5, 24.5, 0.1, 50, 40)
    large = rig.scale(2)
    depth = torch.full((1, 1, 40, 50), 3.0)
    sparse = register_depth(depth, rig, large.K, np.eye(3), np.zeros(3), (80, 100))
    dense = register_depth(depth, rig, large.K, np.eye(3), np.zeros(3), (80, 100), footprint=3)
    assert sparse.valid.float().mean() < 0.3
    assert dense.valid.float().mean() > 0.95
    with pytest.raises(ValueError, match="footprint is 2"):
        register_depth(depth, rig, rig.K, np.eye(3), np.zeros(3), (40, 50), footprint=2)


def test_left_right_check_finds_the_hidden_strip():
    left = torch.full((1, 1, 4, 40), 5.0)
    left[..., 20:30] = 10.0
    right = torch.full((1, 1, 4, 40), 5.0)
    right[..., 10:20] = 10.0
    agrees = left_right_check(left, right)[0, 0, 0]
    # Columns 0-4 leave the right view; 15-19 are hidden behind the near strip.
    expected = [x >= 5 and not 15 <= x < 20 for x in range(40)]
    expected[20:30] = [True] * 10
    assert agrees.tolist() == expected
    mask = torch.zeros_like(right, dtype=torch.bool)
    assert not left_right_check(left, Disparity(right, mask, right)).any()
    with pytest.raises(ValueError, match="one shape"):
        left_right_check(left, right[..., 1:])
    with pytest.raises(ValueError, match="threshold is -1"):
        left_right_check(left, right, -1)


def test_hidden_is_what_lies_outside_or_behind():
    left = torch.full((1, 1, 4, 40), 5.0)
    left[..., 20:30] = 10.0
    right = torch.full((1, 1, 4, 40), 5.0)
    right[..., 10:20] = 10.0
    right[..., 30:] = 1.0  # farther than the left view has it, which hides nothing
    hidden = hidden_from_right(left, right)[0, 0, 0]
    assert hidden.tolist() == [x < 5 or 15 <= x < 20 for x in range(40)]
    assert (~left_right_check(left, right)[0, 0, 0]).nonzero().flatten().tolist() == [
        *range(5),
        *range(15, 20),
        *range(35, 40),
    ]
    unknown = Disparity(right, torch.zeros_like(right, dtype=torch.bool), right)
    assert hidden_from_right(left, unknown)[0, 0, 0].tolist() == [x < 5 for x in range(40)]
    with pytest.raises(ValueError, match="threshold is -1"):
        hidden_from_right(left, right, -1)


def test_depth_error_is_the_slope_of_depth():
    z = torch.tensor([1.0, 5.0, 10.0])
    step = 0.01
    d = RIG.fx * RIG.baseline / z - RIG.doffs
    difference = RIG.fx * RIG.baseline / (d + RIG.doffs - step) - z
    torch.testing.assert_close(depth_error(z, RIG, step), difference, rtol=5e-3, atol=0)
    assert depth_error(10, RIG).item() == pytest.approx(100 / 84)


def test_depth_type_is_accepted_with_its_mask(disparity):
    mask = torch.zeros_like(disparity, dtype=torch.bool)
    mask[..., 3, 5] = True
    cloud = unproject(Depth(torch.full_like(disparity, 2.0), mask), RIG)
    np.testing.assert_allclose(cloud.points, [[(5 - 32.5) / 700 * 2, (3 - 20.25) / 710 * 2, 2]], rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_geometry_runs_on_the_device_of_its_input(disparity):
    depth = disparity_to_depth(disparity.cuda(), RIG)
    registered = register_depth(depth, RIG, RIG.K, np.eye(3), np.zeros(3), (48, 64))
    assert registered.depth.is_cuda
    assert left_right_check(disparity.cuda(), disparity.cuda()).is_cuda


def test_importing_loads_no_opencv():
    code = (
        "import sys, stereopsis.io, stereopsis.calibration, stereopsis.geometry, stereopsis.visualization; "
        "sys.exit('cv2' in sys.modules or 'yaml' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
