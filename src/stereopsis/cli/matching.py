"""What the commands that match share: loading, checking options before work begins, and numbers of a map."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stereopsis.export.runtimes import Format
    from stereopsis.types import Disparity
    from stereopsis.zoo.registry import Family

DType = Literal["auto", "float32", "bfloat16"]
Runner = Literal["torch", "onnxruntime", "openvino"]
DEFAULT_MODEL = "hitnet.scenes"


def check_max_disparity(value: int | None) -> None:
    """Refuse a limit that no model takes, before images are read or a folder is made."""
    if value is not None and value < 1:
        raise ValueError(f"--max-disparity is {value}; it must be at least 1 pixel, for example 192.")


def check_tile(value: int | None, budget_ms: float | None = None) -> None:
    """Refuse tiles that no matcher takes, before images are read."""
    if value is not None and value != 0 and value < 64:
        raise ValueError(f"--tile is {value}; it must be 0, for pairs in one piece, or at least 64 pixels.")
    if value and budget_ms is not None:
        raise ValueError(f"--tile is {value}, but --budget-ms is for pairs in one piece; leave one of them out.")


def check_numbers(budget_ms: float | None, smooth: float, range: tuple[float, float] | None) -> None:
    """Refuse what no sequence takes, before anything is read."""
    if budget_ms is not None and not budget_ms > 0:
        raise ValueError(f"--budget-ms is {budget_ms:g}; it must be above 0, for example 20.")
    if not 0 <= smooth < 1:
        raise ValueError(f"--smooth is {smooth:g}; it must lie in [0, 1), for example 0.5.")
    if range is not None and not -math.inf < range[0] < range[1] < math.inf:
        raise ValueError(
            f"--range is {range[0]:g} {range[1]:g}; it must be the lowest and the highest disparity in pixels, "
            "for example 0 64."
        )


def check_stages(model: nn.Module, name: str, options: list[str]) -> None:
    """Refuse options that only a model with stages takes.

    Args:
        name: of the model.
        options: those that are given.
    """
    from stereopsis.pipeline.match import has_stages
    from stereopsis.zoo import list_models

    if options and not has_stages(model):
        verb = "needs" if len(options) == 1 else "need"
        raise ValueError(
            f"{' and '.join(options)} {verb} a model with stages, which {name} is not; "
            f"choose one of {', '.join(list_models('anynet*'))}."
        )


def check_suffix(path: Path, allowed: tuple[str, ...], option: str) -> None:
    if path.suffix.lower() not in allowed:
        raise ValueError(f"{option} is {path}; its name must end in {', '.join(allowed)}.")
    if path.is_dir():
        raise ValueError(f"{option} is {path}, which is a folder; name a file.")


def check_folder(path: Path, option: str) -> None:
    if path.exists() and not path.is_dir():
        raise ValueError(f"{option} is {path}, which is a file; name a folder.")


def parse_size(value: str, option: str) -> tuple[int, int]:
    """Width and height of text like 640x480."""
    width, _, height = value.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f"{option} is {value!r}; give width and height, for example 640x480.")
    return int(width), int(height)


def load_runner(
    runtime: Runner,
    graph: Path | None,
    name: str,
    weights: Path | None,
    device: str,
    dtype: DType,
    max_disparity: int | None,
) -> nn.Module:
    """A matcher in torch or in another runtime; without graphs of its own it is exported for this run.

    Raises:
        ValueError: options that exclude each other, or as :func:`load_matcher`.
        FileNotFoundError, ModuleNotFoundError: as of :class:`~stereopsis.export.matcher.GraphMatcher`.
    """
    if runtime == "torch":
        if graph is not None:
            raise ValueError("--graph is for another runtime; give --runtime onnxruntime or openvino too.")
        return load_matcher(name, weights, device, dtype)
    if device != "cpu" or dtype == "bfloat16":
        option = f"--device {device}" if device != "cpu" else f"--dtype {dtype}"
        raise ValueError(f"{option} is for torch; exported graphs compute in float32 on the CPU, so leave it out.")
    if graph is not None and weights is not None:
        raise ValueError("--weights and --graph exclude each other; a graph holds its weights.")
    from tempfile import TemporaryDirectory

    from stereopsis.export import export_model
    from stereopsis.export.matcher import GraphMatcher
    from stereopsis.zoo import get_entry

    if graph is not None:
        return GraphMatcher(graph, runtime)
    network = load_matcher(name, weights)
    with TemporaryDirectory() as folder:
        written: Format = "onnx" if runtime == "onnxruntime" else "openvino"
        done = export_model(get_entry(name), network, folder, format=written, dynamic=True, max_disparity=max_disparity)
        return GraphMatcher(done.description, runtime)


def load_matcher(name: str, weights: Path | None = None, device: str = "cpu", dtype: DType = "float32") -> nn.Module:
    """A matching model by name; errors as of :func:`load_of`."""
    return load_of("matching", "match views", name, weights, device, dtype)


def load_of(
    family: Family, work: str, name: str, weights: Path | None, device: str, dtype: DType = "float32"
) -> nn.Module:
    """A model by name, of the family that does this work.

    Raises:
        ValueError: of another family, or as :func:`stereopsis.load`.
        FileNotFoundError: the weights do not exist.
    """
    import torch

    from stereopsis.ops.memory import keep_large_blocks
    from stereopsis.zoo import get_entry, list_models, load

    if get_entry(name).family != family:
        raise ValueError(f"{name} does not {work}; choose one of {', '.join(list_models(family=family))}.")
    keep_large_blocks()
    return load(name, weights=weights, device=device, dtype=None if dtype == "auto" else getattr(torch, dtype))


def matched(
    model: nn.Module,
    left: Tensor,
    right: Tensor,
    max_disparity: int | None,
    *,
    check: float | None,
    fill: bool,
    tile: int | None = None,
) -> tuple[Disparity, float]:
    """The disparity on the CPU and the seconds it took; arguments and errors as in :func:`stereopsis.match`."""
    from stereopsis.pipeline.sequence import SequenceMatcher

    found = SequenceMatcher(model, max_disparity=max_disparity, check=check, fill=fill, tile=tile)(left, right)
    return found.disparity, found.seconds


def describe(values: Tensor, valid: Tensor) -> dict[str, Any]:
    """Fraction of valid pixels, and the smallest, median and largest value (None where nothing is valid)."""
    known = values[valid]
    if known.numel() == 0:
        return {"valid": 0.0, "min": None, "median": None, "max": None}
    return {
        "valid": valid.float().mean().item(),
        "min": known.min().item(),
        "median": known.median().item(),
        "max": known.max().item(),
    }


def range_text(numbers: dict[str, Any], unit: str) -> str:
    if numbers["min"] is None:
        return "nothing valid"
    return f"{numbers['min']:.4g} to {numbers['max']:.4g} {unit}, {100 * numbers['valid']:.1f} % of pixels"
