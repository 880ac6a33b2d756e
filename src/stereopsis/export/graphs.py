"""What is written of each model: the graphs, their inputs and outputs, and how large an error may be.

A graph takes batches of one. Images are RGB in [0, 1], and their sides are multiples of what the :class:`Plan` says;
whoever runs it pads them (:class:`Placement`) and crops the maps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stereopsis.compression.hyperprior import Hyperprior
from stereopsis.compression.integer import FRACTION, IntegerConv, IntegerNet, to_fixed
from stereopsis.compression.single import STRIDE
from stereopsis.data.patterns import pattern, pattern_pair
from stereopsis.matching.anynet import COARSEST, IMAGENET_MEAN, IMAGENET_STD, SCALES, AnyNet, AnyNetEstimate
from stereopsis.matching.hitnet import HITNet
from stereopsis.ops.canvas import Canvas
from stereopsis.ops.enlarge import enlarge
from stereopsis.upsampling.dkn import DKN, Block
from stereopsis.upsampling.dkn import STRIDE as DKN_STRIDE
from stereopsis.zoo.registry import ModelEntry


@dataclass(frozen=True)
class Rule:
    """When an output counts as the same.

    Attributes:
        limit: of a value's difference.
        share: of the values that may lie above it.
        relative: the limit is a multiple of the largest magnitude of torch's output.
    """

    limit: float
    share: float = 0.0
    relative: bool = False


PIXELS = Rule(0.05, share=0.001)
CERTAINTY = Rule(0.01, share=0.001)
RELATIVE = Rule(1e-3, relative=True)


@dataclass(frozen=True)
class Graph:
    """One file.

    Attributes:
        name: of the part, empty where the model has one.
        inputs: names, with the pixels of the image in one of the input.
        outputs: names, with their rules.
    """

    name: str
    module: nn.Module
    inputs: dict[str, int]
    outputs: dict[str, Rule]


@dataclass(frozen=True)
class Placement:
    """How an image of any size comes to sides that a graph takes.

    Attributes:
        multiple: that both sides become.
        columns, rows: where pixels are added.
        fill: their value, one or one a channel; None repeats the outermost pixels.
    """

    multiple: int
    columns: Literal["left", "right"] = "right"
    rows: Literal["top", "bottom"] = "bottom"
    fill: tuple[float, ...] | None = None

    def place(self, image: Tensor) -> Tensor:
        wide, high = (-side % self.multiple for side in (image.shape[-1], image.shape[-2]))
        left, top = wide * (self.columns == "left"), high * (self.rows == "top")
        sides = (left, wide - left, top, high - top)
        if self.fill is None:
            return F.pad(image, sides, "replicate")
        value = image.new_tensor(self.fill).view(1, -1, 1, 1)
        return F.pad(image - value, sides) + value

    def crop(self, values: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
        """The part of a map, of the placed image's size, that belongs to the image; size is (height, width)."""
        left = (values.shape[-1] - size[1]) * (self.columns == "left")
        top = (values.shape[-2] - size[0]) * (self.rows == "top")
        return values[..., top : top + size[0], left : left + size[1]]


@dataclass(frozen=True)
class Plan:
    """Everything that is written of a model, in the order of running: a graph may take what one before it gave.

    Attributes:
        placement: of images.
        example: inputs for checks, by height, width and seed.
        max_disparity: that a matcher's graphs are made for.
        exact: regular expression for the layers that stay in float32 where the others are in 8 bits; None where none
            may be.
    """

    graphs: tuple[Graph, ...]
    placement: Placement
    example: Callable[[int, int, int], dict[str, Tensor]]
    max_disparity: int | None = None
    exact: str | None = None


