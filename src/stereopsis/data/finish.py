"""Finishes of surfaces that matchers find hard: panels in two flat colours, calibration boards, panes that reflect.

On cars, walls, signs and boards there is nothing to match but an outline, and a pane shows a picture that stands behind
it. The true disparity is that of the surface.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stereopsis.data.textures import TextureBank, sample_bank

NUMBERS = 24  # uniform numbers of a surface
UNIFORM, CHECKS, CELLS, BOARD = range(4)
RIM = 0.85  # of a board's half sides: what its squares take


@dataclass(frozen=True)
class SurfacePoints:
    """What each pixel shows of its surface; tensors are (b, h, w).

    Attributes:
        surface: its number.
        p, q: coordinates on the surface, in pixels at the distance of its middle.
        x, y: column and row of the point in the left view.
        disparity: of the point.
        radius_x, radius_y, angle: half sides of the surface's outline, and how it is turned.
        right: whether the right view sees it.
    """

    surface: Int[Tensor, "b h w"]
    p: Float[Tensor, "b h w"]
    q: Float[Tensor, "b h w"]
    x: Float[Tensor, "b h w"]
    y: Float[Tensor, "b h w"]
    disparity: Float[Tensor, "b h w"]
    radius_x: Float[Tensor, "b h w"]
    radius_y: Float[Tensor, "b h w"]
    angle: Float[Tensor, "b h w"]
    right: bool


def finish_numbers(seed: int, batch: int, boards: Sequence[bool]) -> Float[Tensor, "b n k"]:
    """Return uniform numbers for each surface of each sample.

    Args:
        boards: which surfaces are calibration boards; the first surface, behind all others, has no finish.
    """
    numbers = torch.rand(
        batch, len(boards), NUMBERS, generator=torch.Generator().manual_seed(seed), dtype=torch.float32
    )
    numbers[:, 0, :2] = 1.0
    for number, board in enumerate(boards):
        if board:
            numbers[:, number, 0] = 0.0
            numbers[:, number, 2] = (BOARD + 0.5) / 4
            numbers[:, number, 6] *= 0.6  # most of them in black and white
    return numbers


def finish(
    color: Float[Tensor, "b 3 h w"],
    at: SurfacePoints,
    numbers: Float[Tensor, "b n k"],
    bank: TextureBank,
    panels: float,
    reflections: float,
) -> Float[Tensor, "b 3 h w"]:
    """Return textured surfaces, some of them as panels or with a reflection.

    Args:
        color: as textured, before tint and light.
        numbers: uniform numbers of each surface.
        bank: textures that are reflected.
        panels, reflections: shares of the surfaces.
    """
    b, count, _ = numbers.shape
    table = numbers.reshape(b * count, -1).T.contiguous()
    row = at.surface + torch.arange(b, device=numbers.device).view(b, 1, 1) * count
    columns = iter(table.gather(1, row.view(1, -1).expand(len(table), -1)).view(-1, *row.shape).unbind(0))
    is_panel = next(columns) <= panels
    reflects = next(columns) < reflections
    if not (is_panel.any() or reflects.any()):
        return color
    kind, size, turn, grain, dark = (next(columns) for _ in range(5))
    first, second = (torch.stack([next(columns) for _ in range(3)], 1) for _ in range(2))
    mask = _pattern(at, kind, size, turn)[:, None]
    # half of the panels are nearly black and white, as boards and windows in walls are
    first = torch.where((dark < 0.5)[:, None], 0.02 + 0.2 * first[:, :1], first)
    second = torch.where((dark < 0.5)[:, None], 0.55 + 0.4 * second[:, :1], second)
    panel = torch.lerp(first, second, mask) + (color - 0.5) * (0.06 * grain.square())[:, None]
    color = torch.where(is_panel[:, None], panel, color)
    depth, strength, inside, texture, scale = (next(columns) for _ in range(5))
    # what is reflected stands behind the surface: its disparity is smaller
    behind = (0.15 + 0.75 * depth) * at.disparity
    x = at.x - (at.disparity - behind) if at.right else at.x
    zoom = torch.exp((scale * 2 - 1) * 0.8)
    index = (texture * len(bank)).long().clamp(max=len(bank) - 1)
    picture = sample_bank(bank, index, x * zoom, at.y * zoom, zoom.clamp(min=1).log2().round().long())
    alpha = 0.85 * strength * reflects
    within = torch.where(inside < 0.5, 1.0, 1 - mask[:, 0])  # of a panel's darker cells alone, or of all of it
    return torch.lerp(color, picture, (alpha * within)[:, None])


def _pattern(at: SurfacePoints, kind: Tensor, size: Tensor, turn: Tensor) -> Tensor:
    """1 where a panel has its second colour; in between along the borders of squares."""
    which = (kind * 4).long()
    angle = torch.where(which == BOARD, at.angle, (turn - 0.5) * math.pi)
    cos, sin = angle.cos(), angle.sin()
    p, q = cos * at.p + sin * at.q, cos * at.q - sin * at.p
    side = 5 * torch.exp(size * math.log(14))  # 5 to 70 pixels
    squares = 3 + (size * 4).floor()  # on either side of the middle
    side = torch.where(which == BOARD, (RIM * at.radius_x / squares).clamp(min=4), side)
    checks = ((p * (math.pi / side)).sin() * (q * (math.pi / side)).sin() * side).clamp(-0.5, 0.5) + 0.5
    rows = (RIM * at.radius_y / side).floor()
    on_board = (p.abs() < RIM * at.radius_x) & (q.abs() < rows * side)
    board = torch.where(on_board, checks, 1.0)
    cell = (p / side).floor() * 127.1 + (q / side).floor() * 311.7
    cells = ((cell.sin() * 43758.5453).frac().abs() > 0.5).to(p)
    return torch.where(
        which == UNIFORM, 0.0, torch.where(which == CHECKS, checks, torch.where(which == CELLS, cells, board))
    )
