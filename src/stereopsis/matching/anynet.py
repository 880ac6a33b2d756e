"""AnyNet: anytime stereo matching on mobile devices.

Wang, Lai, Huang, Wang, van der Maaten, Campbell, Weinberger, ICRA 2019 (https://arxiv.org/abs/1810.11408). Four stages,
each a complete disparity map and each better than the one before, so that a caller may stop when time runs out::

    left, right ──FeatureExtractor──► 1/16 ───────────► 1/8 ─────────────► 1/4         (one U-Net, lazily unrolled)
                                       │                 │                  │
                             absolute_volume   residual_volume    residual_volume      L1 costs; the right features
                              0, 1 … 11         -2 … 2   ▲         -2 … 2   ▲          warped by the map so far
                                       │                 │     │            │    │
                              Regularization    Regularization│   Regularization │     3-D convolutions
                                       │ soft-argmin     │     │            │    │
                                       ▼                 ▼     │            ▼    │
                 full-size map:     stage 1 ──────► + stage 2 ─┴──────► + stage 3 ┴──► SpatialPropagation ──► stage 4

Stages are counted from 1 in words and from 0 in code. Disparities of a scale are in its own pixels; the maps that
travel between stages have the size and the pixels of the (padded) input, and may be negative inside the network.

Where the published code and weights differ from the paper or from what is right, a field of :class:`AnyNetConfig` says
so, and :data:`OFFICIAL` holds the values of the authors' weights:

* ``mirrored_residual``: the authors compare the right features at ``d - s`` and then add ``+s``. Their weights have
  learnt the mirror, and no change of the kernels undoes it; ours compare at ``d + s``;
* ``unet_align_corners``: the U-Net's upsampling keeps the corners in place, which moves coarse features against fine
  ones by up to a quarter of a coarse pixel. Maps are upsampled without, by the authors too;
* ``padding``: the authors crop to a multiple of 16; the known scores of their weights on whole images were measured
  with the mean colour above and on the right;
* the first volume has 16 channels of regularisation, the others 4 (the paper's table says otherwise);
* the propagation scans once, from left to right, at quarter resolution (the paper's reference for it scans four ways).

The right features are sampled at exact pixel positions, so that the third trap, ``align_corners`` of the warp (on, in
the authors' days), does not arise. Left of the image, features are 0: a candidate without a partner costs ``|f_L|``.

Our own deviations: any size from 16 x 16 works; ``refiner="conv"`` offers plain convolutions in place of the scan,
which exporters can only unroll for one width; the range of the search may be changed at the call; the residual stages
may start from the frame before; and there is a confidence.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.matching.deadline import StageCosts, wait_for
from stereopsis.ops.canvas import Canvas
from stereopsis.ops.cost_volume import absolute_volume, residual_volume
from stereopsis.ops.enlarge import enlarge, finished_map
from stereopsis.ops.images import check_views, search_width
from stereopsis.ops.propagation import propagate
from stereopsis.ops.soft_argmin import mass_near_mean, soft_argmin
from stereopsis.ops.thin_conv import thin_conv
from stereopsis.types import Disparity
from stereopsis.zoo.registry import register_variant

COARSEST = 16  # pixels of the input in one of the first stage; sizes are padded to a multiple of it
SCALES = (16, 8, 4)  # of the three matching stages
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class AnyNetConfig:
    """The numbers of one variant; the defaults are the paper's network with the right semantics.

    Attributes:
        init_channels: width of the U-Net; the scales have 2, 4 and 8 times as many (the paper's tables: 1, 2, 4, 6).
        max_disparity: of the first stage's candidates, in pixels of the input; may be overridden at the call. The
            residual stages can go beyond it by 16 and 8 pixels.
        residual: steps to either side in the residual stages, in pixels of 1/8 and 1/4.
        volume_channels: of the three regularisations.
        volume_layers: 3-D convolutions in each.
        refiner: the fourth stage: "spn" (paper), "conv" (exportable), or None for three stages.
        refiner_channels: of the propagated map, or of the convolutions.
        mirrored_residual, unet_align_corners: semantics of the authors' weights (see the module's list).
        padding: to a multiple of 16. "edge" repeats the outermost pixels on the left, where nothing has a match anyway,
            and below; "mean" adds ImageNet's mean colour above and on the right.
    """

    init_channels: int = 1
    max_disparity: int = 192
    residual: int = 2
    volume_channels: tuple[int, int, int] = (16, 4, 4)
    volume_layers: int = 6
    refiner: Literal["spn", "conv"] | None = "spn"
    refiner_channels: int = 8
    mirrored_residual: bool = False
    unet_align_corners: bool = False
    padding: Literal["edge", "mean"] = "edge"

    @property
    def stages(self) -> int:
        """Number of maps: 4, or 3 without a refiner."""
        return len(SCALES) + (self.refiner is not None)


# --- features


class Preconv(nn.Sequential):
    """Normalisation and activation come before the convolution, so that features may have either sign."""

    def forward(self, *sources: Tensor, pool: bool = False) -> Tensor:
        """Of the sources' channels together, pooled by 2 before everything if so told."""
        norm, _, conv = self
        assert isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d)
        assert isinstance(conv, nn.Conv2d | nn.Conv3d)
        return thin_conv(sources, conv.weight, norm=norm, stride=conv.stride[0], pool=pool)


