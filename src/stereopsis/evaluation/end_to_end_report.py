"""The report of a pipeline: one HTML page that holds its pictures, readable without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from stereopsis.ops.images import to_bytes
from stereopsis.types import Depth, StereoPair
from stereopsis.visualization import colorize, error_map
from stereopsis.visualization.html import STYLE, figure, legend
from stereopsis.visualization.points import depth_picture, on_surfaces, render_points

if TYPE_CHECKING:
    from stereopsis.evaluation.end_to_end import PipelineResult, Truth

WIDTH = 1000  # of the largest picture in the page
COLUMNS = (("epe", "EPE px"), ("bad1", "bad-1 %"), ("bad2", "bad-2 %"), ("bad3", "bad-3 %"), ("d1", "D1 %"))


def pipeline_page(
    result: PipelineResult, facts: Mapping[str, Any], files: Sequence[str], truth: Truth | None = None
) -> str:
    """The page.

    Args:
        result: of :func:`~stereopsis.evaluation.end_to_end.run_pipeline`.
        facts: what ``report.json`` says beside its numbers: ``left``, ``right``, ``codec``, ``matcher``, ``upsampler``
            and, where there are any, ``warnings``.
        files: that lie beside the page, to be linked.
        truth: that the result was measured against.
    """
    height, width = result.pair.left.shape[-2:]
    rate = result.numbers["rate"]
    matched = "x".join(map(str, result.matched_size))
    upsampled = f", matched at {matched} and upsampled with {facts['upsampler']}" if facts["upsampler"] else ""
    raw = 2 * 3 * width * height
    return Template(PAGE).substitute(
        style=STYLE,
        title=escape(f"{facts['left']} and {facts['right']}"),
        lead=escape(f"{width} x {height} px, coded with {facts['codec']}, matched with {facts['matcher']}{upsampled}."),
        warnings="".join(f"<p><strong>Warning:</strong> {escape(text)}</p>\n" for text in facts.get("warnings", ())),
        rate="".join(
            f"<dt>{name}</dt><dd>{value}</dd>"
            for name, value in (
                ("File", f"{rate['bytes']:,} bytes, {raw / rate['bytes']:.0f} times less than the pixels"),
                ("Rate", f"{rate['bpp']:.4f} bits a pixel, at quality {rate['quality']:g}"),
                ("PSNR", f"{rate['psnr']:.2f} dB"),
                ("MS-SSIM", "of sides above 175 px alone" if rate["ms_ssim"] is None else f"{rate['ms_ssim']:.4f}"),
            )
        ),
        errors=_errors(result.numbers),
        coded=_row(
            ("Left view, as it came", _small(result.pair.left)),
            ("Left view, decoded", _small(result.decoded.left)),
            ("Change by coding, times 8", _small(_difference(result.pair, result.decoded))),
        ),
        legend=legend(),
        disparities=_row(*((name, _small(picture)) for name, picture in _maps(result, truth))),
        depth=_row(("Depth, near is bright", _small(depth_picture(result.depth))), *_cloud(result)),
        steps="".join(
            f"<tr><th scope='row'>{escape(name)}</th><td>{seconds:.3f}</td></tr>"
            for name, seconds in result.seconds.items()
        ),
        total=f"{sum(result.seconds.values()):.3f}",
        files=", ".join(f"<a href='{escape(name)}'>{escape(name)}</a>" for name in files),
    )


def _errors(numbers: Mapping[str, Any]) -> str:
    """What changed, and how far both maps are from the truth, as a table."""
    rows = [("decoded pair, against the pair as it came", numbers["change"])]
    if numbers["error"] is not None:
        rows += [
            ("decoded pair, against the truth", numbers["error"]["decoded"]),
            ("pair as it came, against the truth", numbers["error"]["original"]),
        ]
    head = "".join(f"<th>{title}</th>" for _, title in COLUMNS)
    body = ""
    for name, row in rows:
        cells = "".join(f"<td>{'-' if row[key] is None else f'{row[key]:.2f}'}</td>" for key, _ in COLUMNS)
        body += f"<tr><th scope='row'>{name}</th>{cells}</tr>"
    return f"<table><thead><tr><th>disparity of the</th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _maps(result: PipelineResult, truth: Truth | None) -> list[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
    """Disparities in the colours of one range, and their errors."""
    shown = result.original if result.original.valid.any() else result.disparity
    values = shown.disparity[shown.valid].numpy()
    low, high = map(float, np.percentile(values, (1, 99)))
    maps = [
        ("Disparity of the decoded pair", result.disparity.disparity, result.disparity.valid),
        ("Disparity of the pair as it came", result.original.disparity, result.original.valid),
    ]
    pictures = [(name, colorize(values, valid, low, high)) for name, values, valid in maps]
    if result.original.valid.any():
        change = error_map(result.disparity.disparity, result.original.disparity, result.original.valid)
        pictures.append(("How far they are apart", change))
    if truth is not None:
        pictures.append(("Truth", colorize(truth.disparity, truth.known, low, high)))
        error = error_map(result.disparity.disparity, truth.disparity, truth.known)
        pictures.append(("Error of the decoded pair", error))
        error = error_map(result.original.disparity, truth.disparity, truth.known)
        pictures.append(("Error of the pair as it came", error))
    return pictures


def _cloud(result: PipelineResult) -> list[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
    """The points from the side, without those that fly between two surfaces; nothing where none is left."""
    from stereopsis.geometry import unproject

    rig, left = result.pair.calibration, result.decoded.left
    assert rig is not None
    height, width = left.shape[-2:]
    cloud = unproject(Depth(result.depth.depth, on_surfaces(result.depth)), rig, left.expand(-1, 3, -1, -1))
    if len(cloud) == 0:
        return []
    scale = min(1.0, WIDTH / width)
    size = max(round(scale * height), 1), max(round(scale * width), 1)
    return [("Points, seen from the side", render_points(cloud, size, focal=0.88 * scale * rig.fx))]


def _difference(pair: StereoPair, decoded: StereoPair) -> UInt8[np.ndarray, "h w 3"]:
    return to_bytes((0.5 + 8 * (decoded.left - pair.left)).expand(-1, 3, -1, -1))


def _row(*pictures: tuple[str, Any]) -> str:
    return f"<div class='row'>{''.join(figure(*picture) for picture in pictures)}</div>"


def _small(picture: Any) -> UInt8[np.ndarray, "h w 3"]:
    """At most :data:`WIDTH` wide."""
    from PIL import Image

    if not isinstance(picture, np.ndarray):
        picture = to_bytes(picture.expand(-1, 3, -1, -1))
    height, width = picture.shape[:2]
    if width <= WIDTH:
        return picture
    size = WIDTH, max(round(height * WIDTH / width), 1)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>stereopsis pipeline</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
<p class="lead">$lead</p>
$warnings<h2>Compressed</h2>
<dl>$rate</dl>
$coded
<h2>Matched</h2>
$errors
$legend
$disparities
<h2>Measured</h2>
$depth
<h2>Seconds of each step</h2>
<table><tbody>$steps<tr><th scope="row">together</th><td>$total</td></tr></tbody></table>
<h2>Files</h2>
<p>Beside this page: $files.</p>
</body>
</html>
"""
