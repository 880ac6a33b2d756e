"""What the codecs of one view with a hyperprior share: gains for all rates, the coding of z and y, and their tables.

The rate is that of z under a factorised prior and of y under normal distributions, whose means and scales ``h_s``
predicts from z. Training measures it with noise in place of rounding; coding computes everything between the symbols
and ``mean, scale`` in whole numbers (:mod:`stereopsis.compression.integer`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.compression.bitstream import Stream
from stereopsis.compression.codec import LEVELS, QUALITIES, PairCodec, quality_of
from stereopsis.compression.effort import refine
from stereopsis.compression.entropy import (
    MEAN_BITS,
    PRIOR_REACH,
    SCALE_MIN,
    SCALE_STEP,
    SCALES,
    Decoder,
    Encoder,
    FactorizedPrior,
    GaussianConditional,
    Tables,
    bits,
    checksum,
    gaussian_tables,
    noisy,
    scale_of,
    tables_of_gaussians,
)
from stereopsis.compression.integer import FRACTION, LIMIT, IntegerConv, IntegerNet, shift_right, to_fixed
from stereopsis.compression.layers import (
    FAST,
    bounded,
    round_through,
)
from stereopsis.compression.losses import LAMBDA_MAX, LAMBDA_MIN

STRIDE = 64  # pixels of the input in one of z
GAIN_BITS = 12  # behind the point of stored gains and their reciprocals
STEP_BITS = 16  # behind the point of the stored steps of z

# Given means (in 1/64) and table indices, codes the symbols of the chosen positions and returns them.
Code = Callable[[Int64[Tensor, "m h w"], Int64[Tensor, "m h w"], Bool[Tensor, "h w"]], Int64[Tensor, "m k"]]


@dataclass(frozen=True)
class Reconstruction:
    """What a codec gives while it learns.

    Attributes:
        x_hat: the images, not clamped.
        bits_y, bits_z: information of each image's latents and hyper-latents.
    """

    x_hat: Float[Tensor, "b 3 h w"]
    bits_y: Float[Tensor, " b"]
    bits_z: Float[Tensor, " b"]

    @property
    def bits(self) -> Float[Tensor, " b"]:
        return self.bits_y + self.bits_z


class HyperpriorCodec(PairCodec):
    """What every codec of one view with a hyperprior has in common: gains, the coding of z, and tables.

    A subclass makes the networks ``g_a``, ``g_s``, ``h_a`` and ``h_s``, and implements :meth:`start_from_images`,
    :meth:`_distribution` for training and :meth:`_walk` for coding.

    Args:
        name: what files say they were written by.
        latent, hyper: channels of y and of z.
    """

    gaussian: Tensor
    z_frequencies: Tensor
    z_first: Tensor
    z_step: Tensor
    y_gain: Tensor
    y_inverse: Tensor
    y_offset: Tensor
    g_a: nn.Module
    g_s: nn.Module
    h_a: nn.Module
    h_s: IntegerNet

    def __init__(self, name: str, latent: int, hyper: int) -> None:
        super().__init__(name)
        self.compute_dtype = torch.float32
        self.latent, self.hyper = m, n = latent, hyper
        self.prior = FactorizedPrior(n)
        self.conditional = GaussianConditional()
        # The best step is as large as the error that lambda allows, whose square it divides.
        exponents = torch.linspace(-0.25, 0.25, QUALITIES, dtype=torch.float32) * math.log(LAMBDA_MAX / LAMBDA_MIN)
        self.log_gain = nn.Parameter(exponents[:, None].repeat(1, m))
        self.log_inverse = nn.Parameter(-exponents[:, None].repeat(1, m))
        self.log_gain_z = nn.Parameter(torch.zeros(QUALITIES, n, dtype=torch.float32))
        # Whole numbers that the decoder's probabilities come from; see finalize().
        self.register_buffer("gaussian", gaussian_tables())
        self.register_buffer("z_frequencies", torch.zeros(QUALITIES, n, 2 * PRIOR_REACH + 2, dtype=torch.int32))
        self.register_buffer("z_first", torch.zeros(QUALITIES, n, dtype=torch.int32))
        self.register_buffer("z_step", torch.zeros(QUALITIES, n, dtype=torch.int32))
        for buffer in ("y_gain", "y_inverse", "y_offset"):
            self.register_buffer(buffer, torch.zeros(LEVELS, m, dtype=torch.int32))

    # --- training

    @abstractmethod
    def start_from_images(self, images: Float[Tensor, "b 3 h w"], luma: float = 1.0) -> None:
        """Let the transforms begin as those that suit these images best among linear ones of blocks.

        Args:
            images: in [0, 1]; sides are multiples of 16.
            luma: of the loss that they are to suit.
        """

    @abstractmethod
    def _distribution(self, y: Tensor, features: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and table index of every element of y, which the gain has multiplied, of what h_s gives."""

    def forward(self, image: Float[Tensor, "b 3 h w"], quality: float | Float[Tensor, " b"] = 4.0) -> Reconstruction:
        """Codes images with noise in place of rounding where the rate is measured (in evaluation: with rounding).

        Args:
            image: in [0, 1], any size; sides are padded to multiples of 64 by their edge.
            quality: 1 to 8, also between; one for all images or one each.
        """
        x = pad_to_stride(image)
        quality = torch.as_tensor(quality, dtype=x.dtype, device=x.device).expand(x.shape[0])
        y_hat, bits_y, bits_z = self.latents(x, quality)
        with self._precision(x):
            x_hat = self.g_s(y_hat).float() + 0.5
        return Reconstruction(x_hat[..., : image.shape[-2], : image.shape[-1]], bits_y, bits_z)

    def latents(
        self, x: Float[Tensor, "b 3 h w"], quality: Float[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b m h/16 w/16"], Float[Tensor, " b"], Float[Tensor, " b"]]:
        """What ``g_s`` is given while the codec learns, and the information of y and of z.

        Args:
            x: padded images.
        """
        with self._precision(x):
            y = self.g_a(x - 0.5).float()
        gain, inverse, gain_z = self._gains(quality)
        z = self.h_a(y) * gain_z
        rounded = round_through(z)
        bits_z = bits(self.prior((noisy(z) if self.training else rounded) / gain_z, 1 / gain_z))
        features = self._features(to_fixed(rounded / gain_z))

        y = y * gain
        mean, index = self._distribution(y, features, gain)
        y_hat = round_through(y - mean) + mean
        if self.training:
            p = self.conditional(noisy(y), mean, scale_of(index))
        else:
            p = self.conditional(y_hat, mean, scale_of(index.round()))
        return y_hat * inverse, bits(p), bits_z

    def _features(self, z: Float[Tensor, "b n h/4 w/4"]) -> Float[Tensor, "b 2m h w"]:
        """What h_s predicts, as its whole numbers will."""
        return self.h_s(z)

    def _precision(self, x: Tensor) -> torch.autocast:
        """Of convolutions that need not come out as whole numbers will."""
        return torch.autocast(x.device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32)

    def _gains(self, quality: Float[Tensor, " b"]) -> tuple[Tensor, Tensor, Tensor]:
        """Gain and inverse gain of y, geometrically between those of whole qualities (Cui, Eq. 7), and gain of z."""
        low = (quality.floor() - 1).clamp(0, QUALITIES - 2).long()
        share = (quality - 1 - low)[:, None]
        gain, inverse = (
            torch.lerp(table[low], table[low + 1], share).exp()[..., None, None]
            for table in (self.log_gain, self.log_inverse)
        )
        return gain, inverse, self.log_gain_z[quality.round().long() - 1].exp()[..., None, None]

    @staticmethod
    def _split(parameters: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and table index of y times gain."""
        mean, index = parameters.chunk(2, 1)
        mean = round_through(mean * gain * 2**MEAN_BITS) / 2**MEAN_BITS
        return mean, bounded(index + gain.log() / SCALE_STEP, 0, SCALES - 1)

    @torch.no_grad()
    def finalize(self) -> None:
        """Store the whole numbers that decoding needs; call it after training, before the weights are saved.

        Raises:
            ValueError: the weights have diverged.
        """
        for module in self.modules():
            if isinstance(module, IntegerNet):
                module.freeze()
        gain_z = self.log_gain_z.exp()
        frequencies, first = self.prior.tables(gain_z)
        gain, _, _ = self._gains(
            torch.tensor([quality_of(level) for level in range(LEVELS)], dtype=torch.float32).to(gain_z)
        )
        gain = gain[..., 0, 0].double()
        self.gaussian.copy_(gaussian_tables())
        self.z_frequencies.copy_(frequencies)
        self.z_first.copy_(first)
        self.z_step.copy_((2**STEP_BITS / gain_z.double()).round())
        self.y_gain.copy_((2**GAIN_BITS * gain).round())
        self.y_inverse.copy_((2**GAIN_BITS / gain).round())
        self.y_offset.copy_((2**FRACTION * gain.log() / SCALE_STEP).round())
        self.forget()

    # --- coding

    def encode(self, views: list[Float[Tensor, "1 3 h w"]], level: int, effort: int = 0) -> list[Stream]:
        return [self._encode_view(view, level, effort) for view in views]

    def decode(self, streams: list[Stream], size: tuple[int, int], level: int) -> list[Float[Tensor, "1 3 h w"]]:
        views = (self.g_s(self.decode_latents(stream, size, level)) + 0.5 for stream in streams)
        return [view[..., : size[0], : size[1]] for view in views]

    def _begin(self, encoder: Encoder, view: Float[Tensor, "1 3 h w"]) -> tuple[Float[Tensor, "1 3 h w"], int]:
        """Writes what a stream begins with; the view to code, and the checksum so far."""
        return view, 0

    def _resume(self, decoder: Decoder) -> int:
        """Reads what :meth:`_begin` wrote; the checksum so far."""
        return 0

    def _encode_view(self, view: Float[Tensor, "1 3 h w"], level: int, effort: int = 0) -> Stream:
        gain, _, gain_z = self._gains(view.new_tensor([quality_of(level)]))
        encoder = Encoder()
        view, check = self._begin(encoder, view)
        x = pad_to_stride(view)
        y = self.g_a(x - 0.5)
        z = self.h_a(y)
        if effort:
            y = refine(self, view, y, z, quality_of(level), effort)
        z = to_whole(z * gain_z)
        y = (y * gain)[0].double()
        symbols = z.cpu().numpy().astype(np.int32)
        encoder.encode(symbols.ravel(), channel_of_each(symbols.shape), self._z_tables(level))
        check = checksum(symbols, check)
        encoder.encode_check(check & 0xFFFF)

        def code(mean: Tensor, index: Tensor, chosen: Tensor) -> Tensor:
            nonlocal check
            values = to_whole(y - mean.double() / 2**MEAN_BITS)[:, chosen]
            coded = values.cpu().numpy().astype(np.int32).ravel()
            encoder.encode(coded, index[:, chosen].cpu().numpy().ravel(), self._y_tables())
            check = checksum(coded, check)
            return values

        self._latents(z, level, code)
        return Stream(encoder.finish(), check)

    def decode_latents(self, stream: Stream, size: tuple[int, int], level: int) -> Float[Tensor, "1 m h w"]:
        """What ``g_s`` takes, of a picture of this height and width.

        Raises:
            ValueError: the stream does not decode to what was encoded.
        """
        height, width = (-(-side // STRIDE) for side in size)
        shape = (self.hyper, height, width)
        decoder, device = Decoder(stream.payload), self.gaussian.device
        check = self._resume(decoder)
        symbols = decoder.decode(channel_of_each(shape), self._z_tables(level))
        check = checksum(symbols, check)
        # before the large part is decoded, so that a forged size ends here
        if decoder.decode_check() != check & 0xFFFF:
            raise ValueError(MISMATCH)

        def code(mean: Tensor, index: Tensor, chosen: Tensor) -> Tensor:
            nonlocal check
            coded = decoder.decode(index[:, chosen].cpu().numpy().ravel(), self._y_tables())
            check = checksum(coded, check)
            return torch.from_numpy(coded).to(device, torch.int64).view(mean.shape[0], -1)

        z = torch.from_numpy(symbols).to(device, torch.int64).view(1, *shape)
        exact = self._latents(z, level, code)
        if check != stream.check:
            raise ValueError(MISMATCH)
        _, inverse, _ = self._gains(torch.tensor([quality_of(level)], device=device, dtype=torch.float32))
        return ((exact.double() / 2**MEAN_BITS).float() * inverse).contiguous(memory_format=FAST)

    def _latents(
        self,
        z: Int64[Tensor, "1 n h/4 w/4"],
        level: int,
        code: Code,
    ) -> Int64[Tensor, "1 m h w"]:
        """The walk that encoder and decoder share, in whole numbers alone.

        Args:
            code: given means (in 1/64) and table indices, codes the symbols of the chosen positions and returns them.

        Returns:
            ``y_hat`` in 1/64.
        """
        step = self.z_step[nearest_row(level)].view(-1, 1, 1).long()
        features = self.h_s.integer(to_activation(shift_right(z * step, STEP_BITS - FRACTION)))
        return self._walk(features, level, code)[None]

    @abstractmethod
    def _walk(self, features: Float64[Tensor, "1 c h w"], level: int, code: Code) -> Int64[Tensor, "m h w"]:
        """Codes y in the order that the codec's context needs; arguments and result as of :meth:`_latents`."""

    def _exact_split(self, parameters: Tensor, level: int) -> tuple[Int64[Tensor, "m h w"], Int64[Tensor, "m h w"]]:
        """:meth:`_split` in whole numbers: means in 1/64 and table indices."""
        mean, index = parameters[0].long().chunk(2)
        mean = shift_right(mean * self.y_gain[level].view(-1, 1, 1).long(), FRACTION + GAIN_BITS - MEAN_BITS)
        index = shift_right(index + self.y_offset[level].view(-1, 1, 1), FRACTION)
        return mean, index.clamp(0, SCALES - 1)

    def _exact_known(self, y_hat: Int64[Tensor, "m h w"], level: int) -> Float64[Tensor, "1 m h w"]:
        """y_hat without its gain, as the context's networks take it."""
        unscaled = y_hat * self.y_inverse[level].view(-1, 1, 1).long()
        return to_activation(shift_right(unscaled, MEAN_BITS + GAIN_BITS - FRACTION))[None]

    def _y_tables(self) -> Tables:
        return self.remember("y", lambda: tables_of_gaussians(self.gaussian))

    def _z_tables(self, level: int) -> Tables:
        number = nearest_row(level)

        def build() -> Tables:
            frequencies = self.z_frequencies[number].cpu().numpy()
            return Tables(list(frequencies), self.z_first[number].tolist())

        return self.remember(f"z{number}", build)


MISMATCH = (
    "the decoded symbols do not match their checksum; the file is damaged or its weights are not these, "
    "copy it again or give the weights it was written with."
)


def start_of_scales(h_s: IntegerNet, latent: int, unit: float = 1.0) -> None:
    """Let training start at scales about 1, where likelihoods have gradients; table indices are in this unit."""
    last = h_s[-1]
    assert isinstance(last, IntegerConv)
    with torch.no_grad():
        last.bias[latent:] = -math.log(SCALE_MIN) / SCALE_STEP / unit


def start_at_zero(correction: IntegerNet) -> None:
    """Let training start without a second opinion."""
    last = correction[-1]
    assert isinstance(last, IntegerConv)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


def pad_to_stride(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c H W"]:
    padded = F.pad(image, (0, -image.shape[-1] % STRIDE, 0, -image.shape[-2] % STRIDE), "replicate")
    return padded.contiguous(memory_format=FAST)


def nearest_row(level: int) -> int:
    """Row of the whole quality that is nearest, as ``_gains`` rounds it."""
    return int(torch.tensor(quality_of(level), dtype=torch.float32).round()) - 1


def to_whole(values: Tensor) -> Int64[Tensor, "*shape"]:
    """Rounded, as whole numbers that 32 bits hold."""
    if not bool((values.abs() < 2**31 - 1).all()):
        raise ValueError("a latent is not finite or has more than 32 bits; the image or the weights hold such values.")
    return values.round().long()


def to_activation(values: Int64[Tensor, "*shape"]) -> Tensor:
    """As an activation of 16 bits, in the float64 that exact convolutions take."""
    return values.clamp(-LIMIT, LIMIT).double()


def channel_of_each(shape: tuple[int, ...]) -> np.ndarray:
    """The channel of each element."""
    return np.repeat(np.arange(shape[-3]), shape[-2] * shape[-1])
