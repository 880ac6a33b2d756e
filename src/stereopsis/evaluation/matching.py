"""Protocols: a model over a list of pairs with ground truth, and the mean of what it reaches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from stereopsis.data.manifests import BenchmarkPair, read_masks, read_truth
from stereopsis.evaluation.metrics import disparity_metrics
from stereopsis.evaluation.protocols import Protocol, measure, summarise
from stereopsis.geometry.holes import fill_from_background
from stereopsis.io import read_image
from stereopsis.pipeline.match import match_both
from stereopsis.types import Disparity

METRICS = ("epe", "bad1", "bad2", "bad3", "d1", "density")

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Outcome:
    """One pair, matched and measured; what a report shows.

    Attributes:
        pair: where it came from.
        left, right: images in [0, 1].
        truth: disparity in pixels, 0 where not known.
        known: where the truth is known.
        noc: what both views see, where the manifest says it.
        prediction: as it was measured, with holes filled if that was asked for.
        row: its entry of ``per_pair``.
    """

    pair: BenchmarkPair
    left: Float[Tensor, "1 3 h w"]
    right: Float[Tensor, "1 3 h w"]
    truth: Float[Tensor, "1 1 h w"]
    known: Bool[Tensor, "1 1 h w"]
    noc: Bool[Tensor, "1 1 h w"] | None
    prediction: Disparity
    row: dict[str, Any]


def evaluate_matching(
    model: nn.Module,
    pairs: Sequence[BenchmarkPair],
    *,
    name: str = "",
    max_disparity: int | None = None,
    check: float | None = None,
    fill: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    protocol: Protocol | None = None,
    observe: Callable[[Outcome], object] | None = None,
) -> dict[str, Any]:
    """Run a matcher over pairs and average over them, each pair with the same weight.

    Args:
        model: ``model(left, right[, max_disparity=...]) -> Disparity``.
        name: written as ``"model"``, the class name if empty.
        max_disparity: passed on to the model where given, in pixels.
        check: match the right view too, as :func:`~stereopsis.pipeline.match.match_both` does with this threshold
            in pixels; with ``fill`` what it does not see is filled, without it is not counted.
        fill: fill holes first (:func:`~stereopsis.geometry.fill_from_background`), for comparison with dense methods.
        device: where the images go; the model must be there.
        progress: called after each pair with the number done, the number of all, and the pair's id.
        protocol: also measure as a public table does.
        observe: called after each pair with its maps, for example to draw them; on the CPU.

    Returns:
        ``{"model", "pairs", "mean", "groups", "per_pair"}``, ready for JSON: ``mean`` and each group hold
        :func:`~stereopsis.evaluation.metrics.disparity_metrics` averaged over pairs (groups with ``"pairs"``, their
        number); a row of ``per_pair`` has ``"id"``, the metrics and ``"seconds"``. A metric is None for a pair without
        a valid prediction, and such a pair is left out of that mean. With a protocol, each row of ``per_pair`` has
        ``"protocol"``, as :func:`~stereopsis.evaluation.protocols.measure` returns it, and the whole has
        ``"protocol"``: its name, title, source, note and rules, what
        :func:`~stereopsis.evaluation.protocols.summarise` returns, and that for each group.

    Raises:
        ValueError: there are no pairs, or a truth or mask and its image differ in size.
    """
    if not pairs:
        raise ValueError("there are no pairs to evaluate; name a manifest that lists some.")
    rows = []
    for number, pair in enumerate(pairs, start=1):
        outcome = _evaluate_pair(model, pair, max_disparity, check, fill, device, protocol)
        rows.append(outcome.row)
        if observe is not None:
            observe(outcome)
        if progress is not None:
            progress(number, len(pairs), pair.id)
    groups: dict[str, list[dict[str, Any]]] = {}
    for pair, row in zip(pairs, rows, strict=True):
        groups.setdefault(pair.group, []).append(row)
    result: dict[str, Any] = {
        "model": name or type(model).__name__,
        "pairs": len(pairs),
        "mean": _mean(rows),
        "groups": {group: {"pairs": len(members), **_mean(members)} for group, members in groups.items()},
        "per_pair": rows,
    }
    if protocol is not None:
        result["protocol"] = {
            **{key: getattr(protocol, key) for key in ("name", "title", "source", "note", "gaps", "average")},
            **summarise(protocol, [row["protocol"] for row in rows]),
            "groups": {
                group: summarise(protocol, [row["protocol"] for row in members]) for group, members in groups.items()
            },
        }
    return result


@torch.inference_mode()
def _evaluate_pair(
    model: nn.Module,
    pair: BenchmarkPair,
    max_disparity: int | None,
    check: float | None,
    fill: bool,
    device: torch.device | str,
    protocol: Protocol | None,
) -> Outcome:
    left, right = (read_image(path)[None].to(device) for path in (pair.left, pair.right))
    truth, known = read_truth(pair)
    noc, foreground = read_masks(pair)
    for what, file, values in (
        ("truth", pair.disparity, truth),
        ("noc mask", pair.noc, noc),
        ("object map", pair.objects, foreground),
    ):
        if values is not None and values.shape[-2:] != left.shape[-2:]:
            raise ValueError(
                f"{file} is {values.shape[-1]}x{values.shape[-2]} but {pair.left} is "
                f"{left.shape[-1]}x{left.shape[-2]}; the {what} must have the size of the left image."
            )
    limit: dict[str, Any] = {} if max_disparity is None else {"max_disparity": max_disparity}
    start = time.perf_counter()
    if check is None:
        prediction = model(left, right, **limit)
    else:
        prediction = match_both(model, left, right, check, fill=fill, **limit)
    prediction = prediction.to("cpu")  # the copy also waits for a GPU
    seconds = time.perf_counter() - start
    if fill and check is None:
        prediction = fill_from_background(prediction)
    metrics = disparity_metrics(prediction.disparity, truth, known, prediction.valid)
    finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
    row: dict[str, Any] = {"id": pair.id, **finite, "seconds": round(seconds, 4)}
    if protocol is not None:
        row["protocol"] = measure(protocol, prediction, truth, known, noc, foreground)
    return Outcome(pair, left.cpu(), right.cpu(), truth, known, noc, prediction, row)


def _mean(rows: Iterable[dict[str, Any]]) -> dict[str, float | None]:
    rows = list(rows)
    mean: dict[str, float | None] = {}
    for key in METRICS:
        values = [row[key] for row in rows if row[key] is not None]
        mean[key] = fmean(values) if values else None
    return mean
