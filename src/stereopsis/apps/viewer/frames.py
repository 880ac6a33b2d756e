"""One frame as the viewer shows it, and the parts of a page that it becomes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from stereopsis.evaluation.metrics import disparity_metrics
from stereopsis.geometry import disparity_to_depth, unproject
from stereopsis.ops.images import to_bytes
from stereopsis.types import Depth, Disparity, PointCloud, StereoCalibration
from stereopsis.visualization import colorize, error_map
from stereopsis.visualization.points import depth_picture, on_surfaces

MAX_POINTS = 500_000
# As the two kinds of map are coloured; the page draws the scale below the picture.
DISPARITY_COLORS, CONFIDENCE_COLORS = "turbo", "bone"
FARTHEST = 50.0  # of a cloud without a calibration, in its nearest distances

Scale = Callable[[Disparity], tuple[float, float] | None]


@dataclass(frozen=True)
class Frame:
    """What is known of one pair; what is None is not shown.

    Attributes:
        name: shown beside the slider.
        left, right: views in [0, 1].
        disparity: pixels; ``confidence`` of it is shown where ``confident``.
        confident: whether the confidence of ``disparity`` says anything.
        depth: metres.
        cloud: metres, or anything of one scale where not ``metric``.
        metric: whether the cloud is in metres.
        truth: true disparity in pixels, and where it is known.
        pictures: made by someone else, by key (``confidence``, ``error``, ``truth``).
        facts: a few words each, for the head of the page.
    """

    name: str
    left: Float[Tensor, "1 c h w"] | None = None
    right: Float[Tensor, "1 c h w"] | None = None
    disparity: Disparity | None = None
    confident: bool = False
    depth: Depth | None = None
    cloud: PointCloud | None = None
    metric: bool = True
    truth: tuple[Float[Tensor, "1 1 h w"], Bool[Tensor, "1 1 h w"]] | None = None
    pictures: dict[str, Float[Tensor, "1 3 h w"]] = field(default_factory=dict)
    facts: tuple[str, ...] = ()


def points_of(
    frame_depth: Depth | None,
    disparity: Disparity | None,
    calibration: StereoCalibration | None,
    image: Float[Tensor, "1 c h w"] | None,
) -> tuple[PointCloud | None, bool]:
    """The cloud of a frame, and whether it is in metres.

    Without a calibration it is that of a camera as wide as far, which has the right order of things and not their
    proportions. Points on the edges between two surfaces are left out, since they fly in between.
    """
    if calibration is not None and frame_depth is not None:
        return unproject(Depth(frame_depth.depth, on_surfaces(frame_depth)), calibration, image), True
    if disparity is None or not disparity.valid.any():
        return None, True
    height, width = disparity.disparity.shape[-2:]
    guess = StereoCalibration(width, width, (width - 1) / 2, (height - 1) / 2, (width - 1) / 2, 1.0)
    depth = disparity_to_depth(disparity, guess)
    near = depth.depth[depth.valid].quantile(0.01) if depth.depth.numel() < 2**24 else depth.depth[depth.valid].min()
    kept = on_surfaces(depth) & (depth.depth < FARTHEST * near)
    return unproject(Depth(depth.depth / near, kept), guess, image), False


def parts_of(frame: Frame, scale: Scale | None = None) -> dict[str, bytes]:
    """What the page asks for, by name: ``meta`` (JSON as bytes), the pictures, ``values`` and ``cloud``.

    ``values`` are the layers that ``meta`` names, each float32 in row order, NaN where not known. ``cloud`` is the
    positions, three float32 each, and behind them the colours, three bytes each.

    Args:
        scale: the ends of the colours of disparity for a whole sequence.

    Raises:
        ValueError: maps and views of different sizes.
    """
    import json

    parts: dict[str, bytes] = {}
    shown: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    values: list[np.ndarray] = []

    def show(key: str, label: str, picture: Any, **more: Any) -> None:
        parts[key] = encode(picture, lossy=key in {"left", "right"})
        shown.append({"key": key, "label": label, **more})

    def layer(key: str, unit: str, digits: int, numbers: Tensor, valid: Tensor) -> None:
        layers.append({"key": key, "unit": unit, "digits": digits})
        values.append(torch.where(valid, numbers, torch.nan).float().reshape(numbers.shape[-2:]).cpu().numpy())

    for key, view in (("left", frame.left), ("right", frame.right)):
        if view is not None:
            show(key, f"{key.capitalize()} view", view)
    facts = list(frame.facts)
    disparity = frame.disparity
    if disparity is not None:
        ends = _ends(disparity, scale)
        picture = colorize(disparity.disparity, disparity.valid, *ends, DISPARITY_COLORS)
        show("disparity", "Disparity", picture, low=ends[0], high=ends[1], unit="px", colors=DISPARITY_COLORS)
        layer("disparity", "px", 2, disparity.disparity, disparity.valid)
        if frame.confident:
            picture = colorize(disparity.confidence, disparity.valid, 0, 1, CONFIDENCE_COLORS)
            show("confidence", "Confidence", picture, low=0, high=1, unit="", colors=CONFIDENCE_COLORS)
            layer("confidence", "", 2, disparity.confidence, disparity.valid)
    if frame.depth is not None:
        show("depth", "Depth, near is bright", depth_picture(frame.depth))
        layer("depth", "m", 3, frame.depth.depth, frame.depth.valid)
    if frame.truth is not None and disparity is not None:
        truth, known = frame.truth
        measured = disparity_metrics(disparity.disparity, truth, known, disparity.valid)
        if math.isfinite(measured["epe"]):
            facts.append(f"EPE {measured['epe']:.2f} px, bad-2 {measured['bad2']:.1f} %")
        show("error", "Error", error_map(disparity.disparity, truth, known & disparity.valid), error=True)
        show("truth", "Ground truth", colorize(truth, known, *ends, DISPARITY_COLORS))
        layer("truth", "px", 2, truth, known)
    for key, label in (("confidence", "Confidence"), ("error", "Error"), ("truth", "Ground truth")):
        if key in frame.pictures and key not in parts:
            show(key, label, frame.pictures[key], **({"error": True} if key == "error" else {}))
    meta: dict[str, Any] = {"name": frame.name, "pictures": shown, "layers": layers}
    size = next((tuple(part.shape) for part in values), None)
    if size is not None:
        meta |= {"height": size[0], "width": size[1]}
        parts["values"] = b"".join(part.tobytes() for part in values)
        facts.insert(0, f"{size[1]} x {size[0]} px")
    if frame.cloud is not None and len(frame.cloud):
        points, colors = _thinned(frame.cloud)
        parts["cloud"] = points.tobytes() + colors.tobytes()
        meta["cloud"] = {"points": len(points), "all": len(frame.cloud), "metric": frame.metric}
    parts["meta"] = json.dumps(meta | {"facts": facts}, allow_nan=False).encode()
    return parts


def encode(picture: Any, lossy: bool = False) -> bytes:
    """A float tensor ``(1, C, H, W)`` in [0, 1] or a uint8 array ``(H, W, 3)`` as WebP or PNG."""
    from PIL import Image

    array = to_bytes(picture[0].expand(3, -1, -1) if isinstance(picture, Tensor) else picture)
    encoded = BytesIO()
    # WebP holds no more than 16383 pixels a side.
    if lossy and max(array.shape) < 16384:
        Image.fromarray(array).save(encoded, format="WEBP", quality=90, method=2)
    else:
        Image.fromarray(array).save(encoded, format="PNG", compress_level=3)
    return encoded.getvalue()


def color_bar(colors: str) -> bytes:
    """A PNG of one row that runs through a colour map."""
    return encode(colorize(np.linspace(0, 1, 256, dtype=np.float32)[None], vmin=0, vmax=1, colormap=colors))


def _ends(disparity: Disparity, scale: Scale | None) -> tuple[float, float]:
    found = None if scale is None else scale(disparity)
    if found is not None:
        return found
    known = disparity.disparity[disparity.valid].cpu().numpy()
    if not known.size:
        return 0.0, 1.0
    low, high = np.percentile(known, (1, 99))
    return float(low), float(high)


def _thinned(cloud: PointCloud) -> tuple[Float[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"]]:
    points = cloud.points.cpu().numpy().astype("<f4")
    colors = np.full(points.shape, 220, np.uint8) if cloud.colors is None else cloud.colors.cpu().numpy()
    if len(points) <= MAX_POINTS:
        return points, colors
    # By chance, because every n-th would draw stripes.
    chosen = np.sort(np.random.default_rng(0).choice(len(points), MAX_POINTS, replace=False))
    return points[chosen], colors[chosen]
