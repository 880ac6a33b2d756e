"""How fast scenes are rendered, and how fast they are used: ``python benchmarks/scenes_speed.py``.

Two worker processes render 320 x 640 scenes with their mirror images and camera effects; then the same cores train on
such scenes. Writes ``results/scenes_speed.json``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from stereopsis.data.augment import AugmentConfig, augment
from stereopsis.data.scenes import SceneConfig, render
from stereopsis.data.textures import make_bank
from stereopsis.matching.hitnet import HITNet
from stereopsis.ops.memory import keep_large_blocks
from stereopsis.training.loop import train
from stereopsis.training.recipes import Phase, Recipe

SCENE = SceneConfig(320, 640)
_bank = None


def _start() -> None:
    global _bank
    keep_large_blocks()
    torch.set_num_threads(1)
    _bank = make_bank()


def _samples(seed: int) -> int:
    """Renders one scene; it and its mirror image, with camera effects, are two samples."""
    scenes = render(2 * seed, 1, _bank, SCENE)
    for number, batch in enumerate((scenes, scenes.mirrored())):
        augment(batch.left, batch.right, 2 * seed + number, AugmentConfig())
    return 2


def rendering_rate(workers: int, scenes: int) -> float:
    """Samples a second; the median of five runs."""
    rates = []
    with multiprocessing.get_context("spawn").Pool(workers, _start) as pool:
        pool.map(_samples, range(4 * workers), chunksize=1)
        for run in range(5):
            started = time.perf_counter()
            made = sum(pool.imap_unordered(_samples, range(run * scenes, (run + 1) * scenes)))
            rates.append(made / (time.perf_counter() - started))
    return median(rates)


def training_rate(steps: int) -> float:
    """Samples a second of steps of two, rendering included."""
    recipe = Recipe("speed", "hitnet.scenes", (Phase(steps, 2, 208, SCENE),))
    times: list[float] = []
    with TemporaryDirectory() as folder:
        train(recipe, HITNet(), Path(folder), progress=lambda *_: times.append(time.perf_counter()))
    return 20 * 2 / median(b - a for a, b in pairwise(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scenes", type=int, default=40, help="rendered in each of five runs")
    parser.add_argument("--steps", type=int, default=80, help="of training")
    options = parser.parse_args()
    keep_large_blocks()
    rendered, trained = rendering_rate(options.workers, options.scenes), training_rate(options.steps)
    result = {
        "size": [SCENE.height, SCENE.width],
        "workers": options.workers,
        "rendered_samples_per_second": round(rendered, 2),
        "trained_samples_per_second": round(trained, 2),
        "ratio": round(rendered / trained, 2),
    }
    path = Path(__file__).parent / "results" / "scenes_speed.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
