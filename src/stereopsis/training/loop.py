"""The training loop: batches in, a checkpoint out, resumable at any step, on one device or many."""

from __future__ import annotations

import json
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
from stereopsis.io.atomic import atomic_write, atomic_write_text
from stereopsis.training.monitor import Monitor
from stereopsis.training.muon import Muon
from stereopsis.training.recipes import Phase, Recipe, recipe_from
from stereopsis.training.streams import Stream
from stereopsis.training.validation import Validation
from stereopsis.zoo.registry import get_entry

logger = logging.getLogger(__name__)

LOG_EVERY = 20  # steps
SAVE_EVERY = 100  # steps


class Stopped(Exception):
    """A run ended before its last step because it was asked to; its checkpoint is written."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}; resume the run to go on.")
        self.step = step


def rate_share(recipe: Recipe, step: int) -> float:
    """Return the share of the peak rate: a linear warm-up, then a cosine to a fiftieth, or the recipe's milestones."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    if recipe.milestones:
        return next((share for at, share in reversed(recipe.milestones) if step >= at), 1.0)
    progress = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))


def make_optimizers(recipe: Recipe, model: nn.Module) -> list[torch.optim.Optimizer]:
    """Return the recipe's optimizer of the kernels of convolutions, and AdamW or Adam for all other parameters."""
    kernels = [p for p in model.parameters() if p.ndim >= 4]
    vectors = [p for p in model.parameters() if p.ndim < 4]
    if recipe.optimizer == "muon":
        first: torch.optim.Optimizer = Muon(kernels, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    else:
        kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
        first = kind(kernels, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    rest = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return [first, rest(vectors, lr=recipe.vector_learning_rate, weight_decay=0)]


class _Run:
    """A network in training with all that a checkpoint holds.

    Attributes:
        step, seconds, cpu_seconds: done so far, over all sessions of the run.
        means, sums: of the logged values: the latest line, and the one that is being summed.
        best: score and step of the best validation; None before the first.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, out: Path, device: torch.device | str) -> None:
        self.recipe, self.model, self.out = recipe, model, out
        self.methods = import_module(f"stereopsis.training.{get_entry(recipe.model).family}")
        self.accelerator = Accelerator(cpu=str(device) == "cpu", mixed_precision="no")
        self.device = self.accelerator.device
        model.to(self.device).train()
        for parameter in model.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.optimizers = getattr(self.methods, "make_optimizers", make_optimizers)(recipe, model)
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema)) if recipe.ema else None
        self.step, self.seconds, self.cpu_seconds = 0, 0.0, 0.0
        self.means: dict[str, float] = {}
        self.sums: dict[str, float] = {}
        self.best: tuple[float, int] | None = None
        self._clocks = time.monotonic(), time.process_time()

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    @property
    def published(self) -> nn.Module:
        """The moving average if the recipe has one, else the network itself."""
        return self.model if self.average is None else self.average.module

    def restore(self) -> None:
        """Continue from the checkpoint; raises as :func:`train` does."""
        state = _read_checkpoint(self.checkpoint, self.recipe, self.device)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.average is not None:
            self.average.module.load_state_dict(state["ema"])
            self.average.n_averaged.fill_(state["step"])
        self.step, self.seconds, self.means, self.sums = (state[key] for key in ("step", "seconds", "means", "sums"))
        self.cpu_seconds, self.best = state.get("cpu_seconds", 0.0), state.get("best")

    def prepare(self) -> None:
        """Wrap the network and its optimizers for the devices of this run."""
        objective = self.methods.make_objective(self.model, self.recipe)
        self.objective, *self.prepared = self.accelerator.prepare(objective, *self.optimizers)
        self.tick(count=False)

    def tick(self, count: bool = True) -> None:
        """Add the time since the last call to the run's, or leave it out."""
        clocks = time.monotonic(), time.process_time()
        self.seconds += (clocks[0] - self._clocks[0]) * count
        self.cpu_seconds += (clocks[1] - self._clocks[1]) * count
        self._clocks = clocks

    def advance(self, batch: Any) -> None:
        """Take one step."""
        share = rate_share(self.recipe, self.step)
        peaks = self.recipe.learning_rate, self.recipe.vector_learning_rate
        for optimizer, peak in zip(self.prepared, peaks, strict=False):
            optimizer.param_groups[0]["lr"] = peak * share
        phase = self.recipe.phase_at(self.step)
        values = _step(self.accelerator, self.objective, self.prepared, self.recipe, batch, phase)
        if self.average is not None:
            self.average.update_parameters(self.model)
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value / LOG_EVERY
        self.step += 1
        self.tick()

    def save(self) -> None:
        """Write the checkpoint; it appears whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "means": self.means,
            "sums": self.sums,
            "best": self.best,
            "recipe": asdict(self.recipe),
        }
        if self.average is not None:
            state["ema"] = self.average.module.state_dict()
        with atomic_write(self.checkpoint) as partial:
            torch.save(state, partial)
        summary = {name: state[name] for name in ("step", "seconds", "cpu_seconds", "best")}
        atomic_write_text(self.out / "state.json", json.dumps(summary) + "\n")

    def keep_if_best(self, values: dict[str, float]) -> None:
        """Write ``best.pt`` if no validation of this run had a lower score."""
        if "score" not in values or (self.best is not None and values["score"] >= self.best[0]):
            return
        self.best = values["score"], self.step
        state = {
            "model": self.published.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "recipe": asdict(self.recipe),
            "validation": values,
        }
        with atomic_write(self.out / "best.pt") as partial:
            torch.save(state, partial)


def train(
    recipe: Recipe,
    model: nn.Module,
    out: Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    bank: TextureBank | None = None,
    pairs: Any = None,
    validation: Validation | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
    stop: Callable[[], bool] | None = None,
    save_seconds: float = 45.0,
) -> dict[str, float]:
    """Run a recipe.

    Under ``accelerate launch`` every process takes its own scenes and gradients are averaged.

    Args:
        model: trained in place; ends as the moving average of its steps if the recipe has one.
        out: folder for ``checkpoint.pt`` (model, optimizers, step), ``best.pt`` and what :class:`Monitor` writes.
        device: "cpu", or anything else for the accelerator that this process has.
        resume: continue from the folder's checkpoint; the run then equals one that was never interrupted.
        bank: textures of the scenes, made anew if not given.
        pairs: a data set to train on in place of scenes: stereo pairs, or images with depth for upsampling.
        validation: called every ``recipe.evaluate_every`` steps and at the end, with the moving average; the weights
            of the lowest ``"score"`` are kept in ``best.pt``.
        progress: called with the step, their number and the latest means.
        stop: called after each step; if it returns True the checkpoint is written and the run ends.
        save_seconds: longest time between two checkpoints.

    Returns:
        The last means of the loss terms.

    Raises:
        FileNotFoundError: resume is asked for and there is no checkpoint.
        Stopped: ``stop`` returned True before the last step.
        ValueError: the checkpoint was made by another recipe, or ``pairs`` is empty.
    """
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(recipe, model, out, device)
    if resume:
        run.restore()
    run.prepare()
    accelerator = run.accelerator
    monitor = Monitor(out, run.step, validation) if accelerator.is_main_process else None
    stream: Stream
    if pairs is None:
        stream = run.methods.make_stream(recipe, (bank or make_bank()).to(run.device))
    else:
        stream = run.methods.make_pair_stream(recipe, pairs, run.device)
    rank, ranks = accelerator.process_index, accelerator.num_processes
    saved = time.monotonic()
    while run.step < recipe.steps:
        torch.manual_seed(recipe.seed + run.step * ranks + rank)  # of the sampled negatives
        run.advance(stream(run.step, rank, ranks))
        last, stopped = run.step == recipe.steps, stop is not None and stop()
        if run.step % LOG_EVERY == 0:
            _log(run, monitor, progress)
        if monitor is None:
            continue
        if validation is not None and (last or run.step % recipe.evaluate_every == 0):
            run.keep_if_best(monitor.validate(run.step, run.seconds, run.cpu_seconds, run.published))
            run.tick(count=False)
        if last or stopped or run.step % SAVE_EVERY == 0 or time.monotonic() - saved > save_seconds:
            run.save()
            saved = time.monotonic()
        if stopped and not last:
            monitor.close()
            raise Stopped(run.step)
    if run.average is not None:
        model.load_state_dict(run.average.module.state_dict())
    if monitor is not None:
        monitor.close()
    return run.means


def _log(run: _Run, monitor: Monitor | None, progress: Callable[[int, int, dict[str, float]], None] | None) -> None:
    run.means, run.sums = run.sums, {}
    if monitor is None:
        return
    rate = run.recipe.learning_rate * rate_share(run.recipe, run.step - 1)
    monitor.log(run.step, run.seconds, run.means, rate)
    if progress is not None:
        progress(run.step, run.recipe.steps, run.means)


def _read_checkpoint(path: Path, recipe: Recipe, device: torch.device) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, so there is nothing to resume; start the run first.")
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    made = recipe_from(state["recipe"])
    wanted_values, made_values = asdict(recipe), asdict(made)
    for key, wanted in wanted_values.items():
        if wanted != made_values[key]:
            raise ValueError(
                f"{path} was made with another {key} ({made_values[key]}, not {wanted}); resume with the same recipe "
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
