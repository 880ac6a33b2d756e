"""Rate and distortion of codecs over the KITTI and Middlebury pairs: curves, BD-rates, what the second view costs.

``compression_curves.py --data MANIFEST [--every N] [CODER ...]`` measures the named codecs and anchors
anew, keeps what ``results/compression_curves.json`` has of the others, prints tables in Markdown and draws
``docs/pictures/compression_curves.png``. A codec is a registered name or NAME=WEIGHTS; without any name nothing is
measured, and the tables are made of what is there. ``--every 3`` takes every third pair, for all coders alike.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from pictures import save_small
from readme_table import data_set

import stereopsis
from stereopsis.compression.codec import PairCodec
from stereopsis.data.manifests import BenchmarkPair, read_manifest
from stereopsis.evaluation.codecs import ANCHORS, Coder, codec_coder
from stereopsis.evaluation.compression import BD_RATES, curve_of, decibel, rate_between
from stereopsis.io import read_image
from stereopsis.io.atomic import atomic_write
from stereopsis.ops.memory import keep_large_blocks

SETS = ("KITTI", "Middlebury")
QUALITIES = (1, 2, 3, 4, 5, 6, 7, 8)
RESULTS = Path(__file__).parent / "results" / "compression_curves.json"
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "compression_curves.png"

Curves = dict[str, dict[str, Any]]  # of each coder: {"chroma", "unit", "pairs": {id: points}}


def coder_of(word: str) -> Coder:
    """An anchor, or a learned codec."""
    if word in ANCHORS:
        return ANCHORS[word]()
    name, _, weights = word.partition("=")
    codec = stereopsis.load(name, weights=weights or None)
    assert isinstance(codec, PairCodec)
    return codec_coder(codec, QUALITIES)


@torch.inference_mode()
def measure(coder: Coder, pairs: list[BenchmarkPair]) -> dict[str, Any]:
    """The points of every pair."""
    found = {}
    for number, pair in enumerate(pairs, start=1):
        views = [
            np.ascontiguousarray((read_image(p) * 255).round().byte().permute(1, 2, 0)) for p in (pair.left, pair.right)
        ]
        found[pair.id] = curve_of(coder, views)
        print(f"{coder.name}: {number} of {len(pairs)}", flush=True)
    return {"chroma": coder.chroma, "unit": coder.unit, "pairs": found}


def bd_rates(codec: dict[str, Any], anchor: dict[str, Any], ids: list[str], key: str) -> float | None:
    """The mean over pairs; None where no pair has one."""
    rates = [rate_between(anchor["pairs"][i], codec["pairs"][i], *BD_RATES[key]) for i in ids]
    known = [rate for rate in rates if rate is not None]
    return fmean(known) if known else None


def mean_curve(coder: dict[str, Any], ids: list[str], quality: str) -> tuple[list[float], list[float]]:
    """Mean bpp and mean quality in dB of each setting."""
    rows = zip(*(coder["pairs"][i] for i in ids), strict=True)
    scale = decibel if quality == "ms_ssim" else float
    points = [(fmean(p["bpp"] for p in row), fmean(scale(p[quality]) for p in row)) for row in rows]
    x, y = zip(*sorted(points), strict=True)
    return list(x), list(y)


def tables(curves: Curves, sets: dict[str, list[str]]) -> None:
    """BD-rates of the learned codecs, in Markdown."""
    anchors = [name for name in ANCHORS if name in curves]
    learned = [name for name in curves if name not in ANCHORS]
    for codec in learned:
        others = [name for name in learned if name != codec] + anchors
        print(
            f"\n| `{codec}` against | "
            + " | ".join(f"{s}, {k}" for s in sets for k in ("PSNR", "MS-SSIM", "right view"))
            + " |"
        )
        print("|---" * (1 + 3 * len(sets)) + "|")
        for other in others:
            rates = [bd_rates(curves[codec], curves[other], ids, key) for ids in sets.values() for key in BD_RATES]
            print(f"| {other} | " + " | ".join("" if r is None else f"{r:+.1f} %" for r in rates) + " |")
        times = [p for i in sets["KITTI"] for p in curves[codec]["pairs"][i]]
        encode, decode = (fmean(p[f"{way}_seconds"] for p in times) for way in ("encode", "decode"))
        print(f"KITTI: {encode:.2f} s to encode, {decode:.2f} s to decode a pair.")


def draw(curves: Curves, sets: dict[str, list[str]]) -> None:
    """One row a set: PSNR and MS-SSIM over bits a pixel."""
    figure, axes = plt.subplots(len(sets), 2, figsize=(11, 8.5), layout="constrained")
    for row, (name, ids) in zip(axes, sets.items(), strict=True):
        for axis, quality in zip(row, ("psnr", "ms_ssim"), strict=True):
            for coder, curve in curves.items():
                x, y = mean_curve(curve, ids, quality)
                axis.plot(
                    x,
                    y,
                    marker=".",
                    linewidth=1 if coder in ANCHORS else 2,
                    linestyle="--" if coder in ANCHORS else "-",
                    label=coder,
                )
            axis.set(
                xlim=(0, 1.5),
                title=name,
                xlabel="bits a pixel",
                ylabel="PSNR, dB" if quality == "psnr" else "-10 log10(1 - MS-SSIM), dB",
            )
            axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    save_small(figure, PICTURE, dpi=75, colors=64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coders", nargs="*")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    keep_large_blocks()
    pairs = [pair for pair in read_manifest(options.data) if data_set(pair.group) in SETS][:: options.every]
    sets = {name: [pair.id for pair in pairs if data_set(pair.group) == name] for name in SETS}
    for word in options.coders:
        coder = coder_of(word)
        measured = measure(coder, pairs)
        # read again, because another run may have written meanwhile
        curves: Curves = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        curves[coder.name] = measured
        with atomic_write(RESULTS) as partial:
            partial.write((json.dumps(curves) + "\n").encode())
    curves = json.loads(RESULTS.read_text())
    tables(curves, sets)
    draw(curves, sets)


if __name__ == "__main__":
    main()
