"""What an encoder can do for its image in more time: latents that suit it better; the decoder stays the same.

``g_a`` gives the latents that are best on average. For one image, gradient descent on rate + lambda distortion finds
better ones (Campos, Meierhans, Djelouah, Schroers, "Content adaptive optimization for neural image compression", 2019;
Yang, Bamler, Mandt, "Improving inference for neural image compression", NeurIPS 2020, https://arxiv.org/abs/2006.04240).
Rounding has no gradient: each latent is drawn from its two neighbours, with probabilities and a relaxation that a
falling temperature sharpens (stochastic Gumbel annealing, Yang, Eq. 10).
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from stereopsis.compression.losses import lambda_of

EFFORTS = 4
STEPS = (0, 20, 60, 200)  # of each effort
RATE = 0.03  # of Adam, in steps of a latent
HOTTEST, COLDEST = 0.5, 0.1
EDGE = 1e-4  # how far inside (0, 1) a fraction and a random number stay


class Refinable(Protocol):
    """What :func:`refine` calls of :class:`~stereopsis.compression.single.HyperpriorCodec`."""

    @property
    def g_s(self) -> Any: ...

    @property
    def coded(self) -> Any: ...

    @property
    def _gains(self) -> Any: ...


def check_effort(effort: int) -> None:
    """
    Raises:
        ValueError: not 0, 1, 2 or 3.
    """
    if effort not in range(EFFORTS):
        raise ValueError(f"effort is {effort}; it must be 0 (fast) to {EFFORTS - 1} (small files), for example 1.")


class SoftRounding:
    """Draws each number's lower or upper neighbour, softened so that gradients pass.

    Args:
        temperature: 0.5 gives nearly any number between the neighbours, 0.1 nearly the nearest neighbour.
        generator: of the random numbers.
    """

    def __init__(self, temperature: float, generator: torch.Generator) -> None:
        self.temperature, self.generator = temperature, generator

    def __call__(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        below = x.detach().floor()
        share = (x - below).clamp(EDGE, 1 - EDGE)
        upper = (share.atanh() - (1 - share).atanh()) / self.temperature
        draw = torch.rand(x.shape, generator=self.generator, dtype=torch.float32).to(x).clamp(EDGE, 1 - EDGE)
        return below + ((upper + draw.logit()) / self.temperature).sigmoid()


def refine(
    codec: Refinable,
    x: Float[Tensor, "1 3 h w"],
    y: Float[Tensor, "1 m h/16 w/16"],
    z: Float[Tensor, "1 n h/64 w/64"],
    quality: float,
    steps: int,
) -> tuple[Float[Tensor, "1 m h/16 w/16"], Float[Tensor, "1 n h/64 w/64"]]:
    """Latents that minimise rate + lambda 255^2 MSE of one image.

    Args:
        codec: in evaluation mode.
        x: the padded image, in [0, 1].
        y, z: what ``g_a`` and ``h_a`` give; where to start.
        quality: 1 to 8.
        steps: of Adam; each takes about four times as long as decoding. The random numbers are the same in every call.
    """
    with torch.inference_mode(False), torch.enable_grad():
        generator = torch.Generator().manual_seed(0)
        wanted = torch.tensor([quality], device=x.device, dtype=torch.float32)
        gain, _, gain_z = (part.detach() for part in codec._gains(wanted))
        weight = 255**2 * float(lambda_of(quality))
        x = x.clone()
        latents = [(part * scale).clone().requires_grad_() for part, scale in ((y, gain), (z, gain_z))]
        optimizer = torch.optim.Adam(latents, RATE, betas=(0.9, 0.99))
        for step in range(steps):
            cooled = step / max(steps - 1, 1)
            rounding = SoftRounding(HOTTEST * math.exp(cooled * math.log(COLDEST / HOTTEST)), generator)
            y_hat, bits_y, bits_z = codec.coded(latents[0] / gain, latents[1] / gain_z, wanted, rounding)
            error = (codec.g_s(y_hat) + 0.5 - x).square().mean()
            loss = (bits_y + bits_z).sum() / x[0, 0].numel() + weight * error
            for part, gradient in zip(latents, torch.autograd.grad(loss, latents), strict=True):
                part.grad = gradient
            optimizer.step()
        return (latents[0] / gain).detach(), (latents[1] / gain_z).detach()
