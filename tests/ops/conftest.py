"""Fixtures of the operators' tests."""

import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stereopsis.ops import native

FOLDER = Path(native.__file__).parent
X86 = platform.machine().lower() in ("x86_64", "amd64")
# what a CPU can run, by the name torch gives it
RUNNABLE = {"avx512": {"avx512", "avx2"}, "avx2": {"avx2"}}


@pytest.fixture(params=["avx512", "avx2"] if X86 else ["default"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    """Each compiled library in turn; skips those that were not built or that this CPU cannot run."""
    if os.environ.get("STEREOPSIS_KERNELS") == "torch":
        pytest.skip("the C kernels are switched off (STEREOPSIS_KERNELS=torch)")
    paths = list(FOLDER.glob(f"libkernels.{request.param}.*"))
    if not paths:
        pytest.skip(f"no C kernels for {request.param} were built here")
    capability = torch.backends.cpu.get_cpu_capability().lower()
    if request.param not in RUNNABLE.get(capability, {"default"}):
        pytest.skip(f"this CPU ({capability}) does not run {request.param}")
    library = ctypes.CDLL(str(paths[0]))
    monkeypatch.setattr(native, "library", lambda: library)
    return library


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """torch's number of threads, which the kernels follow."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
