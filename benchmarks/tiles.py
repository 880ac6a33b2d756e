"""Tiles against the whole: how far a network looks, and one large pair matched both ways.

``python benchmarks/tiles.py LEFT RIGHT [--models hitnet.scenes:bfloat16,anynet.scenes] [--max-disparity 256]`` merges
into ``results/tiles.json``, for each model:

* ``context``: mean difference in px of the pair's map from that of its lower and of its upper half, by distance from
  the cut;
* ``large``: the pair enlarged to ``--megapixels``, in one piece and in tiles, each in a process of its own: seconds,
  megabytes above the import of torch at most, the difference of the maps, and the mean step from row to row or column
  to column, where tiles fade into each other and everywhere.

``--pictures FOLDER`` keeps the two maps in colour, side by side with their difference (white: 8 px).
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stereopsis
from stereopsis.io import read_image, write_image
from stereopsis.matching.tiling import BLEND, GRID, LARGEST, TiledMatcher, cheapest, spans
from stereopsis.ops.memory import keep_large_blocks
from stereopsis.visualization import colorize, side_by_side

RESULTS = Path(__file__).parent / "results" / "tiles.json"
DISTANCES = (0, 8, 32, 64, 96, 128, 192, 256, 320)


def megabytes(field: str) -> float:
    """Of this process, now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def loaded(word: str) -> nn.Module:
    name, _, dtype = word.partition(":")
    return stereopsis.load(name, dtype=getattr(torch, dtype) if dtype else None)


def views(options: argparse.Namespace) -> list[Tensor]:
    found = [read_image(path)[None] for path in (options.left, options.right)]
    if options.scale is None:
        return found
    return [F.interpolate(view, scale_factor=options.scale, mode="bicubic").clamp(0, 1) for view in found]


def context(model: nn.Module, left: Tensor, right: Tensor, max_disparity: int) -> dict[str, list[float]]:
    whole = model(left, right, max_disparity=max_disparity).disparity
    cut = left.shape[-2] // 2 // GRID * GRID
    found = {}
    for name, rows in (("above is missing", slice(cut, None)), ("below is missing", slice(cut))):
        part = model(left[..., rows, :], right[..., rows, :], max_disparity=max_disparity).disparity
        difference = (part - whole[..., rows, :]).abs().mean((0, 1, 3))
        difference = difference if rows.start else difference.flip(0)
        ends = [(a, b) for a, b in itertools.pairwise(DISTANCES) if b <= len(difference)]
        found[name] = [round(difference[a:b].mean().item(), 3) for a, b in ends]
    return found


@torch.inference_mode()
def match_large(options: argparse.Namespace) -> None:
    """The child: matches once, and keeps the map."""
    before = megabytes("VmRSS")
    keep_large_blocks()
    left, right = views(options)
    matcher = TiledMatcher(loaded(options.models), options.tile)
    start = time.perf_counter()
    found = matcher(left, right, max_disparity=options.max_disparity)
    seconds = round(time.perf_counter() - start, 1)
    torch.save((found.disparity, found.valid), options.keep)
    print(json.dumps({"seconds": seconds, "peak_mb": round(megabytes("VmHWM") - before)}))


def large(word: str, options: argparse.Namespace, size: torch.Size) -> dict[str, Any]:
    scale = (options.megapixels * 1e6 / (size[0] * size[1])) ** 0.5
    reach = round(options.max_disparity * scale)
    rows: dict[str, Any] = {}
    maps = []
    with TemporaryDirectory() as folder:
        for name, tile in (("whole", ["--tile", "0"]), ("tiles", [])):
            keep = f"{folder}/{name}.pt"
            command = [__file__, options.left, options.right, "--models", word, "--max-disparity", str(reach)]
            command += ["--scale", str(scale), "--keep", keep, *tile]
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
            rows[name] = json.loads(done.stdout)
            maps.append(torch.load(keep))
    (whole, known), (tiled, valid) = maps
    height, width = whole.shape[-2:]
    parts = cheapest(height, width, reach, LARGEST)
    difference = (whole - tiled).abs()[known & valid]
    rows |= {
        "size": f"{width}x{height}",
        "max_disparity": reach,
        "rows_and_columns": parts,
        "mean_difference": round(difference.mean().item(), 4),
        "above_1_px": round((difference > 1).float().mean().item(), 4),
        "steps": {name: steps(values, parts, reach) for name, values in (("whole", whole), ("tiles", tiled))},
    }
    if options.pictures:
        ends = (0, torch.quantile(whole.flatten()[::97], 0.99).item())
        gap = (255 * ((whole - tiled).abs()[0, 0] / 8).clamp(max=1)).byte().numpy()
        picture = side_by_side(colorize(whole, known, *ends), colorize(tiled, valid, *ends), gap)
        options.pictures.mkdir(parents=True, exist_ok=True)
        write_image(options.pictures / f"{word.partition(':')[0]}.png", picture)
    return rows


def steps(values: Tensor, parts: tuple[int, int], reach: int) -> dict[str, float]:
    """Mean absolute step to the next row or column: in the pixels where tiles fade, on their borders, everywhere."""
    found: dict[str, list[Tensor]] = {"fading": [], "borders": [], "everywhere": []}
    for dim, number, before in ((-2, parts[0], 0), (-1, parts[1], reach)):
        if number == 1:
            continue
        step = values.diff(dim=dim).abs().mean((0, 1, 3 if dim == -2 else 2))
        length = values.shape[dim]
        starts = [span.kept[0] for span in spans(length, number, before, from_end=dim == -1)[1:]]
        found["fading"] += [step[start : start + 2 * BLEND] for start in starts]
        found["borders"] += [step[[start - 1, start + 2 * BLEND - 1]] for start in starts]
        found["everywhere"].append(step)
    return {name: round(torch.cat(lines).mean().item(), 3) for name, lines in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("left")
    parser.add_argument("right")
    parser.add_argument("--models", default="hitnet.scenes:bfloat16,anynet.scenes")
    parser.add_argument("--max-disparity", type=int, default=256)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--keep", help=argparse.SUPPRESS)
    parser.add_argument("--scale", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--tile", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.keep:
        match_large(options)
        return
    left, right = views(options)
    for word in options.models.split(","):
        with torch.inference_mode():
            row = {"distances": DISTANCES, "context": context(loaded(word), left, right, options.max_disparity)}
        row |= {"threads": torch.get_num_threads(), "large": large(word, options, left.shape[-2:])}
        known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        RESULTS.write_text(json.dumps(known | {word: row}, indent=1) + "\n")
        print(json.dumps({word: row}, indent=1))


if __name__ == "__main__":
    main()
