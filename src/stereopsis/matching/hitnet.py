"""HITNet: hierarchical iterative tile refinement for real-time stereo matching.

Tankovich, Häne, Zhang, Kowdle, Fanello, Bouaziz, CVPR 2021 (https://arxiv.org/abs/2007.12140). The disparity map is
held as planes ``h = [d, dx, dy, p]`` on tiles of 4 x 4 pixels of every feature scale; no cost volume is ever stored::

    left, right ──FeatureExtractor──► e_0 (1/1) … e_M (1/2^M)
                      │                       coarse to fine, l = M … 0
        TileInitialization(e_l) ──► h_init ─┐
                 h from scale l + 1, split ─┴─► Propagation: warp, costs, U_l ──► update, keep the winner
                                                     │
            after l = 0:  Refinement on 4 x 4 ──split──► 2 x 2 ──split──► 1 x 1 tiles ──► disparity

Sizes: tile coordinates and disparities of scale l are in pixels of e_l; x runs along the columns.

Where the published graph (the authors' frozen ``eth3d.pb``) and the paper differ, this file follows the graph, and a
field of :class:`HITNetConfig` says so where one may choose:

* down-sampling is one 4 x 4 convolution of stride 2 and a 3 x 3 one; a block upwards has two 3 x 3 ones (paper: one);
* the tile network is a 4 x 4 and a single 1 x 1 convolution; the update network has no leading 1 x 1 convolution;
* each tile's costs have a fourth kind, ``|e_L|_1``, beside the costs at d' - 1, d' and d' + 1 (paper: three);
* on the three finer scales the descriptor sees the left feature map two scales coarser instead of the tile's feature;
* the right tiles stand one column off: the padding of their convolution is part of the matching geometry;
* ``winner``: the graph keeps the hypothesis of *lowest* w, the paper (section 3.4) the highest;
* ``split_steps``: the graph moves d by half a pixel at both splits of the refinement, where the plane equation wants a
  whole one at the first;
* the last three steps (section 3.4, end) take left features only and do not warp.

Our own deviations: sizes are padded to a multiple of 64 (multi-scale) or 16 (single-scale), where the authors pad the
latter to 4; and ``padding`` continues the image, where the authors' grey border spoils the last columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.matching import hitnet_bf16
from stereopsis.ops import bf16_conv
from stereopsis.ops.fused_conv import conv_leaky
from stereopsis.ops.images import check_views, luma, search_width
from stereopsis.ops.portable import portable
from stereopsis.ops.tile_match import TILE, matching_cost, right_tile_padding, tile_match
from stereopsis.ops.tile_plane import expand_plane, split_tiles
from stereopsis.ops.tile_warp import tile_warp_cost
from stereopsis.types import Disparity
from stereopsis.zoo.registry import register_variant

PLANE = 3  # d, dx, dy
DESCRIPTOR = 13  # p
HYPOTHESIS = PLANE + DESCRIPTOR


@dataclass(frozen=True)
class HITNetConfig:
    """The numbers of one variant; the defaults are the paper's multi-scale network for KITTI and ETH3D.

    Attributes:
        in_channels: 3 for RGB, 1 for grey; the door converts.
        max_disparity: candidates at full resolution; may be overridden at the call.
        feature_channels: of e_0 (full resolution) to e_M.
        multi_scale: initialise and propagate on every scale; otherwise on e_0 alone (SceneFlow variants).
        refine_channels, refine_dilations: of the three last steps, on 4 x 4, 2 x 2 and 1 x 1 tiles.
        winner: which hypothesis of a tile survives (see the module's list).
        split_steps: offset of a child tile's centre at the refinement's splits 4 to 2 and 2 to 1, in pixels.
        padding: to a whole number of tiles, on the right and below: with grey, the authors', or "edge", the outermost
            pixels again. On the left it would be taken for what those pixels match that the right view does not see.
    """

    in_channels: int = 3
    max_disparity: int = 256
    feature_channels: tuple[int, ...] = (16, 16, 24, 24, 32)
    multi_scale: bool = True
    tile_channels: int = 16
    propagation_channels: int = 32
    propagation_blocks: int = 2
    refine_channels: tuple[int, int, int] = (32, 32, 16)
    refine_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 1, 1), (1, 3, 1, 1), (1, 1))
    winner: Literal["highest", "lowest"] = "highest"
    split_steps: tuple[float, float] = (1.0, 0.5)
    padding: Literal["edge", "grey"] = "edge"

    @property
    def scales(self) -> int:
        """Number of scales with tile hypotheses: M + 1, or 1."""
        return len(self.feature_channels) if self.multi_scale else 1

    @property
    def size_multiple(self) -> int:
        """What height and width are padded to."""
        return max(TILE * 2 ** (self.scales - 1), 2 ** (len(self.feature_channels) - 1))


class ActivatedConv(nn.Sequential):
    """A convolution and a leaky ReLU."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o _ _"]:
        return conv_leaky(x, cast(nn.Conv2d, self[0]), 0.2)


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> ActivatedConv:
    padding = dilation * (kernel // 2) if stride == 1 else (kernel - stride) // 2
    return ActivatedConv(nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation), nn.LeakyReLU(0.2, inplace=True))


