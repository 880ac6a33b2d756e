"""Is this pair fit for matching? Answers from sparse matches alone, without a disparity map.

Points are found by SIFT and matched both ways; those that no epipolar geometry explains are left out. On a rectified
pair the rest lie in one row, and further left in the right view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from torch import Tensor

from stereopsis.ops.images import check_sizes, luma, quantized
from stereopsis.types import StereoCalibration

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
DISTANCES = (1.0, 5.0, 10.0)
# Of the expected error to the distance; beyond, a depth says little.
COARSE_SHARE = 0.1
# Rows that are all off to one side point at the calibration, not at noise of the points.
BIAS_LIMIT = 0.3
# What a turn or another zoom must move at the edge of the image to be named.
PATTERN_LIMIT = 1.0
GEOMETRY = ("rectified", "vertical_median", "vertical_p90", "vertical_bias", "roll", "zoom", "swapped")


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
        vertical_bias: median of the vertical distance with its sign, left less right, in pixels: what all rows are off.
        roll: degrees that the left view is turned clockwise against the right one.
        zoom: of the left view against the right one in height; 1 where they agree.
        swapped: whether the views are exchanged.
        disparity_range: 1st and 99th percentile of their disparity, in pixels.
        brightness_ratio: of the left to the right view at matching points.
        exposure_matched: whether that ratio is near 1.
        max_disparity: the limit that was checked, in pixels.
        max_disparity_enough: whether the nearest points lie within it.
        depth_range: metres at the ends of ``disparity_range``; with a calibration.
        nearest_depth: metres at ``max_disparity``; with a calibration.
        depth_resolution: metres a pixel of disparity amounts to, by distance in metres; with a calibration.
        disparity_error: the error of disparity that was reckoned with, in pixels.
        depth_error: expected error in metres at that error, by distance in metres; with a calibration.
        problems: one sentence each, with the remedy; empty if the pair is fit for matching.
        advice: what is no problem and could be better, one sentence each.
    """

    width: int
    height: int
    matches: int
    rectified: bool | None
    vertical_median: float | None
    vertical_p90: float | None
    vertical_bias: float | None
    roll: float | None
    zoom: float | None
    swapped: bool | None
    disparity_range: tuple[float, float] | None
    brightness_ratio: float | None
    exposure_matched: bool | None
    max_disparity: int
    max_disparity_enough: bool | None
    depth_range: tuple[float, float] | None
    nearest_depth: float | None
    depth_resolution: dict[float, float] | None
    disparity_error: float
    depth_error: dict[float, float] | None
    problems: tuple[str, ...]
    advice: tuple[str, ...] = ()

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
    disparity_error: float = 1.0,
    distances: Sequence[float] = DISTANCES,
) -> Diagnosis:
    """Check one pair for what spoils matching most often.

    Args:
        left, right: the views in [0, 1], one or three channels.
        calibration: of these views, for depth in metres.
        max_disparity: the limit you intend to match with, in pixels.
        disparity_error: what you expect of the matcher, in pixels.
        distances: metres at which the error of depth is of interest.

    Raises:
        ValueError: the views differ in size, ``max_disparity`` is below 1, or an error or distance is not above 0.
    """
    if max_disparity < 1:
        raise ValueError(f"max_disparity is {max_disparity}; it must be at least 1 pixel.")
    if not disparity_error > 0:
        raise ValueError(f"disparity_error is {disparity_error:g}; it must be above 0 px, for example 0.5.")
    for z in distances:
        if not 0 < z < math.inf:
            raise ValueError(f"A distance is {z:g}; it must be a number of metres above 0, for example 5.")
    grey = _grey(left), _grey(right)
    matches = _match_points(*grey)
    height, width = grey[0].shape
    nearest = None if calibration is None else _depth(calibration, float(max_disparity))
    resolution = None if calibration is None else _depth_errors(calibration, distances, 1.0)
    expected = None if calibration is None else _depth_errors(calibration, distances, disparity_error)
    geometry: dict[str, Any] = dict.fromkeys(GEOMETRY)
    if len(matches) < FEWEST_MATCHES:
        return Diagnosis(
            width=width,
            height=height,
            matches=len(matches),
            **geometry,
            disparity_range=None,
            brightness_ratio=None,
            exposure_matched=None,
            max_disparity=max_disparity,
            max_disparity_enough=None,
            depth_range=None,
            nearest_depth=nearest,
            depth_resolution=resolution,
            disparity_error=disparity_error,
            depth_error=expected,
            problems=(_too_few(matches),),
        )

    geometry, problems = _geometry(matches, calibration, (width, height))
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
        disparity_error=disparity_error,
        depth_error=expected,
        problems=tuple(problems),
        advice=tuple(_advice(geometry, expected, high if enough else None, max_disparity)),
    )


