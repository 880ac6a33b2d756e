"""Training of guided upsampling: scenes as a sensor gives them under their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from stereopsis.data.augment import augment, blur
from stereopsis.data.sensors import misalign, sense
from stereopsis.data.textures import TextureBank
from stereopsis.geometry.resample import fill_smooth
from stereopsis.training.recipes import DKNLossConfig, Phase, Recipe
from stereopsis.training.streams import AUGMENT_SEED, Crops, SceneStream
from stereopsis.types import Depth
from stereopsis.upsampling.dkn import DKN, STRIDE


@dataclass(frozen=True)
class GuidedBatch:
    """What a step of guided upsampling sees.

    Attributes:
        image: the guide, in [0, 1].
        depth: what a sensor gives, enlarged to the image's size.
        truth: the map that is to be restored.
        known: where the truth is known; None for everywhere.
    """

    image: Float[Tensor, "b 3 h w"]
    depth: Depth
    truth: Float[Tensor, "b 1 h w"]
    known: Bool[Tensor, "b 1 h w"] | None = None


class GuidedStream:
    """Guides and maps for upsampling: the left views of :class:`SceneStream`, half of the batches turned on their side.

    A map is d or 1 / (d + c) of the disparity d, with c drawn anew, so that both disparity and depth are learned.
    """

    def __init__(self, recipe: Recipe, bank: TextureBank) -> None:
        self.recipe, self.views = recipe, SceneStream(recipe, bank)

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> GuidedBatch:
        scenes, phase = self.views.scenes(step, rank, ranks), self.recipe.phase_at(step)
        if phase.sensor is None:
            raise ValueError(f"a phase of the recipe {self.recipe.name} states no sensor, which upsampling needs.")
        camera = AUGMENT_SEED + self.recipe.seed + step * ranks + rank
        generator = torch.Generator().manual_seed(camera)
        # the two arguments of a camera differ in exposure and noise only, so that one half of a batch may be either
        half = (len(scenes.left) + 1) // 2
        first, second = augment(scenes.left[:half], scenes.left[-half:], camera, phase.augment)
        image = torch.cat([first[: len(scenes.left) - half], second])
        device, size = image.device, (len(image), 1, 1, 1)
        luck = torch.rand(4, *size, generator=generator, dtype=torch.float32).to(device)
        near = scenes.disparity.amax((1, 2, 3), keepdim=True)
        truth = torch.where(
            luck[0] < 0.6, scenes.disparity / near, 0.1 / (scenes.disparity / near + 0.05 + luck[1].square())
        )
        truth = blur(truth, phase.sensor.soft * luck[3].flatten())
        image = misalign(image, phase.sensor.misaligned, generator)
        image = torch.where(luck[2] < phase.sensor.blind, 0.5, image)
        if torch.rand((), generator=generator, dtype=torch.float32) < 0.5:
            image, truth = image.transpose(2, 3), truth.transpose(2, 3)
        if torch.rand((), generator=generator, dtype=torch.float32) < 0.5:
            image, truth = image.flip(2), truth.flip(2)
        maps = [sense(part, phase.sensor, generator) for part in truth.split(1)]
        depth = Depth(torch.cat([m.depth for m in maps]), torch.cat([m.valid for m in maps]))
        return GuidedBatch(image.contiguous(), depth, truth)


class RealGuidedStream:
    """Crops of images with depth, reduced as the phase's sensor does it.

    Args:
        recipe: its phases' scenes give the crop.
        images: a data set whose items have image and depth, or left and disparity, and valid.
        device: where the batches go.

    Raises:
        ValueError: there are no images, or one has no depth.
    """

    def __init__(self, recipe: Recipe, images: Dataset[Any] | Sequence[Any], device: torch.device | str) -> None:
        self.recipe, self.device = recipe, device
        self.crops = Crops(recipe, images, _maps_of_image)

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> GuidedBatch:
        phase = self.recipe.phase_at(step)
        if phase.sensor is None:
            raise ValueError(f"a phase of the recipe {self.recipe.name} states no sensor, which upsampling needs.")
        generator = torch.Generator().manual_seed(AUGMENT_SEED + self.recipe.seed + step * ranks + rank)
        image, truth, known = (part.to(self.device) for part in self.crops(step, rank, ranks))
        # the small map of a sensor has no holes where the truth has them; the loss does not count what fills them
        truth = fill_smooth(truth, known)
        maps = [sense(part, phase.sensor, generator) for part in truth.split(1)]
        depth = Depth(torch.cat([m.depth for m in maps]), torch.cat([m.valid for m in maps]))
        return GuidedBatch(image.contiguous(), depth, truth, known)


def _maps_of_image(sample: Any) -> tuple[Tensor, Tensor, Tensor]:
    image = sample.image if hasattr(sample, "image") else sample.left
    values = sample.depth if hasattr(sample, "depth") else sample.disparity
    if values is None or not sample.valid.any():
        raise ValueError(f"{getattr(sample, 'id', 'an image')} has no known depth; leave it out of the data set.")
    return image, values, sample.valid


USUAL, LEAST = 0.006, 0.001  # mean error of a bicubic map at x8, and what counts as none, in shares of the range
make_stream = GuidedStream
make_pair_stream = RealGuidedStream


class DKNObjective(nn.Module):
    """L1 to the true map, in shares of its range (section 3.3), and the square, because RMSE is what is compared."""

    def __init__(self, model: DKN, recipe: Recipe) -> None:
        super().__init__()
        if not isinstance(recipe.loss, DKNLossConfig):
            raise ValueError(f"The recipe {recipe.name} states {type(recipe.loss).__name__}, but needs DKNLossConfig.")
        self.model, self.loss = model, recipe.loss
        model.compute_dtype = torch.bfloat16 if recipe.bf16 else torch.float32

    def forward(self, batch: GuidedBatch, phase: Phase) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted terms, whose sum is the loss, and what is only watched: RMSE on [0, 255], and bicubic's."""
        found = self.model(batch.image, batch.depth, sparse=True)
        step = 1 if self.model.config.fast else STRIDE
        at = (..., slice(None, None, step), slice(None, None, step))
        known = torch.ones_like(found.valid) if batch.known is None else batch.known
        top = batch.truth.amax((1, 2, 3), keepdim=True)
        # a crop of one wall has next to no range, and no error may count in shares of nothing
        span = torch.maximum(top - batch.truth.amin((1, 2, 3), keepdim=True), 0.05 * top)
        error, start = (
            Depth(((depth.depth - batch.truth) / span)[at], (depth.valid & known)[at]) for depth in (found, batch.depth)
        )
        usual = _mean(start.depth.detach().abs(), start.valid)
        share = USUAL / (usual + LEAST) if self.loss.relative else torch.ones_like(usual)
        rmse, bicubic = (255 * _mean(part.depth.detach().square(), part.valid).mean().sqrt() for part in (error, start))
        terms = {
            "l1": (share * _mean(error.depth.abs(), error.valid)).mean(),
            "square": self.loss.square * (share * _mean(error.depth.square(), error.valid)).mean(),
        }
        return terms, {"rmse": rmse, "bicubic": bicubic}


def _mean(values: Float[Tensor, "b 1 h w"], valid: Bool[Tensor, "b 1 h w"]) -> Float[Tensor, " b"]:
    return (values * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3)).clamp(min=1)


def make_objective(model: nn.Module, recipe: Recipe) -> nn.Module:
    """The objective of a network.

    Raises:
        ValueError: there is none.
    """
    if isinstance(model, DKN):
        return DKNObjective(model, recipe)
    raise ValueError(f"The recipe {recipe.name} trains {recipe.model}, which is not a DKN.")
