"""The protocol of guided depth upsampling: a true map is reduced, enlarged by a model, and compared with itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.data.manifests import read_rows
from stereopsis.geometry.resample import Reduction, enlarge, reduce
from stereopsis.io import read_image
from stereopsis.io.maps import ARRAY_SUFFIXES, read_array, read_grey
from stereopsis.types import Depth
from stereopsis.upsampling.upsample import upsample

REQUIRED = ("id", "image", "depth", "metric")
# The protocols' units and the pixels at each border that they leave out: Middlebury and Lu on [0, 255], NYU v2 in cm.
BORDERS = {"rmse_255": 0, "rmse_cm": 6}
EDGE_STEP = 0.05  # of the map's range: a larger step between neighbours is an edge, a larger error there is bad
EDGE_REACH = 3  # pixels to either side that belong to an edge
METRICS = ("rmse", "mae", "edge_rmse", "flat_rmse", "bad_edge")

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class GuidedImage:
    """An image and its dense true map on disk.

    Attributes:
        id: its first path component names the data set.
        image, depth: files; the map is a picture of one channel or an array.
        metric: "rmse_255" or "rmse_cm", the unit of all errors.
        scale_to_unit: what the stored numbers are multiplied by to be in that unit.
    """

    id: str
    image: Path
    depth: Path
    metric: str
    scale_to_unit: float = 1.0


def read_upsampling_manifest(path: str | Path) -> list[GuidedImage]:
    """The images of a JSON manifest: a list of objects with ``id, image, depth, metric`` and maybe ``scale_to_unit``.

    Paths are relative to the folder above the manifest's own.

    Raises:
        FileNotFoundError: the manifest, or a file it names, does not exist.
        ValueError: not JSON, not a list of images, empty, or of an unknown metric.
    """
    path = Path(path)
    root = path.resolve().parent.parent
    return [_guided_image(path, root, number, row) for number, row in enumerate(read_rows(path, "images", REQUIRED))]


def evaluate_upsampling(
    model: nn.Module,
    images: Sequence[GuidedImage],
    scale: float,
    *,
    name: str = "",
    reduction: Reduction = "bicubic",
    back_projections: int | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run an upsampler over images and average over them, each image with the same weight (the paper's table 2).

    The true map is reduced by the scale and enlarged again by the model. Images whose sides are no multiples of a whole
    scale lose their last rows and columns. Every pixel of the map counts, but for the borders that a protocol leaves
    out.

    Args:
        model: of the family "upsampling".
        scale: ratio of the sizes, above 1.
        name: written as ``"model"``, the class name if empty.
        reduction: filter of the reduction; the published numbers are of "bicubic".
        back_projections: as of :func:`~stereopsis.upsampling.upsample.upsample`; published numbers are without.
        device: where the images go; the model must be there.
        progress: called after each image with the number done, the number of all, and the image's id.

    Returns:
        ``{"model", "scale", "reduction", "back_projections", "images", "mean", "groups", "per_image"}``, ready for
        JSON. A row has ``"id"``, the measures of :func:`upsampling_metrics` of the model, those of bicubic
        interpolation with the prefix ``bicubic_``, ``"ratio"`` of the two RMSE, and ``"seconds"``. ``mean`` and each
        group average over the rows that have the measure, but for ``ratio``, which is that of the averages.

    Raises:
        ValueError: there are no images, the scale is not above 1, or a map and its image differ in size.
    """
    if not images:
        raise ValueError("there are no images to evaluate; name a manifest that lists some.")
    if not scale > 1:
        raise ValueError(f"scale is {scale:g}; it must be above 1, for example 8.")
    rows = []
    for number, guided in enumerate(images, start=1):
        rows.append(_evaluate_image(model, guided, scale, reduction, back_projections, device))
        if progress is not None:
            progress(number, len(images), guided.id)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["id"].split("/")[0], []).append(row)
    return {
        "model": name or type(model).__name__,
        "scale": int(scale) if scale == int(scale) else scale,
        "reduction": reduction,
        "back_projections": back_projections,
        "images": len(rows),
        "mean": _mean(rows),
        "groups": {group: {"images": len(members), **_mean(members)} for group, members in groups.items()},
        "per_image": rows,
    }


def upsampling_metrics(
    prediction: Float[Tensor, "1 1 h w"],
    truth: Float[Tensor, "1 1 h w"],
    known: Bool[Tensor, "1 1 h w"],
) -> dict[str, float]:
    """Errors of a map, in its own unit.

    An edge is where neighbours within 3 x 3 pixels of the truth differ by more than 5 % of the truth's range, and
    everything up to 3 pixels from there.

    Args:
        known: what is measured.

    Returns:
        ``rmse`` and ``mae`` of all pixels; ``edge_rmse`` and ``flat_rmse`` of those near edges and of the others, where
        copied texture shows; ``bad_edge``: percent of those near edges whose error exceeds 5 % of the range. NaN where
        there are no such pixels.

    Raises:
        ValueError: nothing is known, or a value is not finite there.
    """
    if not known.any():
        raise ValueError("the true map has no known pixel; check its file.")
    error = (prediction - truth)[known].double().abs()
    if not error.isfinite().all():
        raise ValueError("the prediction or the true map is not finite where it should be known; mark it as not valid.")
    span = (truth[known].max() - truth[known].min()).item()
    low = torch.where(known, truth, torch.inf)
    high = torch.where(known, truth, -torch.inf)
    step = F.max_pool2d(high, 3, 1, 1) + F.max_pool2d(-low, 3, 1, 1)
    edge = F.max_pool2d((step > EDGE_STEP * span).float(), 2 * EDGE_REACH + 1, 1, EDGE_REACH) > 0
    near = edge[known]
    return {
        "rmse": _rms(error),
        "mae": error.mean().item(),
        "edge_rmse": _rms(error[near]),
        "flat_rmse": _rms(error[~near]),
        "bad_edge": 100 * (error[near] > EDGE_STEP * span).double().mean().item(),
    }


