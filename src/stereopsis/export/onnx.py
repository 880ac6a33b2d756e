"""From a torch module to an ONNX file of standard operators."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from stereopsis.export.graphs import Graph
from stereopsis.export.runtimes import require
from stereopsis.ops.portable import standard_operators

OPSET = 20
LARGEST = 1024  # multiples of the placement that a side may have


def write_onnx(
    graph: Graph, inputs: Mapping[str, Tensor], path: Path, *, multiple: int, dynamic: bool, half: bool = False
) -> None:
    """Traces a graph and writes it.

    Args:
        inputs: to trace with; where sizes are to stay free, both sides of the image are at least two multiples.
        multiple: of the sides of the image.
        dynamic: any such size; else that of the inputs alone.
        half: weights are stored as float16; what is computed stays float32.

    Raises:
        ModuleNotFoundError: the extra "export" is not installed.
    """
    require("onnx", "onnxscript")
    sizes = None
    if dynamic:
        rows, columns = (torch.export.Dim(name, min=1, max=LARGEST) for name in ("rows", "columns"))
        factors = [multiple // stride for stride in graph.inputs.values()]
        sizes = tuple({2: f * rows, 3: f * columns} if f > 1 else {2: rows, 3: columns} for f in factors)
    arguments = tuple(inputs[name] for name in graph.inputs)
    with _quiet(), torch.no_grad(), standard_operators():
        program = torch.export.export(graph.module.eval(), arguments, dynamic_shapes=sizes, strict=False)
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False,
        )
    assert written is not None
    written.save(path, external_data=False)
    if half:
        store_half(path)


def store_half(path: Path) -> None:
    """Rewrites a file with its weights in float16, each cast to float32 where it is used."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        values = numpy_helper.to_array(tensor)
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype("float16"), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    for number, cast in enumerate(casts):
        model.graph.node.insert(number, cast)
    onnx.save(model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
