"""Views made of noise, for checks and clocks, where nobody needs to recognise anything."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

NEAR, FAR = 20, 8  # pixels of disparity of the two planes of a pair


def pattern(height: int, width: int, seed: int = 0, channels: int = 3) -> Float[Tensor, "1 c h w"]:
    """Noise of several scales, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, channels, height, width, dtype=torch.float32)
    for scale in (2, 4, 8, 16, 32):
        size = height // scale + 2, width // scale + 2
        noise = torch.rand(1, channels, *size, generator=generator, dtype=torch.float32)
        total += scale**0.5 * F.interpolate(noise, (height, width), mode="bilinear")
    low, high = total.amin(), total.amax()
    return (total - low) / (high - low)


def pattern_pair(height: int, width: int, seed: int = 0) -> tuple[Float[Tensor, "1 3 h w"], Float[Tensor, "1 3 h w"]]:
    """A rectified pair: a square near the middle, before a plane."""
    wide = pattern(height, width + NEAR, seed)
    left, right = (wide[..., shift : shift + width].clone() for shift in (0, FAR))
    rows, columns = slice(height // 4, 3 * height // 4), slice(width // 4, 3 * width // 4)
    square = pattern(height, width, seed + 1)
    left[..., rows, columns] = square[..., rows, columns]
    moved = slice(max(columns.start - NEAR, 0), max(columns.stop - NEAR, 0))
    source = slice(columns.stop - (moved.stop - moved.start), columns.stop)
    right[..., rows, moved] = square[..., rows, source]
    return left, right
