"""``stereopsis info``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from stereopsis.cli.console import new_table, show_json, show_table, warn

if TYPE_CHECKING:
    from stereopsis.compression.bitstream import Reader


def info(file: Positional[Path], json: bool = False) -> None:
    """What a compressed file holds, without decoding it.

    Args:
        file: Compressed file (.stz).
        json: Print JSON instead of a table.
    """
    from stereopsis.compression.bitstream import VERSION
    from stereopsis.compression.codec import quality_of

    size = file.stat().st_size if file.is_file() else 0
    with open_stz(file) as reader:
        rows: list[dict[str, Any]] = []
        for number in range(len(reader)):
            record = reader.record(number)
            rows.append(
                {
                    "index": number,
                    "views": record.views,
                    "channels": record.channels,
                    "width": record.width,
                    "height": record.height,
                    "quality": quality_of(record.level),
                    "bytes": record.bytes,
                    "streams": [len(stream.payload) for stream in record.streams],
                    "bpp": 8 * record.bytes / (record.views * record.width * record.height),
                }
            )
    header = reader.header
    if json:
        show_json(
            {
                "version": VERSION,
                "model": header.model,
                "weights": header.fingerprint.hex(),
                "bytes": size,
                "metadata": dict(header.metadata),
                "damage": reader.damage,
                "pairs": rows,
            }
        )
        return
    if reader.damage:
        warn(f"{file}: {reader.damage}")
    title = f"{file}: {size} bytes by {header.model}, weights {header.fingerprint.hex()}"
    table = new_table("pair", "views", "size", "channels", "quality", "bytes", "bpp", title=title)
    for row in rows:
        table.add_row(
            str(row["index"]), str(row["views"]), f"{row['width']}x{row['height']}", str(row["channels"]),
            f"{row['quality']:g}", str(row["bytes"]), f"{row['bpp']:.4f}",
        )  # fmt: skip
    show_table(table)
    for key, value in header.metadata.items():
        print(f"{key}: {value}")


@contextmanager
def open_stz(path: Path) -> Iterator[Reader]:
    """A reader of the file; what it raises names the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read.
    """
    from stereopsis.compression.bitstream import Reader

    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; check the path.")
    with path.open("rb") as file:
        try:
            yield Reader(file)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
