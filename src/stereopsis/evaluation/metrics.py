"""Error measures of disparity maps, named as the benchmarks name them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

THRESHOLDS = (1, 2, 3)


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
    if prediction.shape != truth.shape or truth_valid.shape != truth.shape:
        raise ValueError(
            f"prediction is {tuple(prediction.shape)}, truth {tuple(truth.shape)} and its mask "
            f"{tuple(truth_valid.shape)}; give maps of one shape."
        )
    known = int(truth_valid.sum())
    if known == 0:
        raise ValueError("the ground truth has no known pixel; check its file and divisor.")
    counted = truth_valid if prediction_valid is None else truth_valid & prediction_valid
    target = truth[counted].double()
    error = (prediction[counted].double() - target).abs()
    if not torch.isfinite(error).all():
        raise ValueError("a disparity marked as valid is NaN or infinite; mark it as not valid.")
    bad = {f"bad{limit}": _percent(error > limit) for limit in THRESHOLDS}
    return {
        "epe": error.mean().item(),
        **bad,
        "d1": _percent((error > 3) & (error > 0.05 * target)),
        "density": error.numel() / known,
    }


def _percent(mask: Tensor) -> float:
    return 100 * mask.double().mean().item()
