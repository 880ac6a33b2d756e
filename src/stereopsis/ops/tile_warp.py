"""Matching costs around slanted tile hypotheses (HITNet section 3.4, Eq. 5-7)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stereopsis.ops import native, triton
from stereopsis.ops.portable import portable

TILE = 4


def warp_rows(right: Float[Tensor, "b c h w"], position: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b c h w"]:
    """Samples each row at real columns, linearly; beyond the border the outermost pixel is repeated."""
    last = right.shape[3] - 1
    low = position.detach().floor()
    weight = position - low
    index = low.long().expand(-1, right.shape[1], -1, -1)
    at_low = right.gather(3, index.clamp(0, last))
    at_high = right.gather(3, (index + 1).clamp(0, last))
    return at_low + weight * (at_high - at_low)


def tile_warp_cost(
    left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h w"], disparity: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 64 th tw"]:
    """The local cost volume of each 4 x 4 tile: L1 costs at d' - 1, d' and d' + 1, and the L1 norm of the left feature.

    Args:
        disparity: d' of Eq. 5, one value a pixel of the feature map, in its pixels; height and width divisible by 4.

    Returns:
        Channels in the order (row, column, kind), kinds ``|e_L|, d' - 1, d', d' + 1``.

    Raises:
        ValueError: for a height or width that is no multiple of 4, or inputs of different sizes.
    """
    b, _, h, w = left.shape
    if h % TILE or w % TILE:
        raise ValueError(f"the features are {h} x {w}; height and width must be a multiple of {TILE}, so pad them.")
    if right.shape != left.shape or disparity.shape != (b, 1, h, w):
        raise ValueError(
            f"left is {tuple(left.shape)}, right {tuple(right.shape)} and disparity {tuple(disparity.shape)}; "
            "all must have one batch, height and width."
        )
    if triton.usable(left, right, disparity):
        from stereopsis.ops.triton.tile_warp import TileWarpCost

        return TileWarpCost.apply(left, right, disparity)
    if native.usable(left.detach().float(), disparity):
        return _NativeTileWarpCost.apply(left.float(), right.float(), disparity)
    if portable():
        return tile_warp_cost_portable(left, right, disparity)
    return tile_warp_cost_reference(left, right, disparity)


def tile_warp_cost_reference(
    left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h w"], disparity: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 64 th tw"]:
    """:func:`tile_warp_cost` in plain torch."""
    b, _, h, w = left.shape
    column = torch.arange(w, device=left.device, dtype=disparity.dtype)
    kinds = [left.abs().sum(1)]
    for offset in (-1, 0, 1):
        warped = warp_rows(right, column - disparity - offset)
        kinds.append((left - warped).abs().sum(1))
    costs = torch.stack(kinds, dim=-1).reshape(b, h // TILE, TILE, w // TILE, TILE, 4)
    return costs.permute(0, 2, 4, 5, 1, 3).reshape(b, TILE * TILE * 4, h // TILE, w // TILE)


def tile_warp_cost_portable(
    left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h w"], disparity: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 64 th tw"]:
    """:func:`tile_warp_cost` for other runtimes: pixels are rows of a table, of which four are looked up for each."""
    b, c, h, w = left.shape
    pixels, table = (e.float().permute(0, 2, 3, 1).reshape(-1, c) for e in (left, right))
    position = (torch.arange(w, dtype=torch.float32) - disparity.float()).view(b * h, w)
    whole = position.floor()
    weight = (position - whole).view(-1, 1)
    # clamped before it becomes an integer, so that no disparity is too large for one
    column = whole.clamp(-2, w).long()
    row = w * torch.arange(b * h).view(-1, 1)
    taps = [table.index_select(0, (row + (column + step).clamp(0, w - 1)).flatten()) for step in (2, 1, 0, -1)]
    warped = [near + weight * (far - near) for far, near in pairwise(taps)]
    kinds = [pixels.abs().sum(1), *((pixels - view).abs().sum(1) for view in warped)]
    costs = torch.stack(kinds, dim=-1).view(b, h // TILE, TILE, w // TILE, TILE, 4)
    return costs.permute(0, 2, 4, 5, 1, 3).reshape(b, TILE * TILE * 4, h // TILE, w // TILE)


class _NativeTileWarpCost(torch.autograd.Function):
    """The same through the fused C kernels, which read each feature once for all three disparities."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, disparity: Tensor) -> Tensor:
        b, c, h, w = left.shape
        left, right, disparity = native.channels_last(left), native.channels_last(right), disparity.contiguous()
        ctx.save_for_backward(left, right, disparity)
        costs = native.empty(b, h // TILE, w // TILE, TILE * TILE * 4)
        native.run("tile_warp_cost", [left, right, disparity, costs], (h, w, c), b * h)
        return costs.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left, right, disparity = ctx.saved_tensors
        b, h, w, c = left.shape
        grad_costs = native.channels_last(grads[0])
        outs = native.zeros(*left.shape), native.zeros(*right.shape), native.empty(*disparity.shape)
        native.run("tile_warp_cost_backward", [left, right, disparity, grad_costs, *outs], (h, w, c), b * h)
        grad_left, grad_right, grad_disparity = outs
        return grad_left.permute(0, 3, 1, 2), grad_right.permute(0, 3, 1, 2), grad_disparity
