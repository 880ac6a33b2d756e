"""Does a file decode to what was encoded, on other settings too, and is it as long as the model says?

``codec_agreement.py --data MANIFEST [--qualities 1,4.5,8] [--every N] CODEC[=WEIGHTS] ...`` codes every pair. It is
decoded as usual, and once more with one thread and without oneDNN; a decoder that found other symbols than the
encoder's would refuse the file by its checksum. ``results/codec_agreement.json`` has, for each codec, the largest
difference of the two pictures (of 8 bits) and of the first to the model's own reconstruction, which rounds in floating
point, and by how much the file is longer than the model's estimate, with its headers and without.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import stereopsis
from stereopsis.compression.bitstream import Reader
from stereopsis.compression.codec import PairCodec
from stereopsis.compression.hyperprior import Hyperprior
from stereopsis.data.manifests import BenchmarkPair, read_manifest
from stereopsis.io import read_image
from stereopsis.ops.memory import keep_large_blocks
from stereopsis.types import StereoPair


@torch.inference_mode()
def compare(codec: PairCodec, pair: BenchmarkPair, quality: float) -> dict[str, float]:
    """One pair at one quality."""
    left, right = (read_image(path)[None] for path in (pair.left, pair.right))
    content = codec.compress(StereoPair(left, right), quality)
    decoded = _views(codec.decompress(content))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with torch.backends.mkldnn.flags(enabled=False):
            other = _views(codec.decompress(content))
    finally:
        torch.set_num_threads(threads)
    if isinstance(codec, Hyperprior):
        outputs = [codec(view, quality) for view in (left, right)]
        own, bits = torch.cat([output.x_hat for output in outputs]), sum(output.bits.sum().item() for output in outputs)
    else:
        output = codec(left, right, quality)
        own, bits = output.x_hat, output.bits.sum().item()
    payload = sum(len(stream.payload) for stream in Reader(content).record(0).streams)
    return {
        "between_settings": (decoded - other).abs().max().item(),
        "to_model": (decoded - own.clamp(0, 1)).abs().max().item(),
        "file": 100 * (8 * len(content) / bits - 1),
        "payload": 100 * (8 * payload / bits - 1),
    }


def _views(decoded: Any) -> torch.Tensor:
    assert isinstance(decoded, StereoPair)
    return torch.cat([decoded.left, decoded.right])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codecs", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--qualities", default="1,4.5,8")
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    keep_large_blocks()
    pairs = read_manifest(options.data)[:: options.every]
    path = Path(__file__).parent / "results" / "codec_agreement.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for word in options.codecs:
        name, _, weights = word.partition("=")
        codec = stereopsis.load(name, weights=weights or None)
        assert isinstance(codec, PairCodec)
        rows = {}
        for quality in map(float, options.qualities.split(",")):
            found = [compare(codec, pair, quality) for pair in pairs]
            rows[f"{quality:g}"] = {
                "pairs": len(found),
                "largest_difference_between_settings": max(row["between_settings"] for row in found),
                "largest_difference_to_model": max(row["to_model"] for row in found),
                "payload_percent_longer": {
                    "mean": round(fmean(row["payload"] for row in found), 3),
                    "most": round(max(row["payload"] for row in found), 3),
                },
                "file_percent_longer": {
                    "mean": round(fmean(row["file"] for row in found), 3),
                    "most": round(max(row["file"] for row in found), 3),
                },
            }
            print(name, quality, json.dumps(rows[f"{quality:g}"]), flush=True)
        results[name] = rows
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
