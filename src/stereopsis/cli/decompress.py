"""``stereopsis decompress``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from stereopsis.cli.batch import RUN, Run, run_sequence, settings_of
from stereopsis.cli.console import show_json, warn
from stereopsis.cli.info import open_stz
from stereopsis.cli.loading import load_codec
from stereopsis.cli.options import check_folder

if TYPE_CHECKING:
    from stereopsis.compression.bitstream import Reader


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
    run: Run = RUN,
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
        run: How the pairs of a sequence are worked on.
    """
    from stereopsis.calibration import write_calibration
    from stereopsis.compression.codec import calibration_of
    from stereopsis.pipeline.runs.decompress import DecompressJob, Records
    from stereopsis.pipeline.runs.record import RunRecord, identity_of

    check_folder(out, "--out")
    with open_stz(file) as reader:
        if reader.damage:
            warn(f"{file}: {reader.damage}")
        header, views = reader.header, [_views(reader, number) for number in range(len(reader))]
        if index is not None:
            try:
                reader.record(index)
            except IndexError as error:
                raise ValueError(str(error)) from None
    numbers = range(len(views)) if index is None else [index]
    many = len(numbers) > 1
    if side is not None and many:
        raise ValueError(f"--side is one view and {file} holds {len(numbers)} images; choose one with --index.")
    load = partial(load_codec, header.model, weights, device)
    job = DecompressJob(load, file, out, views, many, format, side, side_is, device)
    if many:
        options = {
            "weights": weights, "format": format, "checksum of the weights": identity_of(header.model, weights),
        }  # fmt: skip
        job.record = RunRecord(out, settings_of("decompress", (file,), options), run.overwrite)
    summary = run_sequence(Records(file, numbers), job, run, "decompressing", strict=lambda _: not many)
    rig = calibration_of(header)
    if rig is not None and (summary.results or summary.skipped):
        write_calibration(rig, out / "calib.txt")
    if json:
        rows = {"pairs": summary.results, "failed": summary.failed, "skipped": summary.skipped}
        show_json({"model": header.model, **rows})
    else:
        for row in summary.results:
            print(f"{'  '.join(row['files'])}  {row['seconds']:.2f} s")
    return summary.status("decompressed")


def _views(reader: Reader, number: int) -> int:
    """How many views a record holds, 0 if it cannot be read."""
    try:
        return reader.record(number).views
    except ValueError:
        return 0
