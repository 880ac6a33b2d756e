"""What the demo shows to people: one montage and one self-contained HTML page."""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from stereopsis.apps.demo.compute import Demo, Result
from stereopsis.calibration import write_calibration
from stereopsis.geometry import depth_error
from stereopsis.io import atomic_write_text, write_depth, write_disparity, write_image, write_point_cloud
from stereopsis.ops.images import to_bytes
from stereopsis.visualization.html import BAR, FAINT, GAP, INK, PAPER, STYLE, figure, legend

METRICS = (
    ("epe", "EPE", "px", "mean absolute error of the disparity"),
    ("bad1", "bad-1", "%", "pixels wrong by more than 1 px"),
    ("bad2", "bad-2", "%", "pixels wrong by more than 2 px"),
    ("bad3", "bad-3", "%", "pixels wrong by more than 3 px"),
)
TILE_WIDTH = 494


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
        small = Image.fromarray(to_bytes(picture)).resize((TILE_WIDTH, height), Image.Resampling.LANCZOS)
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


def write(demo: Demo, out: str | Path) -> list[Path]:
    """Write the demo's pictures, maps, points, numbers and report into a folder, which is made where it is missing.

    Returns:
        The files, the report first.

    Raises:
        OSError: the folder cannot be made or written.
    """
    network, baseline = demo.methods
    pictures: dict[str, Any] = {
        "overview": overview(demo),
        "left": demo.pair.left,
        "right": demo.pair.right,
        "disparity": network.picture,
        "error": network.errors,
        "disparity_sgbm": baseline.picture,
        "error_sgbm": baseline.errors,
        "truth": demo.truth_picture,
        "confidence": demo.confidence_picture,
        "depth_color": demo.depth_picture,
        "cloud": demo.cloud_picture,
    }
    page = report(demo)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        write_image(out / f"{name}.png", picture)
    write_disparity(out / "disparity.pfm", network.disparity)
    write_depth(out / "depth.png", demo.depth, overflow="drop")
    write_point_cloud(out / "cloud.ply", demo.cloud)
    write_calibration(demo.calibration, out / "calib.txt")
    # Last, because it shows what the other files hold.
    atomic_write_text(out / "report.html", page)
    names = ["report.html", "disparity.pfm", "depth.png", "cloud.ply", "calib.txt"]
    return [out / name for name in names] + [out / f"{name}.png" for name in pictures]


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
