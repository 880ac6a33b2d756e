"""Errors of AnyNet's four stages by data set.

``python benchmarks/anytime_accuracy.py --data MANIFEST anynet.scenes anynet.official=FILE ...`` writes
``results/anytime_accuracy.json``; a model's name may be followed by a weights file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from readme_table import data_set

import stereopsis
from stereopsis.data.manifests import read_manifest, read_truth
from stereopsis.evaluation.metrics import disparity_metrics
from stereopsis.io import read_image

KEYS = ("epe", "bad1", "bad2", "bad3")


@torch.inference_mode()
def measure(name: str, manifest: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Means over the pairs of each data set, and of all, stage by stage."""
    model_name, _, weights = name.partition("=")
    model = stereopsis.load(model_name, weights=weights or None, dtype=dtype)
    rows: dict[str, list[list[dict[str, float]]]] = {}
    for pair in read_manifest(manifest):
        left, right = (read_image(path)[None] for path in (pair.left, pair.right))
        truth, known = read_truth(pair)
        stages = [disparity_metrics(d.disparity, truth, known, d.valid) for d in model.stages(left, right)]
        for group in ("all", data_set(pair.group)):
            rows.setdefault(group, []).append(stages)
    return {
        "model": model_name,
        "weights": Path(weights).name if weights else "shipped",
        "dtype": str(dtype).removeprefix("torch."),
        "groups": {
            group: {
                "pairs": len(members),
                "stages": [{key: fmean(m[stage][key] for m in members) for key in KEYS} for stage in range(4)],
            }
            for group, members in rows.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    results = [measure(name, options.data, getattr(torch, options.dtype)) for name in options.models]
    path = Path(__file__).parent / "results" / "anytime_accuracy.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    for result in results:
        print(f"{result['model']} ({result['weights']})")
        for group, row in result["groups"].items():
            stages = "   ".join(f"{s['epe']:5.2f} {s['bad3']:5.1f}" for s in row["stages"])
            print(f"  {group:16} {row['pairs']:3} pairs, EPE and bad-3 of stages 1 to 4:  {stages}")


if __name__ == "__main__":
    main()
