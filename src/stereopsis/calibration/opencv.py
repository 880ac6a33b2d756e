"""OpenCV's FileStorage (YAML, XML, JSON) and NumPy's NPZ with matrices under OpenCV's names.

Intrinsics (``M1 D1 M2 D2``), extrinsics (``R T``) and rectification (``R1 R2 P1 P2 Q``) stand in one file or in two
(``stereo_calib`` writes intrinsics.yml and extrinsics.yml). OpenCV's samples and the programs around it use several
names for the same matrix. The unit of T is that of the board the rig was calibrated with; metres are assumed and can be
overruled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stereopsis.calibration.cameras import Cameras, Source
from stereopsis.calibration.lenses import make_camera
from stereopsis.calibration.parsing import doubt, matrix, size_of, vector
from stereopsis.calibration.raw import StereoRig
from stereopsis.types import StereoCalibration

UNIT = 1.0
# Names in use for one matrix; "{}" is 1 for the left camera and 2 for the right one.
CAMERA_NAMES = ("M{}", "K{}", "cameraMatrix{}", "camera_matrix{}", "camera_matrix_{}", "CM{}", "mtx{}", "K_{}", "A{}")
LENS_NAMES = ("D{}", "distCoeffs{}", "dist_coeffs{}", "dist_coeffs_{}", "distortion_coefficients{}", "dist{}", "D_{}")
SIDES = (("1", "left", "Left", "l", "L"), ("2", "right", "Right", "r", "R"))
WORDS = (
    ("{}_camera_matrix", "{}_distortion_coefficients"),
    ("camera_matrix_{}", "distortion_coefficients_{}"),
    ("cameraMatrix{}", "distCoeffs{}"),
    ("{}CameraMatrix", "{}DistCoeffs"),
    ("K_{}", "D_{}"),
    ("K{}", "D{}"),
    ("M{}", "D{}"),
    ("mtx{}", "dist{}"),
    ("mtx_{}", "dist_{}"),
    ("{}_K", "{}_D"),
)
ROTATIONS, TRANSLATIONS = ("R", "rotation", "Rot", "rotation_matrix"), ("T", "translation", "Trns", "t")


def matches(values: dict[str, Any]) -> bool:
    return any(key in values for key in ("P1", "P2", "Q")) or any(
        _names(values, side) != (None, None) for side in (0, 1)
    )


def read(source: Source) -> Cameras:
    """Both halves of the file, or of the two files together."""
    values = source.values
    whole = {"P1", "P2"} <= values.keys() or "Q" in values
    if source.has_companion and not (whole and _names(values, 0)[0] is not None) and not _is_whole(values):
        # Of a file with the same name in the folder of the other camera nothing is wanted.
        other = source.companion().values
        values = (other | values) if matches(other) or "R" in other else values
    rectified = _rectified(values, source)
    if rectified is not None and not any(_names(values, side)[0] for side in (0, 1)):
        return Cameras(rectified, None)
    try:
        return Cameras(rectified, _raw(values, source))
    except ValueError as error:
        if rectified is None:
            raise
        # Two intrinsic matrices without extrinsics are what is left of a rig once it is rectified.
        missing = _find(values, ROTATIONS) is None or _find(values, TRANSLATIONS) is None
        return Cameras(rectified, None, None if missing else str(error))


def _is_whole(values: dict[str, Any]) -> bool:
    return all(_names(values, side)[0] for side in (0, 1)) and _find(values, TRANSLATIONS) is not None


def _rectified(values: dict[str, Any], source: Source) -> StereoCalibration | None:
    path, metres = source.path, source.reading.metres(UNIT)
    width, height = size_of(values, path)
    if "P1" in values and "P2" in values:
        left, right = matrix(values["P1"], 3, 4, "P1", path), matrix(values["P2"], 3, 4, "P2", path)
        return StereoCalibration.from_projections(left, right, unit=metres, width=width, height=height)
    if "Q" not in values:
        return None
    q = matrix(values["Q"], 4, 4, "Q", path)
    if q[3, 2] == 0 or q[1, 1] == 0:
        raise ValueError(f"{path}: Q[3,2] is {q[3, 2]:g} and Q[1,1] is {q[1, 1]:g}; both must differ from 0.")
    doffs = q[3, 3] / q[3, 2]
    fx, cx, cy = q[2, 3], -q[0, 3], -q[1, 3] / q[1, 1]
    return StereoCalibration(fx, fx / q[1, 1], cx, cy, cx + doffs, metres / q[3, 2], width, height)


def _raw(values: dict[str, Any], source: Source) -> StereoRig:
    path, metres = source.path, source.reading.metres(UNIT)
    names = [name for side in (0, 1) for name in _names(values, side)]
    wanted = [*names, _find(values, ROTATIONS), _find(values, TRANSLATIONS)]
    missing = [name for name, key in zip(("M1", "D1", "M2", "D2", "R", "T"), wanted, strict=True) if key is None]
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}; pass the second file (intrinsics or extrinsics) as right=."
        )
    k1, d1, k2, d2, rotation, translation = map(str, wanted)
    stated = next((values[key] for key in ("distortion_model", "camera_model", "model") if key in values), None)
    if stated is None and source.reading.lens is None and _like_fisheye(values[d1], d1, path):
        doubt(
            f"{path} does not name its lens model, and {d1} is a column of four numbers, as OpenCV's fisheye functions "
            "write it; it is read as a pinhole lens: state the lens if it is a fisheye."
        )
    # OpenCV itself writes no model; tools around it state it.
    model = "pinhole" if stated is None else str(stated)
    left, right = (
        make_camera(matrix(values[k], 3, 3, k, path), vector(values[d], d, path), model, path, source.reading.lens)
        for k, d in ((k1, d1), (k2, d2))
    )
    stored = None
    if all(key in values for key in ("R1", "R2", "P1", "P2")):
        p1, p2 = matrix(values["P1"], 3, 4, "P1", path), matrix(values["P2"], 3, 4, "P2", path)
        p1[:, 3] *= metres
        p2[:, 3] *= metres
        stored = matrix(values["R1"], 3, 3, "R1", path), matrix(values["R2"], 3, 3, "R2", path), p1, p2
    width, height = size_of(values, path)
    return StereoRig(
        left,
        right,
        _rotation(values[rotation], rotation, path),
        matrix(values[translation], 3, 1, translation, path).ravel() * metres,
        width,
        height,
        stored,
    )


def _like_fisheye(value: Any, name: str, path: Path) -> bool:
    rows = value.get("rows") if isinstance(value, dict) else len(value) if isinstance(value, list) else None
    column = str(rows) == "4" and not (isinstance(value, list) and not isinstance(value[0], list))
    return column and vector(value, name, path).size == 4 and bool(vector(value, name, path).any())


def _rotation(value: Any, name: str, path: Path) -> np.ndarray:
    """A rotation as a matrix or as Rodrigues' vector."""
    if vector(value, name, path).size == 3:
        import cv2

        return np.asarray(cv2.Rodrigues(vector(value, name, path))[0])
    return matrix(value, 3, 3, name, path)


