"""ROS ``camera_info``, one file a camera: calibration YAML, what ``topic echo`` prints, messages of a bag, ost.txt.

The right projection matrix carries the baseline. Calibration files write ``camera_matrix`` and so on, messages of ROS 2
``k d r p``, messages of ROS 1 ``K D R P``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stereopsis.calibration.camera import RawCamera
from stereopsis.calibration.cameras import Cameras, Source
from stereopsis.calibration.lenses import make_camera
from stereopsis.calibration.parsing import doubt, matrix, size_of, vector
from stereopsis.calibration.raw import StereoRig
from stereopsis.types import StereoCalibration

UNIT = 1.0
NAMES = {
    "camera_matrix": ("k", "K", "camera_info.K"),
    "distortion_coefficients": ("d", "D", "distortion_coefficents"),
    "rectification_matrix": ("r", "R"),
    "projection_matrix": ("p", "P"),
    "distortion_model": ("camera_model",),
}
# A matrix whose principal point lies in the middle of an image of another size belongs to that size. Sensors are
# binned and cropped by these factors, and lenses are off their sensor's middle by less than the tolerance.
FACTORS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 2, 2.0, 3.0, 4.0)
TOLERANCE = 0.12


def matches(values: dict[str, Any]) -> bool:
    named = _named(values)
    return "camera_matrix" in named and "projection_matrix" in named


def read(source: Source) -> Cameras:
    left, right = _both(source)
    path, metres = source.path, source.reading.metres(UNIT)
    p_left, p_right = (matrix(d["projection_matrix"], 3, 4, "projection_matrix", path) for d in (left, right))
    if p_left[0, 3] == p_right[0, 3]:
        raise ValueError(
            f"{path}: projection_matrix gives a baseline of 0 m; it must be above 0, so calibrate the two cameras "
            "as a pair, and name the left and the right file."
        )
    size = size_of(left, path)
    if size != size_of(right, path):
        raise ValueError(
            f"{path}: the views are {size} and {size_of(right, path)} px; they must be of one size, "
            "so name the two files of one rig."
        )
    window = _window(left, path)
    if window != _window(right, path):
        raise ValueError(f"{path}: the two cameras have other binning or regions of interest; they must have the same.")
    calibration = StereoCalibration.from_projections(
        _seen(p_left, window), _seen(p_right, window), unit=metres, width=None, height=None
    )
    size = _seen_size(size, window)
    calibration = _with_size(calibration, size, path)
    try:
        rig = _raw(left, right, calibration, source, window, size)
    except ValueError as error:
        return Cameras(calibration, None, str(error))
    return Cameras(calibration, rig)


def read_text(source: Source) -> Cameras:
    """``ost.txt``: sections with a size and four matrices, one for each camera."""
    path, cameras = source.path, []
    for title, body in re.findall(r"^\[([^\]]+)\]\s*\n(.*?)(?=^\[|\Z)", source.first.text, re.MULTILINE | re.DOTALL):
        if title.strip() == "image":
            numbers = [int(float(word)) for word in re.findall(r"^[\d.]+\s*$", body, re.MULTILINE)]
            size = dict(zip(("image_width", "image_height"), numbers, strict=False))
            continue
        parts = re.split(r"^(camera matrix|distortion|rectification|projection)\s*$", body, flags=re.MULTILINE)
        keys = ("camera_matrix", "distortion_coefficients", "rectification_matrix", "projection_matrix")
        found = {keys[("camera matrix", "distortion", "rectification", "projection").index(name)]: text.split()
                 for name, text in zip(parts[1::2], parts[2::2], strict=True)}  # fmt: skip
        if "camera_matrix" in found and "projection_matrix" in found:
            cameras.append({**size, **found, "distortion_model": "plumb_bob"})
    if len(cameras) != 2:
        raise ValueError(f"{path} describes {len(cameras)} cameras; it must hold the left and the right one.")
    first = source.first
    pair = Source(
        type(first)(path, "yaml", first.text, cameras[0], (cameras[1],)), source.companion, False, source.reading
    )
    return read(pair)


def matches_text(text: str) -> bool:
    return "projection" in text and re.search(r"^camera matrix\s*$", text, re.MULTILINE) is not None


def write(calibration: StereoCalibration, view: Literal["left", "right"]) -> str:
    side = 0 if view == "left" else 1
    k = calibration.K if view == "left" else calibration.K_right
    return _written(
        (calibration.width, calibration.height), view, k, "plumb_bob", np.zeros(5), np.eye(3),
        calibration.projections[side],
    )  # fmt: skip


def write_rig(rig: StereoRig, view: Literal["left", "right"]) -> str:
    """One camera of a raw rig, with the rectification of its file, or the one that is computed."""
    side = 0 if view == "left" else 1
    camera = (rig.left, rig.right)[side]
    model = {4: "plumb_bob", 5: "plumb_bob", 0: "plumb_bob"}.get(camera.distortion.size, "rational_polynomial")
    model = "equidistant" if camera.model == "fisheye" else model
    coefficients = camera.distortion if camera.distortion.size else np.zeros(5)
    solved = rig.rectifying(None if rig.stored is not None else 0.0)
    return _written((rig.width, rig.height), view, camera.K, model, coefficients, solved[side], solved[2 + side])


def _written(
    size: tuple[int | None, int | None],
    view: str,
    k: np.ndarray,
    model: str,
    d: np.ndarray,
    r: np.ndarray,
    p: np.ndarray,
) -> str:
    if size[0] is None or size[1] is None:
        raise ValueError(
            "The calibration has no image size, and a camera_info file needs one; "
            "set width and height with dataclasses.replace first."
        )
    text = f"image_width: {size[0]}\nimage_height: {size[1]}\ncamera_name: {view}\n"
    text += _entry("camera_matrix", k) + f"distortion_model: {model}\n"
    text += _entry("distortion_coefficients", d[None])
    return text + _entry("rectification_matrix", r) + _entry("projection_matrix", p)


def _entry(name: str, value: np.ndarray) -> str:
    data = ", ".join(repr(float(x)) for x in value.ravel())
    return f"{name}:\n  rows: {value.shape[0]}\n  cols: {value.shape[1]}\n  data: [{data}]\n"


def _named(values: dict[str, Any]) -> dict[str, Any]:
    """The values under the names of calibration files."""
    found = dict(values)
    for name, others in NAMES.items():
        for other in others:
            if name not in found and other in values:
                found[name] = values[other]
    return found


def _both(source: Source) -> tuple[dict[str, Any], dict[str, Any]]:
    """The left and the right camera: of two files, or of two documents of one stream."""
    documents = [_named(d) for d in (source.values, *source.first.others) if matches(d)]
    if not source.has_companion and len(documents) > 1:
        shifts = [matrix(d["projection_matrix"], 3, 4, "projection_matrix", source.path)[0, 3] for d in documents]
        for document, shift in zip(documents, shifts, strict=True):
            if shift != shifts[0]:
                pair = (documents[0], document)
                return pair if shifts[0] > shift else pair[::-1]
    second = source.companion()
    right = next((_named(d) for d in (second.values, *second.others) if matches(d)), None)
    if right is None:
        raise ValueError(
            f"{second.path} has no camera_matrix and projection_matrix; name the file of the right camera."
        )
    return documents[0], right


def _raw(
    left: dict[str, Any],
    right: dict[str, Any],
    calibration: StereoCalibration,
    source: Source,
    window: tuple[int, ...],
    size: tuple[int | None, int | None],
) -> StereoRig:
    """The raw rig: what turns each camera into the rectified frame also defines how they stand to each other."""
    path = source.path
    r1, r2 = (_rectification(d, path) for d in (left, right))
    cameras = [_camera(d, source, window) for d in (left, right)]
    width, height = _true_size(cameras[0].K[0, 2], cameras[0].K[1, 2], size, "camera_matrix", path)
    # A rectification for views of another size than the raw matrix is none for this rig.
    stored = (r1, r2, *calibration.projections) if (width, height) == (calibration.width, calibration.height) else None
    translation = r2.T @ np.array([-calibration.baseline, 0.0, 0.0])
    return StereoRig(cameras[0], cameras[1], r2.T @ r1, translation, width, height, stored)


def _rectification(document: dict[str, Any], path: Path) -> np.ndarray:
    value = matrix(document.get("rectification_matrix"), 3, 3, "rectification_matrix", path)
    return value if value.any() else np.eye(3)  # a message without it holds zeros


def _camera(document: dict[str, Any], source: Source, window: tuple[int, ...]) -> RawCamera:
    path = source.path
    coefficients = vector(document.get("distortion_coefficients"), "distortion_coefficients", path)
    k = matrix(document["camera_matrix"], 3, 3, "camera_matrix", path)
    name = document.get("distortion_model")
    return make_camera(_seen(k, window), coefficients, None if name is None else str(name), path, source.reading.lens)


def _window(document: dict[str, Any], path: Path) -> tuple[int, ...]:
    """Left, top, width and height of the region of interest, and binning: matrices are for the whole image."""
    roi = document.get("roi") or {}
    try:
        region = [int(roi.get(key) or 0) for key in ("x_offset", "y_offset", "width", "height")]
        binning = [max(1, int(document.get(key) or 1)) for key in ("binning_x", "binning_y")]
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"{path}: roi or binning holds what is no whole number; correct them.") from None
    return (*region, *binning)


def _seen(value: np.ndarray, window: tuple[int, ...]) -> np.ndarray:
    """An intrinsic or projection matrix for the pixels of the image as it is sent."""
    x, y, _, _, bx, by = window
    offset = np.array([[1.0, 0, -x], [0, 1, -y], [0, 0, 1]])
    scaling = np.array([[1 / bx, 0, (1 / bx - 1) / 2], [0, 1 / by, (1 / by - 1) / 2], [0, 0, 1]])
    return np.asarray(scaling @ offset @ value)


def _seen_size(size: tuple[int | None, int | None], window: tuple[int, ...]) -> tuple[int | None, int | None]:
    if size[0] is None or size[1] is None:
        return None, None
    _, _, width, height, bx, by = window
    return (width or size[0]) // bx, (height or size[1]) // by


def _with_size(calibration: StereoCalibration, size: tuple[int | None, int | None], path: Path) -> StereoCalibration:
    from dataclasses import replace

    width, height = _true_size(calibration.cx, calibration.cy, size, "projection_matrix", path)
    return replace(calibration, width=width, height=height)


def _true_size(
    cx: float, cy: float, size: tuple[int | None, int | None], name: str, path: Path
) -> tuple[int | None, int | None]:
    """The size of the images that a matrix is for, which drivers that scale images do not always scale with them."""
    width, height = size
    if width is None or height is None:
        return size
    sx, sy = 2 * (cx + 0.5) / width, 2 * (cy + 0.5) / height
    for factor in FACTORS:
        if abs(sx / factor - 1) < TOLERANCE and abs(sy / factor - 1) < TOLERANCE:
            true = round(width * factor), round(height * factor)
            doubt(
                f"{path}: {name} has its principal point at ({cx:.1f}, {cy:.1f}), the middle of {true[0]}x{true[1]} "
                f"px, and the file states {width}x{height} px; the matrix is taken as that of {true[0]}x{true[1]} px."
            )
            return true
    if not (0 <= cx < width and 0 <= cy < height) or max(abs(sx - 1), abs(sy - 1)) > 0.5:
        doubt(
            f"{path}: {name} has its principal point at ({cx:.1f}, {cy:.1f}), far from the middle of the {width}x"
            f"{height} px that the file states; check that both are for the same images, or depth is wrong."
        )
    return size
