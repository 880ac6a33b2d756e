"""Cameras for images of another size than the one they were calibrated at."""

from __future__ import annotations

from dataclasses import replace

from stereopsis.calibration.raw import StereoRig
from stereopsis.types import StereoCalibration


def fit_calibration(calibration: StereoCalibration, width: int, height: int) -> StereoCalibration:
    """The calibration for images of this size: as it is, or scaled where they were resized as a whole.

    Args:
        width, height: of the images, in pixels.

    Raises:
        ValueError: another aspect, or a principal point that lies outside the images.
    """
    if calibration.width is None or calibration.height is None:
        _check_point(calibration.cx, calibration.cy, width, height)
        return calibration
    if (calibration.width, calibration.height) == (width, height):
        return calibration
    _check_aspect(calibration.width, calibration.height, width, height)
    return calibration.resize(width, height)


def fit_rig(rig: StereoRig, width: int, height: int) -> StereoRig:
    """The rig for raw images of this size; arguments and errors as in :func:`fit_calibration`."""
    if rig.width is None or rig.height is None:
        _check_point(rig.left.K[0, 2], rig.left.K[1, 2], width, height)
        return replace(rig, width=width, height=height)
    if (rig.width, rig.height) == (width, height):
        return rig
    _check_aspect(rig.width, rig.height, width, height)
    return rig.resize(width, height)


def scaling_note(own: StereoCalibration | StereoRig, width: int, height: int) -> str | None:
    """The sentence for a user whose calibration was made at another size; None if it fits as it is."""
    if own.width is None or own.height is None or (own.width, own.height) == (width, height):
        return None
    return f"the calibration is for {own.width}x{own.height} px and is scaled to {width}x{height}"


def _check_point(cx: float, cy: float, width: int, height: int) -> None:
    """Without a size this is the one sign that the file belongs to other images."""
    if not (0 <= cx < width and 0 <= cy < height):
        raise ValueError(
            f"The calibration's principal point ({cx:.1f}, {cy:.1f}) lies outside the images of {width}x{height} px; "
            "it is for other images, so calibrate at this size or scale it."
        )


def _check_aspect(own_width: int, own_height: int, width: int, height: int) -> None:
    # A pixel of rounding in either side is what resizing leaves.
    if abs(own_width * height / own_height - width) > 1 + width / height:
        raise ValueError(
            f"The calibration is for {own_width}x{own_height} px and the images are {width}x{height}, another shape; "
            "name the calibration of these images."
        )
