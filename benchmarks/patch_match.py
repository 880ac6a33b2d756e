"""Stereo patch matching by the clock: the kernel and the reference in turn, in one process.

``python benchmarks/patch_match.py`` writes ``results/patch_match.json``: for features of 128 x 416 x 512 and patches
of 16 x 16 (FFCA-Net's Table 4) the median milliseconds of both, how many patches they answer differently, and the
megabytes that a call in a process of its own needed beyond its inputs; and what laying the patches takes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from stereopsis.ops.memory import keep_large_blocks
from stereopsis.ops.patch_match import patch_match, patch_match_reference, take_patches

CHANNELS, HEIGHT, WIDTH, SIZE = 128, 416, 512, 16
SHIFT = 24
PAUSE = 0.05  # lets the threads come to rest
OPERATORS = {"kernel": patch_match, "reference": patch_match_reference}


def views() -> tuple[Tensor, Tensor]:
    """Rectified noise, as features are, and the same shifted."""
    scene = torch.randn(1, CHANNELS, HEIGHT, WIDTH + SHIFT, generator=torch.Generator().manual_seed(0)).relu()
    return scene[..., :WIDTH].contiguous(), scene[..., SHIFT:].contiguous()


def resident() -> dict[str, float]:
    """Megabytes of this process: now, and at most."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return {line[:5]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}


def peak(name: str) -> float:
    """What a call adds to this process at most."""
    target, side = views()
    OPERATORS[name](target[:, :1, :SIZE, :64].contiguous(), side[:, :1, :SIZE, :64].contiguous(), SIZE)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the highest mark starts anew
    before = resident()["VmRSS"]
    OPERATORS[name](target, side, SIZE)
    return resident()["VmHWM"] - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--peak", choices=OPERATORS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak(options.peak))
        return
    memory = {}
    for name in OPERATORS:
        command = [sys.executable, __file__, "--peak", name]
        memory[name] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    keep_large_blocks()
    target, side = views()
    found, expected = (operator(target, side, SIZE) for operator in OPERATORS.values())
    taken = take_patches(side, found, SIZE)
    inside = slice(-(-SHIFT // SIZE) * SIZE, WIDTH)
    assert torch.equal(taken[..., inside], target[..., inside])
    assert F.l1_loss(taken, side) > 0
    work = {name: lambda operator=operator: operator(target, side, SIZE) for name, operator in OPERATORS.items()}
    work["take_patches"] = lambda: take_patches(side, found, SIZE)
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.repeats):
        for name, call in work.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    result = {
        "threads": torch.get_num_threads(),
        "features": [CHANNELS, HEIGHT, WIDTH],
        "patch": SIZE,
        "ms": {name: round(1000 * median(values), 1) for name, values in times.items()},
        "different_patches": int((found != expected).sum()),
        "patches": found.numel(),
        "inputs_mb": round(2 * target.numel() * 4 / 2**20),
        "peak_mb": {name: round(value) for name, value in memory.items()},
    }
    result["times_faster"] = round(result["ms"]["reference"] / result["ms"]["kernel"], 1)
    path = Path(__file__).parent / "results" / "patch_match.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
