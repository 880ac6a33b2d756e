"""Reads and writes calibration files of any known format."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from stereopsis.calibration import euroc, kitti, ktxt, middlebury, opencv_yaml, ros
from stereopsis.calibration.parsing import RawRigError, in_file, load_yaml, read_text
from stereopsis.calibration.raw import Model, StereoRig
from stereopsis.types import StereoCalibration

Format = Literal["middlebury", "kitti", "kitti-cam-to-cam", "opencv", "ros", "k"]
FORMATS: tuple[Format, ...] = ("middlebury", "kitti", "kitti-cam-to-cam", "opencv", "ros", "k")

# What a folder is searched for, in this order; the second name is the companion.
KNOWN_NAMES: tuple[tuple[str, str | None], ...] = (
    ("calib.txt", None),
    ("calib_cam_to_cam.txt", None),
    ("K.txt", None),
    ("left.yaml", "right.yaml"),
    ("left.yml", "right.yml"),
    ("intrinsics.yml", "extrinsics.yml"),
    ("extrinsics.yml", None),
    ("calibration.yml", None),
    ("calibration.yaml", None),
    ("rig.yaml", None),
    ("rig.yml", None),
    ("cam0/sensor.yaml", "cam1/sensor.yaml"),
    ("mav0/cam0/sensor.yaml", "mav0/cam1/sensor.yaml"),
)
COMPANIONS = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"), ("cam0", "cam1"), ("intrinsics", "extrinsics"))
NEEDS = (
    "Middlebury calib.txt, KITTI calib.txt or calib_cam_to_cam.txt, OpenCV YAML, ROS camera_info YAML, K.txt and "
    "EuRoC sensor.yaml are known"
)


def read_calibration(
    path: str | Path,
    right: str | Path | None = None,
    *,
    cameras: kitti.Cameras | None = None,
    unit: float | None = None,
) -> StereoCalibration:
    """Reads the calibration of a rectified rig; the format is recognised by the content.

    Args:
        path: the file, the left of two files, or a folder that holds a file of a known name.
        right: the second file of ROS (right camera) and OpenCV (extrinsics); found by its name where it is left out.
        cameras: which pair of a KITTI file, ``"colour"`` or ``"grey"``; colour where the file has it.
        unit: metres per unit of the file's baseline; by default millimetres for Middlebury and metres for the rest.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the format is not known, a value is missing or impossible, or the file describes a raw rig.
    """
    first, second = _locate(Path(path), right)
    text = read_text(first)
    try:
        # First, because the keys of OpenCV's YAML (P1:, P2:) are those of KITTI's text.
        if _is_yaml(first, text):
            return _read_yaml(load_yaml(text, first), first, second, unit)
        if middlebury.matches(text):
            return middlebury.read(text, first, unit)
        if kitti.matches(text):
            return kitti.read(text, first, cameras, unit)
        if ktxt.matches(text):
            return ktxt.read(text, first, unit)
    except Exception as error:
        raise in_file(error, first) from None
    raise ValueError(f"{first} is in no known calibration format: {NEEDS}, so convert it to one of them.")


def read_rig(
    path: str | Path,
    right: str | Path | None = None,
    *,
    unit: float | None = None,
    model: Model | None = None,
) -> StereoRig:
    """Reads a raw rig (intrinsics, distortion, extrinsics) from OpenCV, ROS or EuRoC YAML.

    Args:
        path: the file, the left of two files, or a folder that holds files of known names.
        right: the right camera's file, or OpenCV's extrinsics; found by its name where it is left out.
        unit: metres per unit of the translation of OpenCV and ROS; 1 by default. EuRoC is in metres.
        model: ``"pinhole"`` or ``"fisheye"`` for OpenCV files, which do not say; pinhole by default.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the format holds no raw rig, or a value is missing or impossible.
    """
    first, second = _locate(Path(path), right)
    text = read_text(first)
    if not _is_yaml(first, text):
        raise ValueError(f"{first} holds no raw rig; name a YAML file of OpenCV, ROS or EuRoC.")
    try:
        document = load_yaml(text, first)
        if ros.matches(document):
            return ros.read_rig(document, _companion(second, first), first, unit)
        if euroc.matches(document):
            return euroc.read_rig(document, _companion(second, first), first)
        if second is not None:
            document = load_yaml(read_text(second), second) | document
        if opencv_yaml.matches(document):
            return opencv_yaml.read_rig(document, first, unit, model)
    except Exception as error:
        raise in_file(error, first) from None
    raise ValueError(f"{first} holds no raw rig; name a YAML file of OpenCV, ROS or EuRoC.")


def write_calibration(calibration: StereoCalibration, path: str | Path, format: Format | None = None) -> None:
    """Writes the calibration of a rectified rig; nothing is left half-written.

    Args:
        calibration: the rig.
        path: the file. For ``"ros"`` a folder (then ``left.yaml`` and ``right.yaml`` in it), or the left file, whose
            name must hold ``left``; the right one is written beside it.
        format: one of :data:`FORMATS`; by default ``opencv`` for ``.yml`` and ``.yaml``, ``ros`` for a folder, ``k``
            for ``K.txt``, and ``middlebury`` for the rest. ``kitti`` and ``k`` drop the image size, all but
            ``middlebury`` drop ``ndisp``, and ``k`` refuses an offset of the principal points.

    Raises:
        ValueError: an unknown format, or a rig that the format cannot hold.
        FileNotFoundError: the folder does not exist.
    """
    from stereopsis.io.atomic import atomic_write_text

    path = Path(path)
    format = format if format is not None else _format_of(path)
    if format == "ros":
        left = path / "left.yaml" if path.is_dir() else path
        second = _swap_name(left)
        if second is None or "left" not in left.name.lower():
            raise ValueError(f"{left} does not say which view it is; name a folder, or a file with 'left' in its name.")
        texts = {left: ros.write(calibration, "left"), second: ros.write(calibration, "right")}
    else:
        writers = {
            "middlebury": middlebury.write,
            "kitti": kitti.write,
            "kitti-cam-to-cam": kitti.write_cam_to_cam,
            "opencv": opencv_yaml.write,
            "k": ktxt.write,
        }
        if format not in writers:
            raise ValueError(f"format is {format!r}; it must be one of {', '.join(FORMATS)}.")
        texts = {path: writers[format](calibration)}
    for target, text in texts.items():
        atomic_write_text(target, text)


def write_rig(rig: StereoRig, path: str | Path) -> None:
    """Writes a raw rig as OpenCV's YAML (``M1 D1 M2 D2 R T``, metres), which :func:`read_rig` reads.

    Raises:
        ValueError: another suffix than ``.yaml`` or ``.yml``.
        FileNotFoundError: the folder does not exist.
    """
    from stereopsis.io.atomic import atomic_write_text

    path = Path(path)
    if path.suffix.lower() not in {".yml", ".yaml"}:
        raise ValueError(f"{path} must end in .yaml or .yml, because a raw rig is written as OpenCV's YAML.")
    atomic_write_text(path, opencv_yaml.write_rig(rig))


def _format_of(path: Path) -> Format:
    if path.is_dir():
        return "ros"
    if path.suffix.lower() in {".yml", ".yaml"}:
        return "opencv"
    return "k" if path.name == "K.txt" else "middlebury"


def _read_yaml(document: dict[str, Any], first: Path, second: Path | None, unit: float | None) -> StereoCalibration:
    if ros.matches(document):
        return ros.read(document, _companion(second, first), first, unit)
    if euroc.matches(document):
        raise RawRigError(
            f"{first} describes a raw rig; read it with read_rig() and use the calibration that its rectify() gives."
        )
    if not {"P1", "Q"} & document.keys() and second is not None:
        document = load_yaml(read_text(second), second) | document
    if opencv_yaml.matches(document):
        return opencv_yaml.read(document, first, unit)
    raise ValueError(f"{first} is YAML of no known calibration format: {NEEDS}.")


def _is_yaml(path: Path, text: str) -> bool:
    return path.suffix.lower() in {".yml", ".yaml", ".json"} or text.startswith("%YAML")


def _companion(second: Path | None, first: Path) -> dict[str, Any]:
    if second is None:
        raise ValueError(f"{first} describes one camera; pass the file of the other one as right=.")
    return load_yaml(read_text(second), second)


def _locate(path: Path, right: str | Path | None) -> tuple[Path, Path | None]:
    if path.is_dir():
        for name, companion in KNOWN_NAMES:
            if (path / name).is_file():
                second = None if companion is None else path / companion
                path = path / name
                right = right if right is not None else second
                break
    if right is not None:
        return path, Path(right)
    second = _swap_name(path)
    return path, second if second is not None and second.is_file() else None


def _swap_name(path: Path) -> Path | None:
    """The companion's name: the file's own name is looked at first, then the folder's."""
    for left, right in COMPANIONS:
        if left in path.name:
            return path.with_name(path.name.replace(left, right))
    for left, right in COMPANIONS:
        if left in path.parent.name:
            return path.parent.with_name(path.parent.name.replace(left, right)) / path.name
    return None
