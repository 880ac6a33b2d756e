"""Convolutions of few channels at half the resolution with four times as many: faster in CPU libraries."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stereopsis.ops import native


@dataclass(frozen=True)
class Canvas:
    """What an image becomes before its first convolution: normalised, and placed on a larger canvas of even sides.

    Attributes:
        mean, deviation: of each of three channels.
        top, left, bottom, right: pixels added.
        repeat: the outermost pixels; else the mean.
    """

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0
    repeat: bool = True

    def draw(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """``(image - mean) / deviation``, padded; one channel serves as three."""
        mean, deviation = (torch.tensor(v, device=image.device).view(1, 3, 1, 1) for v in (self.mean, self.deviation))
        normalized = torch.addcmul(-mean / deviation, image.float(), 1 / deviation)
        sides = (self.left, self.right, self.top, self.bottom)
        return F.pad(normalized, sides, "replicate") if self.repeat else F.pad(normalized, sides)


def canvas_phases(images: Sequence[Float[Tensor, "b c h w"]], canvas: Canvas) -> Float[Tensor, "n*b 12 H/2 W/2"]:
    """All images, drawn and as :func:`torch.nn.functional.pixel_unshuffle` by 2 gives them, channels last in memory."""
    if native.usable(*images) and not (torch.is_grad_enabled() and any(image.requires_grad for image in images)):
        return _native_canvas_phases(images, canvas)
    drawn = torch.cat([canvas.draw(image) for image in images])
    return F.pixel_unshuffle(drawn, 2).contiguous(memory_format=torch.channels_last)


def _native_canvas_phases(images: Sequence[Tensor], canvas: Canvas) -> Tensor:
    lib = native.library()
    assert lib is not None
    b, c, h, w = images[0].shape
    rows, columns = (canvas.top + h + canvas.bottom) // 2, (canvas.left + w + canvas.right) // 2
    scale = 1 / torch.tensor(canvas.deviation)
    shift = -torch.tensor(canvas.mean) * scale
    phases = torch.empty(len(images) * b, rows, columns, 12)
    contiguous = [image.contiguous() for image in images]
    views = (ctypes.c_void_p * len(images))(*(image.data_ptr() for image in contiguous))
    pointers = [native.pointer(t) for t in (scale, shift, phases)]
    sizes = (b, c, h, w, rows, columns, canvas.top, canvas.left, int(canvas.repeat))
    native.over_rows(
        lambda begin, end: lib.normalized_phases(views, *pointers, begin, end, *sizes), len(images) * b * rows
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
