"""How fast models are, and how much memory they take, beside OpenCV's matchers in the same process.

All contenders take turns, so that what else the machine does hits them alike; each is alone in a process of its own
when its memory is measured. Operations are counted from the convolutions that torch is asked for, and compared with
what a large matrix product and a large convolution reach on this machine.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from stereopsis.data.patterns import pattern, pattern_pair
from stereopsis.matching.tiling import TiledMatcher
from stereopsis.ops.memory import keep_large_blocks
from stereopsis.ops.portable import standard_operators
from stereopsis.types import StereoPair
from stereopsis.zoo.registry import ModelEntry, get_entry, load

Runtime = Literal["torch", "onnxruntime", "openvino", "opencv"]
Work = Callable[[], object]

PAUSE = 0.02  # seconds that let the threads of one library come to rest before another's start
CLASSICAL_DISPARITIES = 192
CLASSICAL_MARGIN = 16  # pixels that are left to match
ALIASES = {"sgbm-3way": "sgbm"}
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Contender:
    """What is measured.

    Attributes:
        model: a name of :func:`~stereopsis.list_models`, or "sgbm-3way", which is "sgbm".
        runtime: "opencv" for the classical matchers.
        dtype: "float32" or "bfloat16" in torch; "float32" in the other runtimes; "uint8" for OpenCV.
        max_disparity: of a network, its own if not given; OpenCV searches 192.
    """

    model: str
    runtime: Runtime = "torch"
    dtype: str = "float32"
    max_disparity: int | None = None


def contenders(
    models: Iterable[str], runtimes: Sequence[Runtime], dtypes: Sequence[str], max_disparity: int | None = None
) -> list[Contender]:
    """Every model in every runtime and precision that it has.

    Raises:
        ValueError: an unknown model, runtime or precision; or another runtime for what is no matcher.
    """
    for given, known, what in (
        (runtimes, ("torch", "onnxruntime", "openvino"), "runtime"),
        (dtypes, ("auto", "float32", "bfloat16"), "dtype"),
    ):
        for value in given:
            if value not in known:
                raise ValueError(f"the {what} {value!r} is unknown; choose from {', '.join(known)}.")
    found = []
    for model in models:
        entry = _entry(model)
        if not entry.needs_weights and entry.family == "matching":
            found.append(Contender(model, "opencv", "uint8", CLASSICAL_DISPARITIES))
            continue
        limit = max_disparity if entry.family == "matching" else None
        for runtime in runtimes:
            if runtime != "torch" and entry.family != "matching":
                raise ValueError(f"{model} is no matcher; it can be measured in torch alone.")
            precisions = dtypes if runtime == "torch" else ("float32",)
            named = dict.fromkeys(_fastest(entry) if dtype == "auto" else dtype for dtype in precisions)
            found += [Contender(model, runtime, dtype, limit) for dtype in named]
    return found


def bench(
    contestants: Sequence[Contender], sizes: Sequence[tuple[int, int]], *, repeats: int = 15, memory: bool = True
) -> dict[str, Any]:
    """Measures contenders at each size (width, height), with torch's number of threads.

    Returns:
        "machine": threads, and what this CPU reaches; "results": a row a contender and size, with milliseconds of the
        first call and of later ones, pairs a second of calls without a pause, megabytes above the import of torch at
        most (None where the system does not tell), multiplications and additions of the convolutions, their share of
        what the machine reaches, and milliseconds that its arithmetic or its memory would allow (None for OpenCV);
        "growth": for each contender the exponent with which time and memory grow in pixels, where there is more than
        one size.

    Raises:
        ValueError: no repeats, views too narrow for OpenCV's search, or as the models' loading.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; it must be at least 1.")
    keep_large_blocks()
    _same_threads_everywhere()
    machine = measure_machine({c.dtype for c in contestants if c.runtime != "opencv"})
    rows = []
    with torch.inference_mode():
        for size in sizes:
            peaks = [peak_megabytes(c, size) if memory else None for c in contestants]
            timed = _clocked([prepare(c, size) for c in contestants], repeats)
            for contender, peak, times in zip(contestants, peaks, timed, strict=True):
                counted = None if contender.runtime == "opencv" else count(contender, size)
                rows.append(_row(contender, size, times, peak, counted, machine))
    return {"machine": machine, "results": rows, "growth": _growth(rows)}


# --- what is run


def _entry(model: str) -> ModelEntry:
    return get_entry(ALIASES.get(model, model))


def _fastest(entry: ModelEntry) -> str:
    """What a model computes in on this CPU if nobody says otherwise."""
    fastest = getattr(entry.build(), "fastest_dtype", None)
    return "float32" if fastest is None else str(fastest("cpu")).removeprefix("torch.")


