"""Depth files: 16-bit PNG with its unit written inside, NPY, NPZ and PFM."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

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
from stereopsis.types import Depth

MILLIMETRE = 0.001
UNIT_KEY = "depth_unit_metres"
READ_SUFFIXES = (".pfm", *PICTURE_SUFFIXES, *ARRAY_SUFFIXES)
WRITE_SUFFIXES = (".pfm", ".png", *ARRAY_SUFFIXES)


def read_depth(path: str | Path, unit: float | None = None) -> tuple[Float[Tensor, "1 h w"], Bool[Tensor, "1 h w"]]:
    """Depth in metres, 0 where not valid, and where it is valid (finite and above 0).

    The largest value of a file's whole-number type is not valid, with a warning.

    Args:
        path: ``.png``, ``.pgm``, ``.tif``, ``.npy``, ``.npz`` (array ``depth``, or the only one) or ``.pfm``.
        unit: metres per stored unit, for example 1/5000 for TUM. By default the unit a PNG states itself, else
            0.001 (millimetres) for pictures and arrays of whole numbers, and 1 for floats.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown suffix or an unreadable file.
    """
    path = Path(path)
    if unit is not None and not (np.isfinite(unit) and unit > 0):
        raise ValueError(f"unit is {unit}; it must be above 0, for example 0.001 for millimetres.")
    suffix = path.suffix.lower()
    stored: Map
    mask: Mask | None = None
    default = 1.0
    if suffix == ".pfm":
        stored = read_pfm(path)
        if stored.ndim != 2:
            raise ValueError(f"{path} has three channels; a depth map must have one.")
    elif suffix in PICTURE_SUFFIXES:
        grey, _, info = read_grey(path)
        if grey.dtype.kind == "f":
            stored = grey.astype(np.float32)
        else:
            stored, default = largest_is_a_hole(grey, path), _stated_unit(info, path)
    elif suffix in ARRAY_SUFFIXES:
        stored, mask, whole = read_array(path, "depth")
        default = MILLIMETRE if whole else 1.0
    else:
        raise ValueError(f"{path} has the suffix {suffix!r}; a depth file must end in {', '.join(READ_SUFFIXES)}.")
    values = (stored.astype(np.float64) * (default if unit is None else unit)).astype(np.float32)
    valid = np.isfinite(values) & (values > 0)
    return to_tensors(values, valid if mask is None else valid & mask)


def written_here(path: Path) -> bool:
    """Return whether a PNG bears the entry that :func:`write_depth` makes."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return UNIT_KEY in picture.info
    except (OSError, ValueError, SyntaxError):  # no picture
        return False


def write_depth(
    path: str | Path,
    depth: Depth | Float[Tensor, "*one h w"] | Map,
    valid: Bool[Tensor, "*one h w"] | Mask | None = None,
    *,
    unit: float = MILLIMETRE,
    overflow: Literal["refuse", "drop"] = "refuse",
) -> None:
    """Writes one depth map; the suffix chooses the format, and nothing is left half-written.

    Args:
        path: ``.png`` (16 bit, 0 where not valid, the unit in the tEXt entry ``depth_unit_metres``), ``.npy`` (NaN
            where not valid), ``.npz`` (arrays ``depth`` with 0 where not valid, and ``valid``) or ``.pfm`` (+inf
            where not valid).
        depth: metres; a batch of 1, or no batch.
        valid: where a bare array may be used; by default where it is finite and positive.
        unit: metres per step of the PNG; 0.001 reaches 65.534 m. Float files are in metres.
        overflow: what to do with depth beyond the PNG's range: refuse to write, or drop those pixels with a warning
            that counts them.

    Raises:
        ValueError: an unknown suffix, more than one map, or depth beyond the PNG's range.
        FileNotFoundError: the folder does not exist.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITE_SUFFIXES:
        raise ValueError(f"{path} has the suffix {suffix!r}; a depth file must end in {', '.join(WRITE_SUFFIXES)}.")
    if not (np.isfinite(unit) and unit > 0):
        raise ValueError(f"unit is {unit}; it must be above 0, for example 0.001 for millimetres.")
    values: Any = depth
    if isinstance(depth, Depth):
        values, valid = depth.depth, depth.valid if valid is None else valid
    array, mask = to_arrays(values, valid)
    if suffix == ".pfm":
        write_pfm(path, np.where(mask, array, np.float32(np.inf)))
        return
    if suffix == ".png":
        codes = np.round(array.astype(np.float64) / unit)
        beyond = codes > LARGEST_CODE
        if beyond.any():
            message = (
                f"{int(beyond.sum())} of {int(mask.sum())} valid pixels lie beyond {LARGEST_CODE * unit:g} m, the "
                f"limit of a 16-bit PNG in units of {unit:g} m (the farthest at {array.max():g} m)"
            )
            if overflow == "refuse":
                raise ValueError(f"{message}; write .npy, pass a larger unit, or overflow='drop' to leave them out.")
            warnings.warn(f"{message}; they are written as not valid.", stacklevel=2)
            mask = mask & ~beyond
        codes = np.where(mask, np.maximum(codes, 1), 0)
    with atomic_write(path) as file:
        if suffix == ".png":
            save_png16(file, codes, {UNIT_KEY: repr(float(unit))})
        else:
            save_array(file, suffix, "depth", array, mask)


def _stated_unit(info: dict[Any, Any], path: Path) -> float:
    stated = info.get(UNIT_KEY)
    if stated is None:
        return MILLIMETRE
    try:
        unit = float(stated)
    except ValueError:
        unit = float("nan")
    if not (np.isfinite(unit) and unit > 0):
        raise ValueError(f"{path} states the unit {stated!r}; it must be a number above 0, so pass unit= yourself.")
    return unit
