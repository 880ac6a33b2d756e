"""Small copies of the demo's pictures for the README: ``python docs/make_pictures.py [FOLDER OF THE DEMO]``."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parent
# File and width in pixels; together below 400 KB.
PICTURES = {"overview": 1506, "cloud": 741}


def main(source: Path, target: Path = DOCS / "pictures") -> None:
    target.mkdir(exist_ok=True)
    for name, width in PICTURES.items():
        with Image.open(source / f"{name}.png") as picture:
            height = round(picture.height * width / picture.width)
            small = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        small.save(target / f"{name}.jpg", quality=78, optimize=True)
        print(target / f"{name}.jpg")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS.parent / "out" / "demo")
