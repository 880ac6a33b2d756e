"""The ablation of FFCA-Net (the paper's Table 3): what each part of the decoder saves of the main view's bits.

``ffca_ablation.py --data MANIFEST --out DIR [--steps 300] [--every N] [VARIANT ...]`` takes parts away from
``ffca.scenes``, trains what is left, and the whole too, for as many steps on the same scenes, codes left views with the
right ones as the camera gave them, and writes BD-rates against the base picture of each variant's own files, without
the side view, to ``results/ffca_ablation.json``. The other fusion of "W/O FFF" has no weights to go on from and starts
from nothing. A variant that DIR holds is not trained again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from readme_table import data_set

import stereopsis
from stereopsis.compression.ffca import ABLATIONS, FFCA, FFCAConfig, ablation
from stereopsis.data.manifests import BenchmarkPair, read_manifest
from stereopsis.evaluation.codecs import main_view_coder
from stereopsis.evaluation.compression import curve_of, rate_between
from stereopsis.io import read_image
from stereopsis.io.atomic import atomic_write
from stereopsis.ops.memory import keep_large_blocks
from stereopsis.training.loop import train
from stereopsis.training.recipes import RECIPES, Recipe

RESULTS = Path(__file__).parent / "results" / "ffca_ablation.json"
SETS = ("KITTI", "Middlebury")
QUALITIES = (1, 3, 5, 7)
SEED = 190_000_000  # of scenes that ffca.scenes has not seen


def shortened(steps: int) -> Recipe:
    recipe = RECIPES["ffca.scenes"]
    return replace(recipe, phases=(replace(recipe.phases[0], steps=steps),), ema=0.98, seed=SEED)


def trained(variant: str, recipe: Recipe, folder: Path) -> FFCA:
    """The variant at the end of the run, as its moving average."""
    codec = FFCA(ablation(FFCAConfig(), variant), "ffca.scenes")
    checkpoint = folder / "checkpoint.pt"
    if not checkpoint.is_file():
        torch.manual_seed(recipe.seed)
        own, whole = codec.state_dict(), stereopsis.load("ffca.scenes").state_dict()
        kept = {name for name in own if codec.config.fast_fusion or not name.startswith("fuse.")}
        codec.load_state_dict({name: whole[name] if name in kept else value for name, value in own.items()})
        train(
            recipe, codec, folder, progress=lambda step, steps, means: print(variant, step, means["loss"], flush=True)
        )
    codec.load_state_dict(torch.load(checkpoint, weights_only=True)["ema"])
    codec.compute_dtype = torch.float32
    codec.finalize()
    return codec.eval()


@torch.inference_mode()
def savings(codec: FFCA, pairs: list[BenchmarkPair]) -> dict[str, float | None]:
    """Of every pair, the BD-rate in percent of the main view with its side view against without."""
    with_side, without = (main_view_coder(codec, QUALITIES, side) for side in (True, False))
    found = {}
    for pair in pairs:
        views = [(read_image(p) * 255).round().byte().permute(1, 2, 0).numpy() for p in (pair.left, pair.right)]
        plain, full = (
            curve_of(coder, [np.ascontiguousarray(view) for view in views]) for coder in (without, with_side)
        )
        found[pair.id] = rate_between(plain, full, "bpp", "psnr")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=list(ABLATIONS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    keep_large_blocks()
    pairs = [pair for pair in read_manifest(options.data) if data_set(pair.group) in SETS][:: options.every]
    groups = {name: [pair.id for pair in pairs if data_set(pair.group) == name] for name in SETS}
    result: dict[str, Any] = {"steps": options.steps, "pairs": {name: len(ids) for name, ids in groups.items()}}
    for variant in options.variants:
        codec = trained(variant, shortened(options.steps), options.out / variant.replace("/", "").replace(" ", "_"))
        found = savings(codec, pairs)
        result[variant] = {
            name: fmean(rate for rate in (found[i] for i in ids) if rate is not None) for name, ids in groups.items()
        }
        print(variant, result[variant], flush=True)
    print("| variant | " + " | ".join(f"{name}, BD-rate" for name in SETS) + " |\n|---" + "|--:" * len(SETS) + "|")
    for variant in options.variants:
        print(f"| {variant} | " + " | ".join(f"{rate:+.1f} %" for rate in result[variant].values()) + " |")
    with atomic_write(RESULTS) as partial:
        partial.write((json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
