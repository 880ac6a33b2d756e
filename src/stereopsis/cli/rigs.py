"""Camera files on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stereopsis.cli.console import note

if TYPE_CHECKING:
    from torch import Tensor

    from stereopsis.calibration.rectification import Choice, RectifiedPair
    from stereopsis.types import StereoCalibration


def rectified(left: Tensor, right: Tensor, file: Path, file_right: Path | None, rectify: Choice) -> RectifiedPair:
    """:func:`~stereopsis.calibration.rectification.rectify_with`, with its notes printed."""
    from stereopsis.calibration.rectification import rectify_with

    pair = rectify_with(left, right, file, file_right, rectify)
    for text in pair.notes:
        note(text)
    return pair


def calibration_for(file: Path, width: int, height: int) -> StereoCalibration:
    """The calibration of a file for rectified views of this size; a note is printed if it is scaled."""
    from stereopsis.calibration import read_calibration
    from stereopsis.calibration.fitting import fit_calibration, scaling_note

    calibration = read_calibration(file)
    fitted = fit_calibration(calibration, width, height)
    if scaled := scaling_note(calibration, width, height):
        note(scaled)
    return fitted
