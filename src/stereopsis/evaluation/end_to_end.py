"""The whole way of a pair, measured: compress, decompress, match, upsample, depth, cloud.

::

    pair ──codec──► bytes ──codec──► decoded pair ──matcher──► disparity ──upsampler──► ──calibration──► depth ──► cloud
      └──────────────────────────────────────────── matcher ──► disparity of the original pair, to compare with

Upsampling comes before depth: a plane has a straight disparity, and a curved depth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from stereopsis.compression.bitstream import Reader, pack
from stereopsis.compression.codec import PairCodec, quality_of
from stereopsis.evaluation.codecs import CodedPair
from stereopsis.evaluation.compression import measure_pair
from stereopsis.evaluation.metrics import disparity_metrics
from stereopsis.geometry import unproject
from stereopsis.geometry.holes import fill_from_background
from stereopsis.ops.images import to_bytes
from stereopsis.pipeline.depth import metric_depth, only_shown, search_limit
from stereopsis.pipeline.match import match
from stereopsis.pipeline.reduced import ReducedMatcher
from stereopsis.types import Depth, Disparity, PointCloud, StereoPair

QUALITY = ("bytes", "bpp", "bpp_left", "bpp_right", "psnr", "ms_ssim")
ERRORS = ("epe", "bad1", "bad2", "bad3", "d1", "density")


@dataclass(frozen=True)
class Truth:
    """The disparity as it is.

    Attributes:
        disparity: pixels of the left view, 0 where not known.
        known: where it is known.
    """

    disparity: Float[Tensor, "1 1 h w"]
    known: Bool[Tensor, "1 1 h w"]


@dataclass
class Clock:
    """Wall time of named steps, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class PipelineResult:
    """What became of a pair.

    Attributes:
        pair: as it came, with its calibration.
        content: the compressed file.
        decoded: what comes back of it.
        original, disparity: of the pair as it came, and of the decoded one.
        depth: metres, of the decoded pair.
        cloud: the same as points.
        matched_size: width and height of the views as they were matched.
        numbers: ready for JSON: ``"rate"`` (quality, bytes, bits a pixel, and PSNR in dB and MS-SSIM of both views),
            ``"change"`` (the disparity against that of the pair as it came: errors in pixels and percent) and
            ``"error"`` (that of both pairs against the truth, None without one). What cannot be measured is None.
        seconds: of each step, in order; that of matching the pair as it came is under ``"match the original"``.
    """

    pair: StereoPair
    content: bytes
    decoded: StereoPair
    original: Disparity
    disparity: Disparity
    depth: Depth
    cloud: PointCloud
    matched_size: tuple[int, int]
    numbers: dict[str, Any]
    seconds: dict[str, float]


@torch.inference_mode()
def run_pipeline(
    pair: StereoPair,
    codec: PairCodec,
    matcher: nn.Module,
    *,
    quality: float = 4.0,
    target_bpp: float | None = None,
    max_disparity: int | None = None,
    fill: bool = False,
    shown: Bool[Tensor, "1 h w"] | None = None,
    truth: Truth | None = None,
    clock: Clock | None = None,
) -> PipelineResult:
    """Take a rectified pair the whole way.

    Args:
        pair: one pair with its calibration, of any size, RGB or grey.
        codec: of the family "compression".
        matcher: of the family "matching", or a :class:`~stereopsis.pipeline.reduced.ReducedMatcher`, whose two halves
            are clocked apart.
        quality: of the file, 1 (small) to 8 (good).
        target_bpp: bits a pixel in place of a quality; the best quality that does not exceed them.
        max_disparity: largest disparity searched in pixels; the calibration's or the matcher's own if not given.
        fill: fill holes from the neighbours in the row.
        shown: which pixels of the left view show something (of a rectified view); all if not given.
        truth: to measure against.
        clock: whose steps are continued.

    Raises:
        ValueError: no calibration, a truth of another size, a pair that leaves no depth; or what the codec and
            :func:`~stereopsis.match` raise.
    """
    rig = pair.calibration
    if rig is None:
        raise ValueError("the pair has no calibration, so it has no metric depth; give one.")
    height, width = pair.left.shape[-2:]
    if truth is not None and truth.disparity.shape[-2:] != (height, width):
        raise ValueError(
            f"the truth is {truth.disparity.shape[-1]}x{truth.disparity.shape[-2]} and the views are {width}x{height}; "
            "give the disparity of the left view at its size."
        )
    clock = clock or Clock()
    limit = search_limit(max_disparity, rig)
    with clock.step("compress"):
        header = codec.header(pair)
        if target_bpp is None:
            record = codec.compress_record(pair, quality)
        else:
            record = codec.record_of_rate(pair, target_bpp, len(pack(header, [])))
        content = pack(header, [record])
    with clock.step("decompress"):
        decoded = codec.decompress(content)
    assert isinstance(decoded, StereoPair)

    disparity, size = _matched(decoded, matcher, limit, clock, ("match", "upsample"))
    original, _ = _matched(pair, matcher, limit, clock, ("match the original",) * 2)
    if fill:
        disparity, original = fill_from_background(disparity), fill_from_background(original)
    with clock.step("depth"):
        depth = metric_depth(only_shown(disparity, shown), rig)
    with clock.step("cloud"):
        cloud = unproject(depth, rig, decoded.left.expand(-1, 3, -1, -1))

    parts = tuple(len(stream.payload) for stream in Reader(content).record(0).streams)
    coded = CodedPair(len(content), _bytes(decoded), clock.seconds["compress"], clock.seconds["decompress"], parts)
    measured = measure_pair(_bytes(pair), coded)
    numbers = {
        "rate": {"quality": quality_of(record.level)} | {key: measured[key] for key in QUALITY},
        "change": _errors(disparity, original.disparity, original.valid),
        "error": None
        if truth is None
        else {
            "decoded": _errors(disparity, truth.disparity, truth.known),
            "original": _errors(original, truth.disparity, truth.known),
        },
    }
    return PipelineResult(pair, content, decoded, original, disparity, depth, cloud, size, numbers, clock.seconds)


def _matched(
    pair: StereoPair, matcher: nn.Module, limit: int | None, clock: Clock, steps: tuple[str, str]
) -> tuple[Disparity, tuple[int, int]]:
    """Disparity on the CPU, and the size it was matched at."""
    where = next((parameter.device for parameter in matcher.parameters()), torch.device("cpu"))
    left, right = (view.expand(-1, 3, -1, -1).to(where) for view in (pair.left, pair.right))
    with clock.step(steps[0]):
        if isinstance(matcher, ReducedMatcher):
            found = matcher.reduced(left, right, limit).to("cpu")
        else:
            found = match(left, right, model=matcher, max_disparity=limit).to("cpu")
    size = (found.disparity.shape[-1], found.disparity.shape[-2])
    if isinstance(matcher, ReducedMatcher):
        with clock.step(steps[1]):
            found = matcher.enlarge(found.to(where), left).to("cpu")
    return found, size


def _errors(found: Disparity, truth: Tensor, known: Tensor) -> dict[str, float | None]:
    if not known.any():
        return dict.fromkeys(ERRORS)
    metrics = disparity_metrics(found.disparity, truth, known, found.valid)
    return {key: metrics[key] if math.isfinite(metrics[key]) else None for key in ERRORS}


def _bytes(pair: StereoPair) -> list[UInt8[np.ndarray, "h w 3"]]:
    return [to_bytes(view.expand(-1, 3, -1, -1)) for view in (pair.left, pair.right)]
