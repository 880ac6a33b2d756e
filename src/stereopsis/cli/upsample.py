"""``stereopsis upsample``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from stereopsis.cli.batch import SEQUENCE, Sequence, run_sequence, settings_of
from stereopsis.cli.console import show_json
from stereopsis.cli.loading import load_upsampler
from stereopsis.cli.options import DEFAULT_UPSAMPLER, DType, check_folder, check_suffix, range_text

# as in geometry.resample, which is not imported before it is needed
ReductionName = Literal["bicubic", "bilinear", "area", "cubic", "nearest", "every"]


def upsample(
    image: Positional[str],
    out: Path,
    depth: Positional[str | None] = None,
    scale: float | None = None,
    model: str = DEFAULT_UPSAMPLER,
    weights: Path | None = None,
    valid: Path | None = None,
    unit: float | None = None,
    back_projections: int | None = None,
    reduction: ReductionName | None = None,
    device: str = "cpu",
    dtype: DType = "float32",
    format: Literal["png", "npy", "npz", "pfm"] = "png",
    json: bool = False,
    sequence: Sequence = SEQUENCE,
) -> int:
    """Depth at the size of an image, with the edges of the image, of one map or of all of a sequence.

    Args:
        image: Image that the depth map is registered to, or a folder, quoted glob or video of them; alone, a folder of
            both (TUM, or image and depth) or a ROS bag.
        out: File (.png with 16 bits, .npy, .npz, .pfm); for a sequence a folder.
        depth: Depth map, of the image's size or smaller, in any ratio, or a folder or quoted glob of them; 0, negative
            and NaN are holes.
        scale: Ratio of the sizes, refused where the files have another one; theirs if not given.
        model: Upsampler, see `stereopsis models`.
        weights: Safetensors file in place of the shipped weights.
        valid: Mask of the depth map's size (picture or .npy), 0 where the depth may not be used; for a sequence also a
            folder of them, named as the depth maps.
        unit: Metres per step of the depth file, e.g. 0.0002 for TUM; what the file states or is usual if not given.
        back_projections: How often the result is pulled towards what the sensor measured. If not given, fdkn.any finds
            out whether to do so once, the others do not.
        reduction: How the depth map was made small, where you know it; what fits best if not given.
        device: Where to compute, e.g. cpu or cuda.
        dtype: Precision to compute in.
        format: Kind of the files of a sequence.
        json: Print JSON instead of text.
        sequence: How sequences are read and worked on.
    """
    from stereopsis.io import is_bag, is_video
    from stereopsis.io.depth import WRITE_SUFFIXES
    from stereopsis.io.frames import open_depth_frames
    from stereopsis.pipeline.runs.record import RunRecord, identity_of
    from stereopsis.pipeline.runs.upsample import UpsampleJob

    if scale is not None and not scale >= 1:
        raise ValueError(f"--scale is {scale:g}; it must be at least 1, for example 8.")
    many = depth is None or is_bag(image) or is_video(image) or not (Path(image).is_file() and Path(depth).is_file())
    if not many:
        check_suffix(out, WRITE_SUFFIXES, "--out")
    tolerance = sequence.sync_ms / 1000
    frames = open_depth_frames(image, depth, unit=unit, topics=sequence.topics, tolerance=tolerance)
    if many:
        check_folder(out, "--out")
        if out.suffix.lower() in WRITE_SUFFIXES:
            raise ValueError(f"--out is {out}, a file, but there are {frames.count} depth maps; name a folder.")
    load = partial(load_upsampler, model, weights, device, dtype)
    job = UpsampleJob(load, out, many, scale, valid, back_projections, reduction, device, format)
    if many:
        options = {
            "model": model, "weights": weights, "scale": scale, "valid": valid, "unit": unit,
            "back_projections": back_projections, "reduction": reduction, "dtype": dtype, "format": format,
            "checksum of the weights": identity_of(model, weights),
        }  # fmt: skip
        job.record = RunRecord(out, settings_of("upsample", (image, depth), options), sequence.overwrite)

    summary = run_sequence(frames, job, sequence, "upsampling", strict=lambda _: not many)
    if json:
        rows = {"pairs": summary.results, "failed": summary.failed, "skipped": summary.skipped}
        show_json({"model": model} | (rows if many else summary.results[0]))
    else:
        for row in summary.results:
            print(f"{row['out']}  {range_text(row['depth'], 'm')}, {row['seconds']:.2f} s")
    return summary.status("upsampled")
