"""Blocks that the codecs share: divisive normalisation, strided convolutions, and rounding that can be trained."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

BETA_MIN = 1e-6
# Of latents that are components of blocks of 16 x 16: a step of 1 / gain is then about the best one for each lambda,
# sqrt(18 / (lambda ln 2)) / 255.
START_SCALE = 4.0
# Added under the root of the stored parameters, so that their gradient does not vanish at 0.
PEDESTAL = 2.0**-18
FAST = torch.channels_last  # a third of the time of the default on CPUs
SLOPE = 0.1  # of leaky ReLU


class _LowerBound(torch.autograd.Function):
    """max(x, bound), whose gradient also passes below the bound where it leads upwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return torch.where((x >= ctx.bound) | (gradient < 0), gradient, 0.0), None


def lower_bound(x: Float[Tensor, "*shape"], bound: float) -> Float[Tensor, "*shape"]:
    """max(x, bound); below the bound a gradient that would raise x still passes."""
    return _LowerBound.apply(x, bound)


def bounded(x: Float[Tensor, "*shape"], low: float, high: float) -> Float[Tensor, "*shape"]:
    """x in [low, high]; outside, a gradient that leads back inside still passes."""
    return -lower_bound(-lower_bound(x, low), -high)


def round_through(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Rounded, with the gradient of the identity (straight-through)."""
    return x + (x.round() - x).detach()


class GDN(nn.Module):
    """Generalised divisive normalisation, ``y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2)`` (Balle, 2016, Eq. 2)."""

    power = -0.5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.beta = nn.Parameter((torch.ones(channels, dtype=torch.float32) + PEDESTAL**2).sqrt())
        self.gamma = nn.Parameter((0.1 * torch.eye(channels, dtype=torch.float32) + PEDESTAL**2).sqrt())

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        beta = lower_bound(self.beta, (BETA_MIN + PEDESTAL**2) ** 0.5).square() - PEDESTAL**2
        gamma = lower_bound(self.gamma, PEDESTAL).square() - PEDESTAL**2
        norm = F.conv2d(x.square(), gamma[..., None, None], beta)
        return x * (norm.rsqrt() if self.power < 0 else norm.sqrt())


class IGDN(GDN):
    """The approximate inverse of GDN, ``y_i = x_i sqrt(beta_i + sum_j gamma_ij x_j^2)``."""

    power = 0.5


def conv(c_in: int, c_out: int, size: int = 5, stride: int = 2) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, size, stride, size // 2)


def deconv(c_in: int, c_out: int, size: int = 5, stride: int = 2) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(c_in, c_out, size, stride, size // 2, output_padding=stride - 1)


def analysis(widths: tuple[int, ...]) -> nn.Sequential:
    """``g_a``: strided convolutions from the first to the last of these channels, with GDN between them."""
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise(widths):
        layers += [conv(c_in, c_out), GDN(c_out)]
    return nn.Sequential(*layers[:-1])


def synthesis(widths: tuple[int, ...]) -> nn.Sequential:
    """``g_s``: transposed convolutions from the first to the last of these channels, with IGDN between them."""
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise(widths):
        layers += [deconv(c_in, c_out), IGDN(c_out)]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def start_as_block_transform(
    encoder: nn.Sequential, decoder: nn.Sequential, images: Float[Tensor, "b c h w"], colors: Float[Tensor, "c c"]
) -> None:
    """Let ``g_a`` begin as the principal components of ever larger blocks, and ``g_s`` as its transpose.

    From there on the training need not find a transform, only a better one. Each layer takes the blocks of 2 x 2 of the
    components before; those that are more than its channels are lost. Channels beyond the components keep random
    weights in the encoder and are not heard in the decoder at first. Normalisations begin as almost nothing.

    Args:
        images: whose components are taken, of mean about 0 and with sides that the stride divides.
        colors: symmetric; the components are those of images whose colours it is multiplied by, and the squared error
            is least after it.
    """
    down = [layer for layer in encoder if isinstance(layer, nn.Conv2d)]
    up = [layer for layer in decoder if isinstance(layer, nn.ConvTranspose2d)][::-1]
    for norm in (*encoder, *decoder):
        if isinstance(norm, GDN):
            norm.gamma.fill_(0.003).fill_diagonal_(0.01)
    x = torch.einsum("dc,bchw->bdhw", colors.to(images), images).double()
    for forth, back in zip(down, up, strict=True):
        used, first = x.shape[1], forth.kernel_size[0] // 2
        blocks = F.pixel_unshuffle(x, 2)
        values = blocks.transpose(0, 1).flatten(1)
        basis = torch.linalg.eigh(values @ values.mT)[1].flip(1).mT[: forth.out_channels]
        count = len(basis)
        block = (slice(None, count), slice(None, used), slice(first, first + 2), slice(first, first + 2))
        forth.weight[:count] = 0
        forth.weight[block] = basis.view(count, used, 2, 2).to(forth.weight)
        back.weight[:, :used] = 0
        back.weight[block] = basis.view(count, used, 2, 2).to(back.weight)
        for bias in (forth.bias, back.bias):
            assert bias is not None
            bias.zero_()
        x = torch.einsum("kc,bchw->bkhw", basis, blocks)
    down[0].weight.copy_(torch.einsum("kdij,dc->kcij", down[0].weight, colors.to(images)))
    up[0].weight.copy_(torch.einsum("kdij,dc->kcij", up[0].weight, torch.linalg.inv(colors).to(images)))
    down[-1].weight *= START_SCALE
    up[-1].weight /= START_SCALE
