"""Pictures of the documents: ``python docs/make_pictures.py [FOLDER OF THE DEMO]``.

Small copies of what the demo writes, and guided upsampling of its pair's true disparity.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parent
# File and width in pixels; together below 400 KB.
PICTURES = {"overview": 1506, "cloud": 741}

CROP = slice(130, 370), slice(180, 500)  # of the demo's pair: rows and columns


def upsampling(path: Path) -> None:
    """Image, map of an eighth of its size, bicubic, FDKN, and the truth."""
    import torch

    import stereopsis
    from stereopsis.demo import load_pair
    from stereopsis.types import Depth
    from stereopsis.upsampling.resample import enlarge, fill_holes, reduce, upsample
    from stereopsis.visualization import colorize, side_by_side

    pair, truth, known = load_pair()
    image, whole, known = (t[..., :496, :736][..., *CROP] for t in (pair.left, fill_holes(truth, known), known))
    small = reduce(whole, 8)
    low = Depth(small, torch.ones_like(small, dtype=torch.bool))
    size = (whole.shape[-2], whole.shape[-1])
    with torch.inference_mode():
        found = upsample(stereopsis.load("fdkn_x8.scenes"), image, low).depth
    maps = [enlarge(low, size, "nearest").depth, enlarge(low, size).depth, found, torch.where(known, whole, torch.nan)]
    low_end, high_end = whole.min().item(), whole.max().item()
    row = side_by_side(image, *(colorize(m, vmin=low_end, vmax=high_end) for m in maps))
    Image.fromarray(row).save(path, quality=55, optimize=True)
    print(path)


def main(source: Path, target: Path = DOCS / "pictures") -> None:
    target.mkdir(exist_ok=True)
    for name, width in PICTURES.items():
        with Image.open(source / f"{name}.png") as picture:
            height = round(picture.height * width / picture.width)
            small = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        small.save(target / f"{name}.jpg", quality=78, optimize=True)
        print(target / f"{name}.jpg")
    upsampling(target / "upsampling.jpg")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS.parent / "out" / "demo")
