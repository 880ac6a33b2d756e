"""A raw (unrectified) rig and its rectification."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from stereopsis.types import StereoCalibration

Model = Literal["pinhole", "fisheye"]

# OpenCV's pinhole model takes these many coefficients (k1 k2 p1 p2 [k3 [k4 k5 k6 [s1..s4 [tx ty]]]]).
PINHOLE_COEFFICIENTS = (0, 4, 5, 8, 12, 14)
# Files round the matrices of a rectified rig by less than this.
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class RawCamera:
    """One camera as calibrated.

    Attributes:
        K: intrinsic matrix in pixels.
        distortion: coefficients in OpenCV's order (k1 k2 p1 p2 k3 ... for pinhole, k1 k2 k3 k4 for fisheye).
        model: ``pinhole`` (radial-tangential and rational) or ``fisheye`` (equidistant, Kannala-Brandt).

    Raises:
        ValueError: a focal length that is not positive, or a number of coefficients that the model does not have.
    """

    K: Float64[np.ndarray, "3 3"]
    distortion: Float64[np.ndarray, " n"]
    model: Model = "pinhole"

    def __post_init__(self) -> None:
        object.__setattr__(self, "K", np.asarray(self.K, dtype=np.float64).reshape(3, 3))
        object.__setattr__(self, "distortion", np.asarray(self.distortion, dtype=np.float64).ravel())
        if not (np.isfinite(self.K).all() and np.isfinite(self.distortion).all()):
            raise ValueError("The intrinsics hold a value that is not finite; calibrate the camera again.")
        if self.K[0, 0] <= 0 or self.K[1, 1] <= 0:
            raise ValueError(
                f"The focal length is {self.K[0, 0]:g} x {self.K[1, 1]:g} px; it must be above 0, "
                "so correct the intrinsics."
            )
        allowed = PINHOLE_COEFFICIENTS if self.model == "pinhole" else (4,)
        if self.distortion.size not in allowed:
            raise ValueError(
                f"The {self.model} camera has {self.distortion.size} distortion coefficients; "
                f"OpenCV's model takes {', '.join(map(str, allowed))}, so pad with zeros or name another model."
            )


@dataclass(frozen=True, eq=False)
class Rectification:
    """Where each pixel of the rectified views comes from.

    Attributes:
        left_map, right_map: source position (x, y) in pixels of the raw image, for each pixel of the rectified one.
        source_size: (width, height) of the raw images the maps are for.
        calibration: the rectified rig.
    """

    left_map: Float32[np.ndarray, "h w 2"]
    right_map: Float32[np.ndarray, "h w 2"]
    source_size: tuple[int, int]
    calibration: StereoCalibration

    def __call__(
        self, left: Float[Tensor, "*b c h w"], right: Float[Tensor, "*b c h w"]
    ) -> tuple[Float[Tensor, "*b c h2 w2"], Float[Tensor, "*b c h2 w2"]]:
        """Both views rectified, bilinearly; 0 where a pixel has no source (see :meth:`valid`).

        Raises:
            ValueError: an image of another size than the rig was calibrated at.
        """
        return self._remap(left, self.left_map), self._remap(right, self.right_map)

    def valid(self) -> tuple[Bool[Tensor, "1 h w"], Bool[Tensor, "1 h w"]]:
        """Which pixels of the rectified left and right view have a source in the raw image."""
        width, height = self.source_size
        masks = []
        for position in (self.left_map, self.right_map):
            x, y = position[..., 0], position[..., 1]
            inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
            masks.append(torch.from_numpy(inside)[None])
        return masks[0], masks[1]

    def _remap(self, image: Tensor, position: np.ndarray) -> Tensor:
        import cv2

        width, height = self.source_size
        if image.shape[-2:] != (height, width):
            raise ValueError(
                f"The image is {image.shape[-1]} x {image.shape[-2]} px and the rig was calibrated at "
                f"{width} x {height}; resize the image to that size first."
            )
        planes = image.detach().cpu().float().reshape(-1, height, width).numpy()
        x, y = (np.ascontiguousarray(position[..., i]) for i in range(2))
        out = [cv2.remap(plane, x, y, cv2.INTER_LINEAR, borderValue=0) for plane in planes]
        result = torch.from_numpy(np.stack(out)).reshape(*image.shape[:-2], *position.shape[:2])
        return result.to(image.device, image.dtype)


@dataclass(frozen=True, eq=False)
class StereoRig:
    """Two raw cameras and where they stand: ``X_right = R X_left + T``.

    Attributes:
        left, right: the cameras.
        R: rotation from the left to the right camera.
        T: translation in metres; its x is negative where the right camera is to the right.
        width, height: size of the raw images in pixels, None where the file does not say.
        stored: (R1, R2, P1, P2) where the file holds a rectification of its own; P in metres and pixels.

    Raises:
        ValueError: R is no rotation, T is zero, or the cameras have different models.
    """

    left: RawCamera
    right: RawCamera
    R: Float64[np.ndarray, "3 3"]
    T: Float64[np.ndarray, 3]
    width: int | None = None
    height: int | None = None
    stored: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "R", np.asarray(self.R, dtype=np.float64).reshape(3, 3))
        object.__setattr__(self, "T", np.asarray(self.T, dtype=np.float64).reshape(3))
        deviation = float(np.abs(self.R @ self.R.T - np.eye(3)).max())
        if not deviation < 1e-2 or np.linalg.det(self.R) < 0:
            raise ValueError(
                f"R deviates from a rotation by {deviation:.2g}; at most 0.01 is allowed, so correct the extrinsics."
            )
        if not (np.isfinite(self.T).all() and np.linalg.norm(self.T) > 0):
            raise ValueError(f"The translation is {self.T.tolist()}; it must be finite and not 0, so correct T.")
        if self.left.model != self.right.model:
            raise ValueError(
                f"The left camera is {self.left.model} and the right one {self.right.model}; "
                "both must have one model, so calibrate them alike."
            )

    @property
    def baseline(self) -> float:
        """Distance of the two cameras in metres."""
        return float(np.linalg.norm(self.T))

    @property
    def is_rectified(self) -> bool:
        """Whether views of this rig are rectified as they are: no distortion, no rotation, rows that agree."""
        turned = (self.stored[0], self.stored[1]) if self.stored is not None else (self.R, np.eye(3))
        projected = (self.stored[2], self.stored[3]) if self.stored is not None else (self.left.K, self.left.K)
        # Without a stored projection the columns of the principal points may differ, as doffs.
        which = ([0, 1, 0, 1], [0, 1, 2, 2]) if self.stored is not None else ([0, 1, 1], [0, 1, 2])
        return bool(
            not any(camera.distortion.any() or camera.model == "fisheye" for camera in (self.left, self.right))
            and all(np.allclose(rotation, np.eye(3), atol=ROUNDING) for rotation in turned)
            and np.allclose(self.T[1:], 0, atol=ROUNDING * self.baseline)
            and all(
                np.allclose(camera.K[which], p[which], rtol=ROUNDING)
                for camera, p in zip((self.left, self.right), projected, strict=True)
            )
        )

    def resize(self, width: int, height: int) -> StereoRig:
        """The rig of views resized to ``width`` x ``height`` pixels; outer edges map onto each other.

        Raises:
            ValueError: the present size is not known, or the new one is not positive.
        """
        if self.width is None or self.height is None:
            raise ValueError(
                "The rig does not say for which image size it holds; set width and height with dataclasses.replace."
            )
        if width < 1 or height < 1:
            raise ValueError(f"The new size is {width} x {height} px; both must be at least 1.")
        sx, sy = width / self.width, height / self.height
        scaling = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
        left, right = (replace(camera, K=scaling @ camera.K) for camera in (self.left, self.right))
        stored = self.stored
        if stored is not None:
            stored = stored[0], stored[1], scaling @ stored[2], scaling @ stored[3]
        return replace(self, left=left, right=right, width=width, height=height, stored=stored)

    def rectify(self, alpha: float | None = 0.0, *, size: tuple[int, int] | None = None) -> Rectification:
        """Rectification maps and the calibration of the rectified pair.

        Args:
            alpha: 0 keeps pixels with a source alone, 1 keeps every raw pixel (OpenCV's ``alpha``, and ``balance``
                of a fisheye); None takes the rectification that the file itself stores.
            size: (width, height) of the raw images, where the rig does not say.

        Raises:
            ValueError: no size or another one, no stored rectification, ``alpha`` outside [0, 1], or views that are
                swapped or stacked.
        """
        width, height = self._size(size)
        r1, r2, p1, p2 = self.rectifying(alpha, size=size)
        calibration = StereoCalibration.from_projections(p1, p2, width=width, height=height)
        left_map = _undistortion_map(self.left, r1, p1, width, height)
        right_map = _undistortion_map(self.right, r2, p2, width, height)
        return Rectification(left_map, right_map, (width, height), calibration)

    def rectifying(
        self, alpha: float | None = 0.0, *, size: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(R1, R2, P1, P2): what turns each camera, and projects the turned ones; as OpenCV's ``stereoRectify``.

        Arguments and errors as in :meth:`rectify`.
        """
        width, height = self._size(size)
        if alpha is None:
            if self.stored is None:
                raise ValueError("The rig's file stores no rectification; pass alpha between 0 and 1 to compute one.")
            return self.stored
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}; it must lie in [0, 1]: 0 crops to valid pixels, 1 keeps all.")
        return self._solve(alpha, width, height)

    def _size(self, size: tuple[int, int] | None) -> tuple[int, int]:
        width, height = size if size is not None else (self.width, self.height)
        if size is not None and self.width is not None and size != (self.width, self.height):
            raise ValueError(
                f"size is {size} and the rig was calibrated at {self.width} x {self.height} px; leave size out, "
                "and resize the images to the calibrated size."
            )
        if width is None or height is None:
            raise ValueError(
                "The rig does not say for which image size it holds; pass size=(width, height) of the raw images."
            )
        return width, height

    def _solve(self, alpha: float, width: int, height: int) -> tuple[Any, Any, Any, Any]:
        import cv2

        translation = self.T.reshape(3, 1)
        cameras = (self.left.K, self.left.distortion, self.right.K, self.right.distortion)
        if self.left.model == "fisheye":
            r1, r2, p1, p2, _ = cv2.fisheye.stereoRectify(
                *cameras, (width, height), self.R, translation, flags=cv2.CALIB_ZERO_DISPARITY, balance=alpha
            )
        else:
            r1, r2, p1, p2, *_ = cv2.stereoRectify(
                *cameras, (width, height), self.R, translation, flags=cv2.CALIB_ZERO_DISPARITY, alpha=alpha
            )
        return r1, r2, p1, p2


def _undistortion_map(camera: RawCamera, rotation: Any, projection: Any, width: int, height: int) -> np.ndarray:
    import cv2

    init = cv2.fisheye.initUndistortRectifyMap if camera.model == "fisheye" else cv2.initUndistortRectifyMap
    # Only the 3x3 part: the translation column places the right view, it does not move its pixels.
    x, y = init(camera.K, camera.distortion, rotation, projection[:, :3], (width, height), cv2.CV_32FC1)
    return np.stack([x, y], axis=-1)
