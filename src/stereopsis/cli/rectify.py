"""``stereopsis rectify``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from stereopsis.cli.batch import SEQUENCE, Sequence, run_sequence, settings_of
from stereopsis.cli.console import note, show_json
from stereopsis.cli.options import check_folder
from stereopsis.cli.rigs import RIG, Rig


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
    sequence: Sequence = SEQUENCE,
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
        sequence: How sequences are read and worked on.
    """
    from stereopsis.io.frames import open_frames
    from stereopsis.pipeline.runs.record import RunRecord
    from stereopsis.pipeline.runs.rectify import RectifyJob

    check_folder(out, "--out")
    if not 0 <= alpha <= 1:
        raise ValueError(f"--alpha is {alpha:g}; it must lie in [0, 1]: 0 crops to valid pixels, 1 keeps all.")
    frames = open_frames(left, right, topics=sequence.topics, tolerance=sequence.sync_ms / 1000)
    many = not isinstance(frames.source, list) or len(frames.source) > 1
    job = RectifyJob(rig.file(calibration, calibration_right), out, None if stored else alpha, format, bits)
    if many:
        options = {
            "calibration": calibration, "calibration_right": calibration_right, "alpha": alpha, "stored": stored,
            "format": format, "bits": bits,
        }  # fmt: skip
        settings = settings_of("rectify", (left, right), options | rig.settings())
        job.record = RunRecord(out, settings, sequence.overwrite)
    notes, offsets = job.prepare(frames)
    for text in notes:
        note(text)
    summary = run_sequence(frames, job, sequence, "rectifying", strict=lambda _: not many)
    assert job.rectification is not None
    c = job.rectification.calibration
    if json:
        numbers = {key: getattr(c, key) for key in ("fx", "fy", "cx", "cy", "cx_right", "baseline", "width", "height")}
        rows = {"pairs": summary.results, "failed": summary.failed, "skipped": summary.skipped}
        show_json({"calibration": str(job.calibration_file), **numbers, "offsets": offsets, **rows})
    else:
        print(f"{len(summary.results)} pairs in {out}, focal length {c.fx:.1f} px, baseline {1000 * c.baseline:.2f} mm")
        if offsets is not None:
            print(
                f"rows of the first pair differ by {offsets['before']:.2f} px before and {offsets['after']:.2f} px "
                f"after (median of {offsets['points']} points), all together by {offsets['bias']:+.2f} px"
            )
        print(job.calibration_file)
    return summary.status("rectified")
