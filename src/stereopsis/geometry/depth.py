"""Disparity, depth and points: the one place where pixels become metres.

Depth is along Z of the left rectified camera, ``Z = fx B / (d + cx_right - cx)``; pixel centres are integers.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from stereopsis.ops.images import quantized
from stereopsis.types import Depth, Disparity, PointCloud, StereoCalibration


def disparity_to_depth(
    disparity: Disparity | Float[Tensor, "*b h w"],
    calibration: StereoCalibration,
    valid: Bool[Tensor, "*b h w"] | None = None,
) -> Depth:
    """Metric depth of the left view, ``Z = fx B / (d + cx_right - cx)``.

    Args:
        disparity: pixels of the width the calibration is for; a bare tensor counts as valid where it is positive.
        calibration: the rig.
        valid: where a bare tensor may be used, in place of that rule.

    Returns:
        Metres, 0 and not valid where the disparity is not valid or its sum with the offset is not positive.

    Raises:
        ValueError: the map and the calibration are for different sizes.
    """
    values, mask, confidence = unpack_disparity(disparity, valid)
    _check_size(values, calibration)
    denominator = values.float() + calibration.doffs
    mask = mask & (denominator > 0)
    depth = calibration.fx * calibration.baseline / torch.where(mask, denominator, torch.ones_like(denominator))
    mask = mask & torch.isfinite(depth)
    depth = torch.where(mask, depth, torch.zeros_like(depth))
    return Depth(depth, mask, confidence)


def depth_to_disparity(
    depth: Depth | Float[Tensor, "*b h w"],
    calibration: StereoCalibration,
    valid: Bool[Tensor, "*b h w"] | None = None,
) -> Disparity:
    """The inverse of :func:`disparity_to_depth`; points so far that the disparity is not positive are not valid.

    Args:
        depth: metres; a bare tensor counts as valid where it is positive.
        calibration: the rig.
        valid: where a bare tensor may be used, in place of that rule.

    Raises:
        ValueError: the map and the calibration are for different sizes.
    """
    values, mask, confidence = _unpack_depth(depth, valid)
    _check_size(values, calibration)
    mask = mask & (values > 0)
    values = torch.where(mask, values.float(), torch.ones_like(values, dtype=torch.float32))
    disparity = calibration.fx * calibration.baseline / values - calibration.doffs
    mask = mask & (disparity > 0) & torch.isfinite(disparity)
    disparity = torch.where(mask, disparity, torch.zeros_like(disparity))
    return Disparity(disparity, mask, mask.float() if confidence is None else confidence)


def unproject(
    depth: Depth | Float[Tensor, "*b h w"],
    calibration: StereoCalibration,
    image: Float[Tensor, "*b c h w"] | None = None,
) -> PointCloud:
    """The points of one depth map: x right, y down, z forward, in metres, in row order of the valid pixels.

    Args:
        depth: metres of the left view; one map (a batch of 1, or no batch).
        calibration: the rig.
        image: the left view in [0, 1], one or three channels; colours the points.

    Raises:
        ValueError: more than one map, or sizes that differ.
    """
    values, mask, _ = _unpack_depth(depth, None)
    values, mask = _single(values), _single(mask)
    _check_size(values, calibration)
    rows, columns = torch.nonzero(mask, as_tuple=True)
    z = values[rows, columns].float()
    x = (columns - calibration.cx) / calibration.fx * z
    y = (rows - calibration.cy) / calibration.fy * z
    colors = None
    if image is not None:
        picture = _color_bytes(image, values)
        colors = picture[:, rows, columns].T.contiguous()
    return PointCloud(torch.stack([x, y, z], dim=1), colors)


def register_depth(
    depth: Depth | Float[Tensor, "*b h w"],
    calibration: StereoCalibration,
    K: Float[np.ndarray | Tensor, "3 3"],
    R: Float[np.ndarray | Tensor, "3 3"],
    t: Float[np.ndarray | Tensor, 3],
    size: tuple[int, int],
    *,
    footprint: int = 1,
) -> Depth:
    """The depth map as another camera sees it: every point is projected, and of several in one pixel the nearest wins.

    Args:
        depth: metres of the left view; one map (a batch of 1, or no batch).
        calibration: the rig of ``depth``.
        K: intrinsic matrix of the other camera in pixels.
        R, t: from the left camera to the other one, ``X' = R X + t``, in metres.
        size: (height, width) of the result.
        footprint: odd width in pixels of the square that a point covers; above 1 it closes the gaps that appear where
            the other camera has more pixels.

    Returns:
        Depth of shape (1, 1, height, width), not valid where no point falls.

    Raises:
        ValueError: more than one map, sizes that differ, or a footprint that is not odd and positive.
    """
    if footprint < 1 or footprint % 2 == 0:
        raise ValueError(f"footprint is {footprint}; it must be odd and at least 1, for example 3.")
    cloud = unproject(depth, calibration)
    points = cloud.points.double()
    intrinsics, rotation, translation = (
        torch.as_tensor(m, dtype=torch.float64, device=points.device) for m in (K, R, t)
    )
    moved = points @ rotation.reshape(3, 3).T + translation.reshape(3)
    moved = moved[moved[:, 2] > 0]
    z = moved[:, 2]
    pixels = (moved / z[:, None]) @ intrinsics.reshape(3, 3).T
    column, row = torch.round(pixels[:, 0]).long(), torch.round(pixels[:, 1]).long()
    height, width = size
    buffer = torch.full((height * width,), torch.inf, dtype=torch.float64, device=points.device)
    radius = footprint // 2
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            x, y = column + dx, row + dy
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            buffer.scatter_reduce_(0, (y * width + x)[inside], z[inside], reduce="amin")
    registered = buffer.reshape(1, 1, height, width).float()
    valid = torch.isfinite(registered)
    return Depth(torch.where(valid, registered, torch.zeros_like(registered)), valid)


def depth_error(
    z: Float[Tensor, "*shape"] | float, calibration: StereoCalibration, disparity_error: float = 1.0
) -> Float[Tensor, "*shape"]:
    """Expected error of the depth ``z``, ``z^2 e / (fx B)``: what an error of ``e`` pixels of disparity amounts to.

    Args:
        z: metres.
        calibration: the rig.
        disparity_error: pixels, for example 0.5 for a whole-pixel matcher.

    Returns:
        Metres, to first order.

    Raises:
        ValueError: a negative error.
    """
    if not disparity_error >= 0:
        raise ValueError(f"disparity_error is {disparity_error}; it must be at least 0 px.")
    depth = torch.as_tensor(z, dtype=torch.float32)
    return depth * depth * (disparity_error / (calibration.fx * calibration.baseline))


def unpack_disparity(disparity: Disparity | Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Values, validity and confidence of a map; a bare tensor without ``valid`` is valid where it is positive."""
    if isinstance(disparity, Disparity):
        return disparity.disparity, disparity.valid if valid is None else valid, disparity.confidence
    return _unpack(disparity, valid)


