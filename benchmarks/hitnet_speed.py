"""HITNet by the clock, beside its references in plain torch and OpenCV's SGBM_HH in the same process, and its parts.

``python benchmarks/hitnet_speed.py [--sizes 640x480,960x540] [--max-disparity 128] [--data MANIFEST]`` writes
``results/hitnet_speed.json``: for each size the medians of calls that took turns, their ratios to SGBM_HH (192
disparities, grey, OpenCV's bare call), and the share of a call in bfloat16 that each of our kernels takes, by the clock
around it. With a manifest of pairs with ground truth, also the errors of float32 and bfloat16 on every third of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from stereopsis.data.manifests import read_manifest
from stereopsis.evaluation.matching import evaluate_matching
from stereopsis.evaluation.speed import PAUSE, Contender, Work, prepare
from stereopsis.ops import bf16_conv, native
from stereopsis.ops.memory import keep_large_blocks
from stereopsis.zoo import load


def without_kernels(work: Work) -> Work:
    """The same with the references in place of the kernels in C."""

    def run() -> None:
        library, native.library = native.library, lambda: None
        try:
            work()
        finally:
            native.library = library

    return run


def clocked(works: dict[str, Work], repeats: int) -> dict[str, float]:
    """Milliseconds, medians of calls in turn after two of each."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(repeats + 2):
        for name, work in works.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            work()
            if number > 1:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: round(median(values), 1) for name, values in times.items()}


def shares(work: Work, calls: int = 7) -> dict[str, float]:
    """Percent of the time by kernel, largest first; what is around them is one row."""
    parts: dict[str, list[float]] = defaultdict(list)
    original = native.Call.__call__

    def timed(kernel: native.Call) -> None:
        start = time.perf_counter()
        original(kernel)
        spent[kernel.name] += time.perf_counter() - start

    work()
    native.Call.__call__ = timed
    try:
        for _ in range(calls):
            spent: Counter[str] = Counter()
            start = time.perf_counter()
            work()
            spent["around them"] = time.perf_counter() - start - sum(spent.values())
            for name, seconds in spent.items():
                parts[name].append(seconds)
    finally:
        native.Call.__call__ = original
    middle = {name: median(seconds) for name, seconds in parts.items()}
    total = sum(middle.values())
    return {name: round(100 * part / total, 1) for name, part in sorted(middle.items(), key=lambda item: -item[1])}


def measured(model: str, size: tuple[int, int], max_disparity: int, repeats: int) -> dict[str, Any]:
    """One row of the result."""
    ours = {dtype: prepare(Contender(model, "torch", dtype, max_disparity), size) for dtype in ("float32", "bfloat16")}
    classical = {name: prepare(Contender(name, "opencv", "uint8"), size) for name in ("sgbm-hh", "sgbm")}
    times = clocked(ours | {"reference float32": without_kernels(ours["float32"])} | classical, repeats)
    return {
        "size": f"{size[0]}x{size[1]}",
        "ms": times,
        "ratio_to_sgbm_hh": {name: round(value / times["sgbm-hh"], 2) for name, value in times.items()},
        "times_faster_than_reference": {name: round(times["reference float32"] / times[name], 2) for name in ours},
        "percent_in_bfloat16": shares(ours["bfloat16"]),
    }


def errors(model: str, data: Path) -> dict[str, Any]:
    """Mean errors on every third pair of a manifest, and how far the two precisions lie apart."""
    pairs = read_manifest(data)[::3]
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        result = evaluate_matching(load(model, dtype=dtype), pairs, name=model)
        found[str(dtype).removeprefix("torch.")] = result["mean"]
    return {"pairs": len(pairs), **found}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hitnet.scenes")
    parser.add_argument("--sizes", default="640x480,960x540")
    parser.add_argument("--max-disparity", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    path = Path(__file__).parent / "results" / "hitnet_speed.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    keep_large_blocks()
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes.split(",") if size]
    result = {
        "model": options.model,
        "max_disparity": options.max_disparity,
        "threads": torch.get_num_threads(),
        "kernel": bf16_conv.kernel(),
        "results": [measured(options.model, size, options.max_disparity, options.repeats) for size in sizes],
        "errors": known.get("errors") if options.data is None else errors(options.model, options.data),
    }
    if not sizes:
        result["results"] = known["results"]
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
