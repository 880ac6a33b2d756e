"""Costs around slanted tiles of ops/tile_warp.py, which holds the reference, on a GPU.

Features are channels last, so that a sample is one run of memory; the three disparities of a pixel share four samples.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from stereopsis.ops.native import channels_last

TILE = tl.constexpr(4)
KINDS = tl.constexpr(4)
PIXELS, CHANNELS = 32, 16  # that a program takes at once


@triton.jit
def _columns(disparity: tl.tensor, row: int, column: int, width: int) -> tuple[tl.tensor, tl.tensor]:
    """Where a pixel's match lies: the column to its left, and the weight of the one to its right."""
    d = tl.load(disparity + row * width + column, mask=column < width, other=0.0).to(tl.float32)
    position = column - d
    whole = tl.floor(position)
    # clamped before it becomes an integer, so that no disparity is too large for one
    return tl.minimum(tl.maximum(whole, -2.0), width + 0.0).to(tl.int32), position - whole


@triton.jit
def _sample(right: tl.tensor, column: tl.tensor, channel: tl.tensor, width: int, channels: int) -> tl.tensor:
    """(pixels, channels) of a row at columns, of which the outermost stand for those beyond."""
    inner = tl.minimum(tl.maximum(column, 0), width - 1)
    return tl.load(
        right + inner[:, None] * channels + channel[None, :], mask=(channel < channels)[None, :], other=0.0
    ).to(tl.float32)


@triton.jit
def _place(row: int, column: int, width: int) -> tl.tensor:
    """Of a pixel's first cost in (batch, tile rows, tile columns, row, column, kind)."""
    tile = row // TILE * (width // TILE) + column // TILE
    return (tile * TILE + row % TILE) * (TILE * KINDS) + column % TILE * KINDS


@triton.jit
def _tile_warp_cost(
    left: tl.tensor,
    right: tl.tensor,
    disparity: tl.tensor,
    costs: tl.tensor,
    width: int,
    channels: int,
    X: tl.constexpr,
    C: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)  # of the flattened (batch, height)
    column = tl.program_id(1) * X + tl.arange(0, X)
    inside = column < width
    low, weight = _columns(disparity, row, column, width)
    weight = weight[:, None]
    left += row * width * channels
    right += row * width * channels
    norm = tl.zeros((X,), tl.float32)
    less = tl.zeros((X,), tl.float32)
    same = tl.zeros((X,), tl.float32)
    more = tl.zeros((X,), tl.float32)
    for first in range(0, channels, C):
        channel = first + tl.arange(0, C)
        used = inside[:, None] & (channel < channels)[None, :]
        own = tl.load(left + column[:, None] * channels + channel[None, :], mask=used, other=0.0).to(tl.float32)
        s0 = _sample(right, low - 1, channel, width, channels)
        s1 = _sample(right, low, channel, width, channels)
        s2 = _sample(right, low + 1, channel, width, channels)
        s3 = _sample(right, low + 2, channel, width, channels)
        norm += tl.sum(tl.abs(own), axis=1)
        less += tl.sum(tl.abs(own - (s2 + weight * (s3 - s2))), axis=1)
        same += tl.sum(tl.abs(own - (s1 + weight * (s2 - s1))), axis=1)
        more += tl.sum(tl.abs(own - (s0 + weight * (s1 - s0))), axis=1)
    place = _place(row, column, width)
    tl.store(costs + place, norm, mask=inside)
    tl.store(costs + place + 1, less, mask=inside)
    tl.store(costs + place + 2, same, mask=inside)
    tl.store(costs + place + 3, more, mask=inside)


@triton.jit
def _sign(x: tl.tensor) -> tl.tensor:
    return (x > 0).to(tl.float32) - (x < 0).to(tl.float32)


@triton.jit
def _add(
    right: tl.tensor,
    value: tl.tensor,
    column: tl.tensor,
    channel: tl.tensor,
    used: tl.tensor,
    width: int,
    channels: int,
) -> None:
    inner = tl.minimum(tl.maximum(column, 0), width - 1)
    tl.atomic_add(right + inner[:, None] * channels + channel[None, :], value, mask=used, sem="relaxed")


