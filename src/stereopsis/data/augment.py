"""What cameras do to a pair: exposure, colour, blur and noise, on both views alike and on each alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges; each is drawn a sample.

    Attributes:
        brightness, contrast: symmetric factors, [1 - x, 1 + x].
        asymmetric: the same for each view alone, also of gamma and of each channel.
        noise: largest standard deviation of the sensor's noise.
        blur: largest standard deviation of a Gaussian blur on both views, pixels.
        occluder: chance that a patch of the right view is replaced by another one (HITNet, supplement).
        grey: chance that a sample loses its colour.
    """

    brightness: float = 0.25
    contrast: float = 0.25
    asymmetric: float = 0.08
    noise: float = 0.02
    blur: float = 0.9
    occluder: float = 0.3
    grey: float = 0.15


def _blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian of 5 taps, a standard deviation a sample."""
    offset = torch.arange(-2, 3, device=image.device, dtype=image.dtype)
    taps = torch.exp(-offset.square() / (2 * sigma.clamp(min=0.05).view(-1, 1).square()))
    taps = taps / taps.sum(1, keepdim=True)
    b, c, h, w = image.shape
    kernel = taps.repeat_interleave(c, 0).view(b * c, 1, 1, 5)
    flat = F.pad(image.reshape(1, b * c, h, w), (2, 2, 2, 2), mode="replicate")
    flat = F.conv2d(F.conv2d(flat, kernel, groups=b * c), kernel.transpose(2, 3), groups=b * c)
    return flat.view(b, c, h, w)


def augment(
    left: Float[Tensor, "b 3 h w"], right: Float[Tensor, "b 3 h w"], seed: int, config: AugmentConfig
) -> tuple[Tensor, Tensor]:
    """Camera effects on a pair, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    b, _, h, w = left.shape
    device = left.device

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    def around_one(spread: float, channels: int = 1) -> Tensor:
        return 1 + (draw(b, channels, 1, 1) * 2 - 1) * spread

    saturation = torch.where(draw(b, 1, 1, 1) < config.grey, 0.0, 0.3 + 0.8 * draw(b, 1, 1, 1))
    gain, contrast = around_one(config.brightness), around_one(config.contrast)
    sigma = config.blur * draw(b)
    noise = config.noise * draw(b, 1, 1, 1) ** 2
    views = []
    for view in (left, right):
        view = _blur(view, sigma * (0.9 + 0.2 * draw(b)))
        grey = view.mean(1, keepdim=True)
        view = grey + (view - grey) * saturation
        side = config.asymmetric
        view = (view - 0.5) * contrast * around_one(side) + 0.5
        view = (view * gain * around_one(side) * around_one(side / 2, 3)).clamp(1e-4, 1)
        view = view ** around_one(side)
        rough = torch.randn(view.shape, generator=generator).to(device)
        views.append((view + rough * noise).clamp(0, 1))
    left, right = views
    right = right.clone()
    for sample in range(b):
        p = torch.rand(7, generator=generator).tolist()
        if p[0] > config.occluder:
            continue
        height, width = int(h * (0.1 + 0.3 * p[1])), int(w * (0.05 + 0.25 * p[2]))
        y, x = int(p[3] * (h - height)), int(p[4] * (w - width))
        y2, x2 = int(p[5] * (h - height)), int(p[6] * (w - width))
        right[sample, :, y : y + height, x : x + width] = right[sample, :, y2 : y2 + height, x2 : x2 + width].clone()
    return left, right
