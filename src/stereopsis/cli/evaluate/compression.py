"""``stereopsis evaluate compression``."""

from __future__ import annotations

import json as json_format
from pathlib import Path

from stereopsis.cli.console import new_table, progress_bar, show_json, show_table
from stereopsis.cli.evaluate.lists import names_in, qualities_in


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

    steps = qualities_in(qualities)
    if limit is not None and limit < 1:
        raise ValueError(f"--limit is {limit}; it must be at least 1.")
    if out is not None and out.is_dir():
        raise ValueError(f"--out is {out}, which is a folder; name a file.")
    names = names_in(anchors)
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