def _preconv(c_in: int, c_out: int, stride: int = 1) -> Preconv:
    return Preconv(nn.BatchNorm2d(c_in), nn.ReLU(), nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False))


class FeatureExtractor(nn.Module):
    """U-Net whose upward half gives the features of 1/16, 1/8 and 1/4 (section III, A)."""

    def __init__(self, channels: int, align_corners: bool) -> None:
        super().__init__()
        c = channels
        self.align_corners = align_corners
        self.stem = nn.Sequential(nn.Conv2d(3, c, 3, padding=1), _preconv(c, c, stride=2))
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), _preconv(c_in, c_out), _preconv(c_out, c_out))
            for c_in, c_out in ((c, 2 * c), (2 * c, 4 * c), (4 * c, 8 * c))
        )
        self.up = nn.ModuleList(
            nn.Sequential(_preconv(skip + coarse, skip), _preconv(skip, skip))
            for skip, coarse in ((4 * c, 8 * c), (2 * c, 4 * c))
        )

    def forward(self, images: Sequence[Float[Tensor, "b _ h w"]], canvas: Canvas) -> Iterator[Tensor]:
        """Features of all images in one batch, from coarse to fine; each scale is computed when it is asked for."""
        *skips, x = self.contract(images, canvas)
        yield x
        for scale, skip in enumerate(reversed(skips)):
            x = self.expand(scale, x, skip)
            yield x

    def contract(self, images: Sequence[Float[Tensor, "b _ h w"]], canvas: Canvas) -> list[Tensor]:
        """The downward half: maps at 1/4, 1/8 and 1/16; the last are that scale's features."""
        first, second = cast(tuple[nn.Conv2d, Preconv], self.stem)
        assert first.bias is not None
        x = second(canvas.convolved(images, first.weight, first.bias))
        skips = []
        for down in self.down:
            _, widen, again = cast(tuple[nn.Module, Preconv, Preconv], down)
            x = again(widen(x, pool=True))
            skips.append(x)
        return skips

    def expand(self, scale: int, x: Float[Tensor, "b _ h w"], skip: Float[Tensor, "b _ H W"]) -> Tensor:
        """A step upwards: the features of 1/8 (scale 0) or 1/4 (1) from the coarser ones and that scale's map."""
        merge, again = cast(tuple[Preconv, Preconv], self.up[scale])
        return again(merge(skip, enlarge(x, skip.shape[-2:], align_corners=self.align_corners)))


# --- matching


