"""``stereopsis pipeline``."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from stereopsis.cli.console import show_json, warn, warnings_of_this_command
from stereopsis.cli.loading import load_codec, load_reduced
from stereopsis.cli.options import (
    DEFAULT_CODEC,
    DEFAULT_MODEL,
    DType,
    check_folder,
    check_max_disparity,
    check_rate,
    range_text,
)
from stereopsis.cli.rigs import RIG, Rig, rectified, rig_json, rig_text
from stereopsis.geometry.summary import describe

if TYPE_CHECKING:
    from torch import nn

    from stereopsis.evaluation.end_to_end import PipelineResult, Truth

REPORTS = ("report.html", "report.json")


def pipeline(
    left: Positional[Path],
    right: Positional[Path],
    calibration: Path,
    out: Path,
    codec: str = DEFAULT_CODEC,
    codec_weights: Path | None = None,
    quality: float | None = None,
    target_bpp: float | None = None,
    model: str = DEFAULT_MODEL,
    weights: Path | None = None,
    max_disparity: int | None = None,
    fill: bool = False,
    upsample: str | None = None,
    reduce: float | None = None,
    truth: Path | None = None,
    truth_divide_by: float | None = None,
    calibration_right: Path | None = None,
    rectify: Literal["auto", "yes", "no"] = "auto",
    device: str = "cpu",
    dtype: DType = "float32",
    json: bool = False,
    rig: Rig = RIG,
) -> None:
    """A pair the whole way: compress, decompress, match, upsample, depth and cloud, with a report of each step.

    Writes pair.stz, left.png and right.png (decoded), disparity.pfm, depth.png (16 bits, millimetres), depth.npy
    (metres), cloud.ply, calib.txt (of these views), report.html and report.json.

    Args:
        left: Left view.
        right: Right view.
        calibration: File of the rig, or folder that holds it, as for depth.
        out: Folder for the results.
        codec: Codec, see `stereopsis models`.
        codec_weights: Safetensors file in place of the codec's shipped weights.
        quality: Of the file, 1 (small) to 8 (good); 4 if not given.
        target_bpp: Bits a pixel in place of a quality; the best quality that does not exceed them.
        model: Matcher, see `stereopsis models`.
        weights: Safetensors file in place of the matcher's shipped weights.
        max_disparity: Largest disparity searched, in pixels; the calibration's or the model's own if not given.
        fill: Fill holes of the disparity from the neighbours in the row.
        upsample: Match smaller views and bring the disparity to full size by this upsampler, e.g. fdkn_x4.scenes.
        reduce: How much smaller, with --upsample; the upsampler's own scale, or 4, if not given.
        truth: Disparity of the left view (.pfm, .png, .npy, .npz) to measure against; of raw views, of the rectified.
        truth_divide_by: What its values are divided by to give pixels, where the format does not say it.
        calibration_right: Second file of a calibration in two files, where its name does not tell.
        rectify: Whether the views are raw; auto asks the file, and the views where it describes raw and rectified ones.
        device: Where to compute, e.g. cpu or cuda.
        dtype: Precision that the matcher and the upsampler compute in.
        json: Print JSON instead of text.
        rig: How the calibration is read.
    """
    from stereopsis.calibration.diagnosis import geometry_warnings
    from stereopsis.evaluation.end_to_end import Clock, Truth, run_pipeline
    from stereopsis.io import read_disparity, read_image
    from stereopsis.ops.images import check_views, is_gray
    from stereopsis.types import StereoPair

    check_max_disparity(max_disparity)
    check_folder(out, "--out")
    wanted = check_rate(quality, target_bpp)
    if reduce is not None and upsample is None:
        raise ValueError(f"--reduce is {reduce:g}, but nothing brings the map back; name an upsampler with --upsample.")
    if truth_divide_by is not None and truth is None:
        raise ValueError(f"--truth-divide-by is {truth_divide_by:g}, but there is no --truth; leave it out.")
    clock = Clock()
    with clock.step("read"):
        views = read_image(left), read_image(right)
        check_views(*views, (left, right))
        straight = rectified(*views, rig.file(calibration, calibration_right), rectify, (left, right))
        channels = slice(0, 1 if all(is_gray(view) for view in views) else 3)
        pair = StereoPair(straight.left[None, channels], straight.right[None, channels], straight.calibration)
        known = None
        if truth is not None:
            known = Truth(*(part[None] for part in read_disparity(truth, truth_divide_by)))
    with clock.step("load models"):
        network = load_codec(codec, codec_weights, device)
        matcher = _matcher(model, weights, upsample, reduce, device, dtype)
    for sentence in geometry_warnings(straight.left, straight.right):
        warn(sentence)
    result = run_pipeline(
        pair,
        network,
        matcher,
        quality=wanted,
        target_bpp=target_bpp,
        max_disparity=max_disparity,
        fill=fill,
        shown=straight.valid,
        truth=known,
        clock=clock,
    )
    facts = {
        "left": left.name,
        "right": right.name,
        "calibration": calibration.name,
        "rectified_here": straight.rectification is not None,
        **rig_json(straight.calibration),
        "width": pair.left.shape[-1],
        "height": pair.left.shape[-2],
        "codec": codec,
        "matcher": model,
        "matched_size": list(result.matched_size),
        "upsampler": upsample,
        "warnings": list(warnings_of_this_command),
    }
    report = _write(result, facts, out, known)
    if json:
        show_json({**report, "out": str(out)})
        return
    rate, change, error = (report[key] for key in ("rate", "change", "error"))
    similarity = "" if rate["ms_ssim"] is None else f", MS-SSIM {rate['ms_ssim']:.4f}"
    print(f"coded      {rate['bytes']} bytes, {rate['bpp']:.4f} bpp, PSNR {rate['psnr']:.2f} dB{similarity}")
    print(f"disparity  {_text(change)} against that of the pair as it came")
    if error is not None:
        print(f"error      {_text(error['decoded'])}; without coding {_text(error['original'])}")
    print(
        f"depth      {range_text(report['depth'], 'm')}, median {report['depth']['median']:.4g} m, "
        f"{rig_text(straight.calibration)}"
    )
    print("seconds    " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in report["seconds"].items()))
    print(f"report     {out / REPORTS[0]}")


def _matcher(
    name: str, weights: Path | None, upsampler: str | None, reduce: float | None, device: str, dtype: DType
) -> nn.Module:
    """A matcher of full or of smaller views, in tiles."""
    from stereopsis.matching.tiling import TiledMatcher
    from stereopsis.pipeline.reduced import ReducedMatcher

    matcher = load_reduced(name, weights, device, dtype, upsampler, reduce)
    if isinstance(matcher, ReducedMatcher):
        matcher.matcher = TiledMatcher(matcher.matcher)
    return matcher


def _write(result: PipelineResult, facts: dict[str, Any], out: Path, truth: Truth | None) -> dict[str, Any]:
    """All files of the folder, together or not at all; what ``report.json`` says."""
    from stereopsis.calibration import write_calibration
    from stereopsis.evaluation.end_to_end import Clock
    from stereopsis.evaluation.end_to_end_report import pipeline_page
    from stereopsis.io import write_depth, write_disparity, write_image, write_point_cloud
    from stereopsis.io.folders import atomic_folder
    from stereopsis.ops.images import bits_of

    rig = result.pair.calibration
    assert rig is not None
    with atomic_folder(out) as folder:
        with Clock(result.seconds).step("write"):
            (folder / "pair.stz").write_bytes(result.content)
            for name, view in (("left", result.decoded.left), ("right", result.decoded.right)):
                write_image(folder / f"{name}.png", view, bits=bits_of(view))
            write_disparity(folder / "disparity.pfm", result.disparity)
            write_depth(folder / "depth.png", result.depth, overflow="drop")
            write_depth(folder / "depth.npy", result.depth)
            write_point_cloud(folder / "cloud.ply", result.cloud)
            write_calibration(rig, folder / "calib.txt")
        files = sorted(file.name for file in folder.iterdir())
        report = {
            **facts,
            **result.numbers,
            "depth": describe(result.depth.depth, result.depth.valid),
            "points": len(result.cloud),
            "seconds": {name: round(seconds, 4) for name, seconds in result.seconds.items()},
            "files": [*files, *REPORTS],
        }
        page = pipeline_page(result, facts, [*files, REPORTS[1]], truth)
        (folder / REPORTS[0]).write_text(page, encoding="utf-8")
        text = json_format.dumps(report, indent=1, allow_nan=False) + "\n"
        (folder / REPORTS[1]).write_text(text, encoding="utf-8")
    return report


def _text(errors: dict[str, float | None]) -> str:
    keys = (("epe", "EPE", "px"), ("bad2", "bad-2", "%"), ("d1", "D1", "%"))
    return ", ".join(
        f"{title} {'-' if errors[key] is None else f'{errors[key]:.2f}'} {unit}" for key, title, unit in keys
    )
