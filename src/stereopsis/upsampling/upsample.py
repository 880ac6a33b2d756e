"""Depth at the size of its image, from a smaller map: enlarging, running a model, and correcting its result."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.geometry.resample import Reduction, enlarge, fill_smooth, resize
from stereopsis.types import Depth

# ratios of the sizes: a noisy map of more than the first is enlarged in steps of at most the second
LARGE, STEP = 8, 4
NOISE = 0.0125  # standard deviation from which on a map is noisy, in shares of its range
# what a map may have been reduced with that nobody told; "every" moves it, which no residual betrays
_UNKNOWN: tuple[Reduction, ...] = ("bicubic", "bilinear", "area", "cubic", "nearest")


def unpack(
    image: Float[Tensor, "b c h w"], depth: Depth | Float[Tensor, "b t h w"], valid: Bool[Tensor, "b 1|t h w"] | None
) -> tuple[Float[Tensor, "b t h w"], Bool[Tensor, "b t h w"]]:
    """What a model is called with, as values in float32 and a mask of their shape.

    Args:
        image: 1 or 3 channels.
        depth: of the image's size.
        valid: where a bare tensor may be used; by default where it is finite and positive.

    Raises:
        ValueError: sizes or numbers of channels that do not fit.
    """
    values = depth.depth if isinstance(depth, Depth) else depth
    if isinstance(depth, Depth) and valid is None:
        valid = depth.valid
    if image.ndim != 4 or values.ndim != 4 or image[:, 0].shape != values[:, 0].shape:
        raise ValueError(
            f"the image is {tuple(image.shape)} and the map is {tuple(values.shape)}; both must have one batch and one "
            "size, so enlarge the map first (stereopsis.geometry.resample.enlarge)."
        )
    if image.shape[1] not in (1, 3):
        raise ValueError(f"the image has {image.shape[1]} channels; it must have 1 or 3.")
    finite = values.isfinite()
    if valid is None:
        return values.float(), finite & (values > 0)
    if valid.shape not in (values.shape, values[:, :1].shape):
        raise ValueError(f"the map is {tuple(values.shape)} and valid is {tuple(valid.shape)}; give one mask for it.")
    return values.float(), (valid & finite).expand_as(values)


def back_project(result: Depth, depth: Depth, reduction: Reduction | None = None) -> Depth:
    """A large map with what it differs by from the small one, once reduced, added back.

    Pulls an upsampled map towards what the sensor measured (Irani, Peleg, CVGIP 1991); holes pull nothing.

    Args:
        result: the large map.
        depth: the small one.
        reduction: how the small map came from the large one. Where it is not known, that is taken which leaves the
            least to add, and it is added in full, in part or not at all: what the best guess leaves beside the small
            map's own steps is noise, or a filter unlike all of these.
    """
    added, share = _correction(result, depth, reduction)
    return Depth(torch.where(result.valid, result.depth + share * added, 0.0), result.valid)


def _correction(result: Depth, depth: Depth, reduction: Reduction | None) -> tuple[Tensor, Float[Tensor, "b c 1 1"]]:
    """What is to be added, and the share of it that can be trusted."""
    size, small = ((m.depth.shape[-2], m.depth.shape[-1]) for m in (result, depth))
    dense = fill_smooth(result.depth, result.valid)

    def missing(how: Reduction) -> Tensor:
        return torch.where(depth.valid, depth.depth - resize(dense, small, how), 0.0)

    if reduction is not None:
        added = missing(reduction)
        share = torch.ones_like(added[..., :1, :1])
    else:
        guesses = {how: missing(how) for how in _UNKNOWN}
        added = min(guesses.values(), key=lambda guess: guess.square().sum().item())
        share = _trust(added, depth, size[1] / small[1])
    added = F.interpolate(added, size=size, mode="bicubic", antialias=True)
    if reduction == "every":  # its pixels lie at their top left corners
        by = [round((large / little - 1) / 2) for large, little in zip(size, small, strict=True)]
        added = F.pad(added[..., by[0] :, by[1] :], (0, by[1], 0, by[0]), "replicate")
    return added, share


def _noise(result: Depth, depth: Depth) -> float:
    """Standard deviation of what the large map lost of the small one, in shares of its range.

    By the median, which feels noise and not the edges, where filters differ.
    """
    small = (depth.depth.shape[-2], depth.depth.shape[-1])
    missing = (depth.depth - resize(fill_smooth(result.depth, result.valid), small, "area"))[depth.valid]
    low, high = np.quantile(depth.depth[depth.valid].cpu().numpy(), (0.02, 0.98))
    return missing.abs().median().item() / 0.6745 / max(float(high - low), 1e-12)


def _trust(missing: Tensor, depth: Depth, scale: float) -> Float[Tensor, "b c 1 1"]:
    """1 where what is missing of a small map is small beside its steps, 0 where it is twice as large or more.

    The bound was found on four Middlebury images: clean maps stay below it whatever their filter, noise of 2 % and
    displaced maps lie above.
    """
    steps, count = torch.zeros_like(missing[..., :1, :1]), torch.zeros_like(missing[..., :1, :1])
    for axis in (-2, -1):
        length = depth.depth.shape[axis] - 1
        both = depth.valid.narrow(axis, 1, length) & depth.valid.narrow(axis, 0, length)
        steps += torch.where(both, depth.depth.diff(dim=axis), 0.0).square().sum((-2, -1), keepdim=True)
        count += both.sum((-2, -1), keepdim=True)
    error = missing.square().sum((-2, -1), keepdim=True) / depth.valid.sum((-2, -1), keepdim=True).clamp(min=1)
    relative = (error / (steps / count.clamp(min=1)).clamp(min=1e-12)).sqrt()
    return (2 - relative / (0.2 + 1 / scale**2)).clamp(0, 1)


def upsample(
    model: nn.Module,
    image: Float[Tensor, "b c H W"],
    depth: Depth,
    back_projections: int | None = None,
    reduction: Reduction | None = None,
) -> Depth:
    """Depth at the size of the image, from a map of its size or a smaller one of any ratio.

    Args:
        model: of the family "upsampling"; its attribute ``enlargement`` ("bicubic" where it has none) says how it wants
            the map enlarged.
        image: in [0, 1].
        depth: registered to the image.
        back_projections: how often the result is pulled towards what was measured (:func:`back_project`), where the map
            is smaller than the image. If not given, never by models of one ratio. Those of any ratio pull once. Noisy
            maps of less than an eighth of the image they enlarge in steps under the reduced image and do not pull,
            which averages over more small pixels.
        reduction: how the map was made small, where that is known.

    Raises:
        ValueError: the map is larger than the image, of another aspect, or has no valid pixel, or the number of
            back-projections is negative.
    """
    if back_projections is not None and back_projections < 0:
        raise ValueError(f"back_projections is {back_projections}; it must not be negative.")
    height, width = depth.depth.shape[-2:]
    size = (image.shape[-2], image.shape[-1])
    sizes = f"the depth map is {width}x{height} and the image is {size[1]}x{size[0]}"
    if height > size[0] or width > size[1]:
        raise ValueError(f"{sizes}; the map must not be larger than the image, so reduce it or give a larger image.")
    # a pixel of rounding in either side of the small map is what reducing leaves
    if abs(width * size[0] - height * size[1]) > max(size):
        raise ValueError(f"{sizes}, another shape; crop one to what the other shows, or register the depth first.")
    if not depth.valid.any():
        raise ValueError("the depth map has no valid pixel; check its file, its unit and its mask.")
    if (height, width) == size:
        return model(image, depth)
    automatic = back_projections is None and getattr(model, "any_ratio", False)
    if automatic and size[1] > LARGE * width:
        steps = math.ceil(math.log(size[1] / width, STEP) - 1e-6)
        shares = [step / steps for step in range(1, steps)]
        sides = [
            [round(small * (large / small) ** t) for t in shares]
            for small, large in zip((height, width), size, strict=True)
        ]
        parts = [resize(image, (rows, columns), "bilinear") for rows, columns in zip(*sides, strict=True)]
        # a small step averages noise away, and so tells whether there is some
        first = _enlarged(model, parts[0], depth)
        if _noise(first, depth) > NOISE:
            for part in [*parts[1:], image]:
                first = _enlarged(model, part, first)
            return first
    result = _enlarged(model, image, depth)
    for _ in range(1 if automatic else back_projections or 0):
        result = back_project(result, depth, reduction)
    return result


def only_positive(depth: Depth) -> Depth:
    """The map without values of 0 and below, which a correction can give beside a hole or a border."""
    positive = depth.valid & (depth.depth > 0)
    return Depth(torch.where(positive, depth.depth, 0.0), positive, depth.confidence)


def _enlarged(model: nn.Module, image: Tensor, depth: Depth) -> Depth:
    size = (image.shape[-2], image.shape[-1])
    found: Depth = model(image, enlarge(depth, size, getattr(model, "enlargement", "bicubic")))
    return found
