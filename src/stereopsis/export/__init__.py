"""Models as graphs of standard operators for other runtimes, each with a proof that it is still itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from torch import nn

from stereopsis.export.graphs import Plan, options_of, plan_of
from stereopsis.export.int8 import CALIBRATION, TEST, Cost, Truth, Views, cost_of, quantise, scenes
from stereopsis.export.matcher import GraphMatcher
from stereopsis.export.onnx import OPSET, write_onnx
from stereopsis.export.parity import Check, torch_values, verify
from stereopsis.export.runtimes import RUNTIMES, SUFFIXES, Format, convert_to_openvino, open_session, require
from stereopsis.zoo.registry import ModelEntry

TRACED = (128, 192)  # height and width that a graph of any size is traced at, or what comes next above
CHECKED = ((192, 320), (320, 256))  # and those that it is checked at
RENDERED = (384, 640)  # of the scenes that one in 8 bits is calibrated on

Stored = Literal["float32", "float16", "int8"]

__all__ = ["CostError", "Export", "ParityError", "export_model"]


class ParityError(ValueError):
    """An exported graph differs from torch by more than its tolerance."""

    def __init__(self, name: str, checks: Sequence[Check]) -> None:
        self.checks = tuple(checks)
        worst = max((check for check in checks if not check.passed), key=lambda check: check.above)
        part = f"{name} {worst.graph}".rstrip()
        super().__init__(
            f"{worst.output} of {part} at {worst.size} differs from torch by up to {worst.largest:.3g}, above "
            f"{worst.limit:g} in {100 * worst.above:.3g} % of its values where {100 * worst.share:g} % may; "
            "nothing was written."
        )


class CostError(ValueError):
    """A graph in 8 bits is less accurate than may be."""

    def __init__(self, name: str, cost: Cost) -> None:
        self.cost = cost
        super().__init__(
            f"{name} in 8 bits is off by {cost.epe_int8:.3g} px on {cost.data}, and by {cost.epe_float32:.3g} px in "
            "float32; nothing was written."
        )


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        description: the JSON file that says how the graphs are run.
        files: the graphs.
        checks: the differences from torch, before weights are in 8 bits.
        costs: of 8 bits, on rendered scenes and on other pairs where some were given.
    """

    description: Path
    files: tuple[Path, ...]
    checks: tuple[Check, ...]
    costs: tuple[Cost, ...] = ()


def export_model(
    entry: ModelEntry,
    model: nn.Module,
    out: str | Path,
    *,
    format: Format = "onnx",
    dynamic: bool = False,
    size: tuple[int, int] = (480, 640),
    max_disparity: int | None = None,
    dtype: Stored = "float32",
    data: str | Path | None = None,
) -> Export:
    """Writes a model's graphs into a folder, after they were checked against torch in the runtime of their format.

    Args:
        model: loaded, on the CPU, computing in float32.
        out: is made where it does not exist.
        format: "onnx", or "openvino" for .xml and .bin.
        dynamic: graphs for images of any size, checked at two sizes other than the traced one; else for one size,
            checked on two pairs.
        size: (height, width) of the images where the size is fixed; sides are rounded up to what the model takes.
        max_disparity: that a matcher's graphs search; its own if not given.
        dtype: of stored weights. What is computed stays float32 (columns of a warp in half precision are wrong by
            whole pixels), but for convolutions in "int8", of HITNet alone.
        data: manifest of pairs with ground truth that the cost of 8 bits is measured on too, with ``dynamic``.

    Raises:
        ModuleNotFoundError: the extra "export" is not installed.
        ParityError: an output differs by more than its tolerance; nothing is written.
        CostError: 8 bits raise the error on rendered scenes by more than a pixel; nothing is written.
        ValueError: the model has no graphs, or none in 8 bits; the size or range is none; data without 8 bits or for
            one size.
        FileNotFoundError: the manifest, or a file that it names, does not exist.
    """
    out = Path(out)
    if min(size) < 1:
        raise ValueError(f"the size is {size[1]}x{size[0]}; both sides must be at least 1 pixel.")
    require("onnx", "onnxscript", RUNTIMES[format])
    plan = plan_of(entry, model, max_disparity)
    int8 = dtype == "int8"
    if int8 and plan.exact is None:
        raise ValueError(f"{entry.name} cannot be exported in 8 bits; HITNet can. Take float32 or float16.")
    if data is not None and not (int8 and dynamic):
        raise ValueError(f"{data} is for the cost of int8 in graphs of any size; ask for both, or leave it out.")
    pairs = [] if data is None else _manifest(data)
    multiple = plan.placement.multiple
    traced, sizes = _sizes(multiple, dynamic, size)
    half = dtype == "float16"
    with TemporaryDirectory() as folder:
        paths = _write(entry.name, plan, Path(folder), "onnx" if int8 else format, traced, dynamic, half)
        sessions = [open_session(RUNTIMES[format], path) for path in paths]
        checks = verify(plan, sessions, sizes)
        del sessions
        if not all(check.passed for check in checks):
            raise ParityError(entry.name, checks)
        rendered = _rounded(RENDERED, multiple) if dynamic else traced
        if int8:
            paths = _quantised(plan, paths, format, rendered)
        description: dict[str, Any] = {
            "model": entry.name,
            "family": entry.family,
            "format": format,
            "opset": OPSET,
            "dtype": dtype,
            "size": None if dynamic else [traced[1], traced[0]],
            **options_of(plan),
            "graphs": [
                {"file": path.name, "inputs": list(graph.inputs), "outputs": list(graph.outputs)}
                for path, graph in zip(paths, plan.graphs, strict=True)
            ],
            "checks": [check.as_dict() for check in checks],
        }
        costs = []
        if int8:
            _describe(entry.name, Path(folder), description)
            matcher, limit = GraphMatcher(Path(folder) / f"{entry.name}.json", RUNTIMES[format]), plan.max_disparity
            assert limit is not None
            costs = [cost_of("rendered scenes", model, matcher, scenes(TEST, rendered, limit), limit)]
            if not costs[0].passed:
                raise CostError(entry.name, costs[0])
            if data is not None:
                costs.append(cost_of(str(data), model, matcher, _views(pairs), limit))
            del matcher
            description |= {"float32_layers": plan.exact, "costs": [cost.as_dict() for cost in costs]}
        return _move(entry.name, Path(folder), out, paths, description, checks, costs)


