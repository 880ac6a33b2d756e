"""``stereopsis evaluate depth-rate``."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Any

from stereopsis.cli.console import new_table, progress_bar, show_json, show_table
from stereopsis.cli.evaluate.lists import names_in, qualities_in
from stereopsis.cli.loading import load_matcher
from stereopsis.cli.options import check_max_disparity


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

    steps = qualities_in(qualities)
    if every < 1:
        raise ValueError(f"--every is {every}; it must be at least 1.")
    check_max_disparity(max_disparity)
    if out is not None and out.is_dir():
        raise ValueError(f"--out is {out}, which is a folder; name a file.")
    known = _known_result(out) if resume else None
    pairs = read_manifest(data)[::every]
    models = {name: load_matcher(name, device=device) for name in names_in(matchers)}
    coders = [open_coder(word, steps, device) for word in names_in(codecs)]

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
