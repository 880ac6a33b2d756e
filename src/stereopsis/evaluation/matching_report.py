"""What an evaluation shows to people: a picture a pair, and a page with all of them, the worst first.

A picture holds the left view, the truth, the prediction, OpenCV's semi-global matching with its holes filled, and the
errors of both; disparities in the colours of one range, errors in those of the KITTI benchmark.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from stereopsis.evaluation.matching import METRICS, Outcome
from stereopsis.evaluation.metrics import disparity_metrics
from stereopsis.evaluation.protocols import PROTOCOLS
from stereopsis.geometry.holes import fill_from_background
from stereopsis.io import atomic_write_text, write_image
from stereopsis.matching.sgm import SemiGlobalMatching
from stereopsis.ops.images import to_bytes
from stereopsis.visualization import ERROR_COLORS, colorize, error_map, thicken
from stereopsis.visualization.html import BAR, FAINT, GAP, INK, PAPER, STYLE

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

SHEET_WIDTH = 1506
BASELINE = "SGBM, holes filled"
# Fewer known pixels than this are drawn thicker; laser scans have about a fifth.
SPARSE = 0.6
TITLES = {
    "epe": "EPE px",
    "bad1": "bad-1 %",
    "bad2": "bad-2 %",
    "bad3": "bad-3 %",
    "d1": "D1 %",
    "density": "density %",
}


@dataclass(frozen=True)
class Page:
    """One pair in the report: the name of its picture, and the measures of the model and of the baseline."""

    id: str
    picture: str
    model: dict[str, Any]
    baseline: dict[str, Any]


class Report:
    """Draws each pair as it is measured, and at the end the page. ``report.add`` is made for ``observe``."""

    def __init__(self, folder: str | Path, name: str, max_disparity: int | None = None) -> None:
        """
        Args:
            folder: made where it is missing; files of the same names are replaced.
            name: of the model.
            max_disparity: of the baseline's search, in pixels; its own if not given.

        Raises:
            OSError: the folder cannot be made.
        """
        self.folder, self.name, self.max_disparity = Path(folder), name, max_disparity
        self.pages: list[Page] = []
        self._baseline = SemiGlobalMatching()
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, outcome: Outcome) -> Path:
        """Match the pair with the baseline and write its picture; the file's name holds the pair's place and id.

        Raises:
            OSError: the file cannot be written.
        """
        metrics, baseline = _baseline(self._baseline, outcome, self.max_disparity)
        slug = re.sub(r"[^A-Za-z0-9.-]+", "_", outcome.pair.id).strip("_")[:100]
        path = self.folder / f"{len(self.pages) + 1:04d}_{slug}.png"
        write_image(path, draw_pair(outcome, self.name, baseline, metrics))
        self.pages.append(Page(outcome.pair.id, path.name, outcome.row, metrics))
        return path

    def write(self, result: dict[str, Any]) -> Path:
        """Write ``index.html`` for what :func:`~stereopsis.evaluation.matching.evaluate_matching` returned.

        Raises:
            OSError: the file cannot be written.
        """
        path = self.folder / "index.html"
        atomic_write_text(path, _index(result, sorted(self.pages, key=_badness, reverse=True)))
        return path


def draw_pair(
    outcome: Outcome,
    name: str,
    baseline: tuple[Float[Tensor, "1 1 h w"], Bool[Tensor, "1 1 h w"]],
    baseline_metrics: dict[str, Any],
) -> UInt8[np.ndarray, "h w 3"]:
    """One pair as a sheet of six pictures with captions and the legend of their colours.

    Disparities share one scale, the 1st to the 99th percentile of the truth. Sparse truth is drawn thicker.

    Args:
        outcome: the pair and the model's answer.
        name: of the model.
        baseline: disparity in pixels and where it is valid.
        baseline_metrics: of the baseline, as in ``outcome.row``.
    """
    from PIL import Image, ImageDraw, ImageFont

    truth, known = outcome.truth, outcome.known
    values = truth[known].numpy()
    low, high = (float(value) for value in np.percentile(values, (1, 99)))
    share = known.float().mean().item()
    row = outcome.row

    def errors(disparity: Tensor, valid: Tensor) -> np.ndarray:
        picture = error_map(disparity, truth, known & valid, outcome.noc)
        return thicken(picture, known & valid) if share < SPARSE else picture

    truth_picture = colorize(truth, known, low, high)
    found, valid = outcome.prediction.disparity, outcome.prediction.valid
    tiles = {
        "left": ("left view", "", outcome.left),
        "truth": (
            "ground truth",
            f"{100 * share:.0f} % known",
            thicken(truth_picture, known) if share < SPARSE else truth_picture,
        ),
        "found": (name, f"{100 * row['density']:.0f} % of the known pixels", colorize(found, valid, low, high)),
        "error": (f"error of {name}", _caption(row, ("epe", "bad1", "bad3")), errors(found, valid)),
        "baseline": (BASELINE, "", colorize(*baseline, low, high)),
        "baseline error": ("error of SGBM", _caption(baseline_metrics, ("epe", "bad1", "bad3")), errors(*baseline)),
    }
    height, width = truth.shape[-2:]
    # Wide views (road scenes) would be too flat in three columns.
    wide = width > 2 * height
    order = (
        ("left", "truth", "found", "error", "baseline", "baseline error")
        if wide
        else ("left", "found", "error", "truth", "baseline", "baseline error")
    )
    columns, rows = (2, 3) if wide else (3, 2)
    tile_width = (SHEET_WIDTH - (columns + 1) * GAP) // columns
    tile_height = max(1, round(tile_width * height / width))
    sheet = Image.new("RGB", (SHEET_WIDTH, rows * (tile_height + BAR + GAP) + 2 * (BAR + GAP)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    title = f"{_fit(draw, font, outcome.pair.id, SHEET_WIDTH / 3)}, {width} x {height}"
    caption = f"{name}: {_caption(row, METRICS[:-1])}     SGBM: {_caption(baseline_metrics, METRICS[:-1])}"
    draw.text((GAP + 6, GAP + BAR / 2), title, INK, font, "lm")
    draw.text((SHEET_WIDTH - GAP - 6, GAP + BAR / 2), caption, FAINT, ImageFont.load_default(13), "rm")
    for number, key in enumerate(order):
        heading, note, picture = tiles[key]
        x = GAP + number % columns * (tile_width + GAP)
        y = 2 * GAP + BAR + number // columns * (tile_height + BAR + GAP)
        sheet.paste(_scaled(picture, tile_width, tile_height), (x, y + BAR))
        room = tile_width - 24 - draw.textlength(note, font)
        draw.text((x + 6, y + BAR / 2), _fit(draw, font, heading, room), INK, font, "lm")
        draw.text((x + tile_width - 6, y + BAR / 2), note, FAINT, font, "rm")
    _draw_legend(sheet, low, high, "" if outcome.noc is None else "; dim: occluded")
    return np.asarray(sheet)


def _draw_legend(sheet: Image, low: float, high: float, remark: str) -> None:
    """The scale of the disparities on the left and that of the errors on the right, in the last line of the sheet."""
    from PIL import Image, ImageDraw, ImageFont

    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    middle = sheet.height - GAP - BAR / 2
    draw.text((GAP + 6, middle), f"disparity {low:.0f} px", FAINT, font, "lm")
    left = round(GAP + 12 + draw.textlength(f"disparity {low:.0f} px", font))
    ramp = Image.fromarray(colorize(np.linspace(0, 1, 256)[None])).resize((256, 14))
    sheet.paste(ramp, (left, round(middle) - 7))
    draw.text((left + 262, middle), f"{high:.0f} px, black: none", FAINT, font, "lm")
    text = f"wrong; the middle is 3 px or 5 %, each step doubles it{remark}"
    x = sheet.width - GAP - 6 - round(draw.textlength(text, font))
    draw.text((x, middle), text, FAINT, font, "lm")
    for color in [color for _, color in reversed(ERROR_COLORS)]:
        x -= 22
        draw.rectangle((x - 4, middle - 7, x + 17, middle + 7), fill=color)
    draw.text((x - 10, middle), "error: right", FAINT, font, "rm")


def _scaled(picture: Any, width: int, height: int) -> Image:
    """Photographs smoothly; maps by the nearest pixel, since a mean of two colours would be a third value."""
    from PIL import Image

    if isinstance(picture, Tensor):
        return Image.fromarray(to_bytes(picture)).resize((width, height), Image.Resampling.LANCZOS)
    return Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)


def _fit(draw: ImageDraw, font: Any, text: str, width: float) -> str:
    """The text, its end cut where it is longer than so many pixels."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"{text}...", font) > width:
        text = text[:-1]
    return f"{text}..."


