"""Rectified pairs of a sequence of raw views."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from stereopsis.calibration import Rectification, read_rig, write_calibration
from stereopsis.calibration.diagnosis import examine
from stereopsis.calibration.fitting import fit_rig
from stereopsis.calibration.rectification import CameraFile
from stereopsis.calibration.writing import Format
from stereopsis.io import write_image
from stereopsis.io.frames import Frame, Frames
from stereopsis.pipeline.runs.job import Job
from stereopsis.pipeline.runs.record import RunRecord

# Names that read_calibration() finds in a folder.
NAMES: dict[Format, str] = {"middlebury": "calib.txt", "kitti": "calib.txt", "opencv": "calibration.yml", "ros": ""}


@dataclass(eq=False)
class RectifyJob(Job):
    """Rectifies the pairs of a sequence into ``out/left`` and ``out/right``, and writes their calibration into ``out``.

    Attributes:
        file: calibration of the raw views, and how it is read.
        out: folder of the results.
        alpha: 0 crops to pixels that both cameras saw, 1 keeps all; None for the rectification that the file stores.
        format: of the calibration.
        bits: of the images.
        record: of the run, for a sequence.
        rectification: for views of the size of the first pair (:meth:`prepare`).
    """

    file: CameraFile
    out: Path
    alpha: float | None = 0.0
    format: Format = "middlebury"
    bits: Literal[8, 16] = 8
    record: RunRecord | None = None
    rectification: Rectification | None = None

    @property
    def calibration_file(self) -> Path:
        """The calibration of the rectified pairs, or its folder."""
        return self.out / NAMES[self.format]

    def prepare(self, frames: Frames) -> tuple[list[str], dict[str, Any] | None]:
        """Compute the rectification for the first pair that can be read, and write the calibration.

        Returns:
            Notes on how the rig was fitted to the views, and the offsets of the rows of that pair in pixels before and
            after (:func:`row_offsets`).

        Raises:
            ValueError: no pair can be read, the raw views are in the folder of the results, or the rig does not fit.
        """
        errors: list[Exception] = []
        for frame in frames:
            if {file.resolve() for file in self._targets(frame)} & {frame.left.resolve(), frame.right.resolve()}:
                raise ValueError(f"the folder for the results is {self.out}, where the raw views are; name another.")
            try:
                views = frame.read()
            except (ValueError, OSError) as error:
                errors.append(error)
                continue
            height, width = views[0].shape[-2:]
            notes: list[str] = []
            rig = read_rig(
                self.file.path, self.file.right, unit=self.file.unit, model=self.file.lens, size=(width, height)
            )
            self.rectification = fit_rig(rig, width, height, notes).rectify(self.alpha, fov=self.file.fov)
            offsets = row_offsets(views, self.rectification(*views))
            for name in ("left", "right"):
                (self.out / name).mkdir(parents=True, exist_ok=True)
            write_calibration(self.rectification.calibration, self.calibration_file, self.format)
            return notes, offsets
        raise ValueError(f"No pair of {len(errors)} can be read, the first for this: {errors[0] if errors else 'none'}")

    def is_done(self, frame: Frame) -> bool:
        return self.record is not None and self.record.is_done(self._targets(frame), {frame.left, frame.right})

    def compute(self, frame: Frame, images: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        assert self.rectification is not None
        straight = self.rectification(*images)
        if self.record is not None:
            self.record.begin()
        return straight

    def write(self, frame: Frame, found: tuple[Tensor, Tensor]) -> dict[str, str]:
        files = self._targets(frame)
        for file, view in zip(files, found, strict=True):
            write_image(file, view, bits=self.bits)
        return {"name": frame.name, "left": str(files[0]), "right": str(files[1])}

    def _targets(self, frame: Frame) -> list[Path]:
        return [self.out / name / f"{frame.name}.png" for name in ("left", "right")]


def row_offsets(raw: tuple[Tensor, Tensor], straight: tuple[Tensor, Tensor]) -> dict[str, Any] | None:
    """Median vertical distances of matching points in pixels; None if there are too few points."""
    before, after = examine(*raw), examine(*straight)
    if before.vertical_median is None or after.vertical_median is None or after.vertical_bias is None:
        return None
    numbers: dict[str, Any] = {"before": before.vertical_median, "after": after.vertical_median}
    return numbers | {"bias": after.vertical_bias, "points": after.matches}
