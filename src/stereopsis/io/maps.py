"""What the readers and writers of single-channel maps (disparity, depth) share."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from PIL import Image
from torch import Tensor

Map = Float[np.ndarray, "h w"]
Mask = Bool[np.ndarray, "h w"]
PICTURE_SUFFIXES = (".png", ".pgm", ".tif", ".tiff")
ARRAY_SUFFIXES = (".npy", ".npz")
NPY_MAGIC = b"\x93NUMPY"
MOST_BYTES = 2**30  # of one array of an NPZ file, whose compression can hide any size

LARGEST_CODE = 65534  # of a 16-bit picture; the largest value of the type marks what is not known


def read_bytes(path: Path) -> bytes:
    """The content of a file; one clear sentence where there is none."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file.")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name an existing file.")
    content = path.read_bytes()
    if not content:
        raise ValueError(f"{path} is empty (0 bytes); write or copy it again.")
    return content


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """Turns whatever a parser raises for a malformed file into one ValueError that names the file."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError | FileNotFoundError) and str(path) in str(error):
            raise
        raise ValueError(f"{path} cannot be read as {what} ({reason(error)}); write or copy it again.") from None


def read_grey(path: Path) -> tuple[Shaped[np.ndarray, "h w"], int, dict[Any, Any]]:
    """The stored numbers of a one-channel picture, its bits per sample, and its text entries."""
    content = read_bytes(path)
    try:
        with Image.open(BytesIO(content)) as image:
            image.load()
            mode, info = image.mode, dict(image.info)
            # Many 8-bit maps come as a palette whose indices are the values, so the palette must not be applied.
            array = np.array(image)
            if image.format == "PPM" and array.ndim == 2:
                array = _undo_maxval(array, content, 255 if mode == "L" else 65535)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a picture ({reason(error)}); write or copy it again.") from None
    if array.ndim != 2 or mode in {"1", "RGB", "RGBA"}:
        raise ValueError(f"{path} is a {mode} picture; a map must have one channel of 8 or 16 bits.")
    return array, 8 if mode in {"L", "P"} else 16, info


def largest_is_a_hole(codes: Shaped[np.ndarray, "h w"], path: Path) -> Map:
    """Return stored whole numbers as float32, with 0 where they are the largest of their type.

    Sensors and tools mark so what they did not measure; a warning counts these pixels.
    """
    if codes.dtype.kind not in "iu" or codes.dtype.itemsize < 2:
        return codes.astype(np.float32)
    # pictures of 16 bits may come in a wider type
    tops = {65535, np.iinfo(codes.dtype).max}
    holes = np.isin(codes, list(tops))
    if holes.any():
        warnings.warn(
            f"{path} holds {int(holes.sum())} pixels of {int(codes.max())}, the largest value of its type; they were "
            "marked as not valid.",
            stacklevel=3,
        )
    return np.where(holes, 0, codes).astype(np.float32)


def read_array(path: Path, key: str) -> tuple[Map, Mask | None, bool]:
    """The map of an NPY file, or the array ``key`` (or the only one) of an NPZ file with its ``valid``.

    The last value says whether the file holds whole numbers, which then count in some smaller unit.
    """
    content, mask = read_bytes(path), None
    with readable(path, "an array"):
        if content.startswith(NPY_MAGIC):
            array = _npy(content)
        else:
            with zipfile.ZipFile(BytesIO(content)) as members:
                names = [name.removesuffix(".npy") for name in members.namelist()]
                maps = [name for name in names if name not in {"valid", "confidence"}]
                if key not in maps and len(maps) != 1:
                    raise ValueError(
                        f"{path} holds {', '.join(maps) or 'no array'}; it must hold {key!r} or one array."
                    )
                array = _member(members, key if key in maps else maps[0])
                mask = _member(members, "valid") if "valid" in names else None
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path} holds {array.dtype}; it must hold numbers.")
    whole = array.dtype.kind in "iu"
    array = largest_is_a_hole(_two_dimensional(array, path), path) if whole else _two_dimensional(array, path)
    mask = None if mask is None else _two_dimensional(mask, path).astype(bool)
    return array.astype(np.float32), mask, whole


def _member(members: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array of an NPZ file."""
    info = next(info for info in members.infolist() if info.filename.removesuffix(".npy") == name)
    if info.file_size > MOST_BYTES:
        raise ValueError(f"{name} has {info.file_size} bytes, above {MOST_BYTES}")
    return _npy(members.read(info))


