"""Disparity files: PFM, PNG (KITTI's 16 bit x 256, and 8 bit), NPY and NPZ."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from stereopsis.io.atomic import atomic_write
from stereopsis.io.maps import (
    ARRAY_SUFFIXES,
    LARGEST_CODE,
    PICTURE_SUFFIXES,
    Map,
    Mask,
    largest_is_a_hole,
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
FIXED_POINT = 16  # of OpenCV's matchers, whose code of "no match" is -1 px
READ_SUFFIXES = (".pfm", *PICTURE_SUFFIXES, *ARRAY_SUFFIXES)
WRITE_SUFFIXES = (".pfm", ".png", *ARRAY_SUFFIXES)


def read_disparity(
    path: str | Path, divide_by: float | None = None
) -> tuple[Float[Tensor, "1 h w"], Bool[Tensor, "1 h w"]]:
    """Disparity in pixels, positive, 0 where not valid, and where it is valid.

    0, NaN and inf are not valid in any format, nor are negative values and the largest value of the file's type. A
    warning states what else was done:

    - Whole negative numbers of which the smallest is -16 are OpenCV's fixed point: values are divided by 16, and -16 is
      not valid. In a 16-bit picture -16 is 65520.
    - A file of mostly negative values, as for flow, is turned round; its positive values are not valid.

    Args:
        path: ``.pfm``, ``.png``, ``.pgm``, ``.tif``, ``.npy`` or ``.npz`` (array ``disparity``, or the only one).
        divide_by: stored value of one pixel; by default 256 for 16-bit pictures (KITTI), 16 for OpenCV's fixed point
            and 1 for float files. An 8-bit picture has no default, since every data set has its own.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown suffix, an unreadable file, or an 8-bit picture without ``divide_by``.
    """
    path = Path(path)
    if divide_by is not None and not (np.isfinite(divide_by) and divide_by > 0):
        raise ValueError(f"divide_by is {divide_by}; it must be above 0, for example 256 for KITTI.")
    stored, mask, divisor = _stored(path, divide_by)
    whole = bool((stored[np.isfinite(stored)] == np.round(stored[np.isfinite(stored)])).all())
    unmatched = np.zeros(stored.shape, bool)
    for code in (-FIXED_POINT, 65536 - FIXED_POINT) if whole else ():
        # the code of "no match" stands alone below, or above, all disparities
        found = stored == code
        others = stored[~found & np.isfinite(stored)]
        if found.any() and (others.size == 0 or (others >= 0).all()) and (code < 0 or others.max(initial=0) < code):
            unmatched |= found
            divisor = FIXED_POINT if divide_by is None else divisor
            warnings.warn(
                f"{path} looks like OpenCV's fixed point: {int(found.sum())} pixels of {code} were marked as not "
                f"valid, and values were divided by {divisor:g}.",
                stacklevel=2,
            )
    values = stored / np.float32(divisor)
    finite = np.isfinite(values) & ~unmatched
    known = finite & (values != 0)
    negative = int((values[known] < 0).sum())
    if 2 * negative > int(known.sum()):
        positive = int(known.sum()) - negative
        if positive:
            warnings.warn(
                f"{path} holds mostly negative values; their sign was changed, and {positive} positive ones were "
                "marked as not valid.",
                stacklevel=2,
            )
        values = -values
    valid = finite & (values > 0) if mask is None else finite & mask
    return to_tensors(values, valid)


def _stored(path: Path, divide_by: float | None) -> tuple[Map, Mask | None, float]:
    """Stored numbers, a mask if the file has one, and what one pixel is."""
    suffix = path.suffix.lower()
    if suffix == ".pfm":
        stored = read_pfm(path)
        if stored.ndim != 2:
            raise ValueError(f"{path} has three channels; a disparity map must have one.")
        return stored, None, divide_by or 1.0
    if suffix in PICTURE_SUFFIXES:
        grey, bits, _ = read_grey(path)
        if grey.dtype.kind == "f":
            return grey.astype(np.float32), None, divide_by or 1.0
        if divide_by is None and bits == 8:
            raise ValueError(
                f"{path} has 8 bits and no stated scale; pass divide_by (Middlebury: 3, 4 or 8; Tsukuba: 16)."
            )
        return largest_is_a_hole(grey, path), None, divide_by or KITTI_SCALE
    if suffix in ARRAY_SUFFIXES:
        stored, mask, _ = read_array(path, "disparity")
        return stored, mask, divide_by or 1.0
    raise ValueError(f"{path} has the suffix {suffix!r}; a disparity file must end in {', '.join(READ_SUFFIXES)}.")


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
        if codes.max(initial=0) > LARGEST_CODE:
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
