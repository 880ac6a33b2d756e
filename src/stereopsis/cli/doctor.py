"""``stereopsis doctor``."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from stereopsis.cli.console import show_json
from stereopsis.cli.matching import DEFAULT_MODEL, check_max_disparity

if TYPE_CHECKING:
    from stereopsis.doctor import Diagnosis


def doctor(
    left: Positional[Path],
    right: Positional[Path],
    calibration: Path | None = None,
    calibration_right: Path | None = None,
    max_disparity: int | None = None,
    json: bool = False,
) -> int:
    """Check a pair before matching: rectified, not swapped, one exposure, disparity within the limit.

    The exit status is 1 where a problem is found.

    Args:
        left: Left view.
        right: Right view.
        calibration: File of the rig, for the range and resolution of depth.
        calibration_right: Second file of a calibration in two files, where its name does not tell.
        max_disparity: Limit you intend to match with, in pixels; the calibration's or the default model's if not given.
        json: Print JSON instead of text.
    """
    from stereopsis.calibration import read_calibration
    from stereopsis.cli.depth import fit_calibration
    from stereopsis.doctor import examine
    from stereopsis.io import read_image
    from stereopsis.zoo import get_entry

    check_max_disparity(max_disparity)
    views = read_image(left), read_image(right)
    rig = None
    if calibration is not None:
        height, width = views[0].shape[-2:]
        rig = fit_calibration(read_calibration(calibration, calibration_right), width, height)
    limit = max_disparity
    if limit is None and rig is not None:
        limit = rig.ndisp
    if limit is None:
        limit = int(get_entry(DEFAULT_MODEL).config.max_disparity)
    found = examine(*views, calibration=rig, max_disparity=limit)
    if json:
        show_json(_as_json(found))
    else:
        for name, answer in _answers(found):
            print(f"{name:<14}{answer}")
        print()
        print(found.verdict)
        for problem in found.problems:
            print(f"- {problem}")
    return 0 if found.ok else 1


def _answers(d: Diagnosis) -> list[tuple[str, str]]:
    rows = [("pair", f"{d.width}x{d.height} px, {d.matches} points matched")]
    if d.vertical_median is not None:
        offset = f"rows differ by {d.vertical_median:.2f} px (median), {d.vertical_p90:.2f} px (9 in 10 below)"
        rows.append(("rectified", f"{_word(d.rectified)}, {offset}"))
    rows.append(("swapped", _word(d.swapped)))
    if d.brightness_ratio is not None:
        rows.append(
            ("exposure", f"{'matched' if d.exposure_matched else 'differs'}, left / right {d.brightness_ratio:.2f}")
        )
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
    return rows


def _word(answer: bool | None) -> str:
    return "cannot tell" if answer is None else "yes" if answer else "no"


def _metres(value: float) -> str:
    if math.isinf(value):
        return "infinity"
    return f"{1000 * value:.1f} mm" if value < 0.1 else f"{value:.2f} m"


def _as_json(d: Diagnosis) -> dict[str, Any]:
    values = asdict(d) | {"ok": d.ok, "verdict": d.verdict}
    if d.depth_resolution is not None:
        values["depth_resolution"] = {f"{z:g}": step for z, step in d.depth_resolution.items()}
    # JSON knows no infinity.
    finite = lambda v: v if v is None or math.isfinite(v) else None  # noqa: E731
    values["nearest_depth"] = finite(d.nearest_depth)
    values["depth_range"] = None if d.depth_range is None else [finite(v) for v in d.depth_range]
    return values
