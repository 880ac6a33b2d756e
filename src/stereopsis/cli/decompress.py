"""``stereopsis decompress``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from stereopsis.cli.compress import load_codec
from stereopsis.cli.console import fail, progress_bar, show_json, warn
from stereopsis.cli.info import open_stz
from stereopsis.cli.matching import check_folder


def decompress(
    file: Positional[Path],
    out: Path,
    index: int | None = None,
    side: Path | None = None,
    side_is: Literal["right", "left"] = "right",
    weights: Path | None = None,
    format: Literal["png", "ppm", "tif", "webp", "jpg"] = "png",
    device: str = "cpu",
    json: bool = False,
) -> int:
    """The pictures of a compressed file: left and right of one pair, or folders left and right of a sequence.

    Args:
        file: Compressed file (.stz).
        out: Folder for the pictures, and for calib.txt where the file holds a calibration.
        index: Only this pair of a sequence, from 0 on.
        side: The other view of the image in the file, which FFCA-Net decodes it better with.
        side_is: Which view of the rig that is.
        weights: Safetensors file that the file was written with, where it was not the shipped one.
        format: Kind of the pictures; png and tif keep 16 bits, webp and jpg lose a little more.
        device: Where to compute, e.g. cpu or cuda.
        json: Print JSON instead of text.
    """
    from stereopsis.calibration import write_calibration
    from stereopsis.compression.codec import calibration_of
    from stereopsis.io import read_image, write_image
    from stereopsis.ops.images import bits_of
    from stereopsis.types import StereoPair

    check_folder(out, "--out")
    with open_stz(file) as reader:
        if reader.damage:
            warn(f"{file}: {reader.damage}")
        codec = load_codec(reader.header.model, weights, device)
        codec.check_header(reader.header)
        numbers = range(len(reader)) if index is None else [index]
        if side is not None and len(numbers) > 1:
            raise ValueError(f"--side is one view and {file} holds {len(numbers)} images; choose one with --index.")
        other = None if side is None else read_image(side)[None]
        done: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        with progress_bar() as progress:
            for number in progress.track(numbers, description="decompressing"):
                start = time.perf_counter()
                try:
                    decoded = codec.decompress_record(reader.record(number), reader.header, other, side_is)
                except IndexError as error:
                    raise ValueError(str(error)) from None
                except ValueError as error:
                    if len(numbers) == 1:
                        raise
                    failed.append({"index": number, "error": str(error)})
                    continue
                seconds = time.perf_counter() - start
                if isinstance(decoded, StereoPair):
                    views = {"left": decoded.left, "right": decoded.right}
                else:
                    views = {"image": decoded}
                files = []
                for name, view in views.items():
                    target = out / (f"{name}.{format}" if len(numbers) == 1 else f"{name}/{number:06d}.{format}")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    write_image(target, view, bits=bits_of(view) if format in ("png", "tif") else 8)
                    files.append(str(target))
                done.append({"index": number, "files": files, "seconds": round(seconds, 4)})
        rig = calibration_of(reader.header)
        if rig is not None and done:
            write_calibration(rig, out / "calib.txt")
    if json:
        show_json({"model": reader.header.model, "pairs": done, "failed": failed})
    else:
        for row in done:
            print(f"{'  '.join(row['files'])}  {row['seconds']:.2f} s")
    if failed:
        first = failed[0]
        return fail(f"{len(failed)} of {len(numbers)} pairs failed, the first is {first['index']}: {first['error']}", 1)
    return 0
