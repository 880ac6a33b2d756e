"""The L1 cost volumes of ops/cost_volume.py, which holds the references, on a GPU; for inference."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

PIXELS, CANDIDATES = 64, 16  # that a program takes at once
LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def _absolute_volume(
    left: tl.tensor,
    right: tl.tensor,
    costs: tl.tensor,
    channels: int,
    height: int,
    width: int,
    candidates: int,
    D: tl.constexpr,
    X: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)  # of the flattened (batch, height)
    sample, y = row // height, row % height
    x = tl.program_id(1) * X + tl.arange(0, X)
    d = tl.program_id(2) * D + tl.arange(0, D)
    inside = x < width
    column = x[None, :] - d[:, None]
    partner = inside[None, :] & (column >= 0)
    cost = tl.zeros((D, X), tl.float32)
    for channel in range(channels):
        line = ((sample * channels + channel) * height + y) * width
        own = tl.load(left + line + x, mask=inside, other=0.0).to(tl.float32)
        other = tl.load(right + line + column, mask=partner, other=0.0).to(tl.float32)
        cost += tl.abs(own[None, :] - other)
    place = ((sample * candidates + d[:, None]) * height + y) * width + x[None, :]
    tl.store(costs + place, cost, mask=inside[None, :] & (d < candidates)[:, None])


def absolute_volume(
    left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h w"], candidates: int
) -> Float[Tensor, "b d h w"]:
    """:func:`stereopsis.ops.cost_volume.absolute_volume` without gradients; sums are float32."""
    b, c, h, w = left.shape
    left, right = left.contiguous(), right.contiguous()
    costs = torch.empty(b, candidates, h, w, device=left.device, dtype=torch.promote_types(left.dtype, right.dtype))
    with torch.cuda.device_of(left):
        _absolute_volume[b * h, triton.cdiv(w, PIXELS), triton.cdiv(candidates, CANDIDATES)](
            left, right, costs, c, h, w, candidates, CANDIDATES, PIXELS
        )
    return costs


@triton.jit
def _residual_volume(
    left: tl.tensor,
    right: tl.tensor,
    disparity: tl.tensor,
    costs: tl.tensor,
    channels: int,
    height: int,
    width: int,
    radius: int,
    S: tl.constexpr,
    X: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    sample, y = row // height, row % height
    x = tl.program_id(1) * X + tl.arange(0, X)
    inside = x < width
    position = x - tl.load(disparity + row * width + x, mask=inside, other=0.0).to(tl.float32)
    position = tl.where(position == position, position, 0.0)
    position = tl.minimum(tl.maximum(position, -LARGEST), LARGEST)
    whole = tl.floor(position)
    fraction = (position - whole)[None, :]
    index = tl.arange(0, S)
    # clamped before it becomes an integer, so that no disparity is too large for one
    low = tl.minimum(tl.maximum(whole, -2.0 - radius), radius + width + 0.0).to(tl.int32)
    column = low[None, :] - (index - radius)[:, None]
    has_near = inside[None, :] & (column >= 0) & (column < width)
    has_far = inside[None, :] & (column >= -1) & (column < width - 1)
    cost = tl.zeros((S, X), tl.float32)
    for channel in range(channels):
        line = ((sample * channels + channel) * height + y) * width
        own = tl.load(left + line + x, mask=inside, other=0.0).to(tl.float32)
        near = tl.load(right + line + column, mask=has_near, other=0.0).to(tl.float32)
        far = tl.load(right + line + column + 1, mask=has_far, other=0.0).to(tl.float32)
        cost += tl.abs(own[None, :] - (near + fraction * (far - near)))
    residuals = 2 * radius + 1
    place = ((sample * residuals + index[:, None]) * height + y) * width + x[None, :]
    tl.store(costs + place, cost, mask=inside[None, :] & (index < residuals)[:, None])


def residual_volume(
    left: Float[Tensor, "b c h w"],
    right: Float[Tensor, "b c h w"],
    disparity: Float[Tensor, "b 1 h w"],
    radius: int,
) -> Float[Tensor, "b s h w"]:
    """:func:`stereopsis.ops.cost_volume.residual_volume` without gradients; sums are float32."""
    b, c, h, w = left.shape
    residuals = 2 * radius + 1
    dtype = torch.promote_types(torch.promote_types(left.dtype, right.dtype), disparity.dtype)
    left, right, disparity = left.contiguous(), right.contiguous(), disparity.contiguous()
    costs = torch.empty(b, residuals, h, w, device=left.device, dtype=dtype)
    with torch.cuda.device_of(left):
        _residual_volume[b * h, triton.cdiv(w, PIXELS)](
            left, right, disparity, costs, c, h, w, radius, triton.next_power_of_2(residuals), PIXELS
        )
    return costs
