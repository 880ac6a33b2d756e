"""``stereopsis match``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from stereopsis.cli.console import fail, progress_bar, show_json, warn
from stereopsis.cli.matching import (
    DEFAULT_MODEL,
    DType,
    Runner,
    check_folder,
    check_max_disparity,
    check_numbers,
    check_stages,
    check_suffix,
    describe,
    load_runner,
    range_text,
)

if TYPE_CHECKING:
    from stereopsis.io import VideoWriter
    from stereopsis.sequences import ColorRange, Frame, SequenceMatcher

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
    dtype: DType = "float32",
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
    json: bool = False,
) -> int:
    """Disparity of a rectified pair, of all pairs of folders, or of a video.

    Args:
        left: Left view, or a folder, quoted glob or video of them; alone, a folder of pairs or a side-by-side video.
        out: File (.pfm, .png with 16 bits times 256, .npy); for folders, globs and videos a folder.
        right: Right view, or a folder, quoted glob or video of them.
        model: Matcher, see `stereopsis models`.
        weights: Safetensors file in place of the shipped weights.
        max_disparity: Largest disparity searched, in pixels; the model's own if not given.
        device: Where to compute, e.g. cpu or cuda.
        dtype: Precision to compute in.
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
        json: Print JSON instead of text.
    """
    from stereopsis.io import VIDEO_CODECS, EarlyEndError, VideoWriter, is_video
    from stereopsis.sequences import ColorRange, SequenceMatcher, open_frames

    check_max_disparity(max_disparity)
    check_numbers(budget_ms, smooth, range)
    many = right is None or not (Path(left).is_file() and Path(right).is_file()) or is_video(left) or is_video(right)
    film = preview if many and preview is not None and preview.suffix.lower() in VIDEO_CODECS else None
    if not many:
        _check_targets(out, confidence, preview)
    if range is not None and preview is None:
        raise ValueError("--range is for the colours of --preview; name a file or folder for those too.")
    if not many and (warm_start or smooth):
        option = "--warm-start" if warm_start else "--smooth"
        raise ValueError(f"{option} acts from frame to frame, but there is one pair; name folders or videos.")
    frames = open_frames(left, right)
    if many:
        pictures = None if film else preview
        for path, option in ((out, "--out"), (confidence, "--confidence"), (pictures, "--preview")):
            if path is not None:
                _check_batch_folder(path, option, frames.count)
    if film and film.resolve() in [Path(view).resolve() for view in (left, right) if view]:
        raise ValueError(f"--preview is {film}, which holds the views; name another file.")
    video = VideoWriter(film, frames.fps) if film else None
    network = load_runner(runtime, graph, model, weights, device, dtype, max_disparity)
    model = str(network.model) if graph is not None else model
    given = {"--budget-ms": budget_ms is not None, "--warm-start": warm_start}
    check_stages(network, model, [option for option, used in given.items() if used])
    matcher = SequenceMatcher(
        network,
        max_disparity=max_disparity,
        check=check,
        budget=None if budget_ms is None else budget_ms / 1000,
        fill=fill,
        warm_start=warm_start,
        smooth=smooth,
    )
    in_order = frames.from_video or film or warm_start or smooth or range
    colors = ColorRange(range) if in_order else None

    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    ended = ""
    with progress_bar() as progress, video or nullcontext():
        try:
            for frame in progress.track(frames, total=frames.count, description="matching"):
                targets = (
                    _in_folders(frame.name, out, confidence, None if film else preview, format)
                    if many
                    else _Targets(out, confidence, preview)
                )
                try:
                    # The views of a video are from one rig, so that one look is enough.
                    examine = not (frames.from_video and done)
                    done.append(_match_one(matcher, frame, targets, colors, video, examine))
                except (ValueError, OSError) as error:
                    if not many or (frames.from_video and not done):
                        raise
                    failed.append({"name": frame.name, "error": str(error)})
                    progress.console.print(
                        f"stereopsis: {frame.name}: {error}", markup=False, highlight=False, soft_wrap=True
                    )
        except EarlyEndError as error:
            if not done:
                raise
            ended = str(error)
            failed.append({"name": f"{len(done) + len(failed):06d}", "error": ended})
    if json:
        show_json({"model": model, "pairs": done, "failed": failed})
    else:
        for row in done:
            stage = f", stage {row['stage']}" if "stage" in row else ""
            print(f"{row['out']}  {range_text(row['disparity'], 'px')}, {row['seconds']:.2f} s{stage}")
    if ended:
        return fail(f"{ended.rstrip('.')}; what was matched before is written.", 1)
    if failed:
        return fail(f"{len(failed)} of {len(done) + len(failed)} pairs failed; the others are written.", 1)
    return 0


def _match_one(
    matcher: SequenceMatcher,
    frame: Frame,
    targets: _Targets,
    colors: ColorRange | None,
    video: VideoWriter | None,
    examine: bool,
) -> dict[str, Any]:
    from stereopsis.doctor import geometry_warnings
    from stereopsis.io import write_disparity, write_image
    from stereopsis.visualization import colorize

    left, right = frame.read()
    height, width = left.shape[-2:]
    if video is not None:
        video.check_size(width, height)
    warnings = geometry_warnings(left, right) if examine else []
    for sentence in warnings:
        warn(f"{frame.left.name}: {sentence}")
    found = matcher(left, right)
    disparity = found.disparity
    for path in (*targets.all(), *([video.path] if video is not None else [])):
        path.parent.mkdir(parents=True, exist_ok=True)
    # First, because it alone can be refused by what the values are.
    write_disparity(targets.disparity, disparity)
    if targets.confidence is not None:
        write_image(targets.confidence, disparity.confidence)
    if targets.preview is not None or video is not None:
        ends = None if colors is None else colors(disparity)
        picture = colorize(disparity.disparity, disparity.valid, *(ends or ()))
        if targets.preview is not None:
            write_image(targets.preview, picture)
        if video is not None:
            video.write(picture)
    row = {
        "name": frame.name,
        "left": str(frame.left),
        "right": str(frame.right),
        "out": str(targets.disparity),
        "width": width,
        "height": height,
        "disparity": describe(disparity.disparity, disparity.valid),
        "seconds": round(found.seconds, 4),
        "warnings": warnings,
    }
    return row if found.stage is None else row | {"stage": found.stage}


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
