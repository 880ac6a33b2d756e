"""Reads calibration files of any known form; all commands, the server and the Python functions come through here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stereopsis.calibration.camera import Model
from stereopsis.calibration.cameras import Cameras, Pair, Reading, Source
from stereopsis.calibration.documents import Document, as_yaml, read_document
from stereopsis.calibration.forms import find_form, unknown
from stereopsis.calibration.parsing import RawRigError, doubt, in_file
from stereopsis.calibration.raw import StereoRig
from stereopsis.calibration.units import check_baseline, metres_of
from stereopsis.types import StereoCalibration

# What a folder is searched for, in this order; the second name is the companion.
KNOWN_NAMES: tuple[tuple[str, str | None], ...] = (
    ("calib.txt", None),
    ("calib_cam_to_cam.txt", None),
    ("perspective.txt", None),
    ("calibration/perspective.txt", None),
    ("K.txt", None),
    ("left.yaml", "right.yaml"),
    ("left.yml", "right.yml"),
    ("left/ost.yaml", "right/ost.yaml"),
    ("intrinsics.yml", "extrinsics.yml"),
    ("intrinsics.xml", "extrinsics.xml"),
    ("extrinsics.yml", None),
    ("calibration.yml", None),
    ("calibration.yaml", None),
    ("calibration.xml", None),
    ("calibration.json", None),
    ("camera.json", None),
    ("rig.yaml", None),
    ("rig.yml", None),
    ("camchain.yaml", None),
    ("cam0/sensor.yaml", "cam1/sensor.yaml"),
    ("mav0/cam0/sensor.yaml", "mav0/cam1/sensor.yaml"),
    ("cameras.txt", "images.txt"),
    ("ost.txt", None),
)
COMPANIONS = (
    ("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"), ("infra1", "infra2"), ("cam0", "cam1"),
    ("cam_0", "cam_1"), ("camera0", "camera1"), ("camera_0", "camera_1"), ("cam1", "cam2"), ("camera1", "camera2"),
    ("image_00", "image_01"), ("image_02", "image_03"), ("intrinsics", "extrinsics"),
)  # fmt: skip


def read_cameras(
    path: str | Path,
    right: str | Path | None = None,
    *,
    unit: float | str | None = None,
    cameras: Pair | None = None,
    lens: Model | None = None,
    size: tuple[int, int] | None = None,
    grey: bool | None = None,
    views: Sequence[str | Path] = (),
) -> Cameras:
    """Reads all that a calibration file describes; the form is recognised by the content.

    Args:
        path: the file, the left of two files, a folder that holds a file of a known name, or a ROS bag.
        right: the second file of forms that have two (ROS, EuRoC, OpenCV); found by its name if not given.
        unit: unit of the file's baseline, in metres or as ``m``, ``cm``, ``mm`` or ``in``; the form's own if not given.
        cameras: which pair of a KITTI file, ``"colour"`` or ``"grey"``; chosen by the views if not given.
        lens: ``"pinhole"`` or ``"fisheye"``, overrules what the file states.
        size: (width, height) of the images in pixels, for files that hold several sizes.
        grey: whether the views are grey, for files that hold colour and grey cameras.
        views: files of the views, whose folders or names may identify the cameras.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the form is not known, a value is missing or impossible, or the baseline is above 10 m or below 1 mm
            and no unit is given.
        ModuleNotFoundError: the form needs a package that is not installed.
    """
    reading = Reading(metres_of(unit), cameras, lens, size, grey, tuple(Path(view) for view in views))
    found = _read(Path(path), right, reading)
    if found.rig is None or not found.rig.is_rectified:
        return found
    calibration = found.calibration if found.calibration is not None else found.rig.as_rectified()
    return Cameras(calibration, None)


def read_calibration(
    path: str | Path,
    right: str | Path | None = None,
    *,
    cameras: Pair | None = None,
    unit: float | str | None = None,
    size: tuple[int, int] | None = None,
) -> StereoCalibration:
    """Reads the calibration of a rectified rig; arguments and errors as in :func:`read_cameras`.

    Raises:
        RawRigError: the file describes raw cameras only.
    """
    found = read_cameras(path, right, cameras=cameras, unit=unit, size=size)
    if found.calibration is None:
        raise RawRigError(
            f"{path} describes a raw rig; read it with read_rig() and use the calibration that its rectify() gives."
        )
    if found.problem is not None:
        doubt(f"{found.problem.rstrip('.')}; the calibration that is used holds for rectified views only.")
    return found.calibration


def read_rig(
    path: str | Path,
    right: str | Path | None = None,
    *,
    unit: float | str | None = None,
    model: Model | None = None,
    size: tuple[int, int] | None = None,
) -> StereoRig:
    """Reads a raw rig (intrinsics, distortion, extrinsics); arguments and errors as in :func:`read_cameras`.

    Args:
        model: the lens model, ``"pinhole"`` or ``"fisheye"``; overrules what the file states.

    Raises:
        ValueError: also where the file describes no raw cameras, or raw cameras that cannot be understood.
    """
    found = _read(Path(path), right, Reading(metres_of(unit), lens=model, size=size))
    if found.problem is not None:
        raise ValueError(f"{path} describes raw cameras that cannot be understood: {found.problem}")
    if found.rig is None:
        raise ValueError(
            f"{path} holds no raw rig (distortion and rotation), it is for rectified views; name a file of raw cameras "
            "(OpenCV, ROS, EuRoC, Kalibr and others)."
        )
    return found.rig


def _read(path: Path, right: str | Path | None, reading: Reading) -> Cameras:
    from stereopsis.io.bags import is_bag

    if reading.lens not in (None, "pinhole", "fisheye"):
        raise ValueError(f"lens is {reading.lens!r}; it must be 'pinhole' or 'fisheye'.")
    if is_bag(path):
        from stereopsis.calibration.bagged import UNIT, read_bag

        return _checked(read_bag(path, reading), reading, UNIT, path)
    first, second = _locate(path, right)
    document = read_document(first)
    form = find_form(document)
    if form is None and document.kind == "text":
        document = as_yaml(document)
        form = find_form(document)
    if form is None and document.kind != "text" and second is not None:
        # Extrinsics that name no camera still belong to the intrinsics beside them.
        other = read_document(second)
        form = find_form(replace(document, values=other.values | document.values))
    if form is None:
        raise ValueError(unknown(document))
    try:
        found = form.read(Source(document, _companion(first, second), second is not None, reading))
        return _checked(found, reading, form.unit(document.values), first)
    except (OSError, ImportError):
        raise
    except ValueError as error:
        raise in_file(error, first) from None
    except Exception as error:
        # A value of another type than the form has: a list where a name must stand, a text where numbers must.
        raise ValueError(
            f"{first} looks like {form.title}, but a value is not what that form holds ({type(error).__name__}: "
            f"{error}); write it again."
        ) from None


def _checked(found: Cameras, reading: Reading, unit: float, path: Path) -> Cameras:
    """The cameras, once their baseline is one that a rig can have."""
    if reading.unit is None:
        known = found.calibration if found.calibration is not None else found.rig
        if known is not None:
            check_baseline(known.baseline, unit, path)
    return found


def _companion(first: Path, second: Path | None):  # type: ignore[no-untyped-def]
    def read() -> Document:
        if second is None:
            raise ValueError(f"{first} describes one camera; pass the file of the other one as right=.")
        return as_yaml(read_document(second))

    return read


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
    second = swap_name(path)
    return path, second if second is not None and second.is_file() else None


def swap_name(path: Path) -> Path | None:
    """The companion's name: the file's own name is looked at first, then the folder's."""
    for left, right in COMPANIONS:
        if left in path.name:
            return path.with_name(path.name.replace(left, right))
    for left, right in COMPANIONS:
        if left in path.parent.name:
            return path.parent.with_name(path.parent.name.replace(left, right)) / path.name
    return None
