"""Other uses of DKN: joint denoising, restoration across modalities, removal of texture, saliency maps.

Kim, Ponce, Ham (https://arxiv.org/abs/1903.11286), sections 3.2 and 4.1 of the supplement. Denoising of depth is the
proxy task: its weights, trained without the residual so that they add to 1, also serve photos and textures; saliency
maps are enlarged with weights for depth. Any model of the family "upsampling" fits, filters without learning included.

Our own deviations: a texture is removed under the guidance of the last result, where the paper leaves open whether the
first image stays the guide; denoising may be repeated too.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stereopsis.types import Depth
from stereopsis.upsampling.dkn import DKN
from stereopsis.upsampling.upsample import upsample


def denoise(model: nn.Module, image: Float[Tensor, "b c h w"], depth: Depth, iterations: int = 1) -> Depth:
    """A noisy depth map averaged along the structures of its image (4.1.1).

    Args:
        model: trained for noise, ``stereopsis.load("fdkn.denoise")``.
        image: in [0, 1]; 1 or 3 channels.
        depth: registered to the image and of its size, in any unit; noise may have made values negative.
        iterations: 2 for strong noise, which a single average over a few samples cannot take away.

    Returns:
        The map in its unit; holes with a sample in reach are filled.

    Raises:
        ValueError: sizes or numbers of channels that do not fit, or there is no iteration.
    """
    _check(iterations)
    for _ in range(iterations):
        depth = model(image, depth)
    return depth


def restore(
    model: nn.Module, guide: Float[Tensor, "b c h w"], image: Float[Tensor, "b t h w"]
) -> Float[Tensor, "b t h w"]:
    """A noisy image averaged along the structures of a clean one of another kind: flash, near infrared (4.1.2).

    Args:
        model: trained for noise, ``stereopsis.load("fdkn.denoise")``.
        guide: in [0, 1]; 1 or 3 channels, one is tripled.
        image: registered to the guide, in [0, 1] but for its noise; its channels are filtered one by one.

    Returns:
        The image in [0, 1].

    Raises:
        ValueError: sizes or numbers of channels that do not fit.
    """
    everywhere = torch.ones_like(image, dtype=torch.bool)
    # the range of an image is known, and does not depend on what a crop of it holds
    limits = {"limits": (0.0, 1.0)} if isinstance(model, DKN) else {}
    result: Depth = model(guide, image, everywhere, **limits)
    return result.depth.clamp(0, 1)


def remove_texture(model: nn.Module, image: Float[Tensor, "b c h w"], iterations: int = 4) -> Float[Tensor, "b c h w"]:
    """An image without its fine texture: it guides its own restoration, again and again (4.1.2).

    Args:
        model: trained for noise, ``stereopsis.load("fdkn.denoise")``.
        image: in [0, 1]; 1 or 3 channels.
        iterations: the paper uses 4.

    Raises:
        ValueError: the number of channels does not fit, or there is no iteration.
    """
    _check(iterations)
    for _ in range(iterations):
        image = restore(model, image, image)
    return image


def upsample_saliency(
    model: nn.Module, image: Float[Tensor, "b c H W"], saliency: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 1 H W"]:
    """A saliency map, or any map of scores, at the size of its image (3.2); a score of 0 is a value like any other.

    Args:
        model: trained for depth of this ratio, for example ``stereopsis.load("fdkn_x8.scenes")``.
        image: in [0, 1]; 1 or 3 channels.
        saliency: in [0, 1], of the image's size or a smaller one of any ratio.

    Returns:
        The map in [0, 1].

    Raises:
        ValueError: scores that are not in [0, 1], a map larger than the image or of another shape.
    """
    if not ((saliency >= 0) & (saliency <= 1)).all():
        raise ValueError("the saliency map holds values outside [0, 1] or NaN; rescale it first.")
    everywhere = torch.ones_like(saliency, dtype=torch.bool)
    return upsample(model, image, Depth(saliency, everywhere)).depth.clamp(0, 1)


def _check(iterations: int) -> None:
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; it must be at least 1.")
