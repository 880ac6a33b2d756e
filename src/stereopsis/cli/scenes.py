"""``stereopsis scenes``."""

from __future__ import annotations

from pathlib import Path

from stereopsis.cli.console import progress_bar, show_json


def scenes(
    out: Path,
    count: int = 6,
    seed: int = 0,
    width: int = 512,
    height: int = 256,
    max_disparity: int = 160,
    json: bool = False,
) -> None:
    """Look at the procedural scenes that the shipped weights are trained on.

    Writes scenes.png: in each row left view, right view, disparity, and what both views see.

    Args:
        out: Folder for the sheet.
        count: How many scenes, from 1 to 64.
        seed: Of the first scene.
        width: Of a view, in pixels.
        height: Of a view, in pixels.
        max_disparity: Of the nearest surface, in pixels.
        json: Print JSON instead of text.
    """
    import numpy as np

    from stereopsis.cli.options import check_folder, check_max_disparity
    from stereopsis.data.scenes import SceneConfig, render
    from stereopsis.data.textures import make_bank
    from stereopsis.io import write_image
    from stereopsis.visualization import colorize, side_by_side

    check_folder(out, "--out")
    check_max_disparity(max_disparity)
    for name, value, low, high in (("count", count, 1, 64), ("width", width, 64, 4096), ("height", height, 64, 4096)):
        if not low <= value <= high:
            raise ValueError(f"--{name} is {value}; it must lie between {low} and {high}.")
    bank = make_bank()
    config = SceneConfig(height=height, width=width, max_disparity=max_disparity)
    rows, largest = [], 0.0
    with progress_bar() as progress:
        for number in progress.track(range(count), description="rendering"):
            scene = render(seed + number, 1, bank, config)
            largest = max(largest, scene.disparity.max().item())
            seen = (255 * scene.visible[0, 0].byte()).numpy()
            rows.append(side_by_side(scene.left, scene.right, colorize(scene.disparity, vmin=0), seen))
    gap = np.full((4, rows[0].shape[1], 3), 255, np.uint8)
    sheet = np.concatenate([part for row in rows for part in (row, gap)][:-1])
    out.mkdir(parents=True, exist_ok=True)
    write_image(out / "scenes.png", sheet)
    if json:
        show_json({"out": str(out / "scenes.png"), "scenes": count, "seed": seed, "largest_disparity": largest})
        return
    print(f"{out / 'scenes.png'}  {count} scenes, disparity up to {largest:.1f} px")
