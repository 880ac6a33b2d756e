"""Joint denoising and saliency maps, beside filters without learning.

``python benchmarks/restoration.py [--data MANIFEST]`` writes ``results/restoration.json`` and prints tables.
Maps in [0, 1] get Gaussian noise, as in the supplement of DKN (4.1.1: variance 0.005); RMSE is in percent of a map's
range, and also given for what lies within 3 pixels of a step and for the rest. The filters come as they are registered,
and with the parameters that are best on these very maps at the paper's noise. A saliency map is one object of a scene.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

import stereopsis
from stereopsis.data.scenes import SceneConfig, render
from stereopsis.data.textures import make_bank
from stereopsis.evaluation.upsampling import read_truth_map, read_upsampling_manifest, upsampling_metrics
from stereopsis.geometry.resample import reduce
from stereopsis.io import read_image
from stereopsis.types import Depth
from stereopsis.upsampling.classical import (
    GuidedFilter,
    GuidedFilterConfig,
    JointBilateral,
    JointBilateralConfig,
)
from stereopsis.upsampling.restoration import denoise, upsample_saliency

SEED = 7_000_001  # no recipe trains on scenes from here on
SCENES, MAPS = 8, 3
VARIANCES = (0.0, 0.0005, 0.005)
MEASURES = ("rmse", "edge_rmse", "flat_rmse")
SALIENCY = ("fdkn_x8.scenes", "fdkn.any", "guided-filter", "joint-bilateral", "bicubic")

Case = tuple[Tensor, Tensor]


def scenes() -> list[Case]:
    """Images and maps of disparity in [0, 1]."""
    bank = make_bank(SEED)
    cases = []
    for n in range(SCENES):
        scene = render(SEED + n, 1, bank, SceneConfig(256, 384, max_disparity=96))
        cases.append((scene.left, _in_unit_range(scene.disparity)))
    return cases


def middlebury(manifest: Path) -> list[Case]:
    """The first images of a manifest, in the same form."""
    images = read_upsampling_manifest(manifest)[:MAPS]
    return [(read_image(i.image)[None], _in_unit_range(read_truth_map(i)[None, None])) for i in images]


def _in_unit_range(values: Tensor) -> Tensor:
    return (values - values.min()) / (values.max() - values.min())


def noisy(truth: Tensor, variance: float) -> Depth:
    """The same at every call."""
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    return Depth(truth + variance**0.5 * noise, torch.ones_like(truth, dtype=torch.bool))


def errors(
    model: nn.Module | None, cases: list[Case], variance: float, iterations: int = 1, blind: bool = False
) -> dict[str, float]:
    """Means over the maps, in percent of their range; of the noisy maps where there is no model."""
    rows = []
    for image, truth in cases:
        found = noisy(truth, variance)
        if model is not None:
            found = denoise(model, torch.full_like(image, 0.5) if blind else image, found, iterations)
        rows.append(upsampling_metrics(found.depth, truth, found.valid))
    return {key: round(100 * fmean(row[key] for row in rows), 3) for key in MEASURES}


def tuned(cases: list[Case]) -> dict[str, nn.Module]:
    """Of each filter the parameters with the lowest error at the paper's noise."""
    guided = [
        GuidedFilter(GuidedFilterConfig(radius, epsilon))
        for radius, epsilon in product((2, 4, 8), (1e-4, 1e-3, 1e-2, 1e-1))
    ]
    bilateral = [
        JointBilateral(JointBilateralConfig(radius, 1, radius / 2, sigma))
        for radius, sigma in product((4, 8), (0.03, 0.1, 0.2))
    ]
    return {
        f"{name}, best": min(models, key=lambda m: errors(m, cases, VARIANCES[-1])["rmse"])
        for name, models in (("guided-filter", guided), ("joint-bilateral", bilateral))
    }


