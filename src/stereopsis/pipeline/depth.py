"""From two rectified views and their calibration to metric depth: the one place where a pair becomes metres."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from stereopsis.geometry import disparity_to_depth, unproject
from stereopsis.pipeline import match as matching
from stereopsis.types import Depth, Disparity, PointCloud, StereoCalibration
from stereopsis.zoo.registry import load


@dataclass(frozen=True, eq=False)
class StereoDepth:
    """Disparity and metric depth of the left view of a pair, on the CPU.

    Attributes:
        left: the left view as it was matched, in [0, 1].
        calibration: of the rectified views.
        disparity: pixels; not valid where the left view shows nothing.
        depth: metres.
        seconds: duration of matching.
    """

    left: Float[Tensor, "1 c h w"]
    calibration: StereoCalibration
    disparity: Disparity
    depth: Depth
    seconds: float

    def cloud(self, valid: Bool[Tensor, "1 1 h w"] | None = None) -> PointCloud:
        """The coloured points of the valid pixels, or of those in ``valid``."""
        depth = self.depth if valid is None else Depth(self.depth.depth, self.depth.valid & valid)
        return unproject(depth, self.calibration, self.left)


def stereo_depth(
    left: matching.View,
    right: matching.View,
    calibration: StereoCalibration,
    *,
    model: str | nn.Module = "hitnet.scenes",
    shown: Bool[Tensor, "*one h w"] | None = None,
    max_disparity: int | None = None,
    check: float | None = None,
    fill: bool = False,
    tile: int | None = None,
    allow_empty: bool = False,
) -> StereoDepth:
    """Match a rectified pair and convert its disparity to metric depth.

    Args:
        left, right: views of one pair, as in :func:`stereopsis.match`.
        calibration: of these views.
        model: a name of :func:`~stereopsis.zoo.list_models`, or a loaded model.
        shown: pixels of the left view that show something, as
            :attr:`~stereopsis.calibration.rectification.RectifiedPair.valid` states; all if not given.
        max_disparity: largest disparity searched in pixels; by default that of the calibration or of the model.
        check, fill, tile: as in :func:`stereopsis.match`.
        allow_empty: return a map without a valid pixel instead of raising ValueError.

    Raises:
        ValueError: the views and the calibration differ in size, or no pixel has a depth; or as
            :func:`stereopsis.match`.
    """
    network = load(model) if isinstance(model, str) else model
    start = time.perf_counter()
    views = matching.as_pair(left, right)
    limit = search_limit(max_disparity, calibration)
    found = matching.match_images(network, *views, max_disparity=limit, check=check, fill=fill, tile=tile)
    found = found.to("cpu")  # the copy waits for a GPU
    seconds = time.perf_counter() - start
    disparity = only_shown(found, shown)
    return StereoDepth(views[0], calibration, disparity, metric_depth(disparity, calibration, allow_empty), seconds)


def search_limit(max_disparity: int | None, calibration: StereoCalibration | None) -> int | None:
    """Largest disparity to search in pixels: the given one, or that of the calibration; None leaves it to the model."""
    if max_disparity is not None or calibration is None:
        return max_disparity
    return calibration.ndisp


def only_shown(disparity: Disparity, shown: Bool[Tensor, "*one h w"] | None) -> Disparity:
    """The disparity of the pixels that show something, and of no others."""
    if shown is None:
        return disparity
    valid = disparity.valid & shown
    return Disparity(torch.where(valid, disparity.disparity, 0.0), valid, disparity.confidence, disparity.stage)


def metric_depth(disparity: Disparity, calibration: StereoCalibration, allow_empty: bool = False) -> Depth:
    """Metric depth of a disparity map, which must have a depth somewhere.

    Raises:
        ValueError: no pixel has a depth, unless ``allow_empty``; or as :func:`~stereopsis.geometry.disparity_to_depth`.
    """
    depth = disparity_to_depth(disparity, calibration)
    if not (allow_empty or depth.valid.any()):
        raise ValueError(f"No pixel has a depth with an offset of {calibration.doffs:g} px; check the calibration.")
    return depth
