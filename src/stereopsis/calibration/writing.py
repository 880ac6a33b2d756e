"""Writes calibrations of rectified rigs and raw rigs, in the forms that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from stereopsis.calibration import kalibr, kitti, ktxt, middlebury, opencv, ros
from stereopsis.calibration.camera import RawCamera
from stereopsis.calibration.files import swap_name
from stereopsis.calibration.raw import StereoRig
from stereopsis.types import StereoCalibration

Format = Literal["middlebury", "kitti", "kitti-cam-to-cam", "opencv", "ros", "kalibr", "k"]
FORMATS: tuple[Format, ...] = ("middlebury", "kitti", "kitti-cam-to-cam", "opencv", "ros", "kalibr", "k")
RigFormat = Literal["opencv", "ros", "kalibr"]
RIG_FORMATS: tuple[RigFormat, ...] = ("opencv", "ros", "kalibr")


def write_calibration(calibration: StereoCalibration, path: str | Path, format: Format | None = None) -> None:
    """Writes the calibration of a rectified rig; nothing is left half-written.

    Args:
        calibration: the rig.
        path: the file. For ``"ros"`` a folder (then ``left.yaml`` and ``right.yaml`` in it), or the left file, whose
            name must hold ``left``; the right one is written beside it.
        format: one of :data:`FORMATS`; by default ``opencv`` for ``.yml`` and ``.yaml``, ``ros`` for a folder, ``k``
            for ``K.txt``, and ``middlebury`` for the rest. ``kitti`` and ``k`` drop the image size, all but
            ``middlebury`` drop ``ndisp``, and ``k`` refuses an offset of the principal points.

    Raises:
        ValueError: an unknown format, or a rig that the format cannot hold.
        FileNotFoundError: the folder does not exist.
    """
    from stereopsis.io.atomic import atomic_write_text

    path = Path(path)
    format = format if format is not None else _format_of(path)
    if format == "ros":
        left, second = _two_names(path)
        texts = {left: ros.write(calibration, "left"), second: ros.write(calibration, "right")}
    else:
        writers = {
            "middlebury": middlebury.write,
            "kitti": kitti.write,
            "kitti-cam-to-cam": kitti.write_cam_to_cam,
            "opencv": opencv.write,
            "kalibr": lambda rectified: kalibr.write(_undistorted(rectified)),
            "k": ktxt.write,
        }
        if format not in writers:
            raise ValueError(f"format is {format!r}; it must be one of {', '.join(FORMATS)}.")
        texts = {path: writers[format](calibration)}
    for target, text in texts.items():
        atomic_write_text(target, text)


def write_rig(rig: StereoRig, path: str | Path, format: RigFormat = "opencv") -> None:
    """Writes a raw rig in metres, which :func:`~stereopsis.calibration.read_rig` reads.

    Args:
        rig: the rig.
        path: the file; for ``"ros"`` a folder or the left file, as in :func:`write_calibration`.
        format: ``opencv`` (``M1 D1 M2 D2 R T``), ``ros`` (with the rectification of the rig) or ``kalibr``.

    Raises:
        ValueError: another suffix than ``.yaml`` or ``.yml``, an unknown format, or a rig that the format cannot hold.
        FileNotFoundError: the folder does not exist.
    """
    from stereopsis.io.atomic import atomic_write_text

    path = Path(path)
    if format not in RIG_FORMATS:
        raise ValueError(f"format is {format!r}; a raw rig can be written as {', '.join(RIG_FORMATS)}.")
    if format == "ros":
        left, second = _two_names(path)
        texts = {left: ros.write_rig(rig, "left"), second: ros.write_rig(rig, "right")}
    else:
        if path.suffix.lower() not in {".yml", ".yaml"}:
            raise ValueError(f"{path} must end in .yaml or .yml, because a raw rig is written as YAML.")
        texts = {path: (opencv.write_rig if format == "opencv" else kalibr.write)(rig)}
    for target, text in texts.items():
        atomic_write_text(target, text)


def _undistorted(calibration: StereoCalibration) -> StereoRig:
    """A rectified rig as two cameras without distortion."""
    left, right = (RawCamera(k, np.zeros(4)) for k in (calibration.K, calibration.K_right))
    place = np.array([-calibration.baseline, 0.0, 0.0])
    return StereoRig(left, right, np.eye(3), place, calibration.width, calibration.height)


def _two_names(path: Path) -> tuple[Path, Path]:
    """The files of the left and the right camera."""
    left = path / "left.yaml" if path.is_dir() else path
    second = swap_name(left)
    if second is None or "left" not in left.name.lower():
        raise ValueError(f"{left} does not say which view it is; name a folder, or a file with 'left' in its name.")
    return left, second


def _format_of(path: Path) -> Format:
    if path.is_dir():
        return "ros"
    if path.suffix.lower() in {".yml", ".yaml"}:
        return "opencv"
    return "k" if path.name == "K.txt" else "middlebury"
