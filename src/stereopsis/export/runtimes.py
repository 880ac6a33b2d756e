"""ONNX Runtime and OpenVINO behind one call, on the CPU, in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

Format = Literal["onnx", "openvino"]
Runtime = Literal["onnxruntime", "openvino"]
RUNTIMES: dict[Format, Runtime] = {"onnx": "onnxruntime", "openvino": "openvino"}
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml"}

Session = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def require(*packages: str) -> None:
    """Makes sure that packages of the extra "export" are there.

    Raises:
        ModuleNotFoundError: one is not; the sentence says how to install it.
    """
    for package in packages:
        try:
            import_module(package)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{package} is not installed, which exported graphs need; run pip install 'stereopsis[export]'."
            ) from error


def open_session(runtime: Runtime, path: Path) -> Session:
    """A graph, ready to run: inputs by name to outputs by name; it uses as many threads as torch does.

    OpenVINO reads .onnx and .xml, ONNX Runtime .onnx alone.

    Raises:
        ModuleNotFoundError: the runtime is not installed.
        FileNotFoundError: there is no such file.
        ValueError: the runtime cannot read it.
    """
    require(runtime)
    if not path.is_file():
        raise FileNotFoundError(f"There is no graph {path}; export it again.")
    try:
        return _onnxruntime(path) if runtime == "onnxruntime" else _openvino(path)
    except Exception as error:  # both have their own kinds
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(f"{runtime} cannot read {path} ({reason}); export it again.") from error


def _onnxruntime(path: Path) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        answers = session.run(names, {name: value.contiguous().numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(answer) for name, answer in zip(names, answers, strict=True)}

    return run


def _openvino(path: Path) -> Session:
    import openvino

    # Left to itself OpenVINO computes in bfloat16 where the CPU can, columns of a warp included.
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(path, "CPU", config)
    names = [output.get_any_name() for output in compiled.outputs]
    request = compiled.create_infer_request()

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        answers = request.infer({name: value.contiguous().numpy() for name, value in inputs.items()})
        # copies, as the next call writes into the same memory
        return {name: torch.from_numpy(answers[i].copy()) for i, name in enumerate(names)}

    return run


def convert_to_openvino(source: Path, path: Path, half: bool = False) -> None:
    """An .onnx file as OpenVINO's .xml and, beside it, .bin.

    Args:
        half: weights are stored as float16.
    """
    require("openvino")
    import openvino

    openvino.save_model(openvino.Core().read_model(source), path, compress_to_fp16=half)