@triton.jit
def _tile_warp_cost_backward(
    left: tl.tensor,
    right: tl.tensor,
    disparity: tl.tensor,
    grad: tl.tensor,
    grad_left: tl.tensor,
    grad_right: tl.tensor,
    grad_disparity: tl.tensor,
    width: int,
    channels: int,
    X: tl.constexpr,
    C: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * X + tl.arange(0, X)
    inside = column < width
    low, weight = _columns(disparity, row, column, width)
    weight = weight[:, None]
    place = _place(row, column, width)
    norm = tl.load(grad + place, mask=inside, other=0.0)[:, None]
    less = tl.load(grad + place + 1, mask=inside, other=0.0)[:, None]
    same = tl.load(grad + place + 2, mask=inside, other=0.0)[:, None]
    more = tl.load(grad + place + 3, mask=inside, other=0.0)[:, None]
    left += row * width * channels
    right += row * width * channels
    grad_left += row * width * channels
    grad_right += row * width * channels
    slope = tl.zeros((X,), tl.float32)
    for first in range(0, channels, C):
        channel = first + tl.arange(0, C)
        used = inside[:, None] & (channel < channels)[None, :]
        own = tl.load(left + column[:, None] * channels + channel[None, :], mask=used, other=0.0).to(tl.float32)
        s0 = _sample(right, low - 1, channel, width, channels)
        s1 = _sample(right, low, channel, width, channels)
        s2 = _sample(right, low + 1, channel, width, channels)
        s3 = _sample(right, low + 2, channel, width, channels)
        g_less = less * _sign(own - (s2 + weight * (s3 - s2)))
        g_same = same * _sign(own - (s1 + weight * (s2 - s1)))
        g_more = more * _sign(own - (s0 + weight * (s1 - s0)))
        grad_own = norm * _sign(own) + g_less + g_same + g_more
        tl.store(grad_left + column[:, None] * channels + channel[None, :], grad_own, mask=used)
        _add(grad_right, (weight - 1) * g_more, low - 1, channel, used, width, channels)
        _add(grad_right, (weight - 1) * g_same - weight * g_more, low, channel, used, width, channels)
        _add(grad_right, (weight - 1) * g_less - weight * g_same, low + 1, channel, used, width, channels)
        _add(grad_right, -weight * g_less, low + 2, channel, used, width, channels)
        slope += tl.sum(g_less * (s3 - s2) + g_same * (s2 - s1) + g_more * (s1 - s0), axis=1)
    tl.store(grad_disparity + row * width + column, slope, mask=inside)


class TileWarpCost(torch.autograd.Function):
    """:func:`stereopsis.ops.tile_warp.tile_warp_cost` in float32, whatever the features are.

    The gradient of the right features is added up by atomics, in any order.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, disparity: Tensor) -> Float[Tensor, "b 64 th tw"]:
        b, c, h, w = left.shape
        left, right, disparity = channels_last(left), channels_last(right), disparity.contiguous()
        ctx.save_for_backward(left, right, disparity)
        costs = torch.empty(b, h // 4, w // 4, 64, device=left.device, dtype=torch.float32)
        with torch.cuda.device_of(left):
            _tile_warp_cost[b * h, triton.cdiv(w, PIXELS)](left, right, disparity, costs, w, c, PIXELS, CHANNELS)
        return costs.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left, right, disparity = ctx.saved_tensors
        b, h, w, c = left.shape
        grad = channels_last(grads[0])
        outs = (torch.empty_like(left), torch.zeros_like(right, dtype=torch.float32), torch.empty_like(disparity))
        with torch.cuda.device_of(left):
            _tile_warp_cost_backward[b * h, triton.cdiv(w, PIXELS)](
                left, right, disparity, grad, *outs, w, c, PIXELS, CHANNELS
            )
        grad_left, grad_right, grad_disparity = outs
        return grad_left.permute(0, 3, 1, 2), grad_right.to(right.dtype).permute(0, 3, 1, 2), grad_disparity
