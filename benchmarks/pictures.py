"""Small files of drawings, since ``docs/pictures`` is kept below 700,000 bytes."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image


def save_small(figure: Any, path: Path, dpi: int = 72, colors: int = 64) -> None:
    """A figure of matplotlib as a PNG of few colours."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    picture = Image.open(content).convert("RGB").quantize(colors, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)
