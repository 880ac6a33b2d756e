"""Models as graphs of standard operators for other runtimes, each with a proof that it is still itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from torch import nn

from stereopsis.export.graphs import Plan, options_of, plan_of
from stereopsis.export.onnx import OPSET, write_onnx
from stereopsis.export.parity import Check, torch_values, verify
from stereopsis.export.runtimes import RUNTIMES, SUFFIXES, Format, convert_to_openvino, open_session, require
from stereopsis.zoo.registry import ModelEntry

TRACED = (128, 192)  # height and width that a graph of any size is traced at, or what comes next above
CHECKED = ((192, 320), (320, 256))  # and those that it is checked at

Stored = Literal["float32", "float16"]

__all__ = ["Export", "ParityError", "export_model"]


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


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        description: the JSON file that says how the graphs are run.
        files: the graphs.
        checks: the differences from torch.
    """

    description: Path
    files: tuple[Path, ...]
    checks: tuple[Check, ...]


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
        dtype: of stored weights. What is computed stays float32: columns of a warp in half precision are wrong by
            whole pixels.

    Raises:
        ModuleNotFoundError: the extra "export" is not installed.
        ParityError: an output differs by more than its tolerance; nothing is written.
        ValueError: the model has no graphs, or the size or range is none.
    """
    out = Path(out)
    if min(size) < 1:
        raise ValueError(f"the size is {size[1]}x{size[0]}; both sides must be at least 1 pixel.")
    require("onnx", "onnxscript", RUNTIMES[format])
    plan = plan_of(entry, model, max_disparity)
    multiple = plan.placement.multiple
    traced, sizes = _sizes(multiple, dynamic, size)
    half = dtype == "float16"
    with TemporaryDirectory() as folder:
        paths = _write(entry.name, plan, Path(folder), format, traced, dynamic, half)
        sessions = [open_session(RUNTIMES[format], path) for path in paths]
        checks = verify(plan, sessions, sizes)
        del sessions
        if not all(check.passed for check in checks):
            raise ParityError(entry.name, checks)
        description = {
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
        return _move(entry.name, Path(folder), out, paths, description, checks)


def _sizes(multiple: int, dynamic: bool, size: tuple[int, int]) -> tuple[tuple[int, int], list[tuple[int, int, int]]]:
    """Height and width to trace at, and height, width and seed of each check."""

    def rounded(sides: tuple[int, int], least: int) -> tuple[int, int]:
        height, width = (max(-(-side // multiple), least) * multiple for side in sides)
        return height, width

    if not dynamic:
        traced = rounded(size, 1)
        return traced, [(*traced, seed) for seed in (1, 2)]
    return rounded(TRACED, 2), [(*rounded(sides, 2), seed) for seed, sides in enumerate(CHECKED, start=1)]


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


def _move(
    name: str, source: Path, out: Path, paths: Sequence[Path], description: dict[str, Any], checks: Sequence[Check]
) -> Export:
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        shutil.move(path, out / path.name)
    target = out / f"{name}.json"
    target.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return Export(target, tuple(out / path.name for path in paths), tuple(checks))
