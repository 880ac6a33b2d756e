"""Images as a network reads them: normalised, and placed on a larger canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stereopsis.ops import native


@dataclass(frozen=True)
class Canvas:
    """What an image becomes before its first convolution.

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
        mean, deviation = (
            torch.tensor(v, device=image.device, dtype=torch.float32).view(1, 3, 1, 1)
            for v in (self.mean, self.deviation)
        )
        normalized = torch.addcmul(-mean / deviation, image.float(), 1 / deviation)
        sides = (self.left, self.right, self.top, self.bottom)
        return F.pad(normalized, sides, "replicate") if self.repeat else F.pad(normalized, sides)

    def convolved(
        self,
        images: Sequence[Float[Tensor, "b c h w"]],
        kernel: Float[Tensor, "o 3 3 3"],
        bias: Float[Tensor, " o"],
    ) -> Float[Tensor, "n*b o H W"]:
        """A 3 x 3 convolution of all images, drawn; the kernel in C has no gradients and draws them as it goes."""
        if not native.usable(*images, kernel, bias) or native.needs_gradient(*images, kernel, bias):
            return F.conv2d(torch.cat([self.draw(image) for image in images]), kernel, bias, padding=1)
        b, outputs = images[0].shape[0], kernel.shape[0]
        rows, columns = self._size(images[0])
        out = native.empty(len(images) * b, outputs, rows, columns)
        views = [image.contiguous() for image in images]
        tensors = [*self._affine(), kernel.contiguous(), bias.contiguous(), out, *views]
        native.run("canvas_conv", tensors, (*self._place(views[0]), b, outputs), len(images) * b * rows)
        return out

    def reduced(self, image: Float[Tensor, "b c h w"], factor: int) -> Float[Tensor, "b 3 H/f W/f"]:
        """The drawn image, smaller by an even factor that divides the canvas; bilinear, corners not aligned."""
        size = tuple(side // factor for side in self._size(image))
        if not native.usable(image) or native.needs_gradient(image):
            return F.interpolate(self.draw(image), size=size, mode="bilinear", align_corners=False)
        out = native.empty(image.shape[0], 3, *size)
        tensors = [*self._affine(), image.contiguous(), out]
        native.run("canvas_reduced", tensors, (*self._place(image), factor), image.shape[0] * size[0])
        return out

    def _affine(self) -> tuple[Tensor, Tensor]:
        scale, mean = (torch.tensor(v, dtype=torch.float32, device="cpu") for v in (self.deviation, self.mean))
        return 1 / scale, -mean * (1 / scale)

    def _size(self, image: Tensor) -> tuple[int, int]:
        return self.top + image.shape[-2] + self.bottom, self.left + image.shape[-1] + self.right

    def _place(self, image: Tensor) -> tuple[int, ...]:
        """Sizes of an image and of its canvas, in the kernels' order."""
        return (*image.shape[1:], *self._size(image), self.top, self.left, self.repeat)
