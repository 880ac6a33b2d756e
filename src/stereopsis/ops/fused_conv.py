"""A convolution and the leaky ReLU behind it in one pass over memory."""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.ops import native
from stereopsis.ops.portable import portable


def conv_leaky(x: Float[Tensor, "b c h w"], conv: nn.Conv2d, slope: float) -> Float[Tensor, "b o _ _"]:
    """``leaky_relu(conv(x), slope)``, in the precision of autocast where it is on.

    Inference on a CPU asks oneDNN for both at once; torch's own leaky ReLU of bfloat16 takes almost as long as the
    convolution.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    traced = portable() or torch.compiler.is_compiling()
    if x.device.type != "cpu" or traced or native.needs_gradient(x, conv.weight) or not _fuses(dtype):
        return F.leaky_relu_(conv(x), slope)
    bias = None if conv.bias is None else conv.bias.to(dtype)
    return _fused(x.to(dtype), conv.weight.to(dtype), bias, conv.padding, conv.stride, conv.dilation, slope)


def _fused(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: str | tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    slope: float,
) -> Tensor:
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, stride, dilation, 1, "leaky_relu", [slope], ""
    )
    return out


@functools.cache
def _fuses(dtype: torch.dtype) -> bool:
    """Whether this torch and this CPU do it in this precision, tried on a small map."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    x, kernel = torch.linspace(-1, 1, 200, dtype=dtype).view(2, 4, 5, 5), torch.ones(3, 4, 3, 3, dtype=dtype) / 36
    try:
        found = _fused(x, kernel, None, (1, 1), (1, 1), (1, 1), 0.2)
    except (AttributeError, RuntimeError):  # an operator of torch's compiler, not promised to stay
        return False
    with torch.autocast("cpu", enabled=False):
        expected = F.leaky_relu(F.conv2d(x.float(), kernel.float(), padding=1), 0.2)
    return torch.allclose(found.float(), expected, atol=0.02)
