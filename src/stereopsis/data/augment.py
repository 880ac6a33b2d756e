"""What cameras do to a pair: exposure, colour, blur, noise and more, on both views alike and on each alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import cv2
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stereopsis.ops.images import to_bytes


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
        vignette: largest loss of light in the corners.
        motion: chance that both views are smeared along one direction, by up to 6 pixels.
        jpeg: chance that both views went through JPEG, at a quality between 30 and 95.
        dirt: chance that blurred specks lie on one of the lenses.
    """

    brightness: float = 0.25
    contrast: float = 0.25
    asymmetric: float = 0.08
    noise: float = 0.02
    blur: float = 0.9
    occluder: float = 0.3
    grey: float = 0.15
    vignette: float = 0.3
    motion: float = 0.1
    jpeg: float = 0.25
    dirt: float = 0.1


NO_EFFECTS = AugmentConfig(**dict.fromkeys((field.name for field in fields(AugmentConfig)), 0.0))


def blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian of 5 taps, a standard deviation a sample."""
    offset = torch.arange(-2, 3, device=image.device, dtype=image.dtype)
    taps = torch.exp(-offset.square() / (2 * sigma.clamp(min=0.05).view(-1, 1).square()))
    taps = taps / taps.sum(1, keepdim=True)
    h, w = image.shape[-2:]
    padded = F.pad(image, (2, 2, 2, 2), mode="replicate")
    outer, inner, middle = taps[:, :3].reshape(-1, 3, 1, 1, 1).unbind(1)
    # sums of moved copies: grouped convolutions of so few channels take several times as long
    row = middle * padded[..., 2 : 2 + w]
    row += inner * (padded[..., 1 : 1 + w] + padded[..., 3 : 3 + w])
    row += outer * (padded[..., :w] + padded[..., 4 : 4 + w])
    both = middle * row[..., 2 : 2 + h, :]
    both += inner * (row[..., 1 : 1 + h, :] + row[..., 3 : 3 + h, :])
    both += outer * (row[..., :h, :] + row[..., 4 : 4 + h, :])
    return both


def _smear(view: Tensor, length: float, angle: float) -> Tensor:
    """Motion blur: the mean of five views moved along a line, (c, h, w)."""
    steps = torch.linspace(-0.5, 0.5, 5, dtype=torch.float32) * length
    dx, dy = (steps * math.cos(angle)).round().int().tolist(), (steps * math.sin(angle)).round().int().tolist()
    moved = F.pad(view[None], (4, 4, 4, 4), mode="replicate")[0]
    _, h, w = view.shape
    parts = [moved[:, 4 + y : 4 + y + h, 4 + x : 4 + x + w] for x, y in zip(dx, dy, strict=True)]
    return torch.stack(parts).mean(0)


def _jpeg(view: Tensor, quality: int) -> Tensor:
    """What JPEG leaves of a view, (3, h, w)."""
    pixels = to_bytes(view)
    _, stored = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    back = torch.from_numpy(cv2.imdecode(stored, cv2.IMREAD_COLOR)).to(view.device)
    return back.permute(2, 0, 1).to(view.dtype) / 255


def _specks(view: Tensor, generator: torch.Generator) -> Tensor:
    """Darkens soft round spots, (c, h, w)."""
    _, h, w = view.shape
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    light = torch.ones(h, w, dtype=torch.float32)
    for cx, cy, radius, depth in torch.rand(4, 4, generator=generator, dtype=torch.float32).tolist():
        distance = (x - cx * w).square() + (y - cy * h).square()
        light *= 1 - 0.7 * depth * torch.exp(-distance / (2 * (2 + 0.06 * w * radius) ** 2))
    return view * light.to(view.device)


def augment(
    left: Float[Tensor, "b 3 h w"], right: Float[Tensor, "b 3 h w"], seed: int, config: AugmentConfig
) -> tuple[Tensor, Tensor]:
    """Camera effects on a pair, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    b, _, h, w = left.shape
    device = left.device

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float32).to(device)

    def around_one(spread: float, channels: int = 1) -> Tensor:
        return 1 + (draw(b, channels, 1, 1) * 2 - 1) * spread

    saturation = torch.where(draw(b, 1, 1, 1) < config.grey, 0.0, 0.3 + 0.8 * draw(b, 1, 1, 1))
    gain, contrast = around_one(config.brightness), around_one(config.contrast)
    sigma = config.blur * draw(b)
    noise = config.noise * draw(b, 1, 1, 1) ** 2
    # one lens model on both sides: what differs between them is dust and gain
    across, down = (
        torch.linspace(-1, 1, w, device=device, dtype=torch.float32),
        torch.linspace(-1, 1, h, device=device, dtype=torch.float32)[:, None],
    )
    shade = 1 - config.vignette * draw(b, 1, 1, 1) * (across.square() + down.square()) / 2
    luck = torch.rand(b, 6, generator=generator, dtype=torch.float32).tolist()
    views = []
    for view in (left, right):
        view = blur(view, sigma * (0.9 + 0.2 * draw(b)))
        grey = view.mean(1, keepdim=True)
        view = grey + (view - grey) * saturation
        side = config.asymmetric
        slope, light = contrast * around_one(side), gain * around_one(side) * around_one(side / 2, 3)
        view.mul_(slope).add_(0.5 - 0.5 * slope).mul_(light).mul_(shade).clamp_(1e-4, 1).pow_(around_one(side))
        rough = torch.randn(view.shape, generator=generator, dtype=torch.float32).to(device)
        views.append(view.addcmul_(rough, noise).clamp_(0, 1))
    left, right = views
    right = right.clone()
    for sample, (motion, length, angle, jpeg, quality, dirt) in enumerate(luck):
        for number, view in enumerate((left, right)):
            if motion < config.motion:
                view[sample] = _smear(view[sample], 1 + 5 * length, angle * math.pi)
            if dirt < config.dirt and (dirt < config.dirt / 2) == bool(number):
                view[sample] = _specks(view[sample], generator)
            if jpeg < config.jpeg:
                view[sample] = _jpeg(view[sample], int(30 + 65 * quality))
    for sample in range(b):
        p = torch.rand(7, generator=generator, dtype=torch.float32).tolist()
        if p[0] > config.occluder:
            continue
        height, width = int(h * (0.1 + 0.3 * p[1])), int(w * (0.05 + 0.25 * p[2]))
        y, x = int(p[3] * (h - height)), int(p[4] * (w - width))
        y2, x2 = int(p[5] * (h - height)), int(p[6] * (w - width))
        right[sample, :, y : y + height, x : x + width] = right[sample, :, y2 : y2 + height, x2 : x2 + width].clone()
    return left, right
