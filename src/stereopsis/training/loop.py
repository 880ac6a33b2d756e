"""The training loop: batches in, a checkpoint out, resumable at any step, on one device or many."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from stereopsis.data.textures import TextureBank, make_bank
from stereopsis.evaluation.benchmarks import BenchmarkPair
from stereopsis.io.atomic import atomic_write
from stereopsis.training.monitor import Monitor
from stereopsis.training.muon import Muon
from stereopsis.training.recipes import Phase, Recipe
from stereopsis.training.streams import PairStream, Stream
from stereopsis.zoo.registry import get_entry

logger = logging.getLogger(__name__)

LOG_EVERY = 20
SAVE_EVERY = 100


def rate_share(recipe: Recipe, step: int) -> float:
    """Share of the peak rate: a linear warm-up, then a cosine to a fiftieth."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))


def make_optimizers(recipe: Recipe, model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the kernels of convolutions, AdamW for all else."""
    kernels = [p for p in model.parameters() if p.ndim >= 4]
    vectors = [p for p in model.parameters() if p.ndim < 4]
    return [
        Muon(kernels, lr=recipe.learning_rate, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(vectors, lr=recipe.vector_learning_rate, weight_decay=0),
    ]


def train(
    recipe: Recipe,
    model: nn.Module,
    out: Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    bank: TextureBank | None = None,
    pairs: Any = None,
    evaluate: Sequence[BenchmarkPair] = (),
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> dict[str, float]:
    """Runs a recipe.

    Under ``accelerate launch`` every process takes its own scenes and gradients are averaged.

    Args:
        model: trained in place.
        out: folder for ``checkpoint.pt`` (model, optimisers, step) and what :class:`Monitor` writes.
        device: "cpu", or anything else for the accelerator that this process has.
        resume: go on from the folder's checkpoint; the run then equals one that was never interrupted.
        bank: textures of the scenes, made anew where not given.
        pairs: trained on in place of scenes (:class:`PairStream`).
        evaluate: measured on every ``recipe.evaluate_every`` steps and at the end.
        progress: called with the step, their number and the latest means.

    Returns:
        The last means of the loss terms.

    Raises:
        FileNotFoundError: resume is asked for and there is no checkpoint.
        ValueError: the checkpoint was made by another recipe; pairs are given for another family than matching.
    """
    family = get_entry(recipe.model).family
    if family != "matching" and (pairs is not None or evaluate):
        raise ValueError(f"The {family} family is trained on scenes alone; leave the stereo pairs out.")
    methods = import_module(f"stereopsis.training.{family}")
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    accelerator = Accelerator(cpu=str(device) == "cpu", mixed_precision="no")
    model.to(accelerator.device).train()
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    optimizers = getattr(methods, "make_optimizers", make_optimizers)(recipe, model)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema)) if recipe.ema else None
    first, seconds = 0, 0.0
    sums: dict[str, float] = {}
    means: dict[str, float] = {}
    if resume:
        state = _read_checkpoint(checkpoint, recipe, accelerator.device)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if average is not None:
            average.module.load_state_dict(state["ema"])
            average.n_averaged.fill_(state["step"])
        first, seconds, means, sums = (state[key] for key in ("step", "seconds", "means", "sums"))
    objective, *prepared = accelerator.prepare(methods.make_objective(model, recipe), *optimizers)
    peaks = [recipe.learning_rate, recipe.vector_learning_rate]
    monitor = Monitor(out, first // LOG_EVERY, evaluate) if accelerator.is_main_process else None

    stream: Stream
    if pairs is None:
        stream = methods.make_stream(recipe, (bank or make_bank()).to(accelerator.device))
    else:
        stream = PairStream(recipe, pairs, accelerator.device)
    rank, ranks = accelerator.process_index, accelerator.num_processes
    started = time.monotonic() - seconds
    for step in range(first, recipe.steps):
        torch.manual_seed(recipe.seed + step * ranks + rank)  # of the sampled negatives
        share = rate_share(recipe, step)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * share
        batch = stream(step, rank, ranks)
        values = _step(accelerator, objective, prepared, recipe, batch, recipe.phase_at(step))
        if average is not None:
            average.update_parameters(model)
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value / LOG_EVERY
        done = step + 1
        seconds = time.monotonic() - started
        if done % LOG_EVERY == 0:
            means, sums = sums, {}
            if monitor is not None:
                monitor.log(done, seconds, means, recipe.learning_rate * share)
            if progress is not None and accelerator.is_main_process:
                progress(done, recipe.steps, means)
        if monitor is None:
            continue
        if done % SAVE_EVERY == 0 or done == recipe.steps:
            state = {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": done,
                "seconds": seconds,
                "means": means,
                "sums": sums,
                "recipe": asdict(recipe),
            }
            if average is not None:
                state["ema"] = average.module.state_dict()
            with atomic_write(checkpoint) as partial:
                torch.save(state, partial)
        if evaluate and (done % recipe.evaluate_every == 0 or done == recipe.steps):
            monitor.evaluate(done, model if average is None else average.module)
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    if monitor is not None:
        monitor.close()
    return means


def _read_checkpoint(path: Path, recipe: Recipe, device: torch.device) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, so there is nothing to resume; leave --resume out.")
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    wanted, made = asdict(recipe), dict(state["recipe"])
    if wanted["loss"].keys() >= made["loss"].keys():  # constants that came later had their defaults then
        made["loss"] = asdict(type(recipe.loss)()) | made["loss"]
    for key in wanted:
        if wanted[key] != made.get(key):
            raise ValueError(
                f"{path} was made with another {key} ({made.get(key)}, not {wanted[key]}); resume with the same recipe "
                "and options, or start in another folder."
            )
    return state


def _step(
    accelerator: Accelerator,
    objective: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    recipe: Recipe,
    batch: Any,
    phase: Phase,
) -> dict[str, float]:
    terms, watched = objective(batch, phase)
    loss = torch.stack(list(terms.values())).sum()
    objective.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    norm = nn.utils.clip_grad_norm_(objective.parameters(), recipe.clip)
    if norm.isfinite() and loss.isfinite():
        for optimizer in optimizers:
            optimizer.step()
    else:
        logger.warning("step skipped: the loss or its gradient is not finite")
    values = {**terms, "loss": loss, **watched, "gradient": norm}
    return {name: value.item() for name, value in values.items()}
