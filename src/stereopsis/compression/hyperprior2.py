"""The second hyperprior codec: one image of 8 to 16 bits, all rates, one weight, a stronger transform and context.

It keeps the shape of :mod:`stereopsis.compression.hyperprior` (y, z, gains for all rates, exact probabilities) and
replaces every network::

          1/8                            1/16                                    1/64
    x ─► P ─► residual blocks ─► Haar ─► Q ─► residual blocks ─► y ──► h_a ─► z ─► round ══ z symbols
                                                                 │                          │
                             gain, round(· - mean) ◄─────────────┘                         h_s
                                       ║  ▲ mean, scale                                     │ features
                             y symbols in four steps ◄── context of the steps before ◄──────┤
                                       ║                        1  3                        │
                                       ▼                        4  2                        │
    x_hat ◄─ P' ◄─ residual blocks ◄─ inverse Haar ◄─ Q' ◄─ residual blocks ◄─ y_hat ◄──────┘

P rotates blocks of 8 x 8 pixels, Q the four Haar subbands of their coefficients. At the start of the training both are
the principal components of images, scaled to variance 1, P' and Q' are their inverses, and every residual block adds
nothing: the codec then equals a transform codec of 16 x 16 blocks with 320 of its 768 components. The blocks work at
1/8 and 1/16 of the resolution, where a convolution is a product of large matrices, which CPUs compute at their peak; no
layer works at full resolution.

Sources:
    the linear path: Li et al., "On disentangled training for nonlinear transform in learned image compression" (AuxT),
    ICLR 2025, https://arxiv.org/abs/2501.13751;
    blocks at low resolution: Jia et al., "Towards practical real-time neural video compression" (DCVC-RT), CVPR 2025,
    https://arxiv.org/abs/2502.20762;
    four steps: Li, Li, Lu, "Neural video compression with diverse contexts" (DCVC-DC), CVPR 2023,
    https://arxiv.org/abs/2302.14402; its parent, the checkerboard: He et al., CVPR 2021;
    scales a channel before and after a convolution, folded after the training: PICO, Apple, 2025.

Deviations: the linear path of AuxT is the identity path of the residual blocks, not a second branch with a loss of its
own; its first three levels are one rotation of 8 x 8 blocks. Blocks are a depthwise 3 x 3 and two 1 x 1 convolutions
with one ReLU. The four steps share out positions only, not groups of channels; every step has networks of its own,
which correct what h_s predicts. Images whose values are no multiples of 1/255 are stretched to the whole range before
they are coded (``stretch``), so that 12 bits in a file of 16 are coded as finely as 8 bits in a file of 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.compression.bitstream import Stream
from stereopsis.compression.entropy import MEAN_BITS, Decoder, Encoder, FactorizedPrior, checksum
from stereopsis.compression.integer import IntegerNet, to_fixed
from stereopsis.compression.layers import FAST, START_SCALE, conv, deconv, round_through
from stereopsis.compression.losses import luma_matrix
from stereopsis.compression.single import Code, HyperpriorCodec, start_at_zero, start_of_scales
from stereopsis.ops.images import bits_of
from stereopsis.zoo.registry import register

BLOCK = 8  # pixels of the input in one position of the first stage
PIXELS = 3 * BLOCK**2
STEPS = ((0, 0), (1, 1), (0, 1), (1, 0))  # row and column of each step's positions, modulo 2
# A network's unit of a table index is 2^3 tables, about as large a change as a unit of the mean.
INDEX_BITS = 3
# By which weights of the linear path are stored larger: Adam's steps, which suit new weights, then turn it more slowly.
SLOW = 4.0
START_DEVIATION = 1.5  # of z at the start of the training, in its steps
# Deviation below which a component of a block is not stretched to variance 1: it holds little but noise of the camera.
FLOOR = 0.01
WHOLE = 2**16 - 1  # the range of 16 bits


@dataclass(frozen=True)
class Hyperprior2Config:
    """The numbers of one variant; the defaults are the shipped shape.

    Attributes:
        widths: channels at 1/8, of which 192 hold a block without loss, and at 1/16, at least ``latent``.
        encoder, decoder: residual blocks at 1/8 and at 1/16.
        expansion: channels between the 1 x 1 convolutions of a block, as a multiple of its own.
        latent: channels of y at 1/16.
        hyper: channels of z at 1/64.
        hidden: channels inside h_a and h_s at 1/32.
        context: channels of the context, and inside the network that uses it; 0 codes y in one step.
    """

    widths: tuple[int, int] = (192, 320)
    encoder: tuple[int, int] = (2, 3)
    decoder: tuple[int, int] = (3, 3)
    expansion: int = 2
    latent: int = 320
    hyper: int = 96
    hidden: int = 192
    context: int = 192


# --- transforms


class Linear(nn.Conv2d):
    """A 1 x 1 convolution with a learned scale of each channel before and after it.

    The scales, stored as logarithms, let one step of the optimiser change a whole row or column by a factor;
    :meth:`fold` multiplies them into the weight.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1)
        self.log_in = nn.Parameter(torch.zeros(c_in, dtype=torch.float32))
        self.log_out = nn.Parameter(torch.zeros(c_out, dtype=torch.float32))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ h w"]:
        return self._conv_forward(x, self._scaled(), self.bias)

    def _scaled(self) -> Tensor:
        return self.weight * self.log_out.exp().view(-1, 1, 1, 1) * self.log_in.exp().view(1, -1, 1, 1)

    @torch.no_grad()
    def fold(self) -> None:
        """Make the scales 1 without changing what is computed."""
        self.weight.copy_(self._scaled())
        self.log_in.zero_()
        self.log_out.zero_()

    @torch.no_grad()
    def set(self, weight: Float[Tensor, "o i"], before: Float[Tensor, " i"], after: Float[Tensor, " o"]) -> None:
        """Take a matrix for the first rows and columns; other rows become 0, other columns keep random numbers."""
        rows, columns = weight.shape
        self.weight[rows:] = 0
        self.weight[:rows, :columns] = SLOW * weight.to(self.weight)[..., None, None]
        self.log_in[:columns] = before.log().to(self.weight)
        self.log_out[:rows] = (after / SLOW).log().to(self.weight)
        assert self.bias is not None
        self.bias.zero_()