def plan_of(entry: ModelEntry, model: nn.Module, max_disparity: int | None = None) -> Plan:
    """What to write of a loaded model.

    Raises:
        ValueError: the model has no graph, or no range of disparities to set.
    """
    if isinstance(model, HITNet | AnyNet):
        if max_disparity is not None and max_disparity < 1:
            raise ValueError(f"max_disparity is {max_disparity}; it must be at least 1 pixel.")
        limit = max_disparity or model.config.max_disparity
        return _hitnet(model, limit) if isinstance(model, HITNet) else _anynet(model, limit)
    if max_disparity is not None:
        raise ValueError(f"{entry.name} searches no disparities; leave the limit of {max_disparity} out.")
    if isinstance(model, DKN):
        return _dkn(model)
    if isinstance(model, Hyperprior):
        return _hyperprior(model)
    raise ValueError(
        f"{entry.name} cannot be exported; HITNet, AnyNet, DKN, FDKN and the hyperprior codec can (stereopsis models)."
    )


def _pair(height: int, width: int, seed: int) -> dict[str, Tensor]:
    left, right = pattern_pair(height, width, seed)
    return {"left": left, "right": right}


# --- HITNet


class _HITNet(nn.Module):
    def __init__(self, model: HITNet, max_disparity: int) -> None:
        super().__init__()
        self.model, self.max_disparity = model, max_disparity

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.maps(left, right, self.max_disparity)


# What sees or gives disparities, and the features that are compared for the matching.
HITNET_EXACT = r"initialize|\.cost\.|propagate\.\d+\.conv\.|\.reduce|\.update"


def _hitnet(model: HITNet, limit: int) -> Plan:
    multiple = model.config.size_multiple
    grey = model.config.padding == "grey"
    placement = Placement(multiple, fill=(0.5,) if grey else None)
    outputs = {"disparity": PIXELS, "confidence": CERTAINTY}
    graph = Graph("", _HITNet(model, limit), {"left": 1, "right": 1}, outputs)
    return Plan((graph,), placement, _pair, limit, HITNET_EXACT)


# --- AnyNet: each stage goes on from the one before


class _AnyNetStage(nn.Module):
    def __init__(self, model: AnyNet) -> None:
        super().__init__()
        self.model = model
        self.canvas = Canvas(IMAGENET_MEAN, IMAGENET_STD)

    def _estimate(
        self, stage: int, features: Tensor, candidates: int, size: torch.Size, disparity: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        previous = None if disparity is None else AnyNetEstimate(disparity, disparity)
        found = self.model.match(stage, features, candidates, size, previous)
        return found.disparity, enlarge(found.confidence(), size)


class _AnyNetFirst(_AnyNetStage):
    def __init__(self, model: AnyNet, candidates: int) -> None:
        super().__init__(model)
        self.candidates = candidates

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, ...]:
        quarter, eighth, features = self.model.features.contract([left, right], self.canvas)
        estimate = self._estimate(0, features, self.candidates, left.shape[-2:], None)
        return *estimate, quarter, eighth, features


class _AnyNetResidual(_AnyNetStage):
    def __init__(self, model: AnyNet, stage: int) -> None:
        super().__init__(model)
        self.stage = stage

    def forward(self, disparity: Tensor, coarser: Tensor, skip: Tensor) -> tuple[Tensor, ...]:
        features = self.model.features.expand(self.stage - 1, coarser, skip)
        return *self._estimate(self.stage, features, 0, disparity.shape[-2:], disparity), features


class _AnyNetRefiner(_AnyNetStage):
    def forward(self, left: Tensor, disparity: Tensor) -> Tensor:
        assert self.model.refine is not None
        return cast(Tensor, self.model.refine(left, self.canvas, disparity))


