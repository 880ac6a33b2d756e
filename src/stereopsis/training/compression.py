"""Training of codecs: crops of photos and of scenes, at every rate at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.compression.codec import QUALITIES
from stereopsis.compression.hyperprior import Hyperprior
from stereopsis.compression.losses import lambda_of, rate_distortion_loss
from stereopsis.data.augment import augment
from stereopsis.data.textures import TextureBank, installed_photos
from stereopsis.training.recipes import Phase, Recipe
from stereopsis.training.streams import AUGMENT_SEED, SceneStream

SMALLEST, LARGEST = 0.4, 1.5  # scale that a photo is seen at


@dataclass(frozen=True)
class ImageBatch:
    """What a step of a codec sees.

    Attributes:
        images: in [0, 1].
        quality: wanted of each, 1 to 8.
    """

    images: Float[Tensor, "b 3 h w"]
    quality: Float[Tensor, " b"]


class ImageStream:
    """Crops of the installed photos, and as many left views of scenes, at qualities drawn anew."""

    def __init__(self, recipe: Recipe, bank: TextureBank) -> None:
        self.recipe, self.views = recipe, SceneStream(recipe, bank)
        self.device = bank.texels.device
        self.photos = [
            torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1) for path in installed_photos()
        ]

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> ImageBatch:
        phase = self.recipe.phase_at(step)
        camera = AUGMENT_SEED + self.recipe.seed + step * ranks + rank
        generator = torch.Generator().manual_seed(camera)
        scenes = self.views.scenes(step, rank, ranks)
        left, right = augment(scenes.left, scenes.right, camera, phase.augment)
        images = torch.cat([left, right])
        if self.photos:
            size = phase.scene.height, phase.scene.width
            images = torch.cat([left, torch.stack([self._crop(size, generator) for _ in left])])
        if torch.rand((), generator=generator) < 0.5:
            images = images.flip(2)
        quality = 1 + (QUALITIES - 1) * torch.rand(len(images), generator=generator)
        return ImageBatch(images.contiguous(), quality.to(images))

    def _crop(self, size: tuple[int, int], generator: torch.Generator) -> Float[Tensor, "3 h w"]:
        which, zoom, *place = torch.rand(4, generator=generator).tolist()
        photo = self.photos[int(which * len(self.photos))]
        scale = SMALLEST * (LARGEST / SMALLEST) ** zoom
        height, width = (min(round(side / scale), whole) for side, whole in zip(size, photo.shape[1:], strict=True))
        y, x = (
            int(at * (whole - side + 1))
            for at, whole, side in zip(place, photo.shape[1:], (height, width), strict=True)
        )
        crop = photo[None, :, y : y + height, x : x + width].to(self.device).float() / 255
        return F.interpolate(crop, size=size, mode="bilinear", antialias=True)[0]


make_stream = ImageStream


class HyperpriorObjective(nn.Module):
    """Rate and distortion of the hyperprior codec, each image's in shares of what its quality makes usual."""

    def __init__(self, model: Hyperprior, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        model.compute_dtype = torch.bfloat16 if recipe.bf16 else torch.float32

    def forward(self, batch: ImageBatch, phase: Phase) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The terms, whose sum is the loss, and what is only watched."""
        output = self.model(batch.images, batch.quality)
        result = rate_distortion_loss(output, batch.images, batch.quality)
        # both parts of the loss grow about with this root, and high qualities would drown the others
        share = (lambda_of(4.5) / lambda_of(batch.quality)).sqrt().to(result.loss)
        error = (output.x_hat.detach() - batch.images).square().mean((1, 2, 3))
        pixels = batch.images[0, 0].numel()
        return {"rate": (share * result.bpp).mean(), "distortion": (share * (result.loss - result.bpp)).mean()}, {
            "bpp": result.bpp.mean(),
            "bpp_z": output.bits_z.mean() / pixels,
            "psnr": (-10 * error.log10()).mean(),
        }


def make_objective(model: nn.Module, recipe: Recipe) -> nn.Module:
    """The objective of a codec.

    Raises:
        ValueError: there is none.
    """
    if isinstance(model, Hyperprior):
        return HyperpriorObjective(model, recipe)
    raise ValueError(f"The recipe {recipe.name} trains {recipe.model}, which is no codec that is trained here.")
