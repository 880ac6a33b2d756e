"""``stereopsis train``."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from stereopsis.cli.console import note, progress_bar, show_json


def train(
    recipe: Positional[str],
    out: Path,
    initial: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    json: bool = False,
) -> None:
    """Train a model by a published recipe; an interrupted run goes on with --resume.

    Args:
        recipe: Name of a recipe, e.g. hitnet.scenes.
        out: Folder for the checkpoint and the log.
        initial: Safetensors file to start from, in place of random weights.
        resume: Go on from the checkpoint in that folder.
        device: Where to compute, e.g. cpu or cuda.
        json: Print JSON instead of text.
    """
    import torch

    from stereopsis.cli.matching import check_folder
    from stereopsis.matching.hitnet import HITNet
    from stereopsis.memory import keep_large_blocks
    from stereopsis.training import loop
    from stereopsis.training.publish import publish
    from stereopsis.training.recipes import RECIPES
    from stereopsis.zoo import get_entry
    from stereopsis.zoo.weights import load_into

    if recipe not in RECIPES:
        raise ValueError(f"There is no recipe {recipe!r}; choose one of {', '.join(RECIPES)}.")
    check_folder(out, "--out")
    checkpoint = out / "checkpoint.pt"
    if resume and not checkpoint.is_file():
        raise FileNotFoundError(f"{checkpoint} does not exist, so there is nothing to resume; leave --resume out.")
    if not resume and checkpoint.is_file():
        raise ValueError(f"{out} holds a checkpoint already; add --resume to go on, or name another folder.")
    plan = RECIPES[recipe]
    keep_large_blocks()
    torch.manual_seed(plan.seed)
    model = get_entry(plan.model).build()
    if not isinstance(model, HITNet):
        raise ValueError(f"The recipe {recipe} trains {plan.model}, which the loop cannot; it trains HITNet.")
    if initial is not None and not resume:
        load_into(model, initial, get_entry(plan.model))
    with progress_bar() as progress:
        task = progress.add_task(recipe, total=plan.steps)

        def report(step: int, _: int, means: dict[str, float]) -> None:
            text = f"{recipe} loss {means['loss']:.3f} EPE {means['epe']:.2f} px"
            progress.update(task, completed=step, description=text)
            if progress.disable:
                note(f"step {step} of {plan.steps}: {text}")

        means = loop.train(plan, model, out, device=device, resume=resume, progress=report)
    weights = out / f"{recipe}.safetensors"
    publish(checkpoint, weights, notes="" if initial is None else f"Started from {initial.name}.")
    if json:
        show_json({"recipe": recipe, "steps": plan.steps, "out": str(weights), "means": means})
        return
    print(f"{weights}  {plan.steps} steps, EPE {means.get('epe', float('nan')):.2f} px over the last ones")
