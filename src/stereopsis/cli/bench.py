"""``stereopsis bench``."""

from __future__ import annotations

from typing import Any, cast

from stereopsis.cli.console import new_table, show_json, show_table
from stereopsis.cli.options import check_max_disparity, parse_size

MODELS = "hitnet.scenes,anynet.scenes,bm,sgbm,sgbm-hh"


def bench(
    models: str = MODELS,
    size: str = "640x480",
    sizes: str | None = None,
    repeats: int = 15,
    threads: int | None = None,
    runtime: str = "torch",
    dtype: str = "auto",
    max_disparity: int | None = None,
    memory: bool = True,
    json: bool = False,
) -> None:
    """Measure time, memory and arithmetic of models, beside OpenCV's matchers.

    All take turns in one process. Networks without weights have random ones, which take as long.

    Args:
        models: Names, separated by commas, see `stereopsis models`; OpenCV's search 192 disparities on grey views.
        size: Width and height of the views.
        sizes: Several of them, separated by commas, for a table of cost against size.
        repeats: Calls of each that are timed.
        threads: Of every library; torch's own choice if not given.
        runtime: torch, onnxruntime, openvino, or several, separated by commas.
        dtype: auto, which is what each model computes in on this machine, float32, bfloat16, or several, in torch.
        max_disparity: Of the networks, in pixels; their own if not given.
        memory: Measure peak memory too, each model in a process of its own.
        json: Print JSON instead of a table.
    """
    import torch

    from stereopsis.evaluation.speed import Runtime, contenders
    from stereopsis.evaluation.speed import bench as measure

    check_max_disparity(max_disparity)
    if repeats < 1:
        raise ValueError(f"--repeats is {repeats}; it must be at least 1.")
    if threads is not None and threads < 1:
        raise ValueError(f"--threads is {threads}; it must be at least 1.")
    option = "--size" if sizes is None else "--sizes"
    wanted = [parse_size(part, option) for part in _parts(sizes or size)]
    runtimes = cast(list[Runtime], _parts(runtime))
    found = contenders(_parts(models), runtimes, _parts(dtype), max_disparity)
    if not found or not wanted:
        raise ValueError("--models, --runtime, --dtype and --sizes must each name something.")
    if threads is not None:
        torch.set_num_threads(threads)
    result = measure(found, wanted, repeats=repeats, memory=memory)
    if json:
        show_json(result)
    else:
        _show(result)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _show(result: dict[str, Any]) -> None:
    machine = result["machine"]
    peaks = ", ".join(f"{value:g} GMAC/s in {dtype}" for dtype, value in machine["gmacs_per_s"].items())
    reached = f"; reaches {peaks}" if peaks else ""
    print(f"{machine['processor']}, {machine['threads']} threads{reached}, {machine['copy_gb_per_s']:g} GB/s")
    columns = ("size", "first ms", "median ms", "p95 ms", "pairs/s", "peak MB", "GMAC", "floor ms", "of peak", "ms/MP")
    table = new_table("model", *columns)
    for row in result["results"]:
        width, height = map(int, row["size"].split("x"))
        share = None if row["reached"] is None else f"{100 * row['reached']:.0f} %"
        table.add_row(
            f"{row['model']} ({row['runtime']} {row['dtype']})",
            row["size"],
            *(f"{row[key]:.1f}" for key in ("first_ms", "median_ms", "p95_ms", "pairs_per_s")),
            "-" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}",
            "-" if row["macs"] is None else f"{row['macs'] / 1e9:.2f}",
            "-" if row["floor_ms"] is None else f"{row['floor_ms']:.1f}",
            share or "-",
            f"{1e6 * row['median_ms'] / (width * height):.0f}",
        )
    show_table(table)
    if result["growth"]:
        grown = new_table("grows with pixels to the power of", "time", "memory")
        for row in result["growth"]:
            values = ("-" if row[key] is None else f"{row[key]:.2f}" for key in ("time", "memory"))
            grown.add_row(f"{row['model']} ({row['runtime']} {row['dtype']})", *values)
        show_table(grown)
