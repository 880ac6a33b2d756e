"""Portable float maps: ``Pf``, ``W H``, scale, then float32 rows from the bottom to the top."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from stereopsis.io.atomic import atomic_write
from stereopsis.io.maps import read_bytes


def read_pfm(path: str | Path) -> Float32[np.ndarray, "h w *c"]:
    """The values of a PFM file, top row first: (H, W) for ``Pf``, (H, W, 3) for ``PF``.

    Blanks and comments in the header are allowed. The sign of the scale gives the byte order; its magnitude is
    ignored, because Middlebury writes 1/255 there beside disparities that are already in pixels.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no PFM file, or a truncated one.
    """
    path = Path(path)
    content = read_bytes(path)
    tokens: list[str] = []
    position = 0
    while len(tokens) < 4:
        end = content.find(b"\n", position)
        if end < 0 or end - position > 1000 or (not tokens and not content.startswith((b"Pf", b"PF"))):
            raise ValueError(f"{path} is not a PFM file; its header must be 'Pf', the size and the scale.")
        line = content[position:end].decode("ascii", errors="replace")
        tokens += line.partition("#")[0].split()
        position = end + 1
    try:
        magic, width, height, scale = tokens[0], int(tokens[1]), int(tokens[2]), float(tokens[3])
    except ValueError:
        raise ValueError(f"{path} has the PFM header {' '.join(tokens)!r}; it must be 'Pf W H scale'.") from None
    if magic not in {"Pf", "PF"} or len(tokens) != 4 or width < 1 or height < 1 or scale == 0:
        raise ValueError(
            f"{path} has the PFM header {' '.join(tokens)!r}; size and scale must differ from 0 and end the header."
        )
    shape = (height, width) if magic == "Pf" else (height, width, 3)
    count = int(np.prod(shape))
    if len(content) - position < 4 * count:
        raise ValueError(
            f"{path} is truncated: {len(content) - position} bytes of {4 * count} are there; write or copy it again."
        )
    values = np.frombuffer(content, "<f4" if scale < 0 else ">f4", count, position)
    return np.ascontiguousarray(values.reshape(shape)[::-1], dtype=np.float32)


def write_pfm(path: str | Path, values: Float32[np.ndarray, "h w"]) -> None:
    """Writes one channel, little-endian with the scale -1; values are written as they are.

    Raises:
        ValueError: not a two-dimensional array.
    """
    if values.ndim != 2:
        raise ValueError(f"The array has the shape {values.shape}; a PFM map must be height x width.")
    with atomic_write(path) as file:
        file.write(f"Pf\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode())
        file.write(values[::-1].astype("<f4").tobytes())
