"""A filter over the maps of a sequence, against their flicker."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stereopsis.types import Disparity

# Changes from frame to frame that lower the weight of the past to 1/e; the image's is that of a colour in [0, 1].
IMAGE_CHANGE = 0.04
DISPARITY_CHANGE = 1.0
WINDOW = 3  # pixels over which the image's change is averaged, so that the noise of a sensor is none


class TemporalFilter:
    """Mixes each map with the filtered one before it, where neither the image nor the disparity has changed::

        w = strength * exp(-|I - I'| / 0.04) * exp(-|d - d'| / 1 px)
        out = (1 - w) d + w d'

    with the frame before marked by ``'``; ``I - I'`` is averaged over 3 x 3 pixels, and its absolute value over the
    channels. On a static scene the variance of noise that is small beside 1 px falls towards ``(1 - w) / (1 + w)`` of
    it. A pixel that is not valid in either map is not mixed, and ``valid`` and ``confidence`` stay those of the present
    map. The camera's or an object's motion is not followed, so the filter does little there.

    Args:
        strength: the weight of the past where nothing changes, from 0 (no filter) to below 1.

    Raises:
        ValueError: a strength outside [0, 1).
    """

    def __init__(self, strength: float) -> None:
        if not 0 <= strength < 1:
            raise ValueError(f"strength is {strength}; it must lie in [0, 1), for example 0.5.")
        self.strength = strength
        self._past: tuple[Disparity, Tensor] | None = None

    def reset(self) -> None:
        """Forget the past, as at a cut; a map of another size does it too."""
        self._past = None

    def __call__(self, disparity: Disparity, image: Float[Tensor, "*b c h w"]) -> Disparity:
        """The filtered maps of one frame.

        Args:
            disparity: maps ``(B, 1, H, W)``, in pixels.
            image: the left view in [0, 1], of the same size.

        Raises:
            ValueError: the image has another size than the maps.
        """
        view = (image if image.ndim == 4 else image[None]).to(disparity.disparity)
        if view.shape[-2:] != disparity.disparity.shape[-2:]:
            sizes = " and the map ".join(f"{x.shape[-1]}x{x.shape[-2]}" for x in (view, disparity.disparity))
            raise ValueError(f"The image is {sizes}; they must have one size.")
        if self.strength and self._past is not None and self._past[1].shape == view.shape:
            disparity = self._mixed(disparity, view, *self._past)
        self._past = disparity, view
        return disparity

    def _mixed(self, now: Disparity, view: Tensor, past: Disparity, past_view: Tensor) -> Disparity:
        change = F.avg_pool2d(view - past_view, WINDOW, 1, WINDOW // 2, count_include_pad=False)
        change = change.abs().mean(1, keepdim=True)
        step = past.disparity - now.disparity
        weight = self.strength * torch.exp(-change / IMAGE_CHANGE - step.abs() / DISPARITY_CHANGE)
        weight = torch.where(now.valid & past.valid, weight, 0.0)
        return replace(now, disparity=now.disparity + weight * step)
