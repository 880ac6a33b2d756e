"""Training of codecs: crops of photos and of scenes, or pairs of them, at every rate at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from stereopsis.compression.dsic import DSIC
from stereopsis.compression.ffca import FFCA, ffca_loss
from stereopsis.compression.losses import RateDistortion, lambda_of, rate_distortion_loss
from stereopsis.compression.single import HyperpriorCodec, Reconstruction
from stereopsis.data.augment import augment
from stereopsis.data.photos import Photo, read_photos
from stereopsis.data.textures import TextureBank, installed_photos, make_bank
from stereopsis.training.features import FeatureDifference
from stereopsis.training.recipes import CodecLossConfig, Phase, Recipe
from stereopsis.training.streams import AUGMENT_SEED, Crops, SceneStream
from stereopsis.zoo.registry import get_entry

SMALLEST, LARGEST = 0.4, 1.5  # scale that a photo is seen at
TRANSFORMS = ("g_a", "g_s", "g_a1", "g_s1", "g_a2", "g_s2")
BEGIN_WITH = 16  # batches
# Crops of photos for each scene, and the share of images without colour, of the codecs of one view.
SHARES = {"hyperprior": (1, 0.0), "hyperprior2": (3, 0.125)}


@dataclass(frozen=True)
class ImageBatch:
    """What a step of a codec sees.

    Attributes:
        images: in [0, 1].
        quality: wanted of each, 1 to 8.
    """

    images: Float[Tensor, "b 3 h w"]
    quality: Float[Tensor, " b"]


@dataclass(frozen=True)
class PairBatch:
    """What a step of a codec for pairs sees.

    Attributes:
        left, right: in [0, 1].
        quality: wanted of each pair, 1 to 8.
    """

    left: Float[Tensor, "b 3 h w"]
    right: Float[Tensor, "b 3 h w"]
    quality: Float[Tensor, " b"]


class ImageStream:
    """Left views of scenes and crops of the installed photos, at qualities drawn anew.

    Args:
        shares: crops of photos for each scene, and the share of images that lose their colour.
    """

    def __init__(self, recipe: Recipe, bank: TextureBank, shares: tuple[int, float] = (1, 0.0)) -> None:
        self.recipe, self.views, self.photos = recipe, SceneStream(recipe, bank), Photos(bank.texels.device)
        self.per_scene, self.grey = shares

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> ImageBatch:
        phase = self.recipe.phase_at(step)
        camera = AUGMENT_SEED + self.recipe.seed + step * ranks + rank
        generator = torch.Generator().manual_seed(camera)
        scenes = self.views.scenes(step, rank, ranks)
        left, right = augment(scenes.left, scenes.right, camera, phase.augment)
        images = torch.cat([left, right])
        if self.photos:
            size = phase.scene.height, phase.scene.width
            crops = [self.photos.crop(size, generator) for _ in range(self.per_scene * len(left))]
            images = torch.cat([left, torch.stack(crops)])
        if torch.rand((), generator=generator, dtype=torch.float32) < 0.5:
            images = images.flip(2)
        if self.grey:
            without = torch.rand(len(images), 1, 1, 1, generator=generator, dtype=torch.float32) < self.grey
            images = torch.where(without.to(images.device), images.mean(1, keepdim=True), images)
        return ImageBatch(images.contiguous(), draw_quality(self.recipe, len(images), generator).to(images))


class PairViewStream:
    """Pairs of scenes, every second of which has a photo laid over its disparities in place of its own surfaces."""

    def __init__(self, recipe: Recipe, bank: TextureBank) -> None:
        self.recipe, self.views, self.photos = recipe, SceneStream(recipe, bank), Photos(bank.texels.device)

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> PairBatch:
        phase = self.recipe.phase_at(step)
        camera = AUGMENT_SEED + self.recipe.seed + step * ranks + rank
        generator = torch.Generator().manual_seed(camera)
        scenes = self.views.scenes(step, rank, ranks)
        left, right = augment(scenes.left, scenes.right, camera, phase.augment)
        if self.photos:
            size = phase.scene.height, phase.scene.width
            for number in range(1, len(left), 2):
                at = slice(number, number + 1)
                left[at] = photo = self.photos.crop(size, generator)[None]
                # of the same colours, as what lies behind things often is
                behind = photo.flip(-1)
                right[at] = seen_from_right(photo, behind, scenes.disparity_right[at], scenes.visible_right[at])
        if torch.rand((), generator=generator, dtype=torch.float32) < 0.5:
            left, right = left.flip(2), right.flip(2)
        quality = draw_quality(self.recipe, len(left), generator).to(left)
        return PairBatch(left.contiguous(), right.contiguous(), quality)


class RealViewStream:
    """Crops of stereo pairs, or of single views of them for a single-image codec, at qualities drawn anew.

    Args:
        recipe: its phases' scenes give the crop.
        pairs: a data set whose items have left and right.
        device: where the batches go.

    Raises:
        ValueError: there are no pairs.
    """

    def __init__(self, recipe: Recipe, pairs: Dataset[Any] | Sequence[Any], device: torch.device | str) -> None:
        self.recipe, self.device = recipe, device
        self.single = get_entry(recipe.model).architecture not in ("dsic", "ffca")
        self.crops = Crops(recipe, pairs, lambda sample: (sample.left, sample.right))

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> ImageBatch | PairBatch:
        left, right = (view.to(self.device).contiguous() for view in self.crops(step, rank, ranks))
        generator = torch.Generator().manual_seed(AUGMENT_SEED + self.recipe.seed + step * ranks + rank)
        quality = draw_quality(self.recipe, len(left), generator).to(left)
        if self.single:
            return ImageBatch(
                left if torch.rand((), generator=generator, dtype=torch.float32) < 0.5 else right, quality
            )
        return PairBatch(left, right, quality)


make_pair_stream = RealViewStream


def draw_quality(recipe: Recipe, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
    """Qualities between the recipe's."""
    least, most = loss_of(recipe).qualities
    return least + (most - least) * torch.rand(count, generator=generator, dtype=torch.float32)


