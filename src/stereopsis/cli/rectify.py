"""``stereopsis rectify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from stereopsis.cli.console import fail, note, progress_bar, show_json, warn
from stereopsis.cli.matching import check_folder
from stereopsis.cli.rigs import RIG, Rig

if TYPE_CHECKING:
    from torch import Tensor

    from stereopsis.calibration import Rectification
    from stereopsis.calibration.writing import Format

# Names that read_calibration() finds in a folder.
NAMES = {"middlebury": "calib.txt", "kitti": "calib.txt", "opencv": "calibration.yml", "ros": ""}


def rectify(
    left: Positional[str],
    calibration: Path,
    out: Path,
    right: Positional[str | None] = None,
    calibration_right: Path | None = None,
    alpha: float = 0.0,
    stored: bool = False,
    format: Literal["middlebury", "kitti", "opencv", "ros"] = "middlebury",
    bits: Literal[8, 16] = 8,
    json: bool = False,
    rig: Rig = RIG,
) -> int:
    """Rectify a pair, all pairs of folders, or a video, and write the calibration of the rectified pairs.

    Writes OUT/left and OUT/right with pictures of the same names (.png), and the calibration into OUT, where
    `stereopsis depth --calibration OUT` finds it.

    Args:
        left: Left view, or a folder, quoted glob or video of them; alone, a folder of pairs or a side-by-side video.
        calibration: File of the raw rig, folder that holds it, or ROS bag, in any form (docs/formats.md).
        out: Folder for the results.
        right: Right view, or a folder, quoted glob or video of them.
        calibration_right: Second file of a calibration in two files, where its name does not tell.
        alpha: 0 keeps pixels alone that the cameras saw, 1 keeps all that they saw, with black borders.
        stored: Rectify as the file itself says (R1, R2, P1, P2), whatever alpha.
        format: Of the calibration of the rectified pairs.
        bits: Of the pictures.
        json: Print JSON instead of text.
        rig: How the calibration is read.
    """
    from stereopsis.calibration import read_rig, write_calibration
    from stereopsis.calibration.fitting import fit_rig
    from stereopsis.io import EarlyEndError, write_image
    from stereopsis.pipeline.sequence import open_frames

    check_folder(out, "--out")
    if not 0 <= alpha <= 1:
        raise ValueError(f"--alpha is {alpha:g}; it must lie in [0, 1]: 0 crops to valid pixels, 1 keeps all.")
    frames = open_frames(left, right)
    rectification: Rectification | None = None
    offsets: dict[str, float | int] | None = None
    done: list[dict[str, str]] = []
    failed: list[dict[str, str]] = []
    ended = ""
    with progress_bar() as progress:
        try:
            for frame in progress.track(frames, total=frames.count, description="rectifying"):
                files = [out / name / f"{frame.name}.png" for name in ("left", "right")]
                if {file.resolve() for file in files} & {frame.left.resolve(), frame.right.resolve()}:
                    raise ValueError(f"--out is {out}, where the raw views are; name another folder.")
                try:
                    views = frame.read()
                except (ValueError, OSError) as error:
                    failed.append({"name": frame.name, "error": str(error)})
                    warn(f"{frame.name}: {error}")
                    continue
                if rectification is None:
                    height, width = views[0].shape[-2:]
                    raw = read_rig(calibration, calibration_right, unit=rig.unit, model=rig.lens, size=(width, height))
                    notes: list[str] = []
                    fitted = fit_rig(raw, width, height, notes)
                    for sentence in notes:
                        note(sentence)
                    rectification = fitted.rectify(None if stored else alpha, fov=rig.fov)
                    for name in ("left", "right"):
                        (out / name).mkdir(parents=True, exist_ok=True)
                    write_calibration(rectification.calibration, out / NAMES[format], _format(format))
                try:
                    straight = rectification(*views)
                except ValueError as error:
                    failed.append({"name": frame.name, "error": str(error)})
                    warn(f"{frame.name}: {error}")
                    continue
                if offsets is None:
                    offsets = _offsets(views, straight)
                for file, view in zip(files, straight, strict=True):
                    write_image(file, view, bits=bits)
                done.append({"name": frame.name, "left": str(files[0]), "right": str(files[1])})
        except EarlyEndError as error:
            if not done:
                raise
            ended = str(error)
            failed.append({"name": f"{len(done) + len(failed):06d}", "error": ended})
    if rectification is None:
        raise ValueError(f"No pair of {len(failed)} can be read, the first for this: {failed[0]['error']}")
    c = rectification.calibration
    if json:
        numbers = {key: getattr(c, key) for key in ("fx", "fy", "cx", "cy", "cx_right", "baseline", "width", "height")}
        target = str(out / NAMES[format])
        show_json({"calibration": target, **numbers, "offsets": offsets, "pairs": done, "failed": failed})
    else:
        print(f"{len(done)} pairs in {out}, focal length {c.fx:.1f} px, baseline {1000 * c.baseline:.2f} mm")
        if offsets is not None:
            print(
                f"rows of {done[0]['name']} differ by {offsets['before']:.2f} px before and {offsets['after']:.2f} px "
                f"after (median of {offsets['points']} points), all together by {offsets['bias']:+.2f} px"
            )
        print(out / NAMES[format])
    if ended:
        return fail(f"{ended.rstrip('.')}; what was rectified before is written.", 1)
    if failed:
        return fail(f"{len(failed)} of {len(done) + len(failed)} pairs failed; the others are written.", 1)
    return 0


def _format(name: str) -> Format:
    known: dict[str, Format] = {"middlebury": "middlebury", "kitti": "kitti", "opencv": "opencv", "ros": "ros"}
    return known[name]


def _offsets(raw: tuple[Tensor, Tensor], straight: tuple[Tensor, Tensor]) -> dict[str, float | int] | None:
    """Median vertical distances of matching points in pixels; None where there are too few to tell."""
    from stereopsis.calibration.diagnosis import examine

    before, after = examine(*raw), examine(*straight)
    if before.vertical_median is None or after.vertical_median is None or after.vertical_bias is None:
        return None
    numbers: dict[str, Any] = {"before": before.vertical_median, "after": after.vertical_median}
    return numbers | {"bias": after.vertical_bias, "points": after.matches}
