"""Disparity files: PFM, PNG (KITTI's 16 bit x 256, and 8 bit), NPY and NPZ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from stereopsis.io.atomic import atomic_write
from stereopsis.io.maps import (
    ARRAY_SUFFIXES,
    PICTURE_SUFFIXES,
    Map,
    Mask,
    read_array,
    read_grey,
    save_array,
    save_png16,
    to_arrays,
    to_tensors,
)
from stereopsis.io.pfm import read_pfm, write_pfm
from stereopsis.types import Disparity

KITTI_SCALE = 256.0
READ_SUFFIXES = (".pfm", *PICTURE_SUFFIXES, *ARRAY_SUFFIXES)
WRITE_SUFFIXES = (".pfm", ".png", *ARRAY_SUFFIXES)


def read_disparity(
    path: str | Path, divide_by: float | None = None
) -> tuple[Float[Tensor, "1 h w"], Bool[Tensor, "1 h w"]]:
    """Disparity in pixels, positive, 0 where not valid, and where it is valid.

    0, NaN and inf are not valid in any format, nor are negative values; a file that holds none but negative values
    (flow of the right view, as some tools write it) is turned round.

    Args:
        path: ``.pfm``, ``.png``, ``.pgm``, ``.tif``, ``.npy`` or ``.npz`` (array ``disparity``, or the only one).
        divide_by: stored value of one pixel; by default 256 for 16-bit pictures (KITTI) and 1 for float files. An
            8-bit picture has no default, since every data set has its own.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown suffix, an unreadable file, or an 8-bit picture without ``divide_by``.
    """
    path = Path(path)
    if divide_by is not None and not (np.isfinite(divide_by) and divide_by > 0):
        raise ValueError(f"divide_by is {divide_by}; it must be above 0, for example 256 for KITTI.")
    suffix = path.suffix.lower()
    stored: Map
    mask: Mask | None = None
    if suffix == ".pfm":
        stored = read_pfm(path)
        if stored.ndim != 2:
            raise ValueError(f"{path} has three channels; a disparity map must have one.")
        factor = 1.0
    elif suffix in PICTURE_SUFFIXES:
        grey, bits, _ = read_grey(path)
        if divide_by is None and bits == 8:
            raise ValueError(
                f"{path} has 8 bits and no stated scale; pass divide_by (Middlebury: 3, 4 or 8; Tsukuba: 16)."
            )
        stored, factor = grey.astype(np.float32), KITTI_SCALE
    elif suffix in ARRAY_SUFFIXES:
        stored, mask, _ = read_array(path, "disparity")
        factor = 1.0
    else:
        raise ValueError(f"{path} has the suffix {suffix!r}; a disparity file must end in {', '.join(READ_SUFFIXES)}.")
    values = stored / np.float32(divide_by if divide_by is not None else factor)
    finite = np.isfinite(values)
    known = finite & (values != 0)
    if known.any() and (values[known] < 0).all():
        values = np.abs(values)
    valid = finite & (values > 0) if mask is None else finite & mask
    return to_tensors(values, valid)


def write_disparity(
    path: str | Path,
    disparity: Disparity | Float[Tensor, "*one h w"] | Map,
    valid: Bool[Tensor, "*one h w"] | Mask | None = None,
) -> None:
    """Writes one disparity map; the suffix chooses the format, and nothing is left half-written.

    Args:
        path: ``.pfm`` (+inf where not valid), ``.png`` (16 bit, x 256, 0 where not valid), ``.npy`` (NaN where not
            valid) or ``.npz`` (arrays ``disparity`` with 0 where not valid, ``valid``, as in memory).
        disparity: pixels; a batch of 1, or no batch.
        valid: where a bare array may be used; by default where it is finite and positive.

    Raises:
        ValueError: an unknown suffix, more than one map, or a disparity of 256 px or more for PNG.
        FileNotFoundError: the folder does not exist.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITE_SUFFIXES:
        raise ValueError(f"{path} has the suffix {suffix!r}; a disparity file must end in {', '.join(WRITE_SUFFIXES)}.")
    values: Any = disparity
    if isinstance(disparity, Disparity):
        values, valid = disparity.disparity, disparity.valid if valid is None else valid
    array, mask = to_arrays(values, valid)
    if suffix == ".pfm":
        write_pfm(path, np.where(mask, array, np.float32(np.inf)))
        return
    if suffix == ".png":
        codes = np.round(array.astype(np.float64) * KITTI_SCALE)
        if codes.max(initial=0) > 65535:
            raise ValueError(
                f"The largest disparity is {array.max():g} px and a 16-bit PNG holds less than 256 px; "
                "write .pfm or .npy instead."
            )
        # 0 means not valid, so the smallest valid disparity is stored as 1.
        codes = np.where(mask, np.maximum(codes, 1), 0)
    with atomic_write(path) as file:
        if suffix == ".png":
            save_png16(file, codes)
        else:
            save_array(file, suffix, "disparity", array, mask)
