"""A small codec with random weights whose latents are lively, and a picture to code with it."""

from dataclasses import replace
from typing import Any

import torch

from stereopsis.compression.hyperprior import Hyperprior, HyperpriorConfig
from stereopsis.compression.hyperprior2 import Hyperprior2, Hyperprior2Config

TINY = HyperpriorConfig(widths=(8, 8, 12), latent=12, hyper=8, hidden=18)
NAME = "hyperprior.test"
TINY2 = Hyperprior2Config(widths=(12, 12), encoder=(1, 1), decoder=(1, 1), latent=12, hyper=8, hidden=8, context=8)
NAME2 = "hyperprior2.test"


def tiny(checkerboard: bool = False) -> Hyperprior:
    torch.manual_seed(7)
    codec = Hyperprior(replace(TINY, checkerboard=checkerboard), NAME)
    with torch.no_grad():
        codec.g_a[-1].weight.mul_(200)
        codec.h_a[-1].weight.mul_(20)
        codec.h_s[-1].weight.mul_(20)
    codec.finalize()
    return codec.eval()


def tiny2(context: int = 8, **changes: Any) -> Hyperprior2:
    torch.manual_seed(7)
    codec = Hyperprior2(replace(TINY2, context=context, **changes), NAME2)
    with torch.no_grad():
        codec.start_from_images(torch.cat([photo(64, 96, phase) for phase in (0.0, 1.0, 2.0, 3.0)]))
        codec.log_gain.clamp_(min=-1)  # deviations of smooth waves are small
        codec.log_inverse.copy_(-codec.log_gain)
        codec.h_s[-1].weight.mul_(5)
        for net in codec.correction:
            net[-1].weight.normal_(std=0.1)
    codec.finalize()
    return codec.eval()


def photo(height: int, width: int, phase: float = 0.0) -> torch.Tensor:
    """Waves, noise and an edge, (1, 3, H, W), in steps of 1/255."""
    y, x = torch.meshgrid(torch.arange(height) / 16, torch.arange(width) / 16, indexing="ij")
    channels = [0.5 + 0.25 * torch.sin(x * k + phase) + 0.2 * torch.cos(y * (4 - k)) for k in (1, 2, 3)]
    noise = torch.rand(3, height, width, generator=torch.Generator().manual_seed(int(100 * phase)))
    picture = torch.stack(channels).float() + 0.2 * (noise - 0.5)
    picture[..., width // 3 : width // 2] *= 0.5
    return (picture.clamp(0, 1) * 255).round()[None] / 255
