"""Camera rigs: rectified calibrations, raw rigs, rectification, and the files they are kept in.

The package is split by concern: :mod:`.rectified` and :mod:`.raw` hold the two kinds of rig, one small module holds
each file format, and :mod:`.files` recognises the format of a file.
"""

from stereopsis.calibration.files import FORMATS, read_calibration, read_rig, write_calibration
from stereopsis.calibration.raw import RawCamera, Rectification, StereoRig
from stereopsis.calibration.rectified import StereoCalibration

__all__ = [
    "FORMATS",
    "RawCamera",
    "Rectification",
    "StereoCalibration",
    "StereoRig",
    "read_calibration",
    "read_rig",
    "write_calibration",
]
