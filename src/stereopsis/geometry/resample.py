"""Sizes of maps: reducing as protocols and sensors do, enlarging beside holes, filling holes smoothly.

Outer edges map onto outer edges, whatever the ratio (``docs/conventions.md``).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from stereopsis.types import Depth

Enlargement = Literal["bicubic", "nearest"]
Reduction = Literal["bicubic", "bilinear", "area", "cubic", "nearest", "every"]
_REDUCTIONS: dict[Reduction, tuple[str, bool]] = {
    "bicubic": ("bicubic", True),
    "bilinear": ("bilinear", True),
    "area": ("area", False),
    "cubic": ("bicubic", False),
    "nearest": ("nearest-exact", False),
    "every": ("nearest", False),
}


def reduce(depth: Float[Tensor, "b c H W"], scale: float, how: Reduction = "bicubic") -> Float[Tensor, "b c h w"]:
    """A dense map at 1/scale of its size, at least 1 x 1.

    Args:
        how: "bicubic" and "bilinear" widen their kernel by the scale (Pillow; the protocol of the papers); "area" is
            the mean of what a pixel covers; "cubic" reads 4 x 4 pixels whatever the scale (OpenCV); "nearest" takes the
            pixel in the middle, and "every" the top left one, which moves the map by half a small pixel.

    Raises:
        ValueError: the scale is below 1.
    """
    if not scale >= 1:
        raise ValueError(f"scale is {scale:g}; it must be at least 1, for example 8.")
    height, width = (max(round(side / scale), 1) for side in depth.shape[-2:])
    return resize(depth, (height, width), how)


def resize(depth: Tensor, size: tuple[int, int], how: Reduction) -> Tensor:
    """Dense maps or images at ``size`` (height, width), with one of the filters of :func:`reduce`."""
    mode, antialias = _REDUCTIONS[how]
    return F.interpolate(depth, size=size, mode=mode, antialias=antialias)


def enlarge(depth: Depth, size: tuple[int, int], how: Enlargement = "bicubic") -> Depth:
    """A small map at the image's size, with the same holes.

    Bicubic as Pillow does it (a = -0.5): the networks have learnt to undo this filter. It reads holes filled from their
    surroundings, so that what they held never shows, and a pixel is valid where the nearest one of the small map is.

    Args:
        size: (height, width) of the result.
    """
    valid = F.interpolate(depth.valid.float(), size=size, mode="nearest-exact") > 0
    if how == "nearest":
        large = F.interpolate(depth.depth, size=size, mode="nearest-exact")
    else:
        filled = fill_smooth(depth.depth, depth.valid)
        # with antialias, because it is that code which has Pillow's coefficient
        large = F.interpolate(filled, size=size, mode="bicubic", antialias=True)
    return Depth(torch.where(valid, large, 0.0), valid)


def fill_smooth(values: Float[Tensor, "b c h w"], valid: Bool[Tensor, "b 1|c h w"]) -> Float[Tensor, "b c h w"]:
    """Holes filled smoothly from what lies around them (push-pull over a pyramid); 0 where nothing is valid."""
    if valid.all():
        return values
    known = valid.expand_as(values)
    sums, counts = torch.where(known, values, 0.0), known.to(values.dtype)
    pyramid = [(sums, counts)]
    while max(sums.shape[-2:]) > 1 and not counts.gt(0).all():
        sums, counts = (F.avg_pool2d(t, 2, ceil_mode=True, count_include_pad=False) for t in (sums, counts))
        pyramid.append((sums, counts))
    filled = torch.zeros_like(sums)
    for sums, counts in reversed(pyramid):
        filled = F.interpolate(filled, size=sums.shape[-2:], mode="bilinear", align_corners=False)
        filled = torch.where(counts > 0, sums / torch.where(counts > 0, counts, 1.0), filled)
    return filled
