"""One raw camera: intrinsics, distortion and lens model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

Model = Literal["pinhole", "fisheye"]

# OpenCV's pinhole model takes these many coefficients (k1 k2 p1 p2 [k3 [k4 k5 k6 [s1..s4 [tx ty]]]]).
PINHOLE_COEFFICIENTS = (0, 4, 5, 8, 12, 14)


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
        # Copies in one piece: OpenCV refuses views of larger arrays, and a caller may go on to change its own.
        object.__setattr__(self, "K", owned(self.K).reshape(3, 3))
        object.__setattr__(self, "distortion", owned(self.distortion).ravel())
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


def owned(value: Any) -> Float64[np.ndarray, ...]:
    """A copy in one piece, which no caller changes."""
    return np.array(value, dtype=np.float64, order="C")
