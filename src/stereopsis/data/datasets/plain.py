"""Plain folders: NYU v2 written out as pictures, and pairs of your own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from stereopsis.data.datasets.coding import Coding
from stereopsis.data.datasets.items import (
    RgbdDataset,
    RgbdItem,
    StereoDataset,
    StereoItem,
    existing,
    find_files,
    item_id,
    not_found,
    one_of,
)
from stereopsis.io import find_pairs, read_disparity

SPLITS = ("train", "test")
TRUTH_SUFFIXES = (".pfm", ".png", ".npy", ".npz")


def nyu_v2(root: str | Path, split: str = "train") -> RgbdDataset:
    """NYU Depth v2 (Silberman et al., ECCV 2012) as plain folders: colour and depth of rooms, 640 x 480.

    ::

        root/
          train/rgb/0001.png        (or .jpg)
          train/depth/0001.png      16 bit, millimetres, 0 = unknown
          test/                     the same

    The release is one MATLAB file, which is not read here, as that would need h5py: write its ``images`` and
    ``depths * 1000`` into these folders first, for depth upsampling commonly the first 1000 as ``train`` and the other
    449 as ``test``.

    Args:
        split: ``train`` or ``test``.

    Raises:
        FileNotFoundError: no such folder, or an image without its depth.
        ValueError: nothing in this layout below ``root``, or an unknown split.
    """
    one_of("split", split, SPLITS, "nyu_v2")
    layouts = [f"{split}/rgb/{{frame}}{suffix}" for suffix in (".png", ".jpg")]
    root = existing("nyu_v2", root, layouts)
    items = []
    for image, parts in (found for layout in layouts for found in find_files(root, layout)):
        depth = root / split / "depth" / f"{parts['frame']}.png"
        if not depth.is_file():
            raise FileNotFoundError(f"{depth}, the depth of {image}, does not exist; write both for each frame.")
        items.append(RgbdItem(item_id("nyu_v2", root, image), image, depth))
    if not items:
        raise ValueError(not_found("nyu_v2", root, split, layouts))
    return RgbdDataset(items)


def folder(root: str | Path, split: str = "", *, divide_by: float | None = None) -> StereoDataset:
    """Your own pairs, in any layout that :func:`stereopsis.io.find_pairs` knows, with or without disparity.

    ::

        root/                           or root/SPLIT/
          left/0001.png   right/0001.png   disparity/0001.{pfm,png,npy,npz}     folders, or
          scene/im0.png   scene/im1.png    scene/disparity.{pfm,png,npy,npz}    a folder a pair
          calib.txt or K.txt                                                    beside the images, or in root; optional

    Args:
        split: a folder below ``root``; by default ``root`` itself.
        divide_by: stored value of one pixel, as in :func:`stereopsis.io.read_disparity`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no pairs in a known layout.
    """
    base = Path(root) / split
    items = []
    for pair in find_pairs(base):
        # Nothing above the folder that was named is looked at.
        near = [place for place in (pair.left.parent, pair.left.parent.parent) if place.is_relative_to(base)]
        stems = [base / "disparity" / pair.name, *(place / "disparity" / pair.left.stem for place in near)]
        stems.append(pair.left.parent / "disparity")
        truths = [stem.with_name(stem.name + suffix) for stem in stems for suffix in TRUTH_SUFFIXES]
        rigs = [place / name for place in (*near, base) for name in ("calib.txt", "K.txt")]
        items.append(
            StereoItem(
                id=f"folder/{pair.name}",
                left=pair.left,
                right=pair.right,
                disparity=next((path for path in truths if path.is_file()), None),
                calibration=next((path for path in rigs if path.is_file()), None),
                coding=Coding(disparity=partial(read_disparity, divide_by=divide_by)),
            )
        )
    return StereoDataset(items)
