"""Point clouds in PLY, written as binary little-endian with optional colours."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stereopsis.io.atomic import atomic_write
from stereopsis.io.maps import read_bytes, readable
from stereopsis.types import PointCloud

TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "<"}
POSITION = ("x", "y", "z")
COLOR = ("red", "green", "blue")
COLOR_NAMES = (COLOR, ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))


def write_point_cloud(path: str | Path, cloud: PointCloud) -> None:
    """Writes ``x y z`` as float32 metres and, where there are any, ``red green blue`` as bytes.

    Raises:
        ValueError: a suffix other than ``.ply``, points that are not finite, or colours of another count.
        FileNotFoundError: the folder does not exist.
    """
    path = Path(path)
    if path.suffix.lower() != ".ply":
        raise ValueError(f"{path} has the suffix {path.suffix!r}; a point cloud must end in .ply.")
    points = cloud.points.detach().cpu().numpy()
    if not np.isfinite(points).all():
        raise ValueError(f"{int((~np.isfinite(points)).any(1).sum())} points are not finite; drop them before writing.")
    fields = [(name, "<f4") for name in POSITION]
    names = "".join(f"property float {name}\n" for name in POSITION)
    if cloud.colors is not None:
        if cloud.colors.shape != cloud.points.shape:
            raise ValueError(
                f"There are {len(cloud)} points and {cloud.colors.shape[0]} colours; give one colour a point, or none."
            )
        fields += [(name, "u1") for name in COLOR]
        names += "".join(f"property uchar {name}\n" for name in COLOR)
    vertices = np.empty(len(cloud), dtype=np.dtype(fields))
    for i, name in enumerate(POSITION):
        vertices[name] = points[:, i]
    if cloud.colors is not None:
        colors = cloud.colors.detach().cpu().numpy()
        for i, name in enumerate(COLOR):
            vertices[name] = colors[:, i]
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(cloud)}\n{names}end_header\n"
    with atomic_write(path) as file:
        file.write(header.encode())
        file.write(vertices.tobytes())


def read_point_cloud(path: str | Path) -> PointCloud:
    """Reads the vertices of a PLY file (binary of either byte order, or text) and their colours, if it has any.

    Colours may be named ``red``, ``diffuse_red`` or ``r`` and be bytes, wider whole numbers or floats. Other properties
    are passed over.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no PLY file, a truncated one, or one without ``x y z``.
    """
    path = Path(path)
    content = read_bytes(path)
    with readable(path, "a point cloud"):
        vertices = _vertices(content, path)
        points = np.stack([vertices[name].astype(np.float32) for name in POSITION], axis=1)
        return PointCloud(torch.from_numpy(points), _colors(vertices))


def _vertices(content: bytes, path: Path) -> np.ndarray:
    """The vertices as a structured array."""
    end = content.find(b"end_header")
    if not content.startswith(b"ply") or end < 0:
        raise ValueError(f"{path} is not a PLY file; it must start with 'ply' and have a header.")
    body = content.find(b"\n", end) + 1
    kind, count, fields = _header(content[:end].decode("ascii", errors="replace"), path)
    dtype = np.dtype([(name, ORDERS[kind] + code) for name, code in fields])
    missing = [name for name in POSITION if name not in (dtype.names or ())]
    if missing:
        raise ValueError(f"{path} has no property {', '.join(missing)}; a point cloud needs x, y and z.")
    if count * (dtype.itemsize if kind != "ascii" else 2 * len(fields)) > len(content):
        raise ValueError(f"{path} is truncated: it announces {count} points and holds fewer; copy it again.")
    try:
        if kind == "ascii":
            table = (
                np.loadtxt(BytesIO(content[body:]), max_rows=count, ndmin=2) if count else np.zeros((0, len(fields)))
            )
            vertices = np.empty(len(table), dtype=dtype)
            for i, (name, _) in enumerate(fields):
                vertices[name] = table[:, i]
        else:
            vertices = np.frombuffer(content, dtype, count, body)
        if len(vertices) != count:
            raise ValueError
    except (ValueError, IndexError):
        raise ValueError(f"{path} is truncated: it announces {count} points and holds fewer; copy it again.") from None
    return vertices


def _colors(vertices: np.ndarray) -> Tensor | None:
    """Colours under any of their usual names, as bytes: floats are in [0, 1], and wide whole numbers use their type."""
    names = next((names for names in COLOR_NAMES if all(name in (vertices.dtype.names or ()) for name in names)), None)
    if names is None:
        return None
    columns = np.stack([vertices[name] for name in names], axis=1)
    if columns.dtype.kind == "f":
        top = columns.max(initial=0)
        scale = 255.0 if top <= 1 else 1.0 if top <= 255 else 255 / 65535
        columns = np.round(np.nan_to_num(columns) * scale)
    elif columns.dtype.itemsize > 1 and columns.max(initial=0) > 255:
        columns = np.round(columns / 257) if (columns % 257 == 0).all() else columns // 256
    return torch.from_numpy(columns.clip(0, 255).astype(np.uint8))


def _header(text: str, path: Path) -> tuple[str, int, list[tuple[str, str]]]:
    kind, count, fields, element = "", -1, [], ""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["format"] and len(words) > 1:
            kind = words[1]
        elif words[:1] == ["element"] and len(words) == 3:
            if not element and words[1] != "vertex":
                raise ValueError(f"{path} starts with the element {words[1]}; the vertices must come first.")
            element = words[1]
            if element == "vertex":
                count = int(words[2]) if words[2].isdigit() else -1
        elif words[:1] == ["property"] and element == "vertex":
            if len(words) != 3 or words[1] not in TYPES:
                raise ValueError(f"{path} has the vertex property {line.strip()!r}; it must be a number and a name.")
            fields.append((words[2], TYPES[words[1]]))
    if kind not in ORDERS or count < 0:
        raise ValueError(f"{path} has no format or no vertices in its header; write or copy it again.")
    return kind, count, fields
