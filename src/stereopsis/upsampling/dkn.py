"""DKN and FDKN: deformable kernel networks for guided depth upsampling.

Kim, Ponce, Ham (https://arxiv.org/abs/1903.11286; extended in IJCV 2021). For every pixel two small networks, one of
the image and one of the depth map, say where to look and how to weigh what is seen there::

    image ──stream──► weights, offsets ─┐
                                        ⊙ ──► K = sigmoid ⊙ sigmoid - mean, Δq ──► Σ K f(q + Δq) ──► + ──► depth
    depth ──stream──► weights, offsets ─┘                                            ▲               ▲
      └──────────────────────────────────────────────────────────────────────────────┴───────────────┘

The depth map has the image's size already: the caller enlarges it (``geometry.enlarge``). The stream of DKN looks at
50 x 50 pixels and strides by 4, so that one pass answers for every 16th pixel; ``DKNStream.shift_and_stitch`` is the
paper's remedy of 16 passes, and ``forward`` computes the same numbers in one, each layer once for every phase that it
has. FDKN folds 4 x 4 pixels into channels first and answers for all 16 at once.

Where the published code and weights differ from the paper or from what is right, a field of :class:`DKNConfig` says so,
and :data:`OFFICIAL` holds the values of the authors' weights:

* ``grid``: the authors' samples lie on a grid off centre, transposed, and squeezed by 14/15;
* ``zeros_outside``: what lies outside the image or the window counts as a depth of 0; ours is not averaged;
* ``guidance``: the authors' FDKN reads the image as one grey channel, with the weights of red and blue exchanged.

Our own deviations: holes (``valid``) are neither sampled nor averaged, and the streams see them filled from around;
depth of any unit and range is mapped to [0, 1], which the paper leaves to its data; any size works; maps of several
channels are filtered one by one, with the features of the image computed once.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from stereopsis.geometry.resample import fill_smooth
from stereopsis.ops.images import LUMA
from stereopsis.ops.kernel_average import guided_average, kernels_of_maps
from stereopsis.ops.portable import portable
from stereopsis.types import Depth
from stereopsis.upsampling.upsample import unpack
from stereopsis.zoo.registry import register

STRIDE = 4  # of DKN's stream, and side of the blocks that FDKN folds into channels
BEFORE, AFTER = 25, 24  # pixels that DKN's stream sees to the left and right of its own


@dataclass(frozen=True)
class DKNConfig:
    """The numbers of one variant; the defaults are the paper's DKN.

    Attributes:
        fast: FDKN in place of DKN.
        scale: the ratio that weights are for, None for any; no number of the network depends on it.
        kernel_size: k of the k x k samples a pixel.
        window: side of the square that samples may come from, in pixels.
        residual: weights that add to 0 and a sum that corrects the input; otherwise weights that add to 1.
        guidance: what the stream of the image reads, None for no such stream (the paper's dagger rows).
        widths: channels of the last two layers of a stream (supplement, table 2).
        grid, zeros_outside: semantics of the authors' weights (see the module's list).
    """

    fast: bool = False
    scale: int | None = 8
    kernel_size: int = 3
    window: int = 15
    residual: bool = True
    guidance: Literal["rgb", "grey", "grey-bgr"] | None = "rgb"
    widths: tuple[int, int] = (128, 128)
    grid: Literal["centred", "authors"] = "centred"
    zeros_outside: bool = False

    def __post_init__(self) -> None:
        for name, value in (("kernel_size", self.kernel_size), ("window", self.window)):
            if value < 1 or value % 2 == 0:
                raise ValueError(f"{name} is {value}; it must be odd and at least 1.")
        if self.kernel_size > self.window or self.window < 3:
            raise ValueError(
                f"kernel_size is {self.kernel_size} and window is {self.window}; the samples must fit into a window of "
                "at least 3 pixels."
            )


# --- streams


class Block(nn.Sequential):
    """A convolution, a normalisation in some, and an activation."""

    def forward(
        self, x: Float[Tensor, "b c h w"], stride: int | None = None, dilation: int = 1
    ) -> Float[Tensor, "b o _ _"]:
        """A stride of 1 answers for all phases of a strided convolution at once. Inference takes the normalisation into
        the kernel, and has the channels last, which CPU libraries compute up to three times as fast."""
        conv, *norm, _ = self
        assert isinstance(conv, nn.Conv2d)
        weight, bias = conv.weight, conv.bias
        strides = conv.stride if stride is None else (stride, stride)
        if self.training or torch.is_grad_enabled():
            x = F.conv2d(x, weight, bias, strides, conv.padding, dilation)
            return (norm[0](x) if norm else x).relu_()
        if norm:
            assert isinstance(norm[0], nn.BatchNorm2d)
            mean, variance = norm[0].running_mean, norm[0].running_var
            assert mean is not None
            assert variance is not None
            weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, norm[0].eps, norm[0].weight, norm[0].bias)
        weight = weight.contiguous(memory_format=torch.channels_last)
        x = F.conv2d(x, weight, bias, strides, conv.padding, dilation)
        if x.dtype == torch.bfloat16:
            # the sign of a float is that of the integer of the same bits, which is several times as fast to compare
            return x.view(torch.int16).clamp_(min=0).view(torch.bfloat16)
        return x.relu_()


def _conv(c_in: int, c_out: int, size: int, *, stride: int = 1, padding: int = 0, norm: bool = False) -> Block:
    layers: list[nn.Module] = [nn.Conv2d(c_in, c_out, size, stride, padding)]
    if norm:
        layers.append(nn.BatchNorm2d(c_out))
    return Block(*layers, nn.ReLU(inplace=True))


def _channels_last(x: Float[Tensor, "b c h w"], training: bool) -> Tensor:
    # a clone, as a single channel counts as last where it is and convolutions then go by its strides
    return x if training else x.clone(memory_format=torch.channels_last)


class Stream(nn.Module):
    """Features of one input and, of them, k² weights before the sigmoid and 2k² offsets a pixel (table 1)."""

    head: nn.Conv2d
    block: int  # side of the blocks whose pixels are channels

    @abstractmethod
    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ _ _"]:
        """Weights, then offsets, of blocks of pixels."""


class DKNStream(Stream):
    """Seven convolutions, two of them with stride 2: 50 x 50 pixels in, one pixel out (table 1)."""

    block = 1

    def __init__(self, c_in: int, config: DKNConfig) -> None:
        super().__init__()
        k2, (n1, n2) = config.kernel_size**2, config.widths
        self.conv1 = _conv(c_in, 32, 7, norm=True)
        self.down1 = _conv(32, 32, 2, stride=2)
        self.conv2 = _conv(32, 64, 5, norm=True)
        self.down2 = _conv(64, 64, 2, stride=2)
        self.conv3 = _conv(64, 128, 5, norm=True)
        self.conv4 = _conv(128, n1, 3)
        self.conv5 = _conv(n1, n2, 3)
        self.head = nn.Conv2d(n2, 3 * k2, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3k2 H W"]:
        """Every pixel's answer in one pass, for sizes rounded up to multiples of 4; outside the input is 0.

        A strided layer runs with a stride of 1, the layers behind it on each of its four phases.
        """
        height, width = (-(-side // STRIDE) * STRIDE for side in x.shape[-2:])
        x = F.pad(x, (BEFORE, AFTER + width - x.shape[-1], BEFORE, AFTER + height - x.shape[-2]))
        x = self.down1(self.conv1(_channels_last(x, self.training)), stride=1)
        if portable():  # all phases at once, in layers with holes
            x = self.down2(self.conv2(x, dilation=2), stride=1, dilation=2)
            return self._answers(x, dilation=STRIDE)
        if self.training:  # the statistics of a batch must be those of all phases
            x = self.down2(self.conv2(torch.cat(_phases(x))), stride=1)
            return _stitch(_stitch(self._answers(torch.cat(_phases(x)))))
        # otherwise a phase of a phase takes less memory, and fits the cache
        size = (x.shape[0], self.head.out_channels, height, width)
        out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        for n, half in enumerate(_phases(x)):
            for m, quarter in enumerate(_phases(self.down2(self.conv2(half), stride=1))):
                out[..., n // 2 + m // 2 * 2 :: STRIDE, n % 2 + m % 2 * 2 :: STRIDE] = self._answers(quarter)
        return out

    def _answers(self, x: Float[Tensor, "b c h w"], dilation: int = 1) -> Float[Tensor, "b 3k2 _ _"]:
        for layer in (self.conv3, self.conv4, self.conv5):
            x = layer(x, dilation=dilation)
        return self.head(x)

    def every_fourth(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3k2 h/4 w/4"]:
        """The paper's pass: the answer for pixel (25, 25) of the input, and every 4th one beside and below it."""
        x = self.down2(self.conv2(self.down1(self.conv1(x))))
        return self._answers(x)

    def of_blocks(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3k2 h/4 w/4"]:
        """The answer of each block's first pixel; outside the input is 0."""
        right, below = (-x.shape[side] % STRIDE + AFTER - STRIDE + 1 for side in (-1, -2))
        return self.every_fourth(F.pad(x, (BEFORE, right, BEFORE, below)))

    def shift_and_stitch(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3k2 h w"]:
        """:meth:`forward` as the paper does it (supplement, 1.1): 16 passes over shifted inputs; not for training."""
        height, width = (-(-side // STRIDE) * STRIDE for side in x.shape[-2:])
        x = F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))
        out = x.new_empty(x.shape[0], self.head.out_channels, height, width)
        for i in range(STRIDE):
            for j in range(STRIDE):
                shifted = F.pad(x, (BEFORE - j, AFTER - STRIDE + 1 + j, BEFORE - i, AFTER - STRIDE + 1 + i))
                out[..., i::STRIDE, j::STRIDE] = self.every_fourth(shifted)
        return out


class FDKNStream(Stream):
    """Six convolutions over blocks of 4 x 4 pixels as channels (supplement, table 1)."""

    block = STRIDE

    def __init__(self, c_in: int, config: DKNConfig) -> None:
        super().__init__()
        k2, (n1, n2) = config.kernel_size**2, config.widths
        widths = (STRIDE**2 * c_in, 32, 32, 64, 64, n1, n2)
        self.layers = nn.Sequential(
            *(_conv(widths[i], widths[i + 1], 3, padding=1, norm=i % 2 == 0) for i in range(len(widths) - 1))
        )
        self.head = nn.Conv2d(n2, 3 * STRIDE**2 * k2, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 48k2 h/4 w/4"]:
        """Answers of blocks; the last ones are completed by repeating the edge."""
        x = F.pad(x, (0, -x.shape[-1] % STRIDE, 0, -x.shape[-2] % STRIDE), "replicate")
        return self.head(self.layers(_channels_last(F.pixel_unshuffle(x, STRIDE), self.training)))


def _phases(x: Float[Tensor, "b c 2*h 2*w"]) -> list[Float[Tensor, "b c h w"]]:
    """Every second pixel of every second row, from the first and the second row and pixel on."""
    return [x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]


def _stitch(x: Float[Tensor, "4*b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
    """Four phases woven into one map, in the order of :func:`_phases`."""
    _, c, h, w = x.shape
    return x.view(2, 2, -1, c, h, w).permute(2, 3, 4, 0, 5, 1).reshape(-1, c, 2 * h, 2 * w)


# --- the network


class DKN(nn.Module):
    """DKN, or FDKN where the config says ``fast``; see the module's text for the parts and the deviations.

    ``model(image, depth)`` filters a map of the image's size; :meth:`kernels` shows what it looks at.

    Args:
        config: the variant.
    """

    enlargement = "bicubic"
    grid: Tensor

    def __init__(self, config: DKNConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DKNConfig()
        self.compute_dtype = torch.float32
        self.any_ratio = config.scale is None
        stream = FDKNStream if config.fast else DKNStream
        self.image_stream: Stream | None = None
        if config.guidance is not None:
            self.image_stream = stream(3 if config.guidance == "rgb" else 1, config)
        self.depth_stream: Stream = stream(1, config)
        self.register_buffer("grid", _grid(config), persistent=False)

    def forward(
        self,
        image: Float[Tensor, "b c h w"],
        depth: Depth | Float[Tensor, "b t h w"],
        valid: Bool[Tensor, "b 1|t h w"] | None = None,
        limits: tuple[float, float] | None = None,
        sparse: bool = False,
    ) -> Depth:
        """Filters a depth map, or any map, under the guidance of an image.

        Args:
            image: in [0, 1]; 1 or 3 channels, any size.
            depth: of the image's size, in any unit; several channels are filtered one by one.
            valid: where a bare tensor may be used; by default where it is finite and positive. Holes are neither
                sampled nor averaged; those with a sample in reach are filled, the others stay.
            limits: values that become 0 and 1 inside the network; by default each map's smallest and largest valid
                one, so that neither unit nor range matters. The result is not clamped to them.
            sparse: DKN answers for the first pixel of each 4 x 4 block alone, at about the cost of FDKN, and what the
                others get is of no use. For training, where more images teach more than more pixels of each.

        Returns:
            The map in the unit of the input, with as many channels.

        Raises:
            ValueError: sizes or numbers of channels that do not fit, or limits that are not increasing.
        """
        values, known = unpack(image, depth, valid)
        b, t, h, w = values.shape
        values, known = values.reshape(b * t, 1, h, w), known.reshape(b * t, 1, h, w)
        low, high = _limits(values, known, limits)
        values = torch.where(known, (values - low) / (high - low), 0.0)
        whole = bool(known.all())
        filled = values if whole else fill_smooth(values, known)
        result, reached = self._average(image, values, filled, None if whole else known, sparse)
        result = result * (high - low) + low
        good = (known | reached) & result.isfinite()
        return Depth(torch.where(good, result, 0.0).view(b, t, h, w), good.view(b, t, h, w))

    def filtered(
        self, image: Float[Tensor, "b c h w"], depth: Float[Tensor, "b 1 h w"], known: Bool[Tensor, "b 1 h w"]
    ) -> tuple[Float[Tensor, "b 1 h w"], Bool[Tensor, "b 1 h w"]]:
        """:meth:`forward` without a step that looks at values to choose its way; for exporters.

        Args:
            depth: finite, its holes filled from around them; sides are multiples of 4, as those of the image.
            known: where there was no hole.

        Returns:
            The map, and where it may be used.
        """
        low, high = _limits(depth, known, None)
        filled = (depth - low) / (high - low)
        result, reached = self._average(image, filled, filled, known)
        return result * (high - low) + low, known | reached

    def _average(
        self, image: Tensor, values: Tensor, filled: Tensor, valid: Tensor | None, sparse: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The filtered map, still in [0, 1], and where a sample was in reach."""
        average, support = guided_average(
            values,
            *self._maps(image, filled, sparse),
            self.grid,
            **self._arrangement,
            radius=self.config.window // 2,
            valid=valid,
            residual=self.config.residual,
            zeros_outside=self.config.zeros_outside,
        )
        reached = support > 0
        return filled + average if self.config.residual else torch.where(reached, average, filled), reached

    def kernels(
        self, image: Float[Tensor, "b c h w"], target: Float[Tensor, "b*t 1 h w"], sparse: bool = False
    ) -> tuple[Float[Tensor, "b*t k2 h w"], Float[Tensor, "b*t 2*k2 h w"]]:
        """How every pixel weighs its samples, and where they are.

        Args:
            image: in [0, 1].
            target: a dense map in [0, 1], one or several for each image.
            sparse: as of :meth:`forward`; a block's pixels share the kernel of its first one.

        Returns:
            Weights in (0, 1), before their mean is subtracted or their sum made 1; and the positions from the pixel
            itself, x and y of each sample, in pixels.
        """
        maps, guide = self._maps(image, target, sparse)
        return kernels_of_maps(maps, guide, self.grid, target.shape[-2:], **self._arrangement)

    @property
    def _arrangement(self) -> dict[str, Any]:
        squeeze = (self.config.window - 1) / self.config.window if self.config.grid == "authors" else 1.0
        return {"block": self.depth_stream.block, "squeeze": squeeze}

    def _maps(self, image: Tensor, target: Tensor, sparse: bool) -> tuple[Tensor, Tensor | None]:
        """What the streams say of the target and of the image."""
        with torch.autocast(target.device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32):
            maps = self._stream(self.depth_stream, target, sparse)
            if self.image_stream is None:
                return maps, None
            return maps, self._stream(self.image_stream, self._guidance(image), sparse)

    @staticmethod
    def _stream(stream: Stream, x: Tensor, sparse: bool) -> Tensor:
        if not (sparse and isinstance(stream, DKNStream)):
            return stream(x)
        return stream.of_blocks(x).repeat_interleave(STRIDE, -1).repeat_interleave(STRIDE, -2)

    def _guidance(self, image: Float[Tensor, "b c h w"]) -> Tensor:
        """The image as the stream reads it."""
        if self.config.guidance == "rgb":
            return image.expand(-1, 3, -1, -1)
        if image.shape[1] == 1:
            return image
        weights = image.new_tensor(LUMA if self.config.guidance == "grey" else LUMA[::-1])
        return (image * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)


def _grid(config: DKNConfig) -> Float[Tensor, "1 2*k2 1 1"]:
    """Positions of the samples without offsets, from the pixel itself: x and y of each, row after row."""
    k, window = config.kernel_size, config.window
    steps = torch.arange(k, dtype=torch.float32)
    first, second = (steps - k // 2).repeat(k), (steps - k // 2).repeat_interleave(k)
    if config.grid == "authors":
        # from the middle of the patch on, columns before rows, and in grid_sample's units of the patch's corners
        first, second = (window // 2 + t + k // 2 for t in (second, first))
        first, second = (t * (window - 1) / window - window // 2 for t in (first, second))
    return torch.stack([first, second], dim=1).reshape(1, -1, 1, 1)


def _limits(values: Tensor, known: Tensor, limits: tuple[float, float] | None) -> tuple[Tensor, Tensor]:
    """What becomes 0 and 1, one number a map; 0 and 1 themselves where nothing is known."""
    if limits is not None:
        if not limits[0] < limits[1]:
            raise ValueError(f"limits are {limits[0]:g} and {limits[1]:g}; the second must be the larger one.")
        low, high = (values.new_full((values.shape[0], 1, 1, 1), limit) for limit in limits)
        return low, high
    low = torch.where(known, values, torch.inf).amin((1, 2, 3), keepdim=True)
    high = torch.where(known, values, -torch.inf).amax((1, 2, 3), keepdim=True)
    low = torch.where(low.isfinite(), low, 0.0)
    # a flat map is 0 inside the network, and itself again at the end
    return low, torch.where(high > low, high, low + 1)


# The paper's networks, and the semantics that the authors' FDKN weights have learnt.
DKN_X8 = DKNConfig()
FDKN_X8 = DKNConfig(fast=True)
FDKN_X4, FDKN_X16 = (replace(FDKN_X8, scale=scale) for scale in (4, 16))
OFFICIAL = replace(FDKN_X8, guidance="grey-bgr", grid="authors", zeros_outside=True)


def _register(name: str, config: DKNConfig, description: str, **options: Any) -> None:
    register(
        name,
        family="upsampling",
        architecture="fdkn" if config.fast else "dkn",
        build=lambda: DKN(config),
        config=config,
        description=description,
        **options,
    )


_register("dkn_x8", DKN_X8, "DKN for depth of an eighth of the image's size, untrained")
_register("fdkn_x4", FDKN_X4, "FDKN for depth of a quarter of the image's size, untrained")
_register("fdkn_x8", FDKN_X8, "FDKN for depth of an eighth of the image's size, untrained")
_register("fdkn_x16", FDKN_X16, "FDKN for depth of a sixteenth of the image's size, untrained")
for _name, _config, _of in (
    ("fdkn_x4.scenes", FDKN_X4, "a quarter of the image's size"),
    ("fdkn_x8.scenes", FDKN_X8, "an eighth of the image's size"),
    ("fdkn_x16.scenes", FDKN_X16, "a sixteenth of the image's size"),
    ("fdkn.any", replace(FDKN_X8, scale=None), "any size, however it was made, noisy and with holes"),
):
    _register(
        _name,
        _config,
        f"FDKN trained on procedural scenes, for depth of {_of}",
        licence="Apache-2.0",
        weights_file=f"{_name}.safetensors",
    )
_register(
    "fdkn.unguided",
    replace(FDKN_X8, scale=None, guidance=None),
    "FDKN without a guide, trained on procedural scenes: depth of any size made larger where there is no image",
    licence="Apache-2.0",
    weights_file="fdkn.unguided.safetensors",
)
_register(
    "fdkn.denoise",
    replace(FDKN_X8, scale=1, residual=False),
    "FDKN trained on noisy procedural scenes at the image's size: joint denoising, restoration, texture removal",
    licence="Apache-2.0",
    weights_file="fdkn.denoise.safetensors",
)
_register(
    "dkn_x8.scenes",
    DKN_X8,
    "DKN trained on procedural scenes, for depth of an eighth of the image's size",
    licence="Apache-2.0",
    weights_file="dkn_x8.scenes.safetensors",
)
_register(
    "fdkn_x8.official",
    OFFICIAL,
    "FDKN, the authors' weights for depth of an eighth of the image's size (import them)",
    licence="not stated by its authors",
    official=True,
)
