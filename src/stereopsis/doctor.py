"""Is this pair fit for matching? Answers from sparse matches alone, without a disparity map.

Points are found by SIFT and matched both ways; those that no epipolar geometry explains are left out. On a rectified
pair the rest lie in one row, and further left in the right view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from stereopsis.calibration import StereoCalibration

# SIFT finds enough points at this size, and a larger one costs seconds.
LONGEST_SIDE = 1000
MOST_POINTS = 2500
RATIO = 0.75  # of the best to the second best distance; Lowe, IJCV 2004, section 7.1
FEWEST_MATCHES = 15
# Matchers tolerate a vertical offset of about a pixel; data sets that count as rectified stay below half of it.
ROW_LIMIT = 1.0
ROW_LIMIT_NINE_IN_TEN = 2.5
SWAPPED_SHARE = 0.75
NEGATIVE_SHARE = 0.05
BRIGHTNESS_LIMIT = 1.25
RESOLUTION_AT = (1.0, 5.0, 10.0)


@dataclass(frozen=True, eq=False)
class SparseMatches:
    """Points seen in both views, as (x, y) in pixels of the views.

    Attributes:
        left, right: the positions; row i of one matches row i of the other.
        candidates: how many there were before those that fit no epipolar geometry were dropped.
    """

    left: Float32[np.ndarray, "n 2"]
    right: Float32[np.ndarray, "n 2"]
    candidates: int

    def __len__(self) -> int:
        return len(self.left)

    @property
    def disparity(self) -> Float32[np.ndarray, " n"]:
        """Pixels, ``x_left - x_right``."""
        return self.left[:, 0] - self.right[:, 0]

    @property
    def vertical(self) -> Float32[np.ndarray, " n"]:
        """Pixels, ``y_left - y_right``; 0 in a perfectly rectified pair."""
        return self.left[:, 1] - self.right[:, 1]


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found. A question that could not be answered is None.

    Attributes:
        width, height: of the views, in pixels.
        matches: sparse matches the answers rest on.
        rectified: whether matching points lie in one row.
        vertical_median, vertical_p90: median and 90th percentile of their vertical distance, in pixels.
        swapped: whether the views are exchanged.
        disparity_range: 1st and 99th percentile of their disparity, in pixels.
        brightness_ratio: of the left to the right view at matching points.
        exposure_matched: whether that ratio is near 1.
        max_disparity: the limit that was checked, in pixels.
        max_disparity_enough: whether the nearest points lie within it.
        depth_range: metres at the ends of ``disparity_range``; with a calibration.
        nearest_depth: metres at ``max_disparity``; with a calibration.
        depth_resolution: metres a pixel of disparity amounts to, by distance in metres; with a calibration.
        problems: one sentence each, with the remedy; empty if the pair is fit for matching.
    """

    width: int
    height: int
    matches: int
    rectified: bool | None
    vertical_median: float | None
    vertical_p90: float | None
    swapped: bool | None
    disparity_range: tuple[float, float] | None
    brightness_ratio: float | None
    exposure_matched: bool | None
    max_disparity: int
    max_disparity_enough: bool | None
    depth_range: tuple[float, float] | None
    nearest_depth: float | None
    depth_resolution: dict[float, float] | None
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def verdict(self) -> str:
        """One line in plain words."""
        if self.ok:
            return "This pair is fit for matching."
        count = len(self.problems)
        return f"This pair is not fit for matching: {count} problem{'s' if count > 1 else ''} found."


