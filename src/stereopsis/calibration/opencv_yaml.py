"""OpenCV's YAML: ``M1 D1 M2 D2`` (intrinsics), ``R T`` (extrinsics) and ``R1 R2 P1 P2 Q`` (rectification).

They stand in one file or in two (``stereo_calib`` writes intrinsics.yml and extrinsics.yml). The unit of T is the unit
of the chessboard the rig was calibrated with; metres are assumed and can be overruled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stereopsis.calibration.parsing import RawRigError, matrix, metres_per_unit, size_of, vector
from stereopsis.calibration.raw import Model, RawCamera, StereoRig
from stereopsis.types import StereoCalibration


def matches(document: dict[str, Any]) -> bool:
    return any(key in document for key in ("P1", "P2", "Q", "M1", "M2"))


def read(document: dict[str, Any], path: Path, unit: float | None = None) -> StereoCalibration:
    width, height = size_of(document, path)
    if "P1" in document and "P2" in document:
        left, right = matrix(document["P1"], 3, 4, "P1", path), matrix(document["P2"], 3, 4, "P2", path)
        metres = metres_per_unit((left[0, 3] - right[0, 3]) / (left[0, 0] or 1.0), unit, 1.0, path)
        return StereoCalibration.from_projections(left, right, unit=metres, width=width, height=height)
    if "Q" in document:
        q = matrix(document["Q"], 4, 4, "Q", path)
        if q[3, 2] == 0 or q[1, 1] == 0:
            raise ValueError(f"{path}: Q[3,2] is {q[3, 2]:g} and Q[1,1] is {q[1, 1]:g}; both must differ from 0.")
        baseline = 1.0 / q[3, 2]
        metres = metres_per_unit(baseline, unit, 1.0, path)
        doffs = q[3, 3] / q[3, 2]
        fx, cx, cy = q[2, 3], -q[0, 3], -q[1, 3] / q[1, 1]
        return StereoCalibration(fx, fx / q[1, 1], cx, cy, cx + doffs, baseline * metres, width, height)
    raise RawRigError(
        f"{path} has neither P1 and P2 nor Q, so the rig is not rectified; "
        "read it with read_rig() and use the calibration that its rectify() gives."
    )


def read_rig(document: dict[str, Any], path: Path, unit: float | None = None, model: Model | None = None) -> StereoRig:
    missing = [key for key in ("M1", "D1", "M2", "D2", "R", "T") if key not in document]
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}; pass the second file (intrinsics or extrinsics) as right=."
        )
    d1, d2 = vector(document["D1"], "D1", path), vector(document["D2"], "D2", path)
    if model is None:
        # OpenCV itself writes no model, but tools around it do.
        stated = str(document.get("distortion_model", "")).lower()
        model = "fisheye" if stated in {"fisheye", "equidistant"} else "pinhole"
    translation = matrix(document["T"], 3, 1, "T", path).ravel()
    metres = metres_per_unit(float(np.linalg.norm(translation)), unit, 1.0, path)
    stored = None
    if all(key in document for key in ("R1", "R2", "P1", "P2")):
        p1, p2 = matrix(document["P1"], 3, 4, "P1", path), matrix(document["P2"], 3, 4, "P2", path)
        p1[:, 3] *= metres
        p2[:, 3] *= metres
        stored = matrix(document["R1"], 3, 3, "R1", path), matrix(document["R2"], 3, 3, "R2", path), p1, p2
    width, height = size_of(document, path)
    return StereoRig(
        RawCamera(matrix(document["M1"], 3, 3, "M1", path), d1, model),
        RawCamera(matrix(document["M2"], 3, 3, "M2", path), d2, model),
        matrix(document["R"], 3, 3, "R", path),
        translation * metres,
        width,
        height,
        stored,
    )


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
