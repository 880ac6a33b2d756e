"""Files: images, disparity, depth, point clouds, and the pairs in a folder. One small module each."""

from stereopsis.io.atomic import atomic_write, atomic_write_text
from stereopsis.io.bags import BAG_SUFFIXES, BagImage, BagPair, is_bag
from stereopsis.io.depth import read_depth, write_depth
from stereopsis.io.disparity import read_disparity, write_disparity
from stereopsis.io.images import IMAGE_SUFFIXES, read_image, write_image
from stereopsis.io.pairs import PairPaths, find_pairs
from stereopsis.io.pfm import read_pfm, write_pfm
from stereopsis.io.pointcloud import read_point_cloud, write_point_cloud
from stereopsis.io.video import (
    VIDEO_CODECS,
    VIDEO_SUFFIXES,
    EarlyEndError,
    VideoPair,
    VideoReader,
    VideoWriter,
    is_video,
    open_pair,
)

__all__ = [
    "BAG_SUFFIXES",
    "IMAGE_SUFFIXES",
    "VIDEO_CODECS",
    "VIDEO_SUFFIXES",
    "BagImage",
    "BagPair",
    "EarlyEndError",
    "PairPaths",
    "VideoPair",
    "VideoReader",
    "VideoWriter",
    "atomic_write",
    "atomic_write_text",
    "find_pairs",
    "is_bag",
    "is_video",
    "open_pair",
    "read_depth",
    "read_disparity",
    "read_image",
    "read_pfm",
    "read_point_cloud",
    "write_depth",
    "write_disparity",
    "write_image",
    "write_pfm",
    "write_point_cloud",
]
