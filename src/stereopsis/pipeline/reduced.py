"""Matching of reduced views, whose map an upsampler brings back to full size."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.matching.tiling import search_range
from stereopsis.types import Depth, Disparity
from stereopsis.upsampling.upsample import upsample


class ReducedMatcher(nn.Module):
    """A matcher that looks at small views, and an upsampler that brings its map back under the left one.

    Args:
        matcher: of the family "matching".
        upsampler: of the family "upsampling"; it sees disparity, which it takes like depth.
        scale: of the reduction, above 1.

    Raises:
        ValueError: the scale is not above 1.
    """

    def __init__(self, matcher: nn.Module, upsampler: nn.Module, scale: float) -> None:
        super().__init__()
        if not scale > 1:
            raise ValueError(f"scale is {scale:g}; it must be above 1, for example 4.")
        self.matcher, self.upsampler, self.scale = matcher, upsampler, scale

    @property
    def max_disparity(self) -> int | None:
        """Largest disparity of the full views that the matcher searches by itself; None where it does not say."""
        reach = search_range(self.matcher)
        return None if reach is None else math.ceil(reach * self.scale)

    def forward(self, left: Tensor, right: Tensor, max_disparity: int | None = None) -> Disparity:
        """Disparity of the left view, at its size and in its pixels; arguments as of the matcher."""
        return self.enlarge(self.reduced(left, right, max_disparity), left)

    def reduced(self, left: Tensor, right: Tensor, max_disparity: int | None = None) -> Disparity:
        """Disparity of the small left view, in its pixels."""
        height, width = left.shape[-2:]
        size = math.ceil(height / self.scale), math.ceil(width / self.scale)
        views = (F.interpolate(view, size=size, mode="bilinear", antialias=True) for view in (left, right))
        options = {} if max_disparity is None else {"max_disparity": math.ceil(max_disparity / self.scale)}
        found: Disparity = self.matcher(*views, **options)
        return found

    def enlarge(self, small: Disparity, left: Tensor) -> Disparity:
        """What :meth:`reduced` found, at the size and in pixels of the left view."""
        height, width = left.shape[-2:]
        ratio = width / small.disparity.shape[-1]
        found = upsample(self.upsampler, left, Depth(small.disparity * ratio, small.valid))
        valid = found.valid & (found.depth >= 0)
        confidence = F.interpolate(small.confidence, size=(height, width), mode="bilinear")
        return Disparity(torch.where(valid, found.depth, 0.0), valid, confidence * valid)
