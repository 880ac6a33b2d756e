"""Bilinear enlargement of small maps, and what happens to the large ones in the same pass over memory."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from stereopsis.ops import native

Size = tuple[int, int] | torch.Size


def enlarge(
    x: Float[Tensor, "b c h w"],
    size: Size,
    *,
    base: Float[Tensor, "b c H W"] | None = None,
    align_corners: bool = False,
) -> Float[Tensor, "b c H W"]:
    """The map at another size by bilinear interpolation, added to ``base``.

    The kernel in C is for inference: it has no gradients.
    """
    tensors = [x] if base is None else [x, base]
    if not native.usable(*tensors) or native.needs_gradient(*tensors):
        return enlarge_reference(x, size, base=base, align_corners=align_corners)
    b, c, h, w = x.shape
    rows, columns = size
    x, base = x.contiguous(), None if base is None else base.contiguous().view(b * c, rows, columns)
    out = native.empty(b, c, rows, columns)
    native.run(
        "enlarge",
        [x.view(b * c, h, w), base, out.view(b * c, rows, columns)],
        (h, w, rows, columns, align_corners),
        b * c * rows,
    )
    return out


def enlarge_reference(
    x: Float[Tensor, "b c h w"],
    size: Size,
    *,
    base: Float[Tensor, "b c H W"] | None = None,
    align_corners: bool = False,
) -> Float[Tensor, "b c H W"]:
    """:func:`enlarge` in plain torch."""
    large = F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)
    return large if base is None else base + large


def finished_map(
    disparity: Float[Tensor, "b 1 H W"], confidence: Float[Tensor, "b 1 h w"], corner: tuple[int, int], size: Size
) -> tuple[Float[Tensor, "b 1 _ _"], Bool[Tensor, "b 1 _ _"], Float[Tensor, "b 1 _ _"]]:
    """What a caller gets of a map: the part of this size below and right of a corner.

    Returns:
        The disparities, not negative and 0 where they are not finite; where they are finite; and the confidence,
        enlarged to the map's size, 0 where they are not.
    """
    if not native.usable(disparity, confidence) or native.needs_gradient(disparity, confidence):
        return finished_map_reference(disparity, confidence, corner, size)
    shape = (disparity.shape[0], 1, *size)
    disparity, confidence = disparity.contiguous(), confidence.contiguous()
    out, valid, sure = native.empty(*shape), native.empty(*shape, dtype=torch.bool), native.empty(*shape)
    numbers = (*confidence.shape[-2:], *disparity.shape[-2:], *corner, *size)
    native.run("finished_map", [disparity, confidence, out, valid, sure], numbers, shape[0] * size[0])
    return out, valid, sure


def finished_map_reference(
    disparity: Float[Tensor, "b 1 H W"], confidence: Float[Tensor, "b 1 h w"], corner: tuple[int, int], size: Size
) -> tuple[Float[Tensor, "b 1 _ _"], Bool[Tensor, "b 1 _ _"], Float[Tensor, "b 1 _ _"]]:
    """:func:`finished_map` in plain torch."""
    inner = (..., slice(corner[0], corner[0] + size[0]), slice(corner[1], corner[1] + size[1]))
    sure = enlarge_reference(confidence, disparity.shape[-2:])[inner]
    disparity = disparity[inner]
    valid = disparity.isfinite()
    return disparity.nan_to_num(0.0, 0.0, 0.0).clamp(min=0), valid, torch.where(valid, sure, 0.0)
