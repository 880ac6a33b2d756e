"""``stereopsis compress``."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from stereopsis.cli.batch import SEQUENCE, Sequence, identity_of, run_sequence, settings_of
from stereopsis.cli.console import show_json
from stereopsis.cli.matching import check_suffix, load_of
from stereopsis.cli.rigs import RIG, Rig
from stereopsis.pipeline.runs.job import Job

if TYPE_CHECKING:
    from torch import Tensor

    from stereopsis.compression.bitstream import Header, Record
    from stereopsis.compression.codec import PairCodec
    from stereopsis.io.frames import Frame
    from stereopsis.types import StereoCalibration, StereoPair

DEFAULT_CODEC = "hyperprior.photos"
DEFAULT_QUALITY = 4.0
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
    from stereopsis.compression.codec import level_of
    from stereopsis.compression.effort import check_effort
    from stereopsis.io import IMAGE_SUFFIXES, PairPaths
    from stereopsis.io.frames import Frames, open_frames
    from stereopsis.pipeline.runs.archive import Archive

    check_suffix(out, SUFFIXES, "--out")
    if quality is not None and target_bpp is not None:
        raise ValueError("--quality and --target-bpp exclude each other; give one of the two.")
    if target_bpp is not None and not target_bpp > 0:
        raise ValueError(f"--target-bpp is {target_bpp:g}; it must be above 0, for example 0.3.")
    wanted = DEFAULT_QUALITY if quality is None else quality
    level_of(wanted)
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
    job = CompressJob(model, weights, wanted, target_bpp, effort, device, alone, rig, append)
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


@dataclass(eq=False)
class CompressJob(Job):
    """Encodes the pairs of a sequence; most attributes are those of :func:`compress`.

    Attributes:
        alone: whether frames are images and no pairs.
        expected: header of the file that is appended to.
        finished: names of the frames that an interrupted run has done.
    """

    model: str
    weights: Path | None
    quality: float
    target_bpp: float | None
    effort: int
    device: str
    alone: bool
    rig: StereoCalibration | None
    append: bool
    expected: Header | None = None
    finished: set[str] = field(default_factory=set)
    codec: PairCodec | None = None

    def open(self) -> None:
        self.codec = load_codec(self.model, self.weights, self.device)
        if self.expected is not None:
            self.codec.check_header(self.expected)

    def is_done(self, frame: Frame) -> bool:
        return frame.name in self.finished

    def read(self, frame: Frame) -> Tensor | StereoPair:
        from stereopsis.types import StereoPair

        views = [_grey_as_such(view[None]) for view in frame.read()]
        if self.alone:
            return views[0]
        if len({view.shape[1] for view in views}) == 2:
            views = [view.expand(-1, 3, -1, -1) for view in views]
        return StereoPair(views[0], views[1], self.rig)

    def compute(self, frame: Frame, images: Tensor | StereoPair) -> tuple[Header, Record, dict[str, Any]]:
        from stereopsis.compression.bitstream import pack_header
        from stereopsis.compression.codec import quality_of

        assert self.codec is not None
        start = time.perf_counter()
        header = self.codec.header(images)
        if self.target_bpp is None:
            record = self.codec.compress_record(images, self.quality, self.effort)
        else:
            head = len(pack_header(header)) if frame.index == 0 and not self.append else 0
            record = self.codec.record_of_rate(images, self.target_bpp, head, self.effort)
        row = {
            "name": frame.name,
            "width": record.width,
            "height": record.height,
            "channels": record.channels,
            "quality": quality_of(record.level),
            "seconds": round(time.perf_counter() - start, 4),
        }
        return header, record, row

    def write(self, frame: Frame, found: tuple[Header, Record, dict[str, Any]]) -> Any:
        """Nothing: the one file is written by the run itself, in order."""
        return found


def load_codec(name: str, weights: Path | None = None, device: str = "cpu") -> PairCodec:
    """A codec by name; errors as of :func:`~stereopsis.cli.matching.load_of`."""
    from stereopsis.compression.codec import PairCodec

    codec = load_of("compression", "compress", name, weights, device)
    assert isinstance(codec, PairCodec)
    return codec


def _grey_as_such(view: Tensor) -> Tensor:
    """One channel where the three are alike."""
    return view[:, :1] if bool((view == view[:, :1]).all()) else view