class ResidualBlock(nn.Module):
    """Adds a depthwise 3 x 3 and two 1 x 1 convolutions; at the start of the training it adds 0."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)
        self.expand = Linear(channels, expansion * channels)
        self.reduce = Linear(expansion * channels, channels)
        nn.init.zeros_(self.reduce.weight)
        assert self.reduce.bias is not None
        nn.init.zeros_(self.reduce.bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.reduce(F.relu(self.expand(self.depthwise(x)), inplace=True))


class Haar(nn.Module):
    """The Haar transform of one level: subbands LL, LH, HL, HH of all channels after each other, orthonormal."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 4c h/2 w/2"]:
        top, bottom = x[..., ::2, :], x[..., 1::2, :]
        low, high = top + bottom, top - bottom
        parts = [sign for rows in (low, high) for sign in (rows[..., ::2] + rows[..., 1::2],
                                                           rows[..., ::2] - rows[..., 1::2])]  # fmt: skip
        return torch.cat(parts, 1) / 2


class InverseHaar(nn.Module):
    """The inverse of :class:`Haar`."""

    def forward(self, x: Float[Tensor, "b 4c h w"]) -> Float[Tensor, "b c 2h 2w"]:
        ll, lh, hl, hh = (x / 2).chunk(4, 1)
        low, high = (ll + lh, ll - lh), (hl + hh, hl - hh)
        rows = [torch.stack((a, b), -1).flatten(-2) for a, b in ((low[0] + high[0], low[1] + high[1]),
                                                                 (low[0] - high[0], low[1] - high[1]))]  # fmt: skip
        return torch.stack(rows, -2).flatten(-3, -2)


