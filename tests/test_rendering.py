"""Pictures of point clouds."""

import numpy as np
import pytest
import torch

from stereopsis.types import Depth, PointCloud
from stereopsis.visualization.points import BACKGROUND, depth_picture, on_surfaces, render_points


def cloud(points, colors=None) -> PointCloud:
    colors = None if colors is None else torch.tensor(colors, dtype=torch.uint8)
    return PointCloud(torch.tensor(points, dtype=torch.float32), colors)


def test_the_nearest_point_wins():
    points = cloud([[0, 0, 2], [0, 0, 3], [0, 0, 4]], [[255, 0, 0], [0, 255, 0], [0, 0, 255]])
    picture = render_points(points, (21, 31), focal=20, yaw=0, pitch=0)
    assert picture.shape == (21, 31, 3)
    assert picture[10, 15].tolist() == [255, 0, 0]
    assert picture[0, 0].tolist() == list(BACKGROUND)


def test_yaw_goes_to_the_right_and_pitch_up():
    # The middle is the second point; the first is nearer, so it moves against the camera.
    points = cloud([[0, 0, 2], [0, 0, 3], [0, 0, 3]], [[255, 0, 0], [0, 255, 0], [0, 255, 0]])
    right = render_points(points, (41, 41), focal=40, yaw=20, pitch=0)
    up = render_points(points, (41, 41), focal=40, yaw=0, pitch=20)
    assert np.argwhere(right[..., 0] == 255)[:, 1].mean() < 18
    assert np.argwhere(up[..., 0] == 255)[:, 0].mean() > 22


def test_points_without_colours_and_behind_the_camera():
    picture = render_points(cloud([[0, 0, 1], [0, 0, 1], [0, 0, -9]]), (11, 11), focal=10, yaw=0, pitch=0)
    assert picture.max() == 255
    assert (picture == 255).all(-1).sum() <= 9


def test_an_empty_cloud():
    with pytest.raises(ValueError, match="The cloud has 0 points"):
        render_points(PointCloud(torch.zeros(0, 3)), (5, 5), focal=1)


def test_edges_between_surfaces():
    depth = torch.full((1, 1, 4, 6), 2.0)
    depth[..., 3:] = 5.0
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[..., 0, 0] = False
    keep = on_surfaces(Depth(depth, valid))
    assert keep[0, 0, 1].tolist() == [True, True, False, False, True, True]
    assert not keep[0, 0, 0, 0]
    assert valid.sum() == 23  # the input is not changed


def test_near_is_bright():
    depth = torch.tensor([[1.0, 2.0, 4.0, 0.0]])[None, None]
    picture = depth_picture(Depth(depth, depth > 0))[0].astype(int).sum(-1)
    assert picture[0] > picture[1] > picture[2] > picture[3] == 0
