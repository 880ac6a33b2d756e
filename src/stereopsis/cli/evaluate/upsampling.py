"""``stereopsis evaluate upsampling``."""

from __future__ import annotations

import json as json_format
from pathlib import Path

from stereopsis.cli.console import new_table, progress_bar, show_json, show_table
from stereopsis.cli.options import DType
from stereopsis.cli.upsample import ReductionName


def upsampling(
    data: Path,
    model: str,
    scale: float = 8,
    weights: Path | None = None,
    reduction: ReductionName = "bicubic",
    back_projections: int | None = None,
    device: str = "cpu",
    dtype: DType = "float32",
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Errors of an upsampler over images with dense depth, which is reduced, enlarged and compared with itself.

    Args:
        data: Manifest in JSON: a list of objects with id, image, depth, metric (rmse_255 or rmse_cm) and maybe
            scale_to_unit; the paths are relative to the folder above the manifest's own.
        model: Upsampler, see `stereopsis models`.
        scale: Ratio of the sizes.
        weights: Safetensors file in place of the shipped weights.
        reduction: Filter that reduces the depth; published numbers are of bicubic.
        back_projections: How often the result is pulled towards the reduced map; the model decides if not given.
        device: Where to compute, e.g. cpu or cuda.
        dtype: Precision to compute in.
        out: Also write the result as a JSON file.
        json: Print JSON instead of a table.
    """
    from stereopsis.cli.loading import load_upsampler
    from stereopsis.evaluation.upsampling import evaluate_upsampling, read_upsampling_manifest
    from stereopsis.io import atomic_write_text

    if not scale > 1:
        raise ValueError(f"--scale is {scale:g}; it must be above 1, for example 8.")
    if out is not None and out.is_dir():
        raise ValueError(f"--out is {out}, which is a folder; name a file.")
    images = read_upsampling_manifest(data)
    upsampler = load_upsampler(model, weights, device, dtype)
    with progress_bar() as progress:
        task = progress.add_task(model, total=len(images))
        result = evaluate_upsampling(
            upsampler,
            images,
            scale,
            name=model,
            reduction=reduction,
            back_projections=back_projections,
            device=device,
            progress=lambda done, _, name: progress.update(task, completed=done, description=name),
        )
    result |= {"dtype": dtype, "weights": None if weights is None else weights.name}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(out, json_format.dumps(result, indent=1, allow_nan=False) + "\n")
    if json:
        show_json(result)
        return
    table = new_table(
        "images", "number", "RMSE", "bicubic", "ratio", "edge RMSE", "flat RMSE", "bad edge %", title=model
    )
    keys = ("rmse", "bicubic_rmse", "ratio", "edge_rmse", "flat_rmse", "bad_edge")
    for name, group in {**result["groups"], "all": {"images": result["images"], **result["mean"]}}.items():
        table.add_row(name, str(group["images"]), *("-" if group[key] is None else f"{group[key]:.2f}" for key in keys))
    show_table(table)
