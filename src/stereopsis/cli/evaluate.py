"""``stereopsis evaluate``."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Any

from stereopsis.cli.console import new_table, progress_bar, show_json, show_table
from stereopsis.cli.matching import DType, check_max_disparity, load_matcher

METRICS = ("epe", "bad1", "bad2", "bad3", "d1", "density")


def matching(
    data: Path,
    model: str,
    weights: Path | None = None,
    max_disparity: int | None = None,
    device: str = "cpu",
    dtype: DType = "float32",
    fill: bool = False,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Errors of a matcher over a list of pairs with ground truth.

    Args:
        data: Manifest in JSON: a list of objects with id, left, right, disparity and divide_by; the paths are relative
            to the folder above the manifest's own.
        model: Matcher, see `stereopsis models`.
        weights: Safetensors file in place of the shipped weights.
        max_disparity: Largest disparity searched, in pixels; the model's own if not given.
        device: Where to compute, e.g. cpu or cuda.
        dtype: Precision to compute in.
        fill: Fill holes first, for comparison with dense methods.
        out: Also write the result as a JSON file.
        json: Print JSON instead of tables.
    """
    from stereopsis.evaluation.benchmarks import evaluate_matching, read_manifest
    from stereopsis.io import atomic_write_text

    check_max_disparity(max_disparity)
    if out is not None and out.is_dir():
        raise ValueError(f"--out is {out}, which is a folder; name a file.")
    pairs = read_manifest(data)
    matcher = load_matcher(model, weights, device, dtype)
    with progress_bar() as progress:
        task = progress.add_task(model, total=len(pairs))
        result = evaluate_matching(
            matcher,
            pairs,
            name=model,
            max_disparity=max_disparity,
            fill=fill,
            device=device,
            progress=lambda done, _, name: progress.update(task, completed=done, description=name),
        )
    # So that a number is never read without how it was made.
    result |= {
        "fill": fill,
        "max_disparity": max_disparity,
        "dtype": dtype,
        "weights": None if weights is None else weights.name,
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(out, json_format.dumps(result, indent=1, allow_nan=False) + "\n")
    if json:
        show_json(result)
        return
    table = new_table("pairs", "number", "EPE px", "bad-1 %", "bad-2 %", "bad-3 %", "D1 %", "density %", title=model)
    for name, group in result["groups"].items():
        table.add_row(name, str(group["pairs"]), *_cells(group))
    table.add_section()
    table.add_row("all", str(result["pairs"]), *_cells(result["mean"]))
    show_table(table)


def _cells(row: dict[str, Any]) -> list[str]:
    scaled = {**row, "density": None if row["density"] is None else 100 * row["density"]}
    return ["-" if scaled[key] is None else f"{scaled[key]:.2f}" for key in METRICS]
