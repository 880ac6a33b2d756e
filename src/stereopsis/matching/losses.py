"""Losses: HITNet's (CVPR 2021, section 4) with the slant ground truth they need, AnyNet's, and those without truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from stereopsis.matching.anynet import SCALES, AnyNetEstimate
from stereopsis.matching.hitnet import PLANE, HITNetStages, TileMatch
from stereopsis.ops.tile_match import TILE, matching_cost, subpixel_cost, tile_match
from stereopsis.ops.tile_warp import warp_rows


@dataclass(frozen=True)
class Truth:
    """Ground truth of the left view.

    Attributes:
        disparity: pixels, anything where not valid.
        valid: where the disparity is known.
        slant: dx and dy of the disparity; see :func:`fit_slant`.
        visible: where the right view sees the pixel too; only there has initialisation something to match.
        slant_valid: where the slant is known; None means wherever the disparity is.
    """

    disparity: Float[Tensor, "b 1 h w"]
    valid: Bool[Tensor, "b 1 h w"]
    slant: Float[Tensor, "b 2 h w"]
    visible: Bool[Tensor, "b 1 h w"]
    slant_valid: Bool[Tensor, "b 1 h w"] | None = None


@dataclass(frozen=True)
class HITNetLossConfig:
    """Constants of section 4.

    Attributes:
        margin: beta of Eq. 10.
        initialization_weight: lambda of L_init; 1 in the paper.
        alpha, c: shape and scale of the robust loss; 0.9 and 0.1 on SceneFlow, 0.8 and 0.5 elsewhere.
        truncation: A of Eq. 12; not applied where a scale has one hypothesis.
        slant_threshold: B of Eq. 13.
        near, far: C1 and C2 of Eq. 14.
        sampled_negatives: the paper's hinge looks at one non-match, the hardest. Above 0, a cross-entropy of the
            truth's cost against the hardest and this many random non-matches is added to it (the paper: 0).
        per_scale: the paper expands every tile to full resolution and counts in its pixels. True counts and samples
            each scale l on its own grid instead (thresholds grow by 2^l): a quarter of the work a scale, and coarse
            scales learn from errors beyond one pixel of full resolution, which short trainings need.
    """

    margin: float = 1.0
    initialization_weight: float = 1.0
    alpha: float = 0.9
    c: float = 0.1
    truncation: float = 1.0
    slant_threshold: float = 1.0
    near: float = 1.0
    far: float = 1.5
    sampled_negatives: int = 0
    per_scale: bool = False


def robust_loss(error: Tensor, alpha: float, c: float) -> Tensor:
    """General robust loss of Barron (CVPR 2019, Eq. 1), for alpha other than 0 and 2."""
    steep = abs(alpha - 2)
    return steep / alpha * (((error / c).square() / steep + 1).pow(alpha / 2) - 1)


def fit_slant(
    disparity: Float[Tensor, "b 1 h w"], valid: Bool[Tensor, "b 1 h w"], window: int = 9
) -> tuple[Float[Tensor, "b 2 h w"], Bool[Tensor, "b 1 h w"]]:
    """Slope of the plane that fits the valid disparities of each pixel's window best (least squares; section 4.2).

    Planes that meet in a window stay apart: a first fit sees only disparities near that of the window's middle, where
    that is valid; two more see those within a pixel of the fit before.

    Returns:
        dx and dy, 0 where unknown, and where the window held enough pixels to tell them.
    """
    plane, known = _fit_plane(disparity, valid, window, reference=None)
    for _ in range(2):
        plane, still_known = _fit_plane(disparity, valid, window, reference=plane)
        known = known & still_known
    return torch.where(known, plane[:, 1:], 0.0), known


def _fit_plane(
    disparity: Tensor, valid: Tensor, window: int, reference: Tensor | None
) -> tuple[Float[Tensor, "b 3 h w"], Bool[Tensor, "b 1 h w"]]:
    half = window // 2
    offset = torch.arange(-half, half + 1, device=disparity.device, dtype=disparity.dtype)
    v, u = torch.meshgrid(offset, offset, indexing="ij")
    basis = torch.stack([torch.ones_like(u), u, v])  # 1, x, y
    b, _, h, w = disparity.shape

    patches = F.unfold(torch.where(valid, disparity, 0.0), window, padding=half).view(b, -1, h, w)
    weight = F.unfold(valid.to(disparity.dtype), window, padding=half).view(b, -1, h, w)
    flat = basis.flatten(1)
    if reference is None:
        near = ((patches - disparity).abs() <= 2) | ~valid
    else:
        near = (patches - torch.einsum("bkhw,kn->bnhw", reference, flat)).abs() <= 1
    weight = weight * near.to(weight.dtype)
    normal = torch.einsum("kn,mn,bnhw->bhwkm", flat, flat, weight)
    right = torch.einsum("kn,bnhw,bnhw->bhwk", flat, weight, patches)
    # a window on one line, or with too few pixels, cannot tell a plane
    known = torch.linalg.det(normal) > 1e-3 * window**4
    normal = torch.where(known[..., None, None], normal, torch.eye(3, device=normal.device, dtype=normal.dtype))
    plane = torch.linalg.solve(normal, right) * known[..., None]
    return plane.permute(0, 3, 1, 2), known[:, None]


def initialization_loss(match: TileMatch, truth: Truth, scale: int, config: HITNetLossConfig) -> Tensor:
    """Pulls the cost at the truth to 0 and pushes the hardest non-match beyond the margin (Eq. 9-11).

    The truth of a tile is the largest disparity in it that both views see.
    """
    known = truth.valid & truth.visible
    largest = F.max_pool2d(torch.where(known, truth.disparity, -1.0), TILE * scale)
    d = largest / scale
    column = TILE * torch.arange(d.shape[3], device=d.device)
    mask = (largest > 0) & (d <= match.max_disparity - 1) & (d <= column + 1)
    d = torch.where(mask, d, 0.0)
    non_match = tile_match(match.left.detach(), match.right.detach(), match.max_disparity, exclude=d)
    at_truth = subpixel_cost(match.left, match.right, d)
    at_non_match = matching_cost(match.left, match.right, non_match)
    # on coarse scales the band around the truth may leave no candidate
    at_non_match = at_non_match.masked_fill((non_match - d).abs() <= 1.5, math.inf)
    loss = at_truth + (config.margin - at_non_match).clamp(min=0)
    if config.sampled_negatives:
        costs = [at_truth, at_non_match]
        reach = (column + 2).clamp(max=match.max_disparity).to(d.dtype)
        for _ in range(config.sampled_negatives):
            random = (torch.rand_like(d) * reach).floor()
            cost = matching_cost(match.left, match.right, random)
            costs.append(cost.masked_fill((random - d).abs() <= 1.5, math.inf))
        loss = (
            loss
            + F.cross_entropy(-torch.cat(costs, 1), torch.zeros_like(d[:, 0], dtype=torch.long), reduction="none")[
                :, None
            ]
        )
    return _mean(loss, mask)


def _mean(value: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, value, 0.0).sum() / mask.sum().clamp(min=1)


def _sample(truth: Truth, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Disparity, slant and the mask of each at the pixel right of and below the middle of each step x step block."""
    middle = slice(step // 2, None, step)
    valid = truth.valid[..., middle, middle]
    slanted = valid if truth.slant_valid is None else valid & truth.slant_valid[..., middle, middle]
    # NaN or inf may stand where nothing is known, and no later mask stops their gradients
    return (
        torch.where(valid, truth.disparity[..., middle, middle], 0.0),
        torch.where(slanted, truth.slant[..., middle, middle], 0.0),
        valid,
        slanted,
    )


def _at_samples(plane: Tensor, tile: int, scale: int, step: int) -> tuple[Tensor, Tensor]:
    """Full-resolution disparity and slant of the sampled pixels of tiles whose d counts pixels of ``scale``."""
    offset = torch.arange(step // 2, tile, step, device=plane.device, dtype=plane.dtype) - (tile - 1) / 2
    b, _, h, w = plane.shape
    n = len(offset)
    d, dx, dy = plane[:, :, :, None, :, None].unbind(1)
    disparity = (scale * d + offset * dx + offset[:, None, None] * dy).reshape(b, 1, h * n, w * n)
    slant = plane[:, 1:].repeat_interleave(n, 2).repeat_interleave(n, 3)
    return disparity, slant


def hitnet_loss(
    stages: HITNetStages, truth: Truth, config: HITNetLossConfig, winner: Literal["highest", "lowest"] = "highest"
) -> dict[str, Tensor]:
    """The weighted terms of section 4: means over pixels, summed over scales and hypotheses; the loss is their sum.

    Args:
        winner: ``"lowest"`` for networks whose tile of the lowest w survives, as in the authors' graphs: w then goes to
            0 where a hypothesis is right and to 1 where it is wrong.

    Returns:
        ``initialization``, ``propagation``, ``slant`` and ``confidence``, scalars.
    """
    scales = len(stages.initial)
    terms: dict[str, list[Tensor]] = {"initialization": [], "propagation": [], "slant": [], "confidence": []}

    def geometry(hypothesis: Tensor, w: Tensor | None, tile: int, scale: int, truncation: float) -> None:
        step = scale if config.per_scale else 1
        unit = step  # of the thresholds, in pixels of full resolution
        d_truth, slant_truth, valid, slanted = _sample(truth, step)
        d, slant = _at_samples(hypothesis[:, :PLANE], tile, scale, step)
        error = (d_truth - d).abs() / unit
        loss = robust_loss(error.clamp(max=truncation), config.alpha, config.c)
        terms["propagation"].append(_mean(loss, valid))
        close = slanted & (error.detach() < config.slant_threshold)
        terms["slant"].append(_mean((slant_truth - slant).abs().sum(1, keepdim=True), close))
        if w is not None:
            n = d.shape[2] // w.shape[2]
            w = w.repeat_interleave(n, 2).repeat_interleave(n, 3)
            w = w if winner == "highest" else 1 - w
            right = torch.where(error.detach() < config.near, (1 - w).clamp(min=0), 0.0)
            wrong = torch.where(error.detach() > config.far, w.clamp(min=0), 0.0)
            terms["confidence"].append(_mean(right + wrong, valid))

    for index, (match, updated) in enumerate(zip(stages.matches, stages.propagated, strict=True)):
        scale = 2 ** (scales - 1 - index)
        terms["initialization"].append(initialization_loss(match, truth, scale, config))
        for hypothesis, w in updated:
            truncation = config.truncation if len(updated) > 1 else math.inf
            geometry(hypothesis, w, TILE * scale, scale, truncation)
    for tile, hypothesis in zip((4, 2, 1), stages.refined, strict=True):
        geometry(hypothesis, None, tile, 1, math.inf)
    totals = {name: torch.stack(values).sum() for name, values in terms.items()}
    totals["initialization"] = config.initialization_weight * totals["initialization"]
    return totals


@dataclass(frozen=True)
class AnyNetLossConfig:
    """Constants of AnyNet's training.

    Attributes:
        stage_weights: of the four stages (the authors' code).
        classification: weight of a cross-entropy of each stage's distribution against the two candidates around the
            truth, which keeps distributions of one peak and gives gradients where the regression's are flat (0 in the
            paper).
    """

    stage_weights: tuple[float, ...] = (0.25, 0.5, 1.0, 1.0)
    classification: float = 0.0


def anynet_loss(
    estimates: Sequence[AnyNetEstimate], truth: Truth, max_disparity: int, config: AnyNetLossConfig
) -> dict[str, Tensor]:
    """Smooth L1 of every stage at full size (section III, E), where the truth lies in the range that is searched.

    Returns:
        ``regression`` and ``classification``, scalars, weighted; the loss is their sum.
    """
    mask = truth.valid & (truth.disparity < max_disparity)
    target = torch.where(mask, truth.disparity, 0.0)
    regression = [
        weight * _mean(F.smooth_l1_loss(estimate.disparity, target, reduction="none"), mask)
        for weight, estimate in zip(config.stage_weights, estimates, strict=True)
    ]
    terms = {"regression": torch.stack(regression).sum()}
    if config.classification:
        start = torch.zeros_like(target)
        entropies = []
        for stage, (scale, estimate) in enumerate(zip(SCALES, estimates, strict=False)):
            p = estimate.distribution
            at = (..., slice(scale // 2, None, scale), slice(scale // 2, None, scale))
            # the volume of a later stage is centred on the map before it, as that is at the cells' middles
            here = F.interpolate(start, size=p.shape[-2:], mode="bilinear", align_corners=False)
            first = 0 if stage == 0 else (p.shape[1] - 1) // 2
            index = (target[at] - here) / scale + first
            reached = mask[at] & (index >= 0) & (index <= p.shape[1] - 1)
            candidates = torch.arange(p.shape[1], device=p.device, dtype=p.dtype).view(1, -1, 1, 1)
            share = (1 - (candidates - index).abs()).clamp(min=0)
            entropy = -(share * p.clamp(min=1e-6).log()).sum(1, keepdim=True)
            entropies.append(config.stage_weights[stage] * _mean(entropy, reached))
            start = estimate.disparity.detach()
        terms["classification"] = config.classification * torch.stack(entropies).sum()
    return terms


def view_loss(
    left: Float[Tensor, "b c h w"],
    right: Float[Tensor, "b c h w"],
    disparity: Float[Tensor, "b 1 h w"],
    disparity_right: Float[Tensor, "b 1 h w"],
) -> dict[str, Tensor]:
    """Losses without ground truth (Godard et al., CVPR 2017): each view from the other, and the two maps agree.

    Counted where the maps agree within a pixel and 5 %, because the other view does not show the rest.

    Args:
        left, right: images in [0, 1].
        disparity, disparity_right: of each view, both positive.

    Returns:
        ``photometric`` (0.85 structural dissimilarity and 0.15 L1), ``smoothness`` (away from image edges) and
        ``consistency``, scalars, weighted 1, 0.1 and 0.1.
    """
    column = torch.arange(left.shape[-1], device=left.device, dtype=disparity.dtype)
    photometric, smoothness, consistency = [], [], []
    for own, other, d, d_other, sign in (
        (left, right, disparity, disparity_right, -1),
        (right, left, disparity_right, disparity, 1),
    ):
        at = column + sign * d
        difference = (warp_rows(d_other.detach(), at.detach()) - d).abs()
        inside = (at.detach() >= 0) & (at.detach() <= len(column) - 1)
        agrees = inside & (difference.detach() < 1 + 0.05 * d.detach().abs())
        made = warp_rows(other, at)
        error = 0.15 * (made - own).abs().mean(1, keepdim=True) + 0.85 * _dissimilarity(made, own)
        photometric.append(_mean(error, agrees))
        consistency.append(_mean(difference, agrees))
        for axis in (2, 3):
            texture = own.diff(dim=axis).abs().mean(1, keepdim=True)
            smoothness.append((d.diff(dim=axis).abs() * (-10 * texture).exp()).mean())
    return {
        "photometric": torch.stack(photometric).mean(),
        "smoothness": 0.1 * torch.stack(smoothness).mean(),
        "consistency": 0.1 * torch.stack(consistency).mean(),
    }


def _dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """(1 - SSIM) / 2 over 3 x 3 windows, mean of the channels; 0 where equal, at most 1."""

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(values, (1, 1, 1, 1), mode="replicate"), 3, 1)

    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a * a) - mean_a.square(), mean(b * b) - mean_b.square()
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    ssim = ssim / ((mean_a.square() + mean_b.square() + c1) * (variance_a + variance_b + c2))
    return ((1 - ssim) / 2).clamp(0, 1).mean(1, keepdim=True)
