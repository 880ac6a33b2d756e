"""The hyperprior codec: one image, all rates, one weight.

Balle, Minnen, Singh, Hwang, Johnston, "Variational image compression with a scale hyperprior", ICLR 2018
(https://arxiv.org/abs/1802.01436), with the means of Minnen, Balle, Toderici, NeurIPS 2018, the gains of Cui et al.,
"Asymmetric gained deep image compression with continuous rate adaptation", CVPR 2021, and, where the configuration says
so, the two passes of He et al., "Checkerboard context model", CVPR 2021::

    x ──g_a──► y ──× gain──► round(· - mean) ══ y symbols ══► + mean ──× inverse gain──► g_s ──► x_hat
               │                      ▲ mean, scale                        │
               └─h_a─► z ─► round ══ z symbols ══► h_s ─────► parameters ◄─┘ context (second pass)

``g_a`` does not know the quality. The densities of y and z are those of the unscaled values; the quality chooses the
steps they are rounded in, for each channel, and what ``g_s`` multiplies the steps back with.

Everything between the symbols and ``mean, scale`` is computed in whole numbers (:mod:`stereopsis.compression.integer`).
A mean is a multiple of 1/64 and what is coded is a whole number, so that the pixels alone feel float noise.

Deviations from the papers: ReLU in place of leaky ReLU, to be simple where h_s is exact; a second pass that corrects
what h_s says, which the first pass takes as it is, in place of one network for both; gains of z that are constant
between qualities; inverse gains of z that are the reciprocals of the gains; no auxiliary loss, because tables are
centred on the median when they are built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from stereopsis.compression.entropy import (
    MEAN_BITS,
)
from stereopsis.compression.integer import IntegerNet, shift_right, to_fixed
from stereopsis.compression.layers import (
    analysis,
    conv,
    deconv,
    round_through,
    start_as_block_transform,
    synthesis,
)
from stereopsis.compression.losses import luma_matrix
from stereopsis.compression.single import (
    Code,
    HyperpriorCodec,
    start_at_zero,
    start_of_scales,
    to_activation,
)
from stereopsis.zoo.registry import register

CORRECTION_BITS = 4  # by which table indices, up to 63, are shrunk before a network takes them


@dataclass(frozen=True)
class HyperpriorConfig:
    """The numbers of one variant; the defaults are the shipped shape.

    Attributes:
        widths: channels at 1/2, 1/4 and 1/8 (the papers' N).
        latent: channels of y at 1/16 (the papers' M).
        hyper: channels of z at 1/64 (the papers' N).
        checkerboard: code y in two passes, the second with the neighbours of the first as context.
        hidden: channels before the last layer of h_s.
    """

    widths: tuple[int, int, int] = (32, 64, 128)
    latent: int = 160
    hyper: int = 64
    checkerboard: bool = False
    hidden: int = 160


class Hyperprior(HyperpriorCodec):
    """The codec; see the module's text for the parts and the deviations.

    ``model(image, quality)`` is for training, :meth:`finalize` ends it, and ``model.compress(pair, quality)`` and
    ``model.decompress(content)`` are for use. A pair is coded view by view.

    Args:
        config: the variant.
        name: what files say they were written by.
    """

    g_a: nn.Sequential
    g_s: nn.Sequential

    def __init__(self, config: HyperpriorConfig | None = None, name: str = "hyperprior") -> None:
        config = config or HyperpriorConfig()
        m, n = config.latent, config.hyper
        super().__init__(name, m, n)
        self.config = config
        self.g_a = analysis((3, *config.widths, m))
        self.g_s = synthesis((m, *config.widths[::-1], 3))
        self.h_a = nn.Sequential(conv(m, n, 3, 1), nn.ReLU(), conv(n, n), nn.ReLU(), conv(n, n))
        relu = nn.ReLU()
        self.h_s = IntegerNet(
            nn.Sequential(deconv(n, m), relu, deconv(m, config.hidden), relu, conv(config.hidden, 2 * m, 3, 1))
        )
        start_of_scales(self.h_s, m)
        if config.checkerboard:
            self.context = IntegerNet(nn.Sequential(conv(m, m, 5, 1)))
            self.entropy_parameters = IntegerNet(
                nn.Sequential(conv(3 * m, 2 * m, 1, 1), relu, conv(2 * m, 2 * m, 1, 1))
            )
            start_at_zero(self.entropy_parameters)

    def start_from_images(self, images: Float[Tensor, "b 3 h w"], luma: float = 1.0) -> None:
        start_as_block_transform(self.g_a, self.g_s, images - 0.5, luma_matrix(luma))
        self.forget()

    def _distribution(self, y: Tensor, features: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        mean, index = self._split(features, gain)
        if self.config.checkerboard:
            first = checkerboard(y.shape[-2:], y.device)
            y_hat = (round_through(y - mean) + mean) * first
            mean2, index2 = self._split(self._corrected(features, to_fixed(y_hat / gain)), gain)
            mean, index = torch.where(first, mean, mean2), torch.where(first, index, index2)
        return mean, index

    def _corrected(self, features: Tensor, context: Tensor) -> Tensor:
        """Mean and table index, unscaled: what h_s gives, corrected by what the first pass coded."""
        known = torch.cat([to_fixed(features / 2**CORRECTION_BITS), self.context(context)], 1)
        return features + self.entropy_parameters(known)

    def _walk(self, features: Float64[Tensor, "1 c h w"], level: int, code: Code) -> Int64[Tensor, "m h w"]:
        mean, index = self._exact_split(features, level)
        y_hat = torch.zeros_like(mean)
        every = torch.ones(mean.shape[-2:], dtype=torch.bool, device=mean.device)
        first = checkerboard(mean.shape[-2:], mean.device) if self.config.checkerboard else every
        y_hat[:, first] = (code(mean, index, first) << MEAN_BITS) + mean[:, first]
        if self.config.checkerboard:
            mean, index = self._exact_split(self._exact_corrected(features, self._exact_known(y_hat, level)), level)
            y_hat[:, ~first] = (code(mean, index, ~first) << MEAN_BITS) + mean[:, ~first]
        return y_hat

    def _exact_corrected(self, features: Tensor, context: Tensor) -> Tensor:
        """:meth:`_corrected` in whole numbers."""
        small = to_activation(shift_right(features.long(), CORRECTION_BITS))
        return features + self.entropy_parameters.integer(torch.cat([small, self.context.integer(context)], 1))


def checkerboard(size: torch.Size | tuple[int, ...], device: torch.device) -> Bool[Tensor, "h w"]:
    """Positions of the first pass: those whose row and column add to an even number."""
    rows, columns = (torch.arange(side, device=device) for side in size)
    return (rows[:, None] + columns) % 2 == 0


# The shape of CompressAI's and the literature's mean-scale models at low rates.
PAPER = HyperpriorConfig(widths=(128, 128, 128), latent=192, hyper=128, hidden=288)


def _register(name: str, config: HyperpriorConfig, description: str, **options: Any) -> None:
    register(
        name,
        family="compression",
        architecture="hyperprior",
        build=lambda: Hyperprior(config, name),
        config=config,
        description=description,
        **options,
    )


_register("hyperprior", HyperpriorConfig(), "mean-scale hyperprior codec for one image, untrained")
_register("hyperprior.paper", PAPER, "the same in the papers' shape (N=128, M=192), untrained")
_register(
    "hyperprior.photos",
    HyperpriorConfig(),
    "mean-scale hyperprior codec for one image, all rates, trained on photos",
    licence="Apache-2.0",
    weights_file="hyperprior.photos.safetensors",
)
