"""``stereopsis match``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from stereopsis.cli.batch import SEQUENCE, Sequence, identity_of, run_sequence, settings_of
from stereopsis.cli.console import show_json, warn
from stereopsis.cli.matching import (
    DEFAULT_MODEL,
    DType,
    Runner,
    check_folder,
    check_max_disparity,
    check_numbers,
    check_stages,
    check_suffix,
    check_tile,
    describe,
    load_runner,
    range_text,
)
from stereopsis.pipeline.runs.job import Job

if TYPE_CHECKING:
    from stereopsis.io import VideoWriter
    from stereopsis.io.frames import Frame
    from stereopsis.pipeline.runs import RunRecord
    from stereopsis.pipeline.sequence import ColorRange, MatchedFrame, SequenceMatcher
    from stereopsis.types import Disparity

MAPS = (".pfm", ".png", ".npy")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class _Targets:
    """Files of one pair."""

    disparity: Path
    confidence: Path | None
    preview: Path | None

    def all(self) -> list[Path]:
        return [path for path in (self.disparity, self.confidence, self.preview) if path is not None]


def match(
    left: Positional[str],
    out: Path,
    right: Positional[str | None] = None,
    model: str = DEFAULT_MODEL,
    weights: Path | None = None,
    max_disparity: int | None = None,
    device: str = "cpu",
    dtype: DType = "auto",
    runtime: Runner = "torch",
    graph: Path | None = None,
    confidence: Path | None = None,
    preview: Path | None = None,
    format: Literal["pfm", "png", "npy"] = "pfm",
    check: float | None = None,
    fill: bool = False,
    budget_ms: float | None = None,
    warm_start: bool = False,
    smooth: float = 0.0,
    range: tuple[float, float] | None = None,
    tile: int | None = None,
    json: bool = False,
    sequence: Sequence = SEQUENCE,
) -> int:
    """Disparity of a rectified pair, of all pairs of folders, or of a video or bag.

    Args:
        left: Left view, or a folder, quoted glob or video of them; alone, a folder of pairs, a side-by-side video or a
            ROS bag.
        out: File (.pfm, .png with 16 bits times 256, .npy); for folders, globs and videos a folder.
        right: Right view, or a folder, quoted glob or video of them.
        model: Matcher, see `stereopsis models`.
        weights: Safetensors file in place of the shipped weights.
        max_disparity: Largest disparity searched, in pixels; the model's own if not given.
        device: Where to compute, e.g. cpu or cuda.
        dtype: Precision to compute in; auto is bfloat16 for HITNet on a CPU that has it, else float32.
        runtime: What computes; other than torch it needs the extra "export".
        graph: JSON file that `stereopsis export` wrote, for --runtime; if not given the model is exported for this run.
        confidence: Also write the confidence as a grey picture (for folders and videos: a folder).
        preview: Also write the disparity in colour (for folders and videos: a folder, or a video .mp4 or .avi).
        format: Kind of the files in a folder.
        check: Match the right view too, and mark as invalid what differs by more than this many pixels.
        fill: Fill holes from the neighbours in the row.
        budget_ms: Milliseconds for the network and each pair; AnyNet alone, which answers with the stage that fits.
        warm_start: Start from the map of the frame before; AnyNet alone.
        smooth: Strength of the filter against flicker, from 0 (off) to below 1.
        range: Lowest and highest disparity of the colours, in pixels; of a sequence the first frame's own if not given.
        tile: Side in pixels of the tiles that are matched one by one, 0 for none; above 4 megapixels its own choice.
        json: Print JSON instead of text.
        sequence: How sequences are read and worked on.
    """
    from stereopsis.io import VIDEO_CODECS, VideoPair, VideoWriter, is_bag, is_video
    from stereopsis.io.frames import open_frames
    from stereopsis.pipeline.runs import RunRecord
    from stereopsis.pipeline.sequence import ColorRange

    check_max_disparity(max_disparity)
    check_numbers(budget_ms, smooth, range)
    check_tile(tile, budget_ms)
    many = (
        right is None
        or not (Path(left).is_file() and Path(right).is_file())
        or any(is_video(view) or is_bag(view) for view in (left, right))
    )
    film = preview if many and preview is not None and preview.suffix.lower() in VIDEO_CODECS else None
    if not many:
        _check_targets(out, confidence, preview)
    if range is not None and preview is None:
        raise ValueError("--range is for the colours of --preview; name a file or folder for those too.")
    if not many and (warm_start or smooth):
        option = "--warm-start" if warm_start else "--smooth"
        raise ValueError(f"{option} acts from frame to frame, but there is one pair; name folders or videos.")
    frames = open_frames(left, right, topics=sequence.topics, tolerance=sequence.sync_ms / 1000)
    if many:
        pictures = None if film else preview
        for path, option in ((out, "--out"), (confidence, "--confidence"), (pictures, "--preview")):
            if path is not None:
                _check_batch_folder(path, option, frames.count)
    if film and film.resolve() in [Path(view).resolve() for view in (left, right) if view]:
        raise ValueError(f"--preview is {film}, which holds the views; name another file.")
    in_order = frames.from_video or film or warm_start or smooth or range
    video = VideoWriter(film, frames.fps) if film else None
    job = MatchJob(
        model=model,
        weights=weights,
        runtime=runtime,
        graph=graph,
        device=device,
        dtype=dtype,
        max_disparity=max_disparity,
        check=check,
        budget_ms=budget_ms,
        fill=fill,
        warm_start=warm_start,
        smooth=smooth,
        tile=tile,
        many=many,
        out=out,
        confidence=confidence,
        preview=None if film else preview,
        format=format,
        range=range,
        colors=ColorRange(range) if in_order else None,
        video=video,
        examine_all=not frames.from_video,
    )
    # The colours of the first frame are those of all.
    job.in_order = bool(film or warm_start or smooth or (preview and in_order and range is None))
    if many:
        job.record = RunRecord(out, settings_of("match", (left, right), job.settings()), sequence.overwrite)

    def told(row: dict[str, Any]) -> dict[str, Any] | str:
        for sentence in row["warnings"]:
            warn(f"{Path(row['left']).name}: {sentence}")
        stage = f", stage {row['stage']}" if "stage" in row else ""
        line = f"{row['out']}  {range_text(row['disparity'], 'px')}, {row['seconds']:.2f} s{stage}"
        return row if json else line

    with video or nullcontext():
        summary = run_sequence(
            frames,
            job,
            sequence,
            "matching",
            strict=lambda s: not many or (isinstance(frames.source, VideoPair) and not s.results and not s.skipped),
            keep=told,
        )
    if json:
        show_json({"model": job.name, "pairs": summary.results, "failed": summary.failed, "skipped": summary.skipped})
    else:
        for line in summary.results:
            print(line)
    return summary.status("matched")


@dataclass(eq=False)
class MatchJob(Job):
    """Matches the pairs of a sequence and writes their maps; most attributes are those of :func:`match`.

    Attributes:
        many: whether results lie in folders, under the names of the frames.
        colors: the range of the colours of a sequence; None for pictures with a range each.
        video: of the pictures.
        examine_all: whether every pair is looked at for what spoils matching, or the first one alone.
        record: of the run, for a sequence.
    """

    model: str
    weights: Path | None
    runtime: Runner
    graph: Path | None
    device: str
    dtype: DType
    max_disparity: int | None
    check: float | None
    budget_ms: float | None
    fill: bool
    warm_start: bool
    smooth: float
    tile: int | None
    many: bool
    out: Path
    confidence: Path | None
    preview: Path | None
    format: str
    range: tuple[float, float] | None
    colors: ColorRange | None
    video: VideoWriter | None
    examine_all: bool
    record: RunRecord | None = None
    matcher: SequenceMatcher | None = None
    last: Frame | None = None

    def settings(self) -> dict[str, Any]:
        """What the maps depend on."""
        names = (
            "model", "weights", "runtime", "graph", "dtype", "max_disparity", "check", "fill", "budget_ms",
            "warm_start", "smooth", "tile", "format",
        )  # fmt: skip
        values = {name: getattr(self, name) for name in names} | {"range": self.range}
        return values | {
            "checksum of the weights": identity_of(self.model, self.weights) if self.graph is None else None
        }

    @property
    def name(self) -> str:
        """The model's name, which a graph tells itself."""
        network = self.matcher.model if self.matcher is not None and self.graph is not None else None
        return str(getattr(network, "model", self.model))

    def open(self) -> None:
        from stereopsis.pipeline.sequence import SequenceMatcher

        network = load_runner(
            self.runtime, self.graph, self.model, self.weights, self.device, self.dtype, self.max_disparity
        )
        name = str(network.model) if self.graph is not None else self.model
        given = {"--budget-ms": self.budget_ms is not None, "--warm-start": self.warm_start}
        check_stages(network, name, [option for option, used in given.items() if used])
        self.matcher = SequenceMatcher(
            network,
            max_disparity=self.max_disparity,
            check=self.check,
            budget=None if self.budget_ms is None else self.budget_ms / 1000,
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
        from stereopsis.calibration.diagnosis import geometry_warnings

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
        from stereopsis.io import write_disparity, write_image

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
        from stereopsis.io import write_image
        from stereopsis.visualization import colorize

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
        from stereopsis.io import read_disparity
        from stereopsis.types import Disparity

        disparity, valid = (t[None] for t in read_disparity(self._targets(frame).disparity))
        return Disparity(disparity, valid, valid.float())

    def _targets(self, frame: Frame) -> _Targets:
        if self.many:
            return _in_folders(frame.name, self.out, self.confidence, self.preview, self.format)
        return _Targets(self.out, self.confidence, self.preview)


def _check_targets(out: Path, confidence: Path | None, preview: Path | None) -> None:
    check_suffix(out, MAPS, "--out")
    for path, option in ((confidence, "--confidence"), (preview, "--preview")):
        if path is not None:
            check_suffix(path, PICTURES, option)
    named = [path.resolve() for path in _Targets(out, confidence, preview).all()]
    if len(set(named)) < len(named):
        raise ValueError("--out, --confidence and --preview name one file twice; give each a name of its own.")


def _check_batch_folder(path: Path, option: str, count: int | None) -> None:
    from stereopsis.io import VIDEO_SUFFIXES

    check_folder(path, option)
    if path.suffix.lower() in (*MAPS, *PICTURES, *VIDEO_SUFFIXES):
        pairs = "many" if count is None else count
        remedy = "name a folder, or a video .mp4 or .avi" if option == "--preview" else "name a folder"
        raise ValueError(f"{option} is {path}, a file, but there are {pairs} pairs; {remedy}.")


def _in_folders(name: str, out: Path, confidence: Path | None, preview: Path | None, format: str) -> _Targets:
    def inside(folder: Path | None, ending: str) -> Path | None:
        if folder is None:
            return None
        # Folders that are given twice must not overwrite the maps.
        return folder / f"{name}{ending}.png"

    return _Targets(out / f"{name}.{format}", inside(confidence, "_confidence"), inside(preview, "_preview"))