def examine(
    left: Float[Tensor, "*one c h w"],
    right: Float[Tensor, "*one c h w"],
    *,
    calibration: StereoCalibration | None = None,
    max_disparity: int = 192,
) -> Diagnosis:
    """Check one pair for what spoils matching most often.

    Args:
        left, right: the views in [0, 1], one or three channels.
        calibration: of these views, for depth in metres.
        max_disparity: the limit you intend to match with, in pixels.

    Raises:
        ValueError: the views differ in size, or ``max_disparity`` is below 1.
    """
    if max_disparity < 1:
        raise ValueError(f"max_disparity is {max_disparity}; it must be at least 1 pixel.")
    grey = _grey(left), _grey(right)
    matches = _match_points(*grey)
    height, width = grey[0].shape
    nearest = None if calibration is None else _depth(calibration, float(max_disparity))
    resolution = None if calibration is None else _resolution(calibration)
    if len(matches) < FEWEST_MATCHES:
        return Diagnosis(
            width, height, len(matches), None, None, None, None, None, None, None, max_disparity, None, None, nearest,
            resolution, (_too_few(matches),),
        )  # fmt: skip

    geometry, problems = _geometry(matches, calibration)
    ratio = _brightness_ratio(*grey, matches)
    exposure = None if ratio is None else 1 / BRIGHTNESS_LIMIT <= ratio <= BRIGHTNESS_LIMIT
    if ratio is not None and not exposure:
        problems.append(
            f"The left view is {ratio:.2f} times as bright as the right one; the factor should lie between "
            f"{1 / BRIGHTNESS_LIMIT:.2f} and {BRIGHTNESS_LIMIT:.2f}, so give both cameras one exposure and gain."
        )
    low, high = (float(v) for v in np.percentile(matches.disparity, (1, 99)))
    # Disparity means nothing across views that are exchanged or do not share their rows.
    meaningful = geometry["rectified"] and not geometry["swapped"]
    enough = high <= max_disparity if meaningful else None
    if enough is False:
        problems.append(
            f"Points of the scene have disparities up to {high:.0f} px and max_disparity is {max_disparity}; "
            f"raise it to {16 * math.ceil(1.2 * high / 16)}."
        )
    depths = None
    if calibration is not None and meaningful:
        depths = _depth(calibration, high), _depth(calibration, low)
    return Diagnosis(
        width=width,
        height=height,
        matches=len(matches),
        **geometry,
        disparity_range=(low, high),
        brightness_ratio=ratio,
        exposure_matched=exposure,
        max_disparity=max_disparity,
        max_disparity_enough=enough,
        depth_range=depths,
        nearest_depth=nearest,
        depth_resolution=resolution,
        problems=tuple(problems),
    )


def geometry_warnings(left: Float[Tensor, "*one c h w"], right: Float[Tensor, "*one c h w"]) -> list[str]:
    """The sentences of :func:`examine` on views that are exchanged or not rectified; none where it cannot tell."""
    matches = _match_points(_grey(left), _grey(right))
    return [] if len(matches) < FEWEST_MATCHES else _geometry(matches, None)[1]


def find_matches(left: Float[Tensor, "*one c h w"], right: Float[Tensor, "*one c h w"]) -> SparseMatches:
    """Points seen in both views; arguments and errors as in :func:`examine`."""
    return _match_points(_grey(left), _grey(right))


def _grey(image: Tensor) -> np.ndarray:
    array = image.detach().cpu().float()
    while array.dim() > 3 and array.shape[0] == 1:
        array = array[0]
    if array.dim() != 3 or array.shape[0] not in (1, 3):
        raise ValueError(f"The view is {tuple(image.shape)}; it must be one image (1, H, W) or (3, H, W).")
    weights = torch.tensor([0.299, 0.587, 0.114]) if array.shape[0] == 3 else torch.ones(1)
    grey = (array * weights[:, None, None]).sum(0).clamp(0, 1)
    return (grey * 255).round().to(torch.uint8).numpy()


