"""Entropy models of DSIC: p(y1 | z1), and p(y2 | y1_hat, z2), which knows the other view (section 3.3).

A predictor turns what the decoder has into normal distributions or mixtures of them, in float for training and in whole
numbers for coding; :class:`EntropyModel` trains with it, and codes with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.compression.bitstream import Stream
from stereopsis.compression.codec import LEVELS, QUALITIES, quality_of
from stereopsis.compression.entropy import (
    MEAN_BITS,
    PRIOR_REACH,
    SCALE_MIN,
    SCALE_STEP,
    SCALES,
    WEIGHT_BITS,
    Decoder,
    Encoder,
    FactorizedPrior,
    GaussianMixtureConditional,
    Mixtures,
    Tables,
    bits,
    checksum,
    gaussian_tables,
    inverse_scales,
    noisy,
    normal_table,
    scale_of,
    tables_of_gaussians,
)
from stereopsis.compression.integer import FRACTION, IntegerConv, IntegerNet, shift_right, to_fixed
from stereopsis.compression.layers import FAST, bounded, conv, deconv, round_through
from stereopsis.compression.losses import LAMBDA_MAX, LAMBDA_MIN
from stereopsis.compression.single import (
    GAIN_BITS,
    MISMATCH,
    STEP_BITS,
    STRIDE,
    channel_of_each,
    nearest_row,
    to_activation,
    to_whole,
)

Y_STRIDE = 16  # pixels of the input in one of y
QUERY = 16  # channels of keys and queries
ROOT_BITS = 2  # log2 of the root of QUERY
EXP_REACH = 16  # exp(-16) and less counts as 0


@dataclass(frozen=True)
class DSICConfig:
    """The numbers of one variant; the defaults are the compact shape.

    Attributes:
        widths: channels at 1/2, 1/4 and 1/8 (the paper's N).
        latent: channels of y at 1/16 (M).
        hyper: channels of z at 1/64.
        hidden: channels before the last layer of what z predicts y with, where ``mixtures`` is 1.
        skips: parametric skip functions ("DispSkip" in figure 5).
        conditional: y2's probabilities depend on y1_hat ("CE0").
        hyperprior: z1 and z2 are there. Without the three switches the variant is the paper's "IE".
        mixtures: K of the mixtures; 1 codes ``round(y - mean)`` with ready tables.
        kernel: of skips and hyper-encoder.
        candidates: disparities of the cost volumes at 1/2, 1/4 and 1/8, in pixels there (C).
        cost_width: channels inside a cost volume.
        matching: channels of the features whose distance a cost volume is told; 0 for none.
        volume: channels that the context has for each candidate (F / 3).
        volume_layers: 3-D convolutions of the context.
        alignment: disparities that y1_hat is aligned over for p(y2 | y1_hat, z2), in pixels of 1/16; 1 for none. For
            ``mixtures=1``.
    """

    widths: tuple[int, int, int] = (32, 64, 128)
    latent: int = 160
    hyper: int = 64
    hidden: int = 160
    skips: bool = True
    conditional: bool = True
    hyperprior: bool = True
    mixtures: int = 1
    kernel: int = 3
    candidates: tuple[int, int, int] = (64, 32, 16)
    cost_width: int = 24
    matching: int = 16
    volume: int = 1
    volume_layers: int = 0
    alignment: int = 16


# --- predictors


def _run(net: nn.Module, x: Tensor, exact: bool) -> Tensor:
    assert isinstance(net, IntegerNet)
    return net.integer(x) if exact else net(x)


@dataclass(frozen=True)
class Distribution:
    """What is predicted of y before its gain; exact values are in steps of 1/256.

    Attributes:
        mean, index: of each normal distribution, the index that of its scale's table.
        logits: of the mixture's weights.
    """

    mean: Float[Tensor, "k b m h w"]
    index: Float[Tensor, "k b m h w"]
    logits: Float[Tensor, "k b m 1 1"] | None = None


class GaussianPredictor(nn.Module):
    """The hyperprior codec's ``h_s``, and where y1_hat is known its correction.

    Args:
        conditional: y1_hat is known.
    """

    exp: Tensor

    def __init__(self, config: DSICConfig, conditional: bool) -> None:
        super().__init__()
        m, n, relu = config.latent, config.hyper, nn.ReLU()
        self.alignment = config.alignment
        base = 0
        if config.hyperprior:
            self.h_s = IntegerNet(
                nn.Sequential(deconv(n, m), relu, deconv(m, config.hidden), relu, conv(config.hidden, 2 * m, 3, 1))
            )
            _start_of_scales(self.h_s, m)
            base = 2 * m
        if conditional:
            self.refine = IntegerNet(nn.Sequential(conv(base + m, m, 3, 1), relu, conv(m, 2 * m, 3, 1)))
            last = self.refine[-1]
            assert isinstance(last, IntegerConv)
            if base:  # h_s alone is a fair start
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
            else:
                _start_of_scales(self.refine, m)
        if conditional and base and config.alignment > 1:
            self.query = IntegerNet(nn.Sequential(conv(base, QUERY, 1, 1)))
            self.key = IntegerNet(nn.Sequential(conv(m, QUERY, 3, 1)))
            self.register_buffer("exp", exponentials())

    def forward(self, z: Tensor | None, y1: Tensor | None, exact: bool = False) -> Distribution:
        found = None if z is None else _run(self.h_s, z, exact)
        if y1 is not None:
            inputs = y1 if found is None else torch.cat([found, self._aligned(found, y1, exact)], 1)
            change = _run(self.refine, inputs, exact)
            found = change if found is None else found + change
        assert found is not None
        mean, index = found.chunk(2, 1)
        return Distribution(mean[None], index[None])

    def _aligned(self, features: Tensor, y1: Tensor, exact: bool) -> Tensor:
        """y1_hat moved to where view 2 has it, by the likeness of keys and queries: Eq. 3 before y2 is known."""
        if self.alignment == 1:
            return y1
        query, width = _run(self.query, features, exact), y1.shape[-1]
        key, padded = (F.pad(x, (0, self.alignment - 1)) for x in (_run(self.key, y1, exact), y1))
        likeness = torch.stack([(query * key[..., d : d + width]).sum(1) for d in range(self.alignment)], 1)
        if not exact:
            cost = (likeness / 2**ROOT_BITS).softmax(1)
            return to_fixed(sum(cost[:, d : d + 1] * padded[..., d : d + width] for d in range(self.alignment)))
        weight = _exponentials(shift_right(likeness.long(), FRACTION + ROOT_BITS), self.exp, 1)
        total = sum(weight[:, d : d + 1] * padded[..., d : d + width].long() for d in range(self.alignment))
        return torch.div(total, weight.sum(1, keepdim=True), rounding_mode="floor").double()


class MixturePredictor(nn.Module):
    """Scales, means and weights in branches of their own (the paper's supplement, section C.3).

    Args:
        conditional: y1_hat is known.
    """

    def __init__(self, config: DSICConfig, conditional: bool) -> None:
        super().__init__()
        self.k = config.mixtures
        n, out, relu = config.hyper, config.mixtures * config.latent, nn.ReLU()
        c_in = n * config.hyperprior + config.latent * conditional

        def step(c_in: int, c_out: int) -> nn.Module:
            return conv(c_in, c_out, 5, 1) if conditional else deconv(c_in, c_out)

        self.index, self.mean = (
            IntegerNet(nn.Sequential(step(c_in, n), relu, step(n, n), relu, conv(n, out, 5, 1))) for _ in range(2)
        )
        self.weight = IntegerNet(nn.Sequential(step(c_in, n), relu, step(n, out)))
        self.mix = IntegerNet(nn.Sequential(conv(out, out, 1, 1)))
        _start_of_scales(self.index, 0)

    def forward(self, z: Tensor | None, y1: Tensor | None, exact: bool = False) -> Distribution:
        if z is not None and y1 is not None:
            # weights in 1/64, so that float64 holds the sums
            large = F.interpolate(z, scale_factor=4, mode="bilinear")
            z = (large + 0.5).floor() if exact else to_fixed(large)
        features = torch.cat([x for x in (z, y1) if x is not None], 1)
        largest = _run(self.weight, features, exact).amax((2, 3), keepdim=True).relu()
        parts = (_run(self.mean, features, exact), _run(self.index, features, exact), _run(self.mix, largest, exact))
        mean, index, logits = (part.unflatten(1, (self.k, -1)).transpose(0, 1) for part in parts)
        return Distribution(mean, index, logits)


def _start_of_scales(net: IntegerNet, first: int) -> None:
    """Let training start at scales about 1, where likelihoods have gradients."""
    last = net[-1]
    assert isinstance(last, IntegerConv)
    with torch.no_grad():
        last.bias[first:] = -math.log(SCALE_MIN) / SCALE_STEP


def exponentials() -> Int[Tensor, " n"]:
    """exp(-x) in 1/2^16, of x in steps of 1/256."""
    x = torch.arange(EXP_REACH << FRACTION, device="cpu").double() / 2**FRACTION
    return (2**WEIGHT_BITS * (-x).exp()).round().int()


def _exponentials(logits: Int64[Tensor, "*shape"], table: Tensor, dim: int) -> Int64[Tensor, "*shape"]:
    """The exponentials of logits in steps of 1/256, the largest 2^16."""
    below = logits.amax(dim, keepdim=True) - logits
    return table[below.clamp(max=len(table) - 1)].long() * (below < len(table))


# --- models


@dataclass(frozen=True)
class Latents:
    """What an entropy model gives while it learns.

    Attributes:
        y_hat: for the decoder.
        known: for the other view's model.
        bits_y, bits_z: information.
    """

    y_hat: Float[Tensor, "b m h w"]
    known: Float[Tensor, "b m h w"]
    bits_y: Float[Tensor, " b"]
    bits_z: Float[Tensor, " b"]


class EntropyModel(nn.Module):
    """p(y1 | z1), or p(y2 | y1_hat, z2) where ``conditional`` (Eq. 5 to 14), with the gains of y.

    Without a hyperprior p(y1) is factorised, as p(z) is otherwise.
    """

    def __init__(self, config: DSICConfig, conditional: bool) -> None:
        super().__init__()
        self.config = config
        m, n, k = config.latent, config.hyper, config.kernel
        exponents = torch.linspace(-0.25, 0.25, QUALITIES, dtype=torch.float32) * math.log(LAMBDA_MAX / LAMBDA_MIN)
        self.log_gain = nn.Parameter(exponents[:, None].repeat(1, m))
        self.log_inverse = nn.Parameter(-exponents[:, None].repeat(1, m))
        self.predictor: nn.Module | None = None
        if config.hyperprior or conditional:
            self.predictor = (GaussianPredictor if config.mixtures == 1 else MixturePredictor)(config, conditional)
        rows, channels = LEVELS, m
        if config.hyperprior:
            self.h_a = nn.Sequential(conv(m, n, k, 1), nn.ReLU(), conv(n, n), nn.ReLU(), conv(n, n))
            self.log_gain_z = nn.Parameter(torch.zeros(QUALITIES, n, dtype=torch.float32))
            self.register_buffer("z_step", torch.zeros(QUALITIES, n, dtype=torch.int32))
            rows, channels = QUALITIES, n
        if config.hyperprior or not conditional:
            self.prior = FactorizedPrior(channels)
            self.register_buffer("frequencies", torch.zeros(rows, channels, 2 * PRIOR_REACH + 2, dtype=torch.int32))
            self.register_buffer("first", torch.zeros(rows, channels, dtype=torch.int32))
        for buffer in ("y_gain", "y_inverse", "y_offset"):
            self.register_buffer(buffer, torch.zeros(LEVELS, m, dtype=torch.int32))
        self.register_buffer("gaussian", gaussian_tables())
        if config.mixtures > 1:
            for name, table in (("normal", normal_table()), ("inverse", inverse_scales()), ("exp", exponentials())):
                self.register_buffer(name, table)
        self.conditional = GaussianMixtureConditional()

    # --- training

    def forward(self, y: Float[Tensor, "b m h w"], quality: Float[Tensor, " b"], y1: Tensor | None = None) -> Latents:
        """Noise in place of rounding where the rate is measured (in evaluation: rounding).

        Args:
            quality: 1 to 8.
            y1: what is known of the other view.
        """
        gain, inverse = self.gains(quality)
        z, bits_z = None, y.new_zeros(len(y))
        if self.config.hyperprior:
            gain_z = self._gain_z(quality)
            z = self.h_a(y) * gain_z
            rounded = round_through(z)
            bits_z = bits(self.prior((noisy(z) if self.training else rounded) / gain_z, 1 / gain_z))
            z = to_fixed(rounded / gain_z)
        y = y * gain
        if self.predictor is None:
            y_hat = round_through(y)
            p = self.prior((noisy(y) if self.training else y_hat) / gain, 1 / gain)
        else:
            found: Distribution = self.predictor(z, y1)
            mean = round_through(found.mean * gain * 2**MEAN_BITS) / 2**MEAN_BITS
            index = bounded(found.index + gain.log() / SCALE_STEP, 0, SCALES - 1)
            # a mixture has no one mean that symbols could be counted from
            centre = mean[0] if found.logits is None else torch.zeros_like(y)
            weight = torch.ones_like(mean) if found.logits is None else found.logits.softmax(0)
            y_hat = round_through(y - centre) + centre
            scale = scale_of(index if self.training else index.round())
            p = self.conditional(noisy(y) if self.training else y_hat, weight, mean, scale)
        return Latents(y_hat * inverse, to_fixed(y_hat / gain), bits(p), bits_z)

    def gains(self, quality: Float[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        """Gain and inverse gain of y, geometrically between those of whole qualities."""
        low = (quality.floor() - 1).clamp(0, QUALITIES - 2).long()
        share = (quality - 1 - low)[:, None]
        gain, inverse = (
            torch.lerp(table[low], table[low + 1], share).exp()[..., None, None]
            for table in (self.log_gain, self.log_inverse)
        )
        return gain, inverse

    def _gain_z(self, quality: Float[Tensor, " b"]) -> Float[Tensor, "b n 1 1"]:
        return self.log_gain_z[quality.round().long() - 1].exp()[..., None, None]

    @torch.no_grad()
    def finalize(self) -> None:
        """See :meth:`PairCodec.finalize`."""
        for module in self.modules():
            if isinstance(module, IntegerNet):
                module.freeze()
        levels = torch.tensor([quality_of(level) for level in range(LEVELS)], dtype=torch.float32).to(self.log_gain)
        gain = self.gains(levels)[0][..., 0, 0].double()
        if "frequencies" in self._buffers:
            frequencies, first = self.prior.tables(self.log_gain_z.exp() if self.config.hyperprior else gain)
            self._copy(frequencies=frequencies, first=first)
        if self.config.hyperprior:
            self._copy(z_step=(2**STEP_BITS / self.log_gain_z.exp().double()).round())
        self._copy(
            gaussian=gaussian_tables(),
            y_gain=(2**GAIN_BITS * gain).round(),
            y_inverse=(2**GAIN_BITS / gain).round(),
            y_offset=(2**FRACTION * gain.log() / SCALE_STEP).round(),
        )

    def _copy(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.get_buffer(name).copy_(value)

    # --- coding

    def encode(
        self, y: Float[Tensor, "1 m h w"], level: int, y1: Int64[Tensor, "1 m h w"] | None
    ) -> tuple[Stream, Int64[Tensor, "1 m h w"]]:
        """The stream, and y_hat in 1/64.

        Args:
            y1: of :meth:`known`.
        """
        quality, encoder, check, z = y.new_tensor([quality_of(level)]), Encoder(), 0, None
        if self.config.hyperprior:
            z = to_whole(self.h_a(y) * self._gain_z(quality))
            symbols = z.cpu().numpy().astype(np.int32)
            encoder.encode(symbols.ravel(), channel_of_each(symbols.shape), self._tables(nearest_row(level)))
            check = checksum(symbols)
        encoder.encode_check(check & 0xFFFF)
        y = (y * self.gains(quality)[0]).double()
        model, mean = self._exact(z, level, y1, y.shape)
        values = to_whole(y - mean.double() / 2**MEAN_BITS)
        symbols = values.cpu().numpy().astype(np.int32).ravel()
        if isinstance(model, Mixtures):
            encoder.encode_mixtures(symbols, model)
        else:
            encoder.encode(symbols, *model)
        return Stream(encoder.finish(), checksum(symbols, check)), (values << MEAN_BITS) + mean

    def decode(
        self, stream: Stream, size: tuple[int, int], level: int, y1: Int64[Tensor, "1 m h w"] | None
    ) -> Int64[Tensor, "1 m h w"]:
        """y_hat in 1/64, of a picture of this height and width.

        Raises:
            ValueError: the stream does not decode to what was encoded.
        """
        height, width = (-(-side // STRIDE) for side in size)
        z_shape = (1, self.config.hyper, height, width)
        y_shape = (1, self.config.latent, height * STRIDE // Y_STRIDE, width * STRIDE // Y_STRIDE)
        decoder, check, z, device = Decoder(stream.payload), 0, None, self.get_buffer("gaussian").device
        if self.config.hyperprior:
            symbols = decoder.decode(channel_of_each(z_shape), self._tables(nearest_row(level)))
            check = checksum(symbols)
            z = torch.from_numpy(symbols).to(device, torch.int64).view(z_shape)
        # before the large part is decoded, so that a forged size ends here
        if decoder.decode_check() != check & 0xFFFF:
            raise ValueError(MISMATCH)
        model, mean = self._exact(z, level, y1, y_shape)
        symbols = decoder.decode_mixtures(model) if isinstance(model, Mixtures) else decoder.decode(*model)
        if checksum(symbols, check) != stream.check:
            raise ValueError(MISMATCH)
        return (torch.from_numpy(symbols).to(device, torch.int64).view(y_shape) << MEAN_BITS) + mean

    def known(self, y_hat: Int64[Tensor, "1 m h w"], level: int) -> Int64[Tensor, "1 m h w"]:
        """y_hat without its gain, as the other view's model takes it."""
        unscaled = y_hat * self.get_buffer("y_inverse")[level].view(-1, 1, 1).long()
        return shift_right(unscaled, MEAN_BITS + GAIN_BITS - FRACTION)

    def for_decoder(self, y_hat: Int64[Tensor, "1 m h w"], level: int) -> Float[Tensor, "1 m h w"]:
        """y_hat as ``g_s`` takes it."""
        _, inverse = self.gains(torch.tensor([quality_of(level)], device=y_hat.device, dtype=torch.float32))
        return ((y_hat.double() / 2**MEAN_BITS).float() * inverse).contiguous(memory_format=FAST)

    def _exact(
        self, z: Tensor | None, level: int, y1: Tensor | None, shape: tuple[int, ...]
    ) -> tuple[Mixtures | tuple[np.ndarray, Tables], Tensor]:
        """What each symbol is coded with, and what is to be added to it, in 1/64; in whole numbers alone."""
        device = self.get_buffer("gaussian").device
        nothing = torch.zeros(shape, dtype=torch.int64, device=device)
        if self.predictor is None:
            return (channel_of_each(shape), self._tables(level)), nothing
        if z is not None:
            step = self.get_buffer("z_step")[nearest_row(level)].view(-1, 1, 1).long()
            z = to_activation(shift_right(z * step, STEP_BITS - FRACTION))
        found: Distribution = self.predictor(z, None if y1 is None else to_activation(y1), exact=True)
        gain, offset = (self.get_buffer(name)[level].view(-1, 1, 1).long() for name in ("y_gain", "y_offset"))
        mean = shift_right(found.mean.long() * gain, FRACTION + GAIN_BITS - MEAN_BITS)
        index = shift_right(found.index.long() + offset, FRACTION).clamp(0, SCALES - 1)
        if found.logits is None:
            return (index.cpu().numpy().ravel(), tables_of_gaussians(self.get_buffer("gaussian"))), mean[0]
        weight = _exponentials(found.logits.long(), self.get_buffer("exp"), 0)
        weight = torch.div(weight << WEIGHT_BITS, weight.sum(0), rounding_mode="floor")
        parts = (part.expand_as(mean).flatten(1).cpu().numpy() for part in (weight, mean, index))
        tables = (self.get_buffer(name).cpu().numpy() for name in ("normal", "inverse"))
        return Mixtures(*parts, *tables), nothing

    def _tables(self, row: int) -> Tables:
        """Of the factorised prior."""
        return Tables(list(self.get_buffer("frequencies")[row].cpu().numpy()), self.get_buffer("first")[row].tolist())
