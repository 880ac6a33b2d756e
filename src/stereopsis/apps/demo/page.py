"""What the demo shows to people: one montage and one self-contained HTML page."""

from __future__ import annotations

import base64
from html import escape
from io import BytesIO
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from stereopsis.geometry import depth_error
from stereopsis.visualization import ERROR_COLORS

if TYPE_CHECKING:
    from stereopsis.apps.demo.compute import Demo, Result

METRICS = (
    ("epe", "EPE", "px", "mean absolute error of the disparity"),
    ("bad1", "bad-1", "%", "pixels wrong by more than 1 px"),
    ("bad2", "bad-2", "%", "pixels wrong by more than 2 px"),
    ("bad3", "bad-3", "%", "pixels wrong by more than 3 px"),
)
TILE_WIDTH = 494
GAP, BAR = 6, 30
PAPER, INK, FAINT = (16, 20, 28), (232, 236, 242), (150, 160, 175)


def overview(demo: Demo) -> UInt8[np.ndarray, "h w 3"]:
    """Six pictures with captions: left view, disparity and points; ground truth and the errors of both methods."""
    from PIL import Image, ImageDraw, ImageFont

    network, baseline = demo.methods
    tiles = [
        ("left view", "", demo.pair.left),
        ("disparity", network.name, network.picture),
        ("point cloud", f"{len(demo.cloud):,} points", demo.cloud_picture),
        ("ground truth", "black: not known", demo.truth_picture),
        *((f"error of {r.name}", f"EPE {r.metrics['epe']:.2f} px", r.errors) for r in (network, baseline)),
    ]
    height = round(TILE_WIDTH * network.picture.shape[0] / network.picture.shape[1])
    sheet = Image.new("RGB", (3 * TILE_WIDTH + 4 * GAP, 2 * (height + BAR) + 3 * GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for number, (title, note, picture) in enumerate(tiles):
        x = GAP + number % 3 * (TILE_WIDTH + GAP)
        y = GAP + number // 3 * (height + BAR + GAP)
        small = Image.fromarray(_bytes(picture)).resize((TILE_WIDTH, height), Image.Resampling.LANCZOS)
        sheet.paste(small, (x, y + BAR))
        draw.text((x + 6, y + BAR / 2), title, INK, font, "lm")
        draw.text((x + TILE_WIDTH - 6, y + BAR / 2), note, FAINT, font, "rm")
    return np.asarray(sheet)


def report(demo: Demo) -> str:
    """The page: one file with its pictures inside, readable without a network."""
    network, baseline = demo.methods
    summary = demo.summary()
    depth, calibration = summary["depth"], demo.calibration
    threads = torch.get_num_threads()
    resolution = ", ".join(
        f"{1000 * depth_error(z, calibration).item():.1f} mm at {z:g} m" for z in (1.0, 2.0, 5.0, 10.0)
    )
    facts = [
        ("Depth", f"{depth['near']:.2f} to {depth['far']:.2f} m, median {depth['median']:.2f} m"),
        ("One pixel of disparity", resolution),
        ("Points", f"{len(demo.cloud):,} in <a href='cloud.ply'>cloud.ply</a>, without those between two surfaces"),
        (
            "Calibration",
            f"f = {calibration.fx:.2f} px, baseline {1000 * calibration.baseline:.1f} mm, "
            f"principal points {calibration.doffs:.2f} px apart",
        ),
    ]
    return Template(PAGE).substitute(
        style=STYLE,
        pair=escape(summary["pair"]),
        size=f"{summary['width']} x {summary['height']}",
        model=escape(network.name),
        hero="".join(
            figure(*item)
            for item in (
                ("Left view", demo.pair.left),
                ("Disparity", network.picture),
                ("Points, seen from the side", demo.cloud_picture),
            )
        ),
        table=_table(demo.methods),
        density=f"{100 * baseline.found:.1f}",
        rows="".join(_row(result, demo.truth_picture) for result in demo.methods),
        legend=legend(),
        depth="".join(
            figure(*item)
            for item in (
                ("Depth, near is bright", demo.depth_picture),
                ("Confidence, high is bright", demo.confidence_picture),
                ("Right view", demo.pair.right),
            )
        ),
        facts="".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts),
        threads=f"{threads} thread{'s' if threads > 1 else ''}",
    )


def _row(result: Result, truth: Any) -> str:
    figures = [("Prediction", result.picture), ("Ground truth", truth), ("Error", result.errors)]
    return f"<h3>{escape(result.name)}</h3><div class='row'>{''.join(figure(*item) for item in figures)}</div>"


def _table(results: tuple[Result, ...]) -> str:
    head = "".join(f"<th title='{meaning}'>{name} <small>{unit}</small></th>" for _, name, unit, meaning in METRICS)
    best = {key: min(result.metrics[key] for result in results) for key, *_ in METRICS}
    body = ""
    for result in results:
        cells = "".join(
            f"<td{' class=best' if result.metrics[key] == best[key] else ''}>{result.metrics[key]:.2f}</td>"
            for key, *_ in METRICS
        )
        body += (
            f"<tr><th scope='row'>{escape(result.name)}</th>{cells}"
            f"<td>{100 * result.metrics['density']:.0f}</td><td>{result.seconds:.2f}</td></tr>"
        )
    return (
        f"<table><thead><tr><th>method</th>{head}<th>density <small>%</small></th><th>time <small>s</small></th>"
        f"</tr></thead><tbody>{body}</tbody></table>"
    )


def legend() -> str:
    """What the colours of error maps mean, as HTML."""
    swatches = "".join(f"<i style='background:rgb{color}'></i>" for _, color in ERROR_COLORS)
    return f"<p class='legend'>Error: right {swatches} wrong; the middle is 3 px, each step doubles it.</p>"


def figure(caption: str, picture: Any) -> str:
    """A picture with its caption, as HTML that holds it."""
    from PIL import Image

    encoded = BytesIO()
    Image.fromarray(_bytes(picture)).save(encoded, format="WEBP", quality=88)
    content = base64.b64encode(encoded.getvalue()).decode()
    return (
        f"<figure><img alt='{escape(caption)}' src='data:image/webp;base64,{content}'>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _bytes(picture: Any) -> UInt8[np.ndarray, "h w 3"]:
    if isinstance(picture, Tensor):
        return (picture[0].permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return picture


STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --ink: #1b1f27; --faint: #667085; --line: #e2e4e9; --good: #0b7a4b }
@media (prefers-color-scheme: dark) {
  :root { --paper: #10141c; --ink: #e8ecf2; --faint: #96a0af; --line: #2a3140; --good: #5ad19b }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 78rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif }
h1 { font-size: 1.9rem; margin: 0; letter-spacing: -.02em }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; font-weight: 600 }
p { max-width: 48rem; margin: .4rem 0 1rem }
.lead, figcaption, small, .legend { color: var(--faint) }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: .8rem }
figure { margin: 0 }
img { display: block; width: 100%; border-radius: 6px }
figcaption { font-size: .85rem; padding: .3rem .1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; max-width: 52rem }
th, td { padding: .5rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { font-weight: 500 } th:first-child { text-align: left } thead th { color: var(--faint); font-size: .85rem }
.best { color: var(--good); font-weight: 650 }
.legend { font-size: .85rem } .legend i { display: inline-block; width: 1.3rem; height: .8rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.4rem }
dt { color: var(--faint) } dd { margin: 0 }
a { color: inherit }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>stereopsis demo</title>
<style>$style</style>
</head>
<body>
<h1>From a stereo pair to metric depth</h1>
<p class="lead">$pair, $size px, matched with $model.</p>
<div class="row">$hero</div>
<h2>Against ground truth</h2>
$table
<p class="lead">OpenCV's semi-global matching gave a value to $density % of the pixels; the others took that of a
neighbour, so that both methods answer for every pixel. Time is that of one call on this machine ($threads).</p>
$legend
$rows
<h2>Metric depth</h2>
<div class="row">$depth</div>
<dl>$facts</dl>
<h2>Files</h2>
<p>Beside this page: <a href="disparity.pfm">disparity.pfm</a> (px), <a href="depth.png">depth.png</a> (16 bit,
millimetres), <a href="cloud.ply">cloud.ply</a>, <a href="calib.txt">calib.txt</a>, and the pictures.</p>
</body>
</html>
"""
