"""The C kernels: a small library without dependencies, compiled when the package is built and called through ctypes.

One library an instruction set (``libkernels.avx512.so`` and so on); the best that torch finds on this CPU is loaded.

Where the library is missing, or ``STEREOPSIS_KERNELS=torch`` is set, the torch references do the same work.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from stereopsis.ops.portable import portable


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where there are none or they are switched off."""
    if os.environ.get("STEREOPSIS_KERNELS") == "torch":
        return None
    capability = torch.backends.cpu.get_cpu_capability().lower()
    # an AVX-512 machine runs the AVX2 library too; every other name is its own
    names = {"avx512": ("avx512", "avx2"), "avx2": ("avx2",)}.get(capability, ("default",))
    for name in names:
        for path in Path(__file__).parent.glob(f"libkernels.{name}.*"):
            try:
                return ctypes.CDLL(str(path))
            except OSError:  # built for another platform
                continue
    return None


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="stereopsis")


@functools.cache
def _team() -> object | None:
    """How torch's own OpenMP shares out work, or None where it has another one."""
    try:
        return ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD).GOMP_parallel
    except (AttributeError, OSError):  # another platform; another OpenMP
        return None


def run(kernel: str, tensors: Sequence[Tensor | None], numbers: Sequence[int], rows: int) -> None:
    """Runs a kernel of the library over all rows, split among torch's threads.

    Args:
        kernel: its name; it takes tensors, numbers and a range of rows.
        tensors: contiguous, in the order that the kernel's comment names; None is its NULL.
        numbers: sizes and switches, likewise.
    """
    lib = library()
    assert lib is not None
    pointers = (ctypes.c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))
    values = (ctypes.c_int * len(numbers))(*numbers)
    function, threads = getattr(lib, kernel), torch.get_num_threads()
    if threads == 1 or _team() is None:
        over_rows(lambda begin, end: function(pointers, values, begin, end), rows)
    else:
        # two shares a thread, so that one that comes late does not hold up the others
        lib.over_rows(_team(), function, pointers, values, rows, -(-rows // (2 * threads)), threads)


def over_rows(kernel: Callable[[int, int], object], rows: int, *, step: int = 1) -> None:
    """Runs ``kernel(begin, end)`` over all rows, split among torch's number of threads (ctypes frees the GIL)."""
    threads = torch.get_num_threads()
    share = max(-(-rows // threads // step) * step, step)
    own, *others = [(begin, min(begin + share, rows)) for begin in range(0, max(rows, 1), share)]
    # the calling thread works too: a thread that has to be woken costs as much as a small kernel
    running = [_pool(threads - 1).submit(kernel, *bound) for bound in others]
    kernel(*own)
    for work in running:
        work.result()


def usable(*tensors: Tensor) -> bool:
    """True where the kernels take these tensors: float32 on the CPU, and not while what is done is traced."""
    return (
        all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
        and not torch.compiler.is_compiling()
        and not portable()
        and library() is not None
    )


def needs_gradient(*tensors: Tensor) -> bool:
    """True where a result of these tensors must know how it came about."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def channels_last(tensor: Tensor) -> Tensor:
    """(b, c, h, w) as contiguous (b, h, w, c); free where the memory is laid out so already."""
    return tensor.permute(0, 2, 3, 1).contiguous()