def loss_of(recipe: Recipe) -> CodecLossConfig:
    """The recipe's loss.

    Raises:
        ValueError: it is another family's.
    """
    if not isinstance(recipe.loss, CodecLossConfig):
        raise ValueError(f"The recipe {recipe.name} states {type(recipe.loss).__name__}, but needs CodecLossConfig.")
    return recipe.loss


def features_of(recipe: Recipe) -> FeatureDifference | None:
    """What a recipe compares beside pictures; None where its matching weight is 0."""
    return FeatureDifference(bf16=recipe.bf16) if loss_of(recipe).matching_weight else None


def seen_from_right(
    left: Float[Tensor, "b 3 h w"],
    behind: Float[Tensor, "b 3 h w"],
    disparity: Float[Tensor, "b 1 h w"],
    visible: Bool[Tensor, "b 1 h w"],
) -> Float[Tensor, "b 3 h w"]:
    """The right view of an image that lies on given disparities.

    Args:
        left: the image.
        behind: shows where the left view does not see what the right one does.
        disparity, visible: of the right view.
    """
    h, w = left.shape[-2:]
    columns = torch.arange(w, device=left.device) + disparity[:, 0]
    rows = torch.arange(h, device=left.device).view(1, h, 1).expand_as(columns)
    grid = torch.stack([2 * columns / (w - 1) - 1, 2 * rows / (h - 1) - 1], -1)
    warped = F.grid_sample(left, grid, padding_mode="border", align_corners=True)
    return torch.where(visible & (columns[:, None] <= w - 1), warped, behind)


