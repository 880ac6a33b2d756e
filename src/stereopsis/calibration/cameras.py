"""What a calibration file describes, and how it is to be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stereopsis.calibration.camera import Model
from stereopsis.calibration.documents import Document
from stereopsis.calibration.raw import StereoRig
from stereopsis.types import StereoCalibration

Pair = Literal["colour", "grey"]


@dataclass(frozen=True, eq=False)
class Cameras:
    """What a camera file describes.

    Attributes:
        calibration: of rectified views; None where the file holds none.
        rig: of raw views; None where the file holds none, or one that is rectified as it stands.
        problem: why the raw cameras of the file cannot be understood, one sentence; None where they can, or where the
            file holds none.
    """

    calibration: StereoCalibration | None
    rig: StereoRig | None
    problem: str | None = None


@dataclass(frozen=True)
class Reading:
    """How a file is to be read.

    Attributes:
        unit: metres per unit of the baseline; None for the format's own.
        cameras: the pair of a KITTI file; None to choose by the views.
        lens: the lens model; None for what the file states.
        size: (width, height) of the images in pixels, for files that hold several sizes; None if not known.
        grey: whether the views are grey; None if not known.
        views: the files of the views, whose folders may name the cameras.
    """

    unit: float | None = None
    cameras: Pair | None = None
    lens: Model | None = None
    size: tuple[int, int] | None = None
    grey: bool | None = None
    views: tuple[Path, ...] = ()

    def metres(self, default: float) -> float:
        """Metres per unit of the file, whose format counts in ``default`` metres."""
        return default if self.unit is None else self.unit


@dataclass(frozen=True)
class Source:
    """The files of one calibration, as readers get them.

    Attributes:
        first: the file that was named, or the left one of two.
        companion: opens the second file; raises ValueError where there is none.
        has_companion: whether there is a second file.
        reading: how to read them.
    """

    first: Document
    companion: Callable[[], Document]
    has_companion: bool
    reading: Reading

    @property
    def path(self) -> Path:
        return self.first.path

    @property
    def values(self) -> dict[str, Any]:
        return self.first.values
