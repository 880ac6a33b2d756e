"""OpenCV's classical matchers behind the interface of the networks: what a user would pick instead.

Semi-global matching: H. Hirschmueller, "Stereo Processing by Semiglobal Matching and Mutual Information", TPAMI 2008.
OpenCV's version differs from the paper: the cost is Birchfield-Tomasi over a block instead of mutual information, and
the default mode looks along three directions instead of eight.

Both run on the CPU on 8-bit images; the result returns to the device of the input. There is no gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from stereopsis.ops.images import check_views, quantized
from stereopsis.types import Disparity
from stereopsis.zoo.registry import register

SGMMode = Literal["3way", "hh", "5dir"]

_GRANULE = 16  # OpenCV searches multiples of 16 disparities and returns sixteenths of a pixel
_SMALL_MEMORY = 16_000_000  # pixels of a view that take 2 GB at most
_LARGEST = 2032  # above it, sixteenths plus the mark for "no match" leave 16 bits


@dataclass(frozen=True)
class SGMConfig:
    """Settings of semi-global matching.

    Attributes:
        mode: ``3way`` (fast), ``hh`` (8 directions, two passes, much memory) or ``5dir`` (OpenCV's plain mode).
        block_size: side of the matched block in pixels, odd.
        p1: penalty of a step of one disparity.
        p2: penalty of a larger step, above ``p1``.
        uniqueness_ratio: percent by which the best cost must beat the second.
        speckle_window_size: regions up to this many pixels are removed.
        speckle_range: disparity step inside a region, in pixels.
        left_right_difference: largest disagreement of the two views, in pixels.
    """

    mode: SGMMode = "3way"
    block_size: int = 5
    p1: int = 600
    p2: int = 2400
    uniqueness_ratio: int = 10
    speckle_window_size: int = 100
    speckle_range: int = 2
    left_right_difference: int = 1


@dataclass(frozen=True)
class BlockMatchingConfig:
    """Settings of block matching; see :class:`SGMConfig` for those of the same name.

    Attributes:
        texture_threshold: blocks with less texture have no match.
    """

    block_size: int = 15
    texture_threshold: int = 10
    uniqueness_ratio: int = 10
    speckle_window_size: int = 100
    speckle_range: int = 2
    left_right_difference: int = 1


class _OpenCVMatcher(nn.Module, ABC):
    """What the two matchers share: conversion, padding and the marks of OpenCV's output."""

    grey: bool
    max_disparity = 192  # where a call gives none

    @abstractmethod
    def _matcher(self, disparities: int) -> Any:
        """OpenCV's object for that many disparities."""

    @torch.no_grad()
    def forward(
        self, left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h w"], max_disparity: int | None = None
    ) -> Disparity:
        """Match a batch of rectified pairs.

        Args:
            left, right: RGB or one-channel images in [0, 1].
            max_disparity: largest disparity searched in pixels, 192 if not given, rounded up to a multiple of 16.

        Returns:
            Disparity in pixels (float32); 0 and not valid where OpenCV found no match. OpenCV gives no measure of
            certainty, so the confidence is 1 where valid and 0 elsewhere.

        Raises:
            ValueError: the views differ in size, have another number of channels or values that are not finite, or
                ``max_disparity`` is out of range.
        """
        max_disparity = self.max_disparity if max_disparity is None else max_disparity
        _check(left, right, max_disparity)
        disparities = -(-max_disparity // _GRANULE) * _GRANULE
        matcher = self._matcher(disparities)
        maps = [
            self._match_one(matcher, one_left, one_right, disparities)
            for one_left, one_right in zip(_to_uint8(left), _to_uint8(right), strict=True)
        ]
        disparity = torch.from_numpy(np.stack(maps)[:, None]).to(left.device)
        # Zero is a point at infinity, and in practice a mismatch on the replicated border.
        valid = disparity > 0
        return Disparity(torch.where(valid, disparity, 0.0), valid, valid.float())

    def _match_one(self, matcher: Any, left: np.ndarray, right: np.ndarray, disparities: int) -> np.ndarray:
        import cv2

        height, width = left.shape[:2]
        rows, columns = self._margin(width)
        views = []
        for view in (left, right):
            # OpenCV gives no value to the first `disparities` columns; replicated ones in their place mend that.
            view = cv2.copyMakeBorder(view, rows, rows, disparities, columns, cv2.BORDER_REPLICATE)
            views.append(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY) if self.grey and view.ndim == 3 else view)
        sixteenths = matcher.compute(views[0], views[1])
        return sixteenths[rows : rows + height, disparities : disparities + width].astype(np.float32) / 16

    @abstractmethod
    def _margin(self, width: int) -> tuple[int, int]:
        """Rows to add above and below, and columns on the right."""


class SemiGlobalMatching(_OpenCVMatcher):
    """OpenCV's StereoSGBM on colour images."""

    grey = False

    def __init__(self, config: SGMConfig | None = None) -> None:
        super().__init__()
        self.config = config or SGMConfig()
        if self.config.mode == "3way":
            self.largest_view = _SMALL_MEMORY  # the other modes keep the costs of all disparities

    def _matcher(self, disparities: int) -> Any:
        import cv2

        modes = {
            "3way": cv2.STEREO_SGBM_MODE_SGBM_3WAY,
            "hh": cv2.STEREO_SGBM_MODE_HH,
            "5dir": cv2.STEREO_SGBM_MODE_SGBM,
        }
        return cv2.StereoSGBM.create(
            minDisparity=0,
            numDisparities=disparities,
            blockSize=self.config.block_size,
            P1=self.config.p1,
            P2=self.config.p2,
            disp12MaxDiff=self.config.left_right_difference,
            uniquenessRatio=self.config.uniqueness_ratio,
            speckleWindowSize=self.config.speckle_window_size,
            speckleRange=self.config.speckle_range,
            mode=modes[self.config.mode],
        )

    def _margin(self, width: int) -> tuple[int, int]:
        return 0, max(0, self.config.block_size - width)  # OpenCV refuses one or two columns


class BlockMatching(_OpenCVMatcher):
    """OpenCV's StereoBM on grey images: the fastest and the least dense."""

    grey = True
    largest_view = _SMALL_MEMORY

    def __init__(self, config: BlockMatchingConfig | None = None) -> None:
        super().__init__()
        self.config = config or BlockMatchingConfig()

    def _matcher(self, disparities: int) -> Any:
        import cv2

        matcher = cv2.StereoBM.create(numDisparities=disparities, blockSize=self.config.block_size)
        matcher.setTextureThreshold(self.config.texture_threshold)
        matcher.setUniquenessRatio(self.config.uniqueness_ratio)
        matcher.setSpeckleWindowSize(self.config.speckle_window_size)
        matcher.setSpeckleRange(self.config.speckle_range)
        matcher.setDisp12MaxDiff(self.config.left_right_difference)
        return matcher

    def _margin(self, width: int) -> tuple[int, int]:
        # OpenCV matches only where the whole block fits, and refuses an image that is not larger than the block.
        reach = self.config.block_size // 2 + 1
        return reach, reach


def _check(left: Tensor, right: Tensor, max_disparity: int) -> None:
    if left.ndim != 4 or left.shape[1] not in (1, 3):
        raise ValueError(f"left is {tuple(left.shape)}; images must be (B, 3, H, W) or (B, 1, H, W).")
    check_views(left, right)
    if not 0 < max_disparity <= _LARGEST:
        raise ValueError(f"max_disparity is {max_disparity}; choose a number from 1 to {_LARGEST} pixels.")
    if not (torch.isfinite(left).all() and torch.isfinite(right).all()):
        raise ValueError("an image has NaN or infinite values; replace them before matching.")


def _to_uint8(images: Tensor) -> np.ndarray:
    """``(B, C, H, W)`` in [0, 1] to ``(B, H, W, 3)``, or ``(B, H, W)`` for one channel."""
    pixels = quantized(images).permute(0, 2, 3, 1).cpu().numpy()
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


register(
    "sgbm",
    family="matching",
    architecture="sgbm",
    build=SemiGlobalMatching,
    description="OpenCV semi-global matching, 3 directions",
    needs_weights=False,
)
register(
    "sgbm-hh",
    family="matching",
    architecture="sgbm",
    build=lambda: SemiGlobalMatching(SGMConfig(mode="hh")),
    description="OpenCV semi-global matching, 8 directions",
    config=SGMConfig(mode="hh"),
    needs_weights=False,
)
register(
    "bm",
    family="matching",
    architecture="bm",
    build=BlockMatching,
    description="OpenCV block matching on grey images",
    needs_weights=False,
)
