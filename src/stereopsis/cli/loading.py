"""Models for the commands, by name; what is loaded is checked against what the command does with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stereopsis.cli.options import DType, Runner

if TYPE_CHECKING:
    from torch import nn

    from stereopsis.compression.codec import PairCodec
    from stereopsis.export.runtimes import Format
    from stereopsis.zoo.entry import Family


def load_runner(
    runtime: Runner,
    graph: Path | None,
    name: str,
    weights: Path | None,
    device: str,
    dtype: DType,
    max_disparity: int | None,
) -> nn.Module:
    """A matcher in torch or in another runtime; without graphs of its own it is exported for this run.

    Raises:
        ValueError: options that exclude each other, or as :func:`load_matcher`.
        FileNotFoundError, ModuleNotFoundError: as of :class:`~stereopsis.export.matcher.GraphMatcher`.
    """
    if runtime == "torch":
        if graph is not None:
            raise ValueError("--graph is for another runtime; give --runtime onnxruntime or openvino too.")
        return load_matcher(name, weights, device, dtype)
    if device != "cpu" or dtype == "bfloat16":
        option = f"--device {device}" if device != "cpu" else f"--dtype {dtype}"
        raise ValueError(f"{option} is for torch; exported graphs compute in float32 on the CPU, so leave it out.")
    if graph is not None and weights is not None:
        raise ValueError("--weights and --graph exclude each other; a graph holds its weights.")
    from tempfile import TemporaryDirectory

    from stereopsis.export import export_model
    from stereopsis.export.matcher import GraphMatcher
    from stereopsis.zoo import get_entry

    if graph is not None:
        return GraphMatcher(graph, runtime)
    network = load_matcher(name, weights)
    with TemporaryDirectory() as folder:
        written: Format = "onnx" if runtime == "onnxruntime" else "openvino"
        done = export_model(get_entry(name), network, folder, format=written, dynamic=True, max_disparity=max_disparity)
        return GraphMatcher(done.description, runtime)


def load_matcher(name: str, weights: Path | None = None, device: str = "cpu", dtype: DType = "float32") -> nn.Module:
    """A matching model by name; errors as of :func:`load_of`."""
    return load_of("matching", name, weights, device, dtype)


def load_upsampler(name: str, weights: Path | None = None, device: str = "cpu", dtype: DType = "float32") -> nn.Module:
    """An upsampling model by name; errors as of :func:`load_of`."""
    return load_of("upsampling", name, weights, device, dtype)


def load_codec(name: str, weights: Path | None = None, device: str = "cpu") -> PairCodec:
    """A codec by name; errors as of :func:`load_of`."""
    from stereopsis.compression.codec import PairCodec

    codec = load_of("compression", name, weights, device)
    assert isinstance(codec, PairCodec)
    return codec


def load_reduced(
    name: str, weights: Path | None, device: str, dtype: DType, upsampler: str | None, reduce: float | None
) -> nn.Module:
    """A matcher, for smaller views if an upsampler is named that brings its map back to full size.

    Args:
        upsampler: name of the upsampling model; None for a matcher of full views.
        reduce: how much smaller the views are; by default the scale of the upsampler, or 4.
    """
    from stereopsis.pipeline.reduced import ReducedMatcher

    matcher = load_matcher(name, weights, device, dtype)
    if upsampler is None:
        return matcher
    network = load_upsampler(upsampler, None, device, dtype)
    own = getattr(getattr(network, "config", None), "scale", None)
    return ReducedMatcher(matcher, network, reduce or own or 4)


def load_of(family: Family, name: str, weights: Path | None, device: str, dtype: DType = "float32") -> nn.Module:
    """A model by name, of a family.

    Raises:
        ValueError: of another family, or as :func:`stereopsis.load`.
        FileNotFoundError: the weights do not exist.
    """
    import torch

    from stereopsis.ops.memory import keep_large_blocks
    from stereopsis.zoo.registry import check_is, load

    check_is(family, name)
    keep_large_blocks()
    return load(name, weights=weights, device=device, dtype=None if dtype == "auto" else getattr(torch, dtype))
