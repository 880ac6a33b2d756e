"""A picture of where in the images the boards were, and how well each corner fits."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import UInt8

from stereopsis.calibration.calibrate import GRID, RigCalibration, covered

WIDTH = 640  # pixels of one view in the picture
BACKGROUND, COVERED, LINES, TEXT, REJECTED = (52, 30, 34), (24, 28, 36), (70, 74, 84), (230, 230, 230), (150, 150, 150)
LARGEST_ERROR = 1.0  # pixels; the end of the colours


def coverage_picture(result: RigCalibration) -> UInt8[np.ndarray, "h w 3"]:
    """The corners of all pairs over both images, left beside right, as RGB.

    A dot is a corner, from blue (no error) to red (1 px or more); a grey cross is one of a rejected pair. Cells of the
    8 x 6 grid without a corner that counts are reddish.
    """
    gap = np.full((1, 8, 3), TEXT, np.uint8)
    sides = [_side(result, side) for side in (0, 1)]
    return np.hstack([sides[0], np.repeat(gap, len(sides[0]), axis=0), sides[1]])


def _side(result: RigCalibration, side: Literal[0, 1]) -> np.ndarray:
    import cv2

    width, height = result.rig.width or 1, result.rig.height or 1
    scale = WIDTH / width
    size = WIDTH, max(1, round(height * scale))
    cells = covered(result.used, (width, height), side)
    colors = np.where(cells[..., None], COVERED, BACKGROUND).astype(np.uint8)
    picture = cv2.resize(colors, size, interpolation=cv2.INTER_NEAREST)
    for i in range(1, GRID[0]):
        x = round(i * size[0] / GRID[0])
        cv2.line(picture, (x, 0), (x, size[1]), LINES)
    for i in range(1, GRID[1]):
        y = round(i * size[1] / GRID[1])
        cv2.line(picture, (0, y), (size[0], y), LINES)
    for pair in (*result.rejected, *result.used):
        corners = (pair.left, pair.right)[side]
        residuals = (pair.left_residuals, pair.right_residuals)[side]
        if corners is None:
            continue
        places = np.round((corners.pixels + 0.5) * scale - 0.5).astype(int)
        if pair.reason is not None or residuals is None:
            for place in places:
                cv2.drawMarker(picture, place.tolist(), REJECTED, cv2.MARKER_TILTED_CROSS, 7)
            continue
        errors = np.linalg.norm(residuals, axis=1) / LARGEST_ERROR
        levels = np.round(255 * errors.clip(0, 1)).astype(np.uint8)
        dots = cv2.applyColorMap(levels[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1]
        for place, dot in zip(places, dots, strict=True):
            cv2.circle(picture, place.tolist(), 3, dot.tolist(), cv2.FILLED, cv2.LINE_AA)
    label = f"{('left', 'right')[side]}: {result.coverage[side]:.0%} covered, RMS {result.rms:.2f} px"
    cv2.putText(picture, label, (8, size[1] - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.5, TEXT, 1, cv2.LINE_AA)
    return picture