def denoising(cases: list[Case], name: str, model: nn.Module) -> list[dict[str, Any]]:
    """A row for each method and noise."""
    methods: list[tuple[str, nn.Module | None, dict[str, Any]]] = [
        ("noisy map", None, {}),
        (name, model, {}),
        (f"{name}, twice", model, {"iterations": 2}),
        (f"{name}, grey guide", model, {"blind": True}),
    ]
    methods += [(known, stereopsis.load(known), {}) for known in ("guided-filter", "joint-bilateral")]
    methods += [(label, filter_, {}) for label, filter_ in tuned(cases).items()]
    rows = []
    for label, method, options in methods:
        parameters = repr(getattr(method, "config", None)) if "best" in label else None
        for variance in VARIANCES:
            found = errors(method, cases, variance, **options)
            rows.append({"method": label, "parameters": parameters, "variance": variance, **found})
    return rows


def nearest_object(disparity: Tensor) -> Tensor | None:
    """The nearest surface of a 30th to a third of the image, as a map of 0 and 1; None where there is none."""
    values = np.ascontiguousarray(disparity[0, 0].numpy())
    height, width = values.shape
    found = []
    for seed in product(range(10, width, 20), range(10, height, 20)):
        mask = np.zeros((height + 2, width + 2), np.uint8)
        # a surface ends where neighbours differ by more than a hundredth of the range
        flags = cv2.FLOODFILL_MASK_ONLY | 4 | (1 << 8)
        area, *_ = cv2.floodFill(values, mask, seed, 0, 0.01, 0.01, flags)
        if 1 / 30 < area / values.size < 1 / 3:
            inside = mask[1:-1, 1:-1] > 0
            found.append((float(values[inside].mean()), inside))
    if not found:
        return None
    return torch.from_numpy(max(found, key=lambda pair: pair[0])[1])[None, None].float()


def saliency(cases: list[Case]) -> list[dict[str, Any]]:
    """Objects from an eighth of their size: mean absolute error, and overlap at 0.5."""
    maps = [(image, truth) for image, disparity in cases if (truth := nearest_object(disparity)) is not None]
    rows = []
    for name in SALIENCY:
        model, found = stereopsis.load(name), []
        for image, truth in maps:
            scores = upsample_saliency(model, image, reduce(truth, 8).clamp(0, 1))
            shared, either = (
                (f(scores > 0.5, truth > 0.5)).sum().item() for f in (torch.logical_and, torch.logical_or)
            )
            found.append(((scores - truth).abs().mean().item(), shared / either))
        mae, overlap = (fmean(pair[k] for pair in found) for k in (0, 1))
        rows.append({"method": name, "maps": len(maps), "mae": round(mae, 5), "iou": round(overlap, 4)})
    return rows


def tables(result: dict[str, Any]) -> str:
    lines = []
    for data, rows in result["denoising"].items():
        heads = [f"variance {v:g}" for v in VARIANCES]
        lines += [_line(f"{data}, RMSE (edges / rest)", heads), "|---|" + "--:|" * len(heads)]
        for method in dict.fromkeys(row["method"] for row in rows):
            cells = [
                "{rmse:.2f} ({edge_rmse:.2f} / {flat_rmse:.2f})".format(**r) for r in rows if r["method"] == method
            ]
            lines.append(_line(method, cells))
        lines.append("")
    lines += [_line("saliency x8", ["mean absolute error", "IoU"]), "|---|--:|--:|"]
    lines += [_line(r["method"], [f"{r['mae']:.4f}", f"{r['iou']:.3f}"]) for r in result["saliency"]]
    return "\n".join(lines)


def _line(head: str, cells: list[str]) -> str:
    return f"| {head} | {' | '.join(cells)} |"


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fdkn.denoise", help="NAME or NAME=WEIGHTS")
    parser.add_argument("--data", type=Path, help="manifest of RGB-D images, as of `evaluate upsampling`")
    options = parser.parse_args()
    name, _, weights = options.model.partition("=")
    model = stereopsis.load(name, weights=weights or None)
    drawn = scenes()
    sets = {"procedural scenes": drawn} | ({"Middlebury": middlebury(options.data)} if options.data else {})
    result = {
        "model": name,
        "weights": Path(weights).name if weights else "shipped",
        "denoising": {label: denoising(cases, name, model) for label, cases in sets.items()},
        "saliency": saliency(drawn),
    }
    path = Path(__file__).parent / "results" / "restoration.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(tables(result))


if __name__ == "__main__":
    main()
