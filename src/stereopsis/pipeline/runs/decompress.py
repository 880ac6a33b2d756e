"""Decoded pairs of a compressed file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from torch import Tensor

from stereopsis.compression.bitstream import Reader
from stereopsis.compression.codec import PairCodec
from stereopsis.io import read_image, write_image
from stereopsis.io.frames import Frame
from stereopsis.ops.images import bits_of
from stereopsis.pipeline.runs.job import Job
from stereopsis.pipeline.runs.record import RunRecord
from stereopsis.types import StereoPair

DEEP = ("png", "tif")  # formats that keep 16 bits


def _read_later() -> None:
    """Stands for the reading of a frame, since the job reads the file itself."""


@dataclass(frozen=True)
class Records:
    """The records of a compressed file as frames, which :class:`DecompressJob` decodes."""

    file: Path
    numbers: Sequence[int]

    @property
    def count(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Frame]:
        for number in self.numbers:
            yield Frame(f"{number:06d}", self.file, self.file, _read_later, number)


@dataclass(eq=False)
class DecompressJob(Job):
    """Decodes the records of a compressed file and writes their images.

    Attributes:
        load: returns the codec; it is called once in each process, so it must be picklable for a cluster.
        file: the compressed file.
        out: folder of the results.
        views: the number of views in each record of the file; 0 where a record cannot be read.
        many: whether results lie in folders ``left`` and ``right`` or ``image``, under the numbers of the records.
        format: suffix of the images.
        side: file of the other view of a single image, which some codecs decode the image with.
        side_is: which view of the rig that is.
        device: of the codec.
        record: of the run, for a sequence.
    """

    load: Callable[[], PairCodec]
    file: Path
    out: Path
    views: Sequence[int]
    many: bool = True
    format: str = "png"
    side: Path | None = None
    side_is: Literal["right", "left"] = "right"
    device: str = "cpu"
    record: RunRecord | None = None
    codec: PairCodec | None = None
    reader: Reader | None = None
    other: Tensor | None = None
    handle: IO[bytes] | None = None

    def open(self) -> None:
        self.codec = self.load()
        self.handle = self.file.open("rb")
        self.reader = Reader(self.handle)
        self.codec.check_header(self.reader.header)
        self.other = None if self.side is None else read_image(self.side)[None]

    def close(self) -> None:
        if self.handle is not None:
            self.handle.close()

    def is_done(self, frame: Frame) -> bool:
        files = self._targets(frame, self.views[frame.index]).values()
        return self.record is not None and bool(files) and self.record.is_done(files, [self.file])

    def read(self, frame: Frame) -> None:
        """Nothing: the file is read record by record, in :meth:`compute`."""

    def compute(self, frame: Frame, images: None) -> tuple[list[Tensor], float]:
        assert self.codec is not None
        assert self.reader is not None
        start = time.perf_counter()
        found = self.codec.decompress_record(
            self.reader.record(frame.index), self.reader.header, self.other, self.side_is
        )
        seconds = time.perf_counter() - start
        if self.record is not None:
            self.record.begin()
        return [found.left, found.right] if isinstance(found, StereoPair) else [found], seconds

    def write(self, frame: Frame, found: tuple[list[Tensor], float]) -> dict[str, Any]:
        views, seconds = found
        targets = self._targets(frame, len(views))
        for target, view in zip(targets.values(), views, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_image(target, view, bits=bits_of(view) if self.format in DEEP else 8)
        files = [str(target) for target in targets.values()]
        return {"index": frame.index, "files": files, "seconds": round(seconds, 4)}

    def _targets(self, frame: Frame, views: int) -> dict[str, Path]:
        names = {0: (), 1: ("image",), 2: ("left", "right")}[views]
        inside = f"/{frame.name}" if self.many else ""
        return {name: self.out / f"{name}{inside}.{self.format}" for name in names}
