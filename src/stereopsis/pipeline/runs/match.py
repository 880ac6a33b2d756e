"""Disparity maps of the pairs of a sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from stereopsis.calibration.diagnosis import geometry_warnings
from stereopsis.geometry.summary import describe
from stereopsis.io import VideoWriter, read_disparity, write_disparity, write_image
from stereopsis.io.frames import Frame
from stereopsis.pipeline.runs.job import Job
from stereopsis.pipeline.runs.record import RunRecord
from stereopsis.pipeline.sequence import ColorRange, MatchedFrame, SequenceMatcher
from stereopsis.types import Disparity
from stereopsis.visualization import colorize


@dataclass(frozen=True)
class MatchFiles:
    """Files of one pair."""

    disparity: Path
    confidence: Path | None
    preview: Path | None

    def all(self) -> list[Path]:
        return [path for path in (self.disparity, self.confidence, self.preview) if path is not None]


@dataclass(eq=False)
class MatchJob(Job):
    """Matches the pairs of a sequence and writes their maps.

    Attributes:
        load: returns the matcher; it is called once in each process, so it must be picklable for a cluster.
        out: file of the map, or folder of the maps.
        confidence, preview: file or folder of pictures of the confidence and of the map in colours; None for none.
        format: suffix of the maps of a sequence.
        max_disparity, check, budget, fill, warm_start, smooth, tile: as in
            :class:`~stereopsis.pipeline.sequence.SequenceMatcher`.
        many: whether results lie in folders, under the names of the frames.
        device: of the model.
        colors: the range of the colours of a sequence; None for pictures with a range each.
        video: of the pictures.
        examine_all: whether every pair is looked at for what spoils matching, or the first one alone.
        record: of the run, for a sequence.
    """

    load: Callable[[], nn.Module]
    out: Path
    many: bool
    confidence: Path | None = None
    preview: Path | None = None
    format: str = "pfm"
    max_disparity: int | None = None
    check: float | None = None
    budget: float | None = None
    fill: bool = False
    warm_start: bool = False
    smooth: float = 0.0
    tile: int | None = None
    device: str = "cpu"
    colors: ColorRange | None = None
    video: VideoWriter | None = None
    examine_all: bool = True
    record: RunRecord | None = None
    matcher: SequenceMatcher | None = None
    last: Frame | None = None

    def open(self) -> None:
        self.matcher = SequenceMatcher(
            self.load(),
            max_disparity=self.max_disparity,
            check=self.check,
            budget=self.budget,
            fill=self.fill,
            warm_start=self.warm_start,
            smooth=self.smooth,
            tile=self.tile,
        )

    def is_done(self, frame: Frame) -> bool:
        targets = self._targets(frame).all()
        return self.record is not None and self.record.is_done(targets, {frame.left, frame.right})

    def passed(self, frame: Frame) -> None:
        self.last = frame

    def kept(self, frame: Frame) -> None:
        if self.video is not None or self.colors is not None:
            self._show(self._stored(frame), None)

    def read(self, frame: Frame) -> tuple[Any, Any, list[str]]:
        left, right = frame.read()
        # The views of a video are from one rig, so that one look is enough.
        examine = self.examine_all or frame.index == 0
        return left, right, geometry_warnings(left, right) if examine else []

    def compute(self, frame: Frame, images: tuple[Any, Any, list[str]]) -> tuple[MatchedFrame, list[str]]:
        assert self.matcher is not None
        left, right, warnings = images
        if self.last is not None and (self.warm_start or self.smooth):
            self.matcher.resume(self.last.read()[0], self._stored(self.last))
        self.last = None
        found = self.matcher(left, right)
        if self.record is not None:
            self.record.begin()
        return found, warnings

    def write(self, frame: Frame, found: tuple[MatchedFrame, list[str]]) -> dict[str, Any]:
        matched, warnings = found
        disparity, targets = matched.disparity, self._targets(frame)
        height, width = disparity.disparity.shape[-2:]
        if self.video is not None:
            self.video.check_size(width, height)
        for path in (*targets.all(), *([self.video.path] if self.video is not None else [])):
            path.parent.mkdir(parents=True, exist_ok=True)
        # First, because it alone can be refused by what the values are.
        write_disparity(targets.disparity, disparity)
        if targets.confidence is not None:
            write_image(targets.confidence, disparity.confidence)
        self._show(disparity, targets.preview)
        row = {
            "name": frame.name,
            "left": str(frame.left),
            "right": str(frame.right),
            "out": str(targets.disparity),
            "width": width,
            "height": height,
            "disparity": describe(disparity.disparity, disparity.valid),
            "seconds": round(matched.seconds, 4),
            "warnings": warnings,
        }
        return row if matched.stage is None else row | {"stage": matched.stage}

    def _show(self, disparity: Disparity, preview: Path | None) -> None:
        """Colours into the preview's file and the video, and the range of later ones from the first."""
        ends = None if self.colors is None else self.colors(disparity)
        if preview is None and self.video is None:
            return
        picture = colorize(disparity.disparity, disparity.valid, *(ends or ()))
        if preview is not None:
            write_image(preview, picture)
        if self.video is not None:
            self.video.write(picture)

    def _stored(self, frame: Frame) -> Disparity:
        """The map that an earlier run has written."""
        disparity, valid = (t[None] for t in read_disparity(self._targets(frame).disparity))
        return Disparity(disparity, valid, valid.float())

    def _targets(self, frame: Frame) -> MatchFiles:
        if self.many:
            return files_in_folders(frame.name, self.out, self.confidence, self.preview, self.format)
        return MatchFiles(self.out, self.confidence, self.preview)


def files_in_folders(name: str, out: Path, confidence: Path | None, preview: Path | None, format: str) -> MatchFiles:
    """Files of one frame of a sequence."""

    def inside(folder: Path | None, ending: str) -> Path | None:
        if folder is None:
            return None
        # Folders that are given twice must not overwrite the maps.
        return folder / f"{name}{ending}.png"

    return MatchFiles(out / f"{name}.{format}", inside(confidence, "_confidence"), inside(preview, "_preview"))
