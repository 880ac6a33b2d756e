"""Pictures of maps: colours for disparity, depth and confidence, and for their errors."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

INVALID_COLOR = (0, 0, 0)

# Upper bound of the error in units of the KITTI threshold, and its colour: KITTI's devkit (disp_error_image).
ERROR_COLORS = (
    (0.0625, (49, 54, 149)),
    (0.125, (69, 117, 180)),
    (0.25, (116, 173, 209)),
    (0.5, (171, 217, 233)),
    (1.0, (224, 243, 248)),
    (2.0, (254, 224, 144)),
    (4.0, (253, 174, 97)),
    (8.0, (244, 109, 67)),
    (16.0, (215, 48, 39)),
    (np.inf, (165, 0, 38)),
)


def colorize(
    values: Float[Tensor, "*one h w"] | Float[np.ndarray, "*one h w"],
    valid: Bool[Tensor, "*one h w"] | Bool[np.ndarray, "*one h w"] | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    colormap: str = "turbo",
) -> UInt8[np.ndarray, "h w 3"]:
    """An RGB picture of one map.

    Args:
        values: disparity, depth, confidence or any other map; a batch of 1, or no batch.
        valid: what is coloured, the rest is black; by default what is finite.
        vmin, vmax: the ends of the colour scale; by default the 1st and 99th percentile of the valid values, so that
            a few outliers do not take the scale.
        colormap: a colour map of OpenCV by name, for example ``turbo``, ``viridis``, ``magma`` or ``bone``.

    Raises:
        ValueError: more than one map, shapes that differ, an unknown colour map, or ``vmax`` below ``vmin``.
    """
    import cv2

    code = getattr(cv2, f"COLORMAP_{colormap.upper()}", None)
    if code is None:
        known = sorted(name[9:].lower() for name in dir(cv2) if name.startswith("COLORMAP_"))
        raise ValueError(f"colormap is {colormap!r}; it must be one of {', '.join(known)}.")
    array = _map(values).astype(np.float64)
    mask = np.isfinite(array)
    if valid is not None:
        mask = mask & _same_shape(_map(valid).astype(bool), array)
    known_values = array[mask]
    low = vmin if vmin is not None else float(np.percentile(known_values, 1)) if known_values.size else 0.0
    high = vmax if vmax is not None else float(np.percentile(known_values, 99)) if known_values.size else 1.0
    if high < low:
        raise ValueError(f"vmax is {high:g} and vmin is {low:g}; vmax must not be below vmin.")
    scaled = (np.where(mask, array, low) - low) / ((high - low) or 1.0)
    levels = np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    picture = cv2.applyColorMap(levels, code)[..., ::-1].copy()
    picture[~mask] = INVALID_COLOR
    return picture


def error_map(
    prediction: Float[Tensor, "*one h w"] | Float[np.ndarray, "*one h w"],
    truth: Float[Tensor, "*one h w"] | Float[np.ndarray, "*one h w"],
    valid: Bool[Tensor, "*one h w"] | Bool[np.ndarray, "*one h w"] | None = None,
    noc: Bool[Tensor, "*one h w"] | Bool[np.ndarray, "*one h w"] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """An RGB picture of the error of a disparity map, in the colours of the KITTI benchmark.

    Blue is right and red is wrong; the change lies at 3 px or 5 % of the truth, whichever is larger (KITTI's D1), and
    every step of colour doubles the error.

    Args:
        prediction, truth: disparity in pixels; a batch of 1, or no batch.
        valid: where the truth is known, the rest is black; by default where it is finite and positive.
        noc: what both views see; the rest has half the brightness, as KITTI shows it.

    Raises:
        ValueError: more than one map, or shapes that differ.
    """
    target = _map(truth).astype(np.float64)
    found = _same_shape(_map(prediction).astype(np.float64), target)
    mask = np.isfinite(target) & (target > 0)
    if valid is not None:
        mask = _same_shape(_map(valid).astype(bool), target) & np.isfinite(target)
    difference = np.abs(np.where(mask, found - np.where(mask, target, 0), 0))
    # A prediction that is not finite is as wrong as can be.
    difference = np.where(np.isfinite(difference), difference, np.finfo(np.float64).max)
    relative = difference / np.where(mask, np.maximum(np.abs(target), 1e-9), 1) / 0.05
    error = np.minimum(difference / 3.0, relative)
    bounds = np.array([bound for bound, _ in ERROR_COLORS[:-1]])
    table = np.array([color for _, color in ERROR_COLORS], dtype=np.uint8)
    picture = table[np.searchsorted(bounds, error, side="right")]
    if noc is not None:
        occluded = ~_same_shape(_map(noc).astype(bool), target)
        picture[occluded] //= 2
    picture[~mask] = INVALID_COLOR
    return picture


def thicken(
    picture: UInt8[np.ndarray, "h w 3"], valid: Bool[Tensor, "*one h w"] | Bool[np.ndarray, "*one h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """A picture whose valid pixels also colour the invalid ones beside them, so that a sparse map can be seen.

    Args:
        picture: colours of a map, for example LiDAR points as KITTI shows them.
        valid: which of its pixels are known.

    Raises:
        ValueError: the shapes differ.
    """
    known = _map(valid).astype(bool)
    if picture.shape[:2] != known.shape:
        raise ValueError(f"The picture is {picture.shape[:2]} and its mask {known.shape}; they must have one shape.")
    picture, height, width = picture.copy(), *known.shape
    edged, colors = np.pad(known, 1), np.pad(picture, ((1, 1), (1, 1), (0, 0)))
    for row, column in ((1, 0), (1, 2), (0, 1), (2, 1), (0, 0), (0, 2), (2, 0), (2, 2)):
        window = slice(row, row + height), slice(column, column + width)
        taken = edged[window] & ~known
        picture[taken] = colors[window][taken]
        known = known | taken
    return picture


def side_by_side(*pictures: Any, gap: int = 4) -> UInt8[np.ndarray, "h w 3"]:
    """Pictures in one row, aligned at the top, with a white gap between them.

    Args:
        pictures: uint8 arrays (H, W, 3) or (H, W), or float tensors (C, H, W) in [0, 1], also as a batch of 1.
        gap: pixels between two pictures.

    Raises:
        ValueError: no picture, or an array that is none.
    """
    if not pictures:
        raise ValueError("There is no picture to show; pass at least one.")
    arrays = [_picture(picture) for picture in pictures]
    height = max(array.shape[0] for array in arrays)
    width = sum(array.shape[1] for array in arrays) + gap * (len(arrays) - 1)
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    column = 0
    for array in arrays:
        canvas[: array.shape[0], column : column + array.shape[1]] = array
        column += array.shape[1] + gap
    return canvas


def _picture(picture: Any) -> np.ndarray:
    if isinstance(picture, Tensor):
        tensor = picture.detach().cpu()
        while tensor.dim() > 3 and tensor.shape[0] == 1:
            tensor = tensor[0]
        array = tensor.permute(1, 2, 0).numpy() if tensor.dim() == 3 else tensor.numpy()
    else:
        array = np.asarray(picture)
    if array.dtype != np.uint8:
        array = np.round(np.clip(np.nan_to_num(array.astype(np.float64)), 0, 1) * 255).astype(np.uint8)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ValueError(
            f"The picture has the shape {array.shape}; it must be (H, W), (H, W, 3), or a (C, H, W) tensor."
        )
    return np.broadcast_to(array, (*array.shape[:2], 3))


def _map(values: Any) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"The map has the shape {array.shape}; it must be one map of height x width.")
    return array


def _same_shape(array: np.ndarray, like: np.ndarray) -> np.ndarray:
    if array.shape != like.shape:
        raise ValueError(f"The maps are {array.shape} and {like.shape}; they must have one shape.")
    return array
