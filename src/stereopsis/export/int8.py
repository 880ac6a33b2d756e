"""Convolutions in 8 bits: quantised after training, calibrated on rendered scenes, with what that costs in accuracy.

Weights get a step for each output channel, activations one for each map, from the smallest and largest values seen.
What carries disparities stays in float32: their range is a hundred times that of features, so that a step fine enough
for both does not exist. Which layers these are says the :class:`~stereopsis.export.graphs.Plan`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from stereopsis.data.scenes import SceneConfig, render
from stereopsis.data.textures import TextureBank, make_bank
from stereopsis.export.graphs import Graph
from stereopsis.export.runtimes import Format, require
from stereopsis.types import Disparity

CALIBRATION = range(90_000, 90_008)  # seeds, apart from those of training
TEST = range(91_000, 91_008)
LARGEST_COST = 1.0  # pixels of mean error, above which nothing is written

Views = tuple[Float[Tensor, "1 3 h w"], Float[Tensor, "1 3 h w"]]
Truth = tuple[Float[Tensor, "1 1 h w"], Bool[Tensor, "1 1 h w"]]


@dataclass(frozen=True)
class Cost:
    """What 8 bits cost on some pairs; means over pairs, in pixels.

    Attributes:
        data: where the pairs come from.
        epe_float32, epe_int8: mean errors over the pixels whose truth is known (of scenes: that both views see).
        difference: mean distance of the two maps over all pixels.
    """

    data: str
    pairs: int
    epe_float32: float
    epe_int8: float
    difference: float

    @property
    def passed(self) -> bool:
        return self.epe_int8 - self.epe_float32 <= LARGEST_COST

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


def scenes(seeds: Sequence[int], size: tuple[int, int], max_disparity: int) -> Iterator[tuple[Views, Truth]]:
    """Rendered pairs of this height and width, with the disparity where both views see it."""
    height, width = size
    config = SceneConfig(height=height, width=width, max_disparity=min(0.9 * max_disparity, width / 3))
    for seed in seeds:
        scene = render(seed, 1, _bank(), config)
        yield (scene.left.clamp(0, 1), scene.right.clamp(0, 1)), (scene.disparity, scene.visible)


@cache
def _bank() -> TextureBank:
    return make_bank(drawn=48, photo_crops=2)


def layers(path: Path) -> dict[str, str]:
    """The names of an .onnx file's convolutions, with the layer of the model that each comes from."""
    require("onnx")
    import onnx

    found = {}
    for node in onnx.load(path).graph.node:
        parameters = [name for name in node.input[1:] if name.endswith((".weight", ".bias"))]
        if node.op_type in ("Conv", "ConvTranspose") and parameters:
            found[node.name] = parameters[-1].rpartition(".")[0].removeprefix("model.")
    return found


def _chosen(path: Path, exact: str, activations: bool) -> list[str]:
    """Names of the convolutions to quantise, and of the activations that follow them alone, where those are wanted."""
    import onnx

    chosen = [name for name, layer in layers(path).items() if not re.search(exact, layer)]
    nodes = onnx.load(path).graph.node
    given = {output for node in nodes if node.name in chosen for output in node.output}
    follow = [node.name for node in nodes if node.op_type == "LeakyRelu" and node.input[0] in given]
    return chosen + follow if activations else chosen


def quantise(
    source: Path, target: Path, graph: Graph, values: Sequence[Mapping[str, Tensor]], exact: str, format: Format
) -> None:
    """Writes an .onnx file with its convolutions in 8 bits.

    Args:
        source: the file in float32.
        graph: what it holds.
        values: inputs to calibrate on, as :func:`~stereopsis.export.parity.torch_values` gives them.
        exact: regular expression for the layers that stay in float32, matched anywhere in their names.
        format: that it is meant for. OpenVINO goes on in float32 after a convolution and rounds less; ONNX Runtime
            is faster where the activation is in 8 bits too.

    Raises:
        ModuleNotFoundError: the extra "export" is not installed.
    """
    require("onnx", "onnxruntime")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(values)

        def get_next(self) -> dict[str, Any] | None:
            inputs = next(self.left, None)
            return None if inputs is None else {name: inputs[name].contiguous().numpy() for name in graph.inputs}

    openvino = format == "openvino"
    with _quiet():
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"] if openvino else ["Conv", "LeakyRelu"],
            nodes_to_quantize=_chosen(source, exact, activations=not openvino),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Conv"]} if openvino else {},
        )


@torch.no_grad()
def cost_of(
    data: str, exact: nn.Module, quantised: nn.Module, pairs: Iterator[tuple[Views, Truth]], max_disparity: int
) -> Cost:
    """Errors of a matcher in float32 and of one in 8 bits on the same pairs.

    Raises:
        ValueError: there are no pairs.
    """
    sums, number = torch.zeros(3, dtype=torch.float64), 0
    for (left, right), (truth, known) in pairs:
        maps: list[Disparity] = [matcher(left, right, max_disparity=max_disparity) for matcher in (exact, quantised)]
        one, other = (found.disparity for found in maps)
        errors = [(found - truth).abs()[known].mean().item() for found in (one, other)]
        sums += torch.tensor([*errors, (one - other).abs().mean().item()], dtype=torch.float64)
        number += 1
    if not number:
        raise ValueError(f"{data} holds no pairs to measure the cost of int8 on.")
    return Cost(data, number, *(sums / number).tolist())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what ONNX Runtime's quantiser says through the root logger."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
