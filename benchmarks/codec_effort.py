"""What more effort of the encoder saves, and the time it takes, with whole files.

``codec_effort.py --data MANIFEST [--every N] [--crop 512x256] [CODEC ...]`` codes the middle of the left view of every
N-th KITTI and Middlebury pair at four qualities with each effort, and writes ``results/codec_effort.json``: for each
effort the BD-rate against effort 0 (PSNR, mean over images) and the processor time of encoding a megapixel. A codec
is a registered name or NAME=WEIGHTS.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from statistics import fmean

import torch
from jaxtyping import Float
from readme_table import data_set
from torch import Tensor

import stereopsis
from stereopsis.compression.codec import PairCodec
from stereopsis.compression.effort import EFFORTS
from stereopsis.data.manifests import read_manifest
from stereopsis.evaluation.compression import bd_rate
from stereopsis.io import read_image
from stereopsis.io.atomic import atomic_write

SETS = ("KITTI", "Middlebury")
QUALITIES = (2.0, 3.5, 5.0, 6.5)
RESULTS = Path(__file__).parent / "results" / "codec_effort.json"


def middle(image: Float[Tensor, "3 h w"], size: tuple[int, int]) -> Float[Tensor, "1 3 h w"]:
    """The middle of an image, at most this high and wide."""
    (top, rows), (left, columns) = (
        ((whole - min(whole, side)) // 2, min(whole, side)) for whole, side in zip(image.shape[1:], size, strict=True)
    )
    return image[None, :, top : top + rows, left : left + columns].contiguous()


def curve(codec: PairCodec, view: Tensor, effort: int) -> tuple[list[float], list[float], float]:
    """Bits a pixel and PSNR in dB at each quality, and the processor seconds of encoding a megapixel."""
    rates, qualities, seconds = [], [], 0.0
    pixels = view[0, 0].numel()
    for quality in QUALITIES:
        start = time.process_time()
        content = codec.compress(view, quality, effort=effort)
        seconds += time.process_time() - start
        decoded = codec.decompress(content)
        assert isinstance(decoded, Tensor)
        rates.append(8 * len(content) / pixels)
        qualities.append(-10 * math.log10((decoded - view).square().mean().item()))
    return rates, qualities, 1e6 * seconds / pixels / len(QUALITIES)


def measure(word: str, views: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """BD-rates and times of one codec, by effort."""
    name, _, weights = word.partition("=")
    codec = stereopsis.load(name, weights=weights or None)
    assert isinstance(codec, PairCodec)
    saved: list[list[float]] = [[] for _ in range(EFFORTS)]
    times: list[list[float]] = [[] for _ in range(EFFORTS)]
    for number, (image, view) in enumerate(views.items(), start=1):
        curves = [curve(codec, view, effort) for effort in range(EFFORTS)]
        for effort, (rates, qualities, seconds) in enumerate(curves):
            found = bd_rate(curves[0][0], curves[0][1], rates, qualities)
            assert found is not None
            saved[effort].append(found)
            times[effort].append(seconds)
        print(f"{name}: {number} of {len(views)}, {image}, {[round(part[-1], 1) for part in saved]} %", flush=True)
    return {
        str(effort): {
            "bd_rate_psnr": round(fmean(saved[effort]), 2),
            "seconds_megapixel": round(fmean(times[effort]), 2),
        }
        for effort in range(EFFORTS)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("codecs", nargs="*", default=["hyperprior.photos"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--every", type=int, default=6)
    parser.add_argument("--crop", default="512x256")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    width, height = map(int, arguments.crop.split("x"))
    pairs = [pair for pair in read_manifest(arguments.data) if data_set(pair.group) in SETS][:: arguments.every]
    views = {pair.id: middle(read_image(pair.left), (height, width)) for pair in pairs}
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for word in arguments.codecs:
        found = {"crop": arguments.crop, "images": list(views), "efforts": measure(word, views)}
        known[word.partition("=")[0]] = found
    with atomic_write(RESULTS) as file:
        file.write((json.dumps(known, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
