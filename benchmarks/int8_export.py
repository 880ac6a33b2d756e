"""HITNet's graph in 8 bits beside the one in float32: accuracy on real pairs, and time beside torch.

``python benchmarks/int8_export.py --data MANIFEST [--format openvino] [--every 2]`` exports both graphs for 640x480,
takes every N-th pair of the manifest that is no larger, its views continued on the right and below, and merges into
``results/int8_export.json``: mean errors over the pairs in torch and in 8 bits, on them and on rendered scenes, and
milliseconds of both graphs and of torch in float32 and bfloat16, medians of calls in turn.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import stereopsis
from stereopsis.data.manifests import BenchmarkPair, read_manifest, read_truth
from stereopsis.data.patterns import pattern_pair
from stereopsis.evaluation.speed import PAUSE
from stereopsis.export import Stored, export_model
from stereopsis.export.int8 import Truth, Views, cost_of
from stereopsis.export.matcher import GraphMatcher
from stereopsis.export.runtimes import RUNTIMES, Format
from stereopsis.io import read_image
from stereopsis.ops.memory import keep_large_blocks
from stereopsis.zoo import get_entry

RESULTS = Path(__file__).parent / "results" / "int8_export.json"
HEIGHT, WIDTH = 480, 640
DTYPES: tuple[Stored, ...] = ("int8", "float32")


def fitting(pairs: Sequence[BenchmarkPair]) -> Iterator[tuple[Views, Truth]]:
    """Pairs no larger than the graph, at its size."""
    for pair in pairs:
        views = [read_image(path)[None] for path in (pair.left, pair.right)]
        height, width = views[0].shape[-2:]
        if height > HEIGHT or width > WIDTH:
            continue
        sides = (0, WIDTH - width, 0, HEIGHT - height)
        left, right = (F.pad(view, sides, "replicate") for view in views)
        truth, known = (F.pad(values.float(), sides) for values in read_truth(pair))
        yield (left, right), (truth, known > 0)


@torch.inference_mode()
def clocked(models: dict[str, nn.Module], max_disparity: int, repeats: int) -> dict[str, float]:
    """Milliseconds, medians of calls in turn after two of each."""
    left, right = pattern_pair(HEIGHT, WIDTH)
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(repeats + 2):
        for name, model in models.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            model(left, right, max_disparity=max_disparity)
            if number > 1:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: round(median(values), 1) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--format", choices=("onnx", "openvino"), default="openvino")
    parser.add_argument("--model", default="hitnet.scenes")
    parser.add_argument("--max-disparity", type=int, default=128)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    keep_large_blocks()
    format: Format = options.format
    entry, model = get_entry(options.model), stereopsis.load(options.model, dtype=torch.float32)
    graphs: dict[str, nn.Module] = {}
    result: dict[str, Any] = {"model": options.model, "size": f"{WIDTH}x{HEIGHT}"}
    result |= {"max_disparity": options.max_disparity, "threads": torch.get_num_threads()}
    for dtype in DTYPES:
        with TemporaryDirectory() as folder:
            size, limit = (HEIGHT, WIDTH), options.max_disparity
            done = export_model(entry, model, folder, format=format, size=size, max_disparity=limit, dtype=dtype)
            graphs[dtype] = GraphMatcher(done.description, RUNTIMES[format])
        if dtype == "int8":
            pairs = fitting(read_manifest(options.data)[:: options.every])
            costs = [*done.costs, cost_of("real pairs", model, graphs["int8"], pairs, options.max_disparity)]
            keep(format, result | {"costs": [cost.as_dict() for cost in costs]})
    contenders = {f"{RUNTIMES[format]} {dtype}": graph for dtype, graph in graphs.items()}
    contenders["torch float32"] = model
    contenders["torch bfloat16"] = stereopsis.load(options.model, dtype=torch.bfloat16)
    keep(format, {"ms": clocked(contenders, options.max_disparity, options.repeats)})


def keep(format: Format, result: dict[str, Any]) -> None:
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    known[format] = known.get(format, {}) | result
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
