"""Guided upsampling against bicubic interpolation, by how the small map was made.

``python benchmarks/upsampling_accuracy.py --data MANIFEST MODEL[=WEIGHTS] ...`` writes
``results/upsampling_accuracy.json`` and prints tables in Markdown. Each number is the mean RMSE over the images and its
ratio to bicubic interpolation of the same small map, whose holes were filled smoothly from around them. Networks
compute in bfloat16. A model whose name states a scale is measured at that scale under the papers' protocol, a filter at
three, the others in every case, on every third image where the case is not one of the protocol's.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import torch
from torch import nn

import stereopsis
from stereopsis.evaluation.upsampling import GuidedImage, read_truth_map, read_upsampling_manifest, upsampling_metrics
from stereopsis.geometry.resample import Reduction, enlarge, fill_smooth, reduce
from stereopsis.io import read_image
from stereopsis.types import Depth
from stereopsis.upsampling.upsample import upsample
from stereopsis.zoo import get_entry

SCALES = (2, 4, 7.5, 8, 16)
GUIDES = ("image", "grey")


@dataclass(frozen=True)
class Case:
    """What happened to the map, in shares of 1 and of the map's range, and what the model sees of the image."""

    scale: float = 8
    reduction: Reduction = "bicubic"
    holes: float = 0.0
    noise: float = 0.0
    guide: str = "image"


def cases() -> Iterator[Case]:
    """Every filter at every scale, under the image and under a guide without content; holes and noise at x8."""
    for guide in GUIDES:
        for reduction in get_args(Reduction):
            for scale in SCALES:
                yield Case(scale, reduction, guide=guide)
    for share in (0.02, 0.05, 0.1, 0.2):
        yield Case(holes=share)
    for share in (0.005, 0.01, 0.02):
        yield Case(noise=share)
    yield Case(7.5, "nearest", holes=0.2, noise=0.01)


def degraded(truth: torch.Tensor, case: Case) -> Depth:
    """The small map of a case, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    small = reduce(truth, case.scale, case.reduction)
    small = small + torch.randn(small.shape, generator=generator) * case.noise * (truth.max() - truth.min())
    valid = torch.rand(small.shape, generator=generator) >= case.holes
    return Depth(torch.where(valid, small, 0.0), valid)


@torch.inference_mode()
def errors(model: nn.Module, image: GuidedImage, case: Case) -> dict[str, tuple[float, float]]:
    """RMSE over all pixels and over those near edges, of the model and of bicubic interpolation."""
    guide, truth = read_image(image.image)[None], read_truth_map(image)[None, None]
    if case.scale == int(case.scale):
        height, width = (side - side % int(case.scale) for side in truth.shape[-2:])
        guide, truth = guide[..., :height, :width], truth[..., :height, :width]
    small = degraded(truth, case)
    if case.guide == "grey":
        guide = torch.full_like(guide, 0.5)
    found = upsample(model, guide, small)
    dense = Depth(fill_smooth(small.depth, small.valid), torch.ones_like(small.valid))
    known = torch.ones_like(truth, dtype=torch.bool)
    measured = [
        upsampling_metrics(values, truth, known)
        for values in (fill_smooth(found.depth, found.valid), enlarge(dense, (guide.shape[-2], guide.shape[-1])).depth)
    ]
    return {key: (measured[0][key], measured[1][key]) for key in ("rmse", "edge_rmse")}


def measure(name: str, images: list[GuidedImage]) -> dict[str, Any]:
    """All cases of a model."""
    name, _, weights = name.partition("=")
    learned = get_entry(name).needs_weights
    model = stereopsis.load(name, weights=weights or None, dtype=torch.bfloat16 if learned else None)
    guided = not learned or model.config.guidance is not None
    own = re.search(r"_x(\d+)\.", name)
    rows = []
    for case in [Case(int(own[1]))] if own else cases() if learned else [Case(scale) for scale in (4, 8, 16)]:
        if case.guide == "grey" and not guided:
            continue
        protocol = case.reduction == "bicubic" and case.scale in (4, 8, 16) and _plain(asdict(case))
        found = [errors(model, image, case) for image in (images if protocol else images[::3])]
        row: dict[str, Any] = asdict(case)
        for key in ("rmse", "edge_rmse"):
            ours, bicubic = (fmean(values[key][k] for values in found) for k in (0, 1))
            row |= {key: round(ours, 3), f"bicubic_{key}": round(bicubic, 3), f"{key}_ratio": round(ours / bicubic, 3)}
        rows.append(row)
        print(name, row, flush=True)
    return {"model": name, "weights": Path(weights).name if weights else "shipped", "cases": rows}


def tables(results: list[dict[str, Any]]) -> str:
    """RMSE and its ratio to bicubic's, in Markdown: the protocol for all models, the other cases for each."""
    lines = ["| RMSE (ratio to bicubic) | x4 | x8 | x16 |", "|---|--:|--:|--:|"]
    for result in results:
        protocol = {c["scale"]: c for c in result["cases"] if c["reduction"] == "bicubic" and _plain(c)}
        cells = [f"{c['rmse']:.2f} ({c['rmse_ratio']:.2f})" if (c := protocol.get(s)) else "" for s in (4, 8, 16)]
        lines.append(_line(f"`{result['model']}`", cells))
    for result in results:
        rows = result["cases"]
        if len(rows) <= 3:
            continue
        header = [f"x{s:g}" for s in SCALES]
        for guide in sorted({c["guide"] for c in rows}, key=GUIDES.index):
            words = "ratio" if guide == "image" else "ratio under a grey guide"
            lines += ["", _line(f"`{result['model']}`, {words}", header), f"|---|{'--:|' * len(header)}"]
            for reduction in get_args(Reduction):
                same = [c for c in rows if (c["reduction"], c["guide"]) == (reduction, guide)]
                lines.append(
                    _line(reduction, [f"{c['rmse_ratio']:.2f}" for c in same if not (c["holes"] or c["noise"])])
                )
        others = [c for c in rows if c["holes"] or c["noise"]]
        lines += ["", _line(f"`{result['model']}`", [_name(c) for c in others]), f"|---|{'--:|' * len(others)}"]
        lines.append(_line("RMSE", [f"{c['rmse']:.2f}" for c in others]))
        lines.append(_line("ratio", [f"{c['rmse_ratio']:.2f}" for c in others]))
    return "\n".join(lines)


def _line(head: str, cells: list[str]) -> str:
    return f"| {head} | {' | '.join(cells)} |"


def _name(case: dict[str, Any]) -> str:
    what = [f"x{case['scale']:g} {case['reduction']}"]
    return ", ".join(what + [f"{100 * case[key]:g} % {key}" for key in ("holes", "noise") if case[key]])


def _plain(case: dict[str, Any]) -> bool:
    return not case["holes"] and not case["noise"] and case["guide"] == "image"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    images = read_upsampling_manifest(options.data)
    results = [measure(name, images) for name in options.models]
    path = Path(__file__).parent / "results" / "upsampling_accuracy.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(tables(results))


if __name__ == "__main__":
    main()
