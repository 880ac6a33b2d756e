"""EuRoC ``sensor.yaml``, one file a raw camera: ``intrinsics`` (fu fv cu cv) and ``T_BS``, body from sensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stereopsis.calibration.parsing import matrix, vector
from stereopsis.calibration.raw import Model, RawCamera, StereoRig

MODELS: dict[str, Model] = {
    "radial-tangential": "pinhole",
    "radtan": "pinhole",
    "equidistant": "fisheye",
}


def matches(document: dict[str, Any]) -> bool:
    return "T_BS" in document and "intrinsics" in document


def read_rig(left: dict[str, Any], right: dict[str, Any], path: Path) -> StereoRig:
    body_left, body_right = (matrix(d.get("T_BS"), 4, 4, "T_BS", path) for d in (left, right))
    right_left = np.linalg.inv(body_right) @ body_left
    sizes = [vector(d.get("resolution"), "resolution", path).astype(int).tolist() for d in (left, right)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{path}: the views are {sizes[0]} and {sizes[1]} px; name the two files of one rig.")
    width, height = sizes[0] if len(sizes[0]) == 2 else (None, None)
    return StereoRig(_camera(left, path), _camera(right, path), right_left[:3, :3], right_left[:3, 3], width, height)


def _camera(document: dict[str, Any], path: Path) -> RawCamera:
    fu, fv, cu, cv = matrix(document.get("intrinsics"), 1, 4, "intrinsics", path).ravel()
    name = str(document.get("distortion_model", "radial-tangential"))
    if name not in MODELS:
        raise ValueError(f"{path}: the distortion model is {name!r}; it must be one of {', '.join(MODELS)}.")
    coefficients = vector(document.get("distortion_coefficients"), "distortion_coefficients", path)
    return RawCamera(np.array([[fu, 0, cu], [0, fv, cv], [0, 0, 1]]), coefficients, MODELS[name])
