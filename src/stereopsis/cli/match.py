"""``stereopsis match``."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from stereopsis.cli.batch import SEQUENCE, Sequence, run_sequence, settings_of
from stereopsis.cli.console import show_json, warn
from stereopsis.cli.loading import load_runner
from stereopsis.cli.options import (
    DEFAULT_MODEL,
    DType,
    Runner,
    check_folder,
    check_max_disparity,
    check_numbers,
    check_stages,
    check_suffix,
    check_tile,
    range_text,
)

if TYPE_CHECKING:
    from torch import nn

MAPS = (".pfm", ".png", ".npy")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


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
    from stereopsis.pipeline.runs.match import MatchJob
    from stereopsis.pipeline.runs.record import RunRecord, identity_of
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
    stages = [
        option for option, given in (("--budget-ms", budget_ms is not None), ("--warm-start", warm_start)) if given
    ]
    load = partial(_load, runtime, graph, model, weights, device, dtype, max_disparity, stages)
    job = MatchJob(
        load,
        out,
        many,
        confidence=confidence,
        preview=None if film else preview,
        format=format,
        max_disparity=max_disparity,
        check=check,
        budget=None if budget_ms is None else budget_ms / 1000,
        fill=fill,
        warm_start=warm_start,
        smooth=smooth,
        tile=tile,
        device=device,
        colors=ColorRange(range) if in_order else None,
        video=video,
        examine_all=not frames.from_video,
    )
    # The colours of the first frame are those of all.
    job.in_order = bool(film or warm_start or smooth or (preview and in_order and range is None))
    if many:
        options = {
            "model": model, "weights": weights, "runtime": runtime, "graph": graph, "dtype": dtype,
            "max_disparity": max_disparity, "check": check, "fill": fill, "budget_ms": budget_ms,
            "warm_start": warm_start, "smooth": smooth, "tile": tile, "format": format, "range": range,
            "checksum of the weights": identity_of(model, weights) if graph is None else None,
        }  # fmt: skip
        job.record = RunRecord(out, settings_of("match", (left, right), options), sequence.overwrite)

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
        name = model if graph is None or job.matcher is None else str(getattr(job.matcher.model, "model", model))
        show_json({"model": name, "pairs": summary.results, "failed": summary.failed, "skipped": summary.skipped})
    else:
        for line in summary.results:
            print(line)
    return summary.status("matched")


def _load(
    runtime: Runner,
    graph: Path | None,
    model: str,
    weights: Path | None,
    device: str,
    dtype: DType,
    max_disparity: int | None,
    stages: list[str],
) -> nn.Module:
    """The matcher, which must have stages if one of the options ``stages`` is given."""
    network = load_runner(runtime, graph, model, weights, device, dtype, max_disparity)
    check_stages(network, model if graph is None else str(network.model), stages)
    return network


def _check_targets(out: Path, confidence: Path | None, preview: Path | None) -> None:
    check_suffix(out, MAPS, "--out")
    for path, option in ((confidence, "--confidence"), (preview, "--preview")):
        if path is not None:
            check_suffix(path, PICTURES, option)
    named = [path.resolve() for path in (out, confidence, preview) if path is not None]
    if len(set(named)) < len(named):
        raise ValueError("--out, --confidence and --preview name one file twice; give each a name of its own.")


def _check_batch_folder(path: Path, option: str, count: int | None) -> None:
    from stereopsis.io import VIDEO_SUFFIXES

    check_folder(path, option)
    if path.suffix.lower() in (*MAPS, *PICTURES, *VIDEO_SUFFIXES):
        pairs = "many" if count is None else count
        remedy = "name a folder, or a video .mp4 or .avi" if option == "--preview" else "name a folder"
        raise ValueError(f"{option} is {path}, a file, but there are {pairs} pairs; {remedy}.")
