"""What the commands that take a camera file share: reading it, fitting it to the images, and rectifying raw views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stereopsis.cli.console import note

if TYPE_CHECKING:
    from torch import Tensor

    from stereopsis.calibration import StereoRig
    from stereopsis.calibration.rectification import Cameras, Choice, RectifiedPair
    from stereopsis.types import StereoCalibration


def rectified(left: Tensor, right: Tensor, file: Path, file_right: Path | None, rectify: Choice) -> RectifiedPair:
    """The views as matchers take them, and their calibration; a note says so where they were raw.

    Raises:
        FileNotFoundError: a camera file is missing.
        ValueError: as of :func:`~stereopsis.calibration.rectification.read_cameras`, :func:`fit_calibration` and
            :func:`~stereopsis.calibration.rectification.rectify_pair`.
    """
    from stereopsis.calibration.rectification import read_cameras, rectify_pair

    height, width = left.shape[-2:]
    pair = rectify_pair(left, right, fit_cameras(read_cameras(file, file_right), width, height), rectify)
    if pair.rectification is not None:
        note(f"the views are raw and were rectified as {file} says")
    return pair


def fit_cameras(cameras: Cameras, width: int, height: int) -> Cameras:
    """The cameras for images of this size; errors as in :func:`fit_calibration`."""
    calibration, rig = cameras.calibration, cameras.rig
    if calibration is not None:
        calibration = fit_calibration(calibration, width, height)
    if rig is not None:
        rig = fit_rig(rig, width, height, silent=calibration is not None)
    return replace(cameras, calibration=calibration, rig=rig)


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


def fit_rig(rig: StereoRig, width: int, height: int, *, silent: bool = False) -> StereoRig:
    """The rig for raw images of this size; arguments and errors as in :func:`fit_calibration`."""
    if rig.width is None or rig.height is None:
        _check_point(rig.left.K[0, 2], rig.left.K[1, 2], width, height)
        return replace(rig, width=width, height=height)
    if (rig.width, rig.height) == (width, height):
        return rig
    _check_aspect(rig.width, rig.height, width, height, silent)
    return rig.resize(width, height)


def _check_point(cx: float, cy: float, width: int, height: int) -> None:
    """Without a size this is the one sign that the file belongs to other images."""
    if not (0 <= cx < width and 0 <= cy < height):
        raise ValueError(
            f"The calibration's principal point ({cx:.1f}, {cy:.1f}) lies outside the images of {width}x{height} px; "
            "it is for other images, so calibrate at this size or scale it."
        )


def _check_aspect(own_width: int, own_height: int, width: int, height: int, silent: bool = False) -> None:
    # A pixel of rounding in either side is what resizing leaves.
    if abs(own_width * height / own_height - width) > 1 + width / height:
        raise ValueError(
            f"The calibration is for {own_width}x{own_height} px and the images are {width}x{height}, another shape; "
            "name the calibration of these images."
        )
    if not silent:
        note(f"the calibration is for {own_width}x{own_height} px and is scaled to {width}x{height}")