def _npy(content: bytes) -> np.ndarray:
    """The array of an NPY file; its header is compared with the bytes before any memory is taken."""
    file = BytesIO(content)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in read_header:
        raise ValueError(f"NPY version {version[0]}.{version[1]} is not known")
    shape, fortran, dtype = read_header[version](file)
    if dtype.kind not in "biuf":
        raise ValueError(f"it holds {dtype}, which are no numbers")
    count, found = math.prod(shape), len(content) - file.tell()
    if min(shape, default=1) < 0 or count * dtype.itemsize > found:
        raise ValueError(f"it announces {shape} of {dtype} and holds {found} bytes")
    return np.frombuffer(content, dtype, count, file.tell()).reshape(shape, order="F" if fortran else "C")


def to_arrays(values: Any, valid: Any) -> tuple[Map, Mask]:
    """Any map of one image as (H, W) arrays: where it may be used, and float32 values that are 0 elsewhere."""
    array = _two_dimensional(_numpy(values), None).astype(np.float32)
    if valid is None:
        mask = np.isfinite(array) & (array > 0)
    else:
        mask = _two_dimensional(_numpy(valid), None).astype(bool)
        if mask.shape != array.shape:
            raise ValueError(f"The map is {array.shape} and valid is {mask.shape}; they must have one shape.")
        # A NaN declared valid would reach the file as a number, so it must be stopped here.
        broken = int((~np.isfinite(array) & mask).sum())
        if broken:
            raise ValueError(f"{broken} valid pixels are not finite; mark them as not valid before writing.")
    return np.where(mask, array, np.float32(0)), mask


def to_tensors(array: Map, mask: Mask) -> tuple[Float[Tensor, "1 h w"], Bool[Tensor, "1 h w"]]:
    """Float32 values that are 0 where not valid, and the mask."""
    values = np.where(mask, array, 0).astype(np.float32)
    return torch.from_numpy(values)[None], torch.from_numpy(np.ascontiguousarray(mask))[None]


def save_png16(file: BinaryIO, codes: Shaped[np.ndarray, "h w"], text: dict[str, str] | None = None) -> None:
    """A 16-bit grey PNG with entries in its tEXt chunks."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    Image.fromarray(codes.astype(np.uint16)).save(file, format="PNG", pnginfo=info)


def save_array(file: BinaryIO, suffix: str, key: str, array: Map, mask: Mask) -> None:
    """NPY: NaN where not valid. NPZ: the map as it is in memory (0 where not valid) and ``valid`` beside it."""
    if suffix == ".npy":
        np.save(file, np.where(mask, array, np.float32(np.nan)))
    else:
        np.savez_compressed(file, **{key: array, "valid": mask})  # type: ignore[arg-type]


def _undo_maxval(array: np.ndarray, content: bytes, full: int) -> np.ndarray:
    """The stored numbers of a PGM: Pillow stretches them by the header's largest value, which is no scale of a map."""
    words = b" ".join(line.partition(b"#")[0] for line in content[:1000].split(b"\n")).split()
    maxval = int(words[3])
    return array if maxval == full else np.round(array.astype(np.float64) * maxval / full)


def _numpy(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _two_dimensional(array: np.ndarray, path: Path | None) -> np.ndarray:
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 or array.size == 0:
        where = "The array" if path is None else str(path)
        raise ValueError(f"{where} has the shape {array.shape}; it must be one map of height x width.")
    return array


def reason(error: Exception) -> str:
    """The library's reason in a few words; its own sentences can name memory addresses and span lines."""
    if type(error).__name__ == "UnidentifiedImageError":
        return "not a picture"
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:100]