class Regularization(nn.Sequential):
    """3-D convolutions over candidates, rows and columns, each behind a normalisation (section III, B)."""

    def __init__(self, channels: int, layers: int) -> None:
        widths = [1] + [channels] * (layers - 1) + [1]
        super().__init__(
            *(
                Preconv(nn.BatchNorm3d(c_in), nn.ReLU(), nn.Conv3d(c_in, c_out, 3, padding=1, bias=False))
                for c_in, c_out in pairwise(widths)
            )
        )

    def forward(self, volume: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """Costs without a unit, the smaller the likelier."""
        return super().forward(volume[:, None])[:, 0]


# --- refinement


class SpatialPropagation(nn.Module):
    """SPNet: smooths the map along what a small network of the left image calls one surface (section III, D)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        widths = [3, 2 * channels, 2 * channels, 2 * channels, 3 * channels]
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(widths):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.ReLU(inplace=True)]
        self.guidance = nn.Sequential(*layers[:-1])
        self.lift = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.project = nn.Conv2d(channels, 1, 3, padding=1, bias=False)

    def forward(
        self, image: Float[Tensor, "b _ h w"], canvas: Canvas, disparity: Float[Tensor, "b 1 H W"]
    ) -> Float[Tensor, "b 1 H W"]:
        """Works at a quarter of the size; the disparities keep the pixels of the input."""
        size = disparity.shape[-2:]
        quarter = canvas.reduced(image, SCALES[-1])
        gates = quarter
        for number, layer in enumerate(cast(list[nn.Conv2d], self.guidance[::2])):
            gates = thin_conv([gates], layer.weight, relu=number > 0)
        lifted = thin_conv([enlarge(disparity, quarter.shape[-2:])], self.lift.weight, relu=False)
        propagated = propagate(lifted.float(), gates.float().unflatten(1, (3, self.channels)), normalize=True)
        return enlarge(thin_conv([propagated], self.project.weight, relu=False).float(), size)


class ConvolutionalRefiner(nn.Module):
    """Four convolutions over the left image and the map, at a quarter of the size; adds a correction."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [4, channels, channels, channels]
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(widths):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.update = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(
        self, image: Float[Tensor, "b _ h w"], canvas: Canvas, disparity: Float[Tensor, "b 1 H W"]
    ) -> Float[Tensor, "b 1 H W"]:
        quarter = canvas.reduced(image, SCALES[-1])
        x = torch.cat([quarter, enlarge(disparity, quarter.shape[-2:]) / COARSEST], dim=1)
        for number, layer in enumerate([*cast(list[nn.Conv2d], self.layers[::2]), self.update]):
            x = thin_conv([x], layer.weight, layer.bias, relu=number > 0)
        return enlarge(x.float(), disparity.shape[-2:], base=disparity)


def _resize(x: Float[Tensor, "b c h w"], size: tuple[int, int] | torch.Size) -> Tensor:
    return F.interpolate(x.float(), size=tuple(size), mode="bilinear", align_corners=False)


# --- the network


@dataclass(frozen=True)
class AnyNetEstimate:
    """What a stage knows, of the padded images; the losses read it.

    Attributes:
        disparity: in pixels of the input; may be negative.
        distribution: probabilities of the candidates (of the residuals, after the first stage) at the stage's own
            scale, softmax of the negative costs; the fourth stage repeats the third's.
    """

    disparity: Float[Tensor, "b 1 H W"]
    distribution: Float[Tensor, "b k h w"]

    def confidence(self) -> Float[Tensor, "b 1 h w"]:
        """Probability within one candidate of the estimate, fading to nothing at two; at the stage's own scale."""
        return mass_near_mean(self.distribution)


class AnyNet(nn.Module):
    """The network; see the module's text for the parts and the deviations from the paper.

    ``model(left, right)`` gives the last stage, ``model(left, right, budget=0.020)`` the best one that fits into 20 ms,
    and ``model.stages(left, right)`` all of them, one at a time.

    Args:
        config: the variant.
        clock: a monotonic clock in seconds, by which budgets are kept.
    """

    largest_view = 16_000_000  # pixels that are matched at once, in 2 GB at most

    def __init__(self, config: AnyNetConfig | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self.config = config = config or AnyNetConfig()
        self.clock = clock
        self.compute_dtype = torch.float32
        self.features = FeatureExtractor(config.init_channels, config.unet_align_corners)
        self.regularize = nn.ModuleList(Regularization(c, config.volume_layers) for c in config.volume_channels)
        self.refine: nn.Module | None = None
        if config.refiner == "spn":
            self.refine = SpatialPropagation(config.refiner_channels)
        elif config.refiner == "conv":
            self.refine = ConvolutionalRefiner(config.refiner_channels)
        self._costs: dict[tuple[object, ...], StageCosts] = {}
        self._initialize_weights()

    def _initialize_weights(self) -> None:
        """He initialisation; a convolutional refiner starts as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if isinstance(self.refine, ConvolutionalRefiner):
            nn.init.zeros_(self.refine.update.weight)

    def estimates(
        self,
        left: Float[Tensor, "b c h w"],
        right: Float[Tensor, "b c h w"],
        max_disparity: int | None = None,
        previous: Disparity | None = None,
    ) -> Iterator[AnyNetEstimate]:
        """Runs the stages one by one, as they are asked for; arguments as in :meth:`forward`, unchecked.

        Estimates are of the images padded to multiples of 16.
        """
        canvas = self._canvas(left)
        size = torch.Size(side + -side % COARSEST for side in left.shape[-2:])
        start = None
        if previous is not None:
            start = self._placed(previous.disparity.float().masked_fill(~previous.valid, math.nan), canvas)
        candidates = -(-(max_disparity or self.config.max_disparity) // COARSEST)
        with self._precision(left):
            pyramid = self.features([left, right], canvas)
        estimate: AnyNetEstimate | None = None
        for stage in range(len(SCALES)):
            with self._precision(left):
                features = next(pyramid)
                if stage == 1 and estimate is not None and start is not None:
                    estimate = self._better(features, estimate, start)
                estimate = self.match(stage, features, candidates, size, estimate)
            yield estimate
        if self.refine is not None and estimate is not None:
            with self._precision(left):
                estimate = replace(estimate, disparity=self.refine(left, canvas, estimate.disparity).float())
            yield estimate

    def _better(self, features: Tensor, estimate: AnyNetEstimate, previous: Tensor) -> AnyNetEstimate:
        """The estimate with the previous map in the places where a residual of it matches at less cost."""
        left, right = features.float().chunk(2)
        known = previous.isfinite()
        maps = estimate.disparity, torch.where(known, previous, 0.0)
        costs = [
            residual_volume(left, right, _resize(d, left.shape[-2:]) / SCALES[1], self.config.residual) for d in maps
        ]
        first, second = (F.avg_pool2d(cost.amin(1, keepdim=True), 3, 1, 1) for cost in costs)
        chosen = F.interpolate((second < first).float(), size=known.shape[-2:], mode="nearest").bool() & known
        return replace(estimate, disparity=torch.where(chosen, maps[1], maps[0]))

    def match(
        self, stage: int, features: Tensor, candidates: int, size: torch.Size, previous: AnyNetEstimate | None
    ) -> AnyNetEstimate:
        """One of the three matching stages, from both views' features and the stage before; for exporters too."""
        left, right = features.float().chunk(2)
        if previous is None:
            volume, first = absolute_volume(left, right, candidates), 0
        else:
            radius = self.config.residual
            start = enlarge(previous.disparity, left.shape[-2:]) / SCALES[stage]
            volume, first = residual_volume(left, right, start, radius), -radius
            if self.config.mirrored_residual:
                volume = volume.flip(1)
        distribution, mean = soft_argmin(self.regularize[stage](volume).float())
        base = None if previous is None else previous.disparity
        return AnyNetEstimate(enlarge((mean + first) * SCALES[stage], size, base=base), distribution)

    def stages(
        self,
        left: Float[Tensor, "b c h w"],
        right: Float[Tensor, "b c h w"],
        max_disparity: int | None = None,
        previous: Disparity | None = None,
    ) -> Iterator[Disparity]:
        """The maps of all stages, from fast to good, each of full size and computed only when asked for.

        Arguments and errors as in :meth:`forward`; errors are raised at the call.
        """
        max_disparity = self._checked(left, right, max_disparity, previous)
        estimates = self.estimates(left, right, max_disparity, previous)
        return (self._finish(estimate, left.shape[-2:], stage) for stage, estimate in enumerate(estimates, start=1))

    def forward(
        self,
        left: Float[Tensor, "b c h w"],
        right: Float[Tensor, "b c h w"],
        max_disparity: int | None = None,
        budget: float | None = None,
        previous: Disparity | None = None,
    ) -> Disparity:
        """Matches a rectified pair, all stages or as many as time allows.

        Args:
            left, right: images in [0, 1]; 1 or 3 channels, at least 16 x 16, any size.
            max_disparity: range of the first stage's candidates in pixels, rounded up to a multiple of 16; the
                config's 192 where not given. The network is convolutional over the candidates, so any number of them
                works; fewer make the first stage faster, and weights know best the range that they were trained with.
            budget: seconds for this call. A stage starts only if it is expected to end in time, by what it took on
                views of this size before; the first stage always runs. Two calls with ``math.inf`` teach the model what
                the stages cost.

        Returns:
            Disparity of the left view, dense. ``confidence`` is the probability around the estimate, in the
            distribution that its stage regressed it from; ``stage`` is the last stage that was run.

        Raises:
            ValueError: for views of different size or smaller than 16, a wrong number of channels, a max_disparity
                below 1, a budget that is not above 0, or a previous map of another size.
        """
        if budget is not None:
            return self._within(budget, left, right, max_disparity, previous)
        max_disparity = self._checked(left, right, max_disparity, previous)
        *_, last = self.estimates(left, right, max_disparity, previous)
        return self._finish(last, left.shape[-2:], self.config.stages)

    def _within(
        self, budget: float, left: Tensor, right: Tensor, max_disparity: int | None, previous: Disparity | None
    ) -> Disparity:
        start = self.clock()
        if not budget > 0:
            raise ValueError(f"budget is {budget} s; it must be above 0, for example 0.020 for 20 ms.")
        max_disparity = self._checked(left, right, max_disparity, previous)
        key = (tuple(left.shape), max_disparity, previous is None, left.device, self.compute_dtype)
        finish = self.config.stages
        costs = self._costs.setdefault(key, StageCosts(finish + 1))
        estimates = self.estimates(left, right, max_disparity, previous)
        estimate, reached = None, 0
        for stage in range(self.config.stages):
            begin = self.clock()
            if estimate is not None and begin - start + costs.needed(stage, finish) > budget:
                costs.skipped(stage)
                break
            estimate = next(estimates)
            wait_for(estimate.disparity)
            costs.measured(stage, self.clock() - begin)
            reached = stage + 1
        assert estimate is not None
        begin = self.clock()
        result = self._finish(estimate, left.shape[-2:], reached)
        wait_for(result.confidence)
        costs.measured(finish, self.clock() - begin)
        return result

    def _canvas(self, image: Tensor) -> Canvas:
        """ImageNet's mean and deviation, and padding to a multiple of 16."""
        wide, high = -image.shape[-1] % COARSEST, -image.shape[-2] % COARSEST
        if self.config.padding == "mean":
            return Canvas(IMAGENET_MEAN, IMAGENET_STD, top=high, right=wide, repeat=False)
        return Canvas(IMAGENET_MEAN, IMAGENET_STD, bottom=high, left=wide)

    @staticmethod
    def _placed(values: Tensor, canvas: Canvas) -> Tensor:
        """A map where its image is on the canvas, NaN beyond."""
        return F.pad(values, (canvas.left, canvas.right, canvas.top, canvas.bottom), value=math.nan)

    def _finish(self, estimate: AnyNetEstimate, size: torch.Size, stage: int) -> Disparity:
        rows, columns = estimate.disparity.shape[-2:]
        corner = (rows - size[0], 0) if self.config.padding == "mean" else (0, columns - size[1])
        confidence = estimate.confidence().nan_to_num_(0.0).clamp_(0, 1)
        return Disparity(*finished_map(estimate.disparity, confidence, corner, size), stage)

    def _precision(self, image: Tensor) -> torch.autocast:
        return torch.autocast(image.device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32)

    @staticmethod
    def _checked(left: Tensor, right: Tensor, max_disparity: int | None, previous: Disparity | None) -> int | None:
        """The largest disparity worth a search."""
        check_views(left, right)
        if left.shape[1] not in (1, 3):
            raise ValueError(f"the images have {left.shape[1]} channels; they must have 1 or 3.")
        if min(left.shape[-2:]) < COARSEST:
            raise ValueError(
                f"the images are {left.shape[-1]}x{left.shape[-2]}; AnyNet needs at least {COARSEST}x{COARSEST} pixels."
            )
        if previous is not None and previous.disparity.shape[-2:] != left.shape[-2:]:
            sizes = " and the views are ".join(f"{t.shape[-1]}x{t.shape[-2]}" for t in (previous.disparity, left))
            raise ValueError(f"the previous map is {sizes}; give the map of the same rig's last frame.")
        return search_width(max_disparity, left.shape[-1])


# The paper's network at the widths of its tables, and the semantics that the authors' weights have learnt.
C1 = AnyNetConfig()
C2, C4, C6 = (replace(C1, init_channels=channels) for channels in (2, 4, 6))
OFFICIAL = replace(C1, mirrored_residual=True, unet_align_corners=True, padding="mean")


_register = partial(register_variant, family="matching", network=AnyNet)
_register(
    "anynet.scenes",
    C1,
    "AnyNet, four anytime stages, trained on procedural scenes",
    licence="Apache-2.0",
    weights_file="anynet.scenes.safetensors",
)
_register("anynet", C1, "AnyNet, four anytime stages, untrained")
_register("anynet_c4", C4, "AnyNet with a U-Net four times as wide, untrained")
_register(
    "anynet.official",
    OFFICIAL,
    "AnyNet, the authors' SceneFlow or KITTI weights (import them)",
    licence="not stated by its authors",
    official=True,
)
