"""DSIC and FFCA-Net by the clock at 1024 x 832, the size of the paper's table, in one process.

``codec_speed.py [--size 1024x832] [--quality 4] [CODEC ...]`` writes ``results/codec_speed.json``: the medians of calls
that took turns, in seconds. A codec is a registered name or NAME=WEIGHTS; one without weights is measured with random
ones and marked so, since its symbols, but not its convolutions, then cost another time. What is coded is a procedural
scene. ``pair`` codes both views as one file; ``main view`` is FFCA-Net's own task: the left view alone, decoded with
the right one at hand, and ``without side`` the same file without it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

import stereopsis
from stereopsis.compression.codec import PairCodec, SideViewCodec
from stereopsis.data.scenes import SceneConfig, render
from stereopsis.data.textures import make_bank
from stereopsis.evaluation.speed import PAUSE
from stereopsis.ops.memory import keep_large_blocks
from stereopsis.types import StereoPair
from stereopsis.zoo import get_entry

RESULTS = Path(__file__).parent / "results" / "codec_speed.json"
SEED = 77_000_000
LARGEST = 160  # disparity in pixels

Work = Callable[[], Any]


def load(word: str) -> tuple[PairCodec, bool]:
    """A codec, and whether its weights are random."""
    name, _, weights = word.partition("=")
    entry = get_entry(name)
    if weights or entry.weights_file is not None:
        codec = stereopsis.load(name, weights=weights or None)
        assert isinstance(codec, PairCodec)
        return codec, False
    torch.manual_seed(SEED)
    built = entry.build().eval()
    assert isinstance(built, PairCodec)
    built.finalize()
    return built, True


def tasks(codec: PairCodec, pair: StereoPair, quality: float) -> tuple[dict[str, Work], dict[str, float]]:
    """What is clocked, and the bits a pixel of each file."""
    pixels = pair.left[0, 0].numel()
    both = codec.compress(pair, quality)
    works: dict[str, Work] = {
        "pair, encode": lambda: codec.compress(pair, quality),
        "pair, decode": lambda: codec.decompress(both),
    }
    rates = {"pair": 8 * len(both) / (2 * pixels)}
    if isinstance(codec, SideViewCodec):
        main = codec.compress(pair.left, quality)
        works |= {
            "main view, encode": lambda: codec.compress(pair.left, quality),
            "main view, decode": lambda: codec.decompress(main, side=pair.right),
            "main view, decode without side": lambda: codec.decompress(main),
        }
        rates["main view"] = 8 * len(main) / pixels
    return works, rates


def clocked(works: dict[str, Work], repeats: int) -> dict[str, float]:
    """Seconds, medians of calls in turn after one of each."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(repeats + 1):
        for name, work in works.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            work()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: round(median(values), 3) for name, values in times.items()}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codecs", nargs="*")
    parser.add_argument("--size", default="1024x832")
    parser.add_argument("--quality", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    keep_large_blocks()
    width, height = map(int, options.size.split("x"))
    scene = render(
        SEED, 1, make_bank(photo_crops=2, drawn=8), SceneConfig(height, width, max_disparity=LARGEST, surfaces=(6, 20))
    )
    pair = StereoPair(*((view * 255).round() / 255 for view in (scene.left, scene.right)))
    works: dict[str, Work] = {}
    codecs: dict[str, dict[str, Any]] = {}
    for word in options.codecs or ["dsic.scenes", "ffca.scenes"]:
        codec, random = load(word)
        own, rates = tasks(codec, pair, options.quality)
        works |= {f"{codec.name}: {task}": work for task, work in own.items()}
        codecs[codec.name] = {"random_weights": random, "bpp": {k: round(rate, 4) for k, rate in rates.items()}}
    seconds = clocked(works, options.repeats)
    for name, entry in codecs.items():
        entry["seconds"] = {
            task.removeprefix(f"{name}: "): value for task, value in seconds.items() if task.startswith(f"{name}: ")
        }
    result = {
        "size": options.size,
        "quality": options.quality,
        "threads": torch.get_num_threads(),
        "repeats": options.repeats,
        "codecs": codecs,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
