"""DSIC: the second view of a stereo pair costs less when the first is known.

Liu, Wang, Urtasun, "DSIC: Deep stereo image compression", ICCV 2019 (https://arxiv.org/abs/1908.03631). View 1 is the
left one, view 2 the right one::

    left ──g_a1──────────────────► y1 ═ view1 ═► y1_hat ──g_s1──────────────────► left_hat
            │ h1 at 1/2, 1/4, 1/8                 │  │       │ h1 at 1/8, 1/4, 1/2
         ParametricSkip × 3 ◄─────── context ◄────┘  │    ParametricSkip × 3 ◄── context
            │ warped h1                              ▼       │ warped h1
    right ─g_a2──────────────────► y2 ═ view2 ═► y2_hat ──g_s2──────────────────► right_hat

``view1`` and ``view2`` are entropy models, p(y1 | z1) and p(y2 | y1_hat, z2), each with a hyper-latent z of its own. As
in :mod:`stereopsis.compression.hyperprior` one weight serves all rates, through gains, and everything between symbols
and probabilities is computed in whole numbers: y2's probabilities feel y1's symbols and z2's alone, never a warped
feature.

:data:`PAPER` is the shape of the one public reimplementation, which follows the paper's supplement: 91.73 M parameters.
The default is our compact shape. Its parts of one view are those of the shipped hyperprior codec, whose weights it may
start from (section 4.2; :meth:`DSIC.start_from`).

Deviations from the paper, in both shapes: gains; ReLU in place of leaky ReLU where probabilities are decided; the
hyper-encoder sees y and not \\|y\\|, because means have signs; table indices in place of logarithms of scales.

The compact shape deviates further:

* cost volumes have 64, 32 and 16 candidates at 1/2, 1/4 and 1/8, 128 pixels of the image at each, and few channels of
  3 x 3. The paper's convolutions would have to learn to find a shift from two maps laid on each other. Ours are told
  the L1 distance of projected features at each candidate, and the context has no 3-D convolutions;
* p(y2 | y1_hat, z2) is one normal distribution with the single-image model's mean and scale, refined by y1_hat after
  y1_hat was aligned, where the paper lays it beside z2 unaligned. The alignment is a soft warp as in the skips, between
  keys of y1_hat and queries of z2, in whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.compression.bitstream import Stream
from stereopsis.compression.codec import PairCodec
from stereopsis.compression.dsic_entropy import DSICConfig, EntropyModel
from stereopsis.compression.layers import FAST, GDN, IGDN, conv, deconv
from stereopsis.compression.single import Reconstruction, pad_to_stride
from stereopsis.ops.cost_volume import absolute_volume
from stereopsis.zoo.registry import register

SHARPNESS = 8.0  # of a cost volume that has learnt nothing yet
ROWS = 8  # of a map that the warp has in the cache at once


# --- parametric skip functions (section 3.2)


class _DisparityWarp(torch.autograd.Function):
    """The sum without the C products, candidate by candidate and a few rows at a time."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, cost: Tensor) -> Tensor:
        ctx.save_for_backward(padded, cost)
        width = cost.shape[-1]
        out = padded.new_zeros(*padded.shape[:3], width)
        for rows in _row_blocks(cost):
            for d in range(cost.shape[1]):
                out[:, :, rows].addcmul_(padded[:, :, rows, d : d + width], cost[:, d : d + 1, rows])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        padded, cost = ctx.saved_tensors
        (gradient,), width = gradients, cost.shape[-1]
        to_padded, to_cost = torch.zeros_like(padded), torch.empty_like(cost)
        for rows in _row_blocks(cost):
            for d in range(cost.shape[1]):
                to_padded[:, :, rows, d : d + width].addcmul_(gradient[:, :, rows], cost[:, d : d + 1, rows])
                to_cost[:, d, rows] = (gradient[:, :, rows] * padded[:, :, rows, d : d + width]).sum(1)
        return to_padded, to_cost


def _row_blocks(cost: Tensor) -> list[slice]:
    return [slice(start, start + ROWS) for start in range(0, cost.shape[2], ROWS)]


