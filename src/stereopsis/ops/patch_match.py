"""Stereo patch matching: where in the other view's row band each patch of a view lies (FFCA-Net, section 3.1)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from stereopsis.ops import native, triton

Direction = Literal["left", "right", "both"]

DIRECTIONS: dict[str, int] = {"left": -1, "right": 1, "both": 0}
TINY = 1e-20  # of a window's energy, so that an empty one is like nothing
LEAST = 64  # windows that the kernel reads at once


@torch.no_grad()
def patch_match(
    target: Float[Tensor, "b c h w"],
    side: Float[Tensor, "b c h w"],
    size: int = 16,
    direction: Direction = "left",
) -> Int64[Tensor, "b m n"]:
    """For every patch of the target the window of the side view, in the same rows, of largest cosine (Eq. 2 and 3).

    Patches lie side by side, windows begin at every column. Where a size is no multiple of the patch's, both views are
    continued by their edge, so that the last patches are matched too. Not differentiable.

    Args:
        target: features whose patches are looked for.
        side: features that are searched.
        size: of a patch, in pixels of the features (the paper's B).
        direction: where a patch's match lies, seen from its own place: in a right view that of a left one lies to the
            left, or straight on.

    Returns:
        First column of each patch's window; of equal windows the nearest. The windows of the last patches may reach
        beyond the view, into its continuation.

    Raises:
        ValueError: views of different shapes, or a size below 1.
    """
    _check(target, side, size)
    if triton.usable(target, side):
        from stereopsis.ops.triton.patch_match import patch_match as on_gpu

        return on_gpu(_whole_patches(target, size), _whole_patches(side, size), size, DIRECTIONS[direction])
    if not native.usable(target, side):
        return patch_match_reference(target, side, size, direction)
    b, _, _, w = target.shape
    target, side = (_whole_patches(view, size) for view in (target, side))
    blocks, candidates = target.shape[3] // size, target.shape[3] - size + 1
    missing = max(LEAST - candidates, 0)
    if missing:  # of a narrow view; such windows are read, but not counted
        target, side = (F.pad(view, (0, missing)) for view in (target, side))
    c, h, w = target.shape[1:]
    bands, stride = h // size, candidates + 2 * LEAST
    columns = native.empty(b, bands, blocks, dtype=torch.int32)
    scores, energy = native.zeros(b, bands, blocks, stride), native.zeros(b, bands, w)
    numbers = (c, h, w, size, blocks, candidates, stride, DIRECTIONS[direction])
    native.run("patch_match", [target.contiguous(), side.contiguous(), columns, scores, energy], numbers, b * bands)
    return columns.long()


@torch.no_grad()
def patch_match_reference(
    target: Float[Tensor, "b c h w"],
    side: Float[Tensor, "b c h w"],
    size: int = 16,
    direction: Direction = "left",
) -> Int64[Tensor, "b m n"]:
    """:func:`patch_match` in plain torch: a row of patches by all windows of its band, unfolded."""
    _check(target, side, size)
    target, side = (_whole_patches(view, size).float() for view in (target, side))
    width = target.shape[3]
    own = torch.arange(0, width, size, device=target.device)[:, None]
    distance = torch.arange(width - size + 1, device=target.device) - own  # of each window from each patch
    allowed = DIRECTIONS[direction] * distance >= 0
    order = distance.abs().argsort(dim=1, stable=True)  # the first of equal windows is then the nearest
    found = []
    for rows in range(0, target.shape[2], size):
        bands = [view[:, :, rows : rows + size] for view in (target, side)]
        patches, windows = (F.unfold(band, size, stride=step) for band, step in zip(bands, (size, 1), strict=True))
        cosine = patches.mT @ windows / (windows.square().sum(1, keepdim=True) + TINY).sqrt()
        cosine = cosine.masked_fill(~allowed, -torch.inf).gather(2, order.expand_as(cosine))
        found.append(order.expand_as(cosine).gather(2, cosine.argmax(2, keepdim=True))[..., 0])
    return torch.stack(found, 1)


def take_patches(
    side: Float[Tensor, "b c h w"], columns: Int64[Tensor, "b m n"], size: int = 16
) -> Float[Tensor, "b c h w"]:
    """The side view rearranged, so that each patch lies where its match in the target lies (Eq. 4).

    Differentiable in the side view. At a scale that is coarser by a power of two, ``columns`` and ``size`` are both
    divided by it.

    Args:
        columns: of :func:`patch_match`.

    Returns:
        In channels-last memory. Where a window reaches beyond the view it holds the view's last column.
    """
    b, c, h, w = side.shape
    x, y = torch.arange(w, device=side.device), torch.arange(h, device=side.device)
    source = (columns[:, :, x // size] + x % size).clamp(max=w - 1)[:, y // size]
    pixels = (torch.arange(b, device=side.device).view(-1, 1, 1) * h + y[:, None]) * w + source
    taken = side.permute(0, 2, 3, 1).reshape(b * h * w, c).index_select(0, pixels.flatten())
    return taken.view(b, h, w, c).permute(0, 3, 1, 2)


def _whole_patches(view: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c H W"]:
    below, right = -view.shape[2] % size, -view.shape[3] % size
    return F.pad(view, (0, right, 0, below), "replicate") if below or right else view


def _check(target: Tensor, side: Tensor, size: int) -> None:
    if target.shape != side.shape:
        raise ValueError(
            f"the target is {tuple(target.shape)} and the side view {tuple(side.shape)}; give two of one shape."
        )
    if size < 1:
        raise ValueError(f"the patch size is {size}; it must be at least 1.")
