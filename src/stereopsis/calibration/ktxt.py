"""``K.txt`` as FoundationStereo keeps it: the nine numbers of K, then the baseline in metres."""

from __future__ import annotations

import re

import numpy as np

from stereopsis.calibration.cameras import Cameras, Source
from stereopsis.calibration.parsing import numbers
from stereopsis.types import StereoCalibration

UNIT = 1.0


def matches(text: str) -> bool:
    return re.fullmatch(r"[-+0-9.eE,\s]+", text) is not None


def read(source: Source) -> Cameras:
    path = source.path
    values = numbers(source.first.text, 10, "the content (nine numbers of K and the baseline in metres)", path)
    k = values[:9].reshape(3, 3)
    if not np.allclose(k[2], [0, 0, 1]):
        raise ValueError(f"{path}: the last row of K is {k[2].tolist()}; it must be 0 0 1, so write K row by row.")
    baseline = float(values[9]) * source.reading.metres(UNIT)
    return Cameras(StereoCalibration(k[0, 0], k[1, 1], k[0, 2], k[1, 2], k[0, 2], baseline), None)


def write(calibration: StereoCalibration) -> str:
    c = calibration
    if abs(c.doffs) > 1e-9:
        raise ValueError(
            f"doffs is {c.doffs:g} px and K.txt has no place for it, so depth would be wrong; "
            "write the format 'middlebury' or 'opencv' instead."
        )
    return " ".join(repr(float(x)) for x in c.K.ravel()) + f"\n{c.baseline!r}\n"
