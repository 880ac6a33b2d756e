"""What the calibration readers share: text, numbers, matrices, poses, and how doubts are reported."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

# A calibration has a few kilobytes; more is another kind of file.
LARGEST_FILE = 32 * 2**20


class RawRigError(ValueError):
    """The file describes a raw rig and no rectified one; :func:`stereopsis.calibration.read_rig` reads it."""


class LensError(ValueError):
    """The raw cameras of a file cannot be understood: an unknown lens model, or coefficients that it does not have."""


def doubt(sentence: str) -> None:
    """Reports that a result may be wrong, where the terminal, JSON and the server show it."""
    warnings.warn(" ".join(sentence.split()), stacklevel=3)


def read_content(path: Path) -> bytes:
    """The bytes of a calibration file; one clear sentence where there is none."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder and holds no calibration file of a known name; name the file itself.")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name an existing calibration file.")
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(f"{path} has {size:,} bytes, more than {LARGEST_FILE:,}; name a calibration file.")
    return path.read_bytes()


def as_text(content: bytes, path: Path) -> str:
    """The text of a calibration file."""
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file; name a calibration file, not an image.") from None
    if not text.strip():
        raise ValueError(f"{path} is empty; name a calibration file that holds one.")
    return text


def numbers(text: str, count: int, name: str, path: Path) -> Float64[np.ndarray, " n"]:
    """Exactly ``count`` finite numbers out of ``text``."""
    words = text.replace(",", " ").split()
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        raise ValueError(f"{path}: {name} is {text.strip()!r}; it must be {count} numbers, so correct it.") from None
    if values.size != count:
        raise ValueError(f"{path}: {name} holds {values.size} numbers; it must hold {count}, so correct it.")
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: {name} holds a value that is not finite; calibrate the rig again.")
    return values


def matrix(value: Any, rows: int, cols: int, name: str, path: Path) -> Float64[np.ndarray, "rows cols"]:
    """A matrix of a YAML file: OpenCV's and ROS's ``{rows, cols, data}``, or plain (nested) lists."""
    data = value.get("data", []) if isinstance(value, dict) else value
    try:
        flat = np.array([float(x) for x in _flatten(data)])
    except (TypeError, ValueError):
        raise ValueError(f"{path}: {name} is {value!r}; it must be a {rows} x {cols} matrix.") from None
    if flat.size != rows * cols:
        raise ValueError(f"{path}: {name} holds {flat.size} numbers; it must hold {rows} x {cols}, so correct it.")
    if not np.isfinite(flat).all():
        raise ValueError(f"{path}: {name} holds a value that is not finite; calibrate the rig again.")
    return flat.reshape(rows, cols)


def vector(value: Any, name: str, path: Path) -> Float64[np.ndarray, " n"]:
    """A list of numbers of any length."""
    data = value.get("data", []) if isinstance(value, dict) else value
    count = len(list(_flatten(data))) if data is not None else 0
    return matrix(data, 1, count, name, path).ravel() if count else np.zeros(0)


def size_of(document: dict[str, Any], path: Path) -> tuple[int | None, int | None]:
    """Width and height of the images that a file states under one of the usual names; None where it does not."""
    for wide, high in (("image_width", "image_height"), ("width", "height"), ("imageSize_width", "imageSize_height")):
        if document.get(wide) is not None and document.get(high) is not None:
            return _whole_size(document[wide], document[high], path)
    for key in ("image_size", "imageSize", "img_size", "size", "resolution"):
        value = document.get(key)
        pair = _flatten(value.get("data", []) if isinstance(value, dict) else value)
        if len(pair) == 2:
            return _whole_size(pair[0], pair[1], path)
    return None, None


def _whole_size(width: Any, height: Any, path: Path) -> tuple[int | None, int | None]:
    try:
        size = int(width), int(height)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{path}: the image size is {width!r} x {height!r}; it must be two whole numbers.") from None
    return size if min(size) > 0 else (None, None)


def pose(value: Any, name: str, path: Path) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, " 3"]]:
    """Rotation and translation of a 4 x 4 (or 3 x 4) matrix."""
    count = len(_flatten(value.get("data", []) if isinstance(value, dict) else value))
    full = matrix(value, 3 if count == 12 else 4, 4, name, path)
    return full[:3, :3].copy(), full[:3, 3].copy()


def number(values: dict[str, Any], key: str, path: Path) -> float:
    """A finite number of a file."""
    if key not in values:
        raise ValueError(f"{path} has no {key}; add it, or export the calibration again.")
    return float(matrix(values[key], 1, 1, key, path)[0, 0])


def intrinsics(fx: float, fy: float, cx: float, cy: float) -> Float64[np.ndarray, "3 3"]:
    """The matrix of focal lengths and principal point, in pixels."""
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def in_file(error: Exception, path: Path) -> Exception:
    """The same complaint with the name of the file before it; what a parser raises of its own becomes a ValueError."""
    if isinstance(error, FileNotFoundError) or (isinstance(error, ValueError) and str(path) in str(error)):
        return error
    message = str(error) if isinstance(error, ValueError) else f"it cannot be read ({type(error).__name__})"
    return ValueError(f"{path}: {message.rstrip('.')}." if message else f"{path} cannot be read; write it again.")


def _flatten(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        return list(value.ravel().tolist())
    if isinstance(value, (list, tuple)):
        return [x for item in value for x in _flatten(item)]
    return [value]
