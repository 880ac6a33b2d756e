"""How many bits depth needs: codecs code a pair, matchers match what comes back, and the disparity is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stereopsis.compression.codec import PairCodec
from stereopsis.data.manifests import BenchmarkPair, read_truth
from stereopsis.evaluation.codecs import ANCHORS, Coder, Views, codec_coder
from stereopsis.evaluation.compression import LOSSLESS_PSNR
from stereopsis.evaluation.matching import Progress
from stereopsis.evaluation.metrics import disparity_metrics
from stereopsis.geometry.holes import fill_from_background
from stereopsis.io import read_image
from stereopsis.ops.images import to_bytes
from stereopsis.types import Disparity
from stereopsis.zoo.registry import list_models, load

MEASURES = ("epe", "bad2", "d1")
# Depth needs more bits than eyes do, so that these reach further than the same codecs as anchors of a BD-rate.
SETTINGS = {
    "jpeg": (10.0, 20.0, 35.0, 50.0, 70.0, 85.0, 95.0),
    "webp": (5.0, 20.0, 35.0, 50.0, 70.0, 85.0, 95.0),
    "avif": (10.0, 20.0, 35.0, 50.0, 70.0, 85.0),
    "hevc-stereo": (42.0, 37.0, 32.0, 27.0, 22.0, 17.0),
}
RISE = 1.0  # percentage points of bad-2 that a summary allows
DIGITS = 4  # behind the point
CHANGED = (0.05, 0.05)  # of an error, absolute and relative, is more than another kernel's float noise makes

Curve = list[tuple[float, float]]


def open_coder(word: str, qualities: Sequence[float], device: torch.device | str = "cpu") -> Coder:
    """A codec of :data:`~stereopsis.evaluation.codecs.ANCHORS` at :data:`SETTINGS`, or a model at some qualities.

    Args:
        word: a name, or ``NAME=FILE`` for a model with the weights of a file.
        qualities: of a model, 1 to 8.

    Raises:
        ValueError: no codec has this name; or as :func:`~stereopsis.zoo.load`.
        FileNotFoundError: the weights do not exist.
        ImportError: what the codec needs is not installed.
    """
    if word in ANCHORS:
        anchor = ANCHORS[word]()
        return replace(anchor, settings=SETTINGS.get(word, anchor.settings))
    name, _, weights = word.partition("=")
    codecs = list_models(family="compression")
    if name not in codecs:
        raise ValueError(f"there is no codec {name!r}; choose from {', '.join([*ANCHORS, *codecs])}.")
    codec = load(name, weights=weights or None, device=device)
    assert isinstance(codec, PairCodec)
    return codec_coder(codec, qualities)


def evaluate_depth_rate(
    coders: Sequence[Coder],
    pairs: Sequence[BenchmarkPair],
    matchers: Mapping[str, nn.Module],
    *,
    known: dict[str, Any] | None = None,
    max_disparity: int | None = None,
    device: torch.device | str = "cpu",
    save: Callable[[dict[str, Any]], object] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Code every pair at every setting, match what is decoded, and compare with the truth and with the uncoded pair.

    Holes are filled (:func:`~stereopsis.geometry.fill_from_background`), so that every matcher answers for every pixel.

    Args:
        coders: codecs at their settings; they code both views, and the bits are those of the whole file.
        pairs: with ground truth.
        matchers: models by name.
        known: what an earlier call returned, to go on with: a pair that a codec has there is not measured again.
        max_disparity: passed on to the matchers where given, in pixels.
        device: where the matchers are.
        save: called with the result so far after each pair that was measured.
        progress: called after each pair with the number done, the number of all, and the pair's id.

    Returns:
        ``{"matchers", "max_disparity", "uncoded", "codecs"}``, ready for JSON. ``uncoded`` has for each pair and
        matcher ``"epe"`` (pixels), ``"bad2"``, ``"d1"`` (percent) and ``"density"`` (fraction that has a value) against
        the truth. Each of ``codecs`` has ``"chroma"``, ``"unit"``, ``"settings"`` and ``"pairs"``: for each pair a list
        of points with the setting, ``"bytes"``, ``"bpp"`` (all bits of the file by the pixels of both views),
        ``"psnr"`` (dB), the seconds of coding, and in ``"disparity"`` for each matcher the same measures against the
        ``"truth"``, and without density against the disparity of the ``"original"`` pair. What cannot be measured is
        None.

    Raises:
        ValueError: there are no pairs, codecs or matchers; views or truth differ in size; or what is known was measured
            with other matchers (or other weights of them), limits or settings.
    """
    if not (pairs and coders and matchers):
        raise ValueError("there is nothing to evaluate; name pairs, codecs and matchers.")
    result = known or {"matchers": list(matchers), "max_disparity": max_disparity, "uncoded": {}, "codecs": {}}
    for key, wanted in (("matchers", list(matchers)), ("max_disparity", max_disparity)):
        _check_same(key, result.get(key), wanted)
    for coder in coders:
        facts = {"chroma": coder.chroma, "unit": coder.unit, "settings": list(coder.settings)}
        entry = result["codecs"].setdefault(coder.name, {**facts, "pairs": {}})
        for key, value in facts.items():
            _check_same(f"{key} of {coder.name}", entry[key], value)

    def matched(views: Views) -> dict[str, Disparity]:
        images = [torch.from_numpy(np.array(v)).permute(2, 0, 1)[None].float().to(device) / 255 for v in views]
        options = {} if max_disparity is None else {"max_disparity": max_disparity}
        return {name: fill_from_background(model(*images, **options).to("cpu")) for name, model in matchers.items()}

    for number, pair in enumerate(pairs, start=1):
        missing = [coder for coder in coders if pair.id not in result["codecs"][coder.name]["pairs"]]
        if missing:
            _measure(pair, missing, matched, result)
            if save is not None:
                save(result)
        if progress is not None:
            progress(number, len(pairs), pair.id)
    return result


