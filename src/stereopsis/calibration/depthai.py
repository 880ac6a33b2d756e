"""The calibration of OAK cameras, as DepthAI writes the EEPROM to JSON; distances in centimetres.

``cameraData`` lists cameras by their sockets; ``extrinsics`` take points of a camera to that of ``toCameraSocket``. The
rig is made of the two cameras that ``stereoRectificationData`` names.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stereopsis.calibration.camera import RawCamera
from stereopsis.calibration.cameras import Cameras, Source
from stereopsis.calibration.lenses import make_camera
from stereopsis.calibration.parsing import matrix, size_of, vector
from stereopsis.calibration.raw import StereoRig

UNIT = 0.01
TYPES = {0: "perspective", 1: "fisheye", 2: "equirectangular", 3: "radial_division"}
LEFT, RIGHT = 1, 2  # the usual sockets of the left and the right camera


def matches(values: dict[str, Any]) -> bool:
    return "cameraData" in values


def read(source: Source) -> Cameras:
    path, values = source.path, source.values
    cameras = _by_socket(values["cameraData"], source)
    stereo = values.get("stereoRectificationData") or {}
    left, right = stereo.get("leftCameraSocket", LEFT), stereo.get("rightCameraSocket", RIGHT)
    if left not in cameras or right not in cameras:
        left, right = LEFT, RIGHT
    if left not in cameras or right not in cameras:
        raise ValueError(
            f"{path} holds the cameras of the sockets {', '.join(map(str, cameras))}, and none for the left ({left}) "
            f"and right ({right}) one of a stereo pair; export the calibration of a stereo camera."
        )
    pose = _between(cameras, left, right, source)
    sizes = [size_of(cameras[socket], path) for socket in (left, right)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{path}: the two cameras have {sizes[0]} and {sizes[1]} px; they must be of one size.")
    lenses = [_camera(cameras[socket], source) for socket in (left, right)]
    metres = source.reading.metres(UNIT)
    return Cameras(None, StereoRig(lenses[0], lenses[1], pose[:3, :3], pose[:3, 3] * metres, *sizes[0]))


def _by_socket(data: Any, source: Source) -> dict[int, dict[str, Any]]:
    entries = data.items() if isinstance(data, dict) else data
    try:
        return {int(socket): camera for socket, camera in entries if isinstance(camera, dict)}
    except (TypeError, ValueError):
        raise ValueError(f"{source.path}: cameraData is no list of sockets and cameras; export it again.") from None


def _between(cameras: dict[int, dict[str, Any]], left: int, right: int, source: Source) -> np.ndarray:
    """The pose that takes points of the left camera to the right one, along the chain of the extrinsics."""
    to_root = {}
    for start in (left, right):
        socket, pose, steps = start, np.eye(4), [(start, np.eye(4))]
        while len(steps) <= len(cameras):
            extrinsics = cameras[socket].get("extrinsics") or {}
            target = extrinsics.get("toCameraSocket", -1)
            if target not in cameras:
                break
            step = np.eye(4)
            step[:3, :3] = matrix(extrinsics.get("rotationMatrix"), 3, 3, "rotationMatrix", source.path)
            shift = extrinsics.get("translation") or {}
            step[:3, 3] = [float(shift.get(axis, 0.0)) for axis in "xyz"]
            socket, pose = target, step @ pose
            steps.append((socket, pose))
        to_root[start] = dict(reversed(steps))
    shared = [socket for socket in to_root[left] if socket in to_root[right]]
    if not shared:
        raise ValueError(f"{source.path}: the extrinsics do not join the left and the right camera; export it again.")
    return np.asarray(np.linalg.inv(to_root[right][shared[0]]) @ to_root[left][shared[0]])


def _camera(camera: dict[str, Any], source: Source) -> RawCamera:
    kind = camera.get("cameraType", 0)
    name = TYPES.get(kind, str(kind)) if isinstance(kind, int) else str(kind).rpartition(".")[2]
    coefficients = vector(camera.get("distortionCoeff"), "distortionCoeff", source.path)
    k = matrix(camera.get("intrinsicMatrix"), 3, 3, "intrinsicMatrix", source.path)
    return make_camera(k, coefficients, name, source.path, source.reading.lens)
