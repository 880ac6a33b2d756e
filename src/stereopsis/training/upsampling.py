"""Training of guided upsampling: scenes as a sensor gives them under their images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from stereopsis.data.augment import augment, blur
from stereopsis.data.sensors import misalign, sense
from stereopsis.data.textures import TextureBank
from stereopsis.training.recipes import DKNLossConfig, Phase, Recipe
from stereopsis.training.streams import AUGMENT_SEED, SceneStream
from stereopsis.types import Depth
from stereopsis.upsampling.dkn import DKN, STRIDE


@dataclass(frozen=True)
class GuidedBatch:
    """What a step of guided upsampling sees.

    Attributes:
        image: the guide, in [0, 1].
        depth: what a sensor gives, enlarged to the image's size.
        truth: everywhere known.
    """

    image: Float[Tensor, "b 3 h w"]
    depth: Depth
    truth: Float[Tensor, "b 1 h w"]


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
        luck = torch.rand(4, *size, generator=generator).to(device)
        near = scenes.disparity.amax((1, 2, 3), keepdim=True)
        truth = torch.where(
            luck[0] < 0.6, scenes.disparity / near, 0.1 / (scenes.disparity / near + 0.05 + luck[1].square())
        )
        truth = blur(truth, phase.sensor.soft * luck[3].flatten())
        image = misalign(image, phase.sensor.misaligned, generator)
        image = torch.where(luck[2] < phase.sensor.blind, 0.5, image)
        if torch.rand((), generator=generator) < 0.5:
            image, truth = image.transpose(2, 3), truth.transpose(2, 3)
        if torch.rand((), generator=generator) < 0.5:
            image, truth = image.flip(2), truth.flip(2)
        maps = [sense(part, phase.sensor, generator) for part in truth.split(1)]
        depth = Depth(torch.cat([m.depth for m in maps]), torch.cat([m.valid for m in maps]))
        return GuidedBatch(image.contiguous(), depth, truth)


USUAL, LEAST = 0.006, 0.001  # mean error of a bicubic map at x8, and what counts as none, in shares of the range
make_stream = GuidedStream


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
        span = batch.truth.amax((1, 2, 3), keepdim=True) - batch.truth.amin((1, 2, 3), keepdim=True)
        error, start = (
            Depth(((depth.depth - batch.truth) / span)[at], depth.valid[at]) for depth in (found, batch.depth)
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
