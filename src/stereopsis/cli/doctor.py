"""``stereopsis doctor``."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from stereopsis.cli.console import show_json
from stereopsis.cli.options import DEFAULT_MODEL, check_max_disparity
from stereopsis.cli.rigs import RIG, Rig, rectified, rig_json, rig_text

if TYPE_CHECKING:
    from stereopsis.calibration.diagnosis import Diagnosis


def doctor(
    left: Positional[Path],
    right: Positional[Path],
    calibration: Path | None = None,
    calibration_right: Path | None = None,
    rectify: Literal["auto", "yes", "no"] = "auto",
    max_disparity: int | None = None,
    disparity_error: float = 1.0,
    distances: tuple[float, ...] = (1.0, 5.0, 10.0),
    json: bool = False,
    rig: Rig = RIG,
) -> int:
    """Check a pair before matching: rectified, not swapped, one exposure, disparity within the limit.

    Raw views are rectified first where the file of the rig says how, and their offset is stated before and after. The
    exit status is 1 where a problem is found.

    Args:
        left: Left view.
        right: Right view.
        calibration: File of the rig, for the range and the expected error of depth.
        calibration_right: Second file of a calibration in two files, where its name does not tell.
        rectify: Whether the views are raw; auto asks the file, and the views where it describes raw and rectified ones.
        max_disparity: Limit you intend to match with, in pixels; the calibration's or the default model's if not given.
        disparity_error: Error of disparity you expect of the matcher, in pixels, for the expected error of depth.
        distances: Distances in metres to state that error at.
        json: Print JSON instead of text.
        rig: How the calibration is read.
    """
    from stereopsis.calibration.diagnosis import examine
    from stereopsis.io import read_image
    from stereopsis.io.bits import full_range
    from stereopsis.zoo import get_entry

    check_max_disparity(max_disparity)
    first, second = full_range(read_image(left)[None], read_image(right)[None])
    views = first[0], second[0]
    known, raw = None, None
    if calibration is not None:
        pair = rectified(*views, rig.file(calibration, calibration_right), rectify, (left, right))
        if pair.rectification is not None:
            raw = examine(*views)
        views, known = (pair.left, pair.right), pair.calibration
    limit = max_disparity
    if limit is None and known is not None:
        limit = known.ndisp
    if limit is None:
        limit = int(get_entry(DEFAULT_MODEL).config.max_disparity)
    found = examine(
        *views, calibration=known, max_disparity=limit, disparity_error=disparity_error, distances=distances
    )  # fmt: skip
    if json:
        values = _as_json(found) | ({} if known is None else rig_json(known))
        if raw is not None:
            values["raw"] = {key: getattr(raw, key) for key in ("vertical_median", "vertical_p90", "vertical_bias")}
        show_json(values)
    else:
        if raw is not None:
            print(f"{'raw views':<14}{_rows(raw)}")
        if known is not None:
            print(f"{'rig':<14}{rig_text(known)}")
        for name, answer in _answers(found):
            print(f"{name:<14}{answer}")
        print()
        print(found.verdict)
        for sentence in (*found.problems, *found.advice):
            print(f"- {sentence}")
    return 0 if found.ok else 1


def _answers(d: Diagnosis) -> list[tuple[str, str]]:
    rows = [("pair", f"{d.width}x{d.height} px, {d.matches} points matched")]
    if d.vertical_median is not None:
        rows.append(("rectified", f"{_word(d.rectified)}, {_rows(d)}"))
    rows.append(("swapped", _word(d.swapped)))
    if d.brightness_ratio is not None:
        stops = f"{math.log2(d.brightness_ratio):+.2f} stops"
        matched = "matched" if d.exposure_matched else "differs"
        rows.append(("exposure", f"{matched}, left / right {d.brightness_ratio:.2f} ({stops})"))
    if d.disparity_range is not None:
        rows.append(("disparity", f"{d.disparity_range[0]:.1f} to {d.disparity_range[1]:.1f} px at matched points"))
    rows.append(("max disparity", f"{d.max_disparity} px, enough: {_word(d.max_disparity_enough)}"))
    if d.depth_range is not None:
        rows.append(("depth", f"{_metres(d.depth_range[0])} to {_metres(d.depth_range[1])} at matched points"))
    if d.nearest_depth is not None:
        rows.append(("nearest", f"{_metres(d.nearest_depth)} with that max disparity"))
    if d.depth_resolution is not None:
        steps = ", ".join(f"{_metres(step)} at {z:g} m" for z, step in d.depth_resolution.items())
        rows.append(("resolution", f"one pixel of disparity is {steps}"))
    if d.depth_error is not None and d.disparity_error != 1:
        errors = ", ".join(f"{_metres(error)} at {z:g} m" for z, error in d.depth_error.items())
        rows.append(("depth error", f"{errors}, where disparity is {d.disparity_error:g} px off"))
    return rows


def _rows(d: Diagnosis) -> str:
    if d.vertical_median is None:
        return "rows cannot be compared"
    return (
        f"rows differ by {d.vertical_median:.2f} px (median), {d.vertical_p90:.2f} px (9 in 10 below); all together by "
        f"{d.vertical_bias:+.2f} px"
    )


def _word(answer: bool | None) -> str:
    return "cannot tell" if answer is None else "yes" if answer else "no"


def _metres(value: float) -> str:
    if math.isinf(value):
        return "infinity"
    return f"{1000 * value:.1f} mm" if value < 0.1 else f"{value:.2f} m"


def _as_json(d: Diagnosis) -> dict[str, Any]:
    values = asdict(d) | {"ok": d.ok, "verdict": d.verdict}
    for key in ("depth_resolution", "depth_error"):
        if values[key] is not None:
            values[key] = {f"{z:g}": step for z, step in values[key].items()}
    # JSON knows no infinity.
    finite = lambda v: v if v is None or math.isfinite(v) else None  # noqa: E731
    values["nearest_depth"] = finite(d.nearest_depth)
    values["depth_range"] = None if d.depth_range is None else [finite(v) for v in d.depth_range]
    return values