def _loaded(contender: Contender) -> nn.Module:
    """The model, with random weights where it has none: they take as long."""
    entry = _entry(contender.model)
    dtype = torch.float32 if contender.dtype == "uint8" else getattr(torch, contender.dtype)
    if entry.weights_file is not None or not entry.needs_weights:
        return load(entry.name, dtype=dtype)
    torch.manual_seed(0)
    model: Any = entry.build().eval()
    model.compute_dtype = dtype
    return model


def prepare(contender: Contender, size: tuple[int, int]) -> Work:
    """One call on a pattern of this width and height, loaded and ready."""
    width, height = size
    entry = _entry(contender.model)
    if contender.runtime == "opencv":
        return _classical(entry, width, height)
    model = _loaded(contender)
    if entry.family == "upsampling":
        image, depth = pattern(height, width), 1 + 4 * pattern(height, width, 1, 1)
        return lambda: model(image, depth)
    left, right = pattern_pair(height, width)
    if entry.family == "compression":
        pair = StereoPair(left, right)
        return lambda: cast(Any, model).compress(pair)
    options = {} if contender.max_disparity is None else {"max_disparity": contender.max_disparity}
    if contender.runtime != "torch":
        model = _exported(entry, model, contender, size)
    model = TiledMatcher(model)  # as `stereopsis match` does
    return lambda: model(left, right, **options)


def _classical(entry: ModelEntry, width: int, height: int) -> Work:
    """OpenCV's bare call on grey views, without the margins and conversions of our wrapper."""
    if width < CLASSICAL_DISPARITIES + CLASSICAL_MARGIN:
        raise ValueError(
            f"the size is {width}x{height}, but OpenCV searches {CLASSICAL_DISPARITIES} disparities here; "
            f"measure {entry.name} at a width of {CLASSICAL_DISPARITIES + CLASSICAL_MARGIN} pixels or more."
        )
    matcher = cast(Any, entry.build())._matcher(CLASSICAL_DISPARITIES)
    views = [(255 * view[0].mean(0)).byte().numpy() for view in pattern_pair(height, width)]
    return lambda: matcher.compute(*views)


def _exported(entry: ModelEntry, model: nn.Module, contender: Contender, size: tuple[int, int]) -> nn.Module:
    from stereopsis.export import export_model
    from stereopsis.export.matcher import GraphMatcher
    from stereopsis.export.runtimes import Format

    assert contender.runtime in ("onnxruntime", "openvino")
    written: Format = "onnx" if contender.runtime == "onnxruntime" else "openvino"
    # a graph is traced, and inference tensors cannot be
    with TemporaryDirectory() as folder, torch.inference_mode(False):
        done = export_model(
            entry, model, folder, format=written, size=size[::-1], max_disparity=contender.max_disparity
        )
        return GraphMatcher(done.description, contender.runtime)


def _same_threads_everywhere() -> None:
    import cv2

    cv2.setNumThreads(torch.get_num_threads())


# --- time


@dataclass(frozen=True)
class _Times:
    first: float
    calls: list[float]
    in_a_row: float


