"""Soft argmin over candidates: the disparity regression of Kendall et al. (ICCV 2017) and AnyNet, section III, B."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from stereopsis.ops import native


def soft_argmin(costs: Float[Tensor, "b k h w"]) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b 1 h w"]]:
    """Probabilities of the candidates, softmax of the negative costs, and the mean index under them.

    The kernel in C is for inference: it has no gradients.
    """
    if not native.usable(costs) or native.needs_gradient(costs):
        return soft_argmin_reference(costs)
    b, k, h, w = costs.shape
    costs = costs.contiguous()
    distribution, mean = native.empty(b, k, h, w), native.empty(b, 1, h, w)
    native.run("soft_argmin", [costs, distribution, mean], (k, h, w), b * h)
    return distribution, mean


def soft_argmin_reference(
    costs: Float[Tensor, "b k h w"],
) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b 1 h w"]]:
    """:func:`soft_argmin` in plain torch."""
    distribution = torch.softmax(-costs, dim=1)
    indices = torch.arange(costs.shape[1], device=costs.device, dtype=costs.dtype)
    return distribution, (distribution * indices.view(1, -1, 1, 1)).sum(1, keepdim=True)


def mass_near_mean(distribution: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 1 h w"]:
    """Probability within one candidate of the mean index, fading to nothing at two; without gradients."""
    distribution = distribution.detach()
    if not native.usable(distribution):
        return mass_near_mean_reference(distribution)
    b, k, h, w = distribution.shape
    near = native.empty(b, 1, h, w)
    native.run("mass_near_mean", [distribution.contiguous(), near], (k, h, w), b * h)
    return near


def mass_near_mean_reference(distribution: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 1 h w"]:
    """:func:`mass_near_mean` in plain torch."""
    indices = torch.arange(distribution.shape[1], device=distribution.device, dtype=distribution.dtype).view(
        1, -1, 1, 1
    )
    mean = (distribution * indices).sum(1, keepdim=True)
    share = (2 - (indices - mean).abs()).clamp(0, 1)
    return (distribution * share).sum(1, keepdim=True)
