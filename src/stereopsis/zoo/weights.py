"""Weights on disk: safetensors with a model card in the header, and checksums of the shipped files.

The header holds one JSON text under ``stereopsis``: the fields of :class:`ModelCard`, the storage type and a SHA-256 of
the tensors, so that a damaged file is noticed wherever it came from. Shipped files lie in ``zoo/files`` (a folder named
``weights`` would share its import name with this module) beside ``checksums.json``, which pins the whole file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from stereopsis.zoo.entry import ModelEntry

SHIPPED = Path(__file__).parent / "files"
CHECKSUMS = "checksums.json"
_HEADER = "stereopsis"
# Only a default that the caller may override: the same tensors serve any value.
_NOT_COMPARED = {"max_disparity"}
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@runtime_checkable
class _Derives(Protocol):
    """A module whose stored state may lack tensors that follow from others."""

    def derived(self, state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class ModelCard:
    """What is known about one set of weights.

    Attributes:
        architecture: as in :class:`~stereopsis.zoo.ModelEntry`.
        config: the model's configuration as plain values.
        model: the registry name the weights were made for.
        recipe: every setting of the training run, or where the weights were imported from.
        data: what it was trained on.
        training_time: in words, e.g. ``"3.5 h, 40 000 steps"``.
        hardware: what it was trained on.
        metrics: name to value, measured by a named command.
        licence: of the weights.
        notes: how far it is from the paper.
    """

    architecture: str
    config: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""
    training_time: str = ""
    hardware: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    notes: str = ""


def save_weights(
    path: str | Path,
    state: Mapping[str, Tensor] | nn.Module,
    card: ModelCard,
    *,
    storage: Literal["float16", "float32"] = "float16",
) -> Path:
    """Write weights and their card; the file appears whole or not at all.

    Args:
        path: ends in ``.safetensors``.
        state: a module or its state dict; floating tensors are stored as ``storage``, others as they are.
        storage: float16 halves the file and is what the package ships.

    Raises:
        ValueError: a wrong ending, or a value that is not finite once stored.
        FileNotFoundError: the folder does not exist.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights cannot be written to {path}; name a file that ends in .safetensors.")
    tensors = state.state_dict() if isinstance(state, nn.Module) else state
    kept = {name: _store(name, tensor, storage) for name, tensor in tensors.items()}
    return _write(path, kept, card)


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], ModelCard]:
    """Tensors (floating ones as float32, on the CPU) and card of a weights file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not safetensors, damaged, or without a card.
    """
    tensors, header = _read(Path(path))
    return {name: _widen(tensor) for name, tensor in tensors.items()}, _card(header, Path(path))


def read_card(path: str | Path) -> ModelCard:
    """The card alone, without reading the tensors; raises as :func:`read_weights` does."""
    return _card(_read_header(Path(path)), Path(path))


def write_card(path: str | Path, card: ModelCard) -> Path:
    """Replace the card of a weights file and leave its tensors as they are, e.g. to add measured metrics."""
    tensors, _ = _read(Path(path))
    return _write(Path(path), tensors, card)


def load_into(
    model: nn.Module, path: str | Path, entry: ModelEntry, *, verify: bool = False, any_config: bool = False
) -> ModelCard:
    """Fill a model from a weights file.

    Args:
        entry: the registry row the model was built from; architecture and config of the file must agree with it.
        verify: compare the file with ``checksums.json`` first, as is done for shipped files.
        any_config: another config will do if the tensors fit, e.g. to train on for another scale.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: damaged, of another architecture, or with other tensors than the model has.
    """
    if verify:
        verify_shipped(path)
    tensors, card = read_weights(path)
    if card.architecture != entry.architecture:
        raise ValueError(
            f"{path} holds weights of {card.architecture} ({card.model or 'no model name'}) but {entry.name} is a "
            f"{entry.architecture}; choose the model they were made for."
        )
    wanted = _plain(entry.config_dict())
    for key in sorted((wanted.keys() & card.config.keys()) - _NOT_COMPARED) if not any_config else ():
        if card.config[key] != wanted[key]:
            raise ValueError(
                f"{path} was saved with {key}={card.config[key]!r} ({card.model or card.architecture}) but "
                f"{entry.name} has {key}={wanted[key]!r}; choose the model these weights were made for."
            )
    tensors = full_state(model, tensors)
    expected = model.state_dict()
    _check_tensors(path, entry.name, expected, tensors)
    model.load_state_dict(tensors)
    return card


