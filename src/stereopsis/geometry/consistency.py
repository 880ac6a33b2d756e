"""Agreement of the two views' disparity maps: occlusions and errors."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stereopsis.geometry.depth import unpack_disparity
from stereopsis.types import Disparity


def left_right_check(
    left_disparity: Disparity | Float[Tensor, "*b h w"],
    right_disparity: Disparity | Float[Tensor, "*b h w"],
    threshold: float = 1.0,
) -> Bool[Tensor, "*b h w"]:
    """Where the two views agree: left pixel x and its match x - d in the right view name each other.

    Args:
        left_disparity: positive pixels; left x matches right x - d.
        right_disparity: positive pixels of the right view; right x matches left x + d.
        threshold: the largest difference in pixels that still counts as agreement.

    Returns:
        True where both are valid and agree; a match outside the right view is False.

    Raises:
        ValueError: sizes that differ, or a threshold below 0.
    """
    left, left_valid, _ = unpack_disparity(left_disparity, None)
    inside, right, right_valid = _at_match(left, right_disparity, threshold)
    return left_valid & inside & right_valid & ((left - right).abs() <= threshold)


def hidden_from_right(
    left_disparity: Disparity | Float[Tensor, "*b h w"],
    right_disparity: Disparity | Float[Tensor, "*b h w"],
    threshold: float = 1.0,
) -> Bool[Tensor, "*b h w"]:
    """Where the right view cannot see what the left one does: its match lies outside, or behind something nearer.

    A match that the right view takes for farther away fails :func:`left_right_check`, but is not hidden: one of the two
    maps is wrong there.

    Args:
        left_disparity, right_disparity: as in :func:`left_right_check`.
        threshold: pixels by which the right view's disparity at the match has to be larger.

    Raises:
        ValueError: sizes that differ, or a threshold below 0.
    """
    left = unpack_disparity(left_disparity, None)[0]
    inside, right, right_valid = _at_match(left, right_disparity, threshold)
    return ~inside | (right_valid & (right - left > threshold))


def _at_match(
    left: Tensor, right_disparity: Disparity | Tensor, threshold: float
) -> tuple[Bool[Tensor, "*b h w"], Float[Tensor, "*b h w"], Bool[Tensor, "*b h w"]]:
    """Whether each left pixel's match lies in the right view, and that view's disparity there and its validity."""
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold}; it must be at least 0 px, for example 1.")
    right, right_valid, _ = unpack_disparity(right_disparity, None)
    if left.shape != right.shape:
        raise ValueError(
            f"The left disparity is {tuple(left.shape)} and the right one {tuple(right.shape)}; "
            "they must have one shape, so compute both at the same size."
        )
    width = left.shape[-1]
    columns = torch.arange(width, device=left.device)
    # Nearest, not interpolated: between foreground and background no mean disparity is right.
    match = torch.round(columns - left).long()
    inside = (match >= 0) & (match < width)
    match = match.clamp(0, width - 1)
    return inside, right.gather(-1, match), right_valid.gather(-1, match)
