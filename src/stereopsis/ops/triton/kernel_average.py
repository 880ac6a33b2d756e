"""The weighted average of ops/kernel_average.py, which holds the reference, on a GPU; for inference."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor

PIXELS = 128  # that a program takes at once
EMPTY = tl.constexpr(1e-6)


@triton.jit
def _kernel_average(
    values: tl.tensor,
    weights: tl.tensor,
    shifts: tl.tensor,
    valid: tl.tensor,
    out: tl.tensor,
    support: tl.tensor,
    channels: int,
    height: int,
    width: int,
    radius: int,
    N: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ZEROS_OUTSIDE: tl.constexpr,
    X: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)  # of the flattened (batch, height)
    sample, y = row // height, (row % height).to(tl.int32)
    x = tl.program_id(1) * X + tl.arange(0, X)
    channel = tl.program_id(2)
    inside = x < width
    plane = height * width
    here = y * width + x
    image = values + (sample * channels + channel) * plane
    weighted = tl.zeros((X,), tl.float32)
    plain = tl.zeros((X,), tl.float32)
    weight = tl.zeros((X,), tl.float32)
    known = tl.zeros((X,), tl.float32)
    for i in range(N):
        w = tl.load(weights + (sample * N + i) * plane + here, mask=inside, other=0.0).to(tl.float32)
        shift = shifts + (sample * 2 * N + 2 * i) * plane + here
        right = tl.load(shift, mask=inside, other=0.0).to(tl.float32)
        down = tl.load(shift + plane, mask=inside, other=0.0).to(tl.float32)
        right = tl.minimum(tl.maximum(right, -1.0 - radius), 1.0 + radius)
        down = tl.minimum(tl.maximum(down, -1.0 - radius), 1.0 + radius)
        left, top = tl.floor(right), tl.floor(down)
        for neighbour in tl.static_range(4):
            dx, dy = left.to(tl.int32) + neighbour % 2, top.to(tl.int32) + neighbour // 2
            share_x = right - left if neighbour % 2 else 1 - (right - left)
            share_y = down - top if neighbour // 2 else 1 - (down - top)
            column, line = x + dx, y + dy
            near = (column >= 0) & (column < width) & (line >= 0) & (line < height)
            near = near & (tl.abs(dx) <= radius) & (tl.abs(dy) <= radius)
            at = line * width + column
            present = near
            if valid is not None:
                present = near & (tl.load(valid + sample * plane + at, mask=near, other=0) != 0)
            counted = present | ~near if ZEROS_OUTSIDE else present
            share = share_x * share_y
            found = share * tl.load(image + at, mask=present, other=0.0).to(tl.float32)
            share = tl.where(counted, share, 0.0)
            weighted += w * found
            plain += found
            weight += w * share
            known += share
    covered = (known > EMPTY) & (weight > EMPTY * EMPTY)
    if RESIDUAL:
        result = weighted - weight / tl.where(covered, known, 1.0) * plain
    else:
        result = weighted / tl.where(covered, weight, 1.0)
    place = out + (sample * channels + channel) * plane + here
    tl.store(place, tl.where(covered, result, 0.0), mask=inside)
    if channel == 0:
        tl.store(support + sample * plane + here, tl.where(covered, known, 0.0) / N, mask=inside)


def kernel_average(
    values: Float[Tensor, "b c h w"],
    weights: Float[Tensor, "b n h w"],
    shifts: Float[Tensor, "b 2*n h w"],
    radius: int,
    valid: Bool[Tensor, "b 1 h w"] | None,
    residual: bool,
    zeros_outside: bool,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 1 h w"]]:
    """:func:`stereopsis.ops.kernel_average.kernel_average` without gradients, of values that are 0 where not valid."""
    b, c, h, w = values.shape
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    support = torch.empty(b, 1, h, w, device=values.device, dtype=weights.dtype)
    mask = None if valid is None else valid.contiguous().view(torch.uint8)
    with torch.cuda.device_of(values):
        _kernel_average[b * h, triton.cdiv(w, PIXELS), c](
            values.contiguous(), weights.contiguous(), shifts.contiguous(), mask, out, support,
            c, h, w, radius, weights.shape[1], residual, zeros_outside, PIXELS,
        )  # fmt: skip
    return out, support
