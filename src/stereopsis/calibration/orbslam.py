"""The settings of ORB-SLAM2 and ORB-SLAM3 (YAML of OpenCV), in metres.

ORB-SLAM3 writes ``Camera1.fx`` and so on with ``Stereo.T_c1_c2`` (points of camera 2 to camera 1), or ``Stereo.b`` for
rectified views. ORB-SLAM2 writes ``Camera.fx`` and ``Camera.bf`` (focal length times baseline) for rectified views, and
``LEFT.K``, ``LEFT.D``, ``LEFT.R``, ``LEFT.P`` and those of ``RIGHT`` where it rectifies itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stereopsis.calibration.camera import RawCamera
from stereopsis.calibration.cameras import Cameras, Source
from stereopsis.calibration.lenses import make_camera
from stereopsis.calibration.parsing import intrinsics, matrix, number, pose, size_of, vector
from stereopsis.calibration.raw import StereoRig
from stereopsis.types import StereoCalibration

UNIT = 1.0
FOCAL = ("fx", "fy", "cx", "cy")


def matches(values: dict[str, Any]) -> bool:
    return "Camera.fx" in values or "Camera1.fx" in values


def read(source: Source) -> Cameras:
    path, values, metres = source.path, source.values, source.reading.metres(UNIT)
    width, height = size_of({key: values.get(f"Camera.{key}") for key in ("width", "height")}, path)
    first = "Camera1" if "Camera1.fx" in values else "Camera"
    fx, fy, cx, cy = (number(values, f"{first}.{key}", path) for key in FOCAL)
    if "Stereo.T_c1_c2" in values and str(values.get("Camera.type", "")).lower() != "rectified":
        rotation, translation = pose(values["Stereo.T_c1_c2"], "Stereo.T_c1_c2", path)
        second = "Camera2" if "Camera2.fx" in values else first
        cameras = [_camera(name, source) for name in (first, second)]
        # The file takes points of the right camera to the left one.
        return Cameras(
            None, StereoRig(cameras[0], cameras[1], rotation.T, -rotation.T @ translation * metres, width, height)
        )
    if "Stereo.b" in values:
        baseline = number(values, "Stereo.b", path)
    elif "Camera.bf" in values:
        baseline = number(values, "Camera.bf", path) / fx
    else:
        raise ValueError(
            f"{path} has neither Camera.bf nor Stereo.b nor Stereo.T_c1_c2; name the settings of a stereo camera."
        )
    calibration = StereoCalibration(fx, fy, cx, cy, cx, baseline * metres, width, height)
    if "LEFT.K" not in values or "RIGHT.K" not in values:
        return Cameras(calibration, None)
    try:
        return Cameras(calibration, _rectifying(calibration, source))
    except ValueError as error:
        return Cameras(calibration, None, str(error))


def _rectifying(calibration: StereoCalibration, source: Source) -> StereoRig:
    """The raw rig of ORB-SLAM2's own rectification."""
    path, values = source.path, source.values
    cameras, rotations = [], []
    for side in ("LEFT", "RIGHT"):
        coefficients = vector(values.get(f"{side}.D"), f"{side}.D", path)
        k = matrix(values[f"{side}.K"], 3, 3, f"{side}.K", path)
        cameras.append(make_camera(k, coefficients, "pinhole", path, source.reading.lens))
        rotations.append(matrix(values.get(f"{side}.R"), 3, 3, f"{side}.R", path))
    r1, r2 = rotations
    translation = r2.T @ np.array([-calibration.baseline, 0.0, 0.0])
    stored = (r1, r2, *calibration.projections)
    return StereoRig(cameras[0], cameras[1], r2.T @ r1, translation, calibration.width, calibration.height, stored)


def _camera(name: str, source: Source) -> RawCamera:
    path, values = source.path, source.values
    model = str(values.get("Camera.type", "PinHole"))
    k = intrinsics(*(number(values, f"{name}.{key}", path) for key in FOCAL))
    fisheye = model.lower().startswith("kannala")
    order = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2", "k3")
    coefficients = [number(values, f"{name}.{key}", path) if f"{name}.{key}" in values else 0.0 for key in order]
    return make_camera(k, coefficients, model, path, source.reading.lens)
