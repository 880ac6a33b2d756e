"""Holes in a disparity map, filled from the background, so that it can be compared with a dense one."""

from __future__ import annotations

from dataclasses import replace

import torch

from stereopsis.types import Disparity


def fill_from_background(disparity: Disparity) -> Disparity:
    """Give each hole the lower of its nearest valid left and right neighbours in the row.

    The lower one, because most holes are occluded and belong to the background. A hole with one neighbour takes that; a
    row without a valid pixel stays invalid. The confidence of a filled pixel stays what it was.

    Args:
        disparity: maps ``(B, 1, H, W)``, in pixels.

    Returns:
        The filled maps; ``valid`` is True wherever the row had a valid pixel.
    """
    value, valid = disparity.disparity, disparity.valid
    width = value.shape[-1]
    column = torch.arange(width, device=value.device).expand(valid.shape)
    left = torch.where(valid, column, -1).cummax(dim=-1).values
    right = torch.where(valid, column, width).flip(-1).cummin(dim=-1).values.flip(-1)
    from_left = torch.where(left >= 0, value.gather(-1, left.clamp(min=0)), torch.inf)
    from_right = torch.where(right < width, value.gather(-1, right.clamp(max=width - 1)), torch.inf)
    filled = torch.where(valid, value, torch.minimum(from_left, from_right))
    known = torch.isfinite(filled)
    return replace(disparity, disparity=torch.where(known, filled, 0.0), valid=known)
