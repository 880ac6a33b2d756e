"""One textured surface of a procedural scene: its disparity, its slope, and which pixels it covers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stereopsis.data.shapes import NUMBERS, holes, inside


@dataclass(frozen=True)
class Surface:
    """One surface of every sample of a batch; tensors are (b, 1, 1).

    ``d(x, y) = a + b u + c v + bend``, with u, v counted from (x0, y0).
    """

    shape: str
    curved: bool
    pierced: bool
    a: Tensor
    b: Tensor
    c: Tensor
    x0: Tensor
    y0: Tensor
    radius_x: Tensor
    radius_y: Tensor
    angle: Tensor
    bend: Tensor
    numbers: Tensor  # (b, NUMBERS + 4 HOLES, 1, 1)
    board: bool = False

    def window(self, height: int, width: int, *, right: bool) -> tuple[slice, slice]:
        """Rows and columns of a view that it may touch in any sample."""
        if self.shape in ("all", "below", "side"):
            return slice(0, height), slice(0, width)
        beyond = 1.7 if self.shape in ("blob", "polygon") else 1.05
        cos, sin = self.angle.cos().abs(), self.angle.sin().abs()
        reach_x = beyond * (cos * self.radius_x + sin * self.radius_y) + 1
        reach_y = beyond * (sin * self.radius_x + cos * self.radius_y) + 2  # the right view's rows may be off by one
        left, after = self.x0 - reach_x, self.x0 + reach_x
        if right:
            spread = self.b.abs() * reach_x + self.c.abs() * reach_y + self.bend.abs() * self.curved
            left, after = left - self.a - spread, after - self.a + spread
        return _span(self.y0 - reach_y, self.y0 + reach_y, height), _span(left, after, width)

    def disparity(self, x: Tensor, y: Tensor) -> Tensor:
        """At left-view coordinates."""
        u, v = x - self.x0, y - self.y0
        d = self.a + self.b * u + self.c * v
        if not self.curved:
            return d
        return d + self.bend * (u * (1.5 / self.radius_x)).cos() * (v * (1.5 / self.radius_y)).cos()

    def slope_x(self, x: Tensor, y: Tensor) -> Tensor:
        """dd/dx at left-view coordinates."""
        if not self.curved:
            return self.b
        ku, kv = 1.5 / self.radius_x, 1.5 / self.radius_y
        return self.b - self.bend * ku * ((x - self.x0) * ku).sin() * ((y - self.y0) * kv).cos()

    def inside(self, x: Tensor, y: Tensor) -> Tensor:
        if self.shape == "all":
            return torch.ones_like(x, dtype=torch.bool)
        u, v = x - self.x0, y - self.y0
        if self.shape == "below":
            return v > -self.radius_y
        if self.shape == "side":  # a facade, which shrinks towards the vanishing point
            away = u * self.b.sign()
            return (away > 0) & (v > -self.radius_y * away)
        cos, sin = self.angle.cos(), self.angle.sin()
        p, q = (cos * u + sin * v) / self.radius_x, (cos * v - sin * u) / self.radius_y
        found = inside(self.shape, p, q, self.numbers)
        return found & ~holes(p, q, self.numbers[:, NUMBERS:]) if self.pierced else found

    def left_of_right(self, x_right: Tensor, y: Tensor) -> Tensor:
        """The left-view column of what a right pixel would see of this surface."""
        x = x_right + self.a
        for _ in range(4 if self.curved else 1):
            x = x - (x - self.disparity(x, y) - x_right) / (1 - self.slope_x(x, y))
        return x


def _span(first: Tensor, last: Tensor, size: int) -> slice:
    start = min(max(math.floor(first.min().item()), 0), size)
    return slice(start, min(max(math.ceil(last.max().item()) + 1, start), size))
