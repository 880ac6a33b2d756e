"""``stereopsis train``."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from stereopsis.cli.console import note, progress_bar, show_json

if TYPE_CHECKING:
    from torch import nn

    from stereopsis.data.datasets import StereoDataset
    from stereopsis.zoo.registry import ModelEntry


def train(
    recipe: Positional[str],
    options: Positional[tuple[str, ...]] = (),
    *,
    out: Path,
    initial: str | None = None,
    pairs: Path | None = None,
    dataset: str = "folder",
    evaluate: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    json: bool = False,
) -> None:
    """Train a model by a published recipe; an interrupted run goes on with --resume.

    Under `accelerate launch -m stereopsis train ...` several GPUs or machines share the work.

    Args:
        recipe: Name of a recipe, e.g. hitnet.scenes.
        options: Other numbers for it, names and values, e.g. learning_rate 0.01 phases.0.steps 100.
        out: Folder for the checkpoint, the log and TensorBoard's curves.
        initial: Safetensors file or name of the weights to start from, in place of random ones.
        pairs: Folder of pairs to train on in place of procedural scenes; with ground truth or without.
        dataset: Layout of that folder: a data set's name, e.g. kitti2015, or NAME:SPLIT.
        evaluate: Manifest of pairs with ground truth, measured and drawn as the run goes on.
        resume: Go on from the checkpoint in that folder.
        device: Where to compute, e.g. cpu or cuda.
        json: Print JSON instead of text.
    """
    import torch

    from stereopsis.cli.matching import check_folder
    from stereopsis.evaluation.benchmarks import read_manifest
    from stereopsis.memory import keep_large_blocks
    from stereopsis.training.recipes import RECIPES, override

    if recipe not in RECIPES:
        raise ValueError(f"There is no recipe {recipe!r}; choose one of {', '.join(RECIPES)}.")
    plan = override(RECIPES[recipe], options)
    check_folder(out, "--out")
    checkpoint = out / "checkpoint.pt"
    if resume and not checkpoint.is_file():
        raise FileNotFoundError(f"{checkpoint} does not exist, so there is nothing to resume; leave --resume out.")
    if not resume and checkpoint.is_file():
        raise ValueError(f"{out} holds a checkpoint already; add --resume to go on, or name another folder.")
    try:
        from stereopsis.training import loop
    except ImportError as error:
        raise ImportError(f"Training needs {error.name}; install it with: pip install 'stereopsis[train]'") from error
    from stereopsis.training.publish import publish
    from stereopsis.zoo import get_entry

    measured = read_manifest(evaluate) if evaluate is not None else []
    trained_on = _open_pairs(pairs, dataset) if pairs is not None else None
    keep_large_blocks()
    torch.manual_seed(plan.seed)
    entry = get_entry(plan.model)
    model = entry.build()
    if initial is not None and not resume:
        _start_from(model, initial, entry)
    elif not resume and hasattr(methods := import_module(f"stereopsis.training.{entry.family}"), "begin"):
        methods.begin(model, plan)
    with progress_bar() as progress:
        task = progress.add_task(recipe, total=plan.steps)

        def report(step: int, _: int, means: dict[str, float]) -> None:
            accuracy = f" EPE {means['epe']:.2f} px" if "epe" in means else ""
            text = f"{recipe} loss {means['loss']:.3f}{accuracy}"
            progress.update(task, completed=step, description=text)
            if progress.disable:
                note(f"step {step} of {plan.steps}: {text}")

        means = loop.train(
            plan,
            model,
            out,
            device=device,
            resume=resume,
            pairs=trained_on,
            evaluate=measured,
            progress=report,
        )
    if int(os.environ.get("RANK", "0")):  # under accelerate the first process alone speaks and writes
        return
    weights = out / f"{recipe}.safetensors"
    notes = "" if initial is None else f"Started from {Path(initial).name}."
    data = "" if pairs is None else f"the user's own pairs ({dataset}, {len(trained_on or ())} of them)"
    publish(checkpoint, weights, notes=notes, data=data)
    if json:
        show_json({"recipe": recipe, "steps": plan.steps, "out": str(weights), "means": means})
        return
    accuracy = f", EPE {means['epe']:.2f} px over the last ones" if "epe" in means else ""
    print(f"{weights}  {plan.steps} steps{accuracy}")


def _start_from(model: nn.Module, initial: str, entry: ModelEntry) -> None:
    from stereopsis.compression.dsic import DSIC
    from stereopsis.compression.ffca import FFCA
    from stereopsis.zoo import get_entry, list_models, load
    from stereopsis.zoo.weights import load_into, read_card

    known = initial in list_models()
    architecture = get_entry(initial).architecture if known else read_card(initial).architecture
    if isinstance(model, DSIC | FFCA) and architecture == "hyperprior":
        model.start_from(load("hyperprior.photos", weights=None if known else initial).state_dict())
    elif known:
        model.load_state_dict(load(initial).state_dict())
    else:
        load_into(model, initial, entry, any_config=True)


def _open_pairs(folder: Path, dataset: str) -> StereoDataset:
    from stereopsis.data.datasets import StereoDataset, open_dataset

    name, _, split = dataset.partition(":")
    found = open_dataset(name, folder, split or None)
    if not isinstance(found, StereoDataset):
        raise ValueError(f"{name} holds depth under single images, not stereo pairs; choose another --dataset.")
    return found
