"""What a request may cost: bytes, pixels and time, looked at before anything is decoded."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

# Those that read_image documents; Pillow's others (EPS starts a program) are never tried.
IMAGE_FORMATS = ("PNG", "JPEG", "PPM", "TIFF", "WEBP", "BMP")
LARGEST_DISPARITY = 1024
MAX_ENTRIES = 16  # of an .npz file
BYTES_A_PIXEL = 16  # of the largest array of numbers: complex is refused later, float64 and a mask fit


class TooLarge(ValueError):
    """More bytes or pixels than a request may have."""


@dataclass(frozen=True)
class Limits:
    """Of one server.

    Attributes:
        body: bytes of a request.
        pixels: of one image or map.
        waiting: requests that may wait for their turn; more are turned away.
        reading: requests whose bodies may be in memory at a time, the one that is computed included.
        upload: seconds a body may take to arrive.
        seconds: from the turn of a request to its answer, and at most as long before it.
        models: models in memory at a time.
    """

    body: int = 64 * 2**20
    pixels: int = 4_000_000
    waiting: int = 256
    reading: int = 4
    upload: float = 20.0
    seconds: float = 120.0
    models: int = 4

    def __post_init__(self) -> None:
        for name, least in (("body", 1024), ("pixels", 1), ("waiting", 0), ("reading", 1), ("models", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"the limit {name} is {getattr(self, name)}; it must be at least {least}.")
        for name in ("upload", "seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"the limit {name} is {getattr(self, name):g} s; it must be above 0.")


def check_picture(content: bytes, name: str, limits: Limits) -> None:
    """Refuse what is no picture, or one with too many pixels, by its header alone.

    Raises:
        TooLarge: too many pixels.
        ValueError: no picture of a known format.
    """
    if not content:
        raise ValueError(f"{name} is empty (0 bytes); send a file.")
    try:
        with Image.open(BytesIO(content), formats=IMAGE_FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise TooLarge(f"{name} has more pixels than {limits.pixels:,}, the limit; send a smaller one.") from None
    except Exception:
        raise ValueError(f"{name} is not a picture; send one of {', '.join(IMAGE_FORMATS)}.") from None
    _check_pixels(width, height, name, limits)


def check_map(content: bytes, suffix: str, name: str, limits: Limits) -> None:
    """The same for a map of numbers: a picture, ``.pfm``, ``.npy`` or ``.npz``."""
    if not content:
        raise ValueError(f"{name} is empty (0 bytes); send a file.")
    if suffix == ".npy":
        _check_array(BytesIO(content), len(content), name, limits)
    elif suffix == ".npz":
        _check_archive(content, name, limits)
    elif suffix == ".pfm":
        if len(content) // 4 > 3 * limits.pixels:
            raise TooLarge(f"{name} has more pixels than {limits.pixels:,}, the limit; send a smaller one.")
    else:
        check_picture(content, name, limits)


def check_record(width: int, height: int, name: str, limits: Limits) -> None:
    """The same for a pair of a ``.stz`` file, by what its head states."""
    _check_pixels(width, height, name, limits)


def _check_pixels(width: int, height: int, name: str, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise TooLarge(
            f"{name} is {width}x{height}, {width * height:,} pixels, and the limit is {limits.pixels:,}; send a "
            "smaller one."
        )


def _check_array(file: Any, size: int, name: str, limits: Limits) -> None:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception:
        raise ValueError(f"{name} cannot be read as an array; write or send it again.") from None
    count = 1
    for side in shape:
        count *= int(side)
    if count > limits.pixels or dtype.itemsize > BYTES_A_PIXEL:
        raise TooLarge(f"{name} is an array {shape} of {dtype}, and the limit is {limits.pixels:,} numbers; shrink it.")
    if count * dtype.itemsize > size:
        raise ValueError(f"{name} is truncated: it announces more numbers than it holds; send it again.")


def _check_archive(content: bytes, name: str, limits: Limits) -> None:
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            entries = archive.infolist()
            if (
                len(entries) > MAX_ENTRIES
                or sum(entry.file_size for entry in entries) > 3 * BYTES_A_PIXEL * limits.pixels
            ):
                raise TooLarge(f"{name} unpacks to more than {limits.pixels:,} pixels, the limit; shrink it.")
            for entry in entries:
                with archive.open(entry) as file:
                    _check_array(file, entry.file_size, f"{entry.filename} of {name}", limits)
    except ValueError:
        raise
    except Exception:  # zipfile raises what comes to its mind
        raise ValueError(f"{name} cannot be read as an .npz file; write or send it again.") from None
