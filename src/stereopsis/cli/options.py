"""Checks of options that several commands have, before work begins, and their defaults."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

DType = Literal["auto", "float32", "bfloat16"]
Runner = Literal["torch", "onnxruntime", "openvino"]
DEFAULT_MODEL = "hitnet.scenes"
DEFAULT_CODEC = "hyperprior.photos"
DEFAULT_QUALITY = 4.0
DEFAULT_UPSAMPLER = "fdkn.any"


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


def range_text(numbers: dict[str, Any], unit: str) -> str:
    if numbers["min"] is None:
        return "nothing valid"
    return f"{numbers['min']:.4g} to {numbers['max']:.4g} {unit}, {100 * numbers['valid']:.1f} % of pixels"


def check_rate(quality: float | None, target_bpp: float | None) -> float:
    """The quality to encode at, after a check of the two options that choose it."""
    from stereopsis.compression.codec import level_of

    if quality is not None and target_bpp is not None:
        raise ValueError("--quality and --target-bpp exclude each other; give one of the two.")
    if target_bpp is not None and not target_bpp > 0:
        raise ValueError(f"--target-bpp is {target_bpp:g}; it must be above 0, for example 0.3.")
    wanted = DEFAULT_QUALITY if quality is None else quality
    level_of(wanted)
    return wanted
