"""Geometry of a rectified pair: disparity, depth and points, checks between the two views, and holes in maps."""

from stereopsis.geometry.consistency import hidden_from_right, left_right_check
from stereopsis.geometry.depth import (
    depth_error,
    depth_to_disparity,
    disparity_to_depth,
    register_depth,
    unproject,
)
from stereopsis.geometry.holes import fill_from_background
from stereopsis.geometry.resample import enlarge, fill_smooth, reduce

__all__ = [
    "depth_error",
    "depth_to_disparity",
    "disparity_to_depth",
    "enlarge",
    "fill_from_background",
    "fill_smooth",
    "hidden_from_right",
    "left_right_check",
    "reduce",
    "register_depth",
    "unproject",
]
