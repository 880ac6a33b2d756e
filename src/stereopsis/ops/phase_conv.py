"""Convolutions of few channels at half the resolution with four times as many: faster in CPU libraries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stereopsis.ops import native


def unshuffled(images: Sequence[Float[Tensor, "b c h w"]]) -> Float[Tensor, "n*b c*4 h/2 w/2"]:
    """All images as :func:`torch.nn.functional.pixel_unshuffle` by 2 gives them, with the channels last in memory."""
    if native.usable(*images) and not (torch.is_grad_enabled() and any(image.requires_grad for image in images)):
        return _native_unshuffled(images)
    return F.pixel_unshuffle(torch.cat(list(images)), 2).contiguous(memory_format=torch.channels_last)


def _native_unshuffled(images: Sequence[Tensor]) -> Tensor:
    lib = native.library()
    assert lib is not None
    b, c, h, w = images[0].shape
    phases = torch.empty(len(images) * b, h // 2, w // 2, 4 * c)
    for image, out in zip(images, phases.split(b), strict=True):
        pointers = native.pointer(source := image.contiguous()), native.pointer(out)
        native.over_rows(
            lambda begin, end, p=pointers, _=source: lib.unshuffle(*p, begin, end, c, h // 2, w // 2), b * h // 2
        )
    return phases.permute(0, 3, 1, 2)


def phase_kernel(kernel: Float[Tensor, "o c 3 3"]) -> Float[Tensor, "o*4 c*4 3 3"]:
    """The kernel K for which ``conv2d(unshuffled, K, padding=1)`` is the unshuffled ``conv2d(x, kernel, padding=1)``.

    Unshuffled, an image has a channel for each of the four phases of a pixel. The first phase of each output alone,
    ``K[::4]``, is the convolution of stride 2.
    """
    # phase p of the output at half-resolution y sees, by its tap k, phase q of the input at y + d - 1
    p, q, d, k = (
        torch.arange(n).view([-1 if axis == i else 1 for i in range(4)]) for axis, n in enumerate((2, 2, 3, 3))
    )
    sees = (p + k - 1 == 2 * (d - 1) + q).to(kernel)
    outputs, channels = kernel.shape[:2]
    phases = torch.einsum("ocyx,pqdy,rsex->oprcqsde", kernel, sees, sees)
    return phases.reshape(4 * outputs, 4 * channels, 3, 3)