def _match_points(left: np.ndarray, right: np.ndarray) -> SparseMatches:
    import cv2

    if left.shape != right.shape:
        sizes = " and the right one ".join(f"{view.shape[1]}x{view.shape[0]}" for view in (left, right))
        raise ValueError(f"The left view is {sizes}; the two views of a pair must have the same size.")
    scale = min(1.0, LONGEST_SIDE / max(left.shape))
    sift = cv2.SIFT.create(nfeatures=MOST_POINTS, contrastThreshold=0.02)
    points, descriptors = [], []
    for view in (left, right):
        small = view if scale == 1 else cv2.resize(view, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        found, described = sift.detectAndCompute(_stretched(small), None)
        # Centres of pixels are integers, and a resize maps the outer edges onto each other.
        points.append((np.array([p.pt for p in found], np.float32).reshape(-1, 2) + 0.5) / scale - 0.5)
        descriptors.append(described)
    nothing = np.zeros((0, 2), np.float32)
    if any(d is None or len(d) < 2 for d in descriptors):
        return SparseMatches(nothing, nothing, 0)
    there = _nearest(cv2.BFMatcher().knnMatch(descriptors[0], descriptors[1], k=2))
    back = _nearest(cv2.BFMatcher().knnMatch(descriptors[1], descriptors[0], k=2))
    mutual = [(i, j) for i, j in there.items() if back.get(j) == i]
    if len(mutual) < 8:
        return SparseMatches(nothing, nothing, len(mutual))
    a, b = (points[side][[pair[side] for pair in mutual]].astype(np.float32) for side in (0, 1))
    _, inliers = cv2.findFundamentalMat(a, b, cv2.FM_RANSAC, 1.5 / scale, 0.999, 5000)
    kept = inliers.ravel().astype(bool) if inliers is not None else np.zeros(len(a), bool)
    a, b = a[kept], b[kept]
    kept = _supported(a, b - a, 0.05 * left.shape[1])
    return SparseMatches(a[kept], b[kept], len(mutual))


def _supported(points: np.ndarray, shift: np.ndarray, tolerance: float) -> np.ndarray:
    """Where two of the six nearest points moved alike; a mismatch along the epipolar line fits every geometry."""
    if len(points) < 7:
        return np.zeros(len(points), bool)
    distance = np.square(points[:, None] - points[None]).sum(-1)
    near = np.argpartition(distance, 6, axis=1)[:, :7]
    alike = np.abs(shift[near] - shift[:, None]).max(-1) <= tolerance
    return alike.sum(1) >= 3  # the point itself is among the seven


def _stretched(view: np.ndarray) -> np.ndarray:
    """The view with its full contrast: SIFT drops what is faint, and one of two exposures can be."""
    low, high = (float(v) for v in np.percentile(view, (1, 99)))
    scaled = (view.astype(np.float32) - low) * (255 / max(high - low, 1))
    return scaled.clip(0, 255).round().astype(np.uint8)


def _nearest(matches: Any) -> dict[int, int]:
    return {
        best[0].queryIdx: best[0].trainIdx
        for best in matches
        if len(best) == 2 and best[0].distance < RATIO * best[1].distance
    }


def _geometry(matches: SparseMatches, calibration: StereoCalibration | None) -> tuple[dict[str, Any], list[str]]:
    problems = []
    vertical = np.abs(matches.vertical)
    median, p90 = float(np.median(vertical)), float(np.percentile(vertical, 90))
    rectified = median <= ROW_LIMIT and p90 <= ROW_LIMIT_NINE_IN_TEN
    if not rectified:
        problems.append(
            f"The views are not rectified: matching points lie {median:.1f} px apart vertically, and one in ten more "
            f"than {p90:.1f} px; {ROW_LIMIT:g} and {ROW_LIMIT_NINE_IN_TEN:g} px are allowed, so rectify them first."
        )
    # What counts for the order of the cameras is the disparity of parallel ones, so the offset is added.
    offset = 0.0 if calibration is None else calibration.doffs
    backwards = float(np.mean(matches.disparity + offset < -0.5))
    negative = float(np.mean(matches.disparity < -0.5))
    swapped = backwards >= SWAPPED_SHARE
    if swapped:
        problems.append(
            f"The views are swapped: {backwards:.0%} of the matching points lie further right in the right view; "
            "exchange LEFT and RIGHT."
        )
    elif rectified and negative >= NEGATIVE_SHARE:
        problems.append(
            f"{negative:.0%} of the matching points have a negative disparity, which no matcher here searches; "
            f"shift the right view by {math.ceil(-float(matches.disparity.min()))} px to the left."
        )
    elif rectified and float(np.percentile(np.abs(matches.disparity), 95)) < 0.5:
        problems.append("The views show no parallax; name two views that were taken side by side.")
    return {
        "rectified": rectified,
        "vertical_median": median,
        "vertical_p90": p90,
        "swapped": swapped,
    }, problems


def _too_few(matches: SparseMatches) -> str:
    return (
        f"Only {len(matches)} points match and {FEWEST_MATCHES} are needed to judge; check that both views show the "
        "same scene, in focus and with some texture."
    )


def _brightness_ratio(left: np.ndarray, right: np.ndarray, matches: SparseMatches) -> float | None:
    import cv2

    height, width = left.shape
    samples = []
    for view, points in ((left, matches.left), (right, matches.right)):
        blurred = cv2.blur(view, (9, 9)).astype(np.float32)
        column, row = (
            np.clip(np.round(points[:, i]).astype(int), 0, limit - 1) for i, limit in enumerate((width, height))
        )
        samples.append(blurred[row, column])
    # Black and clipped pixels do not follow the exposure.
    usable = np.all([(s > 10) & (s < 245) for s in samples], axis=0)
    return float(np.median(samples[0][usable] / samples[1][usable])) if usable.sum() >= FEWEST_MATCHES else None


def _depth(calibration: StereoCalibration, disparity: float) -> float:
    """Metres, infinite where the offset disparity is not positive."""
    denominator = disparity + calibration.doffs
    return calibration.fx * calibration.baseline / denominator if denominator > 0 else math.inf


def _resolution(calibration: StereoCalibration) -> dict[float, float]:
    from stereopsis.geometry import depth_error

    return {z: float(depth_error(z, calibration, 1.0)) for z in RESOLUTION_AT}