def _names(values: dict[str, Any], side: int) -> tuple[str | None, str | None]:
    """The names that the file uses for the intrinsic matrix and the coefficients of one camera."""
    found: list[str | None] = [None, None]
    for word in SIDES[side]:
        for k, d in WORDS:
            for i, pattern in enumerate((k, d)):
                if found[i] is None and pattern.format(word) in values:
                    found[i] = pattern.format(word)
    number = SIDES[side][0]
    for i, patterns in enumerate((CAMERA_NAMES, LENS_NAMES)):
        for pattern in patterns:
            if found[i] is None and pattern.format(number) in values:
                found[i] = pattern.format(number)
    return found[0], found[1]


def _find(values: dict[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in values), None)


def write(calibration: StereoCalibration) -> str:
    left, right = calibration.projections
    text = "%YAML:1.0\n---\n"
    if calibration.width is not None and calibration.height is not None:
        text += f"image_width: {calibration.width}\nimage_height: {calibration.height}\n"
    for name, value in (
        ("M1", calibration.K),
        ("D1", np.zeros((1, 5))),
        ("M2", calibration.K_right),
        ("D2", np.zeros((1, 5))),
        ("R", np.eye(3)),
        ("T", np.array([[-calibration.baseline], [0.0], [0.0]])),
        ("R1", np.eye(3)),
        ("R2", np.eye(3)),
        ("P1", left),
        ("P2", right),
        ("Q", calibration.Q),
    ):
        text += _entry(name, value)
    return text


def write_rig(rig: StereoRig) -> str:
    text = "%YAML:1.0\n---\n"
    if rig.width is not None and rig.height is not None:
        text += f"image_width: {rig.width}\nimage_height: {rig.height}\n"
    text += f"distortion_model: {rig.left.model}\n"
    for name, value in (
        ("M1", rig.left.K),
        ("D1", rig.left.distortion[None]),
        ("M2", rig.right.K),
        ("D2", rig.right.distortion[None]),
        ("R", rig.R),
        ("T", rig.T[:, None]),
    ):
        text += _entry(name, value)
    if rig.stored is not None:
        text += "".join(_entry(*entry) for entry in zip(("R1", "R2", "P1", "P2"), rig.stored, strict=True))
    return text


def _entry(name: str, value: np.ndarray) -> str:
    data = ", ".join(repr(float(x)) for x in value.ravel())
    rows, cols = value.shape
    return f"{name}: !!opencv-matrix\n   rows: {rows}\n   cols: {cols}\n   dt: d\n   data: [ {data} ]\n"