def _beside(features: Tensor, hypothesis: Float[Tensor, "b c h w"]) -> Tensor:
    """A hypothesis in the precision of features, and with the channels last as they have them: otherwise neither they
    together nor any map computed of them would, and convolutions take up to four times as long."""
    return hypothesis.to(features.dtype, memory_format=torch.channels_last)


class ResidualBlock(nn.Module):
    """``leaky(conv(leaky(conv(x))) + x)``, without normalisation."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels, 3, dilation=dilation)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, dilation, dilation)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return F.leaky_relu_(self.conv2(self.conv1(x)).add_(x), 0.2)


class FeatureExtractor(nn.Module):
    """U-Net whose upward half gives e_0 … e_M (section 3.2)."""

    def __init__(self, in_channels: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        deepest = channels[-1]
        self.stem = _conv(in_channels, channels[0], 3)
        self.down = nn.ModuleList(
            nn.Sequential(_conv(fine, coarse, 4, stride=2), _conv(coarse, coarse, 3))
            for fine, coarse in pairwise(channels)
        )
        self.bottom = nn.Sequential(_conv(deepest, deepest, 3), _conv(deepest, deepest, 3))
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(coarse, fine, 2, 2), nn.LeakyReLU(0.2, inplace=True))
            for fine, coarse in pairwise(channels)
        )
        self.merge = nn.ModuleList(
            nn.Sequential(_conv(2 * c, c, 1), _conv(c, c, 3), _conv(c, c, 3)) for c in channels[:-1]
        )

    def forward(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        skips = [self.stem(image)]
        for down in self.down:
            skips.append(down(skips[-1]))
        features = [self.bottom(skips[-1])]
        for level in reversed(range(len(self.up))):
            up = self.up[level](features[0])
            features.insert(0, self.merge[level](torch.cat([up, skips[level]], dim=1)))
        return features


@dataclass(frozen=True)
class TileMatch:
    """What initialisation knows of one scale; the losses read it (Eq. 9-11)."""

    left: Float[Tensor, "b c h w"]  # features of the left tiles
    right: Float[Tensor, "b c h W"]  # of the right tiles, one a column
    max_disparity: int  # in pixels of this scale


class TileInitialization(nn.Module):
    """Matches the tiles of one scale and describes each match (section 3.3)."""

    def __init__(self, channels: int, tile_channels: int, reference_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, tile_channels, TILE)
        self.embedding = _conv(tile_channels, tile_channels, 1)
        self.descriptor = _conv(1 + reference_channels, DESCRIPTOR, 1)

    def left_tiles(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t th tw"]:
        # the 4 x 4 convolution of stride 4 written as 1 x 1 over the tile's pixels: oneDNN 3.12 computes the strided
        # form wrongly in bfloat16 with AMX (relative error about 1)
        pixels = F.pixel_unshuffle(features, TILE)
        return self._embed(F.conv2d(pixels, self.reduce.weight.flatten(1)[..., None, None], self.reduce.bias))

    def right_tiles(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t th w"]:
        padded = right_tile_padding(features)
        return self._embed(F.conv2d(padded, self.reduce.weight, self.reduce.bias, stride=(TILE, 1)))

    def _embed(self, tiles: Tensor) -> Tensor:
        return self.embedding(F.leaky_relu(tiles, 0.2))

    def forward(
        self,
        left: Float[Tensor, "b c h w"],
        right: Float[Tensor, "b c h w"],
        reference: Float[Tensor, "b r th tw"] | None,
        max_disparity: int,
    ) -> tuple[Float[Tensor, "b 16 th tw"], TileMatch]:
        tiles_left, tiles_right = self.left_tiles(left), self.right_tiles(right)
        match = TileMatch(tiles_left.float(), tiles_right.float(), max_disparity)
        d = tile_match(match.left, match.right, max_disparity)
        cost = matching_cost(match.left, match.right, d)
        p = self.descriptor(
            torch.cat([cost.to(tiles_left.dtype), tiles_left if reference is None else reference], dim=1)
        )
        flat = torch.zeros_like(d)
        return torch.cat([d, flat, flat, p.float()], dim=1), match


class Propagation(nn.Module):
    """Warps, compares and updates the n hypotheses of every tile of one scale: U_l (section 3.4, Eq. 5-8)."""

    def __init__(self, hypotheses: int, channels: int, blocks: int, cost_channels: int = 16) -> None:
        super().__init__()
        self.cost = _conv(4 * TILE * TILE, cost_channels, 1)
        self.conv = _conv(hypotheses * (HYPOTHESIS + cost_channels), channels, 3)
        self.blocks = nn.Sequential(*[ResidualBlock(channels) for _ in range(blocks)])
        self.update = nn.Conv2d(channels, hypotheses * (HYPOTHESIS + 1), 3, padding=1)

    def forward(
        self, left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h w"], hypotheses: list[Tensor]
    ) -> list[tuple[Float[Tensor, "b 16 th tw"], Float[Tensor, "b 1 th tw"]]]:
        """Updated hypotheses, each with its w."""
        augmented = []  # a of Eq. 7
        exact = left.float(), right.float()
        for h in hypotheses:
            costs = tile_warp_cost(*exact, expand_plane(h[:, :PLANE], TILE))
            cost = self.cost(costs.to(left.dtype))
            augmented += [_beside(cost, h), cost]
        update = self.update(self.blocks(self.conv(torch.cat(augmented, dim=1)))).float()
        deltas = update.chunk(len(hypotheses), dim=1)
        return [(h + delta[:, :-1], delta[:, -1:]) for h, delta in zip(hypotheses, deltas, strict=True)]


class Refinement(nn.Module):
    """Updates the one hypothesis of every tile from the left image's features, without warping (section 3.4, end)."""

    def __init__(self, feature_channels: int, channels: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.reduce = _conv(feature_channels + HYPOTHESIS, channels, 1)
        self.conv = _conv(channels, channels, 3)
        self.blocks = nn.Sequential(*[ResidualBlock(channels, dilation) for dilation in dilations])
        self.update = nn.Conv2d(channels, HYPOTHESIS, 3, padding=1)

    def forward(
        self, feature: Float[Tensor, "b c h w"], hypothesis: Float[Tensor, "b 16 h w"]
    ) -> Float[Tensor, "b 16 h w"]:
        x = self.reduce(torch.cat([feature, _beside(feature, hypothesis)], dim=1))
        return hypothesis + self.update(self.blocks(self.conv(x))).float()


@dataclass(frozen=True)
class HITNetStages:
    """Every intermediate estimate, coarse to fine, of the padded images; the losses and the curious read it.

    Attributes:
        matches: tile features a scale.
        initial: hypotheses of the initialisation a scale.
        propagated: for each scale the n updated hypotheses with their w.
        selected: the surviving hypothesis and its w a scale.
        refined: hypotheses on 4 x 4, 2 x 2 and 1 x 1 tiles of the full resolution.
    """

    matches: list[TileMatch]
    initial: list[Tensor]
    propagated: list[list[tuple[Tensor, Tensor]]]
    selected: list[tuple[Tensor, Tensor]]
    refined: list[Tensor]


class HITNet(nn.Module):
    """The network; see the module's text for the parts and the deviations from the paper."""

    def __init__(self, config: HITNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or HITNetConfig()
        self.compute_dtype = torch.float32
        channels = config.feature_channels
        self.features = FeatureExtractor(config.in_channels, channels)
        # the descriptor's reference: the map two scales coarser has the tiles' resolution, where there is one
        references = [
            channels[level + 2] if level + 2 < len(channels) else config.tile_channels for level in range(config.scales)
        ]
        self.initialize = nn.ModuleList(
            TileInitialization(channels[level], config.tile_channels, references[level])
            for level in range(config.scales)
        )
        self.propagate = nn.ModuleList(
            Propagation(1 if level == config.scales - 1 else 2, config.propagation_channels, config.propagation_blocks)
            for level in range(config.scales)
        )
        self.refine = nn.ModuleList(
            Refinement(channels[2 - step], config.refine_channels[step], config.refine_dilations[step])
            for step in range(3)
        )

        self._initialize_weights()

    def _initialize_weights(self) -> None:
        """He initialisation for slope 0.2; updates start near zero, so that hypotheses start as they were matched."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                # each output of the transposed convolution sees one pixel
                fan = module.in_channels * (1 if isinstance(module, nn.ConvTranspose2d) else module.kernel_size[0] ** 2)
                gain = 0.1 if name.endswith(".update") else 0.5 if name.endswith(".conv2") else 1.0
                nn.init.normal_(module.weight, std=gain * (2 / (1 + 0.2**2) / fan) ** 0.5)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def stages(
        self,
        left: Float[Tensor, "b c h w"],
        right: Float[Tensor, "b c h w"],
        max_disparity: int | None = None,
    ) -> HITNetStages:
        """Runs the network on images whose sides are multiples of ``config.size_multiple``, already in [-1, 1]."""
        max_disparity = max_disparity or self.config.max_disparity
        both = torch.cat([left, right]).contiguous(memory_format=torch.channels_last)
        features = [e.chunk(2) for e in self.features(both)]

        matches, initial, propagated = [], [], []
        selected: list[tuple[Tensor, Tensor]] = []
        for level in reversed(range(self.config.scales)):
            e_left, e_right = features[level]
            reference = features[level + 2][0] if level + 2 < len(features) else None
            candidates = -(-max_disparity // 2**level)
            h_init, match = self.initialize[level](e_left, e_right, reference, candidates)
            hypotheses = [h_init]
            if selected:
                hypotheses.append(split_tiles(selected[-1][0], step=2, scale=2))
            updated = self.propagate[level](e_left, e_right, hypotheses)
            matches.append(match)
            initial.append(h_init)
            propagated.append(updated)
            selected.append(self._winner(updated))

        hypothesis = selected[-1][0]
        refined = []
        for step, refine in enumerate(self.refine):
            if step:
                hypothesis = split_tiles(hypothesis, step=self.config.split_steps[step - 1], scale=1)
            hypothesis = refine(features[2 - step][0], hypothesis)
            refined.append(hypothesis)
        return HITNetStages(matches, initial, propagated, selected, refined)

    def _winner(self, updated: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        if len(updated) == 1:
            return updated[0]
        (h_init, w_init), (h_up, w_up) = updated
        up = w_up > w_init if self.config.winner == "highest" else w_up < w_init
        return torch.where(up, h_up, h_init), torch.where(up, w_up, w_init)

    def forward(
        self,
        left: Float[Tensor, "b c h w"],
        right: Float[Tensor, "b c h w"],
        max_disparity: int | None = None,
    ) -> Disparity:
        """Matches a rectified pair.

        Args:
            left, right: images in [0, 1]; 1 or 3 channels, any size.
            max_disparity: candidates to search, in pixels; the config's where not given.

        Returns:
            Disparity of the left view, dense. ``confidence`` is the w of the tile's surviving hypothesis, squeezed to
            [0, 1]; the loss drives w to 1 where a tile is within a pixel of the truth and to 0 where not (Eq. 14).

        Raises:
            ValueError: for views of different size, a wrong number of channels or a max_disparity below 1.
        """
        check_views(left, right)
        max_disparity = search_width(max_disparity, left.shape[-1])
        left, right = self.as_input(left), self.as_input(right)
        if hitnet_bf16.usable(self, left, right):
            return hitnet_bf16.match(self, left, right, max_disparity or self.config.max_disparity)
        height, width = left.shape[-2:]
        multiple = self.config.size_multiple
        wide, high = -width % multiple, -height % multiple
        mode, value = ("constant", 0.5) if self.config.padding == "grey" else ("replicate", None)
        inner = (..., slice(height), slice(width))
        left, right = (F.pad(view, (0, wide, 0, high), mode, value) for view in (left, right))
        disparity, confidence = (values[inner] for values in self.maps(left, right, max_disparity))
        valid = disparity.isfinite()
        disparity = torch.where(valid, disparity.clamp(min=0), 0.0)
        return Disparity(disparity, valid, torch.where(valid & confidence.isfinite(), confidence, 0.0))

    def maps(
        self,
        left: Float[Tensor, "b c h w"],
        right: Float[Tensor, "b c h w"],
        max_disparity: int | None = None,
    ) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b 1 h w"]]:
        """Disparity, as the network leaves it, and confidence; for padded views, and for exporters.

        Args:
            left, right: images in [0, 1]; sides are multiples of ``config.size_multiple``.
            max_disparity: as in :meth:`forward`.
        """
        left, right = (2 * self.as_input(view) - 1 for view in (left, right))
        # a graph for other runtimes computes in float32
        rough = self.compute_dtype != torch.float32 and not portable()
        with torch.autocast(left.device.type, self.compute_dtype, enabled=rough):
            stages = self.stages(left, right, max_disparity)
        _, w = stages.selected[-1]
        return stages.refined[-1][:, :1], self._confidence(F.interpolate(w, scale_factor=TILE, mode="nearest"))

    def fastest_dtype(self, device: torch.device | str) -> torch.dtype:
        """To compute in on this machine: bfloat16 where the CPU has arithmetic for it and we have kernels."""
        on_cpu = torch.device(device).type == "cpu"
        return torch.bfloat16 if on_cpu and bf16_conv.kernel() is not None else torch.float32

    def as_input(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b i h w"]:
        """Return an image of 1 or 3 channels with the number of channels that the network takes, float32.

        Raises:
            ValueError: the image has another number of channels.
        """
        if image.shape[1] == self.config.in_channels:
            return image.float()
        if image.shape[1] == 1:
            return image.float().expand(-1, self.config.in_channels, -1, -1)
        if image.shape[1] == 3 and self.config.in_channels == 1:
            return luma(image.float())
        raise ValueError(f"the images have {image.shape[1]} channels; they must have 1 or 3.")

    def _confidence(self, w: Tensor) -> Tensor:
        sign = 1 if self.config.winner == "highest" else -1
        return torch.sigmoid(4 * (sign * w - 0.5))


# The variants of the paper and its supplement, by their usual names.
MULTI_SCALE = HITNetConfig()
SF = HITNetConfig(max_disparity=320, multi_scale=False, refine_dilations=((1, 2, 4, 8, 1, 1),) * 3)
L = replace(SF, feature_channels=(32, 40, 48, 56, 64), refine_channels=(32, 32, 32))
XL = replace(L, refine_channels=(64, 64, 64))
# the sixth scale's channels are inferred: 72 continues the others and gives the supplement's 1.62 M parameters
MIDDLEBURY = replace(L, max_disparity=400, multi_scale=True, feature_channels=(32, 40, 48, 56, 64, 72))
ETH3D = HITNetConfig(in_channels=1, max_disparity=128, winner="lowest", split_steps=(0.5, 0.5), padding="grey")


_register = partial(register_variant, family="matching", network=HITNet)
_register(
    "hitnet.scenes",
    MULTI_SCALE,
    "HITNet multi-scale, trained on procedural scenes",
    licence="Apache-2.0",
    weights_file="hitnet.scenes.safetensors",
)
_register(
    "hitnet.eth3d",
    ETH3D,
    "HITNet multi-scale, the authors' grey ETH3D weights (import them)",
    licence="not stated by its authors",
    official=True,
)
_register("hitnet_sf", SF, "HITNet single-scale for SceneFlow, untrained")
_register("hitnet_l", L, "HITNet L for SceneFlow, untrained")
_register("hitnet_xl", XL, "HITNet XL for SceneFlow, untrained")
_register("hitnet_middlebury", MIDDLEBURY, "HITNet with six scales for Middlebury, untrained")
