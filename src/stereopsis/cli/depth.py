"""``stereopsis depth``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from stereopsis.cli.batch import SEQUENCE, Sequence, run_sequence, settings_of
from stereopsis.cli.console import note, show_json, warn
from stereopsis.cli.loading import load_reduced
from stereopsis.cli.options import DEFAULT_MODEL, DType, check_folder, check_max_disparity, check_tile, range_text
from stereopsis.cli.rigs import RIG, Rig, rig_json, rig_text

File = Literal["depth", "metres", "cloud", "preview"]


def depth(
    left: Positional[str],
    calibration: Path,
    out: Path,
    right: Positional[str | None] = None,
    calibration_right: Path | None = None,
    rectify: Literal["auto", "yes", "no"] = "auto",
    model: str = DEFAULT_MODEL,
    weights: Path | None = None,
    max_disparity: int | None = None,
    device: str = "cpu",
    dtype: DType = "auto",
    check: float | None = None,
    fill: bool = False,
    upsample: str | None = None,
    reduce: float | None = None,
    tile: int | None = None,
    files: tuple[File, ...] = ("depth", "metres", "cloud", "preview"),
    json: bool = False,
    rig: Rig = RIG,
    sequence: Sequence = SEQUENCE,
) -> int:
    """Metric depth and a point cloud of a pair or of each pair of a sequence, rectified first where it is raw.

    Writes depth.png (16 bits, millimetres, 0 where not known), depth.npy (metres, NaN where not known), cloud.ply and
    preview.png; of raw views also rectified_left.png, rectified_right.png and rectified_calib.txt, to which the depth
    belongs. Of a sequence these are folders depth, metres, cloud, preview, left and right, and the file calib.txt.

    Args:
        left: Left view, or a folder, quoted glob or video of them; alone, a folder of pairs, a side-by-side video or a
            ROS bag.
        calibration: File of the rig, folder that holds it, or ROS bag: OpenCV, ROS, Kalibr, KITTI, Middlebury, ZED, OAK
            and others (docs/formats.md), or of `stereopsis calibrate`.
        out: Folder for the results.
        right: Right view, or a folder, quoted glob or video of them.
        calibration_right: Second file of a calibration in two files, where its name does not tell.
        rectify: Whether the views are raw; auto asks the file, and the views where it describes raw and rectified ones.
        model: Matcher, see `stereopsis models`.
        weights: Safetensors file in place of the shipped weights.
        max_disparity: Largest disparity searched, in pixels; the calibration's or the model's own if not given.
        device: Where to compute, e.g. cpu or cuda.
        dtype: Precision to compute in; auto is bfloat16 for HITNet on a CPU that has it, else float32.
        check: Match the right view too, and leave out what differs by more than this many pixels.
        fill: Fill holes of the disparity from the neighbours in the row.
        upsample: Match smaller views and bring the disparity to full size by this upsampler, e.g. fdkn_x4.scenes.
        reduce: How much smaller, with --upsample; the upsampler's own scale, or 4, if not given.
        tile: Side in pixels of the tiles that a pair is matched in, 0 for none; above 4 megapixels chosen if not given.
        files: What to write; a cloud takes 15 bytes a pixel.
        json: Print JSON instead of text.
        rig: How the calibration is read.
        sequence: How sequences are read and worked on.
    """
    from stereopsis.io import VideoPair
    from stereopsis.io.frames import open_frames
    from stereopsis.pipeline.runs.depth import DepthJob
    from stereopsis.pipeline.runs.record import RunRecord, identity_of

    check_max_disparity(max_disparity)
    check_tile(tile)
    check_folder(out, "--out")
    if not files:
        raise ValueError("--files is empty; name at least one of depth, metres, cloud, preview.")
    if reduce is not None and upsample is None:
        raise ValueError(f"--reduce is {reduce:g}, but nothing brings the map back; name an upsampler with --upsample.")
    frames = open_frames(left, right, topics=sequence.topics, tolerance=sequence.sync_ms / 1000)
    many = right is None or not (Path(left).is_file() and Path(right).is_file()) or frames.from_video
    load = partial(load_reduced, model, weights, device, dtype, upsample, reduce)
    job = DepthJob(load, out, many, tuple(files), max_disparity, check, fill, tile, device)
    if many:
        options = {
            "model": model, "weights": weights, "max_disparity": max_disparity, "dtype": dtype, "check": check,
            "fill": fill, "upsample": upsample, "reduce": reduce, "tile": tile, "calibration": calibration,
            "calibration_right": calibration_right, "rectify": rectify,
            "checksum of the weights": identity_of(model, weights),
        }  # fmt: skip
        settings = settings_of("depth", (left, right), options | rig.settings())
        job.record = RunRecord(out, settings, sequence.overwrite)
    for text in job.set_cameras(frames, rig.file(calibration, calibration_right), rectify):
        note(text)
    assert job.rig is not None

    def told(row: dict[str, Any]) -> dict[str, Any]:
        for sentence in row["warnings"]:
            warn(sentence)
        return row

    summary = run_sequence(
        frames,
        job,
        sequence,
        "measuring",
        strict=lambda s: not many or (isinstance(frames.source, VideoPair) and not s.results and not s.skipped),
        keep=told,
    )
    common: dict[str, Any] = {"model": model, "upsample": upsample, "rectified_here": job.rectification is not None}
    common |= rig_json(job.rig)
    if json:
        rows = {"pairs": summary.results, "failed": summary.failed, "skipped": summary.skipped}
        show_json(common | rows if many else common | summary.results[0])
        return summary.status("measured")
    for row in summary.results:
        numbers, start = row["depth"], f"{row['name']}  " if many else ""
        line = f"depth {range_text(numbers, 'm')}, median {numbers['median']:.4g} m, {rig_text(job.rig)}"
        print(f"{start}{line}, {row['seconds']:.2f} s")
        if not many:
            print("\n".join(row["files"]))
    return summary.status("measured")
