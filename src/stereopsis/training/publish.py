"""From a run's checkpoint to a weights file with its card."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stereopsis.compression.codec import PairCodec
from stereopsis.compression.integer import whole_state
from stereopsis.data.textures import installed_photos
from stereopsis.zoo.registry import get_entry
from stereopsis.zoo.weights import ModelCard, save_weights


def publish(
    checkpoint: str | Path,
    path: str | Path,
    *,
    metrics: Mapping[str, Any] | None = None,
    notes: str = "",
    data: str = "",
) -> ModelCard:
    """Writes the weights of a checkpoint of :func:`~stereopsis.training.loop.train` as fp16 safetensors.

    Args:
        checkpoint: ``checkpoint.pt`` of a run, whole or in the middle; the card says how far it came.
        path: the safetensors file.
        metrics: what was measured on it, for the card.
        notes: how far it is from the paper, for the card.
        data: what it was trained on; the procedural scenes where not given.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.is_file():
        raise FileNotFoundError(f"{checkpoint} does not exist; give the checkpoint.pt of a training run.")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    recipe = state["recipe"]
    entry = get_entry(recipe["model"])
    steps = sum(phase["steps"] for phase in recipe["phases"])
    photos = ", ".join(photo.name for photo in installed_photos())
    card = ModelCard(
        architecture=entry.architecture,
        config=entry.config_dict(),
        model=entry.name,
        recipe=recipe,
        data=data
        or (
            "procedural scenes (stereopsis.data.scenes) with drawn textures and photos under CC0, public domain or "
            f"CC BY from the scikit-image and scikit-learn wheels: {photos}"
        ),
        training_time=f"{state['seconds'] / 60:.0f} min, step {state['step']} of {steps}",
        hardware=f"{torch.get_num_threads()} CPU threads, {platform.machine()}, bfloat16 convolutions",
        metrics=metrics or {},
        licence=entry.licence,
        notes=notes,
    )
    model = entry.build()
    model.load_state_dict(state.get("ema", state["model"]))
    if isinstance(model, PairCodec):  # tables and whole numbers, of the weights as they will be stored
        model.half().float()
        model.finalize()
    save_weights(path, whole_state(model), card, storage="float16")
    return card