def _seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _clocked(works: Sequence[Work], repeats: int) -> list[_Times]:
    """All in turn, after one call of each; then each without a pause, for throughput."""
    first = [_seconds(work) for work in works]
    calls: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for times, work in zip(calls, works, strict=True):
            time.sleep(PAUSE)
            times.append(_seconds(work))
    number = max(repeats // 3, 1)
    in_a_row = [_seconds(lambda work=work: [work() for _ in range(number)]) / number for work in works]  # type: ignore[misc]
    return [_Times(*times) for times in zip(first, calls, in_a_row, strict=True)]


# --- memory


def peak_megabytes(contender: Contender, size: tuple[int, int]) -> float | None:
    """What loading and two calls add at most to a process that has imported torch; None where the system is silent."""
    if not STATUS.is_file():
        return None
    job = json.dumps({"contender": asdict(contender), "size": size, "threads": torch.get_num_threads()})
    code = "import torch; from stereopsis.evaluation.speed import _peak_of_this_process as peak; peak()"
    # without what a parent's tests or shells have set for Python
    done = subprocess.run([sys.executable, "-c", code], input=job, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["killed"])[-1]
        raise RuntimeError(f"measuring the memory of {contender.model} failed: {reason}")
    return float(done.stdout)


def _peak_of_this_process() -> None:
    before = _resident("VmRSS")
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    keep_large_blocks()
    _same_threads_everywhere()
    with torch.inference_mode():
        contender = Contender(**job["contender"])
        work = prepare(contender, tuple(job["size"]))
        for _ in range(2):
            work()
    print(_resident("VmHWM") - before)


def _resident(field: str) -> float:
    """Megabytes of this process, now (VmRSS) or at most (VmHWM)."""
    line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


# --- arithmetic


@dataclass(frozen=True)
class Count:
    """Of one call's convolutions: multiply-adds, and elements that they read and write."""

    macs: int
    elements: int


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.macs = self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            x, weight, transposed = args[0], args[1], args[6]
            # each value of the output, or of the input where it is transposed, meets the kernel of its channel once
            values = x if transposed else out
            self.macs += values.numel() * (weight.numel() // weight.shape[0])
            self.elements += x.numel() + weight.numel() + out.numel()
        return out


def count(contender: Contender, size: tuple[int, int]) -> Count:
    """Counts the convolutions of one call, which is made without the kernels in C, as those are not seen."""
    counter = _Counter()
    # inference mode would show the counter other operators
    with torch.inference_mode(False), torch.no_grad(), standard_operators():
        work = prepare(Contender(contender.model, max_disparity=contender.max_disparity), size)
        with counter:
            work()
    return Count(counter.macs, counter.elements)


def measure_machine(dtypes: Iterable[str]) -> dict[str, Any]:
    """Threads, the best of a large matrix product and a large convolution in each precision, and of a large copy."""
    reached = {}
    with torch.inference_mode():
        for name in sorted(set(dtypes)):
            dtype = getattr(torch, name)
            a = torch.randn(1536, 1536, dtype=dtype)
            x = torch.randn(1, 64, 192, 256, dtype=dtype).contiguous(memory_format=torch.channels_last)
            kernel = torch.randn(64, 64, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
            works = (
                (lambda a=a: a @ a, a.numel() * 1536),
                (lambda x=x, k=kernel: F.conv2d(x, k, padding=1), 576 * x.numel()),
            )
            reached[name] = max(macs / min(_seconds(work) for _ in range(8)) / 1e9 for work, macs in works)
        block = torch.zeros(32 * 2**20, dtype=torch.float32)
        target = torch.empty_like(block)
        copied = 2 * block.nbytes / min(_seconds(lambda: target.copy_(block)) for _ in range(6)) / 1e9
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "gmacs_per_s": {name: round(value, 1) for name, value in reached.items()},
        "copy_gb_per_s": round(copied, 1),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


# --- rows


def _row(
    contender: Contender,
    size: tuple[int, int],
    times: _Times,
    peak: float | None,
    counted: Count | None,
    machine: dict[str, Any],
) -> dict[str, Any]:
    middle = median(times.calls)
    row: dict[str, Any] = {
        **asdict(contender),
        "size": f"{size[0]}x{size[1]}",
        "threads": torch.get_num_threads(),
        "repeats": len(times.calls),
        "first_ms": _ms(times.first),
        "median_ms": _ms(middle),
        "p95_ms": _ms(_percentile(times.calls, 0.95)),
        "pairs_per_s": round(1 / times.in_a_row, 2),
        "peak_mb": None if peak is None else round(peak, 1),
        "macs": None,
        "bytes": None,
        "floor_ms": None,
        "reached": None,
    }
    if counted is None or not counted.macs:
        return row
    traffic = counted.elements * (2 if contender.dtype == "bfloat16" else 4)
    arithmetic = counted.macs / (machine["gmacs_per_s"][contender.dtype] * 1e9)
    floor = max(arithmetic, traffic / (machine["copy_gb_per_s"] * 1e9))
    return row | {
        "macs": counted.macs,
        "bytes": traffic,
        "floor_ms": _ms(floor),
        "reached": round(arithmetic / middle, 3),
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)


def _percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of them does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def _growth(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Exponents of pixels, from a line through the logarithms; 1 is linear."""
    keys = ("model", "runtime", "dtype")
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [
        dict(zip(keys, names, strict=True))
        | {"time": _exponent(group, "median_ms"), "memory": _exponent(group, "peak_mb")}
        for names, group in groups.items()
        if len({row["size"] for row in group}) > 1
    ]


def _exponent(rows: Sequence[dict[str, Any]], field: str) -> float | None:
    points = [
        (math.log(math.prod(map(int, row["size"].split("x")))), math.log(row[field]))
        for row in rows
        if row[field] is not None and row[field] > 0
    ]
    if len(points) < 2:
        return None
    x, y = (Tensor(values) for values in zip(*points, strict=True))
    x, y = x - x.mean(), y - y.mean()
    return round(((x * y).sum() / (x * x).sum()).item(), 2)