def _anynet(model: AnyNet, limit: int) -> Plan:
    names = [f"features_{scale}" for scale in SCALES]
    maps = [{f"disparity_{n}": PIXELS, f"confidence_{n}": CERTAINTY} for n in range(1, len(SCALES) + 1)]
    kept: dict[str, Rule] = {"skip_4": RELATIVE, "skip_8": RELATIVE, names[0]: RELATIVE}
    first = _AnyNetFirst(model, -(-limit // COARSEST))
    graphs = [Graph("stage1", first, {"left": 1, "right": 1}, maps[0] | kept)]
    for stage in range(1, len(SCALES)):
        before, scale = SCALES[stage - 1], SCALES[stage]
        inputs = {f"disparity_{stage}": 1, names[stage - 1]: before, f"skip_{scale}": scale}
        outputs = maps[stage] | {names[stage]: RELATIVE}
        graphs.append(Graph(f"stage{stage + 1}", _AnyNetResidual(model, stage), inputs, outputs))
    if model.refine is not None:
        number = len(SCALES)
        inputs = {"left": 1, f"disparity_{number}": 1}
        graphs.append(Graph(f"stage{number + 1}", _AnyNetRefiner(model), inputs, {f"disparity_{number + 1}": PIXELS}))
    if model.config.padding == "mean":
        placement = Placement(COARSEST, rows="top", fill=IMAGENET_MEAN)
    else:
        placement = Placement(COARSEST, columns="left")
    return Plan(tuple(graphs), placement, _pair, limit)


# --- DKN and FDKN


class _DKN(nn.Module):
    def __init__(self, model: DKN) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        for block in self.model.modules():
            if isinstance(block, Block) and isinstance(block[1], nn.BatchNorm2d):
                block[0] = fuse_conv_bn_eval(cast(nn.Conv2d, block[0]), block[1])
                del block[1]

    def forward(self, image: Tensor, depth: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        result, good = self.model.filtered(image, depth, known > 0)
        return result, good.float()


def _dkn(model: DKN) -> Plan:
    def example(height: int, width: int, seed: int) -> dict[str, Tensor]:
        depth = F.avg_pool2d(pattern(height, width, seed + 1, 1), 9, 1, 4, count_include_pad=False)
        known = pattern(height, width, seed + 2, 1) > 0.3
        return {"image": pattern(height, width, seed), "depth": 1 + 4 * depth, "known": known.float()}

    inputs = {"image": 1, "depth": 1, "known": 1}
    outputs = {"refined": RELATIVE, "valid": RELATIVE}
    return Plan((Graph("", _DKN(model), inputs, outputs),), Placement(DKN_STRIDE), example)


# --- the codec's transforms; the entropy coder stays outside


class _Shifted(nn.Module):
    """A transform between latents and images in [0, 1]."""

    def __init__(self, net: nn.Module, before: float, after: float) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.net(x + self.before)) + self.after


class _FixedPoint(nn.Module):
    """An :class:`IntegerNet` in float: the rounded weights, activations rounded between layers."""

    def __init__(self, net: IntegerNet) -> None:
        super().__init__()
        self.layers = cast(list[IntegerConv], list(net))
        self.weights, self.fractions = nn.ParameterList(), [FRACTION]
        for layer in self.layers:
            scale = layer._scale()
            self.weights.append(nn.Parameter((layer.weight.detach() / scale).round() * scale, requires_grad=False))
            self.fractions.append(int(layer.fractions[1]))

    def forward(self, x: Tensor) -> Tensor:
        x = to_fixed(x, self.fractions[0])
        for layer, weight, fraction in zip(self.layers, self.weights, self.fractions[1:], strict=True):
            x = layer._convolve(x, weight, layer.bias)
            x = to_fixed(x.relu() if layer.relu else x, fraction)
        return x


def _hyperprior(model: Hyperprior) -> Plan:
    def graph(name: str, module: nn.Module, source: tuple[str, int], output: str) -> Graph:
        return Graph(name, module, dict([source]), {output: RELATIVE})

    graphs = [
        graph("g_a", _Shifted(model.g_a, -0.5, 0.0), ("image", 1), "y"),
        graph("h_a", model.h_a, ("y", 16), "z"),
        graph("h_s", _FixedPoint(model.h_s), ("z", STRIDE), "parameters"),
        graph("g_s", _Shifted(model.g_s, 0.0, 0.5), ("y", 16), "image_hat"),
    ]
    return Plan(tuple(graphs), Placement(STRIDE), lambda h, w, seed: {"image": pattern(h, w, seed)})


def options_of(plan: Plan) -> dict[str, Any]:
    """What whoever runs the graphs must know, as plain values."""
    place = plan.placement
    return {
        "multiple": place.multiple,
        "padding": {"columns": place.columns, "rows": place.rows, "fill": place.fill},
        "max_disparity": plan.max_disparity,
    }
