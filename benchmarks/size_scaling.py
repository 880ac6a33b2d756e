"""Time and memory against the size of the views, from 0.1 to 12 megapixels; the largest in tiles.

``python benchmarks/size_scaling.py [--sizes 384x288,640x480] [--models hitnet.scenes:bfloat16,sgbm]`` measures and
writes ``results/size_scaling.json``; rows of other models and sizes that are there already stay, so that a long table
can be measured in parts. Of each: the median of calls after one, and megabytes above the import of torch at most, of
a process of its own. The table is printed in Markdown, with the exponents with which time and memory grow in pixels.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from stereopsis.evaluation.speed import PAUSE, Contender, contenders, peak_megabytes, prepare
from stereopsis.matching.tiling import LARGEST
from stereopsis.ops.memory import keep_large_blocks
from stereopsis.zoo import get_entry

RESULTS = Path(__file__).parent / "results" / "size_scaling.json"
SIZES = "384x288,640x480,1024x768,1600x1200,2304x1728,3264x2448,4000x3000"
MODELS = "hitnet.scenes:bfloat16,anynet.scenes,sgbm"
KEYS = ("model", "dtype", "width", "height")


@torch.inference_mode()
def measure(contender: Contender, size: tuple[int, int], repeats: int) -> dict[str, Any]:
    """One row; memory first, so that the time's process does not take what the other needs."""
    peak, model = peak_megabytes(contender, size), get_entry(contender.model).build()
    work = prepare(contender, size)
    work()
    times = []
    for _ in range(repeats):
        time.sleep(PAUSE)
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return {
        "model": contender.model,
        "dtype": contender.dtype,
        "width": size[0],
        "height": size[1],
        "max_disparity": contender.max_disparity,
        "tiled": contender.runtime != "opencv" and math.prod(size) > getattr(model, "largest_view", LARGEST),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "ms": round(median(times), 1),
        "peak_mb": None if peak is None else round(peak),
    }


def exponent(rows: list[dict[str, Any]], field: str) -> float | None:
    """Of the pixels, from a line through the logarithms; 1 is linear."""
    points = [(row["width"] * row["height"], row[field]) for row in rows if row[field]]
    if len(points) < 2:
        return None
    return round(float(np.polyfit(*np.log(np.array(points).T), 1)[0]), 2)


def growth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each model the exponents over all sizes, and over those that are matched in one piece."""
    found = []
    for name in dict.fromkeys((row["model"], row["dtype"]) for row in rows):
        own = [row for row in rows if (row["model"], row["dtype"]) == name]
        parts = {"all": own, "in one piece": [row for row in own if not row["tiled"]]}
        for part, members in parts.items():
            found.append(
                {"model": name[0], "dtype": name[1], "sizes": part}
                | {field: exponent(members, field) for field in ("ms", "peak_mb")}
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--models", default=MODELS, help="names, each with :float32 or :bfloat16 if wanted")
    parser.add_argument("--max-disparity", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    keep_large_blocks()
    known = json.loads(RESULTS.read_text())["results"] if RESULTS.is_file() else []
    rows = {tuple(row[key] for key in KEYS): row for row in known}
    for size in options.sizes.split(","):
        width, height = map(int, size.split("x"))
        for word in options.models.split(","):
            name, _, dtype = word.partition(":")
            (contender,) = contenders([name], ["torch"], [dtype or "float32"], options.max_disparity)
            row = measure(contender, (width, height), options.repeats)
            rows[tuple(row[key] for key in KEYS)] = row
            done = sorted(rows.values(), key=lambda row: (row["model"], row["dtype"], row["width"] * row["height"]))
            result = {"largest_in_one_piece": LARGEST, "results": done, "growth": growth(done)}
            RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print("| model | size | megapixels | ms | ms / megapixel | peak MB |\n|---|---|--:|--:|--:|--:|")
    for row in done:
        pixels = row["width"] * row["height"] / 1e6
        size = f"{row['width']}x{row['height']}{', tiles' if row['tiled'] else ''}"
        cells = f"{pixels:.2f} | {row['ms']:.0f} | {row['ms'] / pixels:.0f} | {row['peak_mb']}"
        print(f"| {row['model']} {row['dtype']} | {size} | {cells} |")
    for row in growth(done):
        print(f"{row['model']} {row['dtype']}, {row['sizes']}: time {row['ms']}, memory {row['peak_mb']}")


if __name__ == "__main__":
    main()