def _unpack_depth(depth: Depth | Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    if isinstance(depth, Depth):
        return depth.depth, depth.valid if valid is None else valid, depth.confidence
    return _unpack(depth, valid)


def _unpack(values: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, None]:
    finite = torch.isfinite(values)
    mask = finite & (values > 0) if valid is None else finite & valid
    return torch.where(finite, values, torch.zeros_like(values)), mask, None


def _check_size(values: Tensor, calibration: StereoCalibration) -> None:
    height, width = values.shape[-2:]
    for name, got, expected in (("wide", width, calibration.width), ("high", height, calibration.height)):
        if expected is not None and got != expected:
            raise ValueError(
                f"The map is {got} px {name} and the calibration is for {expected} px; "
                "bring the calibration to the map's size with its scale(), resize() or crop()."
            )


def _single(values: Tensor) -> Tensor:
    count = values.numel() // max(1, values.shape[-2] * values.shape[-1])
    if count != 1:
        raise ValueError(f"The batch holds {count} maps; pass one map, for example map[i : i + 1].")
    return values.reshape(values.shape[-2:])


def _color_bytes(image: Tensor, values: Tensor) -> UInt8[Tensor, "3 h w"]:
    if image.dim() == 4 and image.shape[0] == 1:
        image = image[0]
    if image.dim() != 3 or image.shape[0] not in (1, 3) or image.shape[-2:] != values.shape[-2:]:
        raise ValueError(
            f"The image is {tuple(image.shape)} and the map {tuple(values.shape)}; "
            "the image must be (3, H, W) or (1, H, W) of the map's size."
        )
    return quantized(image).expand(3, -1, -1)
