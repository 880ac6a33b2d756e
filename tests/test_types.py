import dataclasses

import pytest
import torch

from stereopsis.types import Depth, Disparity, PointCloud, StereoCalibration, StereoPair


def test_pair_refuses_views_of_different_size():
    with pytest.raises(ValueError, match="must have the same size"):
        StereoPair(torch.zeros(1, 3, 4, 6), torch.zeros(1, 3, 4, 5))


def test_types_are_frozen():
    disparity = Disparity(torch.ones(1, 1, 2, 3), torch.ones(1, 1, 2, 3, dtype=torch.bool), torch.ones(1, 1, 2, 3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        disparity.disparity = torch.zeros(1, 1, 2, 3)


def test_to_moves_every_tensor_and_keeps_the_calibration():
    calibration = StereoCalibration(100, 100, 3, 2, 3, 0.1)
    pair = StereoPair(torch.zeros(1, 3, 4, 6), torch.zeros(1, 3, 4, 6), calibration).to("meta")
    assert pair.left.device.type == pair.right.device.type == "meta"
    assert pair.calibration is calibration
    mask = torch.ones(1, 1, 2, 3, dtype=torch.bool)
    disparity = Disparity(mask.float(), mask, mask.float()).to("meta")
    assert {disparity.disparity.device.type, disparity.valid.device.type, disparity.confidence.device.type} == {"meta"}
    assert Depth(mask.float(), mask).to("meta").confidence is None
    assert Depth(mask.float(), mask, mask.float()).to("meta").confidence.device.type == "meta"


def test_point_cloud_counts_its_points():
    assert len(PointCloud(torch.zeros(7, 3))) == 7
