"""Pictures of maps and of point clouds, in numpy."""

from stereopsis.visualization.colors import (
    ERROR_COLORS,
    INVALID_COLOR,
    colorize,
    error_map,
    side_by_side,
    thicken,
)
from stereopsis.visualization.points import depth_picture, on_surfaces, render_points

__all__ = [
    "ERROR_COLORS",
    "INVALID_COLOR",
    "colorize",
    "depth_picture",
    "error_map",
    "on_surfaces",
    "render_points",
    "side_by_side",
    "thicken",
]
