"""Camera rigs: rectified calibrations, raw rigs, rectification, and the files they are kept in.

The package is split by concern: :mod:`.raw` holds rigs before rectification, one small module holds
each file format, :mod:`.files` recognises the format of a file, and :mod:`.boards`, :mod:`.calibrate` and
:mod:`.coverage` make a rig out of pictures of a board.
"""

from stereopsis.calibration.boards import Board
from stereopsis.calibration.calibrate import RigCalibration, calibrate_files
from stereopsis.calibration.files import FORMATS, read_calibration, read_rig, write_calibration, write_rig
from stereopsis.calibration.parsing import RawRigError
from stereopsis.calibration.raw import RawCamera, Rectification, StereoRig
from stereopsis.types import StereoCalibration

__all__ = [
    "FORMATS",
    "Board",
    "RawCamera",
    "RawRigError",
    "Rectification",
    "RigCalibration",
    "StereoCalibration",
    "StereoRig",
    "calibrate_files",
    "read_calibration",
    "read_rig",
    "write_calibration",
    "write_rig",
]
