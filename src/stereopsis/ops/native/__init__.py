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

Argument = Tensor | ctypes.Structure | int | None


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


class Call:
    """A kernel of the library with its arguments, to be run over all rows any number of times, split among threads.

    Args:
        kernel: its name; it takes tensors, numbers and a range of rows.
        tensors: contiguous, in the order that the kernel's comment names; None is its NULL. A structure of ctypes, or
            an address as an integer, stands for a tensor; what an address means must be kept alive elsewhere.
        numbers: sizes and switches, likewise.
    """

    def __init__(self, kernel: str, tensors: Sequence[Argument], numbers: Sequence[int], rows: int) -> None:
        self._library = library()
        self._function = getattr(self._library, kernel)
        self.name = kernel
        self._kept = tensors
        self._pointers = (ctypes.c_void_p * len(tensors))(*map(_address, tensors))
        self._numbers = (ctypes.c_int * len(numbers))(*numbers)
        self._rows = rows

    def put(self, place: int, tensor: Tensor) -> None:
        """Another tensor instead of one, which the caller keeps alive until it was run."""
        self._pointers[place] = tensor.data_ptr()

    def __call__(self) -> None:
        function, pointers, numbers, rows = self._function, self._pointers, self._numbers, self._rows
        threads, team = torch.get_num_threads(), _team()
        if threads == 1 or team is None:
            over_rows(lambda begin, end: function(pointers, numbers, begin, end), rows)
        else:
            # two shares a thread, so that one that comes late does not hold up the others
            share = -(-rows // (2 * threads))
            self._library.over_rows(team, function, pointers, numbers, rows, share, threads)  # type: ignore[union-attr]


def _address(argument: Argument) -> int | None:
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    return ctypes.addressof(argument) if isinstance(argument, ctypes.Structure) else argument


def run(kernel: str, tensors: Sequence[Tensor | None], numbers: Sequence[int], rows: int) -> None:
    """Runs a kernel of the library once; arguments as of :class:`Call`."""
    Call(kernel, tensors, numbers, rows)()


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
