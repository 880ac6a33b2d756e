"""Error measures of disparity maps, named as the benchmarks name them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

THRESHOLDS = (1, 2, 3)
# Those of the public tables together: ETH3D and Middlebury 0.5 to 4 px, KITTI 2012 2 to 5 px.
ALL_THRESHOLDS = (0.5, 1, 2, 3, 4, 5)
PERCENTILES = (50, 90, 95, 99)
SCENEFLOW_LIMIT = 192


def disparity_metrics(
    prediction: Float[Tensor, "*shape"],
    truth: Float[Tensor, "*shape"],
    truth_valid: Bool[Tensor, "*shape"],
    prediction_valid: Bool[Tensor, "*shape"] | None = None,
) -> dict[str, float]:
    """Compare disparity with ground truth on every pixel where both are known.

    Args:
        prediction, truth: pixels.
        truth_valid: where the truth is known.
        prediction_valid: where the prediction may be used, everywhere if not given.

    Returns:
        ``epe``: mean absolute error in pixels. ``bad1``, ``bad2``, ``bad3``: percent of pixels whose error exceeds 1,
        2 and 3 px. ``d1``: percent whose error exceeds both 3 px and 5 % of the truth (KITTI). ``density``: fraction of
        the known pixels that the prediction covers. All but ``density`` are NaN where it covers none.

    Raises:
        ValueError: the shapes differ, the truth has no known pixel, or a valid value is not finite.
    """
    measures = region_metrics(prediction, truth, truth_valid, prediction_valid, thresholds=THRESHOLDS, percentiles=())
    if measures["pixels"] == 0:
        raise ValueError("the ground truth has no known pixel; check its file and divisor.")
    return {key: measures[key] for key in ("epe", *(f"bad{limit}" for limit in THRESHOLDS), "d1", "density")}


def region_metrics(
    prediction: Float[Tensor, "*shape"],
    truth: Float[Tensor, "*shape"],
    region: Bool[Tensor, "*shape"],
    prediction_valid: Bool[Tensor, "*shape"] | None = None,
    *,
    thresholds: Sequence[float] = ALL_THRESHOLDS,
    percentiles: Sequence[int] = PERCENTILES,
) -> dict[str, float]:
    """Every measure of the public tables over one region, on the pixels of it that the prediction covers.

    Args:
        prediction, truth: pixels.
        region: which pixels to measure; the truth must be known there. See :func:`regions`.
        prediction_valid: where the prediction may be used, everywhere if not given.
        thresholds: of the bad-x measures, in pixels.
        percentiles: of the absolute error, from 0 to 99.

    Returns:
        ``pixels``: the size of the region. ``density``: the fraction of it that the prediction covers, ``invalid``: the
        percent that it does not. ``epe`` (also called avgerr) and ``rms``: mean and root mean square of the error in
        pixels. ``bad0.5``, ``bad1`` and so on: percent whose error exceeds that many pixels. ``d1``: percent whose
        error exceeds both 3 px and 5 % of the truth (KITTI 2015). ``a50`` and so on: percentile of the absolute error
        in pixels, the value at position floor(n q / 100) of the n sorted ones as ETH3D's program takes it. What cannot
        be measured, because the region or what is covered of it is empty, is NaN.

    Raises:
        ValueError: the shapes differ, or a valid value is not finite.
    """
    if prediction.shape != truth.shape or region.shape != truth.shape:
        raise ValueError(
            f"prediction is {tuple(prediction.shape)}, truth {tuple(truth.shape)} and its mask "
            f"{tuple(region.shape)}; give maps of one shape."
        )
    pixels = int(region.sum())
    counted = region if prediction_valid is None else region & prediction_valid
    target = truth[counted].double()
    error = (prediction[counted].double() - target).abs()
    if not torch.isfinite(error).all():
        raise ValueError("a disparity marked as valid is NaN or infinite; mark it as not valid.")
    found = error.numel()
    ordered = error.sort().values if found and percentiles else error
    density = found / pixels if pixels else math.nan
    return {
        "pixels": pixels,
        "density": density,
        "invalid": 100 * (1 - density),
        "epe": error.mean().item(),
        "rms": error.square().mean().sqrt().item(),
        **{f"bad{limit:g}": _percent(error > limit) for limit in thresholds},
        "d1": _percent((error > 3) & (error > 0.05 * target)),
        **{f"a{q}": ordered[found * q // 100].item() if found else math.nan for q in percentiles},
    }


def regions(
    truth: Float[Tensor, "*shape"],
    known: Bool[Tensor, "*shape"],
    noc: Bool[Tensor, "*shape"] | None = None,
    foreground: Bool[Tensor, "*shape"] | None = None,
) -> dict[str, Bool[Tensor, "*shape"]]:
    """The parts of an image that the public tables measure apart.

    Args:
        truth: pixels.
        known: where the truth is known.
        noc: what both views see; may be True where the truth is not known.
        foreground: independently moving objects, as KITTI's object map names them.

    Returns:
        ``all``, what is known; ``below192``, what of it is under 192 px (SceneFlow); with ``noc`` also ``noc`` and the
        rest ``occ``; with ``foreground`` also ``fg`` and the rest ``bg``; with both also ``noc_fg`` and ``noc_bg``.

    Raises:
        ValueError: the shapes differ.
    """
    for name, mask in (("known", known), ("noc", noc), ("foreground", foreground)):
        if mask is not None and mask.shape != truth.shape:
            raise ValueError(f"truth is {tuple(truth.shape)} and {name} {tuple(mask.shape)}; give maps of one shape.")
    found = {"all": known, "below192": known & (truth < SCENEFLOW_LIMIT)}
    if noc is not None:
        found |= {"noc": known & noc, "occ": known & ~noc}
    if foreground is not None:
        found |= {"fg": known & foreground, "bg": known & ~foreground}
    if noc is not None and foreground is not None:
        found |= {"noc_fg": found["fg"] & noc, "noc_bg": found["bg"] & noc}
    return found


def _percent(mask: Tensor) -> float:
    return 100 * mask.double().mean().item()
