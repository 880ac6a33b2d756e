"""3 x 3 and 3 x 3 x 3 convolutions of few channels behind a normalisation, where libraries mostly move memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.ops import native
from stereopsis.ops.portable import portable
from stereopsis.ops.slice_conv import slice_conv

Norm = nn.BatchNorm2d | nn.BatchNorm3d


def thin_conv(
    sources: Sequence[Float[Tensor, "b _ *k h w"]],
    kernel: Float[Tensor, "o c *three 3 3"],
    bias: Float[Tensor, " o"] | None = None,
    *,
    norm: Norm | None = None,
    relu: bool = True,
    stride: int = 1,
    pool: bool = False,
) -> Float[Tensor, "b o *k h/s w/s"]:
    """``conv(relu(norm(max_pool(cat(sources)))))``, padded with a zero on each side.

    Args:
        sources: one or two maps or volumes of the same size; their channels follow each other.
        kernel: 3 x 3 over maps, 3 x 3 x 3 over volumes.
        norm: learns where it is in training; else it is a scale and a shift.
        relu: whether what is negative becomes 0 before the convolution.
        stride: 1, or 2 over maps.
        pool: the largest of 2 x 2 pixels; for maps.

    The kernel in C reads every value once, and is for inference: it has no gradients.
    """
    learns = norm is not None and norm.training
    tensors = [*sources, kernel]
    tensors += [] if bias is None else [bias]
    tensors += [] if norm is None else [norm.weight, norm.bias]
    if native.usable(*tensors) and not learns and not native.needs_gradient(*tensors):
        return _native_thin_conv(sources, kernel, bias, norm, relu, stride, pool)
    return thin_conv_reference(sources, kernel, bias, norm=norm, relu=relu, stride=stride, pool=pool)


def thin_conv_reference(
    sources: Sequence[Float[Tensor, "b _ *k h w"]],
    kernel: Float[Tensor, "o c *three 3 3"],
    bias: Float[Tensor, " o"] | None = None,
    *,
    norm: Norm | None = None,
    relu: bool = True,
    stride: int = 1,
    pool: bool = False,
) -> Float[Tensor, "b o *k h/s w/s"]:
    """:func:`thin_conv` in plain torch."""
    x = sources[0] if len(sources) == 1 else torch.cat(list(sources), dim=1)
    x = F.max_pool2d(x, 2) if pool else x
    x = x if norm is None else norm(x)
    x = x.relu() if relu else x
    if kernel.dim() == 4:
        return F.conv2d(x, kernel, bias, stride=stride, padding=1)
    # the 2-D form is for inference on a CPU; accelerators and their gradients prefer the plain one
    thin = x.device.type == "cpu" and not x.requires_grad and not portable()
    return slice_conv(x, kernel, bias) if thin else F.conv3d(x, kernel, bias, padding=1)


def _native_thin_conv(
    sources: Sequence[Tensor],
    kernel: Tensor,
    bias: Tensor | None,
    norm: Norm | None,
    relu: bool,
    stride: int,
    pool: bool,
) -> Tensor:
    first, *others = (source.contiguous() for source in sources)
    second = others[0] if others else None
    b, *slices, h, w = first[:, 0].shape
    o, steps = kernel.shape[0], 3 if slices else 1
    rows, columns = (-(-(side // 2 if pool else side) // stride) for side in (h, w))
    out = native.empty(b, o, *slices, rows, columns)
    norms: list[Tensor | None] = [None] * 5
    if norm is not None:
        norms = [norm.weight, norm.bias, norm.running_mean, norm.running_var, native.scalar(norm.eps)]
    channels = (first.shape[1], 0 if second is None else second.shape[1])
    numbers = (*channels, *(slices or [1]), h, w, o, steps, stride, pool, relu, rows, columns)
    volumes = [x if x is None or slices else x[:, :, None] for x in (first, second, kernel.contiguous(), out)]
    bias = None if bias is None else bias.contiguous()
    tensors = [*volumes[:2], *norms, volumes[2], bias, volumes[3]]
    native.run("thin_conv", tensors, numbers, b * rows)
    return out
