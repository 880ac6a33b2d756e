"""The scan of ops/propagation.py, which holds the reference, on a GPU: a program a plane, its rows side by side."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

TINY = tl.constexpr(1e-8)


@triton.jit
def _gates(
    gates: tl.tensor, step: int, row: int, column: int, height: int, NORMALIZE: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Of a column, from above, beside and below; 0 where nothing lies there."""
    inside = row < height
    above = tl.load(gates + row, mask=inside, other=0.0).to(tl.float32)
    beside = tl.load(gates + step + row, mask=inside, other=0.0).to(tl.float32)
    below = tl.load(gates + 2 * step + row, mask=inside, other=0.0).to(tl.float32)
    if NORMALIZE:
        total = tl.abs(above) + tl.abs(beside) + tl.abs(below) + TINY
        above, beside, below = above / total, beside / total, below / total
    above = tl.where((row > 0) & (column > 0), above, 0.0)
    beside = tl.where(column > 0, beside, 0.0)
    below = tl.where((row < height - 1) & (column > 0), below, 0.0)
    return above, beside, below


@triton.jit
def _propagate(
    x: tl.tensor,
    gates: tl.tensor,
    out: tl.tensor,
    channels: int,
    height: int,
    width: int,
    NORMALIZE: tl.constexpr,
    H: tl.constexpr,
) -> None:
    plane = tl.program_id(0).to(tl.int64)  # of the flattened (batch, channels)
    size = height * width
    row = tl.arange(0, H)
    x += plane * size
    out += plane * size
    gates += (plane // channels * 3 * channels + plane % channels) * size
    last = tl.zeros((H,), tl.float32)
    for column in range(width):
        at = column * height + row
        own = tl.load(x + at, mask=row < height, other=0.0).to(tl.float32)
        above, beside, below = _gates(gates + column * height, channels * size, row, column, height, NORMALIZE)
        up = tl.gather(last, tl.maximum(row - 1, 0), 0)
        down = tl.gather(last, tl.minimum(row + 1, H - 1), 0)
        last = (1 - above - beside - below) * own + above * up + beside * last + below * down
        tl.store(out + at, last, mask=row < height)


@triton.jit
def _propagate_backward(
    x: tl.tensor,
    gates: tl.tensor,
    out: tl.tensor,
    grad: tl.tensor,
    grad_x: tl.tensor,
    grad_gates: tl.tensor,
    channels: int,
    height: int,
    width: int,
    H: tl.constexpr,
) -> None:
    plane = tl.program_id(0).to(tl.int64)
    size = height * width
    row = tl.arange(0, H)
    inside = row < height
    x += plane * size
    out += plane * size
    grad += plane * size
    grad_x += plane * size
    gates += (plane // channels * 3 * channels + plane % channels) * size
    grad_gates += (plane // channels * 3 * channels + plane % channels) * size
    # what the column to the right hands back: to the row above, beside and below of it
    to_above = tl.zeros((H,), tl.float32)
    to_beside = tl.zeros((H,), tl.float32)
    to_below = tl.zeros((H,), tl.float32)
    for step in range(width):
        column = width - 1 - step
        at = column * height + row
        total = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32) + to_beside
        total += tl.where(row < height - 1, tl.gather(to_above, tl.minimum(row + 1, H - 1), 0), 0.0)
        total += tl.where(row > 0, tl.gather(to_below, tl.maximum(row - 1, 0), 0), 0.0)
        own = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        above, beside, below = _gates(gates + column * height, channels * size, row, column, height, False)
        tl.store(grad_x + at, (1 - above - beside - below) * total, mask=inside)
        before = out + at - height
        has_beside = inside & (at >= height)
        has_above = has_beside & (row > 0)
        has_below = has_beside & (row < height - 1)
        up = tl.load(before - 1, mask=has_above, other=0.0).to(tl.float32)
        left = tl.load(before, mask=has_beside, other=0.0).to(tl.float32)
        down = tl.load(before + 1, mask=has_below, other=0.0).to(tl.float32)
        tl.store(grad_gates + at, tl.where(has_above, total * (up - own), 0.0), mask=inside)
        tl.store(grad_gates + channels * size + at, tl.where(has_beside, total * (left - own), 0.0), mask=inside)
        tl.store(grad_gates + 2 * channels * size + at, tl.where(has_below, total * (down - own), 0.0), mask=inside)
        to_above, to_beside, to_below = above * total, beside * total, below * total


def _warps(rows: int) -> int:
    return min(max(rows // 64, 1), 8)


def propagate(
    x: Float[Tensor, "b c h w"], gates: Float[Tensor, "b 3 c h w"], normalize: bool
) -> Float[Tensor, "b c h w"]:
    """:func:`stereopsis.ops.propagation.propagate` without gradients; sums are float32."""
    # rows side by side in memory, as a step reads all of one column
    out = _scan(x.mT.contiguous(), gates.mT.contiguous(), normalize)
    return out.mT


def _scan(x: Float[Tensor, "b c w h"], gates: Float[Tensor, "b 3 c w h"], normalize: bool) -> Float[Tensor, "b c w h"]:
    b, c, w, h = x.shape
    out = torch.empty_like(x)
    rows = triton.next_power_of_2(h)
    with torch.cuda.device_of(x):
        _propagate[(b * c,)](x, gates, out, c, h, w, normalize, rows, num_warps=_warps(rows))
    return out


class Propagate(torch.autograd.Function):
    """The same with gradients, of gates that are normalised already."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gates: Tensor) -> Tensor:
        x, gates = x.mT.contiguous(), gates.mT.contiguous()
        out = _scan(x, gates, False)
        ctx.save_for_backward(x, gates, out)
        return out.mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, gates, out = ctx.saved_tensors
        b, c, w, h = x.shape
        outs = torch.empty_like(x), torch.empty_like(gates)
        rows = triton.next_power_of_2(h)
        with torch.cuda.device_of(x):
            _propagate_backward[(b * c,)](
                x, gates, out, grads[0].mT.contiguous(), *outs, c, h, w, rows, num_warps=_warps(rows)
            )
        return outs[0].mT, outs[1].mT
