"""What the commands that take a calibration file share: the options of reading it, and how the rig is stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from stereopsis.calibration.fitting import fit_calibration
from stereopsis.cli.console import note

if TYPE_CHECKING:
    from torch import Tensor

    from stereopsis.calibration import StereoCalibration
    from stereopsis.calibration.rectification import CameraFile, Choice, RectifiedPair

__all__ = ["RIG", "Rig", "RigOptions", "fit_calibration", "rectified", "rig_json", "rig_text"]


@dataclass(frozen=True)
class RigOptions:
    """How a calibration file is read.

    Args:
        unit: Unit of the calibration's baseline: m, cm, mm, in, or its length in metres (0.03 for squares of 30 mm);
            the format's own if not given.
        cameras: Pair of cameras of a KITTI file; chosen by the views if not given.
        lens: Lens of raw cameras, in place of what the file states.
        fov: Horizontal field of view in degrees that raw views are rectified to; found from the rig if not given.
    """

    unit: str | None = None
    cameras: Literal["colour", "grey"] | None = None
    lens: Literal["pinhole", "fisheye"] | None = None
    fov: float | None = None

    def file(self, path: Path, right: Path | None = None) -> CameraFile:
        """A calibration file that is read with these options."""
        from stereopsis.calibration.rectification import CameraFile

        return CameraFile(path, right, self.unit, self.cameras, self.lens, self.fov)

    def settings(self) -> dict[str, Any]:
        """What results depend on; nothing for options that are not given."""
        names = ("unit", "cameras", "lens", "fov")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


# The options stand among those of the command, without a name before them.
Rig = Annotated[RigOptions, arg(name="")]
RIG = RigOptions()


def rectified(
    left: Tensor, right: Tensor, file: CameraFile, rectify: Choice, views: Sequence[str | Path] = ()
) -> RectifiedPair:
    """:func:`~stereopsis.calibration.rectification.rectify_with`, with its notes on stderr."""
    from stereopsis.calibration.rectification import rectify_with

    pair = rectify_with(left, right, file, rectify=rectify, views=views)
    for sentence in pair.notes:
        note(sentence)
    return pair


def rig_text(calibration: StereoCalibration) -> str:
    """The two numbers that every depth scales with, for the line of a result."""
    return f"focal length {calibration.fx:.1f} px, baseline {calibration.baseline:.4f} m"


def rig_json(calibration: StereoCalibration) -> dict[str, float]:
    """The same for JSON: pixels and metres."""
    return {"focal_length": calibration.fx, "baseline": calibration.baseline}
