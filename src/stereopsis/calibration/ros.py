"""ROS ``camera_info`` YAML, one file a camera; the right projection matrix carries the baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from stereopsis.calibration.parsing import in_file, matrix, metres_per_unit, size_of, vector
from stereopsis.calibration.raw import Model, RawCamera, StereoRig
from stereopsis.types import StereoCalibration

MODELS: dict[str, Model] = {
    "plumb_bob": "pinhole",
    "rational_polynomial": "pinhole",
    "equidistant": "fisheye",
    "fisheye": "fisheye",
}


def matches(document: dict[str, Any]) -> bool:
    return "camera_matrix" in document and "projection_matrix" in document


def read(left: dict[str, Any], right: dict[str, Any], path: Path, unit: float | None = None) -> StereoCalibration:
    p_left, p_right = (matrix(d.get("projection_matrix"), 3, 4, "projection_matrix", path) for d in (left, right))
    _require_baseline(p_left, p_right, path)
    metres = metres_per_unit((p_left[0, 3] - p_right[0, 3]) / (p_left[0, 0] or 1.0), unit, 1.0, path)
    width, height = _size(left, right, path)
    return StereoCalibration.from_projections(p_left, p_right, unit=metres, width=width, height=height)


def read_rig(left: dict[str, Any], right: dict[str, Any], path: Path, unit: float | None = None) -> StereoRig:
    """The raw rig: what turns each camera into the rectified frame also says how they stand to each other."""
    rectified = read(left, right, path, unit)
    metres = rectified.baseline
    r1, r2 = (matrix(d.get("rectification_matrix"), 3, 3, "rectification_matrix", path) for d in (left, right))
    p1, p2 = rectified.projections
    width, height = _size(left, right, path)
    return StereoRig(
        _camera(left, path),
        _camera(right, path),
        r2.T @ r1,
        r2.T @ np.array([-metres, 0.0, 0.0]),
        width,
        height,
        (r1, r2, p1, p2),
    )


def write(calibration: StereoCalibration, view: Literal["left", "right"]) -> str:
    if calibration.width is None or calibration.height is None:
        raise ValueError(
            "The calibration has no image size, and a camera_info file needs one; "
            "set width and height with dataclasses.replace first."
        )
    k = calibration.K if view == "left" else calibration.K_right
    p = calibration.projections[0 if view == "left" else 1]
    text = f"image_width: {calibration.width}\nimage_height: {calibration.height}\ncamera_name: {view}\n"
    text += _entry("camera_matrix", k) + "distortion_model: plumb_bob\n"
    text += _entry("distortion_coefficients", np.zeros((1, 5)))
    return text + _entry("rectification_matrix", np.eye(3)) + _entry("projection_matrix", p)


def _entry(name: str, value: np.ndarray) -> str:
    data = ", ".join(repr(float(x)) for x in value.ravel())
    return f"{name}:\n  rows: {value.shape[0]}\n  cols: {value.shape[1]}\n  data: [{data}]\n"


def _camera(document: dict[str, Any], path: Path) -> RawCamera:
    name = str(document.get("distortion_model", "plumb_bob"))
    if name not in MODELS:
        raise ValueError(f"{path}: the distortion model is {name!r}; it must be one of {', '.join(MODELS)}.")
    coefficients = vector(document.get("distortion_coefficients"), "distortion_coefficients", path)
    try:
        return RawCamera(matrix(document["camera_matrix"], 3, 3, "camera_matrix", path), coefficients, MODELS[name])
    except ValueError as error:
        raise in_file(error, path) from None


def _size(left: dict[str, Any], right: dict[str, Any], path: Path) -> tuple[int | None, int | None]:
    size = size_of(left, path)
    if size != size_of(right, path):
        raise ValueError(
            f"{path}: the views are {size} and {size_of(right, path)} px; they must be of one size, "
            "so name the two files of one rig."
        )
    return size


def _require_baseline(left: np.ndarray, right: np.ndarray, path: Path) -> None:
    if left[0, 3] == right[0, 3]:
        raise ValueError(
            f"{path}: projection_matrix gives a baseline of 0 m; it must be above 0, so calibrate the two cameras "
            "as a pair, and name the left and the right file."
        )
