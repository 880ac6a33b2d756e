"""KITTI's text files and those in their form: object, odometry, stereo, raw, KITTI-360 and DrivingStereo.

``calib.txt`` holds ``P0:`` to ``P3:``, ``calib_cam_to_cam.txt`` and ``perspective.txt`` (KITTI-360) ``P_rect_00:`` and
so on. Cameras 0 and 1 are grey, 2 and 3 colour; KITTI-360 has 0 and 1 only, in colour; the cameras of DrivingStereo are
101 and 103. The baseline is ``(P_left[0,3] - P_right[0,3]) / fx``, as users of the data take it. It neglects the z
component of the translation (about 1 mm between the colour cameras), which moves depth by at most 0.2 %.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from stereopsis.calibration.cameras import Cameras, Pair, Reading, Source
from stereopsis.calibration.parsing import doubt, numbers
from stereopsis.types import StereoCalibration

UNIT = 1.0
PAIRS: dict[Pair, tuple[str, str]] = {"colour": ("2", "3"), "grey": ("0", "1")}
DRIVING_STEREO = ("101", "103")
# A folder of views names its camera: image_0, image_02, colored_1 and so on.
FOLDER = re.compile(r"^(?:image|colored|gray|img)_0?([0-3])$")
SAME = 2e-3  # pairs whose baselines differ by less are not told apart


def matches(text: str) -> bool:
    return re.search(r"^(P[0-3]|P_rect_(0[0-3]|10[13]))\s*:", text, re.MULTILINE) is not None


def read(source: Source) -> Cameras:
    """Reads one pair of cameras: the one that is asked for, that of the views' folders, or that of their colour."""
    path, reading = source.path, source.reading
    if reading.cameras is not None and reading.cameras not in PAIRS:
        raise ValueError(f"cameras is {reading.cameras!r}; it must be 'colour' or 'grey'.")
    values: dict[str, str] = {}
    for line in source.first.text.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            values[key.strip()] = value.strip()
    if "P_rect_101" in values and "P_rect_103" in values:
        return Cameras(_driving_stereo(values, source), None)
    asked = PAIRS if reading.cameras is None else {reading.cameras: PAIRS[reading.cameras]}
    found = {pair: _read_pair(values, names, source) for pair, names in asked.items()}
    held = {pair: calibration for pair, calibration in found.items() if calibration is not None}
    chosen = reading.cameras
    if chosen is None and len(held) == 2:
        chosen = _pair_of(reading, held, path)
    if chosen is None and held:
        chosen = next(iter(held))
    if chosen is None or chosen not in held:
        wanted = "P2 and P3 or P0 and P1" if chosen is None else " and ".join(f"P{i}" for i in PAIRS[chosen])
        raise ValueError(f"{path} lacks {wanted}; name the pair it holds with cameras='colour' or cameras='grey'.")
    return Cameras(held[chosen], None)


def _pair_of(reading: Reading, held: dict[Pair, StereoCalibration], path: Path) -> Pair:
    """Which pair of the file the views are of; a doubt where only their colour decides, or nothing."""
    for view in reading.views:
        for part in reversed(view.parts[:-1]):
            match = FOLDER.match(part)
            if match is not None:
                return "grey" if match[1] in PAIRS["grey"] else "colour"
    chosen: Pair = "grey" if reading.grey else "colour"
    grey, colour = held["grey"].baseline, held["colour"].baseline
    if abs(grey - colour) > SAME * colour:
        reason = (
            f"the views are {'grey' if reading.grey else 'in colour'}"
            if reading.grey is not None
            else "no view shows which"
        )
        doubt(
            f"{path} holds two rigs, grey cameras (P0, P1) with a baseline of {grey:.4f} m and colour cameras (P2, P3) "
            f"with {colour:.4f} m; the {chosen} ones are used, because {reason}: state the cameras if that is wrong."
        )
    return chosen


def _read_pair(values: dict[str, str], cameras: tuple[str, str], source: Source) -> StereoCalibration | None:
    path = source.path
    for pattern in ("P_rect_0{}", "P{}"):
        keys = [pattern.format(camera) for camera in cameras]
        if not all(key in values for key in keys):
            continue
        left, right = (numbers(values[key], 12, key, path).reshape(3, 4) for key in keys)
        width, height = _size(values, f"S_rect_0{cameras[0]}", path)
        metres = source.reading.metres(UNIT)
        try:
            return StereoCalibration.from_projections(left, right, unit=metres, width=width, height=height)
        except ValueError:
            # The pair that is not asked for may be all zeros; the one that is must be right.
            if not any(left[0]) and not any(right[0]):
                return None
            raise
    return None


def _driving_stereo(values: dict[str, str], source: Source) -> StereoCalibration:
    path, metres = source.path, source.reading.metres(UNIT)
    left, right = (numbers(values[f"P_rect_{c}"], 12, f"P_rect_{c}", path).reshape(3, 4) for c in DRIVING_STEREO)
    width, height = _size(values, f"S_rect_{DRIVING_STEREO[0]}", path)
    calibration = StereoCalibration.from_projections(left, right, unit=metres, width=width, height=height)
    if "T_103" in values:
        # In files for half the size the last column of P_rect_103 was not halved, and T was never scaled.
        distance = float(np.linalg.norm(numbers(values["T_103"], 3, "T_103", path))) * metres
        if abs(distance / calibration.baseline - 1) > 0.1 and distance > 0:
            doubt(
                f"{path}: P_rect_103 gives a baseline of {calibration.baseline:.4f} m and T_103 {distance:.4f} m; "
                "that of T_103 is used, since it does not depend on the size of the images."
            )
            p_left, p_right = left.copy(), left.copy()
            p_right[0, 2] = right[0, 2]
            p_right[0, 3] = left[0, 3] - left[0, 0] * distance
            return StereoCalibration.from_projections(p_left, p_right, width=width, height=height)
    return calibration


def _size(values: dict[str, str], key: str, path: Path) -> tuple[int | None, int | None]:
    if key not in values:
        return None, None
    width, height = (round(float(x)) for x in numbers(values[key], 2, key, path))
    return width, height


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
