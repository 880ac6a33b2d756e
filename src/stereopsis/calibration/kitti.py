"""KITTI: ``calib_cam_to_cam.txt`` (``P_rect_02``) and the object, odometry and stereo ``calib.txt`` (``P2``).

Cameras 0 and 1 are grey, 2 and 3 colour. The baseline is ``(P_left[0,3] - P_right[0,3]) / fx``, as users of the data
take it. It neglects the z component of the translation (about 1 mm between the colour cameras), which moves depth by
at most 0.2 %.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from stereopsis.calibration.parsing import metres_per_unit, numbers
from stereopsis.types import StereoCalibration

Cameras = Literal["colour", "grey"]
PAIRS: dict[Cameras, tuple[int, int]] = {"colour": (2, 3), "grey": (0, 1)}


def matches(text: str) -> bool:
    return re.search(r"^(P[0-3]|P_rect_0[0-3])\s*:", text, re.MULTILINE) is not None


def read(text: str, path: Path, cameras: Cameras | None = None, unit: float | None = None) -> StereoCalibration:
    """Reads one pair of cameras: ``cameras``, or colour where the file has it and grey where not."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            values[key.strip()] = value.strip()
    if cameras is not None and cameras not in PAIRS:
        raise ValueError(f"cameras is {cameras!r}; it must be 'colour' or 'grey'.")
    for name in [cameras] if cameras is not None else list(PAIRS):
        keys = _keys(values, *PAIRS[name])
        if keys is None:
            continue
        left, right = (numbers(values[key], 12, key, path).reshape(3, 4) for key in keys)
        shift = (left[0, 3] - right[0, 3]) / (left[0, 0] or 1.0)
        width, height = None, None
        size = f"S_rect_0{PAIRS[name][0]}"
        if size in values:
            width, height = (round(float(x)) for x in numbers(values[size], 2, size, path))
        metres = metres_per_unit(shift, unit, 1.0, path)
        return StereoCalibration.from_projections(left, right, unit=metres, width=width, height=height)
    wanted = "P2 and P3 or P0 and P1" if cameras is None else " and ".join(f"P{i}" for i in PAIRS[cameras])
    raise ValueError(f"{path} lacks {wanted}; name the pair it holds with cameras='colour' or cameras='grey'.")


def write(calibration: StereoCalibration) -> str:
    """An object-style ``calib.txt``; the left camera is at the origin, and all four lines stand for one pair."""
    left, right = (" ".join(repr(float(x)) for x in p.ravel()) for p in calibration.projections)
    return f"P0: {left}\nP1: {right}\nP2: {left}\nP3: {right}\n"


def write_cam_to_cam(calibration: StereoCalibration) -> str:
    left, right = (" ".join(repr(float(x)) for x in p.ravel()) for p in calibration.projections)
    lines = []
    for camera, projection in (("02", left), ("03", right)):
        if calibration.width is not None and calibration.height is not None:
            lines.append(f"S_rect_{camera}: {calibration.width} {calibration.height}")
        lines.append(f"P_rect_{camera}: {projection}")
    return "\n".join(lines) + "\n"


def _keys(values: dict[str, str], left: int, right: int) -> tuple[str, str] | None:
    for pattern in ("P_rect_0{}", "P{}"):
        keys = pattern.format(left), pattern.format(right)
        if all(key in values for key in keys):
            return keys
    return None
