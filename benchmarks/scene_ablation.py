"""What scenes and cameras must have: HITNet trained on less of them for a short while, and measured on real pairs.

``scene_ablation.py --data MANIFEST --out DIR [--steps 500] [VARIANT ...]`` trains from the same random weights with the
same seeds and schedule, one run a variant, and writes ``results/scene_ablation.json``, where other variants of as many
steps stay. A variant that DIR holds is not trained again. One run each: another seed may differ by a few percent.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from readme_table import data_set

from stereopsis.data.augment import NO_EFFECTS
from stereopsis.data.manifests import BenchmarkPair, read_manifest
from stereopsis.data.scenes import SceneConfig
from stereopsis.data.textures import make_bank
from stereopsis.evaluation.matching import evaluate_matching
from stereopsis.io.atomic import atomic_write
from stereopsis.matching.hitnet import HITNet
from stereopsis.ops.memory import keep_large_blocks
from stereopsis.training.loop import train
from stereopsis.training.recipes import RECIPES, Phase, Recipe

RESULTS = Path(__file__).parent / "results" / "scene_ablation.json"
SETS = ("KITTI", "Middlebury")
MAX_DISPARITY = 128

ALL = "all of it"
SCENES: dict[str, dict[str, float]] = {
    ALL: {},
    "no camera effects": {},
    "no gratings, wires, holes": {"open": 0.0, "thin": 0.0, "pierced": 0.0},
    "no surface without contrast": {"smooth": 0.0},
    "no roads": {"road": 0.0},
    "no photos": {},
}


def recipe_of(variant: str, steps: int) -> Recipe:
    """The first phase of ``hitnet.scenes`` with larger disparities, less what the variant leaves out."""
    recipe = RECIPES["hitnet.scenes"]
    scene = SceneConfig(128, 256, max_disparity=100, surfaces=(3, 12), **SCENES[variant])
    effects = NO_EFFECTS if variant == "no camera effects" else recipe.phases[0].augment
    return replace(recipe, phases=(Phase(steps, 4, 104, scene, effects),), warmup=50, ema=0.98)


def measure(variant: str, recipe: Recipe, folder: Path, pairs: dict[str, list[BenchmarkPair]]) -> dict[str, Any]:
    """Errors of the moving average at the end of the run."""
    torch.manual_seed(recipe.seed)
    model = HITNet()
    if not (folder / "checkpoint.pt").is_file():
        bank = make_bank(photo_crops=0 if variant == "no photos" else 8)

        def report(step: int, _: int, means: dict[str, float]) -> None:
            print(f"{variant}: step {step}, EPE {means['epe']:.2f}", flush=True)

        train(recipe, model, folder, bank=bank, progress=report)
    model.load_state_dict(torch.load(folder / "checkpoint.pt", weights_only=True)["ema"])
    found = {
        name: evaluate_matching(model.eval(), some, max_disparity=MAX_DISPARITY)["mean"] for name, some in pairs.items()
    }
    return {name: {key: errors[key] for key in ("epe", "bad1", "bad3")} for name, errors in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=list(SCENES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    keep_large_blocks()
    every = read_manifest(options.data)
    pairs = {name: [pair for pair in every if data_set(pair.group) == name] for name in SETS}
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if results.get("steps") != options.steps:
        results = {"steps": options.steps, "variants": {}}
    for variant in options.variants:
        folder = options.out / variant.replace(",", "").replace(" ", "_")
        results["variants"][variant] = measure(variant, recipe_of(variant, options.steps), folder, pairs)
        with atomic_write(RESULTS) as partial:
            partial.write((json.dumps(results, indent=1) + "\n").encode())
    print("| EPE px / bad-1 % / bad-3 % | " + " | ".join(SETS) + " |\n|---" + "|--:" * len(SETS) + "|")
    for variant, row in results["variants"].items():
        cells = (f"{row[name]['epe']:.2f} / {row[name]['bad1']:.1f} / {row[name]['bad3']:.1f}" for name in SETS)
        print(f"| {variant} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
