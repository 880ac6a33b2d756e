"""The calibration of a bag: the first ``sensor_msgs/CameraInfo`` of the left and the right camera."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stereopsis.calibration import ros
from stereopsis.calibration.cameras import Cameras, Reading, Source
from stereopsis.calibration.documents import Document

UNIT = ros.UNIT


def read_bag(path: Path, reading: Reading) -> Cameras:
    """The cameras of a ROS 1 or ROS 2 bag.

    Raises:
        ModuleNotFoundError: the extra "bags" is not installed.
        FileNotFoundError: no such bag.
        ValueError: no bag, or it holds no camera_info of two cameras.
    """
    from stereopsis.io.bags import camera_infos

    left, right = camera_infos(path)
    first, second = (Document(path, "yaml", "", _values(message)) for message in (left, right))
    return ros.read(Source(first, lambda: second, True, reading))


def _values(message: Any) -> dict[str, Any]:
    found = {key: getattr(message, key) for key in "KDRP" if hasattr(message, key)}
    found |= {key: getattr(message, key) for key in "kdrp" if hasattr(message, key)}
    found |= {key: int(getattr(message, key)) for key in ("width", "height", "binning_x", "binning_y")}
    roi = {key: int(getattr(message.roi, key)) for key in ("x_offset", "y_offset", "width", "height")}
    return found | {"roi": roi, "distortion_model": str(message.distortion_model)}
