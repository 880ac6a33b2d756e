"""The values that travel between the parts of the package: pairs, disparity, depth and points.

Conventions (``docs/conventions.md``): images are RGB float32 in [0, 1]; disparity is positive and in pixels of the
input width, left ``x`` matches right ``x - d``; depth is in metres along Z; a boolean ``valid`` travels with every map
and the value is 0 where it is False; confidence lies in [0, 1], high is good.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

if TYPE_CHECKING:
    from stereopsis.calibration import StereoCalibration


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
        if self.left.shape != self.right.shape:
            raise ValueError(
                f"left is {tuple(self.left.shape)} and right is {tuple(self.right.shape)}; "
                "the two views of a rectified pair must have the same size and channels."
            )

    def to(self, device: torch.device | str) -> StereoPair:
        return replace(self, left=self.left.to(device), right=self.right.to(device))


@dataclass(frozen=True)
class Disparity:
    """What matching returns.

    Attributes:
        disparity: pixels of the input width, positive, 0 where not valid.
        valid: where the value may be used.
        confidence: in [0, 1], high is good.
    """

    disparity: Float[Tensor, "b 1 h w"]
    valid: Bool[Tensor, "b 1 h w"]
    confidence: Float[Tensor, "b 1 h w"]

    def to(self, device: torch.device | str) -> Disparity:
        return Disparity(self.disparity.to(device), self.valid.to(device), self.confidence.to(device))


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
