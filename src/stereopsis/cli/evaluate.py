"""``stereopsis evaluate``."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stereopsis.cli.console import new_table, note, progress_bar, show_json, show_table, warn
from stereopsis.cli.loading import load_matcher
from stereopsis.cli.options import DType, check_folder, check_max_disparity
from stereopsis.cli.upsample import ReductionName

if TYPE_CHECKING:
    from rich.table import Table

METRICS = ("epe", "bad1", "bad2", "bad3", "d1", "density")
ProtocolName = Literal["sceneflow", "kitti2012", "kitti2015", "eth3d", "middlebury"]


def matching(
    data: Path,
    model: str,
    weights: Path | None = None,
    max_disparity: int | None = None,
    device: str = "cpu",
    dtype: DType = "float32",
    check: float | None = None,
    fill: bool = False,
    out: Path | None = None,
    json: bool = False,
    protocol: ProtocolName | None = None,
    report: Path | None = None,
) -> None:
    """Errors of a matcher over a list of pairs with ground truth.

    Args:
        data: Manifest in JSON: a list of objects with id, left, right, disparity and divide_by, and for a protocol noc
            (mask, 255 where both views see, or KITTI's disp_noc) and objects (KITTI's obj_map); the paths are relative
            to the folder above the manifest's own.
        model: Matcher, see `stereopsis models`.
        weights: Safetensors file in place of the shipped weights.
        max_disparity: Largest disparity searched, in pixels; the model's own if not given.
        device: Where to compute, e.g. cpu or cuda.
        dtype: Precision to compute in.
        check: Match the right view too, and do not count what differs by more than this many pixels; with --fill, fill
            what the right view does not see.
        fill: Fill holes first, for comparison with dense methods.
        out: Also write the result as a JSON file.
        json: Print JSON instead of tables.
        protocol: Also measure what this public table reports.
        report: Folder for a picture of each pair (prediction, truth, errors, SGBM) and an index.html, worst first.
    """
    from stereopsis.data.manifests import read_manifest
    from stereopsis.evaluation.matching import evaluate_matching
    from stereopsis.evaluation.protocols import get_protocol
    from stereopsis.io import atomic_write_text

    check_max_disparity(max_disparity)
    if out is not None and out.is_dir():
        raise ValueError(f"--out is {out}, which is a folder; name a file.")
    if report is not None:
        check_folder(report, "--report")
    pairs = read_manifest(data)
    matcher = load_matcher(model, weights, device, dtype)
    pictures = None
    if report is not None:
        from stereopsis.evaluation.matching_report import Report

        pictures = Report(report, model, max_disparity)
    with progress_bar() as progress:
        task = progress.add_task(model, total=len(pairs))
        result = evaluate_matching(
            matcher,
            pairs,
            name=model,
            max_disparity=max_disparity,
            check=check,
            fill=fill,
            device=device,
            progress=lambda done, _, name: progress.update(task, completed=done, description=name),
            protocol=None if protocol is None else get_protocol(protocol),
            observe=None if pictures is None else pictures.add,
        )
    # So that a number is never read without how it was made.
    result |= {
        "check": check,
        "fill": fill,
        "max_disparity": max_disparity,
        "dtype": dtype,
        "weights": None if weights is None else weights.name,
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(out, json_format.dumps(result, indent=1, allow_nan=False) + "\n")
    if pictures is not None:
        note(f"the report is {pictures.write(result)}")
    if protocol is not None:
        _warn_of_missing_masks(result["protocol"], pairs=len(pairs))
    if json:
        show_json(result)
        return
    table = new_table("pairs", "number", "EPE px", "bad-1 %", "bad-2 %", "bad-3 %", "D1 %", "density %", title=model)
    for name, group in result["groups"].items():
        table.add_row(name, str(group["pairs"]), *_cells(group))
    table.add_section()
    table.add_row("all", str(result["pairs"]), *_cells(result["mean"]))
    show_table(table)
    if protocol is not None:
        show_table(_protocol_table(result["protocol"]))


def upsampling(
    data: Path,
    model: str,
    scale: float = 8,
    weights: Path | None = None,
    reduction: ReductionName = "bicubic",
    back_projections: int | None = None,
    device: str = "cpu",
    dtype: DType = "float32",
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Errors of an upsampler over images with dense depth, which is reduced, enlarged and compared with itself.

    Args:
        data: Manifest in JSON: a list of objects with id, image, depth, metric (rmse_255 or rmse_cm) and maybe
            scale_to_unit; the paths are relative to the folder above the manifest's own.
        model: Upsampler, see `stereopsis models`.
        scale: Ratio of the sizes.
        weights: Safetensors file in place of the shipped weights.
        reduction: Filter that reduces the depth; published numbers are of bicubic.
        back_projections: How often the result is pulled towards the reduced map; the model decides if not given.
        device: Where to compute, e.g. cpu or cuda.
        dtype: Precision to compute in.
        out: Also write the result as a JSON file.
        json: Print JSON instead of a table.
    """
    from stereopsis.cli.loading import load_upsampler
    from stereopsis.evaluation.upsampling import evaluate_upsampling, read_upsampling_manifest
    from stereopsis.io import atomic_write_text

    if not scale > 1:
        raise ValueError(f"--scale is {scale:g}; it must be above 1, for example 8.")
    if out is not None and out.is_dir():
        raise ValueError(f"--out is {out}, which is a folder; name a file.")
    images = read_upsampling_manifest(data)
    upsampler = load_upsampler(model, weights, device, dtype)
    with progress_bar() as progress:
        task = progress.add_task(model, total=len(images))
        result = evaluate_upsampling(
            upsampler,
            images,
            scale,
            name=model,
            reduction=reduction,
            back_projections=back_projections,
            device=device,
            progress=lambda done, _, name: progress.update(task, completed=done, description=name),
        )
    result |= {"dtype": dtype, "weights": None if weights is None else weights.name}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(out, json_format.dumps(result, indent=1, allow_nan=False) + "\n")
    if json:
        show_json(result)
        return
    table = new_table(
        "images", "number", "RMSE", "bicubic", "ratio", "edge RMSE", "flat RMSE", "bad edge %", title=model
    )
    keys = ("rmse", "bicubic_rmse", "ratio", "edge_rmse", "flat_rmse", "bad_edge")
    for name, group in {**result["groups"], "all": {"images": result["images"], **result["mean"]}}.items():
        table.add_row(name, str(group["images"]), *("-" if group[key] is None else f"{group[key]:.2f}" for key in keys))
    show_table(table)


