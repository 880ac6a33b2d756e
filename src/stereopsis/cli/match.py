"""``stereopsis match``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from stereopsis.cli.console import fail, progress_bar, show_json, warn
from stereopsis.cli.matching import (
    DEFAULT_MODEL,
    DType,
    check_folder,
    check_max_disparity,
    check_suffix,
    describe,
    load_matcher,
    matched,
    range_text,
)

if TYPE_CHECKING:
    from torch import nn

    from stereopsis.io import PairPaths

MAPS = (".pfm", ".png", ".npy")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class _Targets:
    """Files of one pair."""

    disparity: Path
    confidence: Path | None
    preview: Path | None

    def all(self) -> list[Path]:
        return [path for path in (self.disparity, self.confidence, self.preview) if path is not None]


def match(
    left: Positional[str],
    right: Positional[str],
    out: Path,
    model: str = DEFAULT_MODEL,
    weights: Path | None = None,
    max_disparity: int | None = None,
    device: str = "cpu",
    dtype: DType = "float32",
    confidence: Path | None = None,
    preview: Path | None = None,
    format: Literal["pfm", "png", "npy"] = "pfm",
    check: float | None = None,
    fill: bool = False,
    json: bool = False,
) -> int:
    """Disparity of a rectified pair, or of all pairs of two folders.

    Args:
        left: Left view, or a folder or quoted glob of left views.
        right: Right view, or a folder or quoted glob of right views.
        out: File (.pfm, .png with 16 bits times 256, .npy); for folders and globs a folder.
        model: Matcher, see `stereopsis models`.
        weights: Safetensors file in place of the shipped weights.
        max_disparity: Largest disparity searched, in pixels; the model's own if not given.
        device: Where to compute, e.g. cpu or cuda.
        dtype: Precision to compute in.
        confidence: Also write the confidence as a grey picture (for folders: a folder).
        preview: Also write the disparity in colour (for folders: a folder).
        format: Kind of the files in a folder.
        check: Match the right view too, and mark as invalid what differs by more than this many pixels.
        fill: Fill holes from the neighbours in the row.
        json: Print JSON instead of text.
    """
    from stereopsis.io import find_pairs

    check_max_disparity(max_disparity)
    many = not (Path(left).is_file() and Path(right).is_file())
    if not many:
        _check_targets(out, confidence, preview)
    pairs = find_pairs(left, right)
    if many:
        for path, option in ((out, "--out"), (confidence, "--confidence"), (preview, "--preview")):
            if path is not None:
                _check_batch_folder(path, option, len(pairs))
    matcher = load_matcher(model, weights, device, dtype)

    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    with progress_bar() as progress:
        for pair in progress.track(pairs, description="matching"):
            targets = (
                _in_folders(pair.name, out, confidence, preview, format) if many else _Targets(out, confidence, preview)
            )
            try:
                done.append(_match_one(matcher, pair, targets, max_disparity, check, fill))
            except (ValueError, OSError) as error:
                if not many:
                    raise
                failed.append({"name": pair.name, "error": str(error)})
                progress.console.print(
                    f"stereopsis: {pair.name}: {error}", markup=False, highlight=False, soft_wrap=True
                )
    if json:
        show_json({"model": model, "pairs": done, "failed": failed})
    else:
        for row in done:
            print(f"{row['out']}  {range_text(row['disparity'], 'px')}, {row['seconds']:.2f} s")
    if failed:
        return fail(f"{len(failed)} of {len(pairs)} pairs failed; the others are written.", 1)
    return 0


def _match_one(
    matcher: nn.Module,
    pair: PairPaths,
    targets: _Targets,
    max_disparity: int | None,
    check: float | None,
    fill: bool,
) -> dict[str, Any]:
    from stereopsis.doctor import geometry_warnings
    from stereopsis.io import read_image, write_disparity, write_image
    from stereopsis.visualization import colorize

    left, right = read_image(pair.left), read_image(pair.right)
    if left.shape != right.shape:
        sizes = " and ".join(
            f"{path} is {v.shape[2]}x{v.shape[1]}" for path, v in ((pair.left, left), (pair.right, right))
        )
        raise ValueError(f"{sizes}; the two views of a rectified pair must have the same size.")
    warnings = geometry_warnings(left, right)
    for sentence in warnings:
        warn(f"{pair.left.name}: {sentence}")
    disparity, seconds = matched(matcher, left, right, max_disparity, check=check, fill=fill)
    for path in targets.all():
        path.parent.mkdir(parents=True, exist_ok=True)
    # First, because it alone can be refused by what the values are.
    write_disparity(targets.disparity, disparity)
    if targets.confidence is not None:
        write_image(targets.confidence, disparity.confidence)
    if targets.preview is not None:
        write_image(targets.preview, colorize(disparity.disparity, disparity.valid))
    return {
        "name": pair.name,
        "left": str(pair.left),
        "right": str(pair.right),
        "out": str(targets.disparity),
        "width": left.shape[2],
        "height": left.shape[1],
        "disparity": describe(disparity.disparity, disparity.valid),
        "seconds": round(seconds, 4),
        "warnings": warnings,
    }


def _check_targets(out: Path, confidence: Path | None, preview: Path | None) -> None:
    check_suffix(out, MAPS, "--out")
    for path, option in ((confidence, "--confidence"), (preview, "--preview")):
        if path is not None:
            check_suffix(path, PICTURES, option)
    named = [path.resolve() for path in _Targets(out, confidence, preview).all()]
    if len(set(named)) < len(named):
        raise ValueError("--out, --confidence and --preview name one file twice; give each a name of its own.")


def _check_batch_folder(path: Path, option: str, count: int) -> None:
    check_folder(path, option)
    if path.suffix.lower() in (*MAPS, *PICTURES):
        raise ValueError(f"{option} is {path}, a file, but there are {count} pairs; name a folder.")


def _in_folders(name: str, out: Path, confidence: Path | None, preview: Path | None, format: str) -> _Targets:
    def inside(folder: Path | None, ending: str) -> Path | None:
        if folder is None:
            return None
        # Folders that are given twice must not overwrite the maps.
        return folder / f"{name}{ending}.png"

    return _Targets(out / f"{name}.{format}", inside(confidence, "_confidence"), inside(preview, "_preview"))
