"""The values that travel between the parts of the package: pairs, calibrations, disparity, depth and points.

Conventions (``docs/conventions.md``): images are RGB float32 in [0, 1]; disparity is positive and in pixels of the
input width, left ``x`` matches right ``x - d``; depth is in metres along Z; a boolean ``valid`` travels with every map
and the value is 0 where it is False; confidence lies in [0, 1], high is good.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from stereopsis.ops.images import check_views

# Two rows further apart than this are not one row, and no disparity is defined.
ROW_TOLERANCE = 0.5
# Rectification gives both views one focal length; files round it, but not by more than this.
FOCAL_TOLERANCE = 1e-3


@dataclass(frozen=True)
class StereoCalibration:
    """A rectified rig. Pixel centres are integers: (0, 0) is the centre of the top left pixel.

    Attributes:
        fx, fy: focal lengths in pixels, the same in both views.
        cx, cy: principal point of the left view in pixels; ``cy`` holds for both views.
        cx_right: principal point of the right view in pixels.
        baseline: distance of the two cameras along x in metres.
        width, height: size of the images in pixels, None where the file does not say.
        ndisp: an upper bound of the disparities in pixels, None where the file does not say.

    Raises:
        ValueError: a focal length, baseline or size that is not positive, or any value that is not finite.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    cx_right: float
    baseline: float
    width: int | None = None
    height: int | None = None
    ndisp: int | None = None

    def __post_init__(self) -> None:
        for name in ("fx", "fy", "cx", "cy", "cx_right", "baseline"):
            value = float(getattr(self, name))
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}; it must be a finite number, so calibrate the rig again.")
            object.__setattr__(self, name, value)
        for name in ("fx", "fy"):
            value = getattr(self, name)
            if value <= 0:
                raise ValueError(
                    f"The focal length {name} is {value:g} px; it must be above 0, so correct the intrinsics."
                )
        if self.baseline <= 0:
            raise ValueError(
                f"The baseline is {self.baseline:g} m; it must be above 0, so swap the left and the right view "
                "if they are exchanged, or correct the calibration."
            )
        for name in ("width", "height", "ndisp"):
            size = getattr(self, name)
            if size is None:
                continue
            if size != int(size) or size < 1:
                raise ValueError(f"{name} is {size}; it must be a whole number above 0, or None where it is not known.")
            object.__setattr__(self, name, int(size))

    @property
    def doffs(self) -> float:
        """Offset of the principal points in pixels, ``cx_right - cx``; it adds to every disparity."""
        return self.cx_right - self.cx

    @property
    def K(self) -> Float64[np.ndarray, "3 3"]:
        """Intrinsic matrix of the left view, in pixels."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def K_right(self) -> Float64[np.ndarray, "3 3"]:
        """Intrinsic matrix of the right view, in pixels."""
        return np.array([[self.fx, 0.0, self.cx_right], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def Q(self) -> Float64[np.ndarray, "4 4"]:
        """Reprojection matrix in OpenCV's sign convention: ``(X, Y, Z, W) = Q (x, y, d, 1)``, metres, Z positive.

        Unlike the matrix of ``cv2.stereoRectify`` it also holds where ``fx`` and ``fy`` differ.
        """
        aspect = self.fx / self.fy
        return np.array(
            [
                [1.0, 0.0, 0.0, -self.cx],
                [0.0, aspect, 0.0, -self.cy * aspect],
                [0.0, 0.0, 0.0, self.fx],
                [0.0, 0.0, 1.0 / self.baseline, self.doffs / self.baseline],
            ]
        )

    @property
    def projections(self) -> tuple[Float64[np.ndarray, "3 4"], Float64[np.ndarray, "3 4"]]:
        """Projection matrices of the left and the right view, from points in the left camera in metres."""
        left = np.hstack([self.K, np.zeros((3, 1))])
        right = np.hstack([self.K_right, np.array([[-self.fx * self.baseline], [0.0], [0.0]])])
        return left, right

    @classmethod
    def from_projections(
        cls,
        left: Float64[np.ndarray, "3 4"],
        right: Float64[np.ndarray, "3 4"],
        *,
        unit: float = 1.0,
        width: int | None = None,
        height: int | None = None,
        ndisp: int | None = None,
    ) -> StereoCalibration:
        """The rig that two rectified projection matrices describe; ``baseline = (P_left[0,3] - P_right[0,3]) / fx``.

        Args:
            left, right: projection matrices that share one reference frame.
            unit: metres per unit of their translation.

        Raises:
            ValueError: the matrices are no rectified horizontal pair, or the baseline is not positive.
        """
        fx, fy, cx, cy = left[0, 0], left[1, 1], left[0, 2], left[1, 2]
        if fx == 0 or fy == 0:
            raise ValueError(
                f"The focal length is {fx:g} x {fy:g} px; it must be above 0, so calibrate the rig before you read it."
            )
        if abs(right[0, 0] - fx) > FOCAL_TOLERANCE * abs(fx):
            raise ValueError(
                f"The focal lengths of the views are {fx:g} and {right[0, 0]:g} px; they must agree within "
                f"{FOCAL_TOLERANCE:.1%} in a rectified rig, so rectify the images first."
            )
        if abs(right[1, 2] - cy) > ROW_TOLERANCE:
            raise ValueError(
                f"The principal points lie in rows {cy:g} and {right[1, 2]:g}; they must agree within "
                f"{ROW_TOLERANCE} px in a rectified rig, so rectify the images first."
            )
        offset = left[:, 3] - right[:, 3]
        # The third row is left out: real files carry millimetres there, and the pair is still horizontal.
        if abs(offset[1] / fy) > abs(offset[0] / fx):
            raise ValueError(
                f"The right camera is displaced by {abs(offset[1] / fy) * unit:g} m along y; only horizontal pairs "
                "are supported, so turn the images by 90 degrees and calibrate them so."
            )
        return cls(fx, fy, cx, cy, right[0, 2], offset[0] / fx * unit, width, height, ndisp)

    def scale(self, sx: float, sy: float | None = None) -> StereoCalibration:
        """The calibration of images resized by ``sx`` (and ``sy``, by default the same).

        A resize maps the outer edges of the image onto each other, and pixel centres are integers, so the left edge
        is at -0.5 and ``cx' = (cx + 0.5) sx - 0.5``. Disparities scale by ``sx``; the baseline does not change.

        Raises:
            ValueError: a factor that is not positive.
        """
        sy = sx if sy is None else sy
        for name, factor in (("sx", sx), ("sy", sy)):
            if not (math.isfinite(factor) and factor > 0):
                raise ValueError(f"{name} is {factor}; it must be above 0, for example 0.5 for half the size.")
        return replace(
            self,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
            cx_right=(self.cx_right + 0.5) * sx - 0.5,
            width=None if self.width is None else max(1, round(self.width * sx)),
            height=None if self.height is None else max(1, round(self.height * sy)),
            ndisp=None if self.ndisp is None else max(1, math.ceil(self.ndisp * sx)),
        )

    def resize(self, width: int, height: int) -> StereoCalibration:
        """The calibration of images resized to ``width`` x ``height`` pixels.

        Raises:
            ValueError: the present size is not known, or the new one is not positive.
        """
        if self.width is None or self.height is None:
            raise ValueError(
                "The calibration does not say for which image size it holds; use scale(sx, sy), "
                "or set width and height with dataclasses.replace."
            )
        return replace(self.scale(width / self.width, height / self.height), width=width, height=height)

    def crop(self, top: int, left: int, height: int, width: int) -> StereoCalibration:
        """The calibration of the window that starts at row ``top`` and column ``left``, in both views alike.

        Raises:
            ValueError: an empty window, or one that leaves an image of known size.
        """
        if height < 1 or width < 1:
            raise ValueError(f"The window is {width} x {height} px; it must hold at least one pixel.")
        for name, start, extent, limit in (("width", left, width, self.width), ("height", top, height, self.height)):
            if limit is not None and (start < 0 or start + extent > limit):
                raise ValueError(
                    f"The window covers pixels {start} to {start + extent - 1} of a {name} of {limit}; "
                    "choose one inside the image."
                )
        return replace(
            self, cx=self.cx - left, cy=self.cy - top, cx_right=self.cx_right - left, width=width, height=height
        )


@dataclass(frozen=True)
class StereoPair:
    """A rectified pair of views.

    Attributes:
        left, right: RGB (or one-channel) images in [0, 1].
        calibration: the rig, where it is known; needed for metric depth.
    """

    left: Float[Tensor, "b c h w"]
    right: Float[Tensor, "b c h w"]
    calibration: StereoCalibration | None = None

    def __post_init__(self) -> None:
        check_views(self.left, self.right)

    def to(self, device: torch.device | str) -> StereoPair:
        return replace(self, left=self.left.to(device), right=self.right.to(device))


@dataclass(frozen=True)
class Disparity:
    """What matching returns.

    Attributes:
        disparity: pixels of the input width, positive, 0 where not valid.
        valid: where the value may be used.
        confidence: in [0, 1], high is good.
        stage: the stage of an anytime matcher that the map comes from, 1 for the first; None for other matchers.
    """

    disparity: Float[Tensor, "b 1 h w"]
    valid: Bool[Tensor, "b 1 h w"]
    confidence: Float[Tensor, "b 1 h w"]
    stage: int | None = None

    def to(self, device: torch.device | str) -> Disparity:
        return Disparity(self.disparity.to(device), self.valid.to(device), self.confidence.to(device), self.stage)


@dataclass(frozen=True)
class Depth:
    """Metric depth of the left view.

    Attributes:
        depth: metres along Z, 0 where not valid.
        valid: where the value may be used.
        confidence: in [0, 1], where the source gives one.
    """

    depth: Float[Tensor, "b 1 h w"]
    valid: Bool[Tensor, "b 1 h w"]
    confidence: Float[Tensor, "b 1 h w"] | None = None

    def to(self, device: torch.device | str) -> Depth:
        confidence = None if self.confidence is None else self.confidence.to(device)
        return Depth(self.depth.to(device), self.valid.to(device), confidence)


@dataclass(frozen=True)
class PointCloud:
    """Points in the left rectified camera: x right, y down, z forward, in metres.

    Attributes:
        points: positions in metres.
        colors: RGB, one row a point, where an image was given.
    """

    points: Float[Tensor, "n 3"]
    colors: UInt8[Tensor, "n 3"] | None = None

    def __len__(self) -> int:
        return self.points.shape[0]
