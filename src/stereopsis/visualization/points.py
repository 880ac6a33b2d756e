"""A picture of a point cloud from any side, in numpy; enough to judge a depth map, no substitute for a viewer."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from stereopsis.types import Depth, PointCloud

BACKGROUND = (16, 20, 28)


def render_points(
    cloud: PointCloud,
    size: tuple[int, int],
    *,
    focal: float,
    yaw: float = 15.0,
    pitch: float = 5.0,
    back: float = 0.0,
    background: tuple[int, int, int] = BACKGROUND,
) -> UInt8[np.ndarray, "h w 3"]:
    """The cloud as a camera sees it that was turned about the middle of the cloud; the nearest point wins a pixel.

    Args:
        cloud: metres in the camera's frame (x right, y down, z forward); white where it has no colours.
        size: (height, width) of the picture in pixels.
        focal: focal length of the new camera in pixels.
        yaw: degrees the camera goes round to the right (negative: to the left).
        pitch: degrees it goes up.
        back: how far it steps back, as a fraction of the distance to the middle.

    Raises:
        ValueError: an empty cloud or picture, or a focal length that is not positive.
    """
    height, width = size
    if len(cloud) == 0 or height < 1 or width < 1 or not focal > 0:
        raise ValueError(
            f"The cloud has {len(cloud)} points, the picture is {width} x {height} px and the focal length "
            f"{focal:g} px; all must be above 0."
        )
    points = cloud.points.detach().cpu().numpy().astype(np.float64)
    colors = np.full((len(points), 3), 255, np.uint8) if cloud.colors is None else cloud.colors.detach().cpu().numpy()
    middle = np.array([np.median(points[:, 0]), np.median(points[:, 1]), np.median(points[:, 2])])
    turned = (points - middle) @ _rotation(yaw, pitch).T
    turned[:, 2] += np.linalg.norm(middle) * (1 + back)
    ahead = turned[:, 2] > 1e-6
    turned, colors = turned[ahead], colors[ahead]

    # Twice the size, so that the shrunken picture has soft edges.
    canvas = np.full((2 * height * 2 * width, 3), background, np.uint8)
    order = np.argsort(-turned[:, 2], kind="stable")
    turned, colors = turned[order], colors[order]
    column = np.floor(2 * (focal * turned[:, 0] / turned[:, 2] + width / 2)).astype(np.int64)
    row = np.floor(2 * (focal * turned[:, 1] / turned[:, 2] + height / 2)).astype(np.int64)
    # A point covers 3 x 3; of repeated indices numpy keeps the last, which is the nearest point.
    steps = np.array([(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    rows, columns = row[:, None] + steps[:, 0], column[:, None] + steps[:, 1]
    inside = (rows >= 0) & (rows < 2 * height) & (columns >= 0) & (columns < 2 * width)
    canvas[(rows * 2 * width + columns)[inside]] = np.broadcast_to(colors[:, None], (*rows.shape, 3))[inside]
    blocks = canvas.reshape(height, 2, width, 2, 3).astype(np.float32)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def depth_picture(depth: Depth) -> UInt8[np.ndarray, "h w 3"]:
    """Depth in colours, near is bright; logarithmic, because in metres the far end takes most of the scale."""
    from stereopsis.visualization.colors import colorize

    logarithm = depth.depth.clamp(min=1e-6).log()
    return colorize(-logarithm, depth.valid, colormap="viridis")


def on_surfaces(depth: Depth, step: float = 0.03) -> Bool[Tensor, "b 1 h w"]:
    """Where the depth changes by less than ``step`` times itself to the next pixel: on no edge between two surfaces.

    Every matcher blends foreground and background there, which a cloud shows as points flying in between.
    """
    z, keep = depth.depth, depth.valid.clone()
    for dimension in (-1, -2):
        first, second = z.narrow(dimension, 0, z.shape[dimension] - 1), z.narrow(dimension, 1, z.shape[dimension] - 1)
        steep = (first - second).abs() > step * first.minimum(second)
        keep.narrow(dimension, 0, z.shape[dimension] - 1).logical_and_(~steep)
        keep.narrow(dimension, 1, z.shape[dimension] - 1).logical_and_(~steep)
    return keep


def _rotation(yaw: float, pitch: float) -> Float[np.ndarray, "3 3"]:
    a, b = math.radians(yaw), -math.radians(pitch)
    # The cloud turns against the camera.
    about_y = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(b), math.sin(b)], [0, -math.sin(b), math.cos(b)]])
    return about_x @ about_y
