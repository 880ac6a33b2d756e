"""Whether operators take the form that other runtimes know: few nodes, all of them standard, any size of image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_portable = ContextVar("portable", default=False)


def portable() -> bool:
    """True while a model is traced for another runtime."""
    return _portable.get()


@contextmanager
def standard_operators() -> Iterator[None]:
    """Within it, operators do without the kernels in C and without loops that would be unrolled step by step."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


Carry = tuple[Tensor, ...]


def scan(
    step: Callable[[Carry, Carry], tuple[Carry, Tensor]], start: Carry, inputs: Sequence[Tensor]
) -> tuple[Carry, Tensor]:
    """A loop over the first axis of the inputs that stays a loop in a traced graph.

    Args:
        step: from what is carried and one slice of each input to what is carried on and a slice of the output; it
            returns new tensors alone, and knows none but its arguments.

    Returns:
        What was carried out of the last step, and the outputs, stacked.
    """
    if torch.compiler.is_compiling():
        from torch._higher_order_ops.scan import scan as traced

        carry, out = traced(step, start, tuple(inputs))
        return carry, out
    carry, outs = start, []
    for slices in zip(*inputs, strict=True):
        carry, value = step(carry, slices)
        outs.append(value)
    return carry, torch.stack(outs)
