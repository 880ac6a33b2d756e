"""Intel RealSense: the intrinsics of its two infrared cameras as JSON, or what ``rs-enumerate-devices -c`` prints.

Distances are in metres. In JSON, two objects hold ``ppx ppy fx fy`` (and ``width height model coeffs``) and one holds
``rotation`` (nine numbers, column by column, as librealsense keeps them, or three rows) and ``translation`` from the
left to the right camera; ``baseline`` may stand for it. The infrared views of a D400 camera are rectified.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from stereopsis.calibration.camera import RawCamera
from stereopsis.calibration.cameras import Cameras, Source
from stereopsis.calibration.lenses import make_camera
from stereopsis.calibration.parsing import doubt, intrinsics, matrix, number, size_of, vector
from stereopsis.calibration.raw import StereoRig

UNIT = 1.0
INFRARED = re.compile(r"infra|ir[ _-]?[12]|left|right|fisheye", re.IGNORECASE)
SECOND = re.compile(r"2\b|right", re.IGNORECASE)


def matches(values: dict[str, Any]) -> bool:
    return any("ppx" in part and "fx" in part for _, part in _parts(values))


def matches_text(text: str) -> bool:
    return re.search(r"Intrinsic of \"", text) is not None and "PPX" in text


def read(source: Source) -> Cameras:
    path = source.path
    found = [(name, part) for name, part in _parts(source.values) if "ppx" in part]
    named = [(name, part) for name, part in found if INFRARED.search(name)]
    found = named if len(named) >= 2 else found
    if len(found) > 2 and source.reading.size is not None:
        same = [(name, part) for name, part in found if size_of(part, path) == source.reading.size]
        found = same if len(same) == 2 else found
    if len(found) != 2:
        raise ValueError(
            f"{path} holds the intrinsics of {len(found)} cameras; it must hold those of the left and the right "
            "infrared camera, and their extrinsics."
        )
    found.sort(key=lambda item: SECOND.search(item[0]) is not None)
    rotation, translation = _pose(source)
    cameras = [_camera(part, source) for _, part in found]
    return _rig(cameras, rotation, translation, size_of(found[0][1], path), source)


def read_text(source: Source) -> Cameras:
    """The printout of ``rs-enumerate-devices -c``: of the two infrared cameras at the size of the images."""
    text, path = source.first.text, source.path
    blocks: dict[tuple[int, int], dict[int, dict[str, Any]]] = {}
    for title, side, body in re.findall(
        r"Intrinsic of \"((?:Infrared|Fisheye) ?([12]))\"[^\n]*\n(.*?)(?=\n\s*Intrinsic of|\n\s*Extrinsic|\Z)",
        text,
        re.DOTALL,
    ):
        values = {
            key.strip().lower(): value.strip() for key, value in re.findall(r"^\s*([A-Za-z]+):\s*(.+)$", body, re.M)
        }
        size = int(number(values, "width", path)), int(number(values, "height", path))
        blocks.setdefault(size, {})[int(side)] = values | {"title": title}
    whole = {size: pair for size, pair in blocks.items() if len(pair) == 2}
    if not whole:
        raise ValueError(f"{path} does not list the intrinsics of Infrared 1 and Infrared 2; print them with -c.")
    size = source.reading.size if source.reading.size in whole else max(whole)
    if len(whole) > 1 and source.reading.size is None:
        doubt(f"{path} lists {len(whole)} sizes and that of the images is not known; {size[0]}x{size[1]} px is used.")
    matched = re.search(
        r"Extrinsic from \"(?:Infrared|Fisheye) ?1\"\s+To\s+\"(?:Infrared|Fisheye) ?2\"\s*:?\s*\n"
        r"\s*Rotation Matrix:\s*\n((?:\s*[-\d.eE]+\s+[-\d.eE]+\s+[-\d.eE]+\s*\n){3})"
        r"\s*Translation Vector:\s*([-\d.eE ]+)", text
    )  # fmt: skip
    if matched is None:
        raise ValueError(f"{path} lacks the extrinsics from Infrared 1 to Infrared 2; print them with -c.")
    rotation = matrix(matched[1].split(), 3, 3, "Rotation Matrix", path)
    translation = matrix(matched[2].split(), 3, 1, "Translation Vector", path).ravel()
    cameras = []
    for side in (1, 2):
        values = whole[size][side]
        model = re.sub(r"\W+", "_", values.get("distortion", "none")).lower()
        cameras.append(_camera({**values, "coeffs": values.get("coeffs", "").split(), "model": model}, source))
    return _rig(cameras, rotation, translation, size, source)


def _rig(
    cameras: list[RawCamera],
    rotation: np.ndarray,
    translation: np.ndarray,
    size: tuple[int | None, int | None],
    source: Source,
) -> Cameras:
    metres = source.reading.metres(UNIT)
    return Cameras(None, StereoRig(cameras[0], cameras[1], rotation, translation * metres, *size))


def _parts(value: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All objects of a document with the names that lead to them."""
    if isinstance(value, dict):
        own = " ".join(str(value[key]) for key in ("stream", "name", "stream_name", "index") if key in value)
        yield f"{name} {own}".strip(), value
        for key, part in value.items():
            yield from _parts(part, f"{name} {key}".strip())
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from _parts(part, f"{name} {i + 1}".strip())


def _pose(source: Source) -> tuple[np.ndarray, np.ndarray]:
    path = source.path
    for _, part in _parts(source.values):
        if "rotation" in part and "translation" in part:
            rotation = matrix(part["rotation"], 3, 3, "rotation", path)
            # Nine numbers in one row are librealsense's own, which are columns.
            if not isinstance(part["rotation"][0], list):
                rotation = rotation.T
            return rotation, matrix(part["translation"], 3, 1, "translation", path).ravel()
    for _, part in _parts(source.values):
        for key in ("baseline", "stereo_baseline"):
            if key in part:
                return np.eye(3), np.array([-abs(number(part, key, path)), 0.0, 0.0])
    raise ValueError(f"{path} lacks the extrinsics (rotation and translation) of the two cameras, or their baseline.")


def _camera(part: dict[str, Any], source: Source) -> RawCamera:
    k = intrinsics(*(number(part, key, source.path) for key in ("fx", "fy", "ppx", "ppy")))
    coefficients = vector(part.get("coeffs"), "coeffs", source.path)
    model = str(part.get("model", part.get("distortion", "none"))).lower()
    model = model.removeprefix("rs2_distortion_").removeprefix("distortion.").strip()
    if model == "kannala_brandt4":
        coefficients = coefficients[:4]
    return make_camera(k, coefficients, model, source.path, source.reading.lens)
