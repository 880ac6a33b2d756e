"""Names of lens models, as the tools write them, and their coefficients: one place for all readers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from stereopsis.calibration.camera import PINHOLE_COEFFICIENTS, Model, RawCamera
from stereopsis.calibration.parsing import LensError, doubt

PINHOLE = (
    "pinhole", "plumb_bob", "radtan", "radial_tangential", "brown_conrady", "opencv", "full_opencv", "perspective",
    "rational", "rational_polynomial", "none", "rectified", "simple_pinhole", "simple_radial", "radial", "radtan8",
    "pinhole_radtan8", "radtan5", "zero", "",
)  # fmt: skip
FISHEYE = (
    "fisheye", "equidistant", "equidist", "kannala_brandt", "kannala_brandt4", "kannalabrandt", "kannalabrandt8", "kb4",
    "kb", "opencv_fisheye",
)  # fmt: skip
# Models that other tools write and that no code here projects with.
FOREIGN = {
    "ds": "double sphere", "double_sphere": "double sphere", "eucm": "extended unified", "ucm": "unified",
    "omni": "omnidirectional", "mei": "omnidirectional", "fov": "field of view", "atan": "field of view",
    "ftheta": "f-theta", "f_theta": "f-theta", "scaramuzza": "omnidirectional polynomial", "bal": "Bundler",
    "thin_prism_fisheye": "thin prism fisheye", "rad_tan_thin_prism_fisheye": "thin prism fisheye",
    "equirectangular": "equirectangular", "radial_division": "radial division",
    "inverse_brown_conrady": "inverse Brown-Conrady", "modified_brown_conrady": "modified Brown-Conrady",
    "thin_prism": "thin prism", "division": "division",
}  # fmt: skip
# These differ from a pinhole camera by their coefficients only, so that without them they are one.
PINHOLE_WITHOUT_COEFFICIENTS = ("inverse_brown_conrady", "modified_brown_conrady", "thin_prism")


def make_camera(
    k: Float64[np.ndarray, "3 3"],
    coefficients: Sequence[float] | Float64[np.ndarray, " n"],
    name: str | None,
    path: Path,
    given: Model | None = None,
) -> RawCamera:
    """A camera of the lens model that a file names.

    Args:
        k: intrinsic matrix in pixels.
        coefficients: in OpenCV's order; zeros at the end may be more or fewer than the model has.
        name: of the model as the file writes it; None where the file does not state it.
        path: of the file, for error messages.
        given: the model that the caller states; overrules the file.

    Raises:
        LensError: an unknown model, or coefficients that the model does not have.
    """
    values = np.array(coefficients, dtype=np.float64).ravel()
    model = given
    if model is None and name is None:
        model = "pinhole"
        if values.any():
            doubt(
                f"{path} does not name the lens model of its {values.size} coefficients; they are taken as pinhole "
                "(k1 k2 p1 p2 ...); state the lens if it is a fisheye."
            )
    if model is None:
        model = _model(str(name), values, path)
    try:
        return RawCamera(k, _fitted(values, model, path), model)
    except LensError:
        raise
    except ValueError as error:
        message = str(error)
        raise ValueError(message if str(path) in message else f"{path}: {message}") from None


def _model(name: str, values: np.ndarray, path: Path) -> Model:
    key = name.strip().lower().replace("-", "_").replace(" ", "_").removeprefix("distortion.")
    if key in PINHOLE:
        return "pinhole"
    if key in FISHEYE:
        return "fisheye"
    if key in FOREIGN:
        if key in PINHOLE_WITHOUT_COEFFICIENTS and not values.any():
            return "pinhole"
        raise LensError(
            f"{path}: the lens model is {name!r} ({FOREIGN[key]}), which is not supported; calibrate with a pinhole "
            "model (radtan, plumb_bob, rational_polynomial) or the fisheye model (equidistant, kb4)."
        )
    raise LensError(
        f"{path}: the distortion model is {name!r}, which is not known; it must be plumb_bob, radtan, "
        "rational_polynomial, equidistant or fisheye, so correct the name, or state the lens (pinhole or fisheye)."
    )


def _fitted(values: np.ndarray, model: Model, path: Path) -> Float64[np.ndarray, " n"]:
    """The coefficients in the number that OpenCV takes; only zeros are added or left out."""
    counts = PINHOLE_COEFFICIENTS if model == "pinhole" else (4,)
    if values.size in counts:
        return values
    if model == "fisheye" and values.size == 0:
        return np.zeros(4)
    # All zeros in a pinhole camera's number are no fisheye, whose four zeros are a lens of their own.
    if values.any() or model == "pinhole":
        for count in sorted(counts, reverse=True):
            if count < values.size and not values[count:].any():
                return values[:count]
    # Files that state k1 alone, or k1 and k2, mean zeros for the rest; with three, the third may be p1 or k3.
    if values.size < (3 if model == "pinhole" else 4):
        return np.pad(values, (0, 4 - values.size))
    raise LensError(
        f"{path}: the {model} camera has {values.size} distortion coefficients; OpenCV's model takes "
        f"{', '.join(map(str, counts))}, so correct the number, or state another lens."
    )
