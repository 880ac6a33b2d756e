"""MATLAB's ``stereoParameters`` as ``toStruct`` gives them, in JSON (``jsonencode``) or a MAT file (``save -v7``).

MATLAB counts pixels from 1, which is subtracted here. It writes matrices for row vectors (``IntrinsicMatrix``,
``RotationOfCamera2``), from R2022b on also for columns (``K``, ``PoseCamera2``). The unit is ``WorldUnits``, which is
millimetres unless it was changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stereopsis.calibration.camera import RawCamera
from stereopsis.calibration.cameras import Cameras, Source
from stereopsis.calibration.lenses import make_camera
from stereopsis.calibration.parsing import LensError, matrix, pose, vector
from stereopsis.calibration.raw import StereoRig
from stereopsis.calibration.units import NAMES

UNIT = 0.001


def matches(values: dict[str, Any]) -> bool:
    return _inner(values) is not None


def unit(values: dict[str, Any]) -> float:
    """Metres per unit of the file."""
    inner = _inner(values) or {}
    for part in (inner, inner.get("CameraParameters1"), inner.get("CameraParameters2")):
        if isinstance(part, dict) and isinstance(part.get("WorldUnits"), str):
            return NAMES.get(part["WorldUnits"].strip().lower(), UNIT)
    return UNIT


def read(source: Source) -> Cameras:
    path, values = source.path, _inner(source.values)
    assert values is not None
    rotation, translation = _moved(values, source)
    cameras = [_camera(values[f"CameraParameters{i}"], source) for i in (1, 2)]
    size = vector(values["CameraParameters1"].get("ImageSize"), "ImageSize", path)
    height, width = (int(size[0]), int(size[1])) if size.size == 2 else (None, None)
    metres = source.reading.metres(unit(source.values))
    return Cameras(None, StereoRig(cameras[0], cameras[1], rotation, translation * metres, width, height))


def _inner(values: dict[str, Any]) -> dict[str, Any] | None:
    for part in (values, *values.values()):
        if isinstance(part, dict) and "CameraParameters1" in part and "CameraParameters2" in part:
            return part
    return None


def _moved(values: dict[str, Any], source: Source) -> tuple[np.ndarray, np.ndarray]:
    path = source.path
    if "RotationOfCamera2" in values and "TranslationOfCamera2" in values:
        rotation = matrix(values["RotationOfCamera2"], 3, 3, "RotationOfCamera2", path).T
        return rotation, matrix(values["TranslationOfCamera2"], 3, 1, "TranslationOfCamera2", path).ravel()
    placed = values.get("PoseCamera2")
    if isinstance(placed, dict) and "A" in placed:
        return pose(placed["A"], "PoseCamera2.A", path)
    if isinstance(placed, dict) and "R" in placed and "Translation" in placed:
        rotation = matrix(placed["R"], 3, 3, "PoseCamera2.R", path)
        return rotation, matrix(placed["Translation"], 3, 1, "PoseCamera2.Translation", path).ravel()
    raise ValueError(
        f"{path} lacks RotationOfCamera2 and TranslationOfCamera2 (or PoseCamera2); export toStruct(params)."
    )


def _camera(values: Any, source: Source) -> RawCamera:
    path = source.path
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds objects of MATLAB and not their values; export toStruct(params).")
    if "MappingCoefficients" in values or "Intrinsics" in values:
        raise LensError(f"{path}: MATLAB's fisheye model is not supported; calibrate with a pinhole model or OpenCV's.")
    if "K" in values:
        k = matrix(values["K"], 3, 3, "K", path)
    elif "IntrinsicMatrix" in values:
        k = matrix(values["IntrinsicMatrix"], 3, 3, "IntrinsicMatrix", path)
        k = k.T if k[2, :2].any() else k
    else:
        raise ValueError(f"{path} lacks K or IntrinsicMatrix; export toStruct(params).")
    k = k.copy()
    k[:2, 2] -= 1
    radial = vector(values.get("RadialDistortion"), "RadialDistortion", path)
    tangential = vector(values.get("TangentialDistortion"), "TangentialDistortion", path)
    radial, tangential = np.pad(radial, (0, 3))[:3], np.pad(tangential, (0, 2))[:2]
    coefficients = [radial[0], radial[1], tangential[0], tangential[1], radial[2]]
    return make_camera(k, coefficients, "pinhole", path, source.reading.lens)
