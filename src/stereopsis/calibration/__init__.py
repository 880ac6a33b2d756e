"""Camera rigs: rectified calibrations, raw rigs, rectification, and the files they are kept in.

The package is split by concern: :mod:`.raw` holds rigs before rectification, and :mod:`.projection`
finds and checks rectified views. One small module reads each form of file, :mod:`.forms` is the table of them,
:mod:`.files` reads and :mod:`.writing` writes. :mod:`.boards`, :mod:`.calibrate`, :mod:`.fisheye` and :mod:`.coverage`
make a rig out of pictures of a board.
"""

from stereopsis.calibration.boards import Board
from stereopsis.calibration.calibrate import RigCalibration, calibrate_files
from stereopsis.calibration.camera import RawCamera
from stereopsis.calibration.cameras import Cameras
from stereopsis.calibration.files import read_calibration, read_cameras, read_rig
from stereopsis.calibration.parsing import LensError, RawRigError
from stereopsis.calibration.raw import Rectification, StereoRig
from stereopsis.calibration.writing import FORMATS, write_calibration, write_rig
from stereopsis.types import StereoCalibration

__all__ = [
    "FORMATS",
    "Board",
    "Cameras",
    "LensError",
    "RawCamera",
    "RawRigError",
    "Rectification",
    "RigCalibration",
    "StereoCalibration",
    "StereoRig",
    "calibrate_files",
    "read_calibration",
    "read_cameras",
    "read_rig",
    "write_calibration",
    "write_rig",
]