def common_pairs(result: dict[str, Any]) -> list[str]:
    """The pairs that all codecs have, in the order of the first."""
    measured = [codec["pairs"] for codec in result["codecs"].values()]
    return [i for i in measured[0] if all(i in pairs for pairs in measured)] if measured else []


def mean_curve(
    result: dict[str, Any], codec: str, ids: Sequence[str], matcher: str, measure: str, reference: str = "truth"
) -> Curve:
    """Bits a pixel and a measure of each setting, averaged over pairs, from few bits to many.

    Args:
        ids: of pairs that the codec has.
        measure: ``epe``, ``bad2`` or ``d1``.
        reference: ``truth``, or ``original`` for the disparity of the uncoded pair.
    """
    together = zip(*(result["codecs"][codec]["pairs"][i] for i in ids), strict=True)
    return sorted(
        (fmean(p["bpp"] for p in row), _mean([p["disparity"][matcher][reference][measure] for p in row]))
        for row in together
    )


def uncoded_error(result: dict[str, Any], ids: Sequence[str], matcher: str, measure: str) -> float:
    """A measure of the uncoded pairs against the truth, averaged over them."""
    return _mean([result["uncoded"][i][matcher][measure] for i in ids])


def needed_rates(
    result: dict[str, Any], ids: Sequence[str], measure: str = "bad2", rise: float = RISE
) -> dict[str, dict[str, dict[str, Any]]]:
    """For each matcher and codec the bits a pixel below which the error has risen by more than is allowed.

    Args:
        ids: of pairs that all codecs have; curves are averaged over them.
        measure: ``epe``, ``bad2`` or ``d1``, against the truth.
        rise: in its unit, above that of the uncoded pairs.

    Returns:
        Of each ``{"bpp", "bound"}`` as of :func:`needed_rate`.
    """
    return {
        matcher: {
            codec: needed_rate(
                mean_curve(result, codec, ids, matcher, measure), uncoded_error(result, ids, matcher, measure) + rise
            )
            for codec in result["codecs"]
        }
        for matcher in result["matchers"]
    }


