"""A rig from pairs of views of a board: OpenCV's stereo calibration, without the pairs that do not fit.

After a first look for pairs that are plainly wrong, each round solves for both cameras and drops the pairs whose
corners lie further off than three times the median of all pairs (and than half a pixel), until none does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from stereopsis.calibration.boards import FEWEST_CORNERS, Board, Corners, opencv, shared_corners
from stereopsis.calibration.camera import RawCamera
from stereopsis.calibration.fisheye import solve_camera, solve_rig
from stereopsis.calibration.raw import StereoRig

if TYPE_CHECKING:
    from stereopsis.io import PairPaths

Lens = Literal["pinhole", "rational", "fisheye"]
LENSES: tuple[Lens, ...] = ("pinhole", "rational", "fisheye")

FEWEST_PAIRS = 4
OUTLIER = 3.0  # times the median
SMALLEST_OUTLIER = 0.5  # pixels; below, no pair is bad
# The same for the first look, which rests on one pair at a time.
LOOSE, LOOSE_FACTOR = 2.0, 5.0
MOST_CANDIDATES = 50
# What a good calibration has, for the advice alone.
GOOD_RMS = 0.5
GOOD_PAIRS = 10
GOOD_COVERAGE = 0.6
GOOD_TILT = 20.0
LARGEST_ZOOM = 3.0
GRID = (8, 6)  # cells the coverage is counted in


@dataclass(frozen=True, eq=False)
class BoardPair:
    """What one pair gave.

    Attributes:
        name: of the pair.
        reason: why it does not count, one sentence; None where it does.
        left, right: the corners that both views show; None where the board is not in both.
        left_residuals, right_residuals: measured less projected corners in pixels; None where there is no calibration.
    """

    name: str
    reason: str | None = None
    left: Corners | None = None
    right: Corners | None = None
    left_residuals: Float[np.ndarray, "n 2"] | None = None
    right_residuals: Float[np.ndarray, "n 2"] | None = None

    @property
    def errors(self) -> tuple[float, float] | None:
        """Reprojection errors (RMS) of the left and the right view in pixels."""
        if self.left_residuals is None or self.right_residuals is None:
            return None
        return _rms(self.left_residuals), _rms(self.right_residuals)


@dataclass(frozen=True, eq=False)
class RigCalibration:
    """A calibrated rig and what it rests on.

    Attributes:
        rig: the raw rig.
        pairs: all pairs in their order, those that were rejected included.
        rms: reprojection error over all corners of the pairs that count, in pixels.
        row_error: median distance in rows of the two views of a corner after rectification, in pixels of the raw
            views: what matching feels of the calibration.
        coverage: share of the left and the right image that the boards reached, in [0, 1].
        tilt: largest angle between two poses of the board, in degrees.
        advice: what would make the calibration better, one sentence each.
    """

    rig: StereoRig
    pairs: tuple[BoardPair, ...]
    rms: float
    row_error: float
    coverage: tuple[float, float]
    tilt: float
    advice: tuple[str, ...]

    @property
    def used(self) -> tuple[BoardPair, ...]:
        return tuple(pair for pair in self.pairs if pair.reason is None)

    @property
    def rejected(self) -> tuple[BoardPair, ...]:
        return tuple(pair for pair in self.pairs if pair.reason is not None)


def calibrate_files(
    files: Sequence[PairPaths],
    board: Board,
    *,
    lens: Lens = "pinhole",
    progress: Callable[[Sequence[PairPaths]], Any] = iter,
) -> RigCalibration:
    """The rig that took these pairs; a file that cannot be used is one rejected pair.

    Args:
        files: of :func:`stereopsis.io.find_pairs`.
        board: what they show.
        lens: as in :func:`calibrate`.
        progress: wraps the iteration over the files.

    Raises:
        ValueError: as :func:`calibrate`.
    """
    from stereopsis.io import read_image

    pairs: list[BoardPair] = []
    sizes: list[tuple[int, int] | None] = []
    for pair in progress(files):
        size = None
        try:
            left, right = (_grey(read_image(path, 1)) for path in (pair.left, pair.right))
            if left.shape != right.shape:
                views = " and ".join(f"{view.shape[1]}x{view.shape[0]}" for view in (left, right))
                raise ValueError(f"The views are {views} px; both cameras must give one size.")
            size = left.shape[1], left.shape[0]
            pairs.append(observe(pair.name, left, right, board))
        except (ValueError, OSError) as error:
            pairs.append(BoardPair(pair.name, str(error)))
        sizes.append(size)
    counts = Counter(size for size in sizes if size is not None)
    if not counts:
        raise ValueError(f"No pair of {len(pairs)} can be used, the first for this: {pairs[0].reason}")
    usual = counts.most_common(1)[0][0]
    for i, size in enumerate(sizes):
        if size is not None and size != usual:
            reason = f"The views are {size[0]}x{size[1]} px and most are {usual[0]}x{usual[1]}."
            pairs[i] = BoardPair(pairs[i].name, reason)
    return calibrate(pairs, board, usual, lens=lens)


def observe(name: str, left: UInt8[np.ndarray, "h w"], right: UInt8[np.ndarray, "h w"], board: Board) -> BoardPair:
    """The corners of the board in one pair of grey views; a pair with a reason where it cannot count."""
    found = board.detect(left), board.detect(right)
    blind = [which for which, corners in zip(("left", "right"), found, strict=True) if corners is None]
    if found[0] is None or found[1] is None:
        where = "either view" if len(blind) == 2 else f"the {blind[0]} view"
        whole = "whole" if board.marker is None else f"with {FEWEST_CORNERS} corners"
        return BoardPair(name, f"The board is not seen {whole} in {where}.")
    a, b = shared_corners(board, found[0], found[1])
    if len(a) < FEWEST_CORNERS or np.linalg.matrix_rank(board.points[a.ids, :2] - board.points[a.ids[0], :2]) < 2:
        return BoardPair(name, f"The views share {len(a)} corners; {FEWEST_CORNERS} that span a plane are needed.")
    return BoardPair(name, None, a, b)


def calibrate(
    pairs: Sequence[BoardPair], board: Board, size: tuple[int, int], *, lens: Lens = "pinhole"
) -> RigCalibration:
    """The rig that took these pairs.

    Args:
        pairs: of :func:`observe`.
        board: what they show.
        size: (width, height) of the views in pixels.
        lens: ``pinhole`` (k1 k2 p1 p2 k3), ``rational`` (k4 to k6 too, for wide lenses), or ``fisheye``.

    Raises:
        ValueError: too few pairs show the board, they do not determine the cameras, or the views are exchanged.
    """
    if lens not in LENSES:
        raise ValueError(f"lens is {lens!r}; it must be one of {', '.join(LENSES)}.")
    kept = [i for i, pair in enumerate(pairs) if pair.reason is None]
    if len(kept) < FEWEST_PAIRS:
        reasons = [pair.reason for pair in pairs if pair.reason is not None]
        first = f" (the first that does not: {reasons[0].rstrip('.')})" if reasons else ""
        counted = "inner corners" if board.marker is None else "squares"
        raise ValueError(
            f"{len(kept)} of {len(pairs)} pairs show the board in both views{first}; at least {FEWEST_PAIRS} are "
            f"needed and 15 to 30 are good, so take more, and check that it has {board.columns}x{board.rows} {counted}."
        )
    try:
        kept, rig, poses, limit = _without_outliers(pairs, kept, board, size, lens)
    except opencv().error as error:
        raise ValueError(_unsolved(len(kept), lens)) from error
    if rig.T[0] > 0:
        raise ValueError(
            f"The camera of the right views stands {rig.T[0]:.3f} m to the left of the other; exchange the left and "
            "the right views."
        )
    try:
        results = [_judged(rig, board, pair, limit) for pair in pairs]
        for i, pose in zip(kept, poses, strict=True):
            left, right = _residuals(rig, board, pairs[i], *pose)
            results[i] = replace(pairs[i], left_residuals=left, right_residuals=right)
        return _assessed(rig, results, poses)
    except opencv().error as error:
        raise ValueError(_unsolved(len(kept), lens)) from error


def covered(pairs: Sequence[BoardPair], size: tuple[int, int], side: Literal[0, 1]) -> Bool[np.ndarray, "rows columns"]:
    """Which cells of the image, in a grid of 8 x 6, hold a corner.

    Args:
        pairs: that count.
        size: (width, height) of the view in pixels.
        side: 0 for the left view, 1 for the right one.
    """
    columns, rows = GRID
    cells = np.zeros((rows, columns), bool)
    for pair in pairs:
        corners = (pair.left, pair.right)[side]
        if corners is None:
            continue
        x = ((corners.pixels[:, 0] + 0.5) / size[0] * columns).astype(int).clip(0, columns - 1)
        y = ((corners.pixels[:, 1] + 0.5) / size[1] * rows).astype(int).clip(0, rows - 1)
        cells[y, x] = True
    return cells


def _without_outliers(
    pairs: Sequence[BoardPair], kept: list[int], board: Board, size: tuple[int, int], lens: Lens
) -> tuple[list[int], StereoRig, list[tuple[np.ndarray, np.ndarray]], float]:
    """Which pairs are left, the rig that they give, their poses, and the limit of the error in pixels."""
    consistent = _consistent([pairs[i] for i in kept], board, size, lens)
    doubtful: list[int] = []
    if sum(consistent) >= FEWEST_PAIRS:
        doubtful = [i for i, good in zip(kept, consistent, strict=True) if not good]
        kept = [i for i, good in zip(kept, consistent, strict=True) if good]
    fewest = max(FEWEST_PAIRS, len(kept) // 2)
    while True:
        rig, poses = _solve([pairs[i] for i in kept], board, size, lens)
        errors = np.array([max(_errors(rig, board, pairs[i], *pose)) for i, pose in zip(kept, poses, strict=True)])
        limit = max(SMALLEST_OUTLIER, OUTLIER * float(np.median(errors)))
        # A bad pair also spoils the figures of its neighbours, so that only the worst go at once.
        bad = errors > max(limit, 0.5 * float(errors.max()))
        if bad.any() and len(kept) - int(bad.sum()) >= fewest:
            kept = [i for i, dropped in zip(kept, bad, strict=True) if not dropped]
            continue
        # What the first look dropped gets a second chance with the rig that is known now.
        again = [i for i in doubtful if max(_own_errors(rig, board, pairs[i])) <= limit]
        if not again:
            return kept, rig, poses, limit
        kept, doubtful = sorted([*kept, *again]), []


def _consistent(pairs: Sequence[BoardPair], board: Board, size: tuple[int, int], lens: Lens) -> list[bool]:
    """Which pairs agree roughly on how the cameras stand.

    A single pair of two different poses can lead the solver astray for good. So each camera is solved alone, and of the
    relations of the cameras that single pairs give, the one counts that fits half of the others best.
    """
    cv2 = opencv()
    corners = _corners(pairs)
    points = [board.points[left.ids] for left, _ in corners]
    cameras, poses = [], []
    for side in (0, 1):
        views = [pair[side].pixels for pair in corners]
        camera = _solve_alone(points, views, size, lens)
        alone = [_alone_error(camera, p, pixels) for p, pixels in zip(points, views, strict=True)]
        good = [error <= _loose(alone) for error in alone]
        if not all(good) and sum(good) >= FEWEST_PAIRS:
            kept = [i for i, fits in enumerate(good) if fits]
            camera = _solve_alone([points[i] for i in kept], [views[i] for i in kept], size, lens)
        cameras.append(camera)
        poses.append([_pose(camera, p, pixels) for p, pixels in zip(points, views, strict=True)])
    best: list[float] = []
    for i in np.linspace(0, len(pairs) - 1, min(len(pairs), MOST_CANDIDATES)).round().astype(int):
        turns = [cv2.Rodrigues(poses[side][i][0])[0] for side in (0, 1)]
        rotation = turns[1] @ turns[0].T
        translation = np.ravel(poses[1][i][1]) - rotation @ np.ravel(poses[0][i][1])
        rig = StereoRig(cameras[0], cameras[1], rotation, translation, *size)
        errors = [max(_errors(rig, board, pair, *pose)) for pair, pose in zip(pairs, poses[0], strict=True)]
        if not best or np.median(errors) < np.median(best):
            best = errors
    return [error <= _loose(best) for error in best]


def _solve(
    pairs: Sequence[BoardPair], board: Board, size: tuple[int, int], lens: Lens
) -> tuple[StereoRig, list[tuple[np.ndarray, np.ndarray]]]:
    """The rig, and the pose of the board before the left camera in each pair."""
    cv2 = opencv()
    corners = _corners(pairs)
    points = [board.points[left.ids] for left, _ in corners]
    views = [[pair[side].pixels for pair in corners] for side in (0, 1)]
    left, right = (_solve_alone(points, view, size, lens) for view in views)
    try:
        if lens == "fisheye":
            left, right, r, t = solve_rig(points, views[0], views[1], (left, right))
            rig = StereoRig(left, right, r, t, *size)
            return rig, [_pose(rig.left, p, pixels) for p, pixels in zip(points, views[0], strict=True)]
        start = (left.K, left.distortion, right.K, right.distortion, size)
        flags = cv2.CALIB_USE_INTRINSIC_GUESS | (cv2.CALIB_RATIONAL_MODEL if lens == "rational" else 0)
        found = cv2.stereoCalibrateExtended(points, *views, *start, None, None, flags=flags)
        _, k1, d1, k2, d2, r, t = found[:7]
        rig = StereoRig(_camera(k1, d1, lens), _camera(k2, d2, lens), r, np.ravel(t), *size)
    except (cv2.error, ValueError) as error:
        raise ValueError(_unsolved(len(pairs), lens)) from error
    return rig, list(zip(found[9], found[10], strict=True))


def _solve_alone(points: list[np.ndarray], views: list[np.ndarray], size: tuple[int, int], lens: Lens) -> RawCamera:
    cv2 = opencv()
    try:
        if lens == "fisheye":
            return solve_camera(points, views, size)
        flags = cv2.CALIB_RATIONAL_MODEL if lens == "rational" else 0
        found = cv2.calibrateCamera(points, views, size, None, None, flags=flags)
        return _camera(found[1], found[2], lens)
    except (cv2.error, ValueError) as error:
        raise ValueError(_unsolved(len(points), lens)) from error


def _camera(k: np.ndarray, distortion: np.ndarray, lens: Lens) -> RawCamera:
    # OpenCV returns more coefficients than it solved for; the others are 0.
    return RawCamera(k, distortion.ravel()[: 8 if lens == "rational" else 5])


def _corners(pairs: Sequence[BoardPair]) -> list[tuple[Corners, Corners]]:
    return [(pair.left, pair.right) for pair in pairs if pair.left is not None and pair.right is not None]


def _loose(errors: Sequence[float]) -> float:
    """A limit that only what is plainly wrong exceeds, in pixels."""
    return max(LOOSE, LOOSE_FACTOR * float(np.median(errors)))


def _judged(rig: StereoRig, board: Board, pair: BoardPair, limit: float) -> BoardPair:
    """A pair that was dropped: which of its views is wrong, or that both are right and do not belong together."""
    if pair.left is None or pair.right is None:
        return pair
    alone = []
    for camera, corners in ((rig.left, pair.left), (rig.right, pair.right)):
        alone.append(_alone_error(camera, board.points[corners.ids], corners.pixels))
    pose = _pose(rig.left, board.points[pair.left.ids], pair.left.pixels)
    left, right = _residuals(rig, board, pair, *pose)
    if max(alone) > limit:
        which = "left" if alone[0] >= alone[1] else "right"
        reason = (
            f"The corners of the {which} view lie {max(alone):.2f} px off a flat board, limit {limit:.2f} px: blurred, "
            "half hidden, bent, or not this board."
        )
    else:
        reason = (
            f"Each view fits alone, together they are {max(_rms(left), _rms(right)):.2f} px off, limit {limit:.2f} px: "
            "the board moved between the exposures, or the views are of two pairs."
        )
    return replace(pair, reason=reason, left_residuals=left, right_residuals=right)


def _assessed(rig: StereoRig, pairs: list[BoardPair], poses: list[tuple[np.ndarray, np.ndarray]]) -> RigCalibration:
    cv2 = opencv()
    size = (rig.width or 0, rig.height or 0)
    used = [pair for pair in pairs if pair.reason is None]
    residuals = [r for pair in used for r in (pair.left_residuals, pair.right_residuals) if r is not None]
    rms = _rms(np.concatenate(residuals))
    coverage = float(covered(used, size, 0).mean()), float(covered(used, size, 1).mean())
    normals = np.stack([cv2.Rodrigues(rotation)[0][:, 2] for rotation, _ in poses])
    tilt = float(np.degrees(np.arccos(np.clip(normals @ normals.T, -1, 1).min())))
    result = RigCalibration(rig, tuple(pairs), rms, _row_error(rig, used), coverage, tilt, ())
    return replace(result, advice=tuple(_advice(result)))


def _advice(result: RigCalibration) -> list[str]:
    advice = []
    if result.rms > GOOD_RMS:
        advice.append(
            f"The corners lie {result.rms:.2f} px off where 0.1 to {GOOD_RMS} px are usual; see that the board is flat "
            "and sharp, the rig rigid and both exposures at one moment, or try another lens."
        )
    if len(result.used) < GOOD_PAIRS:
        advice.append(f"{len(result.used)} pairs count; take 15 to 30.")
    for which, share in zip(("left", "right"), result.coverage, strict=True):
        if share < GOOD_COVERAGE:
            advice.append(
                f"The boards reach {share:.0%} of the {which} image and the lens is not known elsewhere; take pairs "
                "towards its edges and corners."
            )
    (_, _, projection, _), doubtful = result.rig.solve()
    zoom = projection[0, 0] / result.rig.left.K[0, 0]
    if doubtful is not None or not 1 / LARGEST_ZOOM < zoom < LARGEST_ZOOM:
        advice.append(
            "The lens is not known well at the edges of the image, where rectification needs it; take pairs there, or "
            "choose another lens."
        )
    if result.tilt < GOOD_TILT:
        advice.append(
            f"The boards are tilted by {result.tilt:.0f} degrees against each other, so the focal length is uncertain; "
            "take some tilted by 30 to 45 degrees."
        )
    return advice


def _row_error(rig: StereoRig, pairs: list[BoardPair]) -> float:
    cv2 = opencv()
    (r1, r2, *_), _ = rig.solve()
    focal = (rig.left.K[1, 1] + rig.right.K[1, 1]) / 2
    distances = []
    for left, right in _corners(pairs):
        rows = []
        for camera, corners, rotation in ((rig.left, left, r1), (rig.right, right, r2)):
            undistort = cv2.fisheye.undistortPoints if camera.model == "fisheye" else cv2.undistortPoints
            pixels = corners.pixels[:, None].astype(np.float64)
            rows.append(focal * undistort(pixels, camera.K, camera.distortion, R=rotation)[:, 0, 1])
        distances.append(np.abs(rows[0] - rows[1]))
    return float(np.median(np.concatenate(distances)))


def _errors(rig: StereoRig, board: Board, pair: BoardPair, rotation: Any, translation: Any) -> tuple[float, float]:
    left, right = _residuals(rig, board, pair, rotation, translation)
    return _rms(left), _rms(right)


def _own_errors(rig: StereoRig, board: Board, pair: BoardPair) -> tuple[float, float]:
    """Errors of both views where the left one alone says how the board stands."""
    assert pair.left is not None
    return _errors(rig, board, pair, *_pose(rig.left, board.points[pair.left.ids], pair.left.pixels))


def _residuals(
    rig: StereoRig, board: Board, pair: BoardPair, rotation: Any, translation: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Measured less projected corners of both views, for a pose of the board before the left camera."""
    cv2 = opencv()
    assert pair.left is not None
    assert pair.right is not None
    points = board.points[pair.left.ids]
    left = pair.left.pixels - _project(rig.left, points, rotation, translation)
    turned = rig.R @ cv2.Rodrigues(np.asarray(rotation, np.float64))[0]
    moved = rig.R @ np.ravel(translation) + rig.T
    return left, pair.right.pixels - _project(rig.right, points, cv2.Rodrigues(turned)[0], moved)


