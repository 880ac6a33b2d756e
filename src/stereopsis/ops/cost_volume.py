"""L1 cost volumes over candidates and over residuals (AnyNet, section III, B and C)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stereopsis.ops import native, triton


def absolute_volume(
    left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h w"], candidates: int
) -> Float[Tensor, "b d h w"]:
    """L1 distance of left ``x`` and right ``x - d`` for d = 0 … candidates - 1; ``|left|`` where x - d < 0."""
    if triton.usable(left, right) and not native.needs_gradient(left, right):
        from stereopsis.ops.triton.cost_volume import absolute_volume as on_gpu

        return on_gpu(left, right, candidates)
    if native.usable(left, right):
        return _NativeAbsoluteVolume.apply(left.contiguous(), right.contiguous(), candidates)
    return absolute_volume_reference(left, right, candidates)


def absolute_volume_reference(
    left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h w"], candidates: int
) -> Float[Tensor, "b d h w"]:
    """:func:`absolute_volume` in plain torch."""
    width = left.shape[-1]
    return torch.stack(
        [(left - F.pad(right, (d, 0))[..., :width]).abs().sum(1) for d in range(candidates)],
        dim=1,
    )


class _NativeAbsoluteVolume(torch.autograd.Function):
    """The same in C, without a copy of the features for every candidate."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, candidates: int) -> Tensor:
        b, c, h, w = left.shape
        ctx.save_for_backward(left, right)
        ctx.candidates = candidates
        costs = native.empty(b, candidates, h, w)
        native.run("absolute_volume", [left, right, costs], (c, h, w, candidates), b * h)
        return costs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        left, right = ctx.saved_tensors
        b, c, h, w = left.shape
        outs = native.zeros(*left.shape), native.zeros(*right.shape)
        numbers = (c, h, w, ctx.candidates)
        native.run("absolute_volume_backward", [left, right, grads[0].contiguous(), *outs], numbers, b * h)
        return *outs, None


def residual_volume(
    left: Float[Tensor, "b c h w"],
    right: Float[Tensor, "b c h w"],
    disparity: Float[Tensor, "b 1 h w"],
    radius: int,
) -> Float[Tensor, "b s h w"]:
    """L1 distance of left ``x`` and right ``x - (d + s)`` for the residuals s = -radius … radius.

    Args:
        disparity: the map to correct, in pixels of these features; not finite values count as 0 or the far end.

    Returns:
        Costs; the right features are interpolated linearly between columns and are 0 outside the image.
    """
    if triton.usable(left, right, disparity) and not native.needs_gradient(left, right, disparity):
        from stereopsis.ops.triton.cost_volume import residual_volume as on_gpu

        return on_gpu(left, right, disparity, radius)
    if native.usable(left, right, disparity):
        return _NativeResidualVolume.apply(left.contiguous(), right.contiguous(), disparity.contiguous(), radius)
    return residual_volume_reference(left, right, disparity, radius)


def residual_volume_reference(
    left: Float[Tensor, "b c h w"],
    right: Float[Tensor, "b c h w"],
    disparity: Float[Tensor, "b 1 h w"],
    radius: int,
) -> Float[Tensor, "b s h w"]:
    """:func:`residual_volume` in plain torch."""
    channels, width = right.shape[1], right.shape[-1]
    columns = torch.arange(width, device=right.device, dtype=disparity.dtype)
    position = torch.nan_to_num(columns - disparity)
    whole = position.detach().floor()
    fraction = position - whole
    # all residuals share the fraction: 2 radius + 2 neighbouring columns serve the 2 radius + 1 of them
    margin = 2 * radius + 2
    padded = F.pad(right, (margin, margin))
    first = whole.clamp(-(radius + 2), width + radius).long() + margin
    taps = [padded.gather(3, (first + offset).expand(-1, channels, -1, -1)) for offset in range(-radius, radius + 2)]
    warped = [near + fraction * (far - near) for near, far in pairwise(taps)]
    # a larger residual lies further left
    return torch.stack([(left - view).abs().sum(1) for view in reversed(warped)], dim=1)


class _NativeResidualVolume(torch.autograd.Function):
    """The same in C: each neighbouring column is read once for all residuals."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, disparity: Tensor, radius: int) -> Tensor:
        b, c, h, w = left.shape
        ctx.save_for_backward(left, right, disparity)
        ctx.radius = radius
        costs = native.empty(b, 2 * radius + 1, h, w)
        native.run("residual_volume", [left, right, disparity, costs], (c, h, w, radius), b * h)
        return costs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        left, right, disparity = ctx.saved_tensors
        b, c, h, w = left.shape
        outs = native.zeros(*left.shape), native.zeros(*right.shape), native.empty(*disparity.shape)
        tensors = [left, right, disparity, grads[0].contiguous(), *outs]
        native.run("residual_volume_backward", tensors, (c, h, w, ctx.radius), b * h)
        return *outs, None