def disparity_warp(h1: Float[Tensor, "b n h w"], cost: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
    """``g2[x] = sum_d cost[d, x] h1[x + d]`` (Eq. 3); features right of the image are 0."""
    padded = F.pad(h1.float(), (0, cost.shape[1] - 1))
    warped: Tensor = _DisparityWarp.apply(padded.contiguous(), cost.float().contiguous())
    return warped


def context_encoder(config: DSICConfig) -> nn.Sequential:
    """``f(y1_hat)``: volumes at 1/16, one for each of the three scales, joined in their channels."""
    channels, k = config.volume * sum(config.candidates), config.kernel
    layers: list[nn.Module] = []
    for c_in in (config.latent, channels, channels):
        layers += [conv(c_in, channels, k, 1), nn.GroupNorm(channels // min(config.candidates), channels), nn.ReLU()]
    return nn.Sequential(*layers, conv(channels, channels, k, 1))


class CostVolume(nn.Module):
    """A probability for each candidate disparity and pixel, from both views' features and the context.

    Args:
        channels: of each view's features.
        candidates: disparities 0 … candidates - 1.
    """

    def __init__(self, channels: int, candidates: int, config: DSICConfig) -> None:
        super().__init__()
        self.candidates, self.volume = candidates, config.volume
        n, k, v = config.cost_width, config.kernel, config.volume

        def blocks(c_in: int) -> list[nn.Module]:
            pairs = [(conv(c, n, k, 1), nn.GroupNorm(4, n), nn.ReLU()) for c in (c_in, n)]
            return [layer for pair in pairs for layer in pair]

        self.features = nn.Sequential(*blocks(2 * channels))
        volumes = [(nn.Conv3d(v, v, 5, 1, 2), nn.GroupNorm(1, v), nn.ReLU()) for _ in range(config.volume_layers)]
        self.context = nn.Sequential(*[layer for block in volumes for layer in block])
        inputs = n + v * candidates
        self.project: nn.Module | None = None
        if config.matching:
            self.project = nn.Sequential(conv(channels, config.matching, k, 1), nn.GroupNorm(1, config.matching))
            self.sharpness = nn.Parameter(torch.tensor(SHARPNESS, dtype=torch.float32))
            inputs += candidates
        self.costs = nn.Sequential(*blocks(inputs), conv(n, candidates, k, 1))

    def forward(
        self, h1: Float[Tensor, "b n h w"], h2: Float[Tensor, "b n h w"], context: Float[Tensor, "b vc h/s w/s"]
    ) -> Float[Tensor, "b c h w"]:
        context = F.interpolate(context, h2.shape[-2:], mode="bilinear")
        context = self.context(context.unflatten(1, (self.volume, self.candidates))).flatten(1, 2)
        inputs = [self.features(torch.cat([h1, h2], 1)), context]
        if self.project is None:
            return self.costs(torch.cat(inputs, 1)).softmax(1)
        f1, f2 = (self.project(h).float().flip(-1) for h in (h1, h2))
        # mirrored, the partner of x in view 1 lies at x - d, as this operator has it
        distance = absolute_volume(f2, f1, self.candidates).flip(-1) / f1.shape[1]
        return (self.costs(torch.cat([*inputs, distance], 1)) - self.sharpness * distance).softmax(1)


class ParametricSkip(nn.Module):
    """View 1's features laid on those of view 2; the next strided convolution aggregates them (Eq. 4)."""

    def __init__(self, channels: int, candidates: int, config: DSICConfig) -> None:
        super().__init__()
        self.cost_volume = CostVolume(channels, candidates, config)

    def forward(
        self, h1: Float[Tensor, "b n h w"], h2: Float[Tensor, "b n h w"], context: Float[Tensor, "b vc h/s w/s"]
    ) -> Float[Tensor, "b 2n h w"]:
        warped = disparity_warp(h1, self.cost_volume(h1, h2, context))
        return torch.cat([warped.to(h2.dtype), h2], 1).contiguous(memory_format=FAST)


class Stream2d(nn.Sequential):
    """One view's encoder or decoder (section 3.1): strided convolutions with GDN, transposed ones with IGDN.

    Args:
        widths: channels from the first to the last.
        joined: layers behind a skip take twice the channels.
        up: a decoder.
    """

    def __init__(self, widths: Sequence[int], joined: bool, up: bool = False) -> None:
        layers: list[nn.Module] = []
        for number, (c_in, c_out) in enumerate(pairwise(widths)):
            c_in = 2 * c_in if joined and number else c_in
            layers += [deconv(c_in, c_out), IGDN(c_out)] if up else [conv(c_in, c_out), GDN(c_out)]
        super().__init__(*layers[:-1])

    def run(
        self, x: Tensor, others: Sequence[Tensor] = (), skips: Sequence[nn.Module] = (), contexts: Sequence[Tensor] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """The output, and the features that skips take; given those of the other view, takes them."""
        features: list[Tensor] = []
        for layer in self:
            x = layer(x)
            if isinstance(layer, GDN):
                number = len(features)
                features.append(x)
                if skips:
                    x = skips[number](others[number], x, contexts[number])
        return x, features


# --- the codec


class DSIC(PairCodec):
    """The codec; see the module's text for the parts and the deviations.

    ``model(left, right, quality)`` is for training, :meth:`finalize` ends it, and ``model.compress(pair, quality)`` and
    ``model.decompress(content)`` are for use. A single image is coded as view 1.

    Args:
        config: the variant.
        name: what files say they were written by.

    Attributes:
        compute_dtype: of encoders, decoders and skips; what decides probabilities is float32 and, in coding, exact.
    """

    def __init__(self, config: DSICConfig | None = None, name: str = "dsic") -> None:
        super().__init__(name)
        self.config = config = config or DSICConfig()
        self.compute_dtype = torch.float32
        down = (3, *config.widths, config.latent)
        self.g_a1, self.g_a2 = Stream2d(down, False), Stream2d(down, config.skips)
        self.g_s1, self.g_s2 = Stream2d(down[::-1], False, True), Stream2d(down[::-1], config.skips, True)
        if config.skips:
            self.context = context_encoder(config)
            shapes = list(zip(config.widths, config.candidates, strict=True))
            self.encoder_skips = nn.ModuleList(ParametricSkip(*shape, config) for shape in shapes)
            self.decoder_skips = nn.ModuleList(ParametricSkip(*shape, config) for shape in shapes[::-1])
        self.view1, self.view2 = EntropyModel(config, False), EntropyModel(config, config.conditional)

    # --- training

    def forward(
        self,
        left: Float[Tensor, "b 3 h w"],
        right: Float[Tensor, "b 3 h w"],
        quality: float | Float[Tensor, " b"] = 4.0,
    ) -> Reconstruction:
        """Codes pairs with noise in place of rounding where the rate is measured (in evaluation: with rounding).

        Args:
            left, right: in [0, 1], any size; sides are padded to multiples of 64 by their edge.
            quality: 1 to 8, also between; one for all pairs or one each.

        Returns:
            Of 2 b views: all left ones, then all right ones.
        """
        x1, x2 = pad_to_stride(left), pad_to_stride(right)
        quality = torch.as_tensor(quality, dtype=x1.dtype, device=x1.device).expand(len(x1))
        with self._precision(x1):
            y1, h1 = self.g_a1.run(x1 - 0.5)
        first = self.view1(y1.float(), quality)
        with self._precision(x1):
            contexts = self._contexts(first.y_hat)
            y2 = self._analysis2(x2 - 0.5, h1, contexts)
        second = self.view2(y2.float(), quality, first.known if self.config.conditional else None)
        with self._precision(x1):
            x1, h1 = self.g_s1.run(first.y_hat)
            x2 = self._synthesis2(second.y_hat, h1, contexts)
        x_hat = torch.cat([x1, x2]).float()[..., : left.shape[-2], : left.shape[-1]] + 0.5
        bits_y, bits_z = torch.cat([first.bits_y, second.bits_y]), torch.cat([first.bits_z, second.bits_z])
        return Reconstruction(x_hat, bits_y, bits_z)

    def _precision(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32)

    def _contexts(self, y1_hat: Tensor) -> list[Tensor]:
        """At 1/16, for the scales 1/2, 1/4 and 1/8; nothing where there are no skips."""
        if not self.config.skips:
            return []
        return list(self.context(y1_hat).split([self.config.volume * c for c in self.config.candidates], 1))

    def _analysis2(self, x2: Tensor, h1: list[Tensor], contexts: list[Tensor]) -> Tensor:
        skips = list(self.encoder_skips) if contexts else []
        return self.g_a2.run(x2, h1, skips, contexts)[0]

    def _synthesis2(self, y2_hat: Tensor, h1: list[Tensor], contexts: list[Tensor]) -> Tensor:
        skips = list(self.decoder_skips) if contexts else []
        return self.g_s2.run(y2_hat, h1, skips, contexts[::-1])[0]

    @torch.no_grad()
    def start_from(self, hyperprior: Mapping[str, Tensor]) -> None:
        """Take what a trained hyperprior codec of these widths knows for both views (section 4.2).

        Layers behind a skip start without a look at the other view.

        Args:
            hyperprior: its state.

        Raises:
            ValueError: it has other shapes.
        """
        own = self.state_dict()
        for name, value in hyperprior.items():
            part, _, rest = name.partition(".")
            places = {"g_a": "g_a{}.{rest}", "g_s": "g_s{}.{rest}", "h_s": "view{}.predictor.{name}"}
            place = places.get(part, "view{}.{name}")
            for target in (own.get(place.format(view, name=name, rest=rest)) for view in (1, 2)):
                if target is None:
                    continue
                wider = [axis for axis in range(value.dim()) if target.shape[axis] == 2 * value.shape[axis]]
                if target.shape != value.shape and len(wider) == 1:
                    target.zero_()
                    target = target.narrow(wider[0], value.shape[wider[0]], value.shape[wider[0]])
                if target.shape != value.shape:
                    raise ValueError(
                        f"{name} of the hyperprior codec has the shape {tuple(value.shape)}, where this one has "
                        f"{tuple(target.shape)}; take one of the same widths."
                    )
                target.copy_(value)
        self.forget()

    def finalize(self) -> None:
        """Store the whole numbers that decoding needs; call it after training, before the weights are saved.

        Raises:
            ValueError: the weights have diverged.
        """
        self.view1.finalize()
        self.view2.finalize()
        self.forget()

    # --- coding

    def encode(self, views: list[Float[Tensor, "1 3 h w"]], level: int, effort: int = 0) -> list[Stream]:
        if effort:
            raise ValueError(f"effort is {effort}, but {self.name} encodes with effort 0 only; leave it out.")
        x1, *others = (pad_to_stride(view) - 0.5 for view in views)
        y1, h1 = self.g_a1.run(x1)
        stream, y_hat = self.view1.encode(y1, level, None)
        streams = [stream]
        for x2 in others:
            y2 = self._analysis2(x2, h1, self._contexts(self.view1.for_decoder(y_hat, level)))
            streams.append(self.view2.encode(y2, level, self._known(y_hat, level))[0])
        return streams

    def decode(self, streams: list[Stream], size: tuple[int, int], level: int) -> list[Float[Tensor, "1 3 h w"]]:
        if not 1 <= len(streams) <= 2:
            raise ValueError(f"the file has {len(streams)} streams where a pair has 2 and an image 1; it is damaged.")
        y_hat = self.view1.decode(streams[0], size, level, None)
        # both before the pictures, so that damage is found at once
        others = [self.view2.decode(stream, size, level, self._known(y_hat, level)) for stream in streams[1:]]
        y1_hat = self.view1.for_decoder(y_hat, level)
        x1, h1 = self.g_s1.run(y1_hat)
        views = [x1]
        for exact in others:
            views.append(self._synthesis2(self.view2.for_decoder(exact, level), h1, self._contexts(y1_hat)))
        return [view[..., : size[0], : size[1]] + 0.5 for view in views]

    def _known(self, y_hat: Int64[Tensor, "1 m h w"], level: int) -> Int64[Tensor, "1 m h w"] | None:
        return self.view1.known(y_hat, level) if self.config.conditional else None


# The shape of the public reimplementation (N=128, M=192, F=21, C=32, K=5).
PAPER = DSICConfig(
    widths=(128, 128, 128),
    latent=192,
    hyper=128,
    mixtures=5,
    kernel=5,
    candidates=(32, 32, 32),
    cost_width=128,
    matching=0,
    volume=7,
    volume_layers=2,
    alignment=1,
)


# The paper's figure 5; what a name leaves out is off.
ABLATIONS = {
    "IE": {"skips": False, "conditional": False, "hyperprior": False},
    "IE + DispSkip": {"conditional": False, "hyperprior": False},
    "IE + hyperprior": {"skips": False, "conditional": False},
    "CE0": {"skips": False, "hyperprior": False},
    "DispSkip + CE0": {"hyperprior": False},
    "DispSkip + CE0 + hyperprior": {},
}


def ablation(config: DSICConfig, name: str) -> DSICConfig:
    """A variant of :data:`ABLATIONS` in the shape of a configuration."""
    return replace(config, **ABLATIONS[name])  # type: ignore[arg-type]  # all of the fields are bool


def _register(name: str, config: DSICConfig, description: str, **options: Any) -> None:
    register(
        name,
        family="compression",
        architecture="dsic",
        build=lambda: DSIC(config, name),
        config=config,
        description=description,
        **options,
    )


_register("dsic", DSICConfig(), "DSIC: joint codec for stereo pairs, compact shape, untrained")
_register("dsic.paper", PAPER, "the same in the paper's shape (N=128, M=192, C=32, K=5), untrained")
_register(
    "dsic.scenes",
    DSICConfig(),
    "DSIC: joint codec for stereo pairs, compact shape, all rates, trained on photos and scenes",
    licence="Apache-2.0",
    weights_file="dsic.scenes.safetensors",
)
_register(
    "dsic.depth",
    DSICConfig(),
    "the same, trained on for pictures that are to be matched (recipe dsic.depth)",
    licence="Apache-2.0",
)
