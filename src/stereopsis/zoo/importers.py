"""Official checkpoints of others, renamed into our modules; read from a file the user has, never shipped.

HITNet: the authors' frozen TensorFlow graph (``eth3d.pb``) is read directly, without TensorFlow, or as an ``.npz`` of
its tensors under their TensorFlow names. Kernels are stored (height, width, in, out).

AnyNet: the authors' PyTorch checkpoints (``.tar``), read without running any code that they might hold.

DKN and FDKN: the authors' PyTorch files, bare state dicts without a suffix, read in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FLOAT32 = 1  # DataType of TensorFlow's TensorProto
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of one protocol buffer message, in order."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while position < len(message):
        key = varint()
        field, wire = key >> 3, key & 7
        if wire == VARINT:
            yield field, varint()
            continue
        if wire not in (FIXED64, BYTES, FIXED32):
            raise ValueError("not a protocol buffer")
        size = varint() if wire == BYTES else 8 if wire == FIXED64 else 4
        if position + size > len(message):
            raise ValueError("the message ends early")
        yield field, message[position : position + size]
        position += size


def _one(message: memoryview, number: int) -> int | memoryview | None:
    return next((value for field, value in _fields(message) if field == number), None)


def _tensor(proto: memoryview) -> np.ndarray | None:
    """A float TensorProto with inline content, else None."""
    if _one(proto, 1) != FLOAT32:
        return None
    shape_message, content = _one(proto, 2), _one(proto, 4)
    if not isinstance(shape_message, memoryview) or not isinstance(content, memoryview):
        return None
    shape = []
    for field, dimension in _fields(shape_message):
        if field == 2 and isinstance(dimension, memoryview):
            size = _one(dimension, 1)
            shape.append(size if isinstance(size, int) else 0)
    return np.frombuffer(content, "<f4").reshape(shape)


def read_frozen_graph(path: str | Path) -> dict[str, np.ndarray]:
    """The float constants of a frozen TensorFlow graph (GraphDef), by node name.

    Raises:
        ValueError: the file is not a frozen graph, or ends early.
    """
    tensors = {}
    try:
        for field, node in _fields(memoryview(Path(path).read_bytes())):
            if field != 1 or not isinstance(node, memoryview):
                continue
            operation = _one(node, 2)
            if not isinstance(operation, memoryview) or bytes(operation) != b"Const":
                continue
            title = _one(node, 1)
            name = bytes(title).decode() if isinstance(title, memoryview) else ""
            for attribute_field, attribute in _fields(node):
                if attribute_field != 5 or not isinstance(attribute, memoryview):
                    continue
                key, value = _one(attribute, 1), _one(attribute, 2)
                if not isinstance(key, memoryview) or bytes(key) != b"value" or not isinstance(value, memoryview):
                    continue
                proto = _one(value, 8)
                array = _tensor(proto) if isinstance(proto, memoryview) else None
                if array is not None:
                    tensors[name] = array
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not a whole frozen TensorFlow graph ({error}); give the authors' .pb file."
        ) from error
    if not tensors:
        raise ValueError(f"{path} holds no float constants; give the authors' frozen .pb graph.")
    return tensors


def _hitnet_name(module: str, scales: int) -> str | None:
    """Our module for a TensorFlow scope of the published HITNet graph, or None for what is not a convolution of it."""
    rules: list[tuple[str, str]] = [
        (r"fe_shared/conv_down_1_0", "features.stem.0"),
        (r"fe_shared/conv_down_(\d)", r"features.down.\1.0.0"),
        (r"fe_shared/conv_down_1_(\d)", r"features.down.{minus1}.1.0"),
        (r"fe_shared/conv_upsample_(\d)", r"features.up.\1.0"),
        (r"level(\d)/shared/conv_reduce", "initialize.{level}.reduce"),
        (r"level(\d)/shared/conv_embedding", "initialize.{level}.embedding.0"),
        (r"level(\d)/init_to_prop/conv_hyp", "initialize.{level}.descriptor.0"),
        (r"level(\d)/shared/prop_warp/conv2d_neighborsX_1", "propagate.{level}.cost.0"),
        (r"level(\d)/shared/prop/conv1", "propagate.{level}.conv.0"),
        (r"level(\d)/shared/prop/resblock(\d)/conv1", r"propagate.{level}.blocks.\2.conv1.0"),
        (r"level(\d)/shared/prop/resblock(\d)/conv2", r"propagate.{level}.blocks.\2.conv2"),
        (r"level(\d)/shared/prop/convn", "propagate.{level}.update"),
        (r"shared/refinement_l(\d)/conv1x1", r"refine.\1.reduce.0"),
        (r"shared/refinement_l(\d)/refiner/conv1", r"refine.\1.conv.0"),
        (r"shared/refinement_l(\d)/refiner/resblock(\d)/conv1", r"refine.\1.blocks.\2.conv1.0"),
        (r"shared/refinement_l(\d)/refiner/resblock(\d)/conv2", r"refine.\1.blocks.\2.conv2"),
        (r"shared/refinement_l(\d)/refiner/convn", r"refine.\1.update"),
    ]
    coarsest = scales - 1
    merge = re.fullmatch(r"fe_shared/conv_up_(\d)_(\d)", module)
    if merge:
        layer, level = int(merge[1]), int(merge[2])
        return f"features.bottom.{layer - 1}.0" if level == coarsest else f"features.merge.{level}.{layer}.0"
    for pattern, target in rules:
        match = re.fullmatch(pattern, module)
        if match:
            number = int(match[1]) if match.groups() else 0
            # TensorFlow counts levels from the coarsest, we from full resolution
            return match.expand(target.replace("{level}", str(coarsest - number)).replace("{minus1}", str(number - 1)))
    return None


def hitnet_state(tensors: dict[str, np.ndarray], scales: int = 5) -> dict[str, Tensor]:
    """State dict of :class:`~stereopsis.matching.hitnet.HITNet` from the published tensors under TensorFlow names."""
    state = {}
    for name, array in tensors.items():
        module, _, kind = name.rpartition("/")
        ours = _hitnet_name(module, scales)
        axes = {"kernel": 4, "bias": 1}.get(kind)
        if ours is None or array.ndim != axes or array.dtype.kind != "f":
            continue
        if kind == "kernel":  # (h, w, in, out) to (out, in, h, w); transposed ones (h, w, out, in) to (in, out, h, w)
            state[f"{ours}.weight"] = torch.from_numpy(array.transpose(3, 2, 0, 1).copy())
        else:
            state[f"{ours}.bias"] = torch.from_numpy(array.copy())
    return state


def import_hitnet(model: nn.Module, path: str | Path) -> nn.Module:
    """Loads the authors' HITNet weights (``.pb`` or ``.npz`` of its tensors) into a model of the same layout.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a checkpoint, or one of another layout.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the authors' checkpoint.")
    if path.suffix == ".npz":
        try:
            with np.load(path) as archive:
                tensors = {name: archive[name] for name in archive.files}
        except Exception as error:  # numpy and zipfile raise many kinds for a damaged archive
            raise ValueError(f"{path} is not a readable .npz archive ({error}); copy it again.") from error
    else:
        tensors = read_frozen_graph(path)
    return _load_strictly(model, hitnet_state(tensors), path)


