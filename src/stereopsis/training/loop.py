"""The training loop: scenes in, a checkpoint out, resumable at any step."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from stereopsis.data.augment import augment
from stereopsis.data.scenes import SceneBatch, render
from stereopsis.data.textures import TextureBank, make_bank
from stereopsis.matching.hitnet import HITNet
from stereopsis.matching.losses import Truth, hitnet_loss
from stereopsis.training.muon import Muon
from stereopsis.training.recipes import Phase, Recipe

logger = logging.getLogger(__name__)

LOG_EVERY = 20
SAVE_EVERY = 100
AUGMENT_SEED = 2**32  # keeps the numbers of the camera apart from those of the scene


def rate_share(recipe: Recipe, step: int) -> float:
    """Share of the peak rate: a linear warm-up, then a cosine to a fiftieth."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))


def make_optimizers(recipe: Recipe, model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the kernels, AdamW for the vectors."""
    kernels = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return [
        Muon(kernels, lr=recipe.learning_rate, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(vectors, lr=recipe.vector_learning_rate, weight_decay=0),
    ]


class SceneStream:
    """The batch of any step; a scene is rendered once and serves two steps, the second time in the mirror."""

    def __init__(self, recipe: Recipe, bank: TextureBank) -> None:
        self.recipe, self.bank = recipe, bank
        self._rendered: SceneBatch | None = None
        self._phase: Phase | None = None

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor, Truth]:
        recipe, phase = self.recipe, self.recipe.phase_at(step)
        seed = recipe.seed + 2 * (step // 2)
        if self._rendered is None or self._rendered.seed != seed or self._phase != phase:
            self._rendered, self._phase = render(seed, phase.batch, self.bank, phase.scene), phase
        scenes = self._rendered.mirrored() if step % 2 else self._rendered
        left, right = augment(scenes.left, scenes.right, AUGMENT_SEED + recipe.seed + step, phase.augment)
        valid = torch.ones_like(scenes.visible)
        return left, right, Truth(scenes.disparity, valid, scenes.slant, scenes.visible)


def train(
    recipe: Recipe,
    model: HITNet,
    out: Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    bank: TextureBank | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> dict[str, float]:
    """Runs a recipe.

    Args:
        model: trained in place.
        out: folder for ``checkpoint.pt`` (model, optimisers, step) and ``log.jsonl``.
        resume: go on from the folder's checkpoint; the run then equals one that was never interrupted.
        bank: textures, made anew where not given.
        progress: called with the step, their number and the latest means.

    Returns:
        The last means of the loss terms.

    Raises:
        FileNotFoundError: resume is asked for and there is no checkpoint.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    bank = (bank or make_bank()).to(device)
    model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizers = make_optimizers(recipe, model)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    first, seconds = 0, 0.0
    sums: dict[str, float] = {}
    means: dict[str, float] = {}
    if resume:
        if not checkpoint.is_file():
            raise FileNotFoundError(f"{checkpoint} does not exist, so there is nothing to resume; leave --resume out.")
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first, seconds = state["step"], state["seconds"]
        means, sums = state.get("means", {}), state.get("sums", {})
    log_file = out / "log.jsonl"
    lines = log_file.read_text().splitlines(keepends=True) if log_file.is_file() else []
    log_file.write_text("".join(lines[: first // LOG_EVERY]))  # what came after the checkpoint is done again

    stream = SceneStream(recipe, bank)
    started = time.monotonic() - seconds
    for step in range(first, recipe.steps):
        torch.manual_seed(recipe.seed + step)  # of the sampled negatives
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate_share(recipe, step)
        means_of_step = _step(model, optimizers, recipe, recipe.phase_at(step).max_disparity, *stream(step))
        for name, value in means_of_step.items():
            sums[name] = sums.get(name, 0.0) + value / LOG_EVERY
        done = step + 1
        if done % LOG_EVERY == 0:
            means, sums = sums, {}
            seconds = time.monotonic() - started
            with log_file.open("a") as log:
                log.write(json.dumps({"step": done, "seconds": round(seconds, 1), **means}) + "\n")
            if progress is not None:
                progress(done, recipe.steps, means)
        if done % SAVE_EVERY == 0 or done == recipe.steps:
            state = {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": done,
                "seconds": time.monotonic() - started,
                "means": means,
                "sums": sums,
                "recipe": asdict(recipe),
            }
            torch.save(state, checkpoint.with_suffix(".partial"))
            checkpoint.with_suffix(".partial").replace(checkpoint)
    return means


def _step(
    model: HITNet,
    optimizers: Sequence[torch.optim.Optimizer],
    recipe: Recipe,
    max_disparity: int,
    left: torch.Tensor,
    right: torch.Tensor,
    truth: Truth,
) -> dict[str, float]:
    with torch.autocast(left.device.type, torch.bfloat16, enabled=recipe.bf16):
        stages = model.stages(2 * left - 1, 2 * right - 1, max_disparity)
    terms = hitnet_loss(stages, truth, recipe.loss)
    loss = torch.stack(list(terms.values())).sum()
    model.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    if norm.isfinite() and loss.isfinite():
        for optimizer in optimizers:
            optimizer.step()
    else:
        logger.warning("step skipped: the loss or its gradient is not finite")
    epe = (stages.refined[-1][:, :1] - truth.disparity).abs()[truth.valid]
    values = {name: term.item() for name, term in terms.items()}
    tiles = F.max_pool2d(torch.where(truth.visible, truth.disparity, -1.0), 4)
    matched = (stages.initial[-1][:, :1] - tiles).abs()[tiles > 0]
    return values | {
        "loss": loss.item(),
        "epe": epe.mean().item(),
        "bad3": 100 * (epe > 3).float().mean().item(),
        "matched": 100 * (matched <= 1).float().mean().item(),
        "gradient": norm.item(),
    }