def needed_rate(curve: Curve, limit: float) -> dict[str, Any]:
    """Where a curve, followed from many bits to few, first exceeds a limit; linear in the logarithm of the rate.

    Args:
        curve: bits a pixel and error, at one setting or more.
        limit: of the error.

    Returns:
        ``{"bpp", "bound"}``: the rate and ``"="``; or the lowest rate and ``"<="`` where nothing exceeds the limit; or
        the highest and ``">"`` where that does already.
    """
    (above, inside), *rest = sorted(curve, reverse=True)
    if not inside <= limit:
        return {"bpp": above, "bound": ">"}
    for rate, error in rest:
        if not error <= limit:
            share = (limit - inside) / (error - inside)
            return {"bpp": above * (rate / above) ** share, "bound": "="}
        above, inside = rate, error
    return {"bpp": above, "bound": "<="}


def rate_text(rate: dict[str, Any]) -> str:
    """What :func:`needed_rate` found, as tables show it."""
    return {"=": "", "<=": "≤ ", ">": "> "}[rate["bound"]] + f"{rate['bpp']:.3f}"


@torch.inference_mode()
def _measure(
    pair: BenchmarkPair,
    coders: Sequence[Coder],
    matched: Callable[[Views], dict[str, Disparity]],
    result: dict[str, Any],
) -> None:
    """Add a pair to the result, all of a codec's points at once."""
    images = [read_image(path) for path in (pair.left, pair.right)]
    truth, known = read_truth(pair)
    if not images[0].shape[-2:] == images[1].shape[-2:] == truth.shape[-2:]:
        raise ValueError(f"the views and the truth of {pair.id} differ in size; give files that belong together.")
    views = [np.ascontiguousarray(to_bytes(image)) for image in images]
    original = matched(views)
    uncoded = {name: _errors(found, truth, known) for name, found in original.items()}
    _check_unchanged(pair.id, result["uncoded"].get(pair.id, uncoded), uncoded)
    result["uncoded"][pair.id] = uncoded
    for coder in coders:
        points = []
        for setting in coder.settings:
            coded = coder.code(views, setting)
            disparity = {}
            for name, found in matched(coded.views).items():
                change = _errors(found, original[name].disparity, original[name].valid)
                disparity[name] = {
                    "truth": _errors(found, truth, known),
                    "original": {key: change[key] for key in MEASURES},
                }
            points.append(
                {
                    coder.unit: setting,
                    "bytes": coded.size,
                    "bpp": round(8 * coded.size / (2 * truth.numel()), DIGITS),
                    "psnr": round(_psnr(views, coded.views), DIGITS),
                    "encode_seconds": round(coded.encode_seconds, DIGITS),
                    "decode_seconds": round(coded.decode_seconds, DIGITS),
                    "disparity": disparity,
                }
            )
        result["codecs"][coder.name]["pairs"][pair.id] = points


def _errors(found: Disparity, truth: Tensor, known: Tensor) -> dict[str, float | None]:
    if not known.any():
        return dict.fromkeys((*MEASURES, "density"))
    metrics = disparity_metrics(found.disparity, truth, known, found.valid)
    values = {key: metrics[key] for key in (*MEASURES, "density")}
    return {key: round(value, DIGITS) if math.isfinite(value) else None for key, value in values.items()}


def _psnr(originals: Views, decoded: Views) -> float:
    """Of both views' RGB together, in dB."""
    errors = [float(np.square(a.astype(np.float64) - b).mean()) for a, b in zip(originals, decoded, strict=True)]
    error = fmean(errors)
    return min(10 * math.log10(255**2 / error), LOSSLESS_PSNR) if error else LOSSLESS_PSNR


def _mean(values: Sequence[float | None]) -> float:
    """Of what is known; NaN where nothing is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else math.nan


def _check_unchanged(pair: str, known: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Codecs are compared by one matcher, so it must not have been trained on meanwhile."""
    for name, errors in found.items():
        for key in MEASURES:
            old, new = known[name][key], errors[key]
            if None not in (old, new) and abs(new - old) > CHANGED[0] + CHANGED[1] * old:
                raise ValueError(
                    f"{name} has changed since other codecs were measured ({key} of {pair} was {old:g} and is {new:g} "
                    "without coding); start anew in another file."
                )


def _check_same(what: str, known: Any, wanted: Any) -> None:
    if known != wanted:
        raise ValueError(f"the {what} were {known} before and are {wanted} now; start anew in another file.")