def _project(camera: RawCamera, points: np.ndarray, rotation: Any, translation: Any) -> np.ndarray:
    cv2 = opencv()
    project = cv2.fisheye.projectPoints if camera.model == "fisheye" else cv2.projectPoints
    pose = [np.asarray(v, np.float64).reshape(3, 1) for v in (rotation, translation)]
    pixels, _ = project(points[:, None].astype(np.float64), *pose, camera.K, camera.distortion)
    return pixels.reshape(-1, 2)


def _pose(camera: RawCamera, points: np.ndarray, pixels: Float32[np.ndarray, "n 2"]) -> tuple[np.ndarray, np.ndarray]:
    """Where the board stands before one camera (rotation vector, translation in metres)."""
    cv2 = opencv()
    undistort = cv2.fisheye.undistortPoints if camera.model == "fisheye" else cv2.undistortPoints
    rays = undistort(pixels[:, None].astype(np.float64), camera.K, camera.distortion)
    _, rotation, translation = cv2.solvePnP(points.astype(np.float64), rays, np.eye(3), None)
    return rotation, translation


def _alone_error(camera: RawCamera, points: np.ndarray, pixels: np.ndarray) -> float:
    """Reprojection error of one view, whatever the other one shows."""
    return _rms(pixels - _project(camera, points, *_pose(camera, points, pixels)))


def _unsolved(count: int, lens: Lens) -> str:
    return (
        f"The {count} pairs do not determine the cameras with the lens {lens!r}; take more with the board tilted and "
        "near every edge, or choose another lens."
    )


def _rms(residuals: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(residuals).sum(-1))))


def _grey(image: Any) -> UInt8[np.ndarray, "h w"]:
    return np.round(image[0].numpy() * 255).astype(np.uint8)
