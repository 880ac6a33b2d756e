"""``stereopsis board`` and ``stereopsis calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from stereopsis.cli.console import new_table, progress_bar, show_json, show_table
from stereopsis.cli.options import check_suffix, parse_size

if TYPE_CHECKING:
    from stereopsis.calibration import RigCalibration

METRES_PER_INCH = 0.0254
PRINTED = (".pdf", ".png", ".tif")
DPI = 300


def board(
    board: Positional[str],
    square: float,
    out: Path,
    marker: float | None = None,
    dictionary: str = "4x4_50",
    json: bool = False,
) -> None:
    """A calibration board to print, in its true size.

    Args:
        board: Inner corners of a chessboard, or squares of a ChArUco board (with --marker), for example 9x6.
        square: Side of a square in metres, for example 0.025.
        out: File (.pdf, .png, .tif); all know their size in print.
        marker: Side of a marker in metres, for a ChArUco board.
        dictionary: Markers of a ChArUco board, for example 4x4_50 or apriltag_36h11.
        json: Print JSON instead of text.
    """
    from PIL import Image

    from stereopsis.calibration import Board
    from stereopsis.io import atomic_write

    check_suffix(out, PRINTED, "--out")
    pattern = Board(*parse_size(board, "BOARD"), square, marker, dictionary)
    pixels = max(8, round(square / METRES_PER_INCH * DPI))
    picture = pattern.picture(pixels)
    dots = pixels / square * METRES_PER_INCH
    with atomic_write(out) as file:
        kind = {".pdf": "PDF", ".png": "PNG", ".tif": "TIFF"}[out.suffix.lower()]
        options: dict[str, Any] = {"resolution": dots} if kind == "PDF" else {"dpi": (dots, dots)}
        Image.fromarray(picture).save(file, format=kind, **options)
    width, height = (1000 * side * square / pixels for side in picture.shape[::-1])
    if json:
        show_json({"file": str(out), "width_mm": round(width, 2), "height_mm": round(height, 2)})
        return
    print(f"{out}  {width:.0f} x {height:.0f} mm; print it at 100 %, measure a square, and glue it on something flat")


def calibrate(
    folder: Positional[str],
    board: str,
    square: float,
    out: Path,
    right: Positional[str | None] = None,
    marker: float | None = None,
    dictionary: str = "4x4_50",
    legacy: bool = False,
    lens: Literal["pinhole", "rational", "fisheye"] = "pinhole",
    json: bool = False,
) -> None:
    """A rig from pairs of pictures of a board: lenses, and how the cameras stand to each other.

    Writes the rig as OpenCV's YAML, and beside it NAME_coverage.png: where the boards were, and how well they fit.
    Pairs that do not fit are left out with a reason.

    Args:
        folder: Folder of pairs, or folder or quoted glob of the left views.
        board: Inner corners of the chessboard, or squares of the ChArUco board (with --marker), for example 9x6.
        square: Side of a square in metres, as measured on the print, for example 0.025.
        out: File of the rig (.yaml).
        right: Folder or quoted glob of the right views.
        marker: Side of a marker in metres, for a ChArUco board.
        dictionary: Markers of the ChArUco board, for example 4x4_50 or apriltag_36h11.
        legacy: The ChArUco board has the layout from before OpenCV 4.6.
        lens: What lenses to solve for; rational for wide ones, fisheye beyond about 120 degrees.
        json: Print JSON instead of text.
    """
    from stereopsis.calibration import Board, calibrate_files, write_rig
    from stereopsis.calibration.coverage import coverage_picture
    from stereopsis.io import find_pairs, write_image

    check_suffix(out, (".yaml", ".yml"), "--out")
    pattern = Board(*parse_size(board, "--board"), square, marker, dictionary, legacy)
    pairs = find_pairs(folder, right)
    with progress_bar() as progress:
        result = calibrate_files(
            pairs, pattern, lens=lens, progress=lambda files: progress.track(files, description="finding the board")
        )
    picture = out.with_name(f"{out.stem}_coverage.png")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_image(picture, coverage_picture(result))
    write_rig(result.rig, out)
    if json:
        show_json(_as_json(result) | {"files": [str(out), str(picture)]})
        return
    table = new_table("pair", "left px", "right px", "")
    for pair in result.pairs:
        errors = ["-", "-"] if pair.errors is None else [f"{error:.2f}" for error in pair.errors]
        table.add_row(pair.name, *errors, "" if pair.reason is None else "rejected")
    show_table(table)
    for pair in result.rejected:
        print(f"rejected {pair.name}: {pair.reason}")
    rig = result.rig
    print(
        f"{len(result.used)} of {len(result.pairs)} pairs, reprojection error {result.rms:.3f} px (RMS), rows of the "
        f"rectified views differ by {result.row_error:.3f} px (median)"
    )
    print(
        f"focal length {rig.left.K[0, 0]:.1f} and {rig.right.K[0, 0]:.1f} px, baseline {1000 * rig.baseline:.2f} mm, "
        f"boards reach {result.coverage[0]:.0%} and {result.coverage[1]:.0%} of the images"
    )
    for sentence in result.advice:
        print(f"- {sentence}")
    print(out)
    print(picture)


def _as_json(result: RigCalibration) -> dict[str, Any]:
    import cv2

    rig = result.rig
    angles = cv2.Rodrigues(rig.R)[0].ravel()
    return {
        "pairs": [
            {
                "name": pair.name,
                "left_error": None if pair.errors is None else pair.errors[0],
                "right_error": None if pair.errors is None else pair.errors[1],
                "rejected": pair.reason,
            }
            for pair in result.pairs
        ],
        "used": len(result.used),
        "rms": result.rms,
        "row_error": result.row_error,
        "coverage": list(result.coverage),
        "tilt_degrees": result.tilt,
        "width": rig.width,
        "height": rig.height,
        "focal_lengths": [[float(c.K[0, 0]), float(c.K[1, 1])] for c in (rig.left, rig.right)],
        "baseline": rig.baseline,
        "rotation_degrees": [float(v) for v in angles * 57.29577951308232],
        "advice": list(result.advice),
    }
