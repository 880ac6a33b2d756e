"""Rate and distortion of codecs over stereo pairs, with real bytes, and what separates two curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float64, UInt8

from stereopsis.compression.losses import SMALLEST, ms_ssim
from stereopsis.evaluation.codecs import CodedPair, Coder, Views
from stereopsis.io import read_image
from stereopsis.ops.images import to_bytes

MEASURES = (
    "bpp", "bpp_left", "bpp_right", "psnr", "psnr_left", "psnr_right", "ms_ssim", "ms_ssim_left", "ms_ssim_right",
)  # fmt: skip
# rate and quality of the curves that each is computed from
BD_RATES = {
    "bd_rate_psnr": ("bpp", "psnr"),
    "bd_rate_msssim": ("bpp", "ms_ssim"),
    "bd_rate_psnr_right": ("bpp_right", "psnr_right"),
}
SECONDS = ("encode_seconds", "decode_seconds")
LOSSLESS_PSNR = 100.0  # dB, in place of infinity, which JSON does not hold
FEWEST = 3  # points of a curve that a BD-rate is computed from

Progress = Callable[[int, int, str], None]


class Pair(Protocol):
    """Two views on disk."""

    @property
    def id(self) -> str: ...
    @property
    def left(self) -> Path: ...
    @property
    def right(self) -> Path: ...


def evaluate_compression(
    codec: Coder,
    pairs: Sequence[Pair],
    anchors: Sequence[Coder] = (),
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Code every pair with a codec and its anchors, at all of their settings.

    Args:
        codec: what is measured.
        anchors: what it is compared with.
        progress: called after each pair with the number done, the number of all, and the pair's id.

    Returns:
        ``{"model", "rate", "pairs", "points", "bd_rate_psnr", "bd_rate_msssim", "bd_rate_psnr_right", "anchors",
        "per_image"}``, ready for JSON. A point has the setting (``"quality"``, or what the anchor calls it),
        ``"bytes"`` of the whole file, ``"bpp"`` (its bits by the pixels of both views), ``"bpp_left"`` and
        ``"bpp_right"`` (each view's bits by its pixels, without shared headers; None where the views cannot be told
        apart), ``"psnr"`` (dB, of the mean squared error of both views' RGB) and that of each view, ``"ms_ssim"`` (the
        mean of both views) and that of each, and the seconds of coding. ``points`` averages over pairs. A BD-rate is
        the mean over pairs of the rate that the codec needs more than the anchor at equal quality, in percent, negative
        where it needs less; None where the curves share no quality; ``"bd_rate_psnr_right"`` is that of the right view
        alone, which shows what knowing the left one saves. ``ms_ssim`` is None of sides below 176 pixels.

        ``"rate"`` says what is coded and counted: ``"both views"``, or ``"main view alone"`` where the codec codes the
        left views (``codec.main``). Anchors then do the same, and what would be of the right view is None.

    Raises:
        ValueError: there are no pairs, or views that differ in size.
    """
    if not pairs:
        raise ValueError("there are no pairs to evaluate; name a manifest that lists some.")
    rows = []
    for number, pair in enumerate(pairs, start=1):
        rows.append(_evaluate_pair(codec, pair, anchors))
        if progress is not None:
            progress(number, len(pairs), pair.id)
    names = [anchor.name for anchor in anchors]
    return {
        "model": codec.name,
        "rate": "main view alone" if codec.main else "both views",
        "pairs": len(rows),
        "points": _average(codec.unit, [row["points"] for row in rows]),
        **{key: {name: _mean(row[key][name] for row in rows) for name in names} for key in BD_RATES},
        "anchors": {
            anchor.name: {
                "chroma": anchor.chroma,
                "points": _average(anchor.unit, [row["anchors"][anchor.name] for row in rows]),
            }
            for anchor in anchors
        },
        "per_image": rows,
    }


def bd_rate(
    anchor_rate: Sequence[float],
    anchor_quality: Sequence[float],
    rate: Sequence[float],
    quality: Sequence[float],
) -> float | None:
    """How many percent more bits a codec needs than an anchor at equal quality, over the qualities that both reach
    (Bjontegaard, VCEG-M33, with Akima's interpolation of log rate over quality).

    Args:
        anchor_rate, rate: above 0, in one unit.
        anchor_quality, quality: in dB.

    Returns:
        Negative where the codec needs fewer; None where a curve has less than three points or they share no quality.
    """
    curves = [_curve(r, q) for r, q in ((anchor_rate, anchor_quality), (rate, quality))]
    if any(len(x) < FEWEST for x, _ in curves):
        return None
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if not low < high:
        return None
    anchor, codec = (akima_integral(x, y, low, high) for x, y in curves)
    return 100 * math.expm1((codec - anchor) / (high - low))


