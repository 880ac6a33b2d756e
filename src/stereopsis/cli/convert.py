"""``stereopsis convert``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from stereopsis.cli.console import note, show_json
from stereopsis.cli.options import parse_size
from stereopsis.cli.rigs import RIG, Rig, rig_json, rig_text

if TYPE_CHECKING:
    from stereopsis.calibration import Cameras

FORMATS = ("opencv", "ros", "kalibr", "middlebury", "kitti", "k")
RAW_FORMATS = ("opencv", "ros", "kalibr")


def convert(
    calibration: Positional[Path],
    out: Path,
    right: Path | None = None,
    format: Literal["opencv", "ros", "kalibr", "middlebury", "kitti", "k"] | None = None,
    size: str | None = None,
    json: bool = False,
    rig: Rig = RIG,
) -> None:
    """Write a calibration in the form of another tool, in that form's own unit.

    Raw cameras stay raw in OpenCV, ROS and Kalibr files; Middlebury, KITTI and K.txt hold rectified views only.

    Args:
        calibration: Calibration file of any known form, a folder that holds it, or a ROS bag.
        out: File to write; for ROS a folder, or the left file, with "left" in its name.
        right: Second file of a calibration in two files, where its name does not tell.
        format: Form to write; by the name of the file if not given: .yaml for OpenCV, left.yaml or a folder for ROS,
            camchain*.yaml for Kalibr, K.txt, and Middlebury for other names.
        size: Size of the images, for a file that holds several, e.g. 1280x720.
        json: Print JSON instead of text.
        rig: How the calibration is read.
    """
    from stereopsis.calibration import read_cameras, write_calibration, write_rig

    chosen = format or _format_of(out)
    given = None if size is None else parse_size(size, "--size")
    found = read_cameras(calibration, right, unit=rig.unit, cameras=rig.cameras, lens=rig.lens, size=given)
    if found.problem is not None:
        raise ValueError(f"{calibration} describes raw cameras that cannot be understood: {found.problem}")
    if chosen == "ros" and "left" not in out.name.lower():
        out.mkdir(parents=True, exist_ok=True)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
    if found.rig is not None and chosen in RAW_FORMATS:
        raw: Any = chosen
        write_rig(found.rig, out, raw)
    elif found.calibration is not None:
        if found.rig is not None:
            note(f"{calibration} describes raw cameras and rectified views; {chosen} holds the rectified ones only")
        write_calibration(found.calibration, out, chosen)
    else:
        raise ValueError(
            f"{calibration} describes raw cameras and the format {chosen} holds rectified views only; write "
            f"{', '.join(RAW_FORMATS)}, or rectify the views, which writes the calibration of the rectified ones."
        )
    _tell(found, out, chosen, json)


def _tell(found: Cameras, out: Path, format: str, json: bool) -> None:
    """The form and the numbers that were written."""
    raw = found.rig is not None and format in RAW_FORMATS
    if raw:
        assert found.rig is not None
        numbers = {"focal_length": float(found.rig.left.K[0, 0]), "baseline": found.rig.baseline}
        line = f"focal length {numbers['focal_length']:.1f} px, baseline {numbers['baseline']:.4f} m"
    else:
        assert found.calibration is not None
        numbers, line = rig_json(found.calibration), rig_text(found.calibration)
    kind = "raw cameras" if raw else "rectified views"
    if json:
        show_json({"out": str(out), "format": format, "describes": kind, **numbers})
        return
    print(f"{out}  {format}, {kind}, {line}")


def _format_of(out: Path) -> Literal["opencv", "ros", "kalibr", "middlebury", "k"]:
    name = out.name.lower()
    if out.is_dir() or (out.suffix.lower() in {".yaml", ".yml"} and "left" in name) or not out.suffix:
        return "ros"
    if out.suffix.lower() in {".yaml", ".yml"}:
        return "kalibr" if name.startswith("camchain") else "opencv"
    return "k" if out.name == "K.txt" else "middlebury"