class Photos:
    """Crops of the installed photos and of the photo bank, at several scales; false if there are none.

    With a bank, a photo is drawn in proportion to the square root of its area. The bank's photos stay on disk, mapped
    into memory.

    Args:
        device: of the crops.
        held_out: only the bank's photos for validation.
    """

    def __init__(self, device: torch.device, held_out: bool = False) -> None:
        self.device = device
        gathered = read_photos(split="validation" if held_out else "train")
        self.images = [] if held_out else self._installed()
        self.images += [self._mapped(photo) for photo in gathered]
        areas = torch.tensor([image[0].numel() for image in self.images], dtype=torch.float64)
        self._shares = areas.sqrt().cumsum(0) / areas.sqrt().sum() if gathered else None

    @staticmethod
    def _installed() -> list[Tensor]:
        return [
            torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1) for path in installed_photos()
        ]

    @staticmethod
    def _mapped(photo: Photo) -> Tensor:
        return torch.from_numpy(photo.pixels()).permute(2, 0, 1)

    def held_out(self) -> Photos:
        """Return the bank's photos for validation, or these photos if there are none."""
        return Photos(self.device, held_out=True) or self

    def __len__(self) -> int:
        return len(self.images)

    def crop(self, size: tuple[int, int], generator: torch.Generator) -> Float[Tensor, "3 h w"]:
        """One of them, in [0, 1]."""
        which, zoom, *place = torch.rand(4, generator=generator, dtype=torch.float32).tolist()
        number = int(which * len(self)) if self._shares is None else int((self._shares <= which).sum())
        photo = self.images[min(number, len(self) - 1)]
        scale = SMALLEST * (LARGEST / SMALLEST) ** zoom
        height, width = (min(round(side / scale), whole) for side, whole in zip(size, photo.shape[1:], strict=True))
        y, x = (
            int(at * (whole - side + 1))
            for at, whole, side in zip(place, photo.shape[1:], (height, width), strict=True)
        )
        crop = photo[None, :, y : y + height, x : x + width].to(self.device).float() / 255
        return F.interpolate(crop, size=size, mode="bilinear", antialias=True)[0]


def make_stream(recipe: Recipe, bank: TextureBank) -> ImageStream | PairViewStream:
    """The batches that a codec is trained on."""
    shares = SHARES.get(get_entry(recipe.model).architecture)
    return PairViewStream(recipe, bank) if shares is None else ImageStream(recipe, bank, shares)


