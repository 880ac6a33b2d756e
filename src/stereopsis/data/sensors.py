"""What depth sensors make of a true map: small, filtered somehow, noisy and with holes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stereopsis.geometry.resample import Reduction, enlarge, reduce
from stereopsis.types import Depth


@dataclass(frozen=True)
class SensorConfig:
    """What is drawn for each map.

    Attributes:
        scales: smallest and largest ratio of the sizes; in between any, not whole ones alone.
        reductions: filters that the map may have been reduced with.
        noise: largest standard deviation of Gaussian noise, in shares of the map's range.
        flying: largest share of the small pixels at steps that hold any value between the two sides, as those do of
            time-of-flight cameras that see both at once.
        holes: largest share of small pixels that are missing, half of them scattered, half in patches.
        blind: chance that the guide is a constant grey.
        misaligned: standard deviation of where the guide shows an edge, in pixels: rigs and hand-made truths are not
            exact, and who believes the guide alone draws edges where they are not.
        soft: largest standard deviation, in pixels, of the smoothing of the true map, whose edges take two to five
            pixels in real sets.
    """

    scales: tuple[float, float] = (8.0, 8.0)
    reductions: tuple[Reduction, ...] = ("bicubic",)
    noise: float = 0.0
    flying: float = 0.0
    holes: float = 0.0
    blind: float = 0.0
    misaligned: float = 0.0
    soft: float = 0.0


ANY_SENSOR = SensorConfig(
    (1.0, 16.0), get_args(Reduction), noise=0.02, flying=0.5, holes=0.3, blind=0.1, misaligned=0.7, soft=2.0
)
STEP = 0.05  # of a map's range, from one small pixel to the next


def sense(truth: Float[Tensor, "1 1 h w"], config: SensorConfig, generator: torch.Generator) -> Depth:
    """One true map as a sensor gives it, enlarged to its size again (bicubic), the same for a generator's state."""
    least, most = config.scales
    luck = torch.rand(5, generator=generator, dtype=torch.float32).tolist()
    scale = math.exp(math.log(least) + luck[0] * math.log(most / least))
    small = reduce(truth, scale, config.reductions[int(luck[1] * len(config.reductions))])
    if config.flying:
        small = _flying(small, config.flying, generator)
    if config.noise:
        rough = torch.randn(small.shape, generator=generator, dtype=torch.float32).to(small)
        # half of the maps are clean
        small = small + rough * (config.noise * max(2 * luck[2] - 1, 0) * (truth.amax() - truth.amin()))
    valid = torch.ones_like(small, dtype=torch.bool)
    if config.holes and luck[3] > 0.5:
        share = config.holes * luck[4] / 2
        dots, cells = (
            torch.rand(1, 1, *size, generator=generator, dtype=torch.float32) for size in (small.shape[-2:], (5, 5))
        )
        patches = F.interpolate(cells, size=small.shape[-2:], mode="bicubic")
        valid = (dots >= share) & (patches >= patches.flatten().quantile(share))
        valid = valid.to(small.device)
    size = (truth.shape[-2], truth.shape[-1])
    return enlarge(Depth(torch.where(valid, small, 0.0), valid), size)


def _flying(small: Float[Tensor, "1 1 h w"], most: float, generator: torch.Generator) -> Float[Tensor, "1 1 h w"]:
    share = most * max(
        2 * torch.rand((), generator=generator, dtype=torch.float32).item() - 1, 0
    )  # half of the maps have none
    chosen, place = (torch.rand(small.shape, generator=generator, dtype=torch.float32).to(small) for _ in range(2))
    far, near = F.max_pool2d(small, 3, 1, 1), -F.max_pool2d(-small, 3, 1, 1)
    step = far - near > STEP * (small.amax() - small.amin())
    return torch.where(step & (chosen < share), torch.lerp(near, far, place), small)


def misalign(image: Float[Tensor, "b 3 h w"], spread: float, generator: torch.Generator) -> Float[Tensor, "b 3 h w"]:
    """Images bent smoothly by random displacements of this standard deviation in pixels."""
    if not spread:
        return image
    b, _, h, w = image.shape
    bend = torch.randn(b, 2, 6, 6, generator=generator, dtype=torch.float32).to(image) * spread
    bend = F.interpolate(bend, size=(h, w), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    rows, columns = (
        torch.linspace(-1, 1, h, device=image.device, dtype=torch.float32),
        torch.linspace(-1, 1, w, device=image.device, dtype=torch.float32),
    )
    straight = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1)
    grid = straight + bend * bend.new_tensor([2 / (w - 1), 2 / (h - 1)])
    return F.grid_sample(image, grid, padding_mode="border", align_corners=True)
