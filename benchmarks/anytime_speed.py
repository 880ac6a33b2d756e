"""AnyNet's stages and deadlines by the clock, beside OpenCV's SGBM and HITNet in the same process.

``python benchmarks/anytime_speed.py --data MANIFEST [--group kitti2015]`` writes ``results/anytime_speed.json``:

* stages: milliseconds to the map of each stage on the group's images, of the whole call that makes the last map alone,
  and their ratio to OpenCV's SGBM (3-way, grey, 192 disparities), which ran in turn with it; medians;
* deadlines: 200 frames at each budget, the share of calls that ended within the budget and a tenth, the stages that
  answered, and the error; beside it what SGBM and HITNet reach in the same time, on images made as small as that takes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stereopsis
from stereopsis.data.manifests import read_manifest, read_truth
from stereopsis.evaluation.metrics import disparity_metrics
from stereopsis.geometry.holes import fill_from_background
from stereopsis.io import read_image
from stereopsis.ops.memory import keep_large_blocks
from stereopsis.types import Disparity

BUDGETS = (0.020, 0.040, 0.080)
PAUSE = 0.02  # lets the threads of one library come to rest before another's start
SCALES = (1.0, 0.75, 0.5, 0.375, 0.25)
Frame = tuple[Tensor, Tensor, Tensor, Tensor]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def stage_times(model: nn.Module, frames: list[Frame], repeats: int) -> dict[str, Any]:
    """Medians of the time to each stage's map, of the whole call, and of OpenCV's bare call on the same grey views."""
    cv2.setNumThreads(torch.get_num_threads())
    sgbm = cv2.StereoSGBM_create(0, 192, 5, 600, 2400, 1, 0, 10, 100, 2, cv2.STEREO_SGBM_MODE_SGBM_3WAY)
    rows: list[list[float]] = []
    classical = []
    for number in range(repeats + 10):
        left, right, *_ = frames[number % len(frames)]
        grey = [(255 * view[0].mean(0)).byte().numpy() for view in (left, right)]
        time.sleep(PAUSE)
        taken = seconds(lambda grey=grey: sgbm.compute(*grey))
        time.sleep(PAUSE)
        start = time.perf_counter()
        times = [time.perf_counter() - start for _ in model.stages(left, right)]
        time.sleep(PAUSE)
        times.append(seconds(lambda views=(left, right): model(*views)))
        if number >= 10:  # the first calls warm up
            rows.append(times)
            classical.append(taken)
    medians = [1000 * median(column) for column in zip(*rows, strict=True)]
    reference = 1000 * median(classical)
    names = ("stage 1", "stage 2", "stage 3", "stage 4", "whole call")
    return {
        "ms": {name: round(value, 1) for name, value in zip(names, medians, strict=True)},
        "sgbm_ms": round(reference, 1),
        "ratio": {name: round(value / reference, 3) for name, value in zip(names, medians, strict=True)},
    }


def errors(found: Disparity, frame: Frame) -> dict[str, float]:
    _, _, truth, known = frame
    return disparity_metrics(found.disparity, truth, known, found.valid)


def within_budget(model: nn.Module, frames: list[Frame], budget: float, calls: int) -> dict[str, Any]:
    """What the deadline gives over a sequence, after ten frames that teach the model its costs."""
    taken, stages, rows = [], Counter(), []
    for number in range(calls + 10):
        frame = frames[number % len(frames)]
        start = time.perf_counter()
        found = model(frame[0], frame[1], budget=budget)
        end = time.perf_counter() - start
        if number >= 10:
            taken.append(end)
            stages[found.stage] += 1
            rows.append(errors(found, frame))
    return {
        "in_time": sum(t <= 1.1 * budget for t in taken) / calls,
        "median_ms": round(1000 * median(taken), 1),
        "stages": {str(stage): count for stage, count in sorted(stages.items())},
        **{key: round(fmean(row[key] for row in rows), 3) for key in ("epe", "bad3")},
    }


def shrunk(model: nn.Module, frame: Frame, scale: float) -> Disparity:
    """The matcher on smaller images, its map brought back to full size."""
    left, right, *_ = frame
    size = left.shape[-2:]
    if scale < 1:
        left, right = (F.interpolate(v, scale_factor=scale, mode="area") for v in (left, right))
    found = fill_from_background(model(left, right, max_disparity=round(192 * scale)))
    if scale == 1:
        return found
    d = F.interpolate(found.disparity, size=size, mode="bilinear") * (size[1] / found.disparity.shape[-1])
    return Disparity(d, torch.ones_like(d, dtype=torch.bool), torch.ones_like(d))


def same_time(model: nn.Module, frames: list[Frame], budget: float) -> dict[str, Any] | None:
    """The largest scale that fits into the budget (median), and its error; None where none fits."""
    for scale in SCALES:
        times = [seconds(lambda s=scale, f=frame: shrunk(model, f, s)) for frame in [frames[0], *frames[:8]]][1:]
        if median(times) <= budget:
            rows = [errors(shrunk(model, frame, scale), frame) for frame in frames]
            means = {key: round(fmean(row[key] for row in rows), 3) for key in ("epe", "bad3")}
            return {"scale": scale, "median_ms": round(1000 * median(times), 1), **means}
    return None


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--group", default="kitti2015")
    parser.add_argument("--model", default="anynet.scenes")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--calls", type=int, default=200)
    options = parser.parse_args()
    keep_large_blocks()
    dtype = getattr(torch, options.dtype)
    pairs = [pair for pair in read_manifest(options.data) if pair.group == options.group]
    frames = [(read_image(p.left)[None], read_image(p.right)[None], *read_truth(p)) for p in pairs]
    model, sgbm = stereopsis.load(options.model, dtype=dtype), stereopsis.load("sgbm")
    hitnet = stereopsis.load("hitnet.scenes", dtype=dtype)
    result: dict[str, Any] = {
        "model": options.model,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "sizes": sorted({f"{f[0].shape[-1]}x{f[0].shape[-2]}" for f in frames}),
        "stages": stage_times(model, frames, options.repeats),
        "deadlines": {
            f"{1000 * budget:.0f} ms": {
                options.model: within_budget(model, frames, budget, options.calls),
                "sgbm": same_time(sgbm, frames, budget),
                "hitnet.scenes": same_time(hitnet, frames, budget),
            }
            for budget in BUDGETS
        },
    }
    path = Path(__file__).parent / "results" / "anytime_speed.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