_ANYNET_SCOPES = (
    (r"feature_extraction\.block0\.0\.", "features.stem."),
    (r"feature_extraction\.block0\.1\.", "features.down.0."),
    (r"feature_extraction\.blocks\.0\.", "features.down.1."),
    (r"feature_extraction\.blocks\.1\.", "features.down.2."),
    (r"feature_extraction\.upblocks\.(\d)\.conv\.", r"features.up.\1."),
    (r"volume_postprocess\.", "regularize."),
    (r"refine_spn\.0\.", "refine.guidance."),
    (r"refine_spn\.1\.", "refine.lift."),
    (r"refine_spn\.2\.", "refine.project."),
)


def anynet_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of :class:`~stereopsis.matching.anynet.AnyNet` from the published one.

    The checkpoints come from ``DataParallel`` and from before torch counted the batches of a normalisation; the prefix
    goes and the counts start at 0. Names that are not known stay as they are.
    """
    state = {}
    for name, tensor in tensors.items():
        ours = name.removeprefix("module.")
        for pattern, target in _ANYNET_SCOPES:
            ours, renamed = re.subn("^" + pattern, target, ours)
            if renamed:
                break
        state[ours] = tensor
        if ours.endswith(".running_mean"):
            state.setdefault(ours.replace("running_mean", "num_batches_tracked"), torch.tensor(0, dtype=torch.int64))
    return state


def import_anynet(model: nn.Module, path: str | Path) -> nn.Module:
    """Loads the authors' AnyNet weights (``.tar``) into a model of the same layout.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a checkpoint, or one of another layout.
    """
    path = Path(path)
    checkpoint = _read_checkpoint(path, "the authors' .tar file")
    tensors = checkpoint.get("state_dict") if isinstance(checkpoint, Mapping) else None
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{path} is a PyTorch file without weights under 'state_dict'; give the authors' .tar file.")
    return _load_strictly(model, anynet_state(tensors), path)


def _dkn_scopes(fast: bool) -> tuple[tuple[str, str], ...]:
    """Patterns of the published names and ours; the authors count convolutions from 1, strided ones too."""
    layers = [f"layers.{i}" for i in range(6)]
    if not fast:
        layers = ["conv1", "down1", "conv2", "down2", "conv3", "conv4", "conv5"]
    rules = [("ImageKernel.", "image_stream."), ("DepthKernel.", "depth_stream.")]
    for number, ours in enumerate(layers, start=1):
        rules += [(f".conv{number}.", f".{ours}.0."), (f".conv{number}_bn.", f".{ours}.1.")]
    return tuple(rules)


def dkn_state(tensors: Mapping[str, Tensor], fast: bool) -> dict[str, Tensor]:
    """State dict of :class:`~stereopsis.upsampling.dkn.DKN` from the published one, of DKN or of FDKN (``fast``).

    The authors' layers for weights and for offsets become one.
    """
    state = {}
    for name, tensor in tensors.items():
        ours = name.removeprefix("module.")
        for theirs, target in _dkn_scopes(fast):
            ours = ours.replace(theirs, target)
        state[ours] = tensor
        if ours.endswith(".running_mean"):
            state.setdefault(ours.replace("running_mean", "num_batches_tracked"), torch.tensor(0, dtype=torch.int64))
    for name in [name for name in state if ".conv_weight." in name]:
        offsets = name.replace("conv_weight", "conv_offset")
        if offsets in state and state[name].ndim and state[name].shape[1:] == state[offsets].shape[1:]:
            state[name.replace("conv_weight", "head")] = torch.cat([state.pop(name), state.pop(offsets)])
    return state


def import_dkn(model: nn.Module, path: str | Path) -> nn.Module:
    """Loads the authors' DKN or FDKN weights into a model of the same layout.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a checkpoint, or one of another layout.
    """
    path = Path(path)
    tensors = _read_checkpoint(path, "the authors' file")
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{path} is a PyTorch file of other things than weights; give the authors' file.")
    return _load_strictly(model, dkn_state(tensors, fast=any(".layers." in name for name in model.state_dict())), path)


def import_checkpoint(architecture: str, model: nn.Module, path: str | Path) -> nn.Module:
    """Loads a checkpoint of others into a model, by the model's architecture, e.g. ``anynet``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no importer for the architecture, or the file does not fit it.
    """
    importers = {"anynet": import_anynet, "dkn": import_dkn, "fdkn": import_dkn, "hitnet": import_hitnet}
    if architecture not in importers:
        *some, last = sorted(importers)
        raise ValueError(f"There is no importer for {architecture}; {', '.join(some)} and {last} have one.")
    return importers[architecture](model, path)


def _read_checkpoint(path: Path, remedy: str) -> Any:
    """What a PyTorch file holds, without running code of it; the remedy names what should be given."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the authors' checkpoint.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zipfile and torch raise many kinds for a damaged or foreign file
        raise ValueError(
            f"{path} is not a readable PyTorch checkpoint ({type(error).__name__}); give {remedy}."
        ) from error


def _load_strictly(model: nn.Module, state: dict[str, Tensor], path: Path) -> nn.Module:
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if expected != found:
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ValueError(
            f"{path} does not hold the weights of this architecture ({len(differing)} of {len(expected)} tensors "
            f"differ, first {differing[0]}); choose the architecture it was trained for."
        )
    model.load_state_dict(state)
    return model
