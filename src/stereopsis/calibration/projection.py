"""Projections of rectified views: how far a lens model reaches, what is wrong with a projection, and one that is right.

OpenCV chooses the projection from the edges of the raw image. Where a lens model does not hold there (an image circle
smaller than the image, rays beyond 90 degrees, coefficients that were never measured at the edge), it can be absurd.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from stereopsis.calibration.camera import RawCamera

Matrices = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

SMALLEST_ZOOM, LARGEST_ZOOM = 0.25, 2.0  # focal length of the rectified views against that of the raw ones
SMALLEST_SHARE = 0.25  # of the rectified pixels that show something
SMALLEST_EXTENT = 0.3  # of the raw width and height that the rectified views show
FARTHEST_AXIS = 0.25  # of the width or height, from the middle or from the raw principal point
USED = 0.6  # of the raw width and height that a projection shows at least, where the lens allows it
WIDEST = np.radians(77)  # half the field of view of a plane; beyond, its pixels are stretched more than 20 times
FIELDS = (10.0, 160.0)  # degrees that a caller may state
STEPS = 2000


def reach(camera: RawCamera) -> float:
    """The largest angle from the optical axis, in radians, up to which the lens model puts points further out.

    Beyond it the polynomial turns back, and a ray would be looked up at a pixel that shows another one.
    """
    fisheye = camera.model == "fisheye"
    angles = np.linspace(0, np.pi if fisheye else np.radians(89.5), STEPS)[1:]
    with np.errstate(all="ignore"):
        radii = _radius(camera, angles)
        turned = ~(np.diff(radii, prepend=0.0) > 0)
    return float(angles[turned.argmax() - 1] if turned.any() and turned.argmax() > 0 else angles[-1])


def _radius(camera: RawCamera, angles: np.ndarray) -> np.ndarray:
    """Distance from the principal point in units of the focal length; tangential terms are left out."""
    d = camera.distortion
    if camera.model == "fisheye":
        square = angles**2
        return np.asarray(angles * (1 + square * (d[0] + square * (d[1] + square * (d[2] + square * d[3])))))
    r = np.tan(angles)
    square = r**2
    k = np.zeros(6)
    if d.size:
        k[:2] = d[:2]
        k[2 : 2 + max(0, min(4, d.size - 4))] = d[4:8]
    above = 1 + square * (k[0] + square * (k[1] + square * k[2]))
    below = 1 + square * (k[3] + square * (k[4] + square * k[5]))
    return np.asarray(np.where((below > 0) & (above > 0), r * above / np.where(below > 0, below, 1), -1.0))


def lookup(
    camera: RawCamera, rotation: np.ndarray, projection: np.ndarray, width: int, height: int
) -> Float64[np.ndarray, "h w 2"]:
    """Where each rectified pixel lies in the raw image, in pixels; (-1, -1) beyond what the lens model reaches."""
    import cv2

    init = cv2.fisheye.initUndistortRectifyMap if camera.model == "fisheye" else cv2.initUndistortRectifyMap
    # Only the 3x3 part: the translation column places the right view, it does not move its pixels.
    matrix = np.ascontiguousarray(projection[:, :3])
    try:
        x, y = init(camera.K, camera.distortion, rotation, matrix, (width, height), cv2.CV_32FC1)
    except cv2.error as error:
        raise ValueError(
            f"OpenCV cannot rectify with this calibration ({_reason(error)}); calibrate it again."
        ) from None
    limit = np.cos(reach(camera))
    to_ray = rotation.T @ np.linalg.inv(matrix)
    corners = to_ray @ np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1], [1, 1, 1, 1]], float)
    if (corners[2] / np.linalg.norm(corners, axis=0)).min() <= limit:
        v, u = np.mgrid[0:height, 0:width].astype(np.float64)
        rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ to_ray.T
        beyond = rays[..., 2] / np.linalg.norm(rays, axis=-1) >= limit
        x, y = (np.where(beyond, values, np.float32(-1)) for values in (x, y))
    return np.stack([x, y], axis=-1)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split(") error:")[-1].split())[:120]


def rotations(rotation: np.ndarray, translation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What turns each camera so that both look the same way, square to the baseline (as OpenCV's stereoRectify).

    Each camera takes half of the rotation; then both turn by the smallest angle that lays the baseline along x.
    """
    import cv2

    half = np.asarray(cv2.Rodrigues(-0.5 * cv2.Rodrigues(rotation)[0])[0])
    moved = half @ translation
    target = np.array([np.sign(moved[0]) or 1.0, 0.0, 0.0])
    axis = np.cross(moved, target)
    if np.linalg.norm(axis) > 0:
        angle = np.arccos(np.clip(abs(moved[0]) / np.linalg.norm(moved), -1, 1))
        axis *= angle / np.linalg.norm(axis)
    turn = np.asarray(cv2.Rodrigues(axis)[0])
    return turn @ half.T, turn @ half


