"""FFCA-Net: views are coded apart, and the decoder of one looks at the other.

Xia, Huang, Wang, Chen, Wang, "FFCA-Net: Stereo image compression via fast cascade alignment of side information", 2023
(https://arxiv.org/abs/2312.16963). The main view x is coded as one image; the side view y is anything that the decoder
has of the other view, the camera's own picture or one that was decoded from a file of its own::

    x ──base encoder──► file ──base decoder──► base picture ───────────────────────────────► + ──► x_hat
                                   │ h_x at 1/2, 1/4, 1/8, 1/16                               ▲
                                   ├────────────────────┬──────────────────┬───► FFF ─────────┘
                                   ▼                    ▼                  ▼      ▲
    y ──FEN──► h_y ──► stereo patch matching ──► h_y* ──► HSSR ──► h_y** ──┴──────┘

The base is :class:`~stereopsis.compression.hyperprior.Hyperprior` with the checkerboard, and its decision of what is in
a file is the only one: with a side view or without, of whatever quality, the symbols are the same. FFF's last layer
starts at 0, so that an untrained network decodes to the base picture.

What the paper leaves open or says twice, and what is done here:

* i = 1 is the scale 1/2 and i = 4 is 1/16, as Table 4 has it (the text counts the other way), and Eq. 5 divides by
  2^(i-1) where it is printed as a product: a coarser scale has fewer columns.
* A match may lie straight on or in the direction of disparity. For a main view that is the right one, the side view is
  said to be the left one.
* HSSR's output is softmax weights of D = 9 shifts, and "Warp" their weighted sum, as in DSIC's Eq. 3. ``dp_i`` are
  these weights averaged over 2^(i-1) pixels; shifts between two pixels of the coarser scale are shared between both.
  Channels of h_x and h_y* alternate, so that a group of 8 sees both.
* Eq. 7 compares a norm over the whole map, which grows with the image. Here it is the root mean square of the
  difference in shares of that of h_x. The choice of channels has no gradient.
* d2 of Eq. 9 compares features whose scale is free. Here it is their difference in shares of h_x, times what the base
  picture's error weighs, so that it neither drowns the picture nor vanishes at any rate.
* The base picture has a share in d1, or the base decoder would be free to forget what it shows without a side view.
* FEN's size is unpublished; here two 3 x 3 convolutions a scale.

Deviations of all shapes: the base is a hyperprior codec with gains for all rates, where the paper has cheng2020-anchor,
one network a rate; and the paper's context is autoregressive, which takes seconds and saves little beside two passes.
:data:`PAPER` has the paper's channels, N = 128, and the published sizes of FFF (3.04 M) and HSSR (0.24 M) within 10 %.

The default is our compact shape. It deviates further: patches are matched on the pictures themselves (the base picture
and y, less their local mean), which needs no training, where the paper matches h_x^1 with h_y^1; HSSR is told their
L1 distance at each shift, a multiple of which is its logit from the start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.compression.bitstream import Stream
from stereopsis.compression.codec import SideView, SideViewCodec
from stereopsis.compression.dsic import disparity_warp
from stereopsis.compression.fusion import FeatureFusion
from stereopsis.compression.hyperprior import Hyperprior, HyperpriorConfig
from stereopsis.compression.layers import FAST, IGDN, SLOPE, conv
from stereopsis.compression.losses import Metric, RateDistortion, rate_distortion_loss
from stereopsis.compression.single import Reconstruction, pad_to_stride
from stereopsis.ops.cost_volume import residual_volume
from stereopsis.ops.patch_match import patch_match, take_patches
from stereopsis.zoo.registry import register

SHARPNESS = 60.0  # of a refinement that has learnt nothing yet, for distances of pictures in [0, 1]
CENTRE = 4.0  # logit of no shift at the start, where no distances are known
BOX = 5  # pixels that distances are averaged over
MEAN = 16  # pixels of a local mean
TINY = 1e-12


@dataclass(frozen=True)
class FFCAConfig:
    """The numbers of one variant; the defaults are the compact shape.

    Attributes:
        base: of the codec of one view; the channels of its decoder are those of h_x and h_y (the paper's N).
        patch: side of a patch at 1/2, a multiple of 8 (B).
        pictures: match the pictures themselves in place of features.
        reach: shifts to either side that HSSR chooses among, in pixels at 1/2 (D = 2 reach + 1).
        group: channels of a group in HSSR.
        mu: least difference of a channel that is refined, in shares of its own root mean square.
        fusion: channels of FFF at 1/2, 1/4, 1/8 and 1/16.
        fusion_groups: of the 1 x 1 convolutions of its shuffle blocks.
        head: channels of FFF at full size; 0 for none, where the picture comes straight from 1/2.
        patch_matching, refinement, fast_fusion: the parts that the paper's Table 3 takes away.
    """

    base: HyperpriorConfig = field(default_factory=lambda: HyperpriorConfig(checkerboard=True))
    patch: int = 16
    pictures: bool = True
    reach: int = 4
    group: int = 8
    mu: float = 0.5
    fusion: tuple[int, int, int, int] = (64, 96, 128, 128)
    fusion_groups: int = 2
    head: int = 0
    patch_matching: bool = True
    refinement: bool = True
    fast_fusion: bool = True

    @property
    def levels(self) -> tuple[int, int, int, int]:
        """Channels of h_x and h_y at 1/2, 1/4, 1/8 and 1/16."""
        return (*self.base.widths, self.base.latent)


@dataclass(frozen=True)
class SideReconstruction(Reconstruction):
    """What the codec gives while it learns; ``x_hat`` is the main view with its side view.

    Attributes:
        base: the main view without.
        h_x, h_y: features of both views at 1/2, the side view's aligned.
    """

    base: Float[Tensor, "b 3 h w"]
    h_x: Float[Tensor, "b n h/2 w/2"]
    h_y: Float[Tensor, "b n h/2 w/2"]


# --- the side view's features, and their coarse alignment (section 3.1)


class SideFeatures(nn.Module):
    """FEN: features of the side view at 1/2, 1/4, 1/8 and 1/16."""

    def __init__(self, config: FFCAConfig) -> None:
        super().__init__()
        channels = (3, *config.levels)
        self.stages = nn.ModuleList(
            nn.Sequential(conv(c_in, c_out, 3), nn.LeakyReLU(SLOPE), conv(c_out, c_out, 3, 1))
            for c_in, c_out in pairwise(channels)
        )

    def forward(self, y: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        features = []
        for number, stage in enumerate(self.stages):
            y = stage(F.leaky_relu(y, SLOPE) if number else y)
            features.append(y)
        return features


def structure(picture: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 12 h/2 w/2"]:
    """What the compact shape matches: the four pixels of each place at 1/2, less the local mean."""
    x = F.pixel_unshuffle(picture.float(), 2)
    mean = F.interpolate(F.avg_pool2d(x, MEAN), scale_factor=float(MEAN), mode="bilinear")
    return (x - mean).contiguous()


# --- fine alignment (section 3.2)


class HourglassRefinement(nn.Module):
    """HSSR: a probability for each of a few shifts and each pixel at 1/2, from both views' features at three scales."""

    def __init__(self, config: FFCAConfig) -> None:
        super().__init__()
        widths = [2 * channels for channels in config.base.widths]

        def grouped(c_in: int, c_out: int, stride: int = 1, up: bool = False) -> nn.Module:
            groups = max(math.gcd(c_in, c_out) // config.group, 1)
            if up:
                return nn.ConvTranspose2d(c_in, c_out, 3, stride, 1, stride - 1, groups)
            return nn.Conv2d(c_in, c_out, 3, stride, 1, groups=groups)

        def pair(width: int) -> nn.Sequential:
            return nn.Sequential(grouped(width, width), nn.LeakyReLU(SLOPE), grouped(width, width))

        fine, middle, coarse = widths
        self.blocks = nn.ModuleList(pair(width) for width in widths)
        self.down = nn.ModuleList([grouped(fine, middle, 2), grouped(middle, coarse, 2)])
        self.up = nn.ModuleList([grouped(middle, fine, 2, True), grouped(coarse, middle, 2, True)])
        self.merge = nn.ModuleList([grouped(fine, fine), grouped(middle, middle)])
        self.out = conv(fine, 2 * config.reach + 1, 3, 1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)
        self.reach = config.reach
        if config.pictures:
            self.sharpness = nn.Parameter(torch.tensor(SHARPNESS, dtype=torch.float32))
        else:
            with torch.no_grad():
                self.out.bias[config.reach] = CENTRE

    def forward(
        self,
        h_x: list[Float[Tensor, "b _ _ _"]],
        h_y: list[Float[Tensor, "b _ _ _"]],
        pictures: tuple[Float[Tensor, "b 12 h w"], Float[Tensor, "b 12 h w"]] | None,
    ) -> Float[Tensor, "b d h w"]:
        """
        Args:
            h_x, h_y: at 1/2, 1/4 and 1/8.
            pictures: of :func:`structure`, aligned, where the variant takes them.

        Returns:
            Of shifts -reach … reach: a shift of s takes what the side view has s pixels further left.
        """
        # h_x and h_y in turn, so that each group sees both
        volumes = [torch.stack(both, 2).flatten(1, 2) for both in zip(h_x, h_y, strict=True)]
        kept: list[Tensor] = []
        for number, volume in enumerate(volumes):
            x = volume.contiguous(memory_format=FAST)
            if number:
                x = x + self.down[number - 1](F.leaky_relu(kept[-1], SLOPE))
            kept.append(x + self.blocks[number](x))
        x = kept.pop()
        for number in (1, 0):
            x = kept[number] + self.up[number](F.leaky_relu(x, SLOPE))
            x = x + self.merge[number](F.leaky_relu(x, SLOPE))
        logits = self.out(F.leaky_relu(x, SLOPE)).float()
        if pictures is not None:
            still = torch.zeros_like(pictures[0][:, :1])
            distance = residual_volume(*pictures, still, self.reach) / pictures[0].shape[1]
            logits = logits - self.sharpness * F.avg_pool2d(distance, BOX, 1, BOX // 2, count_include_pad=False)
        return logits.softmax(1)


def coarser(shifts: Float[Tensor, "b d h w"], scale: int) -> Float[Tensor, "b _ h/s w/s"]:
    """Probabilities of shifts in pixels of a coarser scale: averaged over its pixels, a fraction shared between two."""
    reach = shifts.shape[1] // 2
    fewer = -(-reach // scale)
    fine = torch.arange(-reach, reach + 1, device=shifts.device, dtype=torch.float32) / scale
    share = (
        1 - (torch.arange(-fewer, fewer + 1, device=shifts.device, dtype=torch.float32)[:, None] - fine).abs()
    ).clamp(min=0)
    return torch.einsum("kd,bdhw->bkhw", share.to(shifts), F.avg_pool2d(shifts, scale))


def differing(h_x: Float[Tensor, "b n h w"], h_y: Float[Tensor, "b n h w"], mu: float) -> Bool[Tensor, "b n"]:
    """Channels that differ much between the views (Eq. 7)."""
    with torch.no_grad():
        h_x, h_y = h_x.float(), h_y.float()
        own = h_x.square().mean((2, 3)).clamp(min=TINY)
        return ((h_x - h_y).square().mean((2, 3)) / own).sqrt() >= mu


def shifted(
    h_y: Float[Tensor, "b n h w"], shifts: Float[Tensor, "b d h w"], chosen: Bool[Tensor, "b n"]
) -> Float[Tensor, "b n h w"]:
    """The chosen channels averaged over the shifts, continued at the border; the others as they are (Eq. 8)."""
    reach = shifts.shape[1] // 2

    def average(features: Tensor) -> Tensor:
        return disparity_warp(F.pad(features, (reach, reach, 0, 0), "replicate"), shifts.flip(1)).to(features.dtype)

    if len(h_y) > 1 or chosen.all():
        moved = average(h_y)
        return moved if chosen.all() else torch.where(chosen[..., None, None], moved, h_y)
    places = chosen[0].nonzero().flatten()
    return h_y.index_copy(1, places, average(h_y[:, places])) if len(places) else h_y


# --- the codec


class FFCA(SideViewCodec):
    """The codec; see the module's text for the parts and the deviations.

    ``model(main, side, quality)`` is for training and :meth:`finalize` ends it. For use, ``model.compress(main)`` gives
    a file of the main view, which ``model.decompress(content)`` shows in base quality and
    ``model.decompress(content, side=side)`` in full quality. ``model.compress(pair)`` gives a file with a stream of
    each view, of which the left one is decoded with the decoded right one.

    Args:
        config: the variant.
        name: what files say they were written by.

    Attributes:
        compute_dtype: of all that decodes beside the base.
    """

    def __init__(self, config: FFCAConfig | None = None, name: str = "ffca") -> None:
        super().__init__(name)
        self.config = config = config or FFCAConfig()
        self.base = Hyperprior(config.base, name)
        self.side = SideFeatures(config)
        if config.refinement:
            self.refine = HourglassRefinement(config)
        self.fuse = FeatureFusion(config.levels, config.fusion, config.fusion_groups, config.head, config.fast_fusion)

    @property
    def compute_dtype(self) -> torch.dtype:
        return self.base.compute_dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype) -> None:
        self.base.compute_dtype = dtype

    # --- training

    def forward(
        self,
        main: Float[Tensor, "b 3 h w"],
        side: Float[Tensor, "b 3 h w"],
        quality: float | Float[Tensor, " b"] = 4.0,
        side_is: SideView = "right",
    ) -> SideReconstruction:
        """Codes main views with noise in place of rounding where the rate is measured (in evaluation: with rounding).

        Args:
            main, side: in [0, 1], any size; sides are padded to multiples of 64 by their edge.
            quality: 1 to 8, also between; one for all pairs or one each.
            side_is: which view of the rig the side view is.
        """
        x, y = pad_to_stride(main), pad_to_stride(side)
        quality = torch.as_tensor(quality, dtype=x.dtype, device=x.device).expand(len(x))
        y_hat, bits_y, bits_z = self.base.latents(x, quality)
        with self._precision(x):
            base, h_x = self._synthesis(y_hat)
            x_hat, h_y = self._with_side(base, h_x, y, side_is)
        crop = (..., slice(main.shape[-2]), slice(main.shape[-1]))
        return SideReconstruction(x_hat[crop], bits_y, bits_z, base[crop], h_x[0].float(), h_y[0].float())

    def _precision(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32)

    def _synthesis(self, y_hat: Float[Tensor, "b m h/16 w/16"]) -> tuple[Float[Tensor, "b 3 h w"], list[Tensor]]:
        """The base picture, and the decoder's features from 1/2 to 1/16."""
        x, features = y_hat, [y_hat]
        for layer in self.base.g_s:
            x = layer(x)
            if isinstance(layer, IGDN):
                features.append(x)
        return x.float() + 0.5, features[::-1]

    def _with_side(
        self, base: Float[Tensor, "b 3 h w"], h_x: list[Tensor], y: Float[Tensor, "b 3 h w"], side_is: SideView
    ) -> tuple[Float[Tensor, "b 3 h w"], list[Tensor]]:
        """The main view, and the side view's features where the main view has them."""
        config, h_y = self.config, self.side(y - 0.5)
        pictures = (structure(base.detach()), structure(y)) if config.pictures else None
        if config.patch_matching:
            target, searched = pictures or (h_x[0].float(), h_y[0].float())
            columns = patch_match(target, searched, config.patch, "left" if side_is == "right" else "right")
            h_y = [take_patches(h, columns >> level, config.patch >> level) for level, h in enumerate(h_y)]
            if pictures:
                pictures = pictures[0], take_patches(pictures[1], columns, config.patch)
        if config.refinement:
            shifts = self.refine(h_x[:3], h_y[:3], pictures)
            for level, h in enumerate(h_y):
                moves = coarser(shifts, 1 << level) if level else shifts
                h_y[level] = shifted(h, moves, differing(h_x[level], h, config.mu))
        return base + self.fuse(h_x, h_y).float(), h_y

    @torch.no_grad()
    def start_from(self, hyperprior: Mapping[str, Tensor]) -> None:
        """Take what a trained hyperprior codec of these widths knows.

        Where it has one pass, the second pass starts with the predictions of the first, which is how one is made.

        Args:
            hyperprior: its state.

        Raises:
            ValueError: it has other shapes.
        """
        own = self.base.state_dict()
        for name, value in hyperprior.items():
            target = own.get(name)
            if target is None or target.shape != value.shape:
                shape = "no such tensor" if target is None else str(tuple(target.shape))
                raise ValueError(
                    f"{name} of the hyperprior codec has the shape {tuple(value.shape)}, where this one has {shape}; "
                    "take one of the same widths."
                )
            target.copy_(value)
        self.forget()

    def finalize(self) -> None:
        """Store the whole numbers that decoding needs; call it after training, before the weights are saved.

        Raises:
            ValueError: the weights have diverged.
        """
        self.base.finalize()
        self.forget()

    def forget(self) -> None:
        super().forget()
        self.base.forget()

    # --- coding

    def encode(self, views: list[Float[Tensor, "1 3 h w"]], level: int, effort: int = 0) -> list[Stream]:
        return self.base.encode(views, level, effort)

    def decode_beside(
        self,
        streams: list[Stream],
        size: tuple[int, int],
        level: int,
        side: Float[Tensor, "1 3 h w"] | None,
        side_is: SideView,
    ) -> list[Float[Tensor, "1 3 h w"]]:
        if not 1 <= len(streams) <= 2:
            raise ValueError(f"the file has {len(streams)} streams where a pair has 2 and an image 1; it is damaged.")
        # both before the pictures, so that damage is found at once
        latents = [self.base.decode_latents(stream, size, level) for stream in streams]
        base, h_x = self._synthesis(latents[0])
        views = []
        if len(latents) == 2:
            other = self._synthesis(latents[1])[0][..., : size[0], : size[1]]
            side = (other.clamp(0, 1) * 255).round() / 255  # as the decoded file of it alone would be
            views = [other]
        if side is not None:
            with self._precision(base):
                base, _ = self._with_side(base, h_x, pad_to_stride(side), side_is)
        return [base[..., : size[0], : size[1]], *views]


def ffca_loss(
    output: SideReconstruction,
    target: Float[Tensor, "b 3 h w"],
    quality: float | Float[Tensor, " b"],
    metric: Metric = "mse",
    alpha: float = 0.1,
    base: float = 0.1,
    luma: float = 1.0,
) -> RateDistortion:
    """``R + lambda ((1 - alpha) d1(x, x_hat) + alpha d2(h_x^1, h_y**^1))`` (Eq. 9), R of the main view alone.

    Args:
        output: of the codec's forward.
        target: the main views, in [0, 1].
        quality: that the codec was given.
        metric: of d1; d2 is the mean squared error of the features in shares of their mean square, times d1 of the
            base picture.
        alpha: the weight of d2.
        base: the share of d1 that the base picture has; the paper has none.
        luma: of d1, as for :func:`~stereopsis.compression.losses.rate_distortion_loss`.

    Raises:
        ValueError: sides too small for MS-SSIM, or MS-SSIM with another luma than 1.
    """
    full = rate_distortion_loss(output, target, quality, metric, luma)
    plain = rate_distortion_loss(replace(output, x_hat=output.base), target, quality, metric, luma)
    with_side, without = (each.loss - each.bpp for each in (full, plain))
    own = output.h_x.square().mean((1, 2, 3)).clamp(min=TINY)
    d2 = (output.h_x - output.h_y).square().mean((1, 2, 3)) / own * without.detach()
    loss = full.bpp + (1 - alpha) * ((1 - base) * with_side + base * without) + alpha * d2
    return RateDistortion(loss, full.bpp, full.distortion)


# N = 128 everywhere.
PAPER = FFCAConfig(
    base=HyperpriorConfig(widths=(128, 128, 128), latent=128, hyper=128, hidden=192, checkerboard=True),
    pictures=False,
    fusion=(128, 128, 128, 128),
    head=128,
)

# The paper's Table 3.
ABLATIONS = {
    "W/O SPM HSSR": {"patch_matching": False, "refinement": False},
    "W/O HSSR": {"refinement": False},
    "W/O FFF": {"fast_fusion": False},
    "Proposed": {},
}


def ablation(config: FFCAConfig, name: str) -> FFCAConfig:
    """A variant of :data:`ABLATIONS` in the shape of a configuration."""
    return replace(config, **ABLATIONS[name])  # type: ignore[arg-type]  # all of the fields are bool


def _register(name: str, config: FFCAConfig, description: str, **options: Any) -> None:
    register(
        name,
        family="compression",
        architecture="ffca",
        build=lambda: FFCA(config, name),
        config=config,
        description=description,
        **options,
    )


_register("ffca", FFCAConfig(), "FFCA-Net: views coded apart, decoded together, compact shape, untrained")
_register("ffca.paper", PAPER, "the same in the paper's shape (N=128), untrained")
_register(
    "ffca.scenes",
    FFCAConfig(),
    "FFCA-Net: views coded apart, decoded together, compact shape, all rates, trained on photos and scenes",
    licence="Apache-2.0",
    weights_file="ffca.scenes.safetensors",
)
_register(
    "ffca.depth",
    FFCAConfig(),
    "the same, trained for pictures that are to be matched: more rate, more of it for luma and for what HITNet sees",
    licence="Apache-2.0",
    weights_file="ffca.depth.safetensors",
)
