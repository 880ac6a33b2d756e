"""``stereopsis compress``."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tyro.conf import Positional

from stereopsis.cli.console import progress_bar, show_json
from stereopsis.cli.matching import check_suffix, load_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

    from stereopsis.compression.codec import PairCodec

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
    calibration: Path | None = None,
    append: bool = False,
    device: str = "cpu",
    json: bool = False,
) -> None:
    """A pair, an image, or all pairs of folders or of a video, as one file.

    Args:
        left: Left view, or a folder, quoted glob or video of them; alone, an image, a folder of pairs or a side-by-side
            video.
        out: File (.stz).
        right: Right view, or a folder, quoted glob or video of them.
        model: Codec, see `stereopsis models`.
        weights: Safetensors file in place of the shipped weights; decompressing needs it too.
        quality: 1 (small) to 8 (good), also between, in sixteenths; 4 if not given.
        target_bpp: Bits a pixel in place of a quality; each pair gets the best quality that does not exceed them.
        calibration: Calibration file of the rig, to be kept in the file.
        append: Add to a file that is there, written by the same weights.
        device: Where to compute, e.g. cpu or cuda.
        json: Print JSON instead of text.
    """
    from stereopsis.calibration import read_calibration
    from stereopsis.compression.bitstream import Writer
    from stereopsis.compression.codec import level_of, quality_of
    from stereopsis.io import IMAGE_SUFFIXES, read_image
    from stereopsis.sequences import open_frames
    from stereopsis.types import StereoPair

    check_suffix(out, SUFFIXES, "--out")
    if quality is not None and target_bpp is not None:
        raise ValueError("--quality and --target-bpp exclude each other; give one of the two.")
    if target_bpp is not None and not target_bpp > 0:
        raise ValueError(f"--target-bpp is {target_bpp:g}; it must be above 0, for example 0.3.")
    wanted = DEFAULT_QUALITY if quality is None else quality
    level_of(wanted)
    if append and calibration is not None:
        raise ValueError("--calibration is for a new file, and --append keeps that of the old one; leave one out.")
    rig = None if calibration is None else read_calibration(calibration)
    alone = right is None and Path(left).suffix.lower() in IMAGE_SUFFIXES and Path(left).is_file()
    if alone and rig is not None:
        raise ValueError("--calibration is that of a pair, and there is one image; leave it out.")
    sources: Iterable[tuple[str, Callable[[], Sequence[Tensor]]]]
    count: int | None
    if alone:
        sources, count = [(Path(left).stem, lambda: [read_image(left)])], 1
    else:
        frames = open_frames(left, right)
        sources, count = ((frame.name, frame.read) for frame in frames), frames.count
    codec = load_codec(model, weights, device)

    rows: list[dict[str, Any]] = []
    with _opened(out, append) as file, progress_bar() as progress:
        writer: Writer | None = None
        for name, read in progress.track(sources, total=count, description="compressing"):
            views = [_grey_as_such(view[None]) for view in read()]
            if len({view.shape[1] for view in views}) == 2:
                views = [view.expand(-1, 3, -1, -1) for view in views]
            pair = views[0] if alone else StereoPair(views[0], views[1], rig)
            start = time.perf_counter()
            head = 0
            if writer is None:
                writer = Writer(file, None if append else codec.header(pair))
                head = 0 if append else file.tell()
                if append:
                    codec.check_header(writer.header)
            if target_bpp is None:
                record = codec.compress_record(pair, wanted)
            else:
                record = codec.record_of_rate(pair, target_bpp, head)
            writer.add(record)
            pixels = record.views * record.width * record.height
            rows.append(
                {
                    "name": name,
                    "width": record.width,
                    "height": record.height,
                    "channels": record.channels,
                    "quality": quality_of(record.level),
                    "bytes": head + record.bytes,
                    "bpp": 8 * (head + record.bytes) / pixels,
                    "seconds": round(time.perf_counter() - start, 4),
                }
            )
        if writer is not None:
            writer.close()
        size = file.tell()
    if json:
        show_json({"model": model, "out": str(out), "bytes": size, "pairs": rows})
        return
    for row in rows:
        print(
            f"{row['name']}  quality {row['quality']:g}, {row['bytes']} bytes, {row['bpp']:.4f} bpp, "
            f"{row['seconds']:.2f} s"
        )
    print(f"{out}  {size} bytes")


def load_codec(name: str, weights: Path | None = None, device: str = "cpu") -> PairCodec:
    """A codec by name; errors as of :func:`~stereopsis.cli.matching.load_of`."""
    from stereopsis.compression.codec import PairCodec

    codec = load_of("compression", "compress", name, weights, device)
    assert isinstance(codec, PairCodec)
    return codec


def _grey_as_such(view: Tensor) -> Tensor:
    """One channel where the three are alike."""
    return view[:, :1] if bool((view == view[:, :1]).all()) else view


@contextmanager
def _opened(out: Path, append: bool) -> Iterator[BinaryIO]:
    """A new file that is there whole or not at all, or an old one to go on with."""
    from stereopsis.io import atomic_write

    if append:
        if not out.is_file():
            raise FileNotFoundError(f"there is no file {out} to append to; leave --append out.")
        # in place: records that are there are not touched, and are found also after an interruption
        with out.open("r+b") as file:
            yield file
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as file:
        yield file
