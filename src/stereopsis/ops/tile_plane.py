"""Slanted planes on a grid of tiles: from a tile's plane to the disparities inside it, and to smaller tiles."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def expand_plane(plane: Float[Tensor, "b 3 h w"], size: int) -> Float[Tensor, "b 1 H W"]:
    """Disparity of every pixel of every tile (HITNet Eq. 5).

    Pixel (row, col) of a tile has ``d + (col - (size - 1) / 2) dx + (row - (size - 1) / 2) dy``: the plane is given at
    the tile's centre, x runs along the columns.

    Args:
        plane: d, dx, dy a tile; d in pixels of the returned map.
        size: pixels along a tile's side.

    Returns:
        Map of ``size * h`` by ``size * w``.
    """
    b, _, h, w = plane.shape
    offset = torch.arange(size, device=plane.device, dtype=plane.dtype) - (size - 1) / 2
    d, dx, dy = plane[:, :, :, None, :, None].unbind(1)
    pixels = d + offset * dx + offset[:, None, None] * dy  # (b, h, row, w, col)
    return pixels.reshape(b, 1, h * size, w * size)


def split_tiles(hypothesis: Float[Tensor, "b c h w"], *, step: float, scale: float) -> Float[Tensor, "b c H W"]:
    """Each tile becomes 2 x 2 tiles: d by the plane equation, everything else copied (HITNet section 3.4).

    Args:
        hypothesis: d, dx, dy and the descriptor, a tile.
        step: how far a child's centre lies from the parent's, in the units in which d is then counted.
        scale: what d is multiplied with; 2 where the children live on a feature map of twice the size.
    """
    h = hypothesis.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    # made on the device: a CUDA graph cannot record a copy from the host
    side = step * (2 * torch.arange(2, device=h.device, dtype=h.dtype) - 1)
    side_y, side_x = side.repeat(h.shape[2] // 2), side.repeat(h.shape[3] // 2)
    d = scale * h[:, :1] + side_x * h[:, 1:2] + side_y[:, None] * h[:, 2:3]
    return torch.cat([d, h[:, 1:]], dim=1)
