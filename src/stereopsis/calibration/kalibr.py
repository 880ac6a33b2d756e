"""Kalibr's camchain YAML: ``cam0`` and ``cam1`` with intrinsics, and ``T_cn_cnm1``, the pose of a camera in metres.

``T_cn_cnm1`` takes points of camera n-1 to camera n, which is ``X_right = R X_left + T`` for a rig whose left camera is
``cam0``. Without it both cameras must have ``T_cam_imu``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stereopsis.calibration.camera import RawCamera
from stereopsis.calibration.cameras import Cameras, Source
from stereopsis.calibration.lenses import make_camera
from stereopsis.calibration.parsing import LensError, intrinsics, matrix, pose, size_of, vector
from stereopsis.calibration.raw import StereoRig

UNIT = 1.0


def matches(values: dict[str, Any]) -> bool:
    left, right = values.get("cam0"), values.get("cam1")
    return isinstance(left, dict) and isinstance(right, dict) and "intrinsics" in left and "intrinsics" in right


def read(source: Source) -> Cameras:
    path, values = source.path, source.values
    left, right = values["cam0"], values["cam1"]
    if "T_cn_cnm1" in right:
        rotation, translation = pose(right["T_cn_cnm1"], "T_cn_cnm1", path)
    elif "T_cam_imu" in left and "T_cam_imu" in right:
        first, second = (matrix(d["T_cam_imu"], 4, 4, "T_cam_imu", path) for d in (left, right))
        moved = second @ np.linalg.inv(first)
        rotation, translation = moved[:3, :3], moved[:3, 3]
    else:
        raise ValueError(f"{path}: cam1 has no T_cn_cnm1, so the cameras have no baseline; calibrate them as a pair.")
    cameras = [_camera(d, name, source) for d, name in ((left, "cam0"), (right, "cam1"))]
    metres = source.reading.metres(UNIT)
    return Cameras(None, StereoRig(cameras[0], cameras[1], rotation, translation * metres, *size_of(left, path)))


def write(rig: StereoRig) -> str:
    """The camchain of a raw rig.

    Raises:
        ValueError: a pinhole camera with more than four coefficients, which Kalibr does not have.
    """
    text = ""
    for name, camera in (("cam0", rig.left), ("cam1", rig.right)):
        fisheye = camera.model == "fisheye"
        if not fisheye and camera.distortion[4:].any():
            raise ValueError(
                f"The camera has {camera.distortion.size} distortion coefficients and Kalibr's radtan model four; "
                "write the format 'opencv', or calibrate again without k3."
            )
        k, four = camera.K, np.pad(camera.distortion[:4], (0, 4 - min(4, camera.distortion.size)))
        text += f"{name}:\n  camera_model: pinhole\n"
        text += f"  intrinsics: {_row([k[0, 0], k[1, 1], k[0, 2], k[1, 2]])}\n"
        text += f"  distortion_model: {'equidistant' if fisheye else 'radtan'}\n  distortion_coeffs: {_row(four)}\n"
        if rig.width is not None and rig.height is not None:
            text += f"  resolution: [{rig.width}, {rig.height}]\n"
        if name == "cam1":
            rows = [*np.hstack([rig.R, rig.T[:, None]]), np.array([0.0, 0.0, 0.0, 1.0])]
            text += "  T_cn_cnm1:\n" + "".join(f"  - {_row(row)}\n" for row in rows)
        text += f"  cam_overlaps: [{1 if name == 'cam0' else 0}]\n  rostopic: /{name}/image_raw\n"
    return text


def _row(values: Any) -> str:
    return "[" + ", ".join(repr(float(value)) for value in values) + "]"


def _camera(values: dict[str, Any], name: str, source: Source) -> RawCamera:
    path: Path = source.path
    model = str(values.get("camera_model", "pinhole")).lower()
    if model not in {"pinhole", "fisheye"} and source.reading.lens is None:
        # These have parameters of their own before the focal length.
        make_camera(np.eye(3), [], model, path)
        raise LensError(f"{path}: the camera model of {name} is {model!r}; it must be pinhole, so calibrate it so.")
    numbers = vector(values["intrinsics"], f"intrinsics of {name}", path)
    if numbers.size != 4:
        raise ValueError(f"{path}: intrinsics of {name} hold {numbers.size} numbers; they must be fu, fv, pu and pv.")
    coefficients = vector(values.get("distortion_coeffs"), f"distortion_coeffs of {name}", path)
    stated = values.get("distortion_model")
    return make_camera(
        intrinsics(*numbers), coefficients, None if stated is None else str(stated), path, source.reading.lens
    )
