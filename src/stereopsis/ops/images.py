"""Values and sizes of images in [0, 1]: bytes, brightness, the bits they need, and whether two views fit."""

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
    return (image * image.new_tensor(LUMA).view(3, 1, 1)).sum(-3, keepdim=True)


def bits_of(image: Float[Tensor, "*one c h w"]) -> Literal[8, 16]:
    """Bits that hold an image in [0, 1] without loss: 8 where all values are multiples of 1/255, otherwise 16."""
    steps = image * 255
    return 8 if bool(((steps - steps.round()).abs() < 1e-3).all()) else 16


def is_gray(image: Float[Tensor, "*b c h w"]) -> bool:
    """True if the channels of an image hold the same values, as they do for a grayscale file that was read as RGB."""
    return bool((image == image[..., :1, :, :]).all())


def as_gray(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1|c h w"]:
    """The image with one channel if its channels hold the same values, else as it is."""
    return image[:, :1] if is_gray(image) else image


def check_views(
    left: Float[Tensor, "*b c h w"], right: Float[Tensor, "*b c h w"], names: tuple[object, object] = ("left", "right")
) -> None:
    """Check that two views can be a rectified pair.

    Args:
        left, right: views.
        names: what a message calls them, for example their files.

    Raises:
        ValueError: the views differ in size, in channels or in batch.
    """
    check_sizes((left.shape[-1], left.shape[-2]), (right.shape[-1], right.shape[-2]), names)
    if left.shape != right.shape:
        shapes = " and ".join(f"{name} is {tuple(view.shape)}" for name, view in zip(names, (left, right), strict=True))
        raise ValueError(f"{shapes}; the two views of a rectified pair must have the same batch and channels.")


def search_width(max_disparity: int | None, width: int) -> int | None:
    """The largest disparity worth a search: no pixel of a view has its match farther away than the view is wide.

    Args:
        max_disparity: in pixels, None for the matcher's own.
        width: of the views in pixels.

    Returns:
        ``max_disparity``, or the width rounded up to a multiple of 64 where that is smaller; results are the same.

    Raises:
        ValueError: not a whole number of at least 1.
    """
    if max_disparity is None:
        return None
    if not isinstance(max_disparity, int) or isinstance(max_disparity, bool) or max_disparity < 1:
        raise ValueError(f"max_disparity is {max_disparity}; it must be a whole number of at least 1 pixel.")
    return min(max_disparity, width + -width % 64)


def check_sizes(
    left: tuple[int, int], right: tuple[int, int], names: tuple[object, object] = ("left", "right")
) -> None:
    """Check that two views have the same (width, height) in pixels; arguments and errors as in :func:`check_views`."""
    if left != right:
        sizes = " and ".join(f"{name} is {w}x{h}" for name, (w, h) in zip(names, (left, right), strict=True))
        raise ValueError(f"{sizes}; the two views of a rectified pair must have the same size.")