def _baseline(
    model: nn.Module, outcome: Outcome, max_disparity: int | None
) -> tuple[dict[str, Any], tuple[Tensor, Tensor]]:
    limit = {} if max_disparity is None else {"max_disparity": max_disparity}
    with torch.inference_mode():
        answer = fill_from_background(model(outcome.left, outcome.right, **limit))
    metrics = disparity_metrics(answer.disparity, outcome.truth, outcome.known, answer.valid)
    finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
    return finite, (answer.disparity, answer.valid)


def _badness(page: Page) -> float:
    return math.inf if page.model["epe"] is None else page.model["epe"]


def _caption(row: dict[str, Any], keys: tuple[str, ...]) -> str:
    if row["epe"] is None:
        return "nothing found"
    words = (TITLES[key].rsplit(" ", 1) for key in keys)
    return ", ".join(f"{word} {_cell(row, key)} {unit}" for key, (word, unit) in zip(keys, words, strict=True))


def _cell(row: dict[str, Any], key: str) -> str:
    if row[key] is None:
        return "-"
    return f"{100 * row[key]:.1f}" if key == "density" else f"{row[key]:.2f}"


def _index(result: dict[str, Any], pages: list[Page]) -> str:
    head = "".join(f"<th>{title}</th>" for title in TITLES.values())
    mean = "".join(f"<td>{_cell(result['mean'], key)}</td>" for key in METRICS)
    table = "".join(
        f"<tr><th scope='row'><a href='#{page.picture}'>{escape(page.id)}</a></th>"
        + "".join(f"<td>{_cell(page.model, key)}</td>" for key in METRICS)
        + f"<td>{_cell(page.baseline, 'epe')}</td></tr>"
        for page in pages
    )
    pictures = "".join(
        f"<figure id='{page.picture}'><a href='{page.picture}'><img loading='lazy' alt='{escape(page.id)}' "
        f"src='{page.picture}'></a><figcaption>{escape(page.id)}: {_caption(page.model, METRICS[:-1])}; "
        f"SGBM {_caption(page.baseline, METRICS[:-1])}</figcaption></figure>"
        for page in pages
    )
    return Template(PAGE).substitute(
        style=STYLE,
        model=escape(result["model"]),
        pairs=f"{len(pages)} pair{'s' if len(pages) != 1 else ''}",
        table=f"<table><thead><tr><th>pair</th>{head}<th>EPE of SGBM</th></tr></thead>"
        f"<tbody><tr><th scope='row'>mean over pairs</th>{mean}<td>{_mean_baseline(pages)}</td></tr>{table}</tbody>"
        "</table>",
        protocol=_protocol(result["protocol"]) if "protocol" in result else "",
        legend="".join(f"<i style='background:rgb{color}'></i>" for _, color in ERROR_COLORS),
        pictures=pictures,
    )


