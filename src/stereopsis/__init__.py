"""Depth from a stereo camera: matching, metric depth, guided upsampling and compression.

The names below are the public ones. Those that need more than torch and numpy are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stereopsis.types import Depth, Disparity, PointCloud, StereoCalibration, StereoPair

if TYPE_CHECKING:
    from stereopsis.pipeline.match import match
    from stereopsis.zoo.registry import list_models, load

__version__ = "0.1.0"

__all__ = [
    "Depth",
    "Disparity",
    "PointCloud",
    "StereoCalibration",
    "StereoPair",
    "__version__",
    "list_models",
    "load",
    "match",
]

_LAZY = {
    "list_models": "stereopsis.zoo.registry",
    "load": "stereopsis.zoo.registry",
    "match": "stereopsis.pipeline.match",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
