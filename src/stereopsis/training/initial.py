"""Initial weights of a run: a shipped model's, or those of a file."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from torch import nn

from stereopsis.compression.dsic import DSIC
from stereopsis.compression.ffca import FFCA
from stereopsis.compression.hyperprior import Hyperprior, HyperpriorConfig
from stereopsis.zoo.registry import ModelEntry, get_entry, list_models
from stereopsis.zoo.weights import load_into, read_card, shipped_path


def start_from(model: nn.Module, initial: str | Path, entry: ModelEntry) -> None:
    """Give a model its initial weights.

    A codec for pairs takes those of a single-image codec of its own widths, too.

    Args:
        initial: a model's name or a safetensors file.
        entry: the registry row of ``model``.

    Raises:
        FileNotFoundError: ``initial`` is no model's name, and there is no such file.
        ValueError: the named model has no shipped weights, or the weights do not fit.
    """
    path = Path(initial)
    if str(initial) in list_models():
        named = get_entry(str(initial))
        if named.weights_file is None:
            trained = ", ".join(name for name in list_models(family=entry.family) if get_entry(name).weights_file)
            raise ValueError(f"{initial} has no shipped weights to start from; choose one of {trained}, or a file.")
        path = shipped_path(named.weights_file)
    card = read_card(path)
    if not (isinstance(model, DSIC | FFCA) and card.architecture == "hyperprior"):
        load_into(model, path, entry, any_config=True)
        return
    known = {field.name for field in fields(HyperpriorConfig)}
    config = HyperpriorConfig(**{name: value for name, value in card.config.items() if name in known})
    base = Hyperprior(config)
    load_into(base, path, replace(get_entry("hyperprior.photos"), config=config))
    model.start_from(base.state_dict())