def _rms(error: Tensor) -> float:
    return error.square().mean().sqrt().item()


@torch.inference_mode()
def _evaluate_image(
    model: nn.Module,
    guided: GuidedImage,
    scale: float,
    reduction: Reduction,
    back_projections: int | None,
    device: torch.device | str,
) -> dict[str, Any]:
    image = read_image(guided.image)[None]
    truth = read_truth_map(guided)[None, None]
    if truth.shape[-2:] != image.shape[-2:]:
        raise ValueError(
            f"{guided.depth} is {truth.shape[-1]}x{truth.shape[-2]} but {guided.image} is "
            f"{image.shape[-1]}x{image.shape[-2]}; the map must have the size of its image."
        )
    if scale == int(scale):
        height, width = (side - side % int(scale) for side in truth.shape[-2:])
        image, truth = image[..., :height, :width], truth[..., :height, :width]
    border = BORDERS[guided.metric]
    known = torch.zeros_like(truth, dtype=torch.bool)
    known[..., border : truth.shape[-2] - border, border : truth.shape[-1] - border] = True
    if not known.any():
        raise ValueError(f"{guided.image} is too small for a scale of {scale:g}; leave it out.")
    small = reduce(truth, scale, reduction)
    low = Depth(small, torch.ones_like(small, dtype=torch.bool))
    size = (truth.shape[-2], truth.shape[-1])
    start = time.perf_counter()
    prediction = upsample(model, image.to(device), low.to(device), back_projections)
    prediction = prediction.to("cpu")  # which also waits for a GPU
    seconds = time.perf_counter() - start
    row: dict[str, Any] = {"id": guided.id}
    for prefix, depth in (("", prediction.depth), ("bicubic_", enlarge(low, size).depth)):
        measured = upsampling_metrics(depth, truth, known)
        row |= {prefix + key: value if math.isfinite(value) else None for key, value in measured.items()}
    row["ratio"] = row["rmse"] / row["bicubic_rmse"] if row["bicubic_rmse"] else None
    return row | {"seconds": round(seconds, 4)}


def read_truth_map(image: GuidedImage) -> Float[Tensor, "h w"]:
    """The true map in the unit of its errors; every number of it is known in these data sets, also 0.

    Raises:
        ValueError: a value is not finite.
    """
    path = image.depth
    stored = read_array(path, "depth")[0] if path.suffix.lower() in ARRAY_SUFFIXES else read_grey(path)[0]
    values = torch.from_numpy(stored.astype("float32"))
    if not values.isfinite().all():
        raise ValueError(f"{path} holds values that are not finite; this protocol needs a dense map, so fill it.")
    return values * image.scale_to_unit


def _mean(rows: Iterable[dict[str, Any]]) -> dict[str, float | None]:
    rows = list(rows)
    mean: dict[str, float | None] = {}
    for key in [prefix + metric for prefix in ("", "bicubic_") for metric in METRICS]:
        values = [row[key] for row in rows if row[key] is not None]
        mean[key] = fmean(values) if values else None
    ours, bicubic = mean["rmse"], mean["bicubic_rmse"]
    mean["ratio"] = ours / bicubic if ours is not None and bicubic else None
    return mean


def _guided_image(manifest: Path, root: Path, number: int, row: Any) -> GuidedImage:
    missing = [key for key in REQUIRED if not isinstance(row, dict) or key not in row]
    if missing:
        raise ValueError(
            f"image {number} of {manifest} lacks {', '.join(missing)}; each image needs {', '.join(REQUIRED)}."
        )
    files = {key: root / str(row[key]) for key in ("image", "depth")}
    for key, file in files.items():
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}, the {key} file of {row['id']} in {manifest}, does not exist; paths are relative to {root}."
            )
    if row["metric"] not in BORDERS:
        raise ValueError(
            f"metric of {row['id']} in {manifest} is {row['metric']!r}; it must be {' or '.join(BORDERS)}."
        )
    scale = row.get("scale_to_unit", 1.0)
    if not (isinstance(scale, int | float) and scale > 0):
        raise ValueError(f"scale_to_unit of {row['id']} in {manifest} is {scale!r}; give a number above 0.")
    return GuidedImage(id=str(row["id"]), metric=row["metric"], scale_to_unit=float(scale), **files)