def faults(
    cameras: tuple[RawCamera, RawCamera], matrices: Matrices, width: int, height: int, *, stated: bool = False
) -> list[str]:
    """What is wrong with a rectification, one clause each; empty where nothing is.

    Args:
        cameras: left and right.
        matrices: R1, R2, P1 and P2.
        width, height: of the views in pixels.
        stated: whether the caller stated the field of view, so that a narrow one is no fault.
    """
    found = []
    for side, camera, rotation, projection in zip(("left", "right"), cameras, matrices[:2], matrices[2:], strict=True):
        cx, cy = projection[0, 2], projection[1, 2]
        if not (-0.5 <= cx <= width - 0.5 and -0.5 <= cy <= height - 0.5):
            found.append(f"the principal point ({cx:.0f}, {cy:.0f}) of the {side} view lies outside its pixels")
        zooms = projection[0, 0] / camera.K[0, 0], projection[1, 1] / camera.K[1, 1]
        if not stated and not SMALLEST_ZOOM <= min(zooms) <= max(zooms) <= LARGEST_ZOOM:
            found.append(f"the focal length of the {side} view is {zooms[0]:.2g} times the raw one")
        axis = projection[:, :3] @ rotation[:, 2]
        place = axis[:2] / axis[2] if axis[2] > 0 else np.full(2, np.inf)
        middle = np.array([width - 1, height - 1]) / 2
        allowed = FARTHEST_AXIS * np.array([width, height])
        if not any((np.abs(place - goal) <= allowed).all() for goal in (middle, camera.K[:2, 2])):
            found.append(f"the optical axis of the {side} camera falls far from the middle of the view")
        shown, across, down = _shown(camera, rotation, projection, width, height)
        if shown < SMALLEST_SHARE:
            found.append(f"{shown:.0%} of the pixels of the {side} view show something")
        elif not stated and min(across, down) < SMALLEST_EXTENT:
            found.append(f"the {side} view shows {across:.0%} of the raw width and {down:.0%} of its height")
    return found


def _shown(
    camera: RawCamera, rotation: np.ndarray, projection: np.ndarray, width: int, height: int
) -> tuple[float, float, float]:
    """Share of the pixels with a source, and shares of the raw width and height that they cover; on a coarse grid."""
    columns, rows = 64, 48
    scaling = np.diag([columns / width, rows / height, 1.0])
    scaling[:2, 2] = (scaling[[0, 1], [0, 1]] - 1) / 2
    places = lookup(camera, rotation, scaling @ projection[:, :3], columns, rows)
    x, y = places[..., 0], places[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    if not inside.any():
        return 0.0, 0.0, 0.0
    return float(inside.mean()), float(np.ptp(x[inside])) / width, float(np.ptp(y[inside])) / height


def centred(
    cameras: tuple[RawCamera, RawCamera],
    rotation: np.ndarray,
    translation: np.ndarray,
    width: int,
    height: int,
    fov: float | None = None,
) -> Matrices:
    """A projection that keeps the optical axes where they are: (R1, R2, P1, P2).

    The focal length is the raw one, or shorter where the views would show less than 60 % of the raw width and height.

    Args:
        cameras: left and right.
        rotation, translation: ``X_right = R X_left + T``.
        width, height: of the views in pixels.
        fov: horizontal field of view in degrees, in place of that focal length.

    Raises:
        ValueError: a field of view outside 10 to 160 degrees.
    """
    r1, r2 = rotations(rotation, translation)
    if fov is not None:
        if not FIELDS[0] <= fov <= FIELDS[1]:
            raise ValueError(
                f"The field of view is {fov:g} degrees; it must lie between {FIELDS[0]:g} and {FIELDS[1]:g}, "
                "for example 100."
            )
        focal = width / 2 / np.tan(np.radians(fov) / 2)
    else:
        wanted = [_focal(camera, i, extent) for camera in cameras for i, extent in enumerate((width, height))]
        focal = min(float(np.mean([camera.K[[0, 1], [0, 1]].mean() for camera in cameras])), *wanted)
    points = []
    for camera, turn in zip(cameras, (r1, r2), strict=True):
        axis = turn[:, 2]
        points.append(camera.K[:2, 2] - focal * axis[:2] / max(axis[2], 1e-3))
    cx, cy = np.mean(points, axis=0)
    left = np.array([[focal, 0, cx, 0], [0, focal, cy, 0], [0, 0, 1, 0]], dtype=np.float64)
    right = left.copy()
    right[0, 3] = focal * (r2 @ translation)[0]
    return r1, r2, left, right


def _focal(camera: RawCamera, axis: int, extent: int) -> float:
    """The focal length that shows the wanted share of the raw width or height."""
    angles = np.linspace(0, min(reach(camera), WIDEST), STEPS)
    radii = _radius(camera, angles) * camera.K[axis, axis]
    angle = angles[min(int(np.searchsorted(radii, USED * extent / 2)), STEPS - 1)]
    return float(extent / 2 / np.tan(angle))


def field_of_view(projection: np.ndarray, width: int) -> float:
    """The horizontal field of view of a projection, in degrees."""
    cx, focal = projection[0, 2], projection[0, 0]
    return float(np.degrees(np.arctan((cx + 0.5) / focal) + np.arctan((width - 0.5 - cx) / focal)))
