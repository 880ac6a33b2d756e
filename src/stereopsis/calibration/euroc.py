"""EuRoC ``sensor.yaml``, one file a raw camera: ``intrinsics`` (fu fv cu cv) and ``T_BS``, body from sensor, metres."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stereopsis.calibration.camera import RawCamera
from stereopsis.calibration.cameras import Cameras, Source
from stereopsis.calibration.lenses import make_camera
from stereopsis.calibration.parsing import intrinsics, matrix, size_of, vector
from stereopsis.calibration.raw import StereoRig

UNIT = 1.0


def matches(values: dict[str, Any]) -> bool:
    return "T_BS" in values and "intrinsics" in values


def read(source: Source) -> Cameras:
    path = source.path
    left, right = source.values, source.companion().values
    if not matches(right):
        raise ValueError(f"{path} is the file of one camera and the other file is none of this format; name both.")
    body_left, body_right = (matrix(d["T_BS"], 4, 4, "T_BS", path) for d in (left, right))
    if abs(np.linalg.det(body_right)) < 1e-9:
        raise ValueError(f"{path}: T_BS has no inverse; it must be a rotation and a translation, so correct it.")
    pose = np.linalg.inv(body_right) @ body_left
    sizes = [size_of(d, path) for d in (left, right)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{path}: the views are {sizes[0]} and {sizes[1]} px; name the two files of one rig.")
    cameras = [_camera(d, source, path) for d in (left, right)]
    metres = source.reading.metres(UNIT)
    return Cameras(None, StereoRig(cameras[0], cameras[1], pose[:3, :3], pose[:3, 3] * metres, *sizes[0]))


def _camera(document: dict[str, Any], source: Source, path: Path) -> RawCamera:
    k = intrinsics(*matrix(document["intrinsics"], 1, 4, "intrinsics", path).ravel())
    coefficients = vector(document.get("distortion_coefficients"), "distortion_coefficients", path)
    name = document.get("distortion_model", document.get("camera_model"))
    return make_camera(k, coefficients, None if name is None else str(name), path, source.reading.lens)
