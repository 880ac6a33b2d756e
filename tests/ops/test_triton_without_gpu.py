"""What of the Triton kernels can be tested without a GPU: results under the interpreter, compilation, the choice."""

import os
import re
import subprocess
import sys
from importlib import import_module, util
from pathlib import Path

import pytest
import torch

from stereopsis.ops import triton
from stereopsis.ops.tile_match import tile_match

pytestmark = pytest.mark.skipif(util.find_spec("triton") is None, reason="Triton is not installed")
TESTS = Path(__file__).with_name("test_triton.py")

# Of each kernel: pointers and numbers (f32, f16, u8, i64: pointers; float, int: numbers), constants, and warps.
KERNELS = {
    "tile_match._tile_match": ("f32 f32 f32 f32 float int int int int", (16, 16, 32), 4),
    "tile_warp._tile_warp_cost": ("f16 f16 f32 f32 int int", (32, 16), 4),
    "tile_warp._tile_warp_cost_backward": ("f32 f32 f32 f32 f32 f32 f32 int int", (32, 16), 4),
    "propagation._propagate": ("f32 f32 f32 int int int", (True, 256), 4),
    "propagation._propagate_backward": ("f32 f32 f32 f32 f32 f32 int int int", (64,), 1),
    "kernel_average._kernel_average": ("f32 f32 f32 u8 f32 f32 int int int int", (9, True, True, 128), 4),
    "patch_match._patch_match": ("f32 f32 i64 int int int int int", (16, -1, 16, 64, 32), 4),
    "cost_volume._absolute_volume": ("f32 f32 f32 int int int int", (16, 64), 4),
    "cost_volume._residual_volume": ("f32 f32 f32 f32 int int int int", (8, 64), 4),
}
TYPES = {"f32": "*fp32", "f16": "*bf16", "u8": "*u8", "i64": "*i64", "float": "fp32", "int": "i32"}


def test_results_under_tritons_interpreter():
    """In a process of its own: how kernels run is settled when Triton is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("STEREOPSIS_KERNELS", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=TESTS.parents[2])
    assert done.returncode == 0, done.stdout[-5000:]
    passed = re.search(r"^(\d+) passed(?:, \d+ warnings?)? in", done.stdout, re.MULTILINE)  # and none skipped
    assert passed, done.stdout[-1000:]
    assert int(passed[1]) > 50


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter does not compile")
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_for_an_h100(name, tmp_path, monkeypatch):
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module, _, function = name.partition(".")
    kernel = getattr(import_module(f"stereopsis.ops.triton.{module}"), function)
    types, constants, warps = KERNELS[name]
    kinds = [TYPES[t] for t in types.split()]
    signature = dict(zip(kernel.arg_names, kinds + ["constexpr"] * len(constants), strict=True))
    values = {(len(kinds) + place,): value for place, value in enumerate(constants)}
    source = ASTSource(kernel, signature, values)
    found = compiled(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    assert f".entry {function}" in found.asm["ptx"]
    assert len(found.asm["cubin"]) > 1000


def test_other_devices_and_doubles_do_without():
    left, right = torch.zeros(1, 4, 2, 4), torch.zeros(1, 4, 2, 16)
    assert not triton.usable(left, right)
    assert not triton.usable(left.to("meta"), right.to("meta"))
    assert torch.float64 not in triton.DTYPES
    assert tile_match(left, right, 3).eq(0).all()


def test_the_switch_and_old_gpus(monkeypatch):
    gpu = torch.device("cuda", 0)
    monkeypatch.delenv("STEREOPSIS_KERNELS", raising=False)
    compiles = triton._compiles_for.__wrapped__
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert not compiles(gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert compiles(gpu)
    monkeypatch.setenv("STEREOPSIS_KERNELS", "torch")
    assert not compiles(gpu)
