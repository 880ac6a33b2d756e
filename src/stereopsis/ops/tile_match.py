"""Tile matching along scan lines: the best integer disparity of every tile, without a cost volume (HITNet Eq. 2-3).

Tiles of the left view lie 4 pixels apart, those of the right view 1 pixel apart. The right tile that starts at pixel u
stands in column u + 1 (the convolution that makes the tiles pads one column on the left, as the published graph does);
beyond the borders the outermost tile is taken.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stereopsis.ops import native, triton
from stereopsis.ops.portable import Carry, portable, scan

TILE = 4


def matching_cost(
    left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h W"], disparity: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 1 h w"]:
    """L1 distance of each left tile to the right tile at an integer disparity; differentiable in the features."""
    column = torch.arange(left.shape[3], device=left.device) * TILE + 1
    index = (column - disparity.long()).clamp(0, right.shape[3] - 1)
    matched = right.gather(3, index.expand(-1, right.shape[1], -1, -1))
    return (left - matched).abs().sum(1, keepdim=True)


def subpixel_cost(
    left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h W"], disparity: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 1 h w"]:
    """Cost at a real disparity: linear between its two integer neighbours (HITNet Eq. 9)."""
    low = disparity.floor()
    weight = disparity - low
    return (1 - weight) * matching_cost(left, right, low) + weight * matching_cost(left, right, low + 1)


@torch.no_grad()
def tile_match(
    left: Float[Tensor, "b c h w"],
    right: Float[Tensor, "b c h W"],
    max_disparity: int,
    exclude: Float[Tensor, "b 1 h w"] | None = None,
    band: float = 1.5,
) -> Float[Tensor, "b 1 h w"]:
    """Integer disparity in [0, max_disparity) of lowest cost; the smallest one on ties. Not differentiable.

    The volume is never stored. On the CPU a fused kernel runs where it was built, on a GPU one in Triton.

    Args:
        exclude: where given, disparities within ``band`` of it are left out: the hardest non-match of Eq. 11. Where
            none is left, the answer is 0.

    Raises:
        ValueError: for inputs whose batch, channels or rows differ.
    """
    b, _, h, w = left.shape
    if right.shape[:3] != left.shape[:3] or (exclude is not None and exclude.shape != (b, 1, h, w)):
        shapes = f"left is {tuple(left.shape)}, right {tuple(right.shape)}"
        shapes += "" if exclude is None else f" and exclude {tuple(exclude.shape)}"
        raise ValueError(f"{shapes}; batch, channels and rows of the tiles must agree.")
    if triton.usable(left, right) and (exclude is None or triton.usable(exclude)):
        from stereopsis.ops.triton.tile_match import tile_match as on_gpu

        return on_gpu(left, right, max_disparity, exclude, band)
    if native.usable(left, right) and (exclude is None or native.usable(exclude)):
        return _tile_match_native(left, right, max_disparity, exclude, band)
    if portable() and exclude is None:
        return tile_match_portable(left, right, max_disparity)
    return tile_match_reference(left, right, max_disparity, exclude, band)


@torch.no_grad()
def tile_match_reference(
    left: Float[Tensor, "b c h w"],
    right: Float[Tensor, "b c h W"],
    max_disparity: int,
    exclude: Float[Tensor, "b 1 h w"] | None = None,
    band: float = 1.5,
) -> Float[Tensor, "b 1 h w"]:
    """:func:`tile_match` in plain torch.

    A running minimum goes over the disparities; the right view is sorted into its four phases first, so that the tiles
    which meet at one disparity are contiguous.
    """
    b, c, h, w = left.shape
    width = right.shape[3]
    reach = -(-max_disparity // TILE) * TILE  # the left border repeated, a multiple of the tile
    columns = torch.arange(-reach + 1, TILE * w + 1, device=left.device).clamp(0, width - 1)
    phases = right[..., columns].reshape(b, c, h, -1, TILE).permute(4, 0, 1, 2, 3).contiguous()

    best_cost = torch.full((b, h, w), float("inf"), device=left.device, dtype=left.dtype)
    best = torch.zeros((b, h, w), device=left.device, dtype=left.dtype)
    for d in range(max_disparity):
        start, phase = divmod(reach - d, TILE)
        cost = (left - phases[phase][..., start : start + w]).abs_().sum(1)
        if exclude is not None:
            cost.masked_fill_((exclude[:, 0] - d).abs() <= band, float("inf"))
        better = cost < best_cost
        best_cost = torch.where(better, cost, best_cost)
        best.masked_fill_(better, float(d))
    return best[:, None]


def tile_match_portable(
    left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h 4*w"], max_disparity: int
) -> Float[Tensor, "b 1 h w"]:
    """:func:`tile_match` for other runtimes: a step answers for four disparities, and steps are those of a loop."""
    b, _, h, w = left.shape
    # disparity 4 q + r meets column 4 (x - q) + 1 - r: the four phases, moved by a tile at each step, serve all q
    padded = F.pad(right[..., :-2], (2, 0, 0, 0), "replicate")
    phases = padded.unflatten(3, (w, TILE)).permute(0, 1, 4, 2, 3).flip(2)
    border = right[:, :, None, :, :1].expand(-1, -1, TILE, -1, -1)
    phase = torch.arange(TILE, dtype=left.dtype).view(1, TILE, 1, 1)

    def step(carry: Carry, slices: Carry) -> tuple[Carry, Tensor]:
        left, phases, border, phase, best_cost, best = carry
        candidates = TILE * slices[0] + phase
        cost = (left - phases).abs().sum(1)
        cost = torch.where(candidates < max_disparity, cost, float("inf"))
        lowest = cost.amin(1, keepdim=True)
        # not argmin, as runtimes differ in which of several equal costs they name
        found = torch.where(cost == lowest, candidates, float(max_disparity)).amin(1, keepdim=True)
        better = lowest < best_cost
        moved = torch.cat([border, phases[..., :-1]], dim=-1)
        carry = (left.clone(), moved, border.clone(), phase.clone())
        return (*carry, torch.where(better, lowest, best_cost), torch.where(better, found, best)), slices[0].clone()

    start = torch.full((b, 1, h, w), float("inf"), dtype=left.dtype)
    steps = torch.arange(-(-max_disparity // TILE), dtype=left.dtype)
    carry = (left[:, :, None], phases, border, phase, start, torch.zeros_like(start))
    return scan(step, tuple(t.contiguous() for t in carry), (steps,))[0][-1]


def _tile_match_native(left: Tensor, right: Tensor, max_disparity: int, exclude: Tensor | None, band: float) -> Tensor:
    b, c, h, w = left.shape
    left, right = native.channels_last(left), native.channels_last(right)
    exclude = None if exclude is None else exclude.contiguous()
    best = native.empty(b, 1, h, w)
    tensors = [left, right, exclude, native.scalar(band), best]
    native.run("tile_match", tensors, (h, w, right.shape[2], c, max_disparity), b * h)
    return best


def right_tile_padding(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w2"]:
    """Zero columns that let a 4 x 4 convolution of stride (4, 1) keep the width: one on the left, two on the right."""
    return F.pad(features, (1, TILE - 2, 0, 0))
