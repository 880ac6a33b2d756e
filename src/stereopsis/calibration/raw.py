"""A raw (unrectified) rig and its rectification."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from stereopsis.calibration.camera import RawCamera, owned
from stereopsis.calibration.parsing import doubt
from stereopsis.calibration.projection import Matrices, centred, faults, field_of_view, lookup
from stereopsis.types import StereoCalibration

# Files round the matrices of a rectified rig by less than this.
ROUNDING = 1e-6


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
        object.__setattr__(self, "R", owned(self.R).reshape(3, 3))
        object.__setattr__(self, "T", owned(self.T).reshape(3))
        if self.stored is not None:
            object.__setattr__(self, "stored", tuple(owned(matrix) for matrix in self.stored))
        for name in ("width", "height"):
            size = getattr(self, name)
            if size is None:
                continue
            if size != int(size) or size < 1:
                raise ValueError(f"{name} is {size}; it must be a whole number above 0, or None where it is not known.")
            object.__setattr__(self, name, int(size))
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

    def as_rectified(self) -> StereoCalibration:
        """The calibration of the views as they are, of a rig that :attr:`is_rectified`.

        Raises:
            ValueError: the rig is not rectified, or its cameras are exchanged.
        """
        if not self.is_rectified:
            raise ValueError("The rig has distortion or rotation; its views must be rectified with rectify() first.")
        if self.stored is not None:
            left, right = self.stored[2:]
        else:
            left = np.hstack([self.left.K, np.zeros((3, 1))])
            right = np.hstack([self.right.K, self.left.K[0, 0] * np.array([[self.T[0]], [0.0], [0.0]])])
        return StereoCalibration.from_projections(left, right, width=self.width, height=self.height)

    def rectify(
        self, alpha: float | None = 0.0, *, size: tuple[int, int] | None = None, fov: float | None = None
    ) -> Rectification:
        """Rectification maps and the calibration of the rectified pair; warns as :meth:`rectifying`.

        Args:
            alpha: 0 keeps pixels with a source alone, 1 keeps every raw pixel (OpenCV's ``alpha``, and ``balance``
                of a fisheye); None takes the rectification that the file itself stores.
            size: (width, height) of the raw images, where the rig does not say.
            fov: horizontal field of view of the rectified views in degrees, in place of ``alpha``.

        Raises:
            ValueError: no size or another one, no stored rectification, ``alpha`` outside [0, 1], a field of view
                outside 10 to 160 degrees, views that are swapped or stacked, or a lens that no plane can show.
        """
        width, height = self._size(size)
        r1, r2, p1, p2 = self.rectifying(alpha, size=size, fov=fov)
        calibration = StereoCalibration.from_projections(p1, p2, width=width, height=height)
        left_map, right_map = lookup(self.left, r1, p1, width, height), lookup(self.right, r2, p2, width, height)
        return Rectification(left_map, right_map, (width, height), calibration)

    def rectifying(
        self, alpha: float | None = 0.0, *, size: tuple[int, int] | None = None, fov: float | None = None
    ) -> Matrices:
        """(R1, R2, P1, P2): what turns each camera, and projects the turned ones; as OpenCV's ``stereoRectify``.

        Where OpenCV's projection is absurd (principal point outside the views, focal length under a quarter or over
        twice the raw one, hardly any pixel with a source), one that keeps the optical axes in place is returned, and a
        warning states its field of view. Arguments and errors as in :meth:`rectify`.
        """
        matrices, sentence = self.solve(alpha, size=size, fov=fov)
        if sentence is not None:
            doubt(sentence)
        return matrices

    def solve(
        self, alpha: float | None = 0.0, *, size: tuple[int, int] | None = None, fov: float | None = None
    ) -> tuple[Matrices, str | None]:
        """What :meth:`rectifying` returns, and its warning; None where nothing is doubtful."""
        width, height = self._size(size)
        cameras = self.left, self.right
        if fov is None and alpha is None:
            if self.stored is None:
                raise ValueError("The rig's file stores no rectification; pass alpha between 0 and 1 to compute one.")
            wrong = faults(cameras, self.stored, width, height)
            told = f"The rectification that the file stores is doubtful: {'; '.join(wrong)}." if wrong else None
            return self.stored, told
        if fov is None and not 0 <= alpha <= 1:  # type: ignore[operator]
            raise ValueError(f"alpha is {alpha}; it must lie in [0, 1]: 0 crops to valid pixels, 1 keeps all.")
        wrong = ["a field of view is asked for"]
        if fov is None:
            matrices = self._solve(alpha or 0.0, width, height)
            wrong = ["OpenCV finds none"] if matrices is None else faults(cameras, matrices, width, height)
            # Swapped and stacked cameras have no rectification at all, and their own sentences.
            if matrices is not None and (not wrong or not self._side_by_side(matrices)):
                return matrices, None
        own = centred(cameras, self.R, self.T, width, height, fov)
        if not self._side_by_side(own):
            return own, None
        left = faults(cameras, own, width, height, stated=fov is not None)
        if left and fov is None:
            raise ValueError(
                f"This rig cannot be rectified to planes: {'; '.join(left)}. Calibrate it again with pairs near the "
                "edges of the image, or with another lens model."
            )
        if fov is not None:
            return own, f"The rectification to {fov:g} degrees is doubtful: {'; '.join(left)}." if left else None
        return own, (
            f"The usual rectification of this rig is unusable ({wrong[0]}); the views are projected with a horizontal "
            f"field of view of {field_of_view(own[2], width):.0f} degrees instead, without what lies beyond."
        )

    def _side_by_side(self, matrices: Matrices) -> bool:
        offset = matrices[3][:, 3]
        return bool(offset[0] < 0 and abs(offset[0]) > abs(offset[1]))

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

    def _solve(self, alpha: float, width: int, height: int) -> Matrices | None:
        """OpenCV's answer; None where it has none."""
        import cv2

        translation = self.T.reshape(3, 1)
        cameras = (self.left.K, self.left.distortion, self.right.K, self.right.distortion)
        flags = cv2.CALIB_ZERO_DISPARITY
        try:
            if self.left.model == "fisheye":
                r1, r2, p1, p2, _ = cv2.fisheye.stereoRectify(
                    *cameras, (width, height), self.R, translation, flags=flags, balance=alpha
                )
            else:
                r1, r2, p1, p2, *_ = cv2.stereoRectify(
                    *cameras, (width, height), self.R, translation, flags=flags, alpha=alpha
                )
        except cv2.error:
            return None
        found = tuple(np.asarray(matrix, dtype=np.float64) for matrix in (r1, r2, p1, p2))
        usable = all(np.isfinite(matrix).all() for matrix in found) and min(p1[0, 0], p1[1, 1]) > 0
        return (found[0], found[1], found[2], found[3]) if usable else None