def compression(
    data: Path,
    model: str,
    qualities: str = "1,2,4,6,8",
    anchors: str = "",
    limit: int | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Rate and distortion of a codec over pairs, in real bytes, and BD-rates against other codecs.

    Args:
        data: Manifest in JSON, as for matching: a list of objects with id, left, right and disparity.
        model: Codec, see `stereopsis models`.
        qualities: Of the codec, 1 to 8, separated by commas; at least three give a BD-rate.
        anchors: Codecs to compare with, separated by commas: jpeg, webp, avif, jxl, hevc-intra, hevc-stereo, vvc-intra
            (some need the extra `codecs`), or models. A model that decodes with a side view is measured by its left
            views alone, and so are its anchors; its name with -without-side is the model denied the right views.
        limit: Only the first pairs.
        weights: Safetensors file in place of the shipped weights of the codec.
        device: Where to compute, e.g. cpu or cuda.
        out: Also write the result as a JSON file.
        json: Print JSON instead of tables.
    """
    from stereopsis.cli.loading import load_codec
    from stereopsis.compression.codec import SideViewCodec
    from stereopsis.data.manifests import read_manifest
    from stereopsis.evaluation.codecs import ANCHORS, WITHOUT_SIDE, codec_coder, main_view_coder
    from stereopsis.evaluation.compression import BD_RATES, evaluate_compression
    from stereopsis.io import atomic_write_text
    from stereopsis.zoo import get_entry, list_models

    steps = _qualities(qualities)
    if limit is not None and limit < 1:
        raise ValueError(f"--limit is {limit}; it must be at least 1.")
    if out is not None and out.is_dir():
        raise ValueError(f"--out is {out}, which is a folder; name a file.")
    names = _names(anchors)
    known = [*ANCHORS, *list_models(family="compression")]
    if get_entry(model).architecture == "ffca":
        known += [
            name + WITHOUT_SIDE for name in known if name not in ANCHORS and get_entry(name).architecture == "ffca"
        ]
    for name in names:
        if name not in known:
            raise ValueError(f"there is no anchor {name!r}; choose from {', '.join(known)}.")
    pairs = read_manifest(data)[:limit]
    loaded = load_codec(model, weights, device)
    codec = main_view_coder(loaded, steps) if isinstance(loaded, SideViewCodec) else codec_coder(loaded, steps)
    others = []
    for name in names:
        if name in ANCHORS:
            others.append(ANCHORS[name]())
            continue
        base = name.removesuffix(WITHOUT_SIDE)
        other = loaded if base == model else load_codec(base, device=device)
        if isinstance(other, SideViewCodec) and codec.main:
            others.append(main_view_coder(other, steps, side=base == name))
        else:
            others.append(codec_coder(other, steps))
    with progress_bar() as progress:
        task = progress.add_task(model, total=len(pairs))
        result = evaluate_compression(
            codec,
            pairs,
            others,
            progress=lambda done, _, name: progress.update(task, completed=done, description=name),
        )
    result |= {"weights": None if weights is None else weights.name}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(out, json_format.dumps(result, indent=1, allow_nan=False) + "\n")
    if json:
        show_json(result)
        return
    table = new_table(
        "codec", "setting", "bpp", "PSNR dB", "MS-SSIM", "encode s", "decode s", title=f"{model}, {result['rate']}"
    )
    keys = (("bpp", 4), ("psnr", 2), ("ms_ssim", 4), ("encode_seconds", 2), ("decode_seconds", 2))
    curves = {model: result["points"]} | {name: anchor["points"] for name, anchor in result["anchors"].items()}
    for name, points in curves.items():
        for point in points:
            setting = next(iter(point.values()))
            cells = ("-" if point[key] is None else f"{point[key]:.{digits}f}" for key, digits in keys)
            table.add_row(name, f"{setting:g}", *cells)
        table.add_section()
    show_table(table)
    if names:
        table = new_table("anchor", "BD-rate PSNR %", "BD-rate MS-SSIM %", "right view alone %")
        for name in names:
            rates = (result[key][name] for key in BD_RATES)
            table.add_row(name, *("-" if rate is None else f"{rate:+.1f}" for rate in rates))
        show_table(table)


def depth_rate(
    data: Path,
    codecs: str = "jpeg,webp,hyperprior.photos,dsic.scenes",
    matchers: str = "hitnet.scenes,anynet.scenes,sgbm-hh",
    qualities: str = "1,2,4,6,8",
    every: int = 1,
    max_disparity: int | None = None,
    device: str = "cpu",
    out: Path | None = None,
    resume: bool = False,
    json: bool = False,
) -> None:
    """How many bits depth needs: errors of matchers on pairs that codecs have coded, at every rate.

    Args:
        data: Manifest in JSON, as for matching: a list of objects with id, left, right and disparity.
        codecs: Separated by commas: jpeg, webp, avif, jxl, hevc-intra, hevc-stereo, vvc-intra (some need the extra
            `codecs`), or models, or NAME=WEIGHTS.
        matchers: Separated by commas; holes are filled, so that each answers for every pixel.
        qualities: Of models, 1 to 8, separated by commas; the other codecs have settings of their own.
        every: Only every so many pairs.
        max_disparity: Largest disparity searched, in pixels; each matcher's own if not given.
        device: Where to compute, e.g. cpu or cuda.
        out: Also write the result as a JSON file, after every pair.
        resume: Go on with that file; pairs that a codec has in it are not measured again.
        json: Print JSON instead of tables.
    """
    from stereopsis.data.manifests import read_manifest
    from stereopsis.evaluation.depth_rate import (
        common_pairs,
        evaluate_depth_rate,
        mean_curve,
        needed_rates,
        open_coder,
        rate_text,
    )
    from stereopsis.io import atomic_write_text

    steps = _qualities(qualities)
    if every < 1:
        raise ValueError(f"--every is {every}; it must be at least 1.")
    check_max_disparity(max_disparity)
    if out is not None and out.is_dir():
        raise ValueError(f"--out is {out}, which is a folder; name a file.")
    known = _known_result(out) if resume else None
    pairs = read_manifest(data)[::every]
    models = {name: load_matcher(name, device=device) for name in _names(matchers)}
    coders = [open_coder(word, steps, device) for word in _names(codecs)]

    def save(result: dict[str, Any]) -> None:
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(out, json_format.dumps(result, allow_nan=False) + "\n")

    with progress_bar() as progress:
        task = progress.add_task("coding and matching", total=len(pairs))
        result = evaluate_depth_rate(
            coders,
            pairs,
            models,
            known=known,
            max_disparity=max_disparity,
            device=device,
            save=save,
            progress=lambda done, _, name: progress.update(task, completed=done, description=name),
        )
    ids = common_pairs(result)
    rates = needed_rates(result, ids)
    if json:
        show_json({**result, "pairs": len(ids), "needed_bpp": rates})
        return
    table = new_table("codec", "bpp", *(f"{name} bad-2 %" for name in models), title=f"mean of {len(ids)} pairs")
    for codec in result["codecs"]:
        curves = [mean_curve(result, codec, ids, name, "bad2") for name in models]
        for points in zip(*curves, strict=True):
            table.add_row(codec, f"{points[0][0]:.3f}", *(f"{value:.2f}" for _, value in points))
        table.add_section()
    show_table(table)
    table = new_table("codec", *models, title="bpp below which bad-2 has risen by more than 1 point")
    for codec in result["codecs"]:
        table.add_row(codec, *(rate_text(rates[name][codec]) for name in models))
    show_table(table)


def _names(words: str) -> list[str]:
    return [name.strip() for name in words.split(",") if name.strip()]


def _qualities(words: str) -> list[float]:
    """Of codecs, from text like 1,2,4."""
    from stereopsis.compression.codec import level_of

    try:
        steps = [float(part) for part in words.split(",")]
    except ValueError:
        raise ValueError(f"--qualities is {words!r}; give numbers with commas, for example 1,2,4,6,8.") from None
    for quality in steps:
        level_of(quality)
    return steps


def _known_result(out: Path | None) -> dict[str, Any]:
    if out is None or not out.is_file():
        raise FileNotFoundError(f"there is no file {out or '--out'} to go on with; leave --resume out.")
    try:
        known = json_format.loads(out.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{out} is not JSON ({error}); leave --resume out to start anew.") from error
    if not isinstance(known, dict) or not {"matchers", "uncoded", "codecs"} <= known.keys():
        raise ValueError(f"{out} is not what this command wrote; leave --resume out to start anew.")
    return known


def _protocol_table(measured: dict[str, Any]) -> Table:
    """A row for each number of the public table, a column for each group of pairs."""
    from stereopsis.evaluation.protocols import get_protocol

    groups = measured["groups"] if len(measured["groups"]) > 1 else {}
    table = new_table("measure", *groups, "all", "pairs", title=measured["title"])
    for column in get_protocol(measured["name"]).columns:
        cells = [column.text(group["mean"][column.key]) for group in (*groups.values(), measured)]
        table.add_row(column.title, *cells, str(measured["pairs"][column.key]))
    return table


def _warn_of_missing_masks(measured: dict[str, Any], pairs: int) -> None:
    from stereopsis.evaluation.protocols import get_protocol

    columns = get_protocol(measured["name"]).columns
    for key, words in (("noc", ("noc",)), ("objects", ("fg", "bg"))):
        needing = [column for column in columns if any(word in column.region.split("_") for word in words)]
        used = max((measured["pairs"][column.key] for column in needing), default=pairs)
        if used < pairs:
            warn(f"{pairs - used} of {pairs} pairs have no usable {key!r} in the manifest and miss in what needs it.")


def _cells(row: dict[str, Any]) -> list[str]:
    scaled = {**row, "density": None if row["density"] is None else 100 * row["density"]}
    return ["-" if scaled[key] is None else f"{scaled[key]:.2f}" for key in METRICS]