def geometry_warnings(left: Float[Tensor, "*one c h w"], right: Float[Tensor, "*one c h w"]) -> list[str]:
    """The sentences of :func:`examine` on views that are exchanged or not rectified; none where it cannot tell."""
    matches = _match_points(_grey(left), _grey(right))
    return [] if len(matches) < FEWEST_MATCHES else _geometry(matches, None, (left.shape[-1], left.shape[-2]))[1]


def find_matches(left: Float[Tensor, "*one c h w"], right: Float[Tensor, "*one c h w"]) -> SparseMatches:
    """Points seen in both views; arguments and errors as in :func:`examine`."""
    return _match_points(_grey(left), _grey(right))


def _grey(image: Tensor) -> np.ndarray:
    array = image.detach().cpu().float()
    while array.dim() > 3 and array.shape[0] == 1:
        array = array[0]
    if array.dim() != 3 or array.shape[0] not in (1, 3):
        raise ValueError(f"The view is {tuple(image.shape)}; it must be one image (1, H, W) or (3, H, W).")
    return quantized(luma(array)[0]).numpy()


def _match_points(left: np.ndarray, right: np.ndarray) -> SparseMatches:
    import cv2

    check_sizes((left.shape[1], left.shape[0]), (right.shape[1], right.shape[0]))
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


def _geometry(
    matches: SparseMatches, calibration: StereoCalibration | None, size: tuple[int, int]
) -> tuple[dict[str, Any], list[str]]:
    problems = []
    vertical = np.abs(matches.vertical)
    median, p90 = float(np.median(vertical)), float(np.percentile(vertical, 90))
    rectified = median <= ROW_LIMIT and p90 <= ROW_LIMIT_NINE_IN_TEN
    roll, zoom = _roll_and_zoom(matches, size)
    if not rectified:
        problems.append(
            f"The views are not rectified: matching points lie {median:.1f} px apart vertically, and one in ten more "
            f"than {p90:.1f} px; {ROW_LIMIT:g} and {ROW_LIMIT_NINE_IN_TEN:g} px are allowed, so rectify them first"
            f"{_pattern(roll, zoom, size)}."
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
        "vertical_bias": float(np.median(matches.vertical)),
        "roll": roll,
        "zoom": zoom,
        "swapped": swapped,
    }, problems


def _roll_and_zoom(matches: SparseMatches, size: tuple[int, int]) -> tuple[float, float]:
    """The plane ``y_left - y_right = a + b x + c y`` through the points: a turn is its slope in x, a zoom that in y."""
    centred = matches.left - (np.array(size) - 1) / 2
    columns = np.column_stack([np.ones(len(matches)), centred]).astype(np.float64)
    vertical = matches.vertical.astype(np.float64)
    kept = np.ones(len(matches), bool)
    plane: np.ndarray = np.zeros(3)
    for _ in range(5):
        plane = np.linalg.lstsq(columns[kept], vertical[kept], rcond=None)[0]
        distance = np.abs(vertical - columns @ plane)
        kept = distance <= 3 * max(float(np.median(distance)), 0.05)
    return math.degrees(math.atan(plane[1])), 1 + float(plane[2])


def _pattern(roll: float, zoom: float, size: tuple[int, int]) -> str:
    """How the offset changes over the image, where it does; it tells what is wrong with the rig."""
    causes = []
    if abs(math.radians(roll)) * size[0] / 2 > PATTERN_LIMIT:
        causes.append(f"turned against each other by {abs(roll):.1f} degrees")
    if abs(zoom - 1) * size[1] / 2 > PATTERN_LIMIT:
        causes.append(f"of scales that differ by {abs(zoom - 1):.1%}")
    return f" (they are {' and '.join(causes)})" if causes else ""


def _advice(
    geometry: dict[str, Any], expected: dict[float, float] | None, nearest: float | None, max_disparity: int
) -> list[str]:
    advice = []
    bias = geometry["vertical_bias"]
    if geometry["rectified"] and abs(bias) > BIAS_LIMIT:
        advice.append(
            f"All rows of the left view lie {abs(bias):.2f} px {'below' if bias > 0 else 'above'} those of the right "
            "one; matching bears it, and a new calibration of the rig would mend it."
        )
    if nearest is not None and max_disparity > 64 and max_disparity > 4 * max(nearest, 16):
        advice.append(
            f"The largest disparity at matched points is {nearest:.0f} px; if nothing comes nearer, a max_disparity of "
            f"{16 * math.ceil(1.5 * max(nearest, 16) / 16)} is enough and faster than {max_disparity}."
        )
    coarse = [z for z, error in (expected or {}).items() if error > COARSE_SHARE * z]
    if coarse:
        advice.append(
            f"From {min(coarse):g} m on the expected error of depth is above {COARSE_SHARE:.0%} of the distance; "
            "cameras further apart, a longer focal length or more pixels bring it down."
        )
    return advice


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


def _depth_errors(
    calibration: StereoCalibration, distances: Sequence[float], disparity_error: float
) -> dict[float, float]:
    from stereopsis.geometry import depth_error

    return {float(z): float(depth_error(float(z), calibration, disparity_error)) for z in distances}
