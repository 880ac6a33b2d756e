"""Validation: how good a network in training is on data that it is not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from stereopsis.data.manifests import BenchmarkPair, read_manifest, read_truth
from stereopsis.data.textures import TextureBank, make_bank
from stereopsis.evaluation.matching import evaluate_matching
from stereopsis.evaluation.upsampling import GuidedImage, evaluate_upsampling, read_upsampling_manifest
from stereopsis.io import read_image
from stereopsis.training.recipes import Recipe
from stereopsis.visualization import colorize, side_by_side
from stereopsis.zoo.registry import get_entry

HELD_OUT_SEED = 7_000_000_000  # far from the scenes that any recipe trains on
PICTURES = 4


class Validation(Protocol):
    """A measurement of a network."""

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return named values; the lower ``"score"`` is, the better is the network."""
        ...

    def pictures(self, model: nn.Module) -> Iterator[tuple[str, Any]]:
        """Yield names and pictures (h, w, 3), uint8, that show what the network does."""
        ...


class RealPairs:
    """Matching on pairs with ground truth; the score is the geometric mean of EPE in pixels and bad-3 in percent.

    Args:
        pairs: of a manifest; every pair counts alike.
    """

    def __init__(self, pairs: Sequence[BenchmarkPair]) -> None:
        self.pairs = pairs

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the means of the metrics over all pairs and, with the group's name, EPE and bad-3 of each group."""
        with _fastest(model) as device:
            result = evaluate_matching(model, self.pairs, device=device)
        values = {key: value for key, value in result["mean"].items() if value is not None}
        for group, mean in result["groups"].items():
            values |= {f"{group}/{key}": mean[key] for key in ("epe", "bad3") if mean[key] is not None}
        return values | {"score": math.sqrt(values["epe"] * values["bad3"])}

    @torch.inference_mode()
    def pictures(self, model: nn.Module) -> Iterator[tuple[str, Any]]:
        """Yield the left view, the disparity and the ground truth of the first pairs."""
        device = next(model.parameters()).device
        for pair in self.pairs[:: max(len(self.pairs) // PICTURES, 1)][:PICTURES]:
            left, right = (read_image(path)[None].to(device) for path in (pair.left, pair.right))
            truth, known = read_truth(pair)
            top = truth[known].max().item() if known.any() else None
            found = model(left, right).disparity.cpu()
            maps = colorize(found, vmin=0, vmax=top), colorize(truth, known, vmin=0, vmax=top)
            yield pair.id, side_by_side(left.cpu(), *maps)


@contextmanager
def _fastest(model: nn.Module) -> Iterator[torch.device]:
    """Within it the model computes as users will run it; yields its device."""
    device = next(model.parameters()).device
    fastest = getattr(model, "fastest_dtype", None)
    before = getattr(model, "compute_dtype", None)
    if fastest is not None:
        model.compute_dtype = fastest(device)
    try:
        yield device
    finally:
        if fastest is not None:
            model.compute_dtype = before  # type: ignore[assignment]


class RealDepth:
    """Guided upsampling on images with dense depth; the score is the RMSE in the protocol's unit.

    Args:
        images: of a manifest.
        scale: ratio of the sizes.
    """

    def __init__(self, images: Sequence[GuidedImage], scale: float) -> None:
        self.images, self.scale = images, scale

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the means of the metrics over all images."""
        with _fastest(model) as device:
            mean = evaluate_upsampling(model, self.images, self.scale, device=device)["mean"]
        values = {key: float(value) for key, value in mean.items() if value is not None}
        return values | {"score": values["rmse"]}

    def pictures(self, model: nn.Module) -> Iterator[tuple[str, Any]]:
        """Yield nothing."""
        yield from ()


class HeldOut:
    """The recipe's own loss on scenes and photographs that no step of it sees; the score is the loss.

    Args:
        recipe: its last phase gives the size and the kind of the samples.
        batches: how many.
        bank: textures of the scenes, made anew if not given.
    """

    def __init__(self, recipe: Recipe, batches: int = 12, bank: TextureBank | None = None) -> None:
        self.recipe, self.batches, self.bank = recipe, batches, bank
        self._methods = import_module(f"stereopsis.training.{get_entry(recipe.model).family}")
        self._stream: Any = None

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the means of the loss terms and of what the objective watches."""
        device = next(model.parameters()).device
        if self._stream is None:
            self._stream = self._methods.make_stream(_moved(self.recipe), (self.bank or make_bank()).to(device))
            if (photos := getattr(self._stream, "photos", None)) is not None:  # of a codec
                self._stream.photos = photos.held_out()
        objective = self._methods.make_objective(model, self.recipe)
        objective.eval()
        sums: dict[str, float] = {}
        with torch.random.fork_rng():
            for number in range(self.batches):
                torch.manual_seed(HELD_OUT_SEED + number)
                terms, watched = objective(self._stream(2 * number), self.recipe.phases[-1])
                values = {**terms, "score": torch.stack(list(terms.values())).sum(), **watched}
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + float(value) / self.batches
        return sums

    def pictures(self, model: nn.Module) -> Iterator[tuple[str, np.ndarray]]:
        """Yield nothing."""
        yield from ()


def _moved(recipe: Recipe) -> Recipe:
    """The recipe with one phase, the last one, and with the seed of held-out scenes."""
    phase = replace(recipe.phases[-1], steps=10**6)
    return replace(recipe, phases=(phase,), seed=HELD_OUT_SEED)


def make_validation(recipe: Recipe, manifest: Path | None = None, bank: TextureBank | None = None) -> Validation:
    """Return the validation of a recipe.

    Args:
        manifest: pairs with ground truth for matching, or images with depth for upsampling; without one, held-out
            scenes and photographs.
        bank: textures of these scenes, made anew if not given.

    Raises:
        FileNotFoundError: the manifest, or a file that it names, does not exist.
        ValueError: the manifest cannot be read, or the recipe trains a codec, which has no use for one.
    """
    family = get_entry(recipe.model).family
    if manifest is None:
        return HeldOut(recipe, bank=bank)
    if family == "matching":
        return RealPairs(read_manifest(manifest))
    if family == "upsampling":
        sensor = recipe.phases[-1].sensor
        scale = sensor.scales[1] if sensor is not None and sensor.scales[0] == sensor.scales[1] else 8.0
        return RealDepth(read_upsampling_manifest(manifest), scale)
    raise ValueError(f"{recipe.name} trains a codec, which is validated on held-out images; leave {manifest} out.")
