"""The Triton kernels on a GPU: each compared with its reference, and HITNet by the clock.

``python benchmarks/gpu_speed.py [--size 1280x384] [--max-disparity 256]`` writes ``results/gpu_speed.json``: of each
kernel the largest difference from its reference, on inputs as large as those of the networks at this size, and the time
of both; of HITNet, for each precision, the time of a call with the references, with the kernels, and with the kernels
as a CUDA graph, and the mean difference of its map from that of the references in float32. Times are medians in ms.

A kernel that is not what its reference is ends the run before anything is written, and so does a missing GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from stereopsis.data.patterns import pattern_pair
from stereopsis.ops import cost_volume, kernel_average, patch_match, propagation, tile_match, tile_warp, triton
from stereopsis.zoo import load

Work = Callable[[], Any]
TOLERANCE = 1e-3


@contextmanager
def references() -> Iterator[None]:
    """Within it the operators do without the kernels."""
    with patch.object(triton, "usable", lambda *tensors: False):
        yield


def operators(width: int, height: int, max_disparity: int, device: str) -> dict[str, tuple[Work, bool]]:
    """Of each kernel a call, and whether it must agree exactly, as its features are integers."""
    torch.manual_seed(0)

    def integers(*shape: int) -> Tensor:
        return torch.randint(-3, 4, shape).float().to(device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape).to(device)

    tiles = integers(1, 16, height // 4, width // 4), integers(1, 16, height // 4, width)
    features = integers(1, 16, height, width), integers(1, 16, height, width)
    slanted = (torch.randint(0, 4 * max_disparity, (1, 1, height, width)) / 4).to(device)
    quarter = integers(1, 8, height // 4, width // 4), integers(1, 8, height // 4, width // 4)
    coarse = slanted[..., : height // 4, : width // 4].contiguous() / 4
    scan = normal(1, 8, height // 4, width // 4), normal(1, 3, 8, height // 4, width // 4)
    depth = normal(1, 1, height, width), normal(1, 9, height, width).abs(), 3 * normal(1, 18, height, width)
    views = integers(1, 32, height // 4, width // 4), integers(1, 32, height // 4, width // 4)

    def gradients() -> tuple[Tensor, ...]:
        inputs = [t.detach().requires_grad_() for t in (*features, slanted)]
        return torch.autograd.grad(tile_warp.tile_warp_cost(*inputs).sum(), inputs)

    def scan_gradients() -> tuple[Tensor, ...]:
        x, gates = (t.detach().requires_grad_() for t in scan)
        return torch.autograd.grad(propagation.propagate(x, gates, normalize=True).sum(), (x, gates))

    return {
        "tile_match": (lambda: tile_match.tile_match(*tiles, max_disparity), True),
        "tile_warp_cost": (lambda: tile_warp.tile_warp_cost(*features, slanted), True),
        "tile_warp_cost, gradients": (gradients, True),
        "propagate": (lambda: propagation.propagate(*scan, normalize=True), False),
        "propagate, gradients": (scan_gradients, False),
        "kernel_average": (lambda: kernel_average.kernel_average(*depth), False),
        "patch_match": (lambda: patch_match.patch_match(*views, 16), True),
        "absolute_volume": (lambda: cost_volume.absolute_volume(*quarter, 12), True),
        "residual_volume": (lambda: cost_volume.residual_volume(*quarter, coarse, 2), True),
    }


def difference(found: Any, expected: Any) -> float:
    """The largest, of one tensor or several; relative to the largest number where that is above 1."""
    if isinstance(found, Tensor):
        return float((found.double() - expected.double()).abs().max() / expected.abs().max().clamp(min=1))
    return max(difference(*pair) for pair in zip(found, expected, strict=True))


def compared(name: str, work: Work, exact: bool) -> float:
    """The largest difference between kernel and reference.

    Raises:
        ValueError: it is larger than rounding explains.
    """
    found = work()
    with references():
        expected = work()
    apart = difference(found, expected)
    if not apart <= (0 if exact else TOLERANCE):  # also where it is no number
        raise ValueError(f"{name} differs from its reference by {apart}; {0 if exact else TOLERANCE} is allowed.")
    return apart


def clocked(work: Work, repeats: int) -> float:
    """Median milliseconds on the GPU, after a tenth as many calls that do not count."""
    times = []
    for number in range(repeats + repeats // 10 + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        if number > repeats // 10:
            times.append(start.elapsed_time(end))
    return round(median(times), 3)


def graphed(work: Work) -> tuple[Work, Any]:
    """A call as a CUDA graph, and the result that each replay writes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph.replay, result


@torch.inference_mode()
def hitnet(model: str, width: int, height: int, max_disparity: int, repeats: int) -> dict[str, Any]:
    """One row a precision."""
    left, right = (view.cuda() for view in pattern_pair(height, width))
    with references():
        exact = load(model, device="cuda", dtype=torch.float32)(left, right, max_disparity).disparity
    rows = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        network = load(model, device="cuda", dtype=dtype)

        def call(network: torch.nn.Module = network) -> Tensor:
            return network(left, right, max_disparity).disparity

        with references():
            plain = clocked(call, max(repeats // 10, 3))
        eager = clocked(call, repeats)
        replay, result = graphed(call)
        replay()
        rows[str(dtype).removeprefix("torch.")] = {
            "ms": {"references": plain, "kernels": eager, "kernels in a CUDA graph": clocked(replay, repeats)},
            "mean_difference_px": round(float((result - exact).abs().mean()), 4),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hitnet.scenes")
    parser.add_argument("--size", default="1280x384")
    parser.add_argument("--max-disparity", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=100)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu_speed measures CUDA kernels, and torch finds no CUDA GPU here; run it on a machine that has one.")
    if not triton.usable(torch.zeros(1, device="cuda")):
        sys.exit(
            "Triton is missing, switched off or too new for this GPU; pip install triton, without STEREOPSIS_KERNELS."
        )
    width, height = map(int, options.size.split("x"))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    kernels = {}
    for name, (work, exact) in operators(width, height, options.max_disparity, "cuda").items():
        apart = compared(name, work, exact)
        with references():
            plain = clocked(work, 5)
        kernels[name] = {"difference": apart, "ms": {"kernel": clocked(work, options.repeats), "reference": plain}}
    result = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "size": options.size,
        "max_disparity": options.max_disparity,
        "kernels": kernels,
        options.model: hitnet(options.model, width, height, options.max_disparity, options.repeats),
    }
    path = Path(__file__).parent / "results" / "gpu_speed.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
