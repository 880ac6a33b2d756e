"""Finds images and the depth maps that belong to them: files, folders, globs, or one folder in a known layout."""

from __future__ import annotations

from pathlib import Path

from stereopsis.io.depth import READ_SUFFIXES
from stereopsis.io.images import IMAGE_SUFFIXES
from stereopsis.io.pairs import PairPaths, list_files, unique_names
from stereopsis.io.stamps import TOLERANCE, pair_tables

TABLES = ("rgb.txt", "depth.txt")  # of the TUM RGB-D recordings
IMAGES = ("rgb", "color", "colour", "image", "images")
LAYOUTS = "rgb.txt and depth.txt, or a folder depth beside one of rgb, color and image"


def find_depths(image: str | Path, depth: str | Path | None = None, tolerance: float = TOLERANCE) -> list[PairPaths]:
    """Images as ``left`` and their depth maps as ``right``, in natural order (``2`` before ``10``).

    Args:
        image: a file, folder or glob; without ``depth`` a folder that holds ``rgb.txt`` and ``depth.txt`` (TUM, paired
            by time) or a folder ``depth`` beside one of ``rgb``, ``color`` and ``image``.
        depth: the same of depth maps. Files are matched by name where the names agree, else by order.
        tolerance: seconds that two files of a pair may be apart, where tables tell their times.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: a folder without images or depth maps, different counts, or a folder in no known layout.
    """
    if depth is None:
        return _in_layout(Path(image), tolerance)
    images, depths = list_files(image, IMAGE_SUFFIXES, "image"), list_files(depth, READ_SUFFIXES, "depth map")
    if len(images) != len(depths):
        raise ValueError(
            f"{image} holds {len(images)} images and {depth} holds {len(depths)} depth maps; each image needs one, so "
            "remove what has no partner."
        )
    by_name = {path.stem: path for path in depths}
    if len(by_name) == len(depths) and {path.stem for path in images} == by_name.keys():
        depths = [by_name[path.stem] for path in images]
    return [PairPaths(name, a, b) for name, a, b in zip(unique_names(images), images, depths, strict=True)]


def _in_layout(folder: Path, tolerance: float) -> list[PairPaths]:
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist; name an existing folder of images and depth maps.")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; name its depth map too, or a folder of images and depth maps.")
    tables = [folder / name for name in TABLES]
    if all(table.is_file() for table in tables):
        pairs = pair_tables(tables[0], tables[1], tolerance)
        return [PairPaths(image.stem, image, depth) for image, depth in pairs]
    for name in IMAGES:
        if (folder / name).is_dir() and (folder / "depth").is_dir():
            return find_depths(folder / name, folder / "depth")
    raise ValueError(f"{folder} holds no images with depth in a known layout ({LAYOUTS}); name two folders.")
