"""A rectified pair out of two views and their camera file, whatever that file describes.

A file holds a raw rig (EuRoC, the result of ``stereopsis calibrate``), a rectified calibration (Middlebury, KITTI,
K.txt), or both (ROS ``camera_info``, OpenCV with ``P1``). In the last case it does not say which of the two the views
are, and the views themselves are asked: those of a rectified pair agree in their rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from stereopsis.calibration import RawRigError, Rectification, StereoRig, read_calibration, read_rig
from stereopsis.calibration.diagnosis import FEWEST_MATCHES, find_matches
from stereopsis.calibration.fitting import fit_calibration, fit_rig, scaling_note
from stereopsis.types import StereoCalibration

Choice = Literal["auto", "yes", "no"]
# Two medians closer than this do not tell raw views from rectified ones.
DIFFERENCE = 0.1


@dataclass(frozen=True, eq=False)
class Cameras:
    """What a camera file describes.

    Attributes:
        calibration: of rectified views; None where the file holds none.
        rig: of raw views; None where the file holds none, or one that is rectified as it stands.
    """

    calibration: StereoCalibration | None
    rig: StereoRig | None


@dataclass(frozen=True, eq=False)
class RectifiedPair:
    """A pair to match.

    Attributes:
        left, right: rectified views, in the shape of the given ones.
        calibration: of these views.
        rectification: what was applied; None where the views were rectified already.
        notes: sentences for a user on what was done to the views or to the calibration.
    """

    left: Float[Tensor, "*b c h w"]
    right: Float[Tensor, "*b c h w"]
    calibration: StereoCalibration
    rectification: Rectification | None
    notes: tuple[str, ...] = ()

    @property
    def valid(self) -> Bool[Tensor, "1 h w"] | None:
        """Which pixels of the left view show something; None for all."""
        return None if self.rectification is None else self.rectification.valid()[0]


def read_cameras(path: str | Path, right: str | Path | None = None) -> Cameras:
    """Reads a camera file of any known format; arguments and errors as in :func:`~stereopsis.calibration.read_rig`."""
    try:
        calibration = read_calibration(path, right)
    except RawRigError:
        return Cameras(None, read_rig(path, right))
    try:
        rig = read_rig(path, right)
    except ValueError:  # no raw rig in this file
        return Cameras(calibration, None)
    return Cameras(calibration, None if rig.is_rectified else rig)


def rectify_pair(
    left: Float[Tensor, "*b c h w"], right: Float[Tensor, "*b c h w"], cameras: Cameras, rectify: Choice = "auto"
) -> RectifiedPair:
    """The pair as matchers take it: remapped where the views are raw, as it is where they are rectified.

    Args:
        left, right: views of the size the cameras are for, in [0, 1].
        cameras: of :func:`read_cameras`.
        rectify: whether the views are raw; ``auto`` looks at them where the file describes both kinds, and takes them
            as rectified where they do not tell.

    Raises:
        ValueError: the file holds no rig to rectify with, or nothing but one, against ``rectify``; or as
            :meth:`~stereopsis.calibration.StereoRig.rectify`.
    """
    if cameras.rig is None or rectify == "no":
        if cameras.calibration is None:
            raise ValueError(
                "The camera file describes raw cameras alone, so views that are not rectified have no metric depth; "
                "let them be rectified, or name the calibration of the rectified pair."
            )
        if rectify == "yes":
            raise ValueError(
                "The camera file holds no raw rig (distortion and rotation) to rectify with; name one of OpenCV, ROS "
                "or EuRoC, or make one with `stereopsis calibrate`."
            )
        return RectifiedPair(left, right, cameras.calibration, None)
    height, width = left.shape[-2:]
    known = cameras.rig.width is not None
    alpha = None if cameras.rig.stored is not None else 0.0
    rectification = cameras.rig.rectify(alpha, size=None if known else (width, height))
    views = rectification(left, right)
    if cameras.calibration is not None and rectify == "auto" and not _aligns((left, right), views):
        return RectifiedPair(left, right, cameras.calibration, None)
    calibration = rectification.calibration
    if cameras.calibration is not None:
        calibration = replace(calibration, ndisp=cameras.calibration.ndisp)
    return RectifiedPair(*views, calibration, rectification)


def rectify_with(
    left: Float[Tensor, "*b c h w"],
    right: Float[Tensor, "*b c h w"],
    path: str | Path,
    path_right: str | Path | None = None,
    rectify: Choice = "auto",
) -> RectifiedPair:
    """The views as matchers take them, and their calibration, from a camera file for views of this or another size.

    Args:
        left, right: views in [0, 1].
        path, path_right: the camera file, and the one of the right camera if each camera has its own.
        rectify: as in :func:`rectify_pair`.

    Returns:
        The pair; its ``notes`` state whether the calibration was scaled and whether the views were rectified.

    Raises:
        FileNotFoundError: a camera file is missing.
        ValueError: as :func:`read_cameras`, :func:`~stereopsis.calibration.fitting.fit_calibration` and
            :func:`rectify_pair`.
    """
    height, width = left.shape[-2:]
    cameras = read_cameras(path, path_right)
    pair = rectify_pair(left, right, fit_cameras(cameras, width, height), rectify)
    own = cameras.rig if cameras.calibration is None else cameras.calibration
    notes = [] if own is None else [scaling_note(own, width, height)]
    if pair.rectification is not None:
        notes.append(f"the views are raw and were rectified with {Path(path).name}")
    return replace(pair, notes=tuple(text for text in notes if text is not None))


def fit_cameras(cameras: Cameras, width: int, height: int) -> Cameras:
    """The cameras for images of this size; errors as in :func:`fit_calibration`."""
    calibration, rig = cameras.calibration, cameras.rig
    if calibration is not None:
        calibration = fit_calibration(calibration, width, height)
    if rig is not None:
        rig = fit_rig(rig, width, height)
    return replace(cameras, calibration=calibration, rig=rig)


def _aligns(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> bool:
    """Whether matching points agree better in their rows after rectification than before."""
    matches = [find_matches(*views) for views in (before, after)]
    if min(map(len, matches)) < FEWEST_MATCHES:
        return False
    raw, rectified = (float(np.median(np.abs(m.vertical))) for m in matches)
    return rectified < raw - DIFFERENCE
