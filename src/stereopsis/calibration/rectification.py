"""A rectified pair out of two views and their camera file, whatever that file describes.

A file holds a raw rig (EuRoC, the result of ``stereopsis calibrate``), a rectified calibration (Middlebury, KITTI,
K.txt), or both (ROS ``camera_info``, OpenCV with ``P1``). In the last case it does not say which of the two the views
are, and the views themselves are asked: those of a rectified pair agree in their rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from stereopsis.calibration import Cameras, Rectification, StereoCalibration, StereoRig, read_calibration, read_cameras
from stereopsis.calibration.diagnosis import FEWEST_MATCHES, find_matches
from stereopsis.calibration.fitting import fit_calibration, fit_cameras
from stereopsis.calibration.parsing import doubt

__all__ = ["CameraFile", "Cameras", "Choice", "RectifiedPair", "read_cameras", "rectify_pair", "rectify_with"]

Choice = Literal["auto", "yes", "no"]
# Two medians closer than this do not tell raw views from rectified ones.
DIFFERENCE = 0.1


@dataclass(frozen=True)
class CameraFile:
    """A calibration file and how it is to be read.

    Attributes:
        path: the file, the left of two, a folder that holds it, or a ROS bag.
        right: the second file, where its name does not show it.
        unit: unit of the baseline, as in :func:`~stereopsis.calibration.read_cameras`.
        cameras: pair of a KITTI file; chosen by the views if None.
        lens: lens model of raw cameras; the file's own if None.
        fov: horizontal field of view of rectified views in degrees; found from the rig if None.
    """

    path: Path
    right: Path | None = None
    unit: float | str | None = None
    cameras: Literal["colour", "grey"] | None = None
    lens: Literal["pinhole", "fisheye"] | None = None
    fov: float | None = None

    def read(
        self, width: int, height: int, *, grey: bool | None = None, views: Sequence[str | Path] = (),
        notes: list[str] | None = None,
    ) -> Cameras:  # fmt: skip
        """The cameras for images of a size in pixels.

        Args:
            width, height: of the images.
            grey: whether they are grey, where that is known.
            views: their files, whose folders may name the cameras.
            notes: gets a sentence where the calibration is scaled.

        Raises: as :func:`~stereopsis.calibration.read_cameras` and :func:`.fitting.fit_cameras`.
        """
        found = read_cameras(
            self.path, self.right, unit=self.unit, cameras=self.cameras, lens=self.lens, size=(width, height),
            grey=grey, views=views,
        )  # fmt: skip
        return fit_cameras(found, width, height, notes)

    def calibration(self, width: int, height: int) -> StereoCalibration:
        """The calibration of rectified views of a size in pixels.

        Raises:
            RawRigError: the file describes raw cameras only.
            ValueError: as :meth:`read`.
        """
        found = read_calibration(self.path, self.right, unit=self.unit, cameras=self.cameras, size=(width, height))
        return fit_calibration(found, width, height)


@dataclass(frozen=True, eq=False)
class RectifiedPair:
    """A pair to match.

    Attributes:
        left, right: rectified views, in the shape of the given ones.
        calibration: of these views.
        rectification: what was applied; None where the views were rectified already.
        notes: what was done on the way, one sentence each.
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


def rectify_with(
    left: Float[Tensor, "*b c h w"],
    right: Float[Tensor, "*b c h w"],
    file: CameraFile | str | Path,
    file_right: str | Path | None = None,
    rectify: Choice = "auto",
    *,
    views: Sequence[str | Path] = (),
) -> RectifiedPair:
    """The pair as matchers take it, by its calibration file; all commands and the server rectify here.

    Args:
        left, right: views in [0, 1].
        file: of their cameras; a path, or a file with the way it is read.
        file_right: the second file, where ``file`` is the path of one of two.
        rectify: as in :func:`rectify_pair`.
        views: files of the views, whose folders may name the cameras.

    Raises: as :meth:`CameraFile.read` and :func:`rectify_pair`.
    """
    if not isinstance(file, CameraFile):
        file = CameraFile(Path(file), None if file_right is None else Path(file_right))
    height, width = left.shape[-2:]
    notes: list[str] = []
    grey = bool((left == left[..., :1, :, :]).all())
    cameras = file.read(width, height, grey=grey, views=views, notes=notes)
    pair = rectify_pair(left, right, cameras, rectify, fov=file.fov)
    if pair.rectification is not None:
        notes.append(f"the views are raw and were rectified with {file.path.name}")
    return replace(pair, notes=tuple(notes))


def rectify_pair(
    left: Float[Tensor, "*b c h w"],
    right: Float[Tensor, "*b c h w"],
    cameras: Cameras,
    rectify: Choice = "auto",
    *,
    fov: float | None = None,
) -> RectifiedPair:
    """The pair as matchers take it: remapped where the views are raw, as it is where they are rectified.

    Args:
        left, right: views of the size the cameras are for, in [0, 1].
        cameras: of :func:`~stereopsis.calibration.read_cameras`.
        rectify: whether the views are raw; ``auto`` looks at them where the file describes both kinds, and takes them
            as rectified where they do not tell.
        fov: horizontal field of view of the rectified views in degrees; found from the rig if not given.

    Raises:
        ValueError: the file holds no rig to rectify with, or nothing but one, against ``rectify``; its raw cameras
            cannot be understood and ``rectify`` is not ``no``; or as
            :meth:`~stereopsis.calibration.StereoRig.rectify`.
    """
    if cameras.problem is not None and rectify != "no":
        raise ValueError(
            f"The file describes raw cameras that cannot be understood: {cameras.problem.rstrip('.')}; if the views "
            "are rectified already, state it."
        )
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
    rectification = _rectification(cameras.rig, None if known else (width, height), fov)
    views = rectification(left, right)
    if cameras.calibration is not None and rectify == "auto" and not _aligns((left, right), views):
        return RectifiedPair(left, right, cameras.calibration, None)
    calibration = rectification.calibration
    if cameras.calibration is not None:
        calibration = replace(calibration, ndisp=cameras.calibration.ndisp)
    return RectifiedPair(*views, calibration, rectification)


def _rectification(rig: StereoRig, size: tuple[int, int] | None, fov: float | None) -> Rectification:
    """The rectification that the file stores where it is usable, else one that is computed."""
    if rig.stored is None or fov is not None:
        return rig.rectify(0.0, size=size, fov=fov)
    sentence = rig.solve(None, size=size)[1]
    if sentence is None:
        return rig.rectify(None, size=size)
    doubt(f"{sentence.rstrip('.')}; another one is computed.")
    return rig.rectify(0.0, size=size)


def _aligns(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> bool:
    """Whether matching points agree better in their rows after rectification than before."""
    matches = [find_matches(*views) for views in (before, after)]
    if min(map(len, matches)) < FEWEST_MATCHES:
        return False
    raw, rectified = (float(np.median(np.abs(m.vertical))) for m in matches)
    return rectified < raw - DIFFERENCE
