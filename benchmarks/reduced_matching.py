"""Matching small views and upsampling the disparity, against matching at full size: error and time.

``python benchmarks/reduced_matching.py --data MANIFEST [--matcher NAME] [--every N] UPSAMPLER:SCALE ...`` writes
``results/reduced_matching.json`` and prints a table in Markdown. Times are medians over the pairs, all in one process.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from readme_table import data_set
from torch import nn

import stereopsis
from stereopsis.data.manifests import BenchmarkPair, read_manifest, read_truth
from stereopsis.evaluation.metrics import disparity_metrics
from stereopsis.io import read_image
from stereopsis.ops.memory import keep_large_blocks
from stereopsis.pipeline.reduced import ReducedMatcher

KEYS = ("epe", "bad2", "bad3")


@torch.inference_mode()
def measure(models: dict[str, nn.Module], pairs: list[BenchmarkPair]) -> list[dict[str, Any]]:
    """Each model in turn on each pair."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in models}
    for pair in pairs:
        left, right = (read_image(path)[None] for path in (pair.left, pair.right))
        truth, known = read_truth(pair)
        for name, model in models.items():
            model(left, right)  # the first call at a size warms up
            start = time.perf_counter()
            found = model(left, right)
            seconds = time.perf_counter() - start
            errors = disparity_metrics(found.disparity, truth, known, found.valid)
            rows[name].append({"set": data_set(pair.group), "ms": 1000 * seconds} | {k: errors[k] for k in KEYS})
    results = []
    for name, found in rows.items():
        sets = {"all": found} | {s: [row for row in found if row["set"] == s] for s in {row["set"] for row in found}}
        means = {s: {key: round(fmean(row[key] for row in part), 3) for key in KEYS} for s, part in sets.items()}
        results.append({"model": name, "median_ms": round(median(row["ms"] for row in found), 1), "sets": means})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upsamplers", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--matcher", default="hitnet.scenes")
    parser.add_argument("--every", type=int, default=1, help="take every N-th pair")
    options = parser.parse_args()
    keep_large_blocks()
    matcher = stereopsis.load(options.matcher, dtype=torch.bfloat16)
    models = {options.matcher: matcher}
    for word in options.upsamplers:
        name, _, scale = word.partition(":")
        upsampler = stereopsis.load(name, dtype=None if name in ("bicubic", "nearest") else torch.bfloat16)
        models[f"{options.matcher} at 1/{scale}, {name}"] = ReducedMatcher(matcher, upsampler, float(scale))
    results = measure(models, read_manifest(options.data)[:: options.every])
    path = Path(__file__).parent / "results" / "reduced_matching.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print("| | ms | EPE px / bad-2 % / bad-3 %: all | KITTI | Middlebury |\n|---|--:|--:|--:|--:|")
    for row in results:
        cells = [" / ".join(f"{row['sets'][s][k]:.2f}" for k in KEYS) for s in ("all", "KITTI", "Middlebury")]
        print(f"| {row['model']} | {row['median_ms']:.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
