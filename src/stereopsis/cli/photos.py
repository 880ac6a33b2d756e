"""``stereopsis photos``."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from stereopsis.cli.console import new_table, note, show_json, show_table, warn

if TYPE_CHECKING:
    from stereopsis.data.photos import Photo


def photos(out: Path | None = None, list: bool = False, sheet: Path | None = None, json: bool = False) -> int:
    """Gather photographs under free licences for training.

    Downloads 640 MB of Debian packages with apt-get, without installing them, and stores their photographs. Training
    uses the bank in $STEREOPSIS_PHOTOS, or in ~/.cache/stereopsis/photos. A repeated call downloads only what is
    missing. The exit status is 1 if a package or a file cannot be had.

    Args:
        out: Folder of the bank. By default, the folder that training uses.
        list: Count the photographs of the bank by package and licence, and download nothing.
        sheet: Also write a contact sheet of the bank, as PNG.
        json: Print JSON instead of text.
    """
    from stereopsis.cli.options import check_folder
    from stereopsis.data.photos import gather, photo_folder, read_photos

    folder = photo_folder() if out is None else out
    check_folder(folder, "--out")
    problems = [] if list else gather(folder, report=note)
    for problem in problems:
        warn(problem)
    bank = read_photos(folder)
    if not bank and list:
        raise FileNotFoundError(f"{folder} holds no photo bank; run stereopsis photos to gather one.")
    if sheet is not None:
        _write_sheet(bank, sheet)
    groups: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for photo in bank:
        group = groups[photo.source.package, photo.source.licence]
        group["photos"] += 1
        group["validation"] += photo.source.split == "validation"
        group["megapixels"] += photo.megapixels
    if json:
        counts = [
            {"package": package, "licence": licence, **group} for (package, licence), group in sorted(groups.items())
        ]
        show_json({"folder": str(folder), "groups": counts, "problems": problems})
        return 1 if problems else 0
    table = new_table("Package", "Licence", "Photos", "Held out", "Mpx")
    for (package, licence), group in sorted(groups.items()):
        count, held_out = int(group["photos"]), int(group["validation"])
        table.add_row(package, licence, str(count), str(held_out), f"{group['megapixels']:.1f}")
    held_out = sum(photo.source.split == "validation" for photo in bank)
    table.add_row("all", "", str(len(bank)), str(held_out), f"{sum(photo.megapixels for photo in bank):.1f}")
    show_table(table)
    return 1 if problems else 0


def _write_sheet(bank: list[Photo], path: Path) -> None:
    import numpy as np
    from PIL import Image

    from stereopsis.io import write_image

    side, columns = 160, 8
    sheet = Image.new("RGB", (columns * side, -(-len(bank) // columns) * side or side))
    for number, photo in enumerate(bank):
        image = Image.fromarray(np.asarray(photo.pixels()))
        image.thumbnail((side - 4, side - 4))
        sheet.paste(image, (number % columns * side, number // columns * side))
    write_image(path, np.asarray(sheet))
