"""COLMAP's ``cameras.txt`` with ``images.txt`` beside it, for a rig of two cameras.

Poses take points of the world to a camera. The unit of a reconstruction is arbitrary unless it was scaled. COLMAP puts
the centre of the top left pixel at (0.5, 0.5), which is subtracted here.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import numpy as np

from stereopsis.calibration.basalt import quaternion
from stereopsis.calibration.camera import RawCamera
from stereopsis.calibration.cameras import Cameras, Source
from stereopsis.calibration.lenses import make_camera
from stereopsis.calibration.parsing import LensError, as_text, doubt, intrinsics, read_content
from stereopsis.calibration.raw import StereoRig

UNIT = 1.0
# Of each model: how many focal lengths, and its coefficients in OpenCV's order.
MODELS = {
    "SIMPLE_PINHOLE": (1, 0), "PINHOLE": (2, 0), "SIMPLE_RADIAL": (1, 1), "RADIAL": (1, 2), "OPENCV": (2, 4),
    "FULL_OPENCV": (2, 8), "OPENCV_FISHEYE": (2, 4), "SIMPLE_RADIAL_FISHEYE": (1, 1), "RADIAL_FISHEYE": (1, 2),
}  # fmt: skip
HALF = 0.5


def matches_text(text: str) -> bool:
    names = "|".join([*MODELS, "FOV", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE"])
    camera = re.search(rf"^\s*\d+\s+({names})\s+\d+\s+\d+\s", text, re.MULTILINE) is not None
    return camera or "IMAGE_ID, QW, QX, QY, QZ" in text


def read(source: Source) -> Cameras:
    folder = source.path.parent
    cameras = _cameras(folder / "cameras.txt", source)
    left, right = _images(folder / "images.txt", source)
    poses = [np.eye(4), np.eye(4)]
    for pose, (_, numbers, _) in zip(poses, (left, right), strict=True):
        pose[:3, :3], pose[:3, 3] = quaternion(*numbers[:4]), numbers[4:7]
    moved = poses[1] @ np.linalg.inv(poses[0])
    for key in (left[2], right[2]):
        if key not in cameras:
            raise ValueError(
                f"{folder / 'cameras.txt'} has no camera {key}, which images.txt names; export both again."
            )
    lenses, size = [cameras[left[2]][0], cameras[right[2]][0]], cameras[left[2]][1]
    if size != cameras[right[2]][1]:
        raise ValueError(f"{source.path}: the two cameras have {size} and {cameras[right[2]][1]} px; they must agree.")
    if source.reading.unit is None:
        doubt(
            f"{source.path}: a reconstruction of COLMAP has no unit of its own; the baseline "
            f"{np.linalg.norm(moved[:3, 3]):g} is read in metres: state the unit unless it was scaled to metres."
        )
    metres = source.reading.metres(UNIT)
    return Cameras(None, StereoRig(lenses[0], lenses[1], moved[:3, :3], moved[:3, 3] * metres, *size))


def _rows(path: Path) -> list[list[str]]:
    lines = as_text(read_content(path), path).splitlines()
    return [line.split() for line in lines if not line.lstrip().startswith("#")]


def _cameras(path: Path, source: Source) -> dict[str, tuple[RawCamera, tuple[int, int]]]:
    found = {}
    for words in filter(None, _rows(path)):
        try:
            key, model, width, height = words[0], words[1], int(words[2]), int(words[3])
            numbers = [float(word) for word in words[4:]]
        except (IndexError, ValueError):
            raise ValueError(f"{path}: the line {' '.join(words)[:60]!r} is no camera; export it again.") from None
        if model not in MODELS:
            make_camera(np.eye(3), [], model, path)
            raise LensError(f"{path}: the camera model {model} is not supported; use OPENCV or OPENCV_FISHEYE.")
        focals, count = MODELS[model]
        if len(numbers) != focals + 2 + count:
            raise ValueError(f"{path}: {model} has {focals + 2 + count} numbers and the line holds {len(numbers)}.")
        cx, cy = numbers[focals] - HALF, numbers[focals + 1] - HALF
        k = intrinsics(numbers[0], numbers[focals - 1], cx, cy)
        name = "fisheye" if "FISHEYE" in model else "pinhole"
        found[key] = make_camera(k, numbers[focals + 2 :], name, path, source.reading.lens), (width, height)
    return found


def _images(path: Path, source: Source) -> tuple[tuple[str, np.ndarray, str], tuple[str, np.ndarray, str]]:
    """Name, pose and camera of the left and the right image: of two, or of the views that are to be measured."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; COLMAP keeps the poses of the cameras in images.txt.")
    # An empty line stands for an image without points, so that lines alternate.
    rows = _rows(path)
    while rows and not rows[0]:
        rows = rows[1:]
    images = []
    for words in rows[::2]:
        if not words:
            continue
        try:
            images.append((" ".join(words[9:]), np.array([float(word) for word in words[1:8]]), words[8]))
        except (IndexError, ValueError):
            raise ValueError(f"{path}: the line {' '.join(words)[:60]!r} is no image; export it again.") from None
    wanted = [[image for image in images if PurePosixPath(image[0]).name == view.name] for view in source.reading.views]
    if len(wanted) == 2 and len(wanted[0]) == 1 and len(wanted[1]) == 1:
        return wanted[0][0], wanted[1][0]
    if len(images) != 2:
        names = ", ".join(image[0] for image in images[:4])
        raise ValueError(f"{path} has {len(images)} images ({names}); it must have two, the left and the right one.")
    left, right = images
    # X_right = R X_left + T: the right camera has a negative x.
    turn = quaternion(*right[1][:4]) @ quaternion(*left[1][:4]).T
    return (left, right) if (right[1][4:7] - turn @ left[1][4:7])[0] <= 0 else (right, left)