def full_state(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A stored state with the tensors that its modules derive from it; a state that lacks nothing is returned as it is.

    Args:
        model: its modules that have a method ``derived(state, prefix)`` add what that returns.
        state: names and tensors of a file.
    """
    full = dict(state)
    for name, module in model.named_modules():
        if isinstance(module, _Derives):
            full.update(module.derived(state, f"{name}."))
    return full


def shipped_path(name: str) -> Path:
    """Path of a shipped weights file.

    Raises:
        FileNotFoundError: the installation lacks it.
    """
    path = SHIPPED / name
    if not path.is_file():
        raise FileNotFoundError(
            f"the shipped weights {path} are missing; reinstall stereopsis or pass a file as weights."
        )
    return path


def verify_shipped(path: str | Path) -> None:
    """Compare a shipped file with the SHA-256 in ``checksums.json`` beside it.

    Raises:
        ValueError: the file is not in the table, or differs.
    """
    path = Path(path)
    table = _read_checksums(path.parent)
    if path.name not in table:
        raise ValueError(f"{path} is not listed in {path.parent / CHECKSUMS}; reinstall stereopsis or record it there.")
    found = file_sha256(path)
    if found != table[path.name]:
        raise ValueError(
            f"{path} has SHA-256 {found[:12]}... instead of {table[path.name][:12]}...; the file was changed or "
            "damaged, reinstall stereopsis."
        )


def record_checksums(folder: str | Path = SHIPPED) -> dict[str, str]:
    """Write ``checksums.json`` for every safetensors file of a folder and return the table."""
    from stereopsis.io.atomic import atomic_write_text

    folder = Path(folder)
    table = {path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))}
    atomic_write_text(folder / CHECKSUMS, json.dumps(table, indent=2, sort_keys=True) + "\n")
    return table


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _store(name: str, tensor: Tensor, storage: str) -> Tensor:
    kept = tensor.detach().cpu()
    if kept.is_floating_point():
        kept = kept.to(getattr(torch, storage))
        if not torch.isfinite(kept).all():
            raise ValueError(
                f"tensor {name} has values that are not finite as {storage} (largest {tensor.abs().max().item():.3g}); "
                "save as float32, or look for a diverged training run."
            )
    # safetensors refuses tensors that share memory, as tied parameters and views do.
    return kept.clone(memory_format=torch.contiguous_format)


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    # Tuples become lists, as they do in the file, so that the two compare equal.
    return json.loads(json.dumps(config))


def _write(path: Path, tensors: dict[str, Tensor], card: ModelCard) -> Path:
    from safetensors.torch import save

    from stereopsis.io.atomic import atomic_write

    header = asdict(card) | {"tensors_sha256": _digest(tensors)}
    # One key alone: safetensors writes several in no fixed order, and the file's checksum would change.
    content = save(tensors, metadata={_HEADER: json.dumps(header, sort_keys=True)})
    with atomic_write(path) as file:
        file.write(content)
    return path


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = _read_header(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(_damaged(path, error)) from error
    if header.get("tensors_sha256") != _digest(tensors):
        raise ValueError(_damaged(path, "the tensors do not match the checksum in the header"))
    return tensors, header


def _read_header(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {path}; check the path.")
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(_PICKLE_STARTS):
        raise ValueError(
            f"{path} is a torch or pickle checkpoint, not safetensors; convert it with `stereopsis import {path} "
            "--architecture NAME --out FILE.safetensors`."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(_damaged(path, error)) from error
    if _HEADER not in metadata:
        raise ValueError(
            f"{path} has no stereopsis model card in its header; write it with stereopsis.zoo.save_weights or convert "
            "it with `stereopsis import`."
        )
    try:
        return json.loads(metadata[_HEADER])
    except json.JSONDecodeError as error:
        raise ValueError(_damaged(path, f"its model card is not JSON, {error}")) from error


def _damaged(path: Path, reason: object) -> str:
    return f"{path} is not a readable safetensors file ({reason}); it is damaged or cut short, fetch or save it again."


def _card(header: Mapping[str, Any], path: Path) -> ModelCard:
    known = {item.name for item in fields(ModelCard)}
    try:
        return ModelCard(**{key: value for key, value in header.items() if key in known})
    except TypeError:
        missing = "the card states no architecture"
        raise ValueError(_damaged(path, missing)) from None


def _check_tensors(path: str | Path, name: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        raise ValueError(
            f"{path} does not fit {name}: it lacks {len(missing)} tensors and has {len(extra)} unknown ones, the first "
            f"{(missing or extra)[0]}; choose the model these weights were made for."
        )
    for key, tensor in expected.items():
        if tensor.shape != found[key].shape:
            raise ValueError(
                f"{path} does not fit {name}: {key} is {tuple(found[key].shape)} instead of {tuple(tensor.shape)}; "
                "choose the model these weights were made for."
            )


def _read_checksums(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"the checksum table {path} cannot be read ({error}); reinstall stereopsis.") from error
