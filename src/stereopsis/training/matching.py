"""Training of matching: a network with its losses around it, as a module, on the streams of pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.matching.anynet import AnyNet
from stereopsis.matching.hitnet import HITNet
from stereopsis.matching.losses import AnyNetLossConfig, HITNetLossConfig, anynet_loss, hitnet_loss, view_loss
from stereopsis.training.recipes import Phase, Recipe
from stereopsis.training.streams import Batch, PairStream, SceneStream

Terms = dict[str, Tensor]

make_stream = SceneStream
make_pair_stream = PairStream


class HITNetObjective(nn.Module):
    """The losses of HITNet's paper (section 4) where there is a truth; of the views alone otherwise."""

    def __init__(self, model: HITNet, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe

    def forward(self, batch: Batch, phase: Phase) -> tuple[Terms, Terms]:
        """The weighted terms, whose sum is the loss, and what is only watched."""
        left, right = (2 * self.model.as_input(view) - 1 for view in (batch.left, batch.right))
        with torch.autocast(left.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            stages = self.model.stages(left, right, phase.max_disparity)
            if batch.truth is None:
                mirror = self.model.stages(right.flip(-1), left.flip(-1), phase.max_disparity)
        found = stages.refined[-1][:, :1]
        if batch.truth is None:
            return view_loss(
                batch.left,
                batch.right,
                found,
                mirror.refined[-1][:, :1].flip(-1),
            ), {"disparity": found.detach().mean()}
        truth = batch.truth
        terms = hitnet_loss(stages, truth, _constants(self.recipe, HITNetLossConfig), self.model.config.winner)
        error = (found.detach() - truth.disparity).abs()[truth.valid]
        tiles = F.max_pool2d(torch.where(truth.visible & truth.valid, truth.disparity, -1.0), 4)
        matched = (stages.initial[-1][:, :1] - tiles).abs()[tiles > 0]
        return terms, {
            "epe": error.mean(),
            "bad3": 100 * (error > 3).float().mean(),
            "matched": 100 * (matched <= 1).float().mean(),
        }


class AnyNetObjective(nn.Module):
    """The losses of AnyNet's paper (section III, E) over all stages."""

    def __init__(self, model: AnyNet, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        model.compute_dtype = torch.bfloat16 if recipe.bf16 else torch.float32

    def forward(self, batch: Batch, phase: Phase) -> tuple[Terms, Terms]:
        """The weighted terms, whose sum is the loss, and what is only watched."""
        truth = batch.truth
        if truth is None:
            raise ValueError("AnyNet is trained with ground truth; these pairs have none.")
        estimates = list(self.model.estimates(batch.left, batch.right, phase.max_disparity))
        terms = anynet_loss(estimates, truth, phase.max_disparity, _constants(self.recipe, AnyNetLossConfig))
        watched = {}
        for number, estimate in enumerate(estimates, 1):
            error = (estimate.disparity.detach() - truth.disparity).abs()[truth.valid]
            watched[f"epe{number}"] = error.mean()
        watched["epe"] = watched.pop(f"epe{len(estimates)}")
        watched["bad3"] = 100 * (error > 3).float().mean()
        return terms, watched


def _constants(recipe: Recipe, kind: type[Any]) -> Any:
    if not isinstance(recipe.loss, kind):
        raise ValueError(f"The recipe {recipe.name} states {type(recipe.loss).__name__}, but needs {kind.__name__}.")
    return recipe.loss


def make_objective(model: nn.Module, recipe: Recipe) -> nn.Module:
    """The objective of a network.

    Raises:
        ValueError: there is none.
    """
    if isinstance(model, HITNet):
        return HITNetObjective(model, recipe)
    if isinstance(model, AnyNet):
        return AnyNetObjective(model, recipe)
    raise ValueError(f"The recipe {recipe.name} trains {recipe.model}; which is neither HITNet nor AnyNet.")
