"""Compressed pairs or images of a sequence."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from stereopsis.compression.bitstream import Header, Record, pack_header
from stereopsis.compression.codec import PairCodec, quality_of
from stereopsis.compression.hyperprior2 import Hyperprior2
from stereopsis.io.bits import full_range
from stereopsis.io.frames import Frame
from stereopsis.ops.images import as_gray
from stereopsis.pipeline.runs.job import Job
from stereopsis.types import StereoCalibration, StereoPair


@dataclass(eq=False)
class CompressJob(Job):
    """Encodes the pairs of a sequence; the results are headers, records and rows for one file.

    Attributes:
        load: returns the codec; it is called once in each process, so it must be picklable for a cluster.
        quality: 1 (small) to 8 (good).
        target_bpp: bits a pixel in place of a quality; each pair gets the best quality that does not exceed them.
        effort: of the encoder, 0 to 3.
        rig: of the pairs, which the header keeps.
        append: the records are added to a file that is there.
        alone: whether frames are images and no pairs.
        device: of the model.
        expected: header of the file that is appended to.
        finished: names of the frames that an interrupted run has done.
    """

    load: Callable[[], PairCodec]
    quality: float = 4.0
    target_bpp: float | None = None
    effort: int = 0
    alone: bool = False
    rig: StereoCalibration | None = None
    append: bool = False
    device: str = "cpu"
    expected: Header | None = None
    finished: set[str] = field(default_factory=set)
    codec: PairCodec | None = None

    def open(self) -> None:
        self.codec = self.load()
        if self.expected is not None:
            self.codec.check_header(self.expected)

    def is_done(self, frame: Frame) -> bool:
        return frame.name in self.finished

    def read(self, frame: Frame) -> Tensor | StereoPair:
        views = [as_gray(view[None]) for view in frame.read()]
        if self.alone:
            return views[0]
        if len({view.shape[1] for view in views}) == 2:
            views = [view.expand(-1, 3, -1, -1) for view in views]
        return StereoPair(views[0], views[1], self.rig)

    def _in_full_range(self, images: Tensor | StereoPair) -> Tensor | StereoPair:
        """Images of 10 or 12 bits in 16 as a codec of 8 bits can keep them; other codecs keep their factor."""
        if isinstance(self.codec, Hyperprior2):
            return images
        purpose = "because this codec keeps 8 bits; the file does not hold the factor"
        if isinstance(images, StereoPair):
            left, right = full_range(images.left, images.right, purpose)
            return replace(images, left=left, right=right)
        return full_range(images, images, purpose)[0]

    def compute(self, frame: Frame, images: Tensor | StereoPair) -> tuple[Header, Record, dict[str, Any]]:
        assert self.codec is not None
        images = self._in_full_range(images)
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
