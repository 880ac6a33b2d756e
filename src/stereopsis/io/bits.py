"""Images of 10, 12 or 14 bits in files of 16: the range in use is found and stretched."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

FULL = 16
LEAST = 8  # bits; what uses fewer is black
SAMPLE = 4  # every fourth row and column decides whether an image has 8 bits only


def bits_in_use(*views: Float[Tensor, "b c h w"]) -> int:
    """Return how many of 16 bits the values of all views use together: 8 to 16.

    Views of 8 bits use them all, however dark they are.

    Args:
        views: images in [0, 1], the stored values divided by 65535 (or 255).
    """
    top = max(view.amax().item() for view in views)
    bits = next((bits for bits in range(LEAST, FULL) if top <= (2**bits - 1) / 65535 + 1e-7), FULL)
    if bits < FULL and all(_has_8_bits(view) for view in views):
        return FULL
    return bits


def full_range(
    left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h w"], purpose: str = "for matching"
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """Return both views multiplied by the same factor, so that they use all of [0, 1].

    Cameras of 10 or 12 bits often store them in 16 without a shift, which looks nearly black, and matchers then lose
    most of the contrast. A warning states the factor and the purpose.
    """
    bits = bits_in_use(left, right)
    if bits == FULL:
        return left, right
    factor = (2**FULL - 1) / (2**bits - 1)
    warnings.warn(
        f"the views use {bits} of 16 bits (values up to {max(left.amax().item(), right.amax().item()):.3g} of 1); both "
        f"were multiplied by {factor:.4g} {purpose}.",
        stacklevel=3,
    )
    return (left * factor).clamp(max=1.0), (right * factor).clamp(max=1.0)


def _has_8_bits(view: Tensor) -> bool:
    steps = 255 * view[..., ::SAMPLE, ::SAMPLE]
    return bool(((steps - torch.round(steps)).abs() < 1e-3).all())
