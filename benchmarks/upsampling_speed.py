"""DKN and FDKN by the clock, beside the same weights run as the authors' code runs them, in the same process.

``python benchmarks/upsampling_speed.py [--models fdkn_x8 dkn_x8] [--size 640x480]`` writes
``results/upsampling_speed.json``, for each model and arithmetic: the median milliseconds of a call and of the eager
one, which ran in turn with it, their ratio, the largest difference of their maps, and the megabytes that a call in a
process of its own needed beyond what the imports and the model took.

The eager version pads the map into patches of 15 x 15 pixels a pixel and samples them with ``grid_sample``; DKN's makes
sixteen passes over shifted inputs. It counts what lies outside as 0, so that ours is told to do so too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stereopsis
from stereopsis.ops.memory import keep_large_blocks
from stereopsis.upsampling.dkn import AFTER, BEFORE, DKN, STRIDE, DKNStream, Stream
from stereopsis.zoo import get_entry

DTYPES = ("float32", "bfloat16")
PAUSE = 0.05  # lets the threads come to rest


def scene(width: int, height: int) -> tuple[Tensor, Tensor]:
    """An image, and a depth map in metres."""
    generator = torch.Generator().manual_seed(0)
    image, depth = (torch.rand(1, c, height // 8, width // 8, generator=generator) for c in (3, 1))
    image, depth = (F.interpolate(t, size=(height, width), mode="bilinear") for t in (image, depth))
    return image, 1 + 4 * depth


def loaded(name: str, dtype: str) -> DKN:
    """A model, with random weights where it has none: they take as long."""
    torch.manual_seed(0)
    entry = get_entry(name)
    model = entry.build() if entry.weights_file is None else stereopsis.load(name)
    assert isinstance(model, DKN)
    model.compute_dtype = getattr(torch, dtype)
    model.config = replace(model.config, zeros_outside=True)
    return model.eval()


def plain(block: nn.Module, x: Tensor) -> Tensor:
    """A block layer by layer."""
    assert isinstance(block, nn.Sequential)
    for layer in block:
        x = layer(x)
    return x


def eager_stream(stream: Stream, x: Tensor) -> Tensor:
    """Weights and offsets of every pixel."""
    if not isinstance(stream, DKNStream):
        x = F.pixel_unshuffle(x, STRIDE)
        for block in stream.layers:
            x = plain(block, x)
        return F.pixel_shuffle(stream.head(x), STRIDE)
    out = x.new_empty(x.shape[0], stream.head.out_channels, *x.shape[-2:])
    after = AFTER - STRIDE + 1
    for i in range(STRIDE):
        for j in range(STRIDE):
            y = F.pad(x, (BEFORE - j, after + j, BEFORE - i, after + i))
            for name in ("conv1", "down1", "conv2", "down2", "conv3", "conv4", "conv5"):
                y = plain(getattr(stream, name), y)
            out[..., i::STRIDE, j::STRIDE] = stream.head(y)
    return out


def eager(model: DKN, image: Tensor, depth: Tensor) -> Tensor:
    """The map that the authors' way of computing gives; sizes are multiples of 4."""
    low, high = depth.min(), depth.max()
    target = (depth - low) / (high - low)
    maps = eager_stream(model.depth_stream, target)
    assert model.image_stream is not None
    guide = eager_stream(model.image_stream, model._guidance(image))
    k2, window, (b, _, h, w) = model.config.kernel_size**2, model.config.window, target.shape
    weights = maps[:, :k2].sigmoid() * guide[:, :k2].sigmoid()
    shifts = model.grid + maps[:, k2:] * guide[:, k2:]
    weights = (
        weights - weights.mean(1, keepdim=True) if model.config.residual else weights / weights.sum(1, keepdim=True)
    )
    patches = F.unfold(target, window, padding=window // 2)
    patches = patches.view(b, window, window, h * w).permute(0, 3, 1, 2).reshape(b * h * w, 1, window, window)
    grid = shifts.view(b, k2, 2, h * w).permute(0, 3, 1, 2).reshape(b * h * w, k2, 1, 2)
    samples = F.grid_sample(patches, grid / (window // 2), align_corners=True)
    result = (samples.view(b, h, w, k2).permute(0, 3, 1, 2) * weights).sum(1, keepdim=True)
    return (target + result if model.config.residual else result) * (high - low) + low


def clocked(model: DKN, other: DKN, image: Tensor, depth: Tensor, repeats: int) -> dict[str, Any]:
    """Ours and the eager way in turn, after one call of each."""
    difference = (model(image, depth).depth - eager(other, image, depth)).abs().max().item()
    times: list[list[float]] = []
    for _ in range(repeats):
        row = []
        for work in (lambda: model(image, depth), lambda: eager(other, image, depth)):
            time.sleep(PAUSE)
            start = time.perf_counter()
            work()
            row.append(time.perf_counter() - start)
        times.append(row)
    ours, theirs = (1000 * median(column) for column in zip(*times, strict=True))
    return {
        "ms": round(ours, 1),
        "eager_ms": round(theirs, 1),
        "times_faster": round(theirs / ours, 2),
        "largest_difference": float(f"{difference:.2g}"),
    }


def resident() -> dict[str, float]:
    """Megabytes of this process: now, and at most."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return {line[:5]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}


def peak(name: str, dtype: str, *size: int) -> float:
    """What one call adds to this process at most."""
    model, views = loaded(name, dtype), scene(*size)
    before = resident()["VmRSS"]
    model(*views)
    return resident()["VmHWM"] - before


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["fdkn_x8", "dkn_x8"])
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--repeats", type=int, default=15, help="of FDKN; DKN runs three times")
    parser.add_argument("--peak", nargs=2, metavar=("MODEL", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    if options.peak:
        print(peak(*options.peak, width, height))
        return
    result: dict[str, Any] = {"threads": torch.get_num_threads(), "size": options.size, "models": {}}
    command = [sys.executable, __file__, "--size", options.size, "--peak"]
    for name in options.models:
        for dtype in DTYPES:
            grown = subprocess.run([*command, name, dtype], capture_output=True, text=True, check=True).stdout
            result["models"].setdefault(name, {})[dtype] = {"peak_mb": round(float(grown))}
    keep_large_blocks()
    for name, rows in result["models"].items():
        for dtype, row in rows.items():
            model = loaded(name, dtype)
            repeats = options.repeats if model.config.fast else 3
            row.update(clocked(model, loaded(name, "float32"), *scene(width, height), repeats))
    path = Path(__file__).parent / "results" / "upsampling_speed.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
