"""Parts of the HTML pages that reports are made of: a style, pictures with captions, and legends."""

from __future__ import annotations

import base64
from html import escape
from io import BytesIO
from typing import Any

from stereopsis.ops.images import to_bytes
from stereopsis.visualization.colors import ERROR_COLORS

# Distances in pixels and colours of pictures that hold several pictures.
GAP, BAR = 6, 30
PAPER, INK, FAINT = (16, 20, 28), (232, 236, 242), (150, 160, 175)
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


def legend() -> str:
    """What the colours of error maps mean, as HTML."""
    swatches = "".join(f"<i style='background:rgb{color}'></i>" for _, color in ERROR_COLORS)
    return f"<p class='legend'>Error: right {swatches} wrong; the middle is 3 px, each step doubles it.</p>"


def figure(caption: str, picture: Any) -> str:
    """A picture with its caption, as HTML that holds it."""
    from PIL import Image

    encoded = BytesIO()
    Image.fromarray(to_bytes(picture)).save(encoded, format="WEBP", quality=88)
    content = base64.b64encode(encoded.getvalue()).decode()
    return (
        f"<figure><img alt='{escape(caption)}' src='data:image/webp;base64,{content}'>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
