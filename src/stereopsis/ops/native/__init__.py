"""The C kernels: a small library without dependencies, compiled when the package is built and called through ctypes.

One library an instruction set (``libkernels.avx512.so`` and so on); the best that torch finds on this CPU is loaded.
Where the library is missing, or ``STEREOPSIS_KERNELS=torch`` is set, the torch references do the same work.

Kernels take addresses and cannot check them. :class:`Call` is the only way to run one: it compares data types, devices,
layouts, shapes and sizes with what :mod:`~stereopsis.ops.native.declarations` states for the kernel. Tensors that a
kernel writes to come from :func:`empty` and :func:`zeros`, which ignore torch's default data type and device.
"""

from __future__ import annotations

import ctypes
import functools
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from stereopsis.ops.native import declarations
from stereopsis.ops.portable import portable


class Region(Protocol):
    """A part of a tensor's memory that starts at a number of its own; :class:`~stereopsis.ops.program.Map` is one."""

    @property
    def memory(self) -> Tensor: ...
    @property
    def first(self) -> int: ...


INTERFACE = 2  # of native/kernels.h

Argument = Tensor | Region | ctypes.Structure | None


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where there are none or they are switched off."""
    if os.environ.get("STEREOPSIS_KERNELS") == "torch":
        return None
    built = os.environ.get("STEREOPSIS_KERNELS_FILE")  # for a test, with sanitizers
    if built:
        return ctypes.CDLL(built)
    capability = torch.backends.cpu.get_cpu_capability().lower()
    # an AVX-512 machine runs the AVX2 library too; every other name is its own
    names = {"avx512": ("avx512", "avx2"), "avx2": ("avx2",)}.get(capability, ("default",))
    for name in names:
        for path in Path(__file__).parent.glob(f"libkernels.{name}.*"):
            try:
                found = ctypes.CDLL(str(path))
            except OSError:  # built for another platform
                continue
            if _interface(found) == INTERFACE:
                return found
            warnings.warn(f"{path.name} was built from other sources and is not used; build it again.", stacklevel=2)
    return None


def _interface(library: ctypes.CDLL) -> int:
    try:
        return ctypes.c_int.in_dll(library, "interface").value
    except ValueError:  # built before there was a number
        return 1


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
        kernel: the kernel's name; declarations.py states what it takes.
        tensors: in the declared order. A tensor must be contiguous and of the declared data type and shape; a region of
            a tensor's memory must hold all that the kernel reads or writes. A structure of ctypes is checked by its
            maker.
        numbers: sizes and switches, in the declared order.
        rows: of the whole batch; threads share them out.
        step: rows that one thread must take together.

    Raises:
        ValueError: an argument that the kernel does not take; the message names it and what is expected.
    """

    def __init__(
        self, kernel: str, tensors: Sequence[Argument], numbers: Sequence[int], rows: int, *, step: int = 1
    ) -> None:
        self._library = library()
        self._function = getattr(self._library, kernel)
        self.name = kernel
        self._late: dict[int, tuple[declarations.Argument, tuple[int, ...]]] = {}
        structures = any(isinstance(tensor, ctypes.Structure) for tensor in tensors)
        if not structures:
            self._late = _check(kernel, tensors, numbers, rows)
        # maps give their memory back for later maps, so that their memory is kept, but not they
        self._kept = [_memory(tensor) for tensor in tensors]
        self._pointers = (ctypes.c_void_p * len(tensors))(*map(_address, tensors))
        self._numbers = (ctypes.c_int * len(numbers))(*numbers)
        self._rows, self._step = rows, step

    def put(self, place: int, tensor: Tensor) -> None:
        """Gives a tensor for the next run in a place that was declared to come late.

        Raises:
            ValueError: a tensor that is not what the kernel takes, or a place whose tensor is fixed.
        """
        if place not in self._late:
            raise ValueError(f"argument {place} of {self.name} is fixed; {sorted(self._late)} can be replaced.")
        _check_tensor(self.name, tensor, *self._late[place])
        self._pointers[place], self._kept[place] = tensor.data_ptr(), tensor

    def __call__(self) -> None:
        missing = [self._late[place][0].name for place in self._late if self._kept[place] is None]
        if missing:
            raise ValueError(f"{self.name} was given no {' and no '.join(missing)}; call put first.")
        exhausted = ctypes.c_int.in_dll(self._library, "exhausted")  # type: ignore[arg-type]
        before = exhausted.value
        self._over_rows()
        for place in self._late:  # whose memory is the caller's again
            self._pointers[place] = self._kept[place] = None
        if exhausted.value != before:
            raise MemoryError(f"the kernel {self.name} found no memory for a row; use smaller images.")

    def _over_rows(self) -> None:
        function, pointers, numbers, rows = self._function, self._pointers, self._numbers, self._rows
        threads, team = torch.get_num_threads(), _team()
        # two shares a thread, so that one that comes late does not hold up the others
        count = threads if threads == 1 or team is None else 2 * threads
        share = max(-(-rows // count // self._step) * self._step, self._step)
        if threads > 1 and team is not None:
            self._library.over_rows(team, function, pointers, numbers, rows, share, threads)  # type: ignore[union-attr]
            return
        own, *others = [(begin, min(begin + share, rows)) for begin in range(0, max(rows, 1), share)]
        # the calling thread works too: a thread that has to be woken costs as much as a small kernel
        running = [_pool(threads - 1).submit(function, pointers, numbers, *bound) for bound in others]
        function(pointers, numbers, *own)
        for work in running:
            work.result()


def run(kernel: str, tensors: Sequence[Tensor | None], numbers: Sequence[int], rows: int, *, step: int = 1) -> None:
    """Runs a kernel of the library once; arguments and errors as of :class:`Call`."""
    Call(kernel, tensors, numbers, rows, step=step)()


def _check(
    kernel: str, tensors: Sequence[Argument], numbers: Sequence[int], rows: int
) -> dict[int, tuple[declarations.Argument, tuple[int, ...]]]:
    """Compares arguments with the kernel's declaration; returns the late ones' shapes by their places."""
    declared = declarations.declaration(kernel)
    if len(numbers) != len(declared.numbers):
        raise ValueError(f"{kernel} takes {len(declared.numbers)} numbers and was given {len(numbers)}.")
    known = {name: int(number) for (name, _), number in zip(declared.numbers, numbers, strict=True)}
    for name, least in declared.numbers:
        if not least <= known[name] <= declarations.MOST:
            raise ValueError(f"{name} of {kernel} is {known[name]}; it must be in [{least}, {declarations.MOST}].")
    each = declared.rows(known)
    if each < 1 or rows % each or not 0 < rows <= declarations.MOST:
        raise ValueError(f"{kernel} was given {rows} rows; a positive multiple of {each} is needed.")
    known["items"] = rows // each
    for text, condition in declared.requires:
        if not condition(known):
            raise ValueError(f"{kernel} needs {text}; its numbers are {known}.")
    arguments = list(declared.arguments)
    if arguments[-1].repeated:
        arguments[-1:] = arguments[-1:] * known["items"]
    if len(tensors) != len(arguments):
        raise ValueError(f"{kernel} takes {len(arguments)} tensors and was given {len(tensors)}.")
    late = {}
    for place, (argument, tensor) in enumerate(zip(arguments, tensors, strict=True)):
        if argument.late:
            late[place] = argument, argument.shape(known)
        if tensor is None and (argument.optional or argument.late):
            continue
        if isinstance(tensor, Tensor):
            _check_tensor(kernel, tensor, argument, argument.shape(known), known)
        elif tensor is None:
            raise ValueError(f"{argument.name} of {kernel} is missing.")
        else:
            _check_region(kernel, tensor, argument, known)
    _check_apart(kernel, arguments, tensors)
    return late


def _check_tensor(
    kernel: str,
    tensor: Tensor,
    argument: declarations.Argument,
    shape: tuple[int, ...],
    known: dict[str, int] | None = None,
) -> None:
    dtype = _dtype(argument, known)
    if tensor.dtype != dtype or not _plain(tensor) or tensor.shape != shape or not tensor.is_contiguous():
        found = f"{str(tensor.dtype)[6:]} of {tuple(tensor.shape)} on {tensor.device}"
        found += "" if not _plain(tensor) or tensor.is_contiguous() else ", not contiguous"
        wanted = f"contiguous {str(dtype)[6:]} of {shape} on the CPU"
        raise ValueError(f"{argument.name} of {kernel} is {found}; it must be {wanted}.")
    if tensor.numel() // max(shape[0] if shape else 1, 1) >= 2**31:
        raise ValueError(f"{argument.name} of {kernel} is {tuple(shape)}; one item must have fewer than 2^31 numbers.")


def _check_region(kernel: str, region: Region, argument: declarations.Argument, known: dict[str, int]) -> None:
    dtype, shape = _dtype(argument, known), argument.shape(known)
    memory, first = region.memory, region.first
    if argument.steps is None:
        steps = [1] * len(shape)
        for axis in reversed(range(len(shape) - 1)):
            steps[axis] = steps[axis + 1] * shape[axis + 1]
    else:
        steps = [*argument.steps(known), 1]
    last = first + sum((size - 1) * step for size, step in zip(shape, steps, strict=True))
    if (
        memory.dtype != dtype
        or not _plain(memory)
        or not memory.is_contiguous()
        or not 0 <= first <= last < len(memory)
    ):
        raise ValueError(
            f"{argument.name} of {kernel} is numbers {first} to {last} of {str(memory.dtype)[6:]} of "
            f"{tuple(memory.shape)}; it must lie inside contiguous {str(dtype)[6:]} on the CPU."
        )


def _check_apart(kernel: str, arguments: Sequence[declarations.Argument], tensors: Sequence[Argument]) -> None:
    """What is written shares no memory with anything else."""
    places = [None if tensor is None else _memory(tensor).untyped_storage().data_ptr() for tensor in tensors]  # type: ignore[union-attr]
    for place, argument in zip(places, arguments, strict=True):
        if argument.written and place is not None and places.count(place) > 1:
            raise ValueError(f"{argument.name} of {kernel} shares memory with another argument; use a new tensor.")


def _dtype(argument: declarations.Argument, known: dict[str, int] | None) -> torch.dtype:
    if argument.dtype is not None:
        return argument.dtype
    return torch.bfloat16 if known is not None and known["half"] else torch.float32


def _memory(argument: Argument) -> Tensor | ctypes.Structure | None:
    return argument if argument is None or isinstance(argument, Tensor | ctypes.Structure) else argument.memory


def _address(argument: Argument) -> int | None:
    if argument is None or isinstance(argument, Tensor):
        return None if argument is None else argument.data_ptr()
    if isinstance(argument, ctypes.Structure):
        return ctypes.addressof(argument)
    return argument.memory.data_ptr() + argument.first * argument.memory.element_size()


def _plain(tensor: Tensor) -> bool:
    """True for a tensor whose numbers lie in memory of this process as they are read."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.is_neg()
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def usable(*tensors: Tensor) -> bool:
    """True where the kernels take these tensors: float32 on the CPU with a number at least, and no tracing going on."""
    return (
        all(t.dtype == torch.float32 and _plain(t) and t.numel() > 0 for t in tensors)
        and not torch.compiler.is_compiling()
        and not portable()
        and library() is not None
    )


def needs_gradient(*tensors: Tensor) -> bool:
    """True where a result of these tensors must know how it came about."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Memory for a kernel to write to, whatever torch's default data type and device are."""
    return torch.empty(shape, dtype=dtype, device="cpu")


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """:func:`empty`, full of 0."""
    return torch.zeros(shape, dtype=dtype, device="cpu")


def scalar(value: float) -> Tensor:
    """A number of float32 as kernels take it."""
    return torch.tensor(value, dtype=torch.float32, device="cpu")


def channels_last(tensor: Tensor) -> Tensor:
    """(b, c, h, w) as contiguous (b, h, w, c); free where the memory is laid out so already."""
    return tensor.permute(0, 2, 3, 1).contiguous().resolve_neg()
