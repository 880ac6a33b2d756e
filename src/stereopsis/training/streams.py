"""Where the batches of a run come from: procedural scenes, pairs with ground truth, or pairs without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from stereopsis.data.augment import augment
from stereopsis.data.scenes import SceneBatch, render
from stereopsis.data.textures import TextureBank
from stereopsis.matching.losses import Truth, fit_slant
from stereopsis.training.recipes import Phase, Recipe

AUGMENT_SEED = 2**32  # keeps the numbers of the camera apart from those of the scene


@dataclass(frozen=True)
class Batch:
    """What a step sees.

    Attributes:
        left, right: images in [0, 1], as cameras with their differences give them.
        truth: of the left view; None where there is none.
    """

    left: Float[Tensor, "b 3 h w"]
    right: Float[Tensor, "b 3 h w"]
    truth: Truth | None = None


class Stream(Protocol):
    """The batch of any step and rank, the same whenever it is asked for: so a run can be resumed anywhere."""

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> Any: ...


class SceneStream:
    """Procedural scenes; one is rendered once and serves two steps, the second time in the mirror."""

    def __init__(self, recipe: Recipe, bank: TextureBank) -> None:
        self.recipe, self.bank = recipe, bank
        self._rendered: SceneBatch | None = None
        self._phase: Phase | None = None

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        scenes, phase = self.scenes(step, rank, ranks), self.recipe.phase_at(step)
        camera = AUGMENT_SEED + self.recipe.seed + step * ranks + rank
        left, right = augment(scenes.left, scenes.right, camera, phase.augment)
        valid = torch.ones_like(scenes.visible)
        return Batch(left, right, Truth(scenes.disparity, valid, scenes.slant, scenes.visible))

    def scenes(self, step: int, rank: int, ranks: int) -> SceneBatch:
        """The step's scenes as they are, before any camera."""
        recipe, phase = self.recipe, self.recipe.phase_at(step)
        seed = recipe.seed + 2 * (step // 2 * ranks + rank)
        if self._rendered is None or self._rendered.seed != seed or self._phase != phase:
            self._rendered, self._phase = render(seed, phase.batch, self.bank, phase.scene), phase
        return self._rendered.mirrored() if step % 2 else self._rendered


class Crops:
    """Crops of a data set's maps, in an order drawn anew each time through, half of them upside down.

    Args:
        recipe: its phases' scenes give the size of the crop.
        items: a data set, or any sequence.
        maps_of: returns the maps of an item that are cropped together, each (c, h, w).

    Raises:
        ValueError: there are no items.
    """

    def __init__(
        self, recipe: Recipe, items: Dataset[Any] | Sequence[Any], maps_of: Callable[[Any], Sequence[Tensor]]
    ) -> None:
        self.recipe, self.items, self.maps_of = recipe, items, maps_of
        if not len(items):  # type: ignore[arg-type]
            raise ValueError("there are no pairs to train on; name a folder that holds some.")

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> list[Tensor]:
        """Return the maps of a step, each (b, c, h, w)."""
        phase = self.recipe.phase_at(step)
        generator = torch.Generator().manual_seed(self.recipe.seed + step * ranks + rank)
        first = (step * ranks + rank) * phase.batch
        samples = [self._crop(self._index(first + k), phase, generator) for k in range(phase.batch)]
        return [torch.stack(part) for part in zip(*samples, strict=True)]

    def _index(self, number: int) -> int:
        count = len(self.items)  # type: ignore[arg-type]
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.recipe.seed + number // count))
        return int(order[number % count])

    def _crop(self, index: int, phase: Phase, generator: torch.Generator) -> list[Tensor]:
        maps = list(self.maps_of(self.items[index]))
        height, width = phase.scene.height, phase.scene.width
        missing = max(height - maps[0].shape[1], 0), max(width - maps[0].shape[2], 0)
        if any(missing):  # below and right, where the network too pads
            maps = [F.pad(values, (0, missing[1], 0, missing[0])) for values in maps]
        y, x = (
            int(torch.randint(size - part + 1, (), generator=generator))
            for size, part in zip(maps[0].shape[1:], (height, width), strict=True)
        )
        maps = [values[:, y : y + height, x : x + width] for values in maps]
        if torch.rand((), generator=generator, dtype=torch.float32) < 0.5:
            maps = [values.flip(1) for values in maps]
        return maps


class PairStream:
    """Crops of a data set's pairs, with ground truth where the set has a disparity.

    What the right view sees is taken from the set's noc mask, or told from the disparities themselves.

    Args:
        recipe: its phases' scenes give the crop.
        pairs: a data set of :mod:`stereopsis.data.datasets`, or anything whose items have left, right and, where
            known, disparity, valid and noc.
        device: where the batches go.

    Raises:
        ValueError: there are no pairs.
    """

    def __init__(self, recipe: Recipe, pairs: Dataset[Any] | Sequence[Any], device: torch.device | str = "cpu") -> None:
        self.recipe, self.device = recipe, device
        self.crops = Crops(recipe, pairs, _maps_of_pair)

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        phase = self.recipe.phase_at(step)
        left, right, disparity, valid, visible = (part.to(self.device) for part in self.crops(step, rank, ranks))
        # columns whose match the crop cut off are not visible any more
        visible = visible & (torch.arange(disparity.shape[-1], device=disparity.device) - disparity >= 0)
        left, right = augment(left, right, AUGMENT_SEED + self.recipe.seed + step * ranks + rank, phase.augment)
        if not valid.any():
            return Batch(left, right)
        slant, known = fit_slant(disparity, valid)
        return Batch(left, right, Truth(disparity, valid, slant, visible, known))


def _maps_of_pair(sample: Any) -> tuple[Tensor, ...]:
    unknown = torch.zeros_like(sample.left[:1])
    disparity = unknown if sample.disparity is None else sample.disparity
    valid = unknown.bool() if sample.valid is None else sample.valid
    visible = visible_by_truth(disparity[None], valid[None])[0] if sample.noc is None else sample.noc
    return sample.left, sample.right, disparity, valid, visible


def visible_by_truth(disparity: Float[Tensor, "b 1 h w"], valid: Bool[Tensor, "b 1 h w"]) -> Bool[Tensor, "b 1 h w"]:
    """Where no known pixel of the same row stands in front, seen from the right; as far as known pixels tell."""
    width = disparity.shape[-1]
    at = (torch.arange(width, device=disparity.device) - disparity).round().long()
    inside = valid & (at >= 0) & (at < width)
    at = at.clamp(0, width - 1)
    front = torch.zeros_like(disparity).scatter_reduce(3, at, torch.where(inside, disparity, 0.0), "amax")
    return inside & (disparity > front.gather(3, at) - 1)
