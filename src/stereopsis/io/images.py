"""Images in and out: 8 and 16 bit, grey and colour, as RGB float32 in [0, 1]."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from stereopsis.io.atomic import atomic_write
from stereopsis.io.maps import read_bytes, reason
from stereopsis.ops.images import LUMA

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".pnm", ".tif", ".tiff", ".webp", ".bmp")
FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".ppm": "PPM", ".pgm": "PPM", ".pnm": "PPM", ".tif": "TIFF",
    ".tiff": "TIFF", ".webp": "WEBP", ".bmp": "BMP",
}  # fmt: skip
LARGEST = 178_956_970  # pixels that Pillow opens: twice what it warns of
EXIF_ORIENTATION = 0x0112


def read_image(path: str | Path, channels: Literal[1, 3] | None = 3) -> Float[Tensor, "c h w"]:
    """An image as RGB (or grey) in [0, 1]: alpha dropped, palette applied, turned upright as EXIF says.

    Args:
        path: PNG, JPEG, PPM, PGM, TIFF, WebP or BMP, of 8 or 16 bits (or float TIFF in [0, 1]).
        channels: 3 repeats grey, 1 turns colour to grey, None keeps what the file has.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no image, is truncated, or holds values that are not in [0, 1].
    """
    path = Path(path)
    if channels not in (1, 3, None):
        raise ValueError(f"channels is {channels}; it must be 1, 3, or None to keep what the file has.")
    array = decode_image(read_bytes(path), path)
    if array.ndim == 2:
        array = array[..., None]
    if channels == 3 and array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    if channels == 1 and array.shape[2] == 3:
        array = (array @ np.array(LUMA, dtype=np.float32))[..., None]
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1), dtype=np.float32))


def decode_image(content: bytes, name: str | Path) -> Float[np.ndarray, "h w *c"]:
    """The pixels of an image file that was read already: float32 (H, W) or (H, W, 3) in [0, 1], upright.

    Args:
        content: the file.
        name: what errors call it.

    Raises:
        ValueError: as of :func:`read_image`.
    """
    try:
        array, orientation = _decode(content)
    except _OutOfRange as error:
        raise ValueError(f"{name} {error}") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name} has more than {LARGEST // 10**6} megapixels; cut it into parts first.") from None
    except Exception as error:
        raise ValueError(f"{name} cannot be read as an image ({reason(error)}); write or copy it again.") from None
    return _upright(array, orientation)


def image_array(image: Image.Image, name: str | Path) -> Float[np.ndarray, "h w *c"]:
    """The pixels of an opened image: float32 (H, W) or (H, W, 3) in [0, 1], upright as EXIF says.

    Args:
        image: of Pillow, of any mode; alpha is dropped and a palette applied.
        name: what errors call it.

    Raises:
        ValueError: a truncated image, or values that are not in [0, 1] or, of whole numbers, in [0, 65535].
    """
    try:
        image.load()
        return _upright(_to_float(image), image.getexif().get(EXIF_ORIENTATION, 1))
    except _OutOfRange as error:
        raise ValueError(f"{name} {error}") from None
    except Exception as error:
        raise ValueError(f"{name} cannot be read as an image ({reason(error)}); load it again.") from None


def write_image(
    path: str | Path,
    image: Float[Tensor, "*one c h w"] | Shaped[np.ndarray, "h w *c"],
    *,
    bits: Literal[8, 16] = 8,
    quality: int = 95,
) -> None:
    """Writes one image; the suffix chooses the format, and nothing is left half-written.

    Args:
        path: see :data:`IMAGE_SUFFIXES`.
        image: a float tensor (C, H, W) in [0, 1] (values outside are clipped; one or three channels), or a uint8
            array (H, W) or (H, W, 3) as :func:`stereopsis.visualization.colorize` returns.
        bits: 16 keeps more than 256 steps; PNG and TIFF alone.
        quality: of JPEG and WebP, 1 to 100.

    Raises:
        ValueError: an unknown suffix, a shape that is no image, NaN, or 16 bits for a format of 8.
        FileNotFoundError: the folder does not exist.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path} has the suffix {suffix!r}; an image must end in {', '.join(IMAGE_SUFFIXES)}.")
    if bits not in (8, 16) or (bits == 16 and FORMATS[suffix] not in {"PNG", "TIFF"}):
        raise ValueError(f"{path}: {bits} bits are not possible; use 8, or 16 with .png or .tif.")
    array = _to_unit_range(image)
    if array.dtype != np.uint8:
        array = np.round(array * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    elif bits == 16:
        array = array.astype(np.uint16) * 257
    if suffix == ".pgm" and array.ndim == 3:
        raise ValueError(f"{path} cannot hold colour; name a .ppm file instead.")
    with atomic_write(path) as file:
        if bits == 16 and array.ndim == 3:
            file.write(_encode_deep_colour(array, suffix))
        else:
            picture = Image.fromarray(array)
            options = {"quality": quality} if FORMATS[suffix] in {"JPEG", "WEBP"} else {}
            picture.save(file, format=FORMATS[suffix], **options)


class _OutOfRange(ValueError):
    """Values that no image holds; the message continues the name of the file."""


def _decode(content: bytes) -> tuple[np.ndarray, int]:
    """Float32 (H, W) or (H, W, 3) in [0, 1], and the EXIF orientation."""
    deep = _is_deep_colour(content)
    with Image.open(BytesIO(content)) as image:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
        if not deep:
            image.load()
            return _to_float(image), orientation
        image.load()  # Finds truncation, which the deep decoder below can overlook.
    return _decode_deep_colour(content), orientation


def _to_float(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        # Image.convert clips these to 8 bits; numpy reads them as stored.
        return np.asarray(image).astype(np.float32) / 65535
    if image.mode in {"I", "F"}:
        array = np.asarray(image).astype(np.float32)
        limit = 65535 if image.mode == "I" else 1
        if not np.isfinite(array).all():
            raise _OutOfRange(
                "holds values that are not finite (NaN or inf); an image must hold none, so replace them."
            )
        if array.min() < 0 or array.max() > limit:
            raise _OutOfRange(
                f"holds values from {array.min():g} to {array.max():g}; they must lie in [0, {limit}], so rescale them."
            )
        return array / limit
    if image.mode in {"1", "L", "LA", "La"}:
        return np.asarray(image.convert("L")).astype(np.float32) / 255
    # RGBA first, because a palette's transparent entry would otherwise be an error or a background colour.
    if image.mode in {"P", "PA"}:
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        return np.asarray(image)[..., :3].astype(np.float32) / 255
    return np.asarray(image.convert("RGB")).astype(np.float32) / 255


def _is_deep_colour(content: bytes) -> bool:
    """Whether the file has 16 bits in more than one channel, which Pillow would cut down to 8."""
    if content.startswith(b"\x89PNG"):
        return len(content) > 25 and content[24] == 16 and content[25] in (2, 4, 6)
    if content.startswith(b"P6"):
        words = b" ".join(line.partition(b"#")[0] for line in content[:1000].split(b"\n")).split()
        return len(words) > 3 and words[3].isdigit() and int(words[3]) > 255
    if content.startswith((b"II*\0", b"MM\0*")):
        with Image.open(BytesIO(content)) as image:
            bits = getattr(image, "tag_v2", {}).get(258, (8,))
            return len(bits) > 1 and max(bits) == 16
    return False


def _decode_deep_colour(content: bytes) -> np.ndarray:
    import cv2

    array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16:
        raise ValueError("16-bit colour of an unknown kind")
    array = array.astype(np.float32) / 65535
    if array.ndim == 2:
        return array
    # OpenCV returns BGR(A), and grey with alpha as four channels too, all three alike.
    return np.ascontiguousarray(array[..., 2::-1])


def _encode_deep_colour(array: np.ndarray, suffix: str) -> bytes:
    import cv2

    done, encoded = cv2.imencode(suffix, np.ascontiguousarray(array[..., ::-1]))
    if not done:
        raise ValueError(f"16-bit colour cannot be written as {suffix}; use .png.")
    return encoded.tobytes()


def _to_unit_range(image: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(image, Tensor):
        tensor = image.detach().cpu()
        while tensor.dim() > 3 and tensor.shape[0] == 1:
            tensor = tensor[0]
        if tensor.dim() != 3 or tensor.shape[0] not in (1, 3) or tensor.numel() == 0:
            raise ValueError(f"The image has the shape {tuple(image.shape)}; it must be (1, H, W) or (3, H, W).")
        array = tensor.permute(1, 2, 0).contiguous().numpy()
        array = array if array.dtype == np.uint8 else array.astype(np.float32)
    else:
        array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or array.size == 0:
        raise ValueError(f"The image has the shape {array.shape}; it must be (H, W) or (H, W, 3).")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise ValueError(f"The image holds {array.dtype}; it must be float in [0, 1] or uint8.")
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} values of the image are not finite; replace them first.")
    return np.clip(array, 0, 1)


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array
