"""``stereopsis depth``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from stereopsis.cli.console import show_json, warn
from stereopsis.cli.matching import (
    DEFAULT_MODEL,
    DType,
    check_folder,
    check_max_disparity,
    describe,
    load_matcher,
    matched,
    range_text,
)
from stereopsis.cli.rigs import rectified


def depth(
    left: Positional[Path],
    right: Positional[Path],
    calibration: Path,
    out: Path,
    calibration_right: Path | None = None,
    rectify: Literal["auto", "yes", "no"] = "auto",
    model: str = DEFAULT_MODEL,
    weights: Path | None = None,
    max_disparity: int | None = None,
    device: str = "cpu",
    dtype: DType = "float32",
    check: float | None = None,
    fill: bool = False,
    upsample: str | None = None,
    reduce: float | None = None,
    json: bool = False,
) -> None:
    """Metric depth and a point cloud of a pair, which is rectified first where it is raw.

    Writes depth.png (16 bits, millimetres, 0 where not known), depth.npy (metres, NaN where not known), cloud.ply and
    preview.png; of raw views also rectified_left.png, rectified_right.png and rectified_calib.txt, to which the depth
    belongs.

    Args:
        left: Left view.
        right: Right view.
        calibration: File of the rig, or folder that holds it: Middlebury, KITTI, OpenCV or ROS YAML, K.txt, EuRoC
            sensor.yaml, or of `stereopsis calibrate`.
        out: Folder for the results.
        calibration_right: Second file of a calibration in two files, where its name does not tell.
        rectify: Whether the views are raw; auto asks the file, and the views where it describes raw and rectified ones.
        model: Matcher, see `stereopsis models`.
        weights: Safetensors file in place of the shipped weights.
        max_disparity: Largest disparity searched, in pixels; the calibration's or the model's own if not given.
        device: Where to compute, e.g. cpu or cuda.
        dtype: Precision to compute in.
        check: Match the right view too, and leave out what differs by more than this many pixels.
        fill: Fill holes of the disparity from the neighbours in the row.
        upsample: Match smaller views and bring the disparity to full size by this upsampler, e.g. fdkn_x4.scenes.
        reduce: How much smaller, with --upsample; the upsampler's own scale, or 4, if not given.
        json: Print JSON instead of text.
    """
    from stereopsis.calibration import write_calibration
    from stereopsis.cli.upsample import load_upsampler
    from stereopsis.doctor import geometry_warnings
    from stereopsis.geometry import disparity_to_depth, unproject
    from stereopsis.io import read_image, write_depth, write_image, write_point_cloud
    from stereopsis.pipeline import ReducedMatcher
    from stereopsis.rendering import depth_picture
    from stereopsis.visualization import side_by_side

    check_max_disparity(max_disparity)
    check_folder(out, "--out")
    views = read_image(left), read_image(right)
    if views[0].shape != views[1].shape:
        sizes = " and ".join(f"{p} is {v.shape[2]}x{v.shape[1]}" for p, v in zip((left, right), views, strict=True))
        raise ValueError(f"{sizes}; the two views of a rectified pair must have the same size.")
    height, width = views[0].shape[-2:]
    pair = rectified(*views, calibration, calibration_right, rectify)
    views, rig = (pair.left, pair.right), pair.calibration
    if reduce is not None and upsample is None:
        raise ValueError(f"--reduce is {reduce:g}, but nothing brings the map back; name an upsampler with --upsample.")
    matcher = load_matcher(model, weights, device, dtype)
    if upsample is not None:
        upsampler = load_upsampler(upsample, None, device, dtype)
        own = getattr(getattr(upsampler, "config", None), "scale", None)
        matcher = ReducedMatcher(matcher, upsampler, reduce or own or 4)
    for sentence in geometry_warnings(*views):
        warn(sentence)
    limit = max_disparity if max_disparity is not None else rig.ndisp
    disparity, seconds = matched(matcher, *views, limit, check=check, fill=fill)
    result = disparity_to_depth(disparity, rig, disparity.valid if pair.valid is None else disparity.valid & pair.valid)
    if not result.valid.any():
        raise ValueError(f"No pixel has a depth with an offset of {rig.doffs:g} px; check the calibration.")
    cloud = unproject(result, rig, views[0])
    preview = side_by_side(views[0], depth_picture(result))

    out.mkdir(parents=True, exist_ok=True)
    files = [out / name for name in ("depth.png", "depth.npy", "cloud.ply", "preview.png")]
    write_depth(files[0], result, overflow="drop")
    write_depth(files[1], result)
    write_point_cloud(files[2], cloud)
    write_image(files[3], preview)
    if pair.rectification is not None:
        files += [out / name for name in ("rectified_left.png", "rectified_right.png", "rectified_calib.txt")]
        for file, view in zip(files[4:], views, strict=False):
            write_image(file, view)
        write_calibration(rig, files[6])

    numbers = describe(result.depth, result.valid)
    if json:
        show_json(
            {
                "model": model,
                "upsample": upsample,
                "width": width,
                "height": height,
                "rectified_here": pair.rectification is not None,
                "depth": numbers,
                "points": len(cloud),
                "seconds": round(seconds, 4),
                "files": [str(file) for file in files],
            }
        )
        return
    print(f"depth {range_text(numbers, 'm')}, median {numbers['median']:.4g} m, {seconds:.2f} s")
    for file in files:
        print(file)
