"""The table of calibration files: how each form is recognised, what it needs, and which function reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from stereopsis.calibration import (
    basalt,
    cityscapes,
    colmap,
    depthai,
    euroc,
    kalibr,
    kitti,
    ktxt,
    matlab,
    middlebury,
    opencv,
    orbslam,
    realsense,
    ros,
    zed,
)
from stereopsis.calibration.cameras import Cameras, Source
from stereopsis.calibration.documents import Document, Kind

NAMED: tuple[Kind, ...] = ("yaml", "json", "xml", "arrays")


@dataclass(frozen=True)
class Form:
    """One form of calibration file.

    Attributes:
        name: short and unique.
        title: for messages.
        kinds: of documents that can hold it.
        matches: whether a document is of this form; gets its values, or its text where ``kinds`` is text.
        read: reads it.
        unit: metres per unit of its distances, for one document.
        needs: what a file must hold, each by all its names; a file of no form is compared with them.
    """

    name: str
    title: str
    kinds: tuple[Kind, ...]
    matches: Callable[[Any], bool]
    read: Callable[[Source], Cameras]
    unit: Callable[[dict[str, Any]], float]
    needs: tuple[tuple[str, ...], ...]


def _always(unit: float) -> Callable[[dict[str, Any]], float]:
    return lambda values: unit


# From the most specific to the most general, since the first that matches reads the file.
FORMS: tuple[Form, ...] = (
    Form("ros", "ROS camera_info", NAMED, ros.matches, ros.read, _always(ros.UNIT),
         (("camera_matrix", "K", "k"), ("projection_matrix", "P", "p"), ("distortion_model", "camera_model"),
          ("rectification_matrix", "r"))),
    Form("ost", "ost.txt of ROS", ("text", "ini"), ros.matches_text, ros.read_text, _always(ros.UNIT),
         (("camera matrix",), ("distortion",), ("rectification",), ("projection",))),
    Form("euroc", "EuRoC sensor.yaml", NAMED, euroc.matches, euroc.read, _always(euroc.UNIT),
         (("T_BS",), ("intrinsics",), ("resolution",), ("distortion_coefficients",))),
    Form("kalibr", "Kalibr camchain YAML", NAMED, kalibr.matches, kalibr.read, _always(kalibr.UNIT),
         (("cam0",), ("cam1",), ("intrinsics",), ("T_cn_cnm1",))),
    Form("orbslam", "ORB-SLAM settings", NAMED, orbslam.matches, orbslam.read, _always(orbslam.UNIT),
         (("Camera.fx", "Camera1.fx"), ("Camera.cx", "Camera1.cx"), ("Camera.bf", "Stereo.b", "Stereo.T_c1_c2"))),
    Form("zed", "ZED SN.conf", ("ini",), zed.matches, zed.read, _always(zed.UNIT),
         (("LEFT_CAM_HD", "LEFT_CAM_FHD", "LEFT_CAM_2K", "LEFT_CAM_VGA"), ("RIGHT_CAM_HD", "RIGHT_CAM_FHD",
          "RIGHT_CAM_2K", "RIGHT_CAM_VGA"), ("STEREO",), ("Baseline", "baseline"))),
    Form("depthai", "DepthAI JSON", NAMED, depthai.matches, depthai.read, _always(depthai.UNIT),
         (("cameraData",), ("intrinsicMatrix",), ("extrinsics",), ("stereoRectificationData",))),
    Form("basalt", "Basalt JSON", NAMED, basalt.matches, basalt.read, _always(basalt.UNIT),
         (("T_imu_cam",), ("intrinsics",), ("camera_type",))),
    Form("cityscapes", "Cityscapes camera.json", NAMED, cityscapes.matches, cityscapes.read, _always(cityscapes.UNIT),
         (("intrinsic",), ("u0",), ("extrinsic",), ("baseline",))),
    Form("matlab", "MATLAB stereoParameters", NAMED, matlab.matches, matlab.read, matlab.unit,
         (("CameraParameters1",), ("CameraParameters2",), ("RotationOfCamera2", "PoseCamera2"),
          ("TranslationOfCamera2", "PoseCamera2"))),
    Form("realsense", "RealSense intrinsics JSON", NAMED, realsense.matches, realsense.read, _always(realsense.UNIT),
         (("ppx",), ("fx",), ("translation", "baseline"), ("rotation", "baseline"))),
    Form("rs-enumerate", "printout of rs-enumerate-devices -c", ("text",), realsense.matches_text, realsense.read_text,
         _always(realsense.UNIT), (("Intrinsic of",), ("PPX",), ("Extrinsic from",))),
    Form("opencv", "OpenCV YAML, XML or NPZ", NAMED, opencv.matches, opencv.read, _always(opencv.UNIT),
         (("M1", "K1", "cameraMatrix1"), ("D1", "distCoeffs1"), ("M2", "K2", "cameraMatrix2"), ("D2", "distCoeffs2"),
          ("R",), ("T",))),
    Form("middlebury", "Middlebury calib.txt", ("text",), middlebury.matches, middlebury.read,
         _always(middlebury.UNIT), (("cam0",), ("baseline",), ("doffs", "cam1"))),
    Form("kitti", "KITTI calib.txt or calib_cam_to_cam.txt", ("text", "yaml"), kitti.matches, kitti.read,
         _always(kitti.UNIT), (("P2", "P0", "P_rect_02", "P_rect_00"), ("P3", "P1", "P_rect_03", "P_rect_01"))),
    Form("colmap", "COLMAP cameras.txt with images.txt", ("text",), colmap.matches_text, colmap.read,
         _always(colmap.UNIT), (("CAMERA_ID",), ("IMAGE_ID",), ("PINHOLE", "OPENCV"))),
    Form("k", "K.txt", ("text",), ktxt.matches, ktxt.read, _always(ktxt.UNIT), ()),
)  # fmt: skip


def find_form(document: Document) -> Form | None:
    """The form of a document; None where it is of no known one."""
    for form in FORMS:
        if document.kind not in form.kinds:
            continue
        by_text = form.kinds[0] == "text" or document.kind == "text"
        if form.matches(document.text if by_text else document.values):
            return form
    return None


def unknown(document: Document) -> str:
    """A sentence on a file of no known form: the nearest one, and what the file lacks of it."""
    text = document.text if document.text else " ".join(_keys(document.values))
    best: Form | None = None
    missing: tuple[str, ...] = ()
    share = 0.0
    for form in FORMS:
        held = [any(_has(text, name) for name in names) for names in form.needs]
        if held and sum(held) / len(held) > share:
            best, share = form, sum(held) / len(held)
            missing = tuple(names[0] for names, there in zip(form.needs, held, strict=True) if not there)
    titles = ", ".join(form.title for form in FORMS)
    start = f"{document.path} is in no known calibration format"
    if best is None:
        return f"{start}; known are {titles}, so convert it to one of them."
    lack = f"which needs {', '.join(missing)} too" if missing else "but its values are not where they must be"
    return f"{start}; the nearest is {best.title}, {lack}, so add what is missing, or name another file."


def _has(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", text) is not None


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield str(key)
            yield from _keys(part)
