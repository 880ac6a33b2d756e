"""Upsampling without learning, in the interface of the networks: interpolation, joint bilateral and guided filter.

All are linear in depth, so that its unit does not matter, and leave out what is not valid (normalised averages).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.geometry.resample import Enlargement
from stereopsis.ops.images import luma
from stereopsis.types import Depth
from stereopsis.upsampling.upsample import unpack
from stereopsis.zoo.registry import register

SMALLEST = 1e-12  # sum of weights below which nothing was averaged


@dataclass(frozen=True)
class InterpolationConfig:
    """How the caller enlarges the map; there is nothing else to do."""

    enlargement: Enlargement


@dataclass(frozen=True)
class JointBilateralConfig:
    """Kopf et al., SIGGRAPH 2007.

    Attributes:
        radius: of the square window, in pixels.
        step: between the samples taken from it, in pixels.
        sigma_space: of the distance, in pixels.
        sigma_color: of the Euclidean distance of colours in [0, 1].
    """

    radius: int = 8
    step: int = 2
    sigma_space: float = 4.0
    sigma_color: float = 0.03


@dataclass(frozen=True)
class GuidedFilterConfig:
    """He, Sun, Tang, TPAMI 2013, with a grey guide.

    Attributes:
        radius: of the square windows in which depth is a linear function of the guide, in pixels.
        epsilon: variance of the guide, in [0, 1], below which a window counts as flat.
    """

    radius: int = 4
    epsilon: float = 1e-4


class Interpolation(nn.Module):
    """Nearest or bicubic: the map as it was enlarged."""

    def __init__(self, config: InterpolationConfig) -> None:
        super().__init__()
        self.enlargement = config.enlargement

    def forward(
        self,
        image: Float[Tensor, "b c h w"],
        depth: Depth | Float[Tensor, "b t h w"],
        valid: Bool[Tensor, "b 1|t h w"] | None = None,
    ) -> Depth:
        """Arguments, result and errors as of :class:`~stereopsis.upsampling.dkn.DKN`."""
        values, known = unpack(image, depth, valid)
        return Depth(torch.where(known, values, 0.0), known)


class JointBilateral(nn.Module):
    """Average over a window, with weights that fall with the distance in space and in colour."""

    enlargement: Enlargement = "bicubic"

    def __init__(self, config: JointBilateralConfig | None = None) -> None:
        super().__init__()
        self.config = config or JointBilateralConfig()

    def forward(
        self,
        image: Float[Tensor, "b c h w"],
        depth: Depth | Float[Tensor, "b t h w"],
        valid: Bool[Tensor, "b 1|t h w"] | None = None,
    ) -> Depth:
        """Arguments, result and errors as of :class:`~stereopsis.upsampling.dkn.DKN`."""
        values, known = unpack(image, depth, valid)
        c = self.config
        h, w = values.shape[-2:]
        guide = image.float() if image.shape[1] == 3 else image.float().expand(-1, 3, -1, -1)
        padded = F.pad(guide, [c.radius] * 4)
        both = F.pad(torch.cat([torch.where(known, values, 0.0), known.float()], 1), [c.radius] * 4)
        sums = torch.zeros_like(both[..., :h, :w])
        steps = range(-(c.radius // c.step) * c.step, c.radius + 1, c.step)
        for dy in steps:
            for dx in steps:
                window = (..., slice(c.radius + dy, c.radius + dy + h), slice(c.radius + dx, c.radius + dx + w))
                distance = (padded[window] - guide).square().sum(1, keepdim=True) / (2 * c.sigma_color**2)
                sums += torch.exp(-distance - (dx * dx + dy * dy) / (2 * c.sigma_space**2)) * both[window]
        total, weight = sums.chunk(2, 1)
        return _normalised(total, weight)


class GuidedFilter(nn.Module):
    """Depth as a linear function of the guide in every window, averaged over the windows of a pixel."""

    enlargement: Enlargement = "bicubic"

    def __init__(self, config: GuidedFilterConfig | None = None) -> None:
        super().__init__()
        self.config = config or GuidedFilterConfig()

    def forward(
        self,
        image: Float[Tensor, "b c h w"],
        depth: Depth | Float[Tensor, "b t h w"],
        valid: Bool[Tensor, "b 1|t h w"] | None = None,
    ) -> Depth:
        """Arguments, result and errors as of :class:`~stereopsis.upsampling.dkn.DKN`."""
        values, known = unpack(image, depth, valid)
        guide = luma(image.float())
        # in float64, because variances are differences of large numbers
        p, g, mask = torch.where(known, values, 0.0).double(), guide.double(), known.double()
        counts = self._box(mask)
        inside = counts > SMALLEST
        share = torch.where(inside, counts, 1.0)
        mean_g, mean_p, mean_gg, mean_gp = (self._box(mask * t) / share for t in (g, p, g * g, g * p))
        a = (mean_gp - mean_g * mean_p) / (mean_gg - mean_g * mean_g + self.config.epsilon)
        b = mean_p - a * mean_g
        total = self._box(a * inside) * g + self._box(b * inside)
        return _normalised(total.float(), self._box(inside.double()).float())

    def _box(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Sum over the window, divided by its area; 0 outside."""
        side, radius = 2 * self.config.radius + 1, self.config.radius
        return F.avg_pool2d(F.avg_pool2d(x, (side, 1), 1, (radius, 0)), (1, side), 1, (0, radius))


def _normalised(total: Tensor, weight: Tensor) -> Depth:
    found = weight > SMALLEST
    return Depth(torch.where(found, total / torch.where(found, weight, 1.0), 0.0), found)


def _register(name: str, config: Any, build: Callable[[Any], nn.Module], description: str) -> None:
    register(
        name,
        family="upsampling",
        architecture=name,
        build=lambda: build(config),
        config=config,
        description=description,
        needs_weights=False,
    )


_register("nearest", InterpolationConfig("nearest"), Interpolation, "The nearest pixel of the small map")
_register("bicubic", InterpolationConfig("bicubic"), Interpolation, "Bicubic interpolation beside holes")
_register("joint-bilateral", JointBilateralConfig(), JointBilateral, "Joint bilateral filter of the bicubic map")
_register("guided-filter", GuidedFilterConfig(), GuidedFilter, "Guided filter of the bicubic map, grey guide")
