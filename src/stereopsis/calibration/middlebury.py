"""Middlebury ``calib.txt``: ``cam0=[f 0 cx; 0 f cy; 0 0 1]``, ``doffs`` in pixels, ``baseline`` in millimetres."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from stereopsis.calibration.cameras import Cameras, Source
from stereopsis.calibration.parsing import numbers
from stereopsis.types import StereoCalibration

MILLIMETRE = UNIT = 0.001
# The files round both numbers to three decimals, some of them after halving.
DOFFS_TOLERANCE = 0.05


def matches(text: str) -> bool:
    return re.search(r"^\s*(cam0|doffs|baseline)\s*=", text, re.MULTILINE) is not None


def read(source: Source) -> Cameras:
    path = source.path
    values: dict[str, str] = {}
    for line in source.first.text.splitlines():
        key, separator, value = line.partition("=")
        if separator:
            values[key.strip()] = value.strip()
    for key in ("cam0", "baseline"):
        if key not in values:
            raise ValueError(
                f"{path} has no line {key}=; a Middlebury calib.txt needs cam0, baseline, and cam1 or doffs."
            )
    left = _camera(values["cam0"], "cam0", path)
    baseline = float(numbers(values["baseline"], 1, "baseline", path)[0])
    doffs = float(numbers(values["doffs"], 1, "doffs", path)[0]) if "doffs" in values else None
    right = left.copy()
    if "cam1" in values:
        right = _camera(values["cam1"], "cam1", path)
        offset = right[0, 2] - left[0, 2]
        if doffs is not None and abs(offset - doffs) > DOFFS_TOLERANCE:
            raise ValueError(
                f"{path}: doffs is {doffs:g} px and cam1 - cam0 gives {offset:g} px; they must agree within "
                f"{DOFFS_TOLERANCE} px, so correct the one that is wrong."
            )
    elif doffs is not None:
        right[0, 2] += doffs
    else:
        raise ValueError(f"{path} has neither cam1 nor doffs; add the line doffs= (0 where the views share cx).")
    metres = source.reading.metres(MILLIMETRE)
    column = np.array([[-left[0, 0] * baseline], [0.0], [0.0]])
    calibration = StereoCalibration.from_projections(
        np.hstack([left, np.zeros((3, 1))]),
        np.hstack([right, column]),
        unit=metres,
        width=_whole(values, "width", path),
        height=_whole(values, "height", path),
        ndisp=_whole(values, "ndisp", path),
    )
    return Cameras(calibration, None)


def write(calibration: StereoCalibration) -> str:
    c = calibration
    lines = [
        f"cam0=[{c.fx!r} 0 {c.cx!r}; 0 {c.fy!r} {c.cy!r}; 0 0 1]",
        f"cam1=[{c.fx!r} 0 {c.cx_right!r}; 0 {c.fy!r} {c.cy!r}; 0 0 1]",
        f"doffs={c.doffs!r}",
        f"baseline={c.baseline / MILLIMETRE!r}",
    ]
    lines += [f"{key}={getattr(c, key)}" for key in ("width", "height", "ndisp") if getattr(c, key) is not None]
    return "\n".join(lines) + "\n"


def _camera(text: str, name: str, path: Path) -> np.ndarray:
    return numbers(text.strip("[] ").replace(";", " "), 9, name, path).reshape(3, 3)


def _whole(values: dict[str, str], key: str, path: Path) -> int | None:
    return int(numbers(values[key], 1, key, path)[0]) if key in values else None
