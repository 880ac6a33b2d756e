"""HITNet's inference in bfloat16 on CPUs with arithmetic for it: the network of hitnet.py as one program of kernels.

Parts, names and order are those of hitnet.py. Convolutions read bfloat16 and sum in float32; what is a disparity, a
plane or a matching cost stays float32. No maps are joined: convolutions read two, or write into a part of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stereopsis.ops import bf16_conv, native, tile_steps
from stereopsis.ops.bf16_conv import conv
from stereopsis.ops.program import Map, Program
from stereopsis.ops.tile_steps import HYPOTHESIS, TILE
from stereopsis.types import Disparity

SLOPE = 0.2
COSTS = 16  # channels that a tile's costs are reduced to


class Network(Protocol):
    """What a program reads of :class:`~stereopsis.matching.hitnet.HITNet`, which is defined on top of this module."""

    compute_dtype: torch.dtype

    @property
    def config(self) -> Any: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def modules(self) -> Iterator[nn.Module]: ...


class HITNetProgram:
    """The network for one size of image and one number of candidates.

    Args:
        network: whose weights are read now.
        shape: of the views, (b, c, h, w), with the network's number of channels.
        max_disparity: in pixels.
    """

    def __init__(self, network: Network, shape: Sequence[int], max_disparity: int) -> None:
        batch, channels, height, width = self._shape = tuple(shape)
        config, parts = network.config, _Parts(network, batch)
        wide, high = -width % config.size_multiple, -height % config.size_multiple
        grey = config.padding == "grey"

        images = parts.program.map(2 * batch, height + high, width + wide, tile_steps.IMAGE_CHANNELS)
        self._reads = [
            tile_steps.read(parts.program, (batch, channels, height, width), view, grey=grey)
            for view in (images.images(0, batch), images.images(batch, batch))
        ]
        self._kept = d, w = parts.network(images, max_disparity)
        self._finish = tile_steps.finish(parts.program, d, w, (height, width), highest=config.winner == "highest")
        self._program, self._lock = parts.program, Lock()

    def __call__(self, left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h w"]) -> Disparity:
        """Matches views in [0, 1]."""
        left, right = left.contiguous(), right.contiguous()
        batch, _, height, width = self._shape
        disparity, confidence = (native.empty(batch, 1, height, width) for _ in range(2))
        valid = native.empty(batch, 1, height, width, dtype=torch.bool)
        with self._lock:
            for call, view in zip(self._reads, (left, right), strict=True):
                call.put(0, view)
            for place, out in enumerate((disparity, valid, confidence), start=2):
                self._finish.put(place, out)
            self._program()
        return Disparity(disparity, valid, confidence)


class _Parts:
    """Adds the parts of a network to a program."""

    def __init__(self, network: Network, batch: int) -> None:
        self.modules: Any = network
        self.config, self.batch = network.config, batch
        dilations = [int(layer.dilation[0]) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        self.program = Program(margin=max(TILE, *dilations))

    def network(self, images: Map, max_disparity: int) -> tuple[Map, Map]:
        """Disparity and w, of batches of left and right views."""
        features = self._features(images)
        hypotheses: Map | None = None
        for level in reversed(range(self.config.scales)):
            reference = features[level + 2] if level + 2 < len(features) else None
            hypotheses, w = self._level(level, features[level], reference, hypotheses, -(-max_disparity // 2**level))
        assert hypotheses is not None
        return self._refined(features[:3], hypotheses), w

    def _conv(self, sources: Sequence[Map], layer: nn.Module, **options: Any) -> Map:
        """A convolution of hitnet.py, with its activation where it has one."""
        if isinstance(layer, nn.Sequential):
            layer, options["slope"] = layer[0], SLOPE
        assert isinstance(layer, nn.Conv2d)
        settings: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation[0]}
        return conv(self.program, sources, layer.weight, layer.bias, **(settings | options))

    def _convs(self, x: Map, layers: nn.Module) -> Map:
        for layer in layers.children():
            x = self._conv([x], layer)
        return x

    def _features(self, images: Map) -> list[Map]:
        network = self.modules.features
        skips = [self._conv([images], network.stem)]
        for down in network.down:
            skips.append(self._convs(skips[-1], down))
        features = [self._convs(skips.pop(), network.bottom)]
        for up, merge in zip(reversed(network.up), reversed(network.merge), strict=True):
            skip = skips.pop()
            first, *others = merge.children()
            x = self._conv([self._up(features[0], up[0], skip), skip], first)
            del skip
            for layer in others:
                x = self._conv([x], layer)
            features.insert(0, x)
        return features

    def _up(self, x: Map, layer: nn.ConvTranspose2d, like: Map) -> Map:
        """A transposed convolution of stride 2: each row of inputs gives two, in which pairs of pixels lie together."""
        out = self.program.map(like.batch, like.height, like.width, like.channels)
        assert layer.bias is not None
        for row in range(2):
            weight = layer.weight[:, :, row].permute(2, 1, 0).flatten(0, 1)[..., None, None]
            conv(self.program, [x], weight, layer.bias.repeat(2), slope=SLOPE, out=out.pairs(row))
        return out

    def _level(
        self, level: int, features: Map, reference: Map | None, coarser: Map | None, candidates: int
    ) -> tuple[Map, Map]:
        """Initialisation and propagation of one scale: its surviving hypotheses and their w."""
        network = self.modules.propagate[level]
        left, right = features.images(0, self.batch), features.images(self.batch, self.batch)
        height, width = left.height // TILE, left.width // TILE
        number = 1 if coarser is None else 2
        augmented = self.program.map(self.batch, height, width, number * (HYPOTHESIS + COSTS))
        hypotheses = [self._initialized(level, left, right, reference, candidates)]
        parts = [augmented.part(start, HYPOTHESIS) for start in range(0, augmented.channels, HYPOTHESIS)]
        tile_steps.narrow(self.program, hypotheses[0], parts[0])
        if coarser is not None:
            hypotheses.append(self.program.map(self.batch, height, width, HYPOTHESIS, exact=True))
            tile_steps.split(self.program, coarser, step=2, scale=2, out=parts[2], exact=hypotheses[1])
        for hypothesis, part in zip(hypotheses, parts[1::2], strict=True):
            self._conv([tile_steps.warp_cost(self.program, left, right, hypothesis)], network.cost, out=part)
        x = self._residual(self._conv([augmented], network.conv), network.blocks)
        return self._chosen(hypotheses, x, network.update)

    def _initialized(self, level: int, left: Map, right: Map, reference: Map | None, candidates: int) -> Map:
        network = self.modules.initialize[level]
        height, width = left.height // TILE, left.width // TILE
        tiles, both = [], []
        for view, columns, stride, padding in ((left, width, TILE, 0), (right, right.width, 1, 1)):
            options = {"stride": (TILE, stride), "padding": (0, padding), "size": (height, columns)}
            tiles.append(self._conv([view], network.reduce, slope=SLOPE, **options))
            exact = self.program.map(self.batch, height, columns, tiles[-1].channels, exact=True)
            both.append(self._conv([tiles[-1]], network.embedding, out=exact))
        hypotheses = self.program.map(self.batch, height, width, HYPOTHESIS, exact=True)
        costs = tile_steps.match(self.program, both[0], both[1], candidates, hypotheses)
        seen = self._conv([tiles[0]], network.embedding) if reference is None else reference.images(0, self.batch)
        described = network.descriptor[0].out_channels
        self._conv([costs, seen], network.descriptor, out=hypotheses.part(HYPOTHESIS - described, described))
        return hypotheses

    def _residual(self, x: Map, blocks: Any) -> Map:
        for block in blocks.children():
            y = self._conv([x], block.conv1)
            self._conv([y], block.conv2, add=x, slope=SLOPE, out=x)
        return x

    def _chosen(self, hypotheses: list[Map], x: Map, layer: nn.Conv2d) -> tuple[Map, Map]:
        number = len(hypotheses)
        # deltas of all hypotheses first, then their w
        order = torch.arange(number * (HYPOTHESIS + 1), device="cpu").view(number, -1)
        order = torch.cat([order[:, :-1].flatten(), order[:, -1]])
        updates = self.program.map(x.batch, x.height, x.width, len(order), exact=True)
        assert layer.bias is not None
        conv(self.program, [x], layer.weight[order], layer.bias[order], padding=(1, 1), out=updates)
        return tile_steps.choose(self.program, hypotheses, updates, highest=self.config.winner == "highest")

    def _refined(self, features: list[Map], hypothesis: Map) -> Map:
        """The three last steps; of the last one nothing but d."""
        for step, network in enumerate(self.modules.refine):
            feature = features[2 - step].images(0, self.batch)
            height, width = feature.height, feature.width
            last = step == len(self.modules.refine) - 1
            rough = self.program.map(self.batch, height, width, HYPOTHESIS)
            if step:
                finer = self.program.map(self.batch, height, width, 1 if last else HYPOTHESIS, exact=True)
                tile_steps.split(
                    self.program, hypothesis, step=self.config.split_steps[step - 1], scale=1, out=rough,
                    **{"d" if last else "exact": finer},
                )  # fmt: skip
                hypothesis = finer
            else:
                tile_steps.narrow(self.program, hypothesis, rough)
            x = self._conv([self._conv([feature, rough], network.reduce)], network.conv)
            del rough
            x = self._residual(x, network.blocks)
            update, outputs = network.update, hypothesis.channels
            conv(
                self.program, [x], update.weight[:outputs], update.bias[:outputs], padding=(1, 1),
                add=hypothesis, out=hypothesis,
            )  # fmt: skip
        return hypothesis


_programs: WeakKeyDictionary[Any, tuple[tuple[Any, ...], HITNetProgram]] = WeakKeyDictionary()


def usable(network: Network, *views: Tensor) -> bool:
    """True where a call may run as a program: inference in bfloat16, on a CPU that has arithmetic for it."""
    return (
        network.compute_dtype == torch.bfloat16
        and native.usable(*views)
        and bf16_conv.kernel() is not None
        and not native.needs_gradient(*views, *network.parameters())
    )


def match(network: Network, left: Tensor, right: Tensor, max_disparity: int) -> Disparity:
    """Matches views in [0, 1] that have the network's number of channels.

    The program of the last size is kept for as long as the network, and made anew when weights have changed.
    """
    weights = tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in network.parameters())
    key = (left.shape, max_disparity, bf16_conv.kernel(), weights)
    known = _programs.get(network)
    if known is None or known[0] != key:
        _programs.pop(network, None)  # its memory first
        known = key, HITNetProgram(network, left.shape, max_disparity)
        _programs[network] = known
    return known[1](left, right)
