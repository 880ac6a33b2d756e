"""What depth sensors make of a true map: small, filtered somehow, noisy and with holes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stereopsis.types import Depth
from stereopsis.upsampling.resample import Reduction, enlarge, reduce


@dataclass(frozen=True)
class SensorConfig:
    """What is drawn for each map.

    Attributes:
        scales: smallest and largest ratio of the sizes; in between any, not whole ones alone.
        reductions: filters that the map may have been reduced with.
        noise: largest standard deviation of Gaussian noise, in shares of the map's range.
        holes: largest share of small pixels that are missing, half of them scattered, half in patches.
        blind: chance that the guide is a constant grey.
    """

    scales: tuple[float, float] = (8.0, 8.0)
    reductions: tuple[Reduction, ...] = ("bicubic",)
    noise: float = 0.0
    holes: float = 0.0
    blind: float = 0.0


ANY_SENSOR = SensorConfig((2.0, 16.0), get_args(Reduction), noise=0.02, holes=0.3, blind=0.05)


def sense(truth: Float[Tensor, "1 1 h w"], config: SensorConfig, generator: torch.Generator) -> Depth:
    """One true map as a sensor gives it, enlarged to its size again (bicubic), the same for a generator's state."""
    least, most = config.scales
    luck = torch.rand(5, generator=generator).tolist()
    scale = math.exp(math.log(least) + luck[0] * math.log(most / least))
    small = reduce(truth, scale, config.reductions[int(luck[1] * len(config.reductions))])
    if config.noise:
        rough = torch.randn(small.shape, generator=generator).to(small)
        # half of the maps are clean
        small = small + rough * (config.noise * max(2 * luck[2] - 1, 0) * (truth.amax() - truth.amin()))
    valid = torch.ones_like(small, dtype=torch.bool)
    if config.holes and luck[3] > 0.5:
        share = config.holes * luck[4] / 2
        dots, cells = (torch.rand(1, 1, *size, generator=generator) for size in (small.shape[-2:], (5, 5)))
        patches = F.interpolate(cells, size=small.shape[-2:], mode="bicubic")
        valid = (dots >= share) & (patches >= patches.flatten().quantile(share))
        valid = valid.to(small.device)
    size = (truth.shape[-2], truth.shape[-1])
    return enlarge(Depth(torch.where(valid, small, 0.0), valid), size)
