"""``stereopsis export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from stereopsis.cli.console import fail, new_table, show_json, show_table
from stereopsis.cli.options import check_folder, check_max_disparity, parse_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stereopsis.export.int8 import Cost
    from stereopsis.export.parity import Check


def export(
    model: Positional[str],
    out: Path,
    format: Literal["onnx", "openvino"] = "onnx",
    weights: Path | None = None,
    dynamic: bool = False,
    size: str = "640x480",
    max_disparity: int | None = None,
    dtype: Literal["float32", "float16", "int8"] = "float32",
    data: Path | None = None,
    json: bool = False,
) -> int:
    """Write a model as graphs for ONNX Runtime or OpenVINO, checked against torch.

    The exit status is 1, and nothing is written, where the graphs differ from torch by more than their tolerance, or
    where int8 costs more than a pixel of accuracy.

    Args:
        model: HITNet, AnyNet, DKN, FDKN or the hyperprior codec, see `stereopsis models`.
        out: Folder for the graphs and a JSON file that describes them.
        format: onnx, or openvino (.xml and .bin).
        weights: Safetensors file in place of the shipped weights.
        dynamic: For images of any size, in place of --size alone.
        size: Width and height of the images, rounded up to what the model takes.
        max_disparity: Largest disparity that the graphs search, in pixels; the model's own if not given.
        dtype: Precision of the stored weights; what is computed stays float32, but for convolutions in int8 (HITNet).
        data: Manifest of pairs with ground truth, to measure on too what int8 costs, with --dynamic.
        json: Print JSON instead of text.
    """
    import torch

    from stereopsis.export import CostError, ParityError, export_model
    from stereopsis.zoo import get_entry, load

    check_max_disparity(max_disparity)
    check_folder(out, "--out")
    width, height = parse_size(size, "--size")
    entry = get_entry(model)
    if not entry.needs_weights:
        raise ValueError(
            f"{model} is a classical method and has no graph; export HITNet, AnyNet, DKN, FDKN or a codec."
        )
    network = load(model, weights=weights, dtype=torch.float32)
    try:
        done = export_model(
            entry,
            network,
            out,
            format=format,
            dynamic=dynamic,
            size=(height, width),
            max_disparity=max_disparity,
            dtype=dtype,
            data=data,
        )
    except ParityError as error:
        if json:
            show_json({"model": model, "files": [], "checks": [check.as_dict() for check in error.checks]})
        else:
            _show(error.checks)
        return fail(str(error), 1)
    except CostError as error:
        if json:
            show_json({"model": model, "files": [], "checks": [], "costs": [error.cost.as_dict()]})
        return fail(str(error), 1)
    if json:
        files = [str(path) for path in (done.description, *done.files)]
        checks = [check.as_dict() for check in done.checks]
        costs = [cost.as_dict() for cost in done.costs]
        show_json({"model": model, "files": files, "checks": checks, "costs": costs})
    else:
        for path in done.files:
            print(path)
        print(f"{done.description}  how they are run")
        _show(done.checks)
        if done.costs:
            _show_costs(done.costs)
    return 0


def _show_costs(costs: Sequence[Cost]) -> None:
    table = new_table("cost of int8 on", "pairs", "EPE float32", "EPE int8", "mean difference", title="pixels")
    for cost in costs:
        values = (cost.epe_float32, cost.epe_int8, cost.difference)
        table.add_row(cost.data, str(cost.pairs), *(f"{value:.3f}" for value in values))
    show_table(table)


def _show(checks: Sequence[Check]) -> None:
    table = new_table("output", "size", "largest difference", "mean", "above the limit", "limit")
    for check in checks:
        unit = " of the largest" if check.relative else ""
        table.add_row(
            f"{check.graph} {check.output}".strip(),
            check.size,
            f"{check.largest:.2g}",
            f"{check.mean:.2g}",
            f"{100 * check.above:.3g} %",
            f"{check.limit:g}{unit}",
        )
    show_table(table)
