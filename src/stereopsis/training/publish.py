"""From a run's checkpoint to a weights file with its card."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stereopsis.compression.codec import PairCodec
from stereopsis.compression.integer import whole_state
from stereopsis.data.photos import credit, read_photos
from stereopsis.data.textures import installed_photos
from stereopsis.zoo.registry import get_entry
from stereopsis.zoo.weights import ModelCard, read_weights, save_weights


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
    if gathered := read_photos(split="train"):
        photos = f"{photos}; and {credit(gathered)}"
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


def average(
    files: Sequence[str | Path],
    path: str | Path,
    *,
    metrics: Mapping[str, Any] | None = None,
    training_time: str = "",
    notes: str = "",
) -> ModelCard:
    """Writes the mean of weights that runs from one beginning ended with (Wortsman et al., "Model soups", ICML 2022).

    Args:
        files: safetensors of one architecture and config, without whole numbers; the card is the last one's.
        path: the safetensors file.
        metrics, training_time, notes: for the card.

    Raises:
        ValueError: no files, or weights that do not belong together.
    """
    if not files:
        raise ValueError("there are no weights to average; name at least one file.")
    states, cards = zip(*(read_weights(file) for file in files), strict=True)
    if any((card.architecture, card.config) != (cards[0].architecture, cards[0].config) for card in cards):
        raise ValueError(f"{', '.join(map(str, files))} are not weights of one network; average runs of one model.")
    if not all(tensor.is_floating_point() for tensor in states[0].values()):
        raise ValueError(f"{files[0]} holds whole numbers, which have no mean; average networks without a codec.")
    mean = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
    card = replace(cards[-1], metrics=metrics or {}, training_time=training_time, notes=notes)
    save_weights(path, mean, card, storage="float16")
    return card
