"""Cityscapes' ``camera.json``: rectified views, baseline in metres, no image size."""

from __future__ import annotations

from typing import Any

from stereopsis.calibration.cameras import Cameras, Source
from stereopsis.calibration.parsing import number
from stereopsis.types import StereoCalibration

UNIT = 1.0


def matches(values: dict[str, Any]) -> bool:
    inner, outer = values.get("intrinsic"), values.get("extrinsic")
    return isinstance(inner, dict) and isinstance(outer, dict) and "u0" in inner


def read(source: Source) -> Cameras:
    path, inner = source.path, source.values["intrinsic"]
    fx, fy, cx, cy = (number(inner, key, path) for key in ("fx", "fy", "u0", "v0"))
    baseline = number(source.values["extrinsic"], "baseline", path) * source.reading.metres(UNIT)
    return Cameras(StereoCalibration(fx, fy, cx, cy, cx, baseline), None)
