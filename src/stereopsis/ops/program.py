"""Inference as a list of kernel calls over maps that are laid out once for a size of image.

Maps are channels last and lie in a margin of zeros, so that a convolution has no borders. Memory of a map that no
variable holds any more goes to the next one of its shape::

    program = Program(margin=1)
    image = program.map(1, 480, 640, 4)
    x = conv(program, [image], weight, bias, slope=0.2)     # nothing is computed yet
    x = conv(program, [x], ...)
    image.view.copy_(pixels)
    program()                                               # now it is
    x.view                                                  # (b, c, h, w)
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stereopsis.ops import native

SLACK = 64  # pixels behind the last one that a kernel may read: as many as it works on at once
FILLING = 64  # numbers behind them: those that fill up a run


@dataclass(frozen=True, eq=False)
class Map:
    """Images of one size in bfloat16 or float32, channels last, in a margin of zeros.

    Attributes:
        memory: that of all its images and margins.
        batch, height, width, channels: of what may be read and written.
        image, row, pitch: numbers from one image, row and pixel to the next.
        first: number that is not margin.
    """

    memory: Tensor
    batch: int
    height: int
    width: int
    channels: int
    image: int
    row: int
    pitch: int
    first: int
    owner: object

    @property
    def address(self) -> int:
        """Of the first number that is not margin."""
        return self.memory.data_ptr() + self.first * self.memory.element_size()

    @property
    def exact(self) -> bool:
        """Whether it is float32."""
        return self.memory.dtype == torch.float32

    @property
    def view(self) -> Float[Tensor, "b c h w"]:
        """The numbers; they are the next call's too."""
        shape = (self.batch, self.channels, self.height, self.width)
        return self.memory.as_strided(shape, (self.image, 1, self.row, self.pitch), self.first)

    def part(self, first: int, channels: int) -> Map:
        """Some of its channels, to be written on their own."""
        return replace(self, channels=channels, first=self.first + first)

    def images(self, first: int, number: int) -> Map:
        """Some of its images."""
        return replace(self, batch=number, first=self.first + first * self.image)

    def pairs(self, first: int) -> Map:
        """Every other row, from the first or second on, with two neighbouring pixels as one of twice the channels."""
        return replace(
            self, height=self.height // 2, width=self.width // 2, channels=2 * self.channels, row=2 * self.row,
            pitch=2 * self.pitch, first=self.first + first * self.row,
        )  # fmt: skip


class _Owner:
    """What dies with the last map of a piece of memory."""


class Program:
    """Calls in the order in which they were added; see the module's text.

    Args:
        margin: of its maps, in pixels; at least the padding of every convolution.
    """

    def __init__(self, margin: int) -> None:
        self.margin = margin
        self._calls: list[native.Call] = []
        self._free: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)

    def map(self, batch: int, height: int, width: int, channels: int, *, exact: bool = False) -> Map:
        """Memory for images; ``exact`` for float32, which has no margin."""
        margin, dtype = (0, torch.float32) if exact else (self.margin, torch.bfloat16)
        free = self._free[batch, height, width, channels, exact]
        row = (width + 2 * margin) * channels
        image = (height + 2 * margin) * row
        numbers = batch * image + SLACK * channels + FILLING
        memory = free.pop() if free else torch.zeros(numbers, dtype=dtype, device="cpu")
        owner = _Owner()
        weakref.finalize(owner, free.append, memory)
        first = margin * (row + channels)
        return Map(memory, batch, height, width, channels, image, row, channels, first, owner)

    def add(self, kernel: str, arguments: Sequence[native.Argument], numbers: Sequence[int], rows: int) -> native.Call:
        """Adds a call; arguments as of :class:`native.Call`."""
        self._calls.append(native.Call(kernel, arguments, numbers, rows))
        return self._calls[-1]

    def __call__(self) -> None:
        for call in self._calls:
            call()
