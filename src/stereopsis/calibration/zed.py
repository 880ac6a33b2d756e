"""Stereolabs' ``SN12345.conf`` of ZED cameras: sections of each resolution, distances in millimetres.

``[STEREO]`` holds ``Baseline``, ``TY`` and ``TZ``, and the rotation vector (``RX``, ``CV``, ``RZ``) of each resolution.
Its signs are those of Stereolabs' own code: the right camera stands at (Baseline, TY, TZ), so that T is their negative.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stereopsis.calibration.camera import RawCamera
from stereopsis.calibration.cameras import Cameras, Source
from stereopsis.calibration.lenses import make_camera
from stereopsis.calibration.parsing import doubt, intrinsics, number
from stereopsis.calibration.raw import StereoRig

UNIT = 0.001
SIZES = {
    "2K": (2208, 1242), "FHD": (1920, 1080), "FHD1200": (1920, 1200), "HD": (1280, 720), "HD1200": (1920, 1200),
    "HD1080": (1920, 1080), "HD720": (1280, 720), "SVGA": (960, 600), "VGA": (672, 376), "QHDPLUS": (3200, 1800),
    "4K": (3840, 2160), "XVGA": (1024, 768), "TXGA": (1024, 768),
}  # fmt: skip


def matches(values: dict[str, Any]) -> bool:
    return any(name.upper().startswith("LEFT_CAM_") for name in values)


def read(source: Source) -> Cameras:
    path = source.path
    sections = {name.upper(): {k.lower(): v for k, v in values.items()} for name, values in source.values.items()}
    names = [name.removeprefix("LEFT_CAM_") for name in sections if name.startswith("LEFT_CAM_")]
    held = [name for name in names if name in SIZES and f"RIGHT_CAM_{name}" in sections]
    if not held or "STEREO" not in sections:
        raise ValueError(f"{path} lacks the sections RIGHT_CAM_... or STEREO; download the file of the camera again.")
    name = _chosen(held, source)
    stereo = sections["STEREO"]
    metres = source.reading.metres(UNIT)
    place = [number(stereo, "baseline", path)]
    for key in ("ty", "tz"):
        named = f"{key}_{name.lower()}"
        place.append(number(stereo, named if named in stereo else key, path) if {named, key} & stereo.keys() else 0.0)
    rotation = np.array([number(stereo, f"{key}_{name.lower()}", path) for key in ("rx", "cv", "rz")])
    import cv2

    cameras = [_camera(sections[f"{side}_CAM_{name}"], source) for side in ("LEFT", "RIGHT")]
    matrix = np.asarray(cv2.Rodrigues(rotation)[0])
    return Cameras(None, StereoRig(cameras[0], cameras[1], matrix, -np.array(place) * metres, *SIZES[name]))


def _chosen(held: list[str], source: Source) -> str:
    """The resolution of the images; the nearest shape where they were resized, the largest where nothing is known."""
    size = source.reading.size
    if size is not None:
        same = [name for name in held if SIZES[name] == size]
        if same:
            return same[0]
        shape = size[0] / size[1]
        return min(held, key=lambda name: abs(SIZES[name][0] / SIZES[name][1] - shape))
    largest = max(held, key=lambda name: SIZES[name])
    if len(held) > 1:
        doubt(
            f"{source.path} holds the sizes {', '.join(held)} and that of the images is not known; "
            f"{largest} ({SIZES[largest][0]}x{SIZES[largest][1]} px) is used: state the size of the images."
        )
    return largest


def _camera(section: dict[str, Any], source: Source) -> RawCamera:
    path = source.path
    k = intrinsics(*(number(section, key, path) for key in ("fx", "fy", "cx", "cy")))
    coefficients = [number(section, key, path) if key in section else 0.0 for key in ("k1", "k2", "p1", "p2", "k3")]
    more = [number(section, key, path) if key in section else 0.0 for key in ("k4", "k5", "k6")]
    return make_camera(k, coefficients + (more if any(more) else []), "pinhole", path, source.reading.lens)
