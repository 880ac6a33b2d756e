"""What a sequence is made of, wherever it comes from: pairs of views, or images with their depth, read when needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from stereopsis.io import (
    BagImage,
    BagPair,
    EarlyEndError,
    PairPaths,
    VideoPair,
    VideoReader,
    find_pairs,
    is_bag,
    is_video,
    open_pair,
    read_depth,
    read_image,
)
from stereopsis.io.depth import READ_SUFFIXES
from stereopsis.io.guided import find_depths
from stereopsis.io.pairs import list_files, unique_names
from stereopsis.io.protect import add_inputs
from stereopsis.io.stamps import TOLERANCE
from stereopsis.ops.images import check_views

FOLDER_RATE = 10.0  # frames a second of the video that is made of a folder

Views = tuple[Float[Tensor, "3 h w"], Float[Tensor, "3 h w"]]
ImageAndDepth = tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 hs ws"], Bool[Tensor, "1 hs ws"]]


@dataclass(frozen=True)
class Frame:
    """One pair of a sequence; it can be sent to another process.

    Attributes:
        name: what its results are called after, ``000000`` and so on for a video, the time in ns for a bag.
        left, right: the files; one file for both views of a side-by-side video or a bag.
        read: gives the two views, and raises what :func:`~stereopsis.io.read_image` does, or a ValueError where their
            sizes differ. Of an image with depth it gives image, depth in metres and where that is valid.
        index: its place in the sequence, from 0 on.
    """

    name: str
    left: Path
    right: Path
    read: Callable[[], Any]
    index: int = 0


@dataclass(frozen=True)
class Frames:
    """The frames of a sequence on disk; errors while iterating as in :class:`~stereopsis.io.VideoPair` and
    :class:`~stereopsis.io.BagPair`.

    Attributes:
        source: the files, the video or the bag.
        alone: whether the files are images instead of pairs; then reading a frame gives one.
    """

    source: list[PairPaths] | VideoPair | BagPair
    alone: bool = False

    @property
    def from_video(self) -> bool:
        """Whether all frames are of one rig and in order: a video or a bag."""
        return not isinstance(self.source, list)

    @property
    def count(self) -> int | None:
        """How many there are, at most for a bag; None for a video that does not state it."""
        if isinstance(self.source, BagPair):
            return self.source.count
        return self.source.frames if isinstance(self.source, VideoPair) else len(self.source)

    @property
    def fps(self) -> float:
        """Frames a second: those of the video or bag, or 10 for files."""
        return FOLDER_RATE if isinstance(self.source, list) else self.source.fps

    def __iter__(self) -> Iterator[Frame]:
        if isinstance(self.source, BagPair):
            path = self.source.path
            for index, (time, first, second) in enumerate(self.source):
                yield Frame(str(time), path, path, partial(_decode, first, second), index)
        elif isinstance(self.source, VideoPair):
            left = self.source.left.path
            right = left if self.source.right is None else self.source.right.path
            for index, views in enumerate(self.source):
                yield Frame(f"{index:06d}", left, right, partial(_given, views), index)
        else:
            for index, pair in enumerate(self.source):
                yield Frame(pair.name, pair.left, pair.right, partial(_image if self.alone else _read, pair), index)


def open_frames(
    left: str | Path,
    right: str | Path | None = None,
    *,
    topics: tuple[str, str] | None = None,
    tolerance: float = TOLERANCE,
) -> Frames:
    """What one or two arguments name: files, folders, globs, two videos, a side-by-side video, or a ROS bag.

    Args:
        left, right: as of :func:`~stereopsis.io.find_pairs`, :func:`~stereopsis.io.open_pair` or
            :class:`~stereopsis.io.BagPair`.
        topics: of the left and the right view in a bag; found by their names if not given.
        tolerance: seconds that two images of a pair may be apart, where they are paired by time.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ModuleNotFoundError: a bag without the extra "bags".
        ValueError: one video or bag with something else, topics without a bag; or as of the readers named above.
    """
    if _check_bag(left, right, topics):
        return Frames(BagPair(left, topics, tolerance))
    if right is not None and is_video(left) != is_video(right):
        video, other = (left, right) if is_video(left) else (right, left)
        raise ValueError(f"{video} is a video and {other} is none; name two videos, or one side-by-side video alone.")
    if is_video(left):
        return Frames(open_pair(left, right))
    pairs = find_pairs(left, right, tolerance)
    add_inputs(path for pair in pairs for path in (pair.left, pair.right))
    return Frames(pairs)


@dataclass(frozen=True)
class DepthFrames:
    """Images with their depth: files, a video with files, or a bag; errors while iterating as of :class:`Frames`.

    Attributes:
        source: the files, or the bag.
        video: of the images, whose k-th frame belongs to the k-th file of depth; else None.
        unit: metres a step of the depth files; what they state or is usual where it is None.
    """

    source: list[PairPaths] | BagPair
    video: VideoReader | None = None
    unit: float | None = None

    @property
    def count(self) -> int:
        """How many there are, at most for a bag."""
        return self.source.count if isinstance(self.source, BagPair) else len(self.source)

    def __iter__(self) -> Iterator[Frame]:
        if isinstance(self.source, BagPair):
            path = self.source.path
            for index, (time, first, second) in enumerate(self.source):
                yield Frame(str(time), path, path, partial(_decode_depth, first, second, self.unit), index)
            return
        images = iter(self.video) if self.video is not None else None
        for index, pair in enumerate(self.source):
            image = None if images is None else next(images, None)
            if images is not None and image is None:
                raise EarlyEndError(f"{pair.left} ends after {index} frames and there is more depth; remove the rest.")
            yield Frame(pair.name, pair.left, pair.right, partial(_read_depth, pair, image, self.unit), index)


def open_depth_frames(
    image: str | Path,
    depth: str | Path | None = None,
    *,
    unit: float | None = None,
    topics: tuple[str, str] | None = None,
    tolerance: float = TOLERANCE,
) -> DepthFrames:
    """Images and the depth maps that belong to them.

    Args:
        image, depth: files, folders or globs as of :func:`~stereopsis.io.guided.find_depths`; a video of images with
            a folder or glob of as many depth maps; or a bag alone.
        unit: metres a step of the depth; what a file states or is usual if not given.
        topics: of image and depth in a bag; found by their names if not given.
        tolerance: seconds that image and depth may be apart, where they are paired by time.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError: as of :func:`open_frames`.
    """
    if _check_bag(image, depth, topics):
        return DepthFrames(BagPair(image, topics, tolerance, "depth"), unit=unit)
    if not is_video(image):
        found = find_depths(image, depth, tolerance)
        add_inputs(path for pair in found for path in (pair.left, pair.right))
        return DepthFrames(found, unit=unit)
    if depth is None:
        raise ValueError(f"{image} is a video of images; name the folder of its depth maps too.")
    video = VideoReader(image)
    maps = list_files(depth, READ_SUFFIXES, "depth map")
    pairs = [PairPaths(name, video.path, path) for name, path in zip(unique_names(maps), maps, strict=True)]
    if video.frames is not None and video.frames < len(pairs):
        raise ValueError(f"{image} holds {video.frames} frames and {depth} {len(pairs)} depth maps; they must agree.")
    return DepthFrames(pairs, video, unit)


def _check_bag(first: str | Path, second: str | Path | None, topics: tuple[str, str] | None) -> bool:
    """Whether a bag is named."""
    if is_bag(first) and second is not None:
        raise ValueError(f"{first} is a bag, which holds both images of a pair; leave {second} out.")
    if topics is not None and not is_bag(first):
        raise ValueError(f"--topics is for bags, and {first} is none; leave it out.")
    return is_bag(first)


def _same_size(left: Tensor, right: Tensor, paths: tuple[object, object]) -> Views:
    check_views(left, right, paths)
    return left, right


def _given(views: Views) -> Views:
    return views


def _image(pair: PairPaths) -> tuple[Tensor]:
    return (read_image(pair.left),)


def _read(pair: PairPaths) -> Views:
    return _same_size(read_image(pair.left), read_image(pair.right), (pair.left, pair.right))


def _decode(left: BagImage, right: BagImage) -> Views:
    return _same_size(left.image(), right.image(), (left.where, right.where))


def _read_depth(pair: PairPaths, image: Tensor | None, unit: float | None) -> ImageAndDepth:
    return (read_image(pair.left) if image is None else image, *read_depth(pair.right, unit))


def _decode_depth(image: BagImage, depth: BagImage, unit: float | None) -> ImageAndDepth:
    return (image.image(), *depth.depth(unit))