def _mean_baseline(pages: list[Page]) -> str:
    values = [page.baseline["epe"] for page in pages if page.baseline["epe"] is not None]
    return f"{sum(values) / len(values):.2f}" if values else "-"


def _protocol(measured: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(column.title)}</th><td>{column.text(measured['mean'][column.key])}</td>"
        f"<td>{measured['pairs'][column.key]}</td></tr>"
        for column in PROTOCOLS[measured["name"]].columns
    )
    return (
        f"<h2>{escape(measured['title'])}</h2><p class='lead'>{escape(measured['note'])}</p><table><thead><tr>"
        f"<th>measure</th><th>mean</th><th>pairs</th></tr></thead><tbody>{rows}</tbody></table>"
    )


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$model on $pairs</title>
<style>$style
figure { margin: 2rem 0 }
</style>
</head>
<body>
<h1>$model against ground truth</h1>
<p class="lead">$pairs, the largest mean error (EPE) first; a click on a name leads to its picture.</p>
$table
$protocol
<h2>Pictures</h2>
<p class="legend">Error: right $legend wrong; the middle is 3 px or 5 %, each step doubles it. Half as bright: occluded,
where the manifest says so. SGBM is OpenCV's semi-global matching, its holes filled from the row.</p>
$pictures
</body>
</html>
"""
