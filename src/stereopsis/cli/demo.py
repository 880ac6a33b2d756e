"""``stereopsis demo``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from stereopsis.cli.console import new_table, note, show_json, show_table


def demo(out: Path = Path("out/demo"), model: str = "hitnet.scenes", json: bool = False) -> None:
    """Match a real pair with ground truth, and show disparity, depth, points and errors.

    Needs no file and no network: the pair comes with scikit-image.

    Args:
        out: Folder for the pictures, maps, point cloud and report.
        model: Dense matcher to show beside OpenCV's.
        json: Print JSON instead of a table.
    """
    from rich.console import Console

    from stereopsis.apps.demo.compute import run
    from stereopsis.apps.demo.page import write
    from stereopsis.cli.options import check_folder

    check_folder(out, "--out")
    with Console(stderr=True).status("starting") as status:
        result = run(model, progress=lambda step: status.update(step))
        status.update("writing")
        files = write(result, out)
    summary = result.summary()
    if json:
        show_json({**summary, "out": str(out), "files": [str(file) for file in files]})
        return
    table = new_table(
        "method", "EPE px", "bad-1 %", "bad-2 %", "bad-3 %", "density %", "time s", title=f"{summary['pair']}"
    )
    for row in summary["methods"]:
        errors = [f"{row[key]:.2f}" for key in ("epe", "bad1", "bad2", "bad3")]
        table.add_row(row["model"], *errors, f"{100 * row['density']:.1f}", f"{row['seconds']:.2f}")
    show_table(table)
    depth = summary["depth"]
    print(f"depth {depth['near']:.2f} to {depth['far']:.2f} m, median {depth['median']:.2f} m")
    print(f"{summary['points']} points in {out / 'cloud.ply'}")
    print(f"report {out / 'report.html'}")
    print(f"open it with: {_program()} view {out}")
    note(f"{len(files)} files in {out}")


def _program() -> str:
    """The command that runs this program, as it can be typed in the current folder."""
    import shutil
    import sys

    installed = Path(sys.executable).with_name("stereopsis")
    if shutil.which("stereopsis") or not installed.is_file():
        return "stereopsis"
    with suppress(ValueError):
        return str(installed.relative_to(Path.cwd()))
    return str(installed)
