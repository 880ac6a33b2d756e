"""``stereopsis compress``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from stereopsis.cli.batch import SEQUENCE, Sequence, run_sequence, settings_of
from stereopsis.cli.console import show_json
from stereopsis.cli.loading import load_codec
from stereopsis.cli.options import DEFAULT_CODEC, check_rate, check_suffix
from stereopsis.cli.rigs import RIG, Rig

if TYPE_CHECKING:
    from stereopsis.compression.bitstream import Header, Record

SUFFIXES = (".stz",)


def compress(
    left: Positional[str],
    out: Path,
    right: Positional[str | None] = None,
    model: str = DEFAULT_CODEC,
    weights: Path | None = None,
    quality: float | None = None,
    target_bpp: float | None = None,
    effort: int = 0,
    calibration: Path | None = None,
    append: bool = False,
    device: str = "cpu",
    json: bool = False,
    reading: Rig = RIG,
    sequence: Sequence = SEQUENCE,
) -> int:
    """A pair, an image, or all pairs of folders, of a video or of a bag, as one file.

    Args:
        left: Left view, or a folder, quoted glob or video of them; alone, an image, a folder of pairs, a side-by-side
            video or a ROS bag.
        out: File (.stz).
        right: Right view, or a folder, quoted glob or video of them.
        model: Codec, see `stereopsis models`.
        weights: Safetensors file in place of the shipped weights; decompressing needs it too.
        quality: 1 (small) to 8 (good), also between, in sixteenths; 4 if not given.
        target_bpp: Bits a pixel in place of a quality; each pair gets the best quality that does not exceed them.
        effort: 0 (fast) to 3 (small files): how long to look for the best coding of each view. DSIC offers 0 only.
        calibration: Calibration file of the rig, to be kept in the file.
        append: Add to a file that is there, written by the same weights.
        device: Where to compute, e.g. cpu or cuda.
        json: Print JSON instead of text.
        reading: How the calibration is read.
        sequence: How sequences are read and worked on.
    """
    from stereopsis.calibration import read_calibration
    from stereopsis.compression.bitstream import pack_header
    from stereopsis.compression.effort import check_effort
    from stereopsis.io import IMAGE_SUFFIXES, PairPaths
    from stereopsis.io.frames import Frames, open_frames
    from stereopsis.pipeline.runs.archive import Archive
    from stereopsis.pipeline.runs.compress import CompressJob
    from stereopsis.pipeline.runs.record import identity_of

    check_suffix(out, SUFFIXES, "--out")
    wanted = check_rate(quality, target_bpp)
    check_effort(effort)
    if append and calibration is not None:
        raise ValueError("--calibration is for a new file, and --append keeps that of the old one; leave one out.")
    rig = None if calibration is None else read_calibration(calibration, unit=reading.unit, cameras=reading.cameras)
    alone = right is None and Path(left).suffix.lower() in IMAGE_SUFFIXES and Path(left).is_file()
    if alone and rig is not None:
        raise ValueError("--calibration is that of a pair, and there is one image; leave it out.")
    if alone:
        frames = Frames([PairPaths(Path(left).stem, Path(left), Path(left))], alone=True)
    else:
        frames = open_frames(left, right, topics=sequence.topics, tolerance=sequence.sync_ms / 1000)
    many = not isinstance(frames.source, list) or len(frames.source) > 1
    options = {"model": model, "weights": weights, "quality": wanted, "target_bpp": target_bpp, "effort": effort}
    options |= {"calibration": calibration, "append": append, "checksum of the weights": identity_of(model, weights)}
    options |= reading.settings()
    archive = Archive(
        out,
        settings_of("compress", (left, right), options),
        append=append,
        overwrite=sequence.overwrite,
        resumable=many,
    )
    load = partial(load_codec, model, weights, device)
    job = CompressJob(load, wanted, target_bpp, effort, alone, rig, append, device)
    job.expected, job.finished = archive.header if append else None, archive.names
    earlier = len(archive.failed)  # failures of an interrupted run are told again

    def add(result: tuple[Header, Record, dict[str, Any]]) -> None:
        header, record, row = result
        # the header of a new file belongs to its first pair
        head = 0 if archive.header is not None else len(pack_header(header))
        size = head + record.bytes
        bits = {"bytes": size, "bpp": 8 * size / (record.views * record.width * record.height)}
        archive.add(header, record, row | bits)

    try:
        summary = run_sequence(
            frames,
            job,
            sequence,
            "compressing",
            strict=lambda _: not many,
            keep=add,
            failing=archive.fail,
        )
        summary.failed, summary.skipped = archive.failed, summary.skipped - earlier
        if not archive.rows:
            raise ValueError(f"No pair of {summary.count} is compressed; the first fails: {archive.failed[0]['error']}")
        size = archive.finish()
    except BaseException:
        archive.give_up()
        raise
    rows = archive.rows
    if json:
        found = {"model": model, "out": str(out), "bytes": size, "pairs": rows}
        show_json(found | {"failed": archive.failed, "skipped": summary.skipped})
    else:
        for row in rows:
            print(
                f"{row['name']}  quality {row['quality']:g}, {row['bytes']} bytes, {row['bpp']:.4f} bpp, "
                f"{row['seconds']:.2f} s"
            )
        print(f"{out}  {size} bytes")
    return summary.status("compressed")
