"""``stereopsis train``."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from stereopsis.cli.console import note, progress_bar, show_json

if TYPE_CHECKING:
    from stereopsis.data.datasets import RgbdDataset, StereoDataset


def train(
    recipe: Positional[tuple[str, ...]] = (),
    *,
    out: Path,
    initial: str | None = None,
    steps: int | None = None,
    pairs: Path | None = None,
    dataset: str = "folder",
    evaluate: Path | None = None,
    mixed: bool = False,
    resume: bool = False,
    queue: Path | None = None,
    minutes: float | None = None,
    threads: int | None = None,
    nice: int = 10,
    parallel: int | None = None,
    device: str = "cpu",
    json: bool = False,
) -> None:
    """Train a model by a published recipe, or work through a queue of runs.

    An interrupted run continues with --resume. A queue resumes its runs by itself. Several GPUs or machines share a run
    under `accelerate launch -m stereopsis train ...`.

    Args:
        recipe: Name of a recipe, e.g. hitnet.scenes, and fields of it with other values: names and values, e.g.
            learning_rate 0.01 phases.0.steps 100. Not used with --queue.
        out: Folder for checkpoints, logs, TensorBoard curves and weights.
        initial: Initial weights: a safetensors file or the name of a model. Random weights if omitted.
        steps: Number of optimizer steps; the phases keep their shares. The recipe's own number if omitted.
        pairs: Folder of a data set to train on in place of procedural scenes: stereo pairs with ground truth or without
            for matching, stereo pairs for codecs, images with depth or disparity for upsampling.
        dataset: Layout of that folder: the name of a data set, e.g. kitti2015, or NAME:SPLIT.
        evaluate: Manifest to validate on during the run: pairs with ground truth for matching, images with depth for
            upsampling.
        mixed: Accept pairs with and without ground truth in one data set; pairs without are trained on by comparing the
            views. By default such a data set is refused.
        resume: Continue from the checkpoint in the output folder.
        queue: TOML file that lists runs (see docs/training.md).
        minutes: With --queue, stop and save everything after this time; 0 prints the state of the runs. No limit if
            omitted.
        threads: CPU threads of each run. By default, the number of cores minus the current load, at least 1.
        nice: With --queue, priority of the runs from 0 (normal) to 19 (lowest).
        parallel: With --queue, runs at a time. By default 1 on a CPU and 3 on a GPU.
        device: Device to train on: cpu or cuda.
        json: Print JSON instead of text.
    """
    _set_up_threads(threads)
    if queue is not None:
        if minutes != 0:
            _name_missing_bank()
        _work(queue, out, recipe, minutes, nice, parallel, device, json)
        return
    if not recipe:
        raise ValueError("There is nothing to train; name a recipe, or give a file of runs with --queue.")
    name, *options = recipe
    import torch

    from stereopsis.cli.options import check_folder
    from stereopsis.ops.memory import keep_large_blocks
    from stereopsis.training.recipes import RECIPES, override, with_steps

    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}; choose one of {', '.join(RECIPES)}.")
    plan = override(RECIPES[name], options)
    plan = plan if steps is None else with_steps(plan, steps)
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
    from stereopsis.training.initial import start_from
    from stereopsis.training.publish import publish
    from stereopsis.training.validation import make_validation
    from stereopsis.zoo import get_entry

    validation = make_validation(plan, evaluate) if evaluate is not None else None
    family = get_entry(plan.model).family
    trained_on = _open_pairs(pairs, dataset, family) if pairs is not None else None
    if trained_on is not None and family == "matching":
        _check_truth(trained_on, mixed)
    keep_large_blocks()
    torch.manual_seed(plan.seed)
    entry = get_entry(plan.model)
    model = entry.build()
    if initial is not None and not resume:
        start_from(model, initial, entry)
    elif not resume and hasattr(methods := import_module(f"stereopsis.training.{entry.family}"), "begin"):
        methods.begin(model, plan)
    if pairs is None:
        _name_missing_bank()
    with progress_bar() as progress:
        task = progress.add_task(name, total=plan.steps)

        def report(step: int, _: int, means: dict[str, float]) -> None:
            accuracy = f" EPE {means['epe']:.2f} px" if "epe" in means else ""
            text = f"{name} loss {means['loss']:.3f}{accuracy}"
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
            validation=validation,
            progress=report,
        )
    if int(os.environ.get("RANK", "0")):  # under accelerate the first process alone speaks and writes
        return
    weights = out / f"{name}.safetensors"
    notes = "" if initial is None else f"Started from {Path(initial).name}."
    data = "" if pairs is None else f"the user's own pairs ({dataset}, {len(trained_on or ())} of them)"
    publish(checkpoint, weights, notes=notes, data=data)
    if json:
        show_json({"recipe": name, "steps": plan.steps, "out": str(weights), "means": means})
        return
    accuracy = f", EPE {means['epe']:.2f} px over the last ones" if "epe" in means else ""
    print(f"{weights}  {plan.steps} steps{accuracy}")


def _name_missing_bank() -> None:
    from stereopsis.data.photos import photo_folder, read_photos

    if not read_photos():
        note(f"{photo_folder()} holds no photo bank; training uses the installed photographs (see stereopsis photos).")


def _check_truth(pairs: Any, mixed: bool) -> None:
    """Print how many pairs have ground truth; refuse a mixture that was not asked for."""
    known = sum(item.disparity is not None for item in pairs.items)
    without = "" if known else "; the network is trained by comparing the two views"
    note(f"{len(pairs)} pairs, {known} with ground truth{without}")
    if 0 < known < len(pairs) and not mixed:
        first = next(item.id for item in pairs.items if item.disparity is None)
        raise ValueError(
            f"{len(pairs) - known} of {len(pairs)} pairs have no ground truth, the first is {first}; add or remove it, "
            "or allow both kinds with --mixed."
        )


def _set_up_threads(threads: int | None) -> None:
    """Let idle threads sleep, and take no more of them than the machine has idle cores.

    OpenMP reads its wait policy when it is loaded, so the command starts itself anew with the variable set.
    """
    import torch

    if "OMP_WAIT_POLICY" not in os.environ and os.name == "posix" and _is_the_command(sys.argv[0]):
        os.execve(
            sys.executable,
            [sys.executable, "-m", "stereopsis", *sys.argv[1:]],
            os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        )
    if threads is not None and threads < 1:
        raise ValueError(f"--threads is {threads}; give at least 1.")
    if threads is None and "OMP_NUM_THREADS" not in os.environ and hasattr(os, "getloadavg"):
        threads = max(round((os.cpu_count() or 1) - os.getloadavg()[0]), 1)
    if threads is not None:
        torch.set_num_threads(threads)


def _is_the_command(program: str) -> bool:
    path = Path(program)
    return path.name == "stereopsis" or path.parts[-2:] == ("stereopsis", "__main__.py")


def _work(
    path: Path,
    out: Path,
    recipe: tuple[str, ...],
    minutes: float | None,
    nice: int,
    parallel: int | None,
    device: str,
    json: bool,
) -> None:
    import torch

    from stereopsis.cli.options import check_folder
    from stereopsis.training.queue import Queue, summary

    if recipe:
        raise ValueError(f"--queue takes its recipes from {path}; leave {' '.join(recipe)} out.")
    if not 0 <= nice <= 19:
        raise ValueError(f"--nice is {nice}; give a number from 0 to 19.")
    check_folder(out, "--out")
    queue = Queue(
        path,
        out,
        device=device,
        minutes=minutes,
        threads=torch.get_num_threads(),
        nice=nice,
        parallel=parallel or (1 if device == "cpu" else 3),
        note=note,
    )
    states = queue.states() if minutes == 0 else queue.work()
    if json:
        show_json([asdict(state) | {"remaining_hours": state.remaining_hours} for state in states])
        return
    for state in states:
        print(f"{state.name}  {summary(state)}")


def _open_pairs(folder: Path, dataset: str, family: str) -> StereoDataset | RgbdDataset:
    from stereopsis.data.datasets import StereoDataset, open_dataset

    name, _, split = dataset.partition(":")
    found = open_dataset(name, folder, split or None)
    if family != "upsampling" and not isinstance(found, StereoDataset):
        raise ValueError(f"{name} holds single images with depth, not stereo pairs; choose another --dataset.")
    return found