def akima_integral(x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"], low: float, high: float) -> float:
    """Integral from low to high, inside x, of the curve that Akima (1970) draws through at least three points."""
    step, slope = np.diff(x), np.diff(y) / np.diff(x)
    before, after = 2 * slope[0] - slope[1], 2 * slope[-1] - slope[-2]
    slope = np.concatenate([[2 * before - slope[0], before], slope, [after, 2 * after - slope[-1]]])
    change = np.abs(np.diff(slope))
    left, right = change[2:], change[:-2]
    total = left + right
    # where both changes vanish the slope is the mean of those around it
    known = total > 1e-9 * total.max()
    tangent = (slope[3:] + slope[:-3]) / 2
    weighted = left * slope[1:-2] + right * slope[2:-1]
    tangent[known] = weighted[known] / total[known]
    # on each piece y + b t + c t^2 + d t^3
    b, secant = tangent[:-1], slope[2:-2]
    c = (3 * secant - 2 * b - tangent[1:]) / step
    d = (b + tangent[1:] - 2 * secant) / step**2
    start, end = (np.clip(limit - x[:-1], 0, step) for limit in (low, high))

    def primitive(t: np.ndarray) -> np.ndarray:
        return t * (y[:-1] + t * (b / 2 + t * (c / 3 + t * d / 4)))

    return float((primitive(end) - primitive(start)).sum())


def _curve(rate: Sequence[float], quality: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Qualities in increasing order and the logarithm of their rates; of equal qualities the cheapest."""
    best: dict[float, float] = {}
    for r, q in zip(rate, quality, strict=True):
        best[q] = min(r, best.get(q, math.inf))
    x = np.array(sorted(best))
    return x, np.log([best[q] for q in x])


def decibel(similarity: float) -> float:
    """MS-SSIM on the scale that BD-rates are computed on, ``-10 log10(1 - MS-SSIM)``."""
    return -10 * math.log10(max(1 - similarity, 1e-10))


def measure_pair(originals: Views, coded: CodedPair) -> dict[str, Any]:
    """A point of the curve of one pair; the keys are those of :func:`evaluate_compression`."""
    height, width = originals[0].shape[:2]
    both = len(originals) == 2
    apart = len(coded.parts) == len(originals)
    errors, similarities = [], []
    for original, decoded in zip(originals, coded.views, strict=True):
        errors.append(float(np.square(original.astype(np.float64) - decoded).mean()))
        similarities.append(_similarity(original, decoded))
    known = [value for value in similarities if value is not None]
    return {
        "bytes": coded.size,
        "bpp": 8 * coded.size / (len(originals) * height * width),
        "bpp_left": 8 * coded.parts[0] / (height * width) if apart else None,
        "bpp_right": 8 * coded.parts[1] / (height * width) if apart and both else None,
        "psnr": _psnr(fmean(errors)),
        "psnr_left": _psnr(errors[0]),
        "psnr_right": _psnr(errors[1]) if both else None,
        "ms_ssim": fmean(known) if len(known) == len(originals) else None,
        "ms_ssim_left": similarities[0],
        "ms_ssim_right": similarities[1] if both else None,
        "encode_seconds": round(coded.encode_seconds, 4),
        "decode_seconds": round(coded.decode_seconds, 4),
    }


def _psnr(error: float) -> float:
    return min(10 * math.log10(255**2 / error), LOSSLESS_PSNR) if error else LOSSLESS_PSNR


def _similarity(original: UInt8[np.ndarray, "h w 3"], decoded: UInt8[np.ndarray, "h w 3"]) -> float | None:
    if min(original.shape[:2]) < SMALLEST:
        return None
    a, b = (torch.from_numpy(np.array(view)).permute(2, 0, 1)[None].float() / 255 for view in (original, decoded))
    return ms_ssim(a, b).item()


def _evaluate_pair(codec: Coder, pair: Pair, anchors: Sequence[Coder]) -> dict[str, Any]:
    views = [to_bytes(read_image(path)) for path in (pair.left, pair.right)]
    if views[0].shape != views[1].shape:
        raise ValueError(f"{pair.left} and {pair.right} differ in size; give the two views of a rectified pair.")
    shown = views[:1] if codec.main else views
    curves = {coder.name: curve_of(coder, views if coder.main else shown) for coder in anchors}
    points = curve_of(codec, views)
    row: dict[str, Any] = {"id": pair.id, "width": views[0].shape[1], "height": views[0].shape[0], "points": points}
    for key, axes in BD_RATES.items():
        row[key] = {name: rate_between(curve, points, *axes) for name, curve in curves.items()}
    return row | {"anchors": curves}


def curve_of(coder: Coder, views: Views) -> list[dict[str, Any]]:
    shown = views[:1] if coder.main else views
    return [{coder.unit: setting} | measure_pair(shown, coder.code(views, setting)) for setting in coder.settings]


def rate_between(anchor: list[dict[str, Any]], points: list[dict[str, Any]], rate: str, quality: str) -> float | None:
    if any(point[key] is None for point in (*anchor, *points) for key in (rate, quality)):
        return None
    scale = decibel if quality == "ms_ssim" else float
    curves = [([p[rate] for p in curve], [scale(p[quality]) for p in curve]) for curve in (anchor, points)]
    return bd_rate(*curves[0], *curves[1])


def _average(unit: str, curves: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The points of one setting of all pairs, averaged."""
    return [
        {unit: together[0][unit]} | {key: _mean(p[key] for p in together) for key in (*MEASURES, *SECONDS)}
        for together in zip(*curves, strict=True)
    ]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
