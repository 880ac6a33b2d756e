"""HITNet by the clock, beside its references in plain torch and OpenCV's SGBM_HH in the same process, and its parts.

``python benchmarks/hitnet_speed.py [--size 640x480] [--max-disparity 128]`` writes ``results/hitnet_speed.json``: the
medians of calls that took turns, their ratios to SGBM_HH (192 disparities, grey, OpenCV's bare call), and for each
precision the share of one call that convolutions, our operators and torch's other operators take (torch's profiler;
self time).
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from stereopsis.bench import PAUSE, Contender, Work, prepare
from stereopsis.matching import hitnet
from stereopsis.memory import keep_large_blocks
from stereopsis.ops import native

OURS = ("tile_match", "tile_warp_cost", "matching_cost", "expand_plane", "split_tiles")


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


def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any, **options: Any) -> Any:
        with record_function(f"ours::{name}"):
            return function(*arguments, **options)

    return run


def shares(work: Work, calls: int = 5) -> dict[str, float]:
    """Percent of the time, largest first; what is below half a percent is one row."""
    originals = {name: getattr(hitnet, name) for name in OURS}
    for name, function in originals.items():
        setattr(hitnet, name, named(name, function))
    try:
        work()
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for _ in range(calls):
                work()
    finally:
        for name, function in originals.items():
            setattr(hitnet, name, function)
    parts: Counter[str] = Counter()
    for event in found.key_averages():
        convolution = "conv" in event.key and event.key.startswith("aten::")
        parts["convolutions" if convolution else event.key] += event.self_cpu_time_total
    total = sum(parts.values())
    kept = {name: round(100 * value / total, 1) for name, value in parts.most_common() if value > 0.005 * total}
    return kept | {"everything else": round(100 - sum(kept.values()), 1)}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hitnet.scenes")
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--max-disparity", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    keep_large_blocks()
    width, height = map(int, options.size.split("x"))
    ours = {
        dtype: prepare(Contender(options.model, "torch", dtype, options.max_disparity), (width, height))
        for dtype in ("float32", "bfloat16")
    }
    reference = without_kernels(ours["float32"])
    classical = prepare(Contender("sgbm-hh", "opencv", "uint8"), (width, height))
    times = clocked(ours | {"reference float32": reference, "sgbm-hh": classical}, options.repeats)
    result = {
        "model": options.model,
        "size": options.size,
        "max_disparity": options.max_disparity,
        "threads": torch.get_num_threads(),
        "ms": times,
        "ratio_to_sgbm_hh": {name: round(value / times["sgbm-hh"], 2) for name, value in times.items()},
        "times_faster_than_reference": {name: round(times["reference float32"] / times[name], 2) for name in ours},
        "percent": {dtype: shares(work) for dtype, work in ours.items()},
    }
    path = Path(__file__).parent / "results" / "hitnet_speed.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
