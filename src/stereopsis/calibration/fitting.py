"""Calibrations fitted to images: as they are, or scaled where the images were resized as a whole."""

from __future__ import annotations

from dataclasses import replace

from stereopsis.calibration.cameras import Cameras
from stereopsis.calibration.parsing import doubt
from stereopsis.calibration.raw import StereoRig
from stereopsis.types import StereoCalibration

FAR = 0.4  # of half the width or height


def fit_cameras(cameras: Cameras, width: int, height: int, notes: list[str] | None = None) -> Cameras:
    """The cameras for images of this size; arguments and errors as in :func:`fit_calibration`."""
    calibration, rig = cameras.calibration, cameras.rig
    if calibration is not None:
        calibration = fit_calibration(calibration, width, height, notes)
    if rig is not None:
        rig = fit_rig(rig, width, height, notes if calibration is None else None)
    return replace(cameras, calibration=calibration, rig=rig)


def fit_calibration(
    calibration: StereoCalibration, width: int, height: int, notes: list[str] | None = None
) -> StereoCalibration:
    """The calibration for images of this size: as it is, or scaled where they were resized as a whole.

    Args:
        calibration: of some image size.
        width, height: of the images, in pixels.
        notes: gets a sentence where the calibration is scaled.

    Raises:
        ValueError: another aspect, or a principal point that lies outside the images.
    """
    if calibration.width is None or calibration.height is None:
        _check_point(calibration.cx, calibration.cy, width, height)
        return calibration
    if (calibration.width, calibration.height) == (width, height):
        return calibration
    _check_aspect(calibration.width, calibration.height, width, height, notes)
    return calibration.resize(width, height)


def fit_rig(rig: StereoRig, width: int, height: int, notes: list[str] | None = None) -> StereoRig:
    """The rig for raw images of this size; arguments and errors as in :func:`fit_calibration`."""
    if rig.width is None or rig.height is None:
        _check_point(rig.left.K[0, 2], rig.left.K[1, 2], width, height)
        return replace(rig, width=width, height=height)
    if (rig.width, rig.height) == (width, height):
        return rig
    _check_aspect(rig.width, rig.height, width, height, notes)
    return rig.resize(width, height)


def _check_point(cx: float, cy: float, width: int, height: int) -> None:
    """Without a size this is the one sign that the file belongs to other images."""
    if not (0 <= cx < width and 0 <= cy < height):
        raise ValueError(
            f"The calibration's principal point ({cx:.1f}, {cy:.1f}) lies outside the images of {width}x{height} px; "
            "it is for other images, so calibrate at this size or scale it."
        )
    # Only a calibration for other images is so far off, but a crop may be, too.
    if max(abs(2 * (cx + 0.5) / width - 1), abs(2 * (cy + 0.5) / height - 1)) > FAR:
        doubt(
            f"The calibration's principal point ({cx:.1f}, {cy:.1f}) is far from the middle of the images of "
            f"{width}x{height} px, and the file states no size; if it is for other images, depth is wrong."
        )


def _check_aspect(own_width: int, own_height: int, width: int, height: int, notes: list[str] | None) -> None:
    # A pixel of rounding in either side is what resizing leaves.
    if abs(own_width * height / own_height - width) > 1 + width / height:
        raise ValueError(
            f"The calibration is for {own_width}x{own_height} px and the images are {width}x{height}, another shape; "
            "name the calibration of these images."
        )
    if notes is not None:
        notes.append(f"the calibration is for {own_width}x{own_height} px and is scaled to {width}x{height}")
