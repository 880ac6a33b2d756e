"""Fisheye cameras and rigs from the corners of boards: bundle adjustment by Levenberg and Marquardt.

OpenCV's ``fisheye.stereoCalibrate`` wants one number of corners in all views, and ``fisheye.calibrate`` stops where its
first guess of a pose fails. Here every view has its own corners, and several focal lengths are tried at the start. The
derivatives are those of ``fisheye.projectPoints`` and ``composeRT``. The poses of the boards are eliminated from the
normal equations (Schur complement), so that the cost grows with the number of pairs and not with its cube.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from stereopsis.calibration.camera import RawCamera

FIELDS = (90, 120, 150, 180, 220)  # degrees across the image that the first guesses assume
FIRST_STEPS, MOST_STEPS = 12, 100
DONE = 1e-10  # relative change of the cost
WIDE = 1.3  # radians from the axis; corners further out do not make the first guess of a pose
INTRINSICS = 8  # fx fy cx cy k1 k2 k3 k4

Points = Sequence[Float[np.ndarray, "n 3"]]
Pixels = Sequence[Float[np.ndarray, "n 2"]]
# Of one pair: residuals, derivatives by what all pairs share, derivatives by the pose of its board.
Parts = tuple[np.ndarray, np.ndarray, np.ndarray]


def solve_camera(points: Points, views: Pixels, size: tuple[int, int]) -> RawCamera:
    """One fisheye camera.

    Args:
        points: corners of the board in metres, of each view.
        views: where they are in the image.
        size: (width, height) of the image in pixels.

    Raises:
        ValueError: no focal length leads to a solution.
    """
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for field in FIELDS:
        focal = size[0] / np.radians(field)
        start = np.array([focal, focal, (size[0] - 1) / 2, (size[1] - 1) / 2, 0, 0, 0, 0], dtype=np.float64)
        poses = [first_pose(_camera(start), p, v) for p, v in zip(points, views, strict=True)]
        if any(pose is None for pose in poses):
            continue
        found = _minimise(start, np.array(poses), lambda s, i, pose: _single(s, points[i], views[i], pose), FIRST_STEPS)
        if found is not None and (best is None or found[0] < best[0]):
            best = found
    if best is not None:
        best = _minimise(best[1], best[2], lambda s, i, pose: _single(s, points[i], views[i], pose), MOST_STEPS)
    if best is None:
        raise ValueError("No focal length fits the corners.")
    return _camera(best[1])


def solve_rig(
    points: Points, left: Pixels, right: Pixels, cameras: tuple[RawCamera, RawCamera]
) -> tuple[RawCamera, RawCamera, Float64[np.ndarray, "3 3"], Float64[np.ndarray, " 3"]]:
    """Both cameras and ``X_right = R X_left + T``, from cameras that are nearly right.

    Args:
        points: corners of the board in metres, of each pair.
        left, right: where they are in both views.
        cameras: of :func:`solve_camera`.

    Raises:
        ValueError: the corners do not determine the rig.
    """
    import cv2

    poses = [[first_pose(camera, p, v) for p, v in zip(points, views, strict=True)]
             for camera, views in zip(cameras, (left, right), strict=True)]  # fmt: skip
    relations = []
    for a, b in zip(*poses, strict=True):
        if a is not None and b is not None:
            back = cv2.composeRT(-a[:3], -cv2.Rodrigues(a[:3])[0].T @ a[3:], b[:3], b[3:])
            relations.append(np.ravel(back[:2]))
    if not relations or any(pose is None for pose in poses[0]):
        raise ValueError("The corners do not show where the boards stood.")
    # The relation in the middle of all: one that a bad pair gives must not lead astray.
    distance = [np.median(np.linalg.norm(np.array(relations) - relation, axis=1)) for relation in relations]
    shared = np.concatenate([_numbers(cameras[0]), _numbers(cameras[1]), relations[int(np.argmin(distance))]])
    found = _minimise(
        shared, np.array(poses[0]), lambda s, i, pose: _double(s, points[i], left[i], right[i], pose), MOST_STEPS
    )
    if found is None:
        raise ValueError("The corners do not determine the rig.")
    n = INTRINSICS
    place = found[1][2 * n :]
    return _camera(found[1][:n]), _camera(found[1][n : 2 * n]), np.asarray(cv2.Rodrigues(place[:3])[0]), place[3:]


def first_pose(camera: RawCamera, points: np.ndarray, pixels: np.ndarray) -> Float64[np.ndarray, " 6"] | None:
    """Rotation vector and translation of a board, from the corners near the axis; None where that fails."""
    import cv2

    k = camera.K
    angles = np.linalg.norm((pixels - k[:2, 2]) / k[[0, 1], [0, 1]], axis=1)
    near = np.argsort(angles)[: max(6, int((angles < WIDE).sum()))]
    try:
        rays = cv2.fisheye.undistortPoints(pixels[near, None].astype(np.float64), k, camera.distortion)
        if not np.isfinite(rays).all() or np.abs(rays).max() > 1e3:
            return None
        done, rotation, translation = cv2.solvePnP(points[near].astype(np.float64), rays, np.eye(3), None)
    except cv2.error:
        return None
    pose = np.concatenate([np.ravel(rotation), np.ravel(translation)])
    return pose if done and np.isfinite(pose).all() else None


def _minimise(
    shared: np.ndarray, poses: np.ndarray, parts: Callable[[np.ndarray, int, np.ndarray], Parts], steps: int
) -> tuple[float, np.ndarray, np.ndarray] | None:
    """The cost (sum of squares), the shared numbers and the poses; None where the start has no finite cost."""
    damping = 1e-3
    current = _collected(shared, poses, parts)
    for _ in range(steps):
        if not np.isfinite(current[0]):
            return None
        change = _step(current, damping)
        if change is None:
            damping *= 10
        else:
            tried = _collected(shared + change[0], poses + change[1], parts)
            if np.isfinite(tried[0]) and tried[0] < current[0]:
                small = current[0] - tried[0] < DONE * current[0]
                shared, poses, current, damping = shared + change[0], poses + change[1], tried, max(damping / 10, 1e-12)
                if small:
                    break
                continue
            damping *= 10
        if damping > 1e8:
            break
    return float(current[0]), shared, poses


def _collected(shared: np.ndarray, poses: np.ndarray, parts: Callable[..., Parts]) -> tuple[Any, ...]:
    """The cost and the blocks of the normal equations."""
    size, cost = shared.size, 0.0
    u, g = np.zeros((size, size)), np.zeros(size)
    blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for i, pose in enumerate(poses):
        residual, by_shared, by_pose = parts(shared, i, pose)
        if not (np.isfinite(residual).all() and np.isfinite(by_shared).all() and np.isfinite(by_pose).all()):
            return np.inf, u, g, blocks
        cost += float(residual @ residual)
        u += by_shared.T @ by_shared
        g += by_shared.T @ residual
        blocks.append((by_shared.T @ by_pose, by_pose.T @ by_pose, by_pose.T @ residual))
    return cost, u, g, blocks


def _step(current: tuple[Any, ...], damping: float) -> tuple[np.ndarray, np.ndarray] | None:
    _, u, g, blocks = current
    try:
        s, h, inverses = u + damping * np.diag(np.diag(u)), g.copy(), []
        for w, v, b in blocks:
            inverse = np.linalg.inv(v + damping * np.diag(np.diag(v)))
            s -= w @ inverse @ w.T
            h -= w @ inverse @ b
            inverses.append(inverse)
        shared = np.linalg.solve(s, h)
    except np.linalg.LinAlgError:
        return None
    poses = [inverse @ (b - w.T @ shared) for inverse, (w, _, b) in zip(inverses, blocks, strict=True)]
    return shared, np.array(poses)


def _single(shared: np.ndarray, points: np.ndarray, pixels: np.ndarray, pose: np.ndarray) -> Parts:
    seen, jacobian = _projected(shared, points, pose[:3], pose[3:])
    return (pixels - seen).ravel(), jacobian[:, :INTRINSICS], jacobian[:, INTRINSICS:]


def _double(shared: np.ndarray, points: np.ndarray, left: np.ndarray, right: np.ndarray, pose: np.ndarray) -> Parts:
    import cv2

    n, place = INTRINSICS, shared[2 * INTRINSICS :]
    seen, jacobian = _projected(shared[:n], points, pose[:3], pose[3:])
    composed = cv2.composeRT(pose[:3], pose[3:], place[:3], place[3:])
    rotation, translation, r_r1, r_t1, r_r2, r_t2, t_r1, t_t1, t_r2, t_t2 = composed
    by_pose = np.block([[r_r1, r_t1], [t_r1, t_t1]])
    by_place = np.block([[r_r2, r_t2], [t_r2, t_t2]])
    seen_right, other = _projected(shared[n : 2 * n], points, np.ravel(rotation), np.ravel(translation))
    residual = np.concatenate([(left - seen).ravel(), (right - seen_right).ravel()])
    rows = len(jacobian)
    by_shared = np.zeros((2 * rows, shared.size))
    by_shared[:rows, :n], by_shared[rows:, n : 2 * n] = jacobian[:, :n], other[:, :n]
    by_shared[rows:, 2 * n :] = other[:, n:] @ by_place
    return residual, by_shared, np.vstack([jacobian[:, n:], other[:, n:] @ by_pose])


def _projected(
    numbers: np.ndarray, points: np.ndarray, rotation: np.ndarray, translation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 2), and derivatives (2 n, 14) by the intrinsics and the pose."""
    import cv2

    fx, fy, cx, cy = numbers[:4]
    k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    world = np.ascontiguousarray(points[:, None], dtype=np.float64)
    pixels, jacobian = cv2.fisheye.projectPoints(world, rotation, translation, k, numbers[4:])
    return pixels.reshape(-1, 2), jacobian[:, :14]


def _camera(numbers: np.ndarray) -> RawCamera:
    fx, fy, cx, cy = numbers[:4]
    return RawCamera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), numbers[4:], "fisheye")


def _numbers(camera: RawCamera) -> np.ndarray:
    k = camera.K
    return np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2], *camera.distortion])
