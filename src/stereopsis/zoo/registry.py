"""Names of models: ``arch.tag``, what each builds, and how it is loaded.

Model files call :func:`register` at their bottom. They are imported on the first question asked of the registry,
so that ``import stereopsis`` stays as light as torch and numpy.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, get_args, runtime_checkable

import torch
from torch import nn

from stereopsis.zoo.entry import Family, ModelEntry
from stereopsis.zoo.weights import load_into, shipped_path

MODEL_MODULES = (
    "stereopsis.compression.dsic",
    "stereopsis.compression.ffca",
    "stereopsis.compression.hyperprior",
    "stereopsis.compression.hyperprior2",
    "stereopsis.matching.anynet",
    "stereopsis.matching.hitnet",
    "stereopsis.matching.sgm",
    "stereopsis.upsampling.classical",
    "stereopsis.upsampling.dkn",
)

_entries: dict[str, ModelEntry] = {}


@runtime_checkable
class _ChoosesPrecision(Protocol):
    compute_dtype: torch.dtype


@runtime_checkable
class _KnowsFastest(Protocol):
    def fastest_dtype(self, device: torch.device | str) -> torch.dtype: ...


def register(
    name: str,
    *,
    family: Family,
    architecture: str,
    build: Callable[[], nn.Module],
    description: str,
    config: Any = None,
    licence: str = "",
    weights_file: str | None = None,
    official: bool = False,
    needs_weights: bool = True,
) -> ModelEntry:
    """Add a model under a name; the arguments are the fields of :class:`ModelEntry`.

    Raises:
        ValueError: the name is taken or the family is unknown.
    """
    if name in _entries:
        raise ValueError(f"model name {name!r} is registered twice; give one of the two another tag.")
    _check_family(family)
    entry = ModelEntry(
        name=name,
        family=family,
        architecture=architecture,
        build=build,
        description=description,
        config=config,
        licence=licence,
        weights_file=weights_file,
        official=official,
        needs_weights=needs_weights,
    )
    _entries[name] = entry
    return entry


def register_variant(
    name: str,
    config: Any,
    description: str,
    *,
    family: Family,
    network: Callable[[Any], nn.Module],
    **options: Any,
) -> ModelEntry:
    """:func:`register` for ``network(config)``, whose architecture is the part of the name before the tag."""
    return register(
        name,
        family=family,
        architecture=name.partition(".")[0],
        build=lambda: network(config),
        config=config,
        description=description,
        **options,
    )


def list_models(pattern: str | None = None, family: Family | None = None) -> list[str]:
    """Sorted names of the registered models.

    Args:
        pattern: shell-style, e.g. ``"hitnet*"``.
        family: only this family.

    Raises:
        ValueError: the family is unknown.
    """
    if family is not None:
        _check_family(family)
    _import_models()
    return sorted(
        entry.name
        for entry in _entries.values()
        if (family is None or entry.family == family) and (pattern is None or fnmatch.fnmatchcase(entry.name, pattern))
    )


def get_entry(name: str) -> ModelEntry:
    """The row of one model.

    Raises:
        ValueError: no model has this name; the sentence offers close ones.
    """
    if name not in _entries:
        _import_models()
    if name in _entries:
        return _entries[name]
    close = difflib.get_close_matches(name, _entries, n=3, cutoff=0.4)
    remedy = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(sorted(_entries))}."
    raise ValueError(f"there is no model named {name!r}; {remedy}")


WORK: dict[Family, str] = {"matching": "match views", "upsampling": "upsample", "compression": "compress"}


def check_is(family: Family, name: str) -> None:
    """Check that a model is of the family that some work needs.

    Raises:
        ValueError: no model has this name, or the model is of another family.
    """
    if get_entry(name).family != family:
        others = ", ".join(list_models(family=family))
        raise ValueError(f"{name} does not {WORK[family]}; choose one of {others}.")


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Build a model, give it its weights and set it to evaluation.

    Args:
        name: one of :func:`list_models`.
        weights: a safetensors file to use instead of the shipped one; needed for official tags.
        device: where the module goes.
        dtype: to compute in; if not given, what the model finds fastest on this machine: bfloat16 for HITNet on a CPU
            with arithmetic for it, float32 for models that do not choose. A model with an attribute ``compute_dtype``
            decides itself what to compute in it; any other has its parameters cast.

    Raises:
        ValueError: unknown name, official tag without weights, weights that do not fit or are damaged, or a device
            that is not there.
        FileNotFoundError: the weights file does not exist.
    """
    entry = get_entry(name)
    if not entry.needs_weights and weights is not None:
        raise ValueError(f"{name} is a classical method and has no weights, but {weights} was given; leave it out.")
    if entry.needs_weights and weights is None and entry.weights_file is None:
        raise ValueError(_missing_weights(entry))

    model = entry.build()
    if torch.get_default_dtype() != torch.float32:  # which torch's layers take for their parameters
        model.float()
    if weights is not None:
        load_into(model, weights, entry)
    elif entry.weights_file is not None:
        load_into(model, shipped_path(entry.weights_file), entry, verify=True)
    try:
        if dtype is None and isinstance(model, _KnowsFastest):
            dtype = model.fastest_dtype(device)
        if dtype is not None and isinstance(model, _ChoosesPrecision):
            model.compute_dtype = dtype
            dtype = None
        return model.to(device=device, dtype=dtype).eval()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"device {str(device)!r} cannot be used here ({reason}); choose 'cpu'.") from error


def _missing_weights(entry: ModelEntry) -> str:
    if entry.official:
        return (
            f"{entry.name} has no shipped weights because others published them; run `stereopsis import CHECKPOINT "
            f"--architecture {entry.name} --out FILE.safetensors` once and pass FILE.safetensors as weights."
        )
    return f"{entry.name} has no shipped weights; train it or pass a safetensors file as weights."


def _check_family(family: str) -> None:
    if family not in get_args(Family):
        raise ValueError(f"family {family!r} is unknown; use one of {', '.join(get_args(Family))}.")


def _import_models() -> None:
    for module in MODEL_MODULES:
        import_module(module)