class HyperpriorObjective(nn.Module):
    """Rate and distortion of a codec of one view."""

    def __init__(self, model: HyperpriorCodec, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.loss, self.features = model, loss_of(recipe), features_of(recipe)
        model.compute_dtype = torch.bfloat16 if recipe.bf16 else torch.float32

    def forward(self, batch: ImageBatch, phase: Phase) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The terms, whose sum is the loss, and what is only watched."""
        output = self.model(batch.images, batch.quality)
        return rate_and_distortion(output, batch.images, batch.quality, self.loss, features=self.features)


class DSICObjective(nn.Module):
    """Rate and distortion of both views (Eq. 15); of each alone only watched."""

    def __init__(self, model: DSIC, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.loss, self.features = model, loss_of(recipe), features_of(recipe)
        model.compute_dtype = torch.bfloat16 if recipe.bf16 else torch.float32

    def forward(self, batch: PairBatch, phase: Phase) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The terms, whose sum is the loss, and what is only watched."""
        output = self.model(batch.left, batch.right, batch.quality)
        views = torch.cat([batch.left, batch.right])
        terms, watched = rate_and_distortion(output, views, batch.quality.repeat(2), self.loss, features=self.features)
        first, second = output.bits.detach().chunk(2)
        return terms, watched | {"second_view": second.sum() / first.sum()}


class FFCAObjective(nn.Module):
    """Rate of the main view and distortion with the other view at the decoder (Eq. 9); either view is the main one."""

    def __init__(self, model: FFCA, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.loss, self.features = model, loss_of(recipe), features_of(recipe)
        model.compute_dtype = torch.bfloat16 if recipe.bf16 else torch.float32

    def forward(self, batch: PairBatch, phase: Phase) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The terms, whose sum is the loss, and what is only watched."""
        main, side, side_is = batch.left, batch.right, "right"
        if torch.rand((), dtype=torch.float32) < 0.5:
            main, side, side_is = side, main, "left"
        output = self.model(main, side, batch.quality, side_is)
        measure = partial(ffca_loss, base=self.loss.base)
        terms, watched = rate_and_distortion(output, main, batch.quality, self.loss, measure, self.features)
        if self.features is not None:  # a pair's other view is shown by the base alone
            without = self.loss.matching_weight * self.features(output.base, main).mean()
            terms["matching"] = torch.lerp(terms["matching"], without, self.loss.base)
        error = (output.base.detach() - main).square().mean((1, 2, 3))
        return terms, watched | {"psnr_without_side": (-10 * error.log10()).mean()}


def rate_and_distortion(
    output: Reconstruction,
    images: Float[Tensor, "b 3 h w"],
    quality: Float[Tensor, " b"],
    loss: CodecLossConfig,
    measure: Callable[..., RateDistortion] = rate_distortion_loss,
    features: FeatureDifference | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The terms, each image's in shares of what its quality makes usual, and what is only watched."""
    result = measure(output, images, quality, loss.metric, luma=loss.luma)
    # both parts of the loss grow about with this root, and high qualities would drown the others
    share = (lambda_of(4.5) / lambda_of(quality)).sqrt().to(result.loss)
    error = (output.x_hat.detach() - images).square().mean((1, 2, 3))
    rate = share * result.bpp
    if result.bpp.mean() < loss.target_bpp:
        rate = share.detach() * loss.target_bpp
    terms = {"rate": rate.mean(), "distortion": (share * (result.loss - result.bpp)).mean()}
    if features is not None:
        # an amplitude, which falls with the root of lambda: it needs no share to weigh as much at every quality
        terms["matching"] = loss.matching_weight * features(output.x_hat, images).mean()
    return terms, {
        "bpp": result.bpp.mean(),
        "bpp_z": output.bits_z.mean() / images[0, 0].numel(),
        "psnr": (-10 * error.log10()).mean(),
    }


def make_optimizers(recipe: Recipe, model: nn.Module) -> list[torch.optim.Optimizer]:
    """AdamW, with a rate for the transforms and one for what predicts their symbols.

    The transforms begin near an optimum, where the rate that the others need would throw them off.
    """
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        parts[any(part in TRANSFORMS for part in name.split("."))].append(parameter)
    rates = {True: recipe.learning_rate, False: recipe.vector_learning_rate}
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    decay = recipe.weight_decay  # one pass over the weights in place of ten
    return [kind(parts[key], lr=rates[key], weight_decay=decay, fused=True) for key in (True, False)]


def begin(model: nn.Module, recipe: Recipe) -> None:
    """Before the first step of a run that starts from nothing: transforms that suit its images."""
    if isinstance(model, HyperpriorCodec):
        stream = ImageStream(recipe, make_bank(), SHARES[get_entry(recipe.model).architecture])
        images = torch.cat([stream(step).images for step in range(min(BEGIN_WITH, recipe.steps))])
        model.start_from_images(images, loss_of(recipe).luma)


def make_objective(model: nn.Module, recipe: Recipe) -> nn.Module:
    """The objective of a codec.

    Raises:
        ValueError: there is none.
    """
    if isinstance(model, HyperpriorCodec):
        return HyperpriorObjective(model, recipe)
    if isinstance(model, DSIC):
        return DSICObjective(model, recipe)
    if isinstance(model, FFCA):
        return FFCAObjective(model, recipe)
    raise ValueError(f"The recipe {recipe.name} trains {recipe.model}, which is no codec that is trained here.")