class AnalysisTransform(nn.Sequential):
    """``g_a``: 8 x 8 pixels, P, blocks, Haar, Q, blocks, y."""

    def __init__(self, config: Hyperprior2Config) -> None:
        (fine, coarse), (n_fine, n_coarse) = config.widths, config.encoder
        super().__init__()
        self.blocks = nn.PixelUnshuffle(BLOCK)
        self.p = Linear(PIXELS, fine)
        self.fine = nn.Sequential(*(ResidualBlock(fine, config.expansion) for _ in range(n_fine)))
        self.haar = Haar()
        self.q = Linear(4 * fine, coarse)
        self.coarse = nn.Sequential(*(ResidualBlock(coarse, config.expansion) for _ in range(n_coarse)))
        self.last = Linear(coarse, config.latent)


class SynthesisTransform(nn.Sequential):
    """``g_s``: y_hat, blocks, Q', inverse Haar, blocks, P', 8 x 8 pixels."""

    def __init__(self, config: Hyperprior2Config) -> None:
        (fine, coarse), (n_fine, n_coarse) = config.widths, config.decoder
        super().__init__()
        self.first = Linear(config.latent, coarse)
        self.coarse = nn.Sequential(*(ResidualBlock(coarse, config.expansion) for _ in range(n_coarse)))
        self.q = Linear(coarse, 4 * fine)
        self.haar = InverseHaar()
        self.fine = nn.Sequential(*(ResidualBlock(fine, config.expansion) for _ in range(n_fine)))
        self.p = Linear(fine, PIXELS)
        self.blocks = nn.PixelShuffle(BLOCK)


def principal_components(x: Float[Tensor, "b c h w"]) -> tuple[Float64[Tensor, "c c"], Float64[Tensor, " c"]]:
    """The components of vectors about 0, the largest first, one a row, and the deviation of each, at least FLOOR."""
    values = x.double().transpose(0, 1).flatten(1)
    variance, vectors = torch.linalg.eigh(values @ values.mT / values.shape[1])
    return vectors.flip(1).mT, (variance.flip(0).clamp(min=0) + FLOOR**2).sqrt()


# --- the codec


