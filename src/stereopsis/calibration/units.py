"""The unit of a baseline: what the caller states, what the format means, and what no rig has."""

from __future__ import annotations

import math
from pathlib import Path

from stereopsis.calibration.parsing import doubt

NAMES = {
    "m": 1.0, "metre": 1.0, "metres": 1.0, "meter": 1.0, "meters": 1.0,
    "cm": 0.01, "centimetres": 0.01, "centimeters": 0.01,
    "mm": 0.001, "millimetre": 0.001, "millimetres": 0.001, "millimeter": 0.001, "millimeters": 0.001,
    "in": 0.0254, "inch": 0.0254, "inches": 0.0254, "ft": 0.3048, "feet": 0.3048,
}  # fmt: skip
# Outside these a baseline is far more often a wrong unit than a real rig.
SMALLEST_BASELINE = 0.001
LARGEST_BASELINE = 10.0
# Inside those but outside these a rig is rare, and centimetres or squares of a board are not.
SMALLEST_USUAL = 0.005
LARGEST_USUAL = 1.0


def metres_of(unit: float | str | None) -> float | None:
    """Metres per unit of what a caller states: a number, or a name such as ``mm``; None where nothing is stated.

    Raises:
        ValueError: an unknown name, or a number that is not above 0.
    """
    if unit is None:
        return None
    if isinstance(unit, str):
        if unit.strip().lower() in NAMES:
            return NAMES[unit.strip().lower()]
        try:
            unit = float(unit)
        except ValueError:
            raise ValueError(
                f"unit is {unit!r}; it must be m, cm, mm or in, or the metres of one unit, for example 0.001."
            ) from None
    if not (math.isfinite(unit) and unit > 0):
        raise ValueError(f"unit is {unit}; it must be above 0, for example 0.001 for millimetres.")
    return float(unit)


def check_baseline(metres: float, default: float, path: Path) -> None:
    """Refuses a baseline that no rig has, and reports one that is rare; for files whose unit nobody stated.

    Args:
        metres: the baseline, read with the format's own unit.
        default: that unit, in metres.
        path: of the file.

    Raises:
        ValueError: above 10 m or below 1 mm.
    """
    metres = abs(metres)
    if metres > LARGEST_BASELINE:
        raise ValueError(
            f"{path}: the baseline would be {metres:g} m, above {LARGEST_BASELINE:g} m; pass unit=0.001 "
            f"(millimetres), or unit={default:g} if {metres:g} m is right."
        )
    if 0 < metres < SMALLEST_BASELINE:
        raise ValueError(
            f"{path}: the baseline would be {metres:g} m, below {SMALLEST_BASELINE:g} m; pass unit=1 "
            f"(metres), or unit={default:g} if {metres:g} m is right."
        )
    if SMALLEST_USUAL <= metres <= LARGEST_USUAL:
        return
    value = metres / default
    names = {1.0: "metres", 0.01: "centimetres", 0.001: "millimetres"}
    own = names.get(default, f"units of {default:g} m")
    others = (0.01, 0.001) if metres > LARGEST_USUAL else (1.0, 0.01)
    readings = " or ".join(f"{value * size:g} m in {names[size]}" for size in others if size != default)
    doubt(
        f"{path}: the baseline is {value:g}, which is {metres:g} m in {own}, as it is read, and {readings}; all depths "
        f"scale with it: state the unit if {own} are wrong, or if the file counts in squares of its board."
    )
