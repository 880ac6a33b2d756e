"""Products of patches and windows of ops/patch_match.py, which holds the reference, on a GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int64
from torch import Tensor

PATCHES, WINDOWS, DEPTH = 16, 64, 32  # that a program multiplies at once
TINY = tl.constexpr(1e-20)


@triton.jit
def _patch_match(
    target: tl.tensor,
    side: tl.tensor,
    columns: tl.tensor,
    channels: int,
    height: int,
    width: int,
    blocks: int,
    candidates: int,
    SIZE: tl.constexpr,
    DIRECTION: tl.constexpr,
    P: tl.constexpr,
    U: tl.constexpr,
    K: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)  # of the flattened (batch, bands)
    bands = height // SIZE
    start = row // bands * channels * height * width + row % bands * SIZE * width
    first = tl.program_id(1) * P
    block = first + tl.arange(0, P)
    own = (block * SIZE)[:, None]
    depth = channels * SIZE * SIZE
    lowest, highest = 0, candidates
    if DIRECTION < 0:
        highest = tl.minimum(candidates, (first + P - 1) * SIZE + 1)
    if DIRECTION > 0:
        lowest = first * SIZE
    best = tl.full((P, U), -float("inf"), tl.float32)
    nearest = tl.zeros(
        (P, U), tl.int32
    )  # of each lane's best windows, in the order of their distance, left before right
    for begin in range(lowest, highest, U):
        u = begin + tl.arange(0, U)
        counted = (u < candidates)[None, :]
        score = tl.zeros((P, U), tl.float32)
        energy = tl.zeros((U,), tl.float32)
        for piece in range(0, depth, K):
            k = piece + tl.arange(0, K)
            at = (k // (SIZE * SIZE) * height + k // SIZE % SIZE) * width + k % SIZE
            used = k < depth
            patches = tl.load(
                target + start + own + at[None, :], mask=(block < blocks)[:, None] & used[None, :], other=0.0
            )
            windows = tl.load(side + start + at[:, None] + u[None, :], mask=used[:, None] & counted, other=0.0).to(
                tl.float32
            )
            score = tl.dot(patches.to(tl.float32), windows, score, input_precision="ieee")
            energy += tl.sum(windows * windows, axis=0)
        score = tl.div_rn(score, tl.sqrt_rn(energy + TINY)[None, :])
        distance = u[None, :] - own
        order = 2 * tl.abs(distance) + (distance > 0).to(tl.int32)
        better = (score > best) | ((score == best) & (order < nearest))
        better = better & counted & (DIRECTION * distance >= 0)
        best = tl.where(better, score, best)
        nearest = tl.where(better, order, nearest)
    most = tl.max(best, axis=1)[:, None]
    order = tl.min(tl.where(best == most, nearest, 2 * width), axis=1)
    column = block * SIZE + tl.where(order % 2 == 1, order // 2, -(order // 2))
    tl.store(columns + row * blocks + block, column.to(tl.int64), mask=block < blocks)


def patch_match(
    target: Float[Tensor, "b c h w"], side: Float[Tensor, "b c h w"], size: int, direction: int
) -> Int64[Tensor, "b m n"]:
    """:func:`stereopsis.ops.patch_match.patch_match` of whole patches; products are those of float32, exactly.

    Args:
        direction: -1 for left, 1 for right and 0 for both.
    """
    b, c, h, w = target.shape
    bands, blocks = h // size, w // size
    columns = torch.empty(b, bands, blocks, device=target.device, dtype=torch.int64)
    with torch.cuda.device_of(target):
        _patch_match[b * bands, triton.cdiv(blocks, PATCHES)](
            target.contiguous(), side.contiguous(), columns, c, h, w, blocks, w - size + 1, size, direction,
            PATCHES, WINDOWS, DEPTH,
        )  # fmt: skip
    return columns