class Hyperprior2(HyperpriorCodec):
    """The codec; see the module's text for the parts and the deviations.

    ``model(image, quality)`` is for training, :meth:`finalize` ends it, and ``model.compress(pair, quality)`` and
    ``model.decompress(content)`` are for use. A pair is coded view by view.

    Args:
        config: the variant.
        name: what files say they were written by.

    Raises:
        ValueError: fewer channels than the transforms need.
    """

    g_a: AnalysisTransform
    g_s: SynthesisTransform
    h_a: nn.Sequential

    def __init__(self, config: Hyperprior2Config | None = None, name: str = "hyperprior2") -> None:
        config = config or Hyperprior2Config()
        m, n, hidden, relu = config.latent, config.hyper, config.hidden, nn.ReLU()
        fewest, most = m, 4 * min(PIXELS, config.widths[0])
        if config.widths[1] < fewest or m > most:
            raise ValueError(
                f"widths are {config.widths} and latent is {m}; give at least {fewest} channels at 1/16, and at most "
                f"{most} latent channels."
            )
        super().__init__(name, m, n)
        self.config = config
        self.g_a = AnalysisTransform(config)
        self.g_s = SynthesisTransform(config)
        self.h_a = nn.Sequential(conv(m, hidden, 1, 1), relu, conv(hidden, hidden), relu, conv(hidden, n))
        self.h_s = IntegerNet(nn.Sequential(deconv(n, hidden), relu, deconv(hidden, m), relu, conv(m, 2 * m, 1, 1)))
        start_of_scales(self.h_s, m, 2**INDEX_BITS)
        self.prior = FactorizedPrior(n, spread=2 * START_DEVIATION)
        steps = len(STEPS) - 1 if config.context else 0
        # a step's positions are every second one of every second row
        self.context = nn.ModuleList(
            IntegerNet(nn.Sequential(nn.Conv2d(m, config.context, 3, stride=2))) for _ in range(steps)
        )
        self.correction = nn.ModuleList(self._correction(config) for _ in range(steps))

    @staticmethod
    def _correction(config: Hyperprior2Config) -> IntegerNet:
        inputs, outputs = 2 * config.latent + config.context, 2 * config.latent
        net = IntegerNet(
            nn.Sequential(conv(inputs, config.context, 1, 1), nn.ReLU(), conv(config.context, outputs, 1, 1))
        )
        start_at_zero(net)
        return net

    # --- training

    @torch.no_grad()
    def start_from_images(self, images: Float[Tensor, "b 3 h w"], luma: float = 1.0) -> None:
        colors, m = luma_matrix(luma).to(images), self.latent
        encoder, decoder = self.g_a, self.g_s
        seen = torch.einsum("dc,bchw->bdhw", colors, images - 0.5)
        blocks = F.pixel_unshuffle(seen, BLOCK)
        kept, ones = min(PIXELS, self.config.widths[0]), torch.ones_like
        rotation, deviation = (found[:kept] for found in principal_components(blocks))
        # rotations of blocks of the weighted colours, as rotations of blocks of pixels: (component, colour, place)
        forth, back = (
            torch.einsum("kdp,dc->kcp", rotation.view(kept, 3, -1), change.double()).flatten(1)
            for change in (colors, torch.linalg.inv(colors))
        )
        encoder.p.set(forth, ones(forth[0]), 1 / deviation)
        decoder.p.set(back.mT, deviation, ones(back[0]))

        fine = torch.einsum("kc,bchw->bkhw", rotation, blocks.double())
        subbands, spread = Haar()(fine), deviation.repeat(4)
        rotation, deviation = (found[:m] for found in principal_components(subbands))
        inside = torch.arange(4 * self.config.widths[0]).view(4, -1)[:, :kept].flatten()  # of the unused channels
        whole = rotation.new_zeros(m, 4 * self.config.widths[0])
        whole[:, inside] = rotation
        outer = deviation.new_ones(whole.shape[1])
        outer[inside] = spread
        encoder.q.set(whole, outer, 1 / deviation)
        decoder.q.set(whole.mT, deviation, 1 / outer)
        identity = torch.eye(m, dtype=torch.float64)
        encoder.last.set(identity, ones(deviation), ones(deviation))
        decoder.first.set(identity, ones(deviation), ones(deviation))
        # steps as those of the components, which have now the variance 1
        change = (START_SCALE * deviation).log().to(self.log_gain)
        self.log_gain.add_(change - self.log_gain.mean(0))
        self.log_inverse.copy_(-self.log_gain)
        # z that is 0 nearly everywhere would teach h_s nothing
        last = self.h_a[-1]
        assert isinstance(last, nn.Conv2d)
        last.weight *= START_DEVIATION / self.h_a(encoder(images - 0.5)).std()
        self.forget()

    def _distribution(self, y: Tensor, features: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        if not self.config.context:
            return self._scaled(features, gain)
        means, indices, known = ([torch.zeros_like(y[..., ::2, ::2])] * 4 for _ in range(3))
        for number, (row, column) in enumerate(STEPS):
            at = (..., slice(row, None, 2), slice(column, None, 2))
            found, place = features[at], 2 * row + column
            if number:
                context = F.pad(_joined(known), (1, 1, 1, 1))[..., row:, column:]
                with self._precision(y):
                    near = torch.cat([found, self.context[number - 1](context)], 1)
                    found = found + self.correction[number - 1](near)
            means[place], indices[place] = self._scaled(found, gain)
            y_hat = round_through(y[at] - means[place]) + means[place]
            known[place] = to_fixed(y_hat / gain)
        return _joined(means), _joined(indices)

    def _features(self, z: Float[Tensor, "b n h/4 w/4"]) -> Float[Tensor, "b 2m h w"]:
        # bfloat16 moves the predictions a little, as noise would, and takes half the time
        with self._precision(z):
            return self.h_s(z).float()

    def _scaled(self, parameters: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and table index of y times gain, of what the networks give."""
        mean, index = parameters.chunk(2, 1)
        return self._split(torch.cat([mean, index * 2**INDEX_BITS], 1), gain)

    def finalize(self) -> None:
        for module in self.modules():
            if isinstance(module, Linear):
                module.fold()
        super().finalize()

    # --- coding

    def _walk(self, features: Float64[Tensor, "1 c h w"], level: int, code: Code) -> Int64[Tensor, "m h w"]:
        mean, index = self._exact_scaled(features, level)
        y_hat = torch.zeros_like(mean)
        if not self.config.context:
            every = torch.ones(mean.shape[-2:], dtype=torch.bool, device=mean.device)
            return (code(mean, index, every).view_as(mean) << MEAN_BITS) + mean
        for number, (row, column) in enumerate(STEPS):
            at = (..., slice(row, None, 2), slice(column, None, 2))
            if number:
                context = F.pad(self._exact_known(y_hat, level), (1, 1, 1, 1))[..., row:, column:]
                near = torch.cat([features[at], _exact(self.context[number - 1], context)], 1)
                found = features[at] + _exact(self.correction[number - 1], near)
                mean[at], index[at] = self._exact_scaled(found, level)
            chosen = torch.zeros(mean.shape[-2:], dtype=torch.bool, device=mean.device)
            chosen[at] = True
            y_hat[:, chosen] = (code(mean, index, chosen) << MEAN_BITS) + mean[:, chosen]
        return y_hat

    def _exact_scaled(self, parameters: Tensor, level: int) -> tuple[Int64[Tensor, "m h w"], Int64[Tensor, "m h w"]]:
        """:meth:`_scaled` in whole numbers: means in 1/64 and table indices."""
        mean, index = parameters.chunk(2, 1)
        return self._exact_split(torch.cat([mean, index * 2**INDEX_BITS], 1), level)

    def _begin(self, encoder: Encoder, view: Float[Tensor, "1 3 h w"]) -> tuple[Float[Tensor, "1 3 h w"], int]:
        reach = stretch(view)
        encoder.encode_check(reach)
        return view * (WHOLE / reach) if reach else view, checksum(np.array([reach]))

    def _resume(self, decoder: Decoder) -> int:
        return checksum(np.array([decoder.decode_check()]))

    def in_steps(self, views: list[Float[Tensor, "1 c h w"]], streams: list[Stream]) -> list[Float[Tensor, "1 c h w"]]:
        shown = []
        for view, stream in zip(views, streams, strict=True):
            reach = Decoder(stream.payload).decode_check()
            shown.append((view.clamp(0, 1) * (reach or 255)).round() / (WHOLE if reach else 255))
        return shown


def stretch(view: Float[Tensor, "1 3 h w"]) -> int:
    """The largest value of an image of more than 8 bits, in steps of 1/65535, for which it is stretched to [0, 1]; 0 of
    8 bits, and of an image without light."""
    if bits_of(view) == 8:
        return 0
    return int((view.max() * WHOLE).ceil().clamp(max=WHOLE))


def _joined(parts: list[Float[Tensor, "b c h w"]]) -> Float[Tensor, "b c 2h 2w"]:
    """The image whose even and odd rows and columns these are."""
    return F.pixel_shuffle(torch.stack(parts, 2).flatten(1, 2), 2)


def _exact(net: nn.Module, x: Float64[Tensor, "b c h w"]) -> Float64[Tensor, "b _ _ _"]:
    assert isinstance(net, IntegerNet)
    return net.integer(x.contiguous(memory_format=FAST))


def _register(name: str, description: str, **options: Any) -> None:
    config = Hyperprior2Config()
    register(
        name,
        family="compression",
        architecture="hyperprior2",
        build=lambda: Hyperprior2(config, name),
        config=config,
        description=description,
        **options,
    )


_register("hyperprior2", "second hyperprior codec for one image of 8 to 16 bits, untrained")
_register("hyperprior2.photos", "the same, to be trained on photos", licence="Apache-2.0")
