"""3-D convolution of thin volumes as a 2-D one, which CPU libraries compute up to ten times as fast."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

BANDED = 5  # up to so many slices, the zeros of a band cost less than the copies of neighbours


def slice_conv(
    x: Float[Tensor, "b c k h w"], kernel: Float[Tensor, "o c 3 3 3"], bias: Float[Tensor, " o"] | None = None
) -> Float[Tensor, "b o k h w"]:
    """``conv3d(x, kernel, bias, padding=1)``.

    Few slices become channels of one map, under a kernel with a band of blocks. More become a batch whose channels are
    those of a slice and of its two neighbours. Either form leaves its memory as the next call wants it.

    Raises:
        ValueError: a kernel that is not 3 x 3 x 3.
    """
    if kernel.shape[2:] != (3, 3, 3):
        raise ValueError(f"the kernel is {tuple(kernel.shape[2:])}; only 3 x 3 x 3 can be used here.")
    b, c, k, h, w = x.shape
    outputs = kernel.shape[0]
    if k <= BANDED:
        band = kernel.new_zeros(k, outputs, k, c, 3, 3)
        for step in range(3):
            if abs(step - 1) < k:
                band.diagonal(step - 1, 0, 2).copy_(kernel[:, :, step, ..., None])
        flat = x.permute(0, 3, 4, 2, 1).reshape(b, h, w, k * c).permute(0, 3, 1, 2)
        out = F.conv2d(flat, band.view(k * outputs, k * c, 3, 3), None if bias is None else bias.repeat(k), padding=1)
        return out.unflatten(1, (k, outputs)).transpose(1, 2)
    slices = F.pad(x.permute(0, 2, 3, 4, 1), (0, 0, 0, 0, 0, 0, 1, 1))
    stacked = torch.cat([slices[:, step : step + k] for step in range(3)], dim=-1)
    stacked = stacked.reshape(b * k, h, w, 3 * c).permute(0, 3, 1, 2)
    out = F.conv2d(stacked, kernel.transpose(1, 2).reshape(outputs, 3 * c, 3, 3), bias, padding=1)
    return out.unflatten(0, (b, k)).transpose(1, 2)