def _sizes(multiple: int, dynamic: bool, size: tuple[int, int]) -> tuple[tuple[int, int], list[tuple[int, int, int]]]:
    """Height and width to trace at, and height, width and seed of each check."""
    if not dynamic:
        traced = _rounded(size, multiple)
        return traced, [(*traced, seed) for seed in (1, 2)]
    checked = [(*_rounded(sides, multiple, 2), seed) for seed, sides in enumerate(CHECKED, start=1)]
    return _rounded(TRACED, multiple, 2), checked


def _rounded(sides: tuple[int, int], multiple: int, least: int = 1) -> tuple[int, int]:
    height, width = (max(-(-side // multiple), least) * multiple for side in sides)
    return height, width


def _write(
    name: str, plan: Plan, folder: Path, format: Format, traced: tuple[int, int], dynamic: bool, half: bool
) -> list[Path]:
    values = torch_values(plan.graphs, plan.example(*traced, 0))
    paths = []
    for graph in plan.graphs:
        path = folder / f"{name}{'.' if graph.name else ''}{graph.name}.onnx"
        stored_half = half and format == "onnx"
        write_onnx(graph, values, path, multiple=plan.placement.multiple, dynamic=dynamic, half=stored_half)
        if format == "openvino":
            target = path.with_name(path.name.removesuffix(".onnx") + SUFFIXES[format])
            convert_to_openvino(path, target, half)
            path.unlink()
            path = target
        paths.append(path)
    return paths


def _quantised(plan: Plan, paths: Sequence[Path], format: Format, size: tuple[int, int]) -> list[Path]:
    """The .onnx files in 8 bits, in place of themselves, in their format."""
    assert plan.exact is not None
    assert plan.max_disparity is not None
    values = []
    for (left, right), _ in scenes(CALIBRATION, size, plan.max_disparity):
        inputs = {"left": left, "right": right}
        values.append(inputs if len(plan.graphs) == 1 else torch_values(plan.graphs, inputs))
    written = []
    for path, graph in zip(paths, plan.graphs, strict=True):
        target = path.with_suffix(".int8")
        quantise(path, target, graph, values, plan.exact, format)
        target.replace(path)
        if format == "openvino":
            target = path.with_name(path.name.removesuffix(".onnx") + SUFFIXES[format])
            convert_to_openvino(path, target)
            path.unlink()
            path = target
        written.append(path)
    return written


def _manifest(data: str | Path) -> list[Any]:
    from stereopsis.data.manifests import read_manifest

    return read_manifest(data)


def _views(pairs: Sequence[Any]) -> Iterator[tuple[Views, Truth]]:
    from stereopsis.data.manifests import read_truth
    from stereopsis.io import read_image

    for pair in pairs:
        yield (read_image(pair.left)[None], read_image(pair.right)[None]), read_truth(pair)


def _describe(name: str, folder: Path, description: dict[str, Any]) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return path


def _move(
    name: str,
    source: Path,
    out: Path,
    paths: Sequence[Path],
    description: dict[str, Any],
    checks: Sequence[Check],
    costs: Sequence[Cost],
) -> Export:
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        shutil.move(path, out / path.name)
    target = _describe(name, out, description)
    return Export(target, tuple(out / path.name for path in paths), tuple(checks), tuple(costs))
