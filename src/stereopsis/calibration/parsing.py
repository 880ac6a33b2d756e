"""What the calibration readers share: text, numbers, matrices, YAML and the check of the baseline's unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

# Outside these a baseline is far more often a wrong unit than a real rig.
SMALLEST_BASELINE = 0.001
LARGEST_BASELINE = 10.0


class RawRigError(ValueError):
    """The file describes a raw rig and no rectified one; :func:`stereopsis.calibration.read_rig` reads it."""


def read_text(path: Path) -> str:
    """The text of a calibration file; one clear sentence where there is none."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder and holds no calibration file of a known name; name the file itself.")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name an existing calibration file.")
    try:
        text = path.read_text(encoding="utf-8-sig")
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
    """``image_width`` and ``image_height`` of a YAML file, where it has both."""
    width, height = document.get("image_width"), document.get("image_height")
    if width is None or height is None:
        return None, None
    try:
        return int(width), int(height)
    except (TypeError, ValueError):
        raise ValueError(f"{path}: the image size is {width!r} x {height!r}; it must be two whole numbers.") from None


def load_yaml(text: str, path: Path) -> dict[str, Any]:
    """A YAML mapping, OpenCV's dialect (``%YAML:1.0``, ``!!opencv-matrix``) included."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def matrix_node(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", matrix_node)
    # "%YAML:1.0" is no valid directive, and every other parser stops at it.
    body = "\n".join("" if line.startswith("%") else line for line in text.splitlines())
    try:
        document = yaml.load(body, Loader)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" (line {line + 1})"
        raise ValueError(f"{path} is not valid YAML{where}; correct it or write it anew.") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds no named values; name a calibration file.")
    return document


def metres_per_unit(baseline: float, unit: float | None, default: float, path: Path) -> float:
    """The unit to read a file's baseline with; refuses what looks like another unit than the format's own.

    Args:
        baseline: as the file gives it.
        unit: metres per unit as the caller gives it; trusted.
        default: metres per unit of the format.
    """
    if unit is not None:
        if not (np.isfinite(unit) and unit > 0):
            raise ValueError(f"unit is {unit}; it must be above 0, for example 0.001 for millimetres.")
        return unit
    metres = abs(baseline) * default
    if metres > LARGEST_BASELINE:
        raise ValueError(
            f"{path}: the baseline would be {metres:g} m, above {LARGEST_BASELINE:g} m; pass unit=0.001 "
            f"if the file is in millimetres, or unit={default:g} if it is right."
        )
    if 0 < metres < SMALLEST_BASELINE:
        raise ValueError(
            f"{path}: the baseline would be {metres:g} m, below {SMALLEST_BASELINE:g} m; pass unit=1 "
            f"if the file is in metres, or unit={default:g} if it is right."
        )
    return default


def in_file(error: Exception, path: Path) -> Exception:
    """The same complaint with the name of the file before it; what a parser raises of its own becomes a ValueError."""
    if isinstance(error, FileNotFoundError) or (isinstance(error, ValueError) and str(path) in str(error)):
        return error
    message = str(error) if isinstance(error, ValueError) else f"it cannot be read ({type(error).__name__})"
    return ValueError(f"{path}: {message.rstrip('.')}." if message else f"{path} cannot be read; write it again.")


def _flatten(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [x for item in value for x in _flatten(item)]
    return [value]
