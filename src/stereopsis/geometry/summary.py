"""A map in a few numbers."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor


def describe(values: Float[Tensor, "*shape"], valid: Bool[Tensor, "*shape"]) -> dict[str, Any]:
    """The fraction of valid pixels, and the smallest, median and largest value; None where no pixel is valid."""
    known = values[valid]
    if known.numel() == 0:
        return {"valid": 0.0, "min": None, "median": None, "max": None}
    return {
        "valid": valid.float().mean().item(),
        "min": known.min().item(),
        "median": known.median().item(),
        "max": known.max().item(),
    }
