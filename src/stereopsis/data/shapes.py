"""Outlines of surfaces, in coordinates in which each about fills the square from -1 to 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

NUMBERS = 16  # uniform numbers an outline is drawn from
HOLES = 5  # pierced surfaces have up to as many; each takes four more numbers

SOLID = ("box", "ellipse", "blob", "polygon")
OPEN = ("frame", "bars", "lattice", "wheel", "foliage", "boxes")
THIN = ("pole", "wire")


def inside(shape: str, p: Tensor, q: Tensor, n: Tensor) -> Tensor:
    """Where a point belongs to a shape.

    Args:
        shape: one of :data:`SOLID`, :data:`OPEN`, :data:`THIN`.
        p, q: coordinates, (b, h, w).
        n: numbers in [0, 1], (b, NUMBERS, 1, 1).
    """
    if shape == "ellipse":
        return p.square() + q.square() < 1
    if shape == "blob":
        return _blob(p, q, n)
    if shape == "polygon":
        far = torch.full_like(p, -1.0)
        for k in range(5):
            direction = (k + 0.6 * n[:, k]) * (math.tau / 5)
            far = torch.maximum(far, direction.cos() * p + direction.sin() * q - 0.4 - 0.5 * n[:, k + 5])
        return far < 0
    if shape == "wheel":
        return _wheel(p, q, n)
    box = (p.abs() < 1) & (q.abs() < 1)
    if shape == "frame":
        hole = ((p - (n[:, 0] - 0.5) * 0.4).abs() < 0.3 + 0.5 * n[:, 1]) & (q.abs() < 0.3 + 0.5 * n[:, 2])
        return box & ~hole
    if shape == "bars":
        return box & _stripes(p, n[:, 0], n[:, 1])
    if shape == "lattice":
        # upright or, as often, crossed
        turn = math.pi / 4 * (n[:, 5] < 0.5)
        r, s = turn.cos() * p + turn.sin() * q, turn.cos() * q - turn.sin() * p
        rim = (p.abs() > 0.92) | (q.abs() > 0.92)
        return box & (_stripes(r, n[:, 0], n[:, 1] * 0.6) | _stripes(s, n[:, 2], n[:, 3] * 0.6) | rim)
    if shape == "foliage":
        waves = sum(
            ((3 + 9 * n[:, k]) * p + (n[:, k + 5] - 0.5) * 18 * q + math.tau * n[:, k + 10]).sin() for k in range(4)
        )
        return (p.square() + q.square() < 1) & (waves > 1.2 * n[:, 9])
    if shape == "boxes":
        found = torch.zeros_like(box)
        for k in range(5):
            x, y = n[:, k] * 1.6 - 0.8, n[:, k + 5] * 1.6 - 0.8
            found |= ((p - x).abs() < 0.06 + 0.3 * n[:, k + 10]) & ((q - y).abs() < 0.06 + 0.3 * n[:, (3 * k) % 16])
        return box & found
    if shape == "wire":
        return (p.abs() < 1) & ((q - (n[:, 0] - 0.5) * 12 * p.square() * n[:, 1]).abs() < 1)
    return box  # "box", "pole"


def holes(p: Tensor, q: Tensor, n: Tensor) -> Tensor:
    """Where a pierced surface lets the view through: round and square holes.

    Args:
        p, q: coordinates, (b, h, w).
        n: numbers in [0, 1], (b, 4 HOLES, 1, 1).
    """
    found = torch.zeros_like(p, dtype=torch.bool)
    for k in range(HOLES):
        x, y, width, height = (n[:, 4 * k + i] for i in range(4))
        r = (p - 1.6 * x + 0.8) / (0.05 + 0.3 * width)
        s = (q - 1.6 * y + 0.8) / (0.05 + 0.3 * height)
        found |= (r.square() + s.square() < 1) if k % 2 else ((r.abs() < 1) & (s.abs() < 1))
    return found


def _stripes(p: Tensor, count: Tensor, width: Tensor) -> Tensor:
    count = 1 + (count * 9).floor()
    return (p + 1) * 0.5 * count % 1 < 0.1 + 0.4 * width


def _blob(p: Tensor, q: Tensor, n: Tensor) -> Tensor:
    theta = torch.atan2(q, p)
    radius = 0.7 + torch.zeros_like(p)
    for k in range(1, 5):
        radius = radius + (n[:, k] - 0.5) * 0.4 * (theta * (k + 1) + n[:, k + 4] * math.tau).cos()
    return p.square() + q.square() < radius.square()


def _wheel(p: Tensor, q: Tensor, n: Tensor) -> Tensor:
    """A rim, a hub and spokes."""
    rho = p.hypot(q)
    count = 3 + (n[:, 0] * 8).floor()
    theta = torch.atan2(q, p) + n[:, 1] * math.tau + (n[:, 2] - 0.5) * rho
    across = ((theta * (count / math.tau)) % 1 - 0.5).abs() * rho * (math.tau / count)
    spokes = across < 0.02 + 0.1 * n[:, 3]
    return (rho < 1) & ((rho > 0.7 + 0.2 * n[:, 4]) | (rho < 0.1 + 0.2 * n[:, 5]) | spokes)
