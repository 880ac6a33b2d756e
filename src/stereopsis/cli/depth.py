"""``stereopsis depth``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from stereopsis.cli.console import note, show_json, warn
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

if TYPE_CHECKING:
    from stereopsis.calibration import StereoCalibration


def depth(
    left: Positional[Path],
    right: Positional[Path],
    calibration: Path,
    out: Path,
    calibration_right: Path | None = None,
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
    """Metric depth and a point cloud of a rectified pair.

    Writes depth.png (16 bits, millimetres, 0 where not known), depth.npy (metres, NaN where not known), cloud.ply and
    preview.png.

    Args:
        left: Left view.
        right: Right view.
        calibration: File of the rectified rig: Middlebury, KITTI, OpenCV YAML, ROS camera_info or K.txt.
        out: Folder for the results.
        calibration_right: Second file of a calibration in two files, where its name does not tell.
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
    from stereopsis.calibration import read_calibration
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
    rig = fit_calibration(read_calibration(calibration, calibration_right), width, height)
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
    result = disparity_to_depth(disparity, rig)
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

    numbers = describe(result.depth, result.valid)
    if json:
        show_json(
            {
                "model": model,
                "upsample": upsample,
                "width": width,
                "height": height,
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


def fit_calibration(calibration: StereoCalibration, width: int, height: int) -> StereoCalibration:
    """The calibration for images of this size: as it is, or scaled where they were resized as a whole.

    Args:
        width, height: of the images, in pixels.

    Raises:
        ValueError: another aspect, or a principal point that lies outside the images.
    """
    if calibration.width is None or calibration.height is None:
        # Without a size this is the one sign that the file belongs to other images.
        if not (0 <= calibration.cx < width and 0 <= calibration.cy < height):
            raise ValueError(
                f"The calibration's principal point ({calibration.cx:.1f}, {calibration.cy:.1f}) lies outside the "
                f"images of {width}x{height} px; it is for other images, so calibrate at this size or scale it."
            )
        return calibration
    if (calibration.width, calibration.height) == (width, height):
        return calibration
    # A pixel of rounding in either side is what resizing leaves.
    if abs(calibration.width * height / calibration.height - width) > 1 + width / height:
        raise ValueError(
            f"The calibration is for {calibration.width}x{calibration.height} px and the images are {width}x{height}, "
            "another shape; name the calibration of these images."
        )
    note(f"the calibration is for {calibration.width}x{calibration.height} px and is scaled to {width}x{height}")
    return calibration.resize(width, height)
