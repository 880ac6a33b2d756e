"""Manifests: lists of pairs with ground truth in a JSON file, and the files they name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from stereopsis.io import read_disparity
from stereopsis.io.maps import PICTURE_SUFFIXES, read_grey

REQUIRED = ("id", "left", "right", "disparity")


@dataclass(frozen=True)
class BenchmarkPair:
    """A pair with ground truth on disk.

    Attributes:
        id: its first path component names the group, e.g. ``kitti2015/training/000001_10``.
        left, right: image files.
        disparity: ground truth of the left view (PNG, PGM, PFM, NPY or NPZ); 0, NaN and infinite mean unknown.
        divide_by: what the values of the file are divided by to give pixels; None leaves it to
            :func:`~stereopsis.io.read_disparity`.
        noc: what both views see: an 8-bit picture that is 255 there (Middlebury, ETH3D; or 1, in a picture of 0 and 1),
            or a disparity file that is known there alone (KITTI's ``disp_noc``).
        objects: KITTI's object map, an 8- or 16-bit picture that is 0 in the background.
    """

    id: str
    left: Path
    right: Path
    disparity: Path
    divide_by: float | None = None
    noc: Path | None = None
    objects: Path | None = None

    @property
    def group(self) -> str:
        return self.id.split("/")[0]


def read_manifest(path: str | Path) -> list[BenchmarkPair]:
    """The pairs of a JSON manifest: a list of objects with ``id, left, right, disparity``.

    Optional are ``divide_by``, ``noc`` and ``objects``; see :class:`BenchmarkPair`.

    Paths are relative to the folder above the manifest's own, so that several manifests share one tree.

    Raises:
        FileNotFoundError: the manifest, or a file it names, does not exist.
        ValueError: not JSON, not a list of pairs, or empty.
    """
    path = Path(path)
    root = path.resolve().parent.parent
    return [_pair(path, root, number, row) for number, row in enumerate(read_rows(path, "pairs", REQUIRED))]


def read_rows(path: Path, what: str, required: Sequence[str]) -> list[Any]:
    """The list that a manifest holds, not empty; ``what`` and ``required`` are for the sentence that says why not.

    Raises:
        FileNotFoundError: the manifest does not exist.
        ValueError: not JSON, not a list, or empty.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no manifest {path}; check the path.")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); write a list of {what}.") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} holds no {what}; write a list of objects with {', '.join(required)}.")
    return rows


def read_truth(pair: BenchmarkPair) -> tuple[Tensor, Tensor]:
    """Disparity in pixels and where it is known, both ``(1, 1, H, W)``; disparity 0 where unknown."""
    truth, valid = read_disparity(pair.disparity, pair.divide_by)
    return truth[None], valid[None]


def read_masks(pair: BenchmarkPair) -> tuple[Bool[Tensor, "1 1 h w"] | None, Bool[Tensor, "1 1 h w"] | None]:
    """What both views see, and which pixels are foreground; None where the manifest does not say it.

    Raises:
        FileNotFoundError, ValueError: a file is missing or unreadable.
    """
    noc = foreground = None
    if pair.noc is not None:
        noc = _read_noc(pair.noc, pair.divide_by)[None, None]
    if pair.objects is not None:
        foreground = torch.from_numpy(read_grey(pair.objects)[0] > 0)[None, None]
    return noc, foreground


def _read_noc(path: Path, divide_by: float | None) -> Bool[Tensor, "h w"]:
    if path.suffix.lower() in PICTURE_SUFFIXES:
        codes, bits, _ = read_grey(path)
        if bits == 8:
            # Middlebury and ETH3D: 255 seen by both, 128 occluded, 0 not known.
            return torch.from_numpy(codes == (255 if codes.max() > 1 else 1))
    return read_disparity(path, divide_by)[1][0]


def _pair(manifest: Path, root: Path, number: int, row: Any) -> BenchmarkPair:
    missing = [key for key in REQUIRED if not isinstance(row, dict) or key not in row]
    if missing:
        raise ValueError(
            f"pair {number} of {manifest} lacks {', '.join(missing)}; each pair needs {', '.join(REQUIRED)}."
        )
    files = {key: root / row[key] for key in ("left", "right", "disparity")}
    files |= {key: root / row[key] for key in ("noc", "objects") if row.get(key) is not None}
    for key, file in files.items():
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}, the {key} file of {row['id']} in {manifest}, does not exist; paths are relative to {root}."
            )
    divide_by = row.get("divide_by")
    if divide_by is not None and not (isinstance(divide_by, int | float) and divide_by > 0):
        raise ValueError(f"divide_by of {row['id']} in {manifest} is {divide_by!r}; give a number above 0.")
    return BenchmarkPair(id=str(row["id"]), divide_by=divide_by, **files)
