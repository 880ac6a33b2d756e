"""Tile matching of ops/tile_match.py, which holds the reference, on a GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

TILE = tl.constexpr(4)
TILES, CANDIDATES = 16, 32  # that a program compares at once


@triton.jit
def _tile_match(
    left: tl.tensor,
    right: tl.tensor,
    exclude: tl.tensor,
    best: tl.tensor,
    band: float,
    height: int,
    tiles: int,
    width: int,
    candidates: int,
    CHANNELS: tl.constexpr,
    X: tl.constexpr,
    D: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)  # of the flattened (batch, height)
    tile = tl.program_id(1) * X + tl.arange(0, X)
    inside = tile < tiles
    first = row // height * CHANNELS * height + row % height
    # each lane keeps its own minimum, so that lanes meet but once
    lowest = tl.full((X, D), float("inf"), tl.float32)
    found = tl.zeros((X, D), tl.float32)
    for start in range(0, candidates, D):
        d = start + tl.arange(0, D)
        column = tl.minimum(tl.maximum(TILE * tile[:, None] + 1 - d[None, :], 0), width - 1)
        cost = tl.zeros((X, D), tl.float32)
        for channel in range(CHANNELS):
            line = first + channel * height
            own = tl.load(left + line * tiles + tile, mask=inside, other=0.0).to(tl.float32)
            other = tl.load(right + line * width + column).to(tl.float32)
            cost += tl.abs(own[:, None] - other)
        allowed = (d < candidates)[None, :]
        if exclude is not None:
            centre = tl.load(exclude + row * tiles + tile, mask=inside, other=0.0).to(tl.float32)
            allowed = allowed & (tl.abs(centre[:, None] - d[None, :]) > band)
        better = allowed & (cost < lowest)
        lowest = tl.where(better, cost, lowest)
        found = tl.where(better, d[None, :].to(tl.float32), found)
    least = tl.min(lowest, axis=1)
    answer = tl.min(tl.where(lowest == least[:, None], found, float("inf")), axis=1)
    tl.store(best + row * tiles + tile, answer, mask=inside)


def tile_match(
    left: Float[Tensor, "b c h w"],
    right: Float[Tensor, "b c h W"],
    max_disparity: int,
    exclude: Float[Tensor, "b 1 h w"] | None,
    band: float,
) -> Float[Tensor, "b 1 h w"]:
    """:func:`stereopsis.ops.tile_match.tile_match`; costs are float32 whatever the features are."""
    b, c, h, w = left.shape
    left, right = left.contiguous(), right.contiguous()
    exclude = None if exclude is None else exclude.contiguous()
    best = torch.empty(b, 1, h, w, device=left.device, dtype=left.dtype)
    with torch.cuda.device_of(left):
        _tile_match[b * h, triton.cdiv(w, TILES)](
            left, right, exclude, best, band, h, w, right.shape[3], max_disparity, c, TILES, CANDIDATES
        )
    return best
