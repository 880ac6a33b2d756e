"""Values of images in [0, 1]: as bytes, as brightness, and the bits they need."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # shares of red, green and blue in the brightness, Rec. 601


def to_bytes(image: Float[Tensor, "*one c h w"] | UInt8[np.ndarray, "h w c"] | Any) -> UInt8[np.ndarray, "h w c"]:
    """An image as 8 bits a channel, channels last; an array of bytes is returned as it is.

    Args:
        image: in [0, 1], 1 or 3 channels, without a batch or with a batch of 1; values outside are clipped.

    Raises:
        ValueError: a batch of more than one image.
    """
    if not isinstance(image, Tensor):
        return image
    if image.ndim == 4:
        if image.shape[0] != 1:
            raise ValueError(f"The batch holds {image.shape[0]} images; pass one, for example images[i].")
        image = image[0]
    return quantized(image).movedim(0, -1).cpu().numpy()


def quantized(image: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Values of [0, 1] rounded to 8 bits; values outside are clipped."""
    return (image.float().clamp(0, 1) * 255).round().to(torch.uint8)


def luma(image: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b 1 h w"]:
    """Brightness of RGB images by Rec. 601; images of one channel are returned as they are."""
    if image.shape[-3] == 1:
        return image
    weights = torch.tensor(LUMA, dtype=image.dtype, device=image.device)
    return torch.tensordot(weights, image, dims=([0], [image.ndim - 3]))[..., None, :, :]


def bits_of(image: Float[Tensor, "*one c h w"]) -> Literal[8, 16]:
    """Bits that hold an image in [0, 1] without loss: 8 where all values are multiples of 1/255, otherwise 16."""
    steps = image * 255
    return 8 if bool(((steps - steps.round()).abs() < 1e-3).all()) else 16
