"""Basalt's calibration JSON, in metres: ``intrinsics`` of a camera type, ``T_imu_cam`` (body from each camera)."""

from __future__ import annotations

from typing import Any

import numpy as np

from stereopsis.calibration.camera import RawCamera
from stereopsis.calibration.cameras import Cameras, Source
from stereopsis.calibration.lenses import make_camera
from stereopsis.calibration.parsing import intrinsics, number
from stereopsis.calibration.raw import StereoRig

UNIT = 1.0


def matches(values: dict[str, Any]) -> bool:
    inner = values.get("value0", values)
    return isinstance(inner, dict) and "T_imu_cam" in inner and "intrinsics" in inner


def read(source: Source) -> Cameras:
    path = source.path
    values = source.values.get("value0", source.values)
    poses, lenses = values["T_imu_cam"], values["intrinsics"]
    if not isinstance(poses, list) or not isinstance(lenses, list) or min(len(poses), len(lenses)) < 2:
        raise ValueError(f"{path} does not describe two cameras; name the calibration of a stereo camera.")
    body = [_pose(part, source) for part in poses[:2]]
    moved = np.linalg.inv(body[1]) @ body[0]
    cameras = [_camera(part, source) for part in lenses[:2]]
    sizes = values.get("resolution") or [[None, None]]
    size = sizes[0] if len(sizes[0]) == 2 else [None, None]
    return Cameras(
        None, StereoRig(cameras[0], cameras[1], moved[:3, :3], moved[:3, 3] * source.reading.metres(UNIT), *size)
    )


def quaternion(w: float, x: float, y: float, z: float) -> np.ndarray:
    """The rotation matrix of a quaternion, which is normalised first."""
    length = np.sqrt(w * w + x * x + y * y + z * z)
    if not length > 0:
        raise ValueError("A rotation is the quaternion 0; it must have the length 1, so write the file again.")
    w, x, y, z = w / length, x / length, y / length, z / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _pose(part: dict[str, Any], source: Source) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = quaternion(*(number(part, key, source.path) for key in ("qw", "qx", "qy", "qz")))
    pose[:3, 3] = [number(part, key, source.path) for key in ("px", "py", "pz")]
    return pose


def _camera(part: dict[str, Any], source: Source) -> RawCamera:
    path, values = source.path, part.get("intrinsics", {})
    name = str(part.get("camera_type", ""))
    order = (
        ("k1", "k2", "k3", "k4") if name.lower() in {"kb4", "kb"} else ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
    )
    coefficients = [number(values, key, path) if key in values else 0.0 for key in order]
    make_camera(np.eye(3), [0.0] * 4, name, path, source.reading.lens)  # a foreign lens has other parameters
    k = intrinsics(*(number(values, key, path) for key in ("fx", "fy", "cx", "cy")))
    return make_camera(k, coefficients, name, path, source.reading.lens)
