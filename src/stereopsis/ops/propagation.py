"""The linear scan of spatial propagation networks (Liu et al., NeurIPS 2017)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stereopsis.ops import native, triton
from stereopsis.ops.portable import Carry, portable, scan

TINY = 1e-8  # keeps gates that are all 0 from becoming NaN (the authors' code)


def propagate(
    x: Float[Tensor, "b c h w"], gates: Float[Tensor, "b 3 c h w"], *, normalize: bool = False
) -> Float[Tensor, "b c h w"]:
    """Linear propagation from left to right, over three neighbours::

        H(y, x) = (1 - g1 - g2 - g3) X(y, x) + g1 H(y - 1, x - 1) + g2 H(y, x - 1) + g3 H(y + 1, x - 1)

    Args:
        x: the map X to smooth.
        gates: g1, g2, g3 for every value; stable while ``|g1| + |g2| + |g3| <= 1``. A gate whose neighbour lies outside
            of the image counts as 0.
        normalize: divide the gates by ``|g1| + |g2| + |g3|`` first.

    Returns:
        H, of x's shape.

    Raises:
        ValueError: the gates are not three of x's shape.
    """
    if gates.shape != (x.shape[0], 3, *x.shape[1:]):
        raise ValueError(f"x is {tuple(x.shape)} and the gates are {tuple(gates.shape)}; give three gates a value.")
    if triton.usable(x, gates):
        from stereopsis.ops.triton import propagation as on_gpu

        if not native.needs_gradient(x, gates):
            return on_gpu.propagate(x, gates, normalize)
        return on_gpu.Propagate.apply(x, _normalized(gates) if normalize else gates)
    if native.usable(x, gates):
        x, gates = x.contiguous(), gates.contiguous()
        if not native.needs_gradient(x, gates):
            return _native_propagate(x, gates, normalize)
        return _NativePropagate.apply(x, _normalized(gates) if normalize else gates)
    return propagate_reference(x, gates, normalize=normalize)


def _normalized(gates: Tensor) -> Tensor:
    return gates / (gates.abs().sum(1, keepdim=True) + TINY)


def propagate_reference(
    x: Float[Tensor, "b c h w"], gates: Float[Tensor, "b 3 c h w"], *, normalize: bool = False
) -> Float[Tensor, "b c h w"]:
    """:func:`propagate` in plain torch, one step a column."""
    gates = _normalized(gates) if normalize else gates
    height, width = x.shape[-2:]
    inside = torch.ones(3, 1, height, width, dtype=x.dtype, device=x.device)
    inside[0, :, 0] = inside[2, :, -1] = 0
    inside[..., 0] = 0
    gates = gates * inside
    # columns first, so that a step reads whole rows of memory
    above, beside, below = gates.permute(1, 4, 0, 2, 3).contiguous().unbind(0)
    own = ((1 - gates.sum(1)) * x).permute(3, 0, 1, 2).contiguous()
    if portable():
        return _scanned(own, above, beside, below)
    previous = own[0]
    out = [previous]
    for column in range(1, width):
        tall = F.pad(previous, (1, 1))
        previous = torch.addcmul(own[column], above[column], tall[..., :-2])
        previous = torch.addcmul(previous, beside[column], tall[..., 1:-1])
        previous = torch.addcmul(previous, below[column], tall[..., 2:])
        out.append(previous)
    return torch.stack(out, dim=-1)


def _scanned(own: Tensor, above: Tensor, beside: Tensor, below: Tensor) -> Tensor:
    """The columns one by one, whatever the width."""

    def step(carry: Carry, column: Carry) -> tuple[Carry, Tensor]:
        own, above, beside, below = column
        tall = F.pad(carry[0], (1, 1))
        new = own + above * tall[..., :-2] + beside * tall[..., 1:-1] + below * tall[..., 2:]
        return (new,), new.clone()

    _, out = scan(step, (torch.zeros_like(own[0]),), (own, above, beside, below))
    return out.permute(1, 2, 3, 0)


def _native_propagate(x: Tensor, gates: Tensor, normalize: bool) -> Tensor:
    b, c, h, w = x.shape
    out = native.empty(*x.shape)
    native.run("propagate", [x, gates, out], (c, h, w, normalize), b * c)
    return out


class _NativePropagate(torch.autograd.Function):
    """The same in C: a plane (one sample's channel) fits the cache, and threads take planes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gates: Tensor) -> Tensor:
        out = _native_propagate(x, gates, normalize=False)
        ctx.save_for_backward(x, gates, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, gates, out = ctx.saved_tensors
        b, c, h, w = x.shape
        grad = grads[0].clone(memory_format=torch.contiguous_format)  # the kernel works in it
        grad_gates = native.empty(*gates.shape)
        native.run("propagate_backward", [x, gates, out, grad, grad_gates], (c, h, w), b * c)
        return grad, grad_gates
