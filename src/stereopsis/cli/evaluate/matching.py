"""``stereopsis evaluate matching``."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stereopsis.cli.console import new_table, note, progress_bar, show_json, show_table, warn
from stereopsis.cli.loading import load_matcher
from stereopsis.cli.options import DType, check_folder, check_max_disparity

if TYPE_CHECKING:
    from rich.table import Table

METRICS = ("epe", "bad1", "bad2", "bad3", "d1", "density")
ProtocolName = Literal["sceneflow", "kitti2012", "kitti2015", "eth3d", "middlebury"]


def matching(
    data: Path,
    model: str,
    weights: Path | None = None,
    max_disparity: int | None = None,
    device: str = "cpu",
    dtype: DType = "float32",
    check: float | None = None,
    fill: bool = False,
    out: Path | None = None,
    json: bool = False,
    protocol: ProtocolName | None = None,
    report: Path | None = None,
) -> None:
    """Errors of a matcher over a list of pairs with ground truth.

    Args:
        data: Manifest in JSON: a list of objects with id, left, right, disparity and divide_by, and for a protocol noc
            (mask, 255 where both views see, or KITTI's disp_noc) and objects (KITTI's obj_map); the paths are relative
            to the folder above the manifest's own.
        model: Matcher, see `stereopsis models`.
        weights: Safetensors file in place of the shipped weights.
        max_disparity: Largest disparity searched, in pixels; the model's own if not given.
        device: Where to compute, e.g. cpu or cuda.
        dtype: Precision to compute in.
        check: Match the right view too, and do not count what differs by more than this many pixels; with --fill, fill
            what the right view does not see.
        fill: Fill holes first, for comparison with dense methods.
        out: Also write the result as a JSON file.
        json: Print JSON instead of tables.
        protocol: Also measure what this public table reports.
        report: Folder for a picture of each pair (prediction, truth, errors, SGBM) and an index.html, worst first.
    """
    from stereopsis.data.manifests import read_manifest
    from stereopsis.evaluation.matching import evaluate_matching
    from stereopsis.evaluation.protocols import get_protocol
    from stereopsis.io import atomic_write_text

    check_max_disparity(max_disparity)
    if out is not None and out.is_dir():
        raise ValueError(f"--out is {out}, which is a folder; name a file.")
    if report is not None:
        check_folder(report, "--report")
    pairs = read_manifest(data)
    matcher = load_matcher(model, weights, device, dtype)
    pictures = None
    if report is not None:
        from stereopsis.evaluation.matching_report import Report

        pictures = Report(report, model, max_disparity)
    with progress_bar() as progress:
        task = progress.add_task(model, total=len(pairs))
        result = evaluate_matching(
            matcher,
            pairs,
            name=model,
            max_disparity=max_disparity,
            check=check,
            fill=fill,
            device=device,
            progress=lambda done, _, name: progress.update(task, completed=done, description=name),
            protocol=None if protocol is None else get_protocol(protocol),
            observe=None if pictures is None else pictures.add,
        )
    # So that a number is never read without how it was made.
    result |= {
        "check": check,
        "fill": fill,
        "max_disparity": max_disparity,
        "dtype": dtype,
        "weights": None if weights is None else weights.name,
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(out, json_format.dumps(result, indent=1, allow_nan=False) + "\n")
    if pictures is not None:
        note(f"the report is {pictures.write(result)}")
    if protocol is not None:
        _warn_of_missing_masks(result["protocol"], pairs=len(pairs))
    if json:
        show_json(result)
        return
    table = new_table("pairs", "number", "EPE px", "bad-1 %", "bad-2 %", "bad-3 %", "D1 %", "density %", title=model)
    for name, group in result["groups"].items():
        table.add_row(name, str(group["pairs"]), *_cells(group))
    table.add_section()
    table.add_row("all", str(result["pairs"]), *_cells(result["mean"]))
    show_table(table)
    if protocol is not None:
        show_table(_protocol_table(result["protocol"]))


def _protocol_table(measured: dict[str, Any]) -> Table:
    """A row for each number of the public table, a column for each group of pairs."""
    from stereopsis.evaluation.protocols import get_protocol

    groups = measured["groups"] if len(measured["groups"]) > 1 else {}
    table = new_table("measure", *groups, "all", "pairs", title=measured["title"])
    for column in get_protocol(measured["name"]).columns:
        cells = [column.text(group["mean"][column.key]) for group in (*groups.values(), measured)]
        table.add_row(column.title, *cells, str(measured["pairs"][column.key]))
    return table


def _warn_of_missing_masks(measured: dict[str, Any], pairs: int) -> None:
    from stereopsis.evaluation.protocols import get_protocol

    columns = get_protocol(measured["name"]).columns
    for key, words in (("noc", ("noc",)), ("objects", ("fg", "bg"))):
        needing = [column for column in columns if any(word in column.region.split("_") for word in words)]
        used = max((measured["pairs"][column.key] for column in needing), default=pairs)
        if used < pairs:
            warn(f"{pairs - used} of {pairs} pairs have no usable {key!r} in the manifest and miss in what needs it.")


def _cells(row: dict[str, Any]) -> list[str]:
    scaled = {**row, "density": None if row["density"] is None else 100 * row["density"]}
    return ["-" if scaled[key] is None else f"{scaled[key]:.2f}" for key in METRICS]
