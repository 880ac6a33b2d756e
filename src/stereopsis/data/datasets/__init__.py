"""Public stereo and RGB-D data sets, read from the folders that their archives unpack to.

Each set is one function in :mod:`.sets` or :mod:`.plain`, such as ``kitti2015(root, split) -> StereoDataset``: its
docstring draws the tree under ``root``, and its body lists the same tree as templates, in which ``{field}`` stands for
what differs from pair to pair. :func:`open_dataset` finds a set by its name in :data:`DATASETS`. Nothing is downloaded;
mind each set's terms.

All sets agree in memory: images RGB float32 in [0, 1], disparity positive in pixels of the left image and 0 where not
valid, masks boolean, a calibration in metres. Images of one set may differ in size, so crop before :func:`collate`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stereopsis.data.datasets import plain, sets
from stereopsis.data.datasets.coding import Coding
from stereopsis.data.datasets.items import (
    RgbdDataset,
    RgbdItem,
    RgbdSample,
    StereoDataset,
    StereoItem,
    StereoSample,
    collate,
)

__all__ = [
    "DATASETS",
    "Coding",
    "RgbdDataset",
    "RgbdItem",
    "RgbdSample",
    "StereoDataset",
    "StereoItem",
    "StereoSample",
    "collate",
    "open_dataset",
]

DATASETS: dict[str, Callable[..., StereoDataset | RgbdDataset]] = {
    "sceneflow": sets.sceneflow,
    "kitti2012": sets.kitti2012,
    "kitti2015": sets.kitti2015,
    "middlebury2001": sets.middlebury2001,
    "tsukuba": sets.tsukuba,
    "middlebury2003": sets.middlebury2003,
    "middlebury2005": sets.middlebury2005,
    "middlebury2006": sets.middlebury2006,
    "middlebury2014": sets.middlebury2014,
    "middlebury_v3": sets.middlebury_v3,
    "middlebury2021": sets.middlebury2021,
    "eth3d": sets.eth3d,
    "sintel": sets.sintel,
    "vkitti2": sets.vkitti2,
    "instereo2k": sets.instereo2k,
    "cityscapes": sets.cityscapes,
    "nyu_v2": plain.nyu_v2,
    "folder": plain.folder,
}


def open_dataset(name: str, root: str | Path, split: str | None = None, **options: Any) -> StereoDataset | RgbdDataset:
    """A data set by its name.

    Args:
        name: a key of :data:`DATASETS`.
        root: the folder that holds what its archives unpack to, as the set's docstring draws it.
        split: ``train`` (the default of all but ``folder``), ``test``, or what else the set has.
        options: of the set's function, for example ``render="cleanpass"`` or ``size="half"``.

    Raises:
        FileNotFoundError: no such folder, or a pair of which a file is missing.
        ValueError: an unknown name, split or option value, or nothing in the set's layout below ``root``.
        TypeError: an option that the set does not have.
    """
    if name not in DATASETS:
        raise ValueError(f"name is {name!r}; it must be one of {', '.join(DATASETS)}.")
    return DATASETS[name](root, **options) if split is None else DATASETS[name](root, split, **options)
