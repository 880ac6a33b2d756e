"""Procedural stereo scenes with exact disparity, slant and visibility in both views.

A scene is a stack of textured surfaces. Each has a disparity that is a smooth function of the left view's coordinates,
a plane or a curved sheet, and a shape that bounds it. The left view evaluates it at its pixels. For a right pixel the
left coordinate solves ``x_left - d(x_left, y) = x_right`` (Newton's method; one step is exact on planes), so both views
show the same surface points, to a fraction of a pixel. The nearest surface wins each pixel.

All samples of a batch share the kinds of surfaces, and differ in every number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from stereopsis.data.textures import TextureBank, sample_bank

SHAPES = ("box", "ellipse", "blob", "polygon", "bars", "frame")


@dataclass(frozen=True)
class SceneConfig:
    """Size of the views and range of what they show.

    Attributes:
        height, width: pixels.
        max_disparity: no surface's middle comes nearer than 0.9 of it, pixels; slopes and bends take a few pixels of a
            few scenes beyond.
        surfaces: fewest and most objects beside the background.
        vertical_offset: largest vertical misalignment of the right view, pixels.
        road: chance of a ground plane that runs to a distant horizon; rooms and clutter otherwise.
        smooth: chance that a surface has almost no contrast.
    """

    height: int = 256
    width: int = 512
    max_disparity: float = 160.0
    surfaces: tuple[int, int] = (5, 14)
    vertical_offset: float = 0.5
    road: float = 0.35
    smooth: float = 0.2


@dataclass(frozen=True)
class SceneBatch:
    """Rendered pairs; what is not said of the left view is in its pixels.

    Attributes:
        left, right: images in [0, 1], before any camera effects.
        disparity, disparity_right: of the two views, everywhere known.
        visible, visible_right: where the other view sees the same point.
        slant: dx and dy of the left disparity.
        seed: of this batch.
    """

    left: Float[Tensor, "b 3 h w"]
    right: Float[Tensor, "b 3 h w"]
    disparity: Float[Tensor, "b 1 h w"]
    disparity_right: Float[Tensor, "b 1 h w"]
    visible: Bool[Tensor, "b 1 h w"]
    visible_right: Bool[Tensor, "b 1 h w"]
    slant: Float[Tensor, "b 2 h w"]
    slant_right: Float[Tensor, "b 2 h w"]
    seed: int

    def mirrored(self) -> SceneBatch:
        """The scene in a mirror: the flipped right view becomes the left one."""
        flip = lambda t: t.flip(-1)  # noqa: E731
        sign = torch.tensor([-1.0, 1.0], device=self.slant.device).view(1, 2, 1, 1)
        return replace(
            self,
            left=flip(self.right),
            right=flip(self.left),
            disparity=flip(self.disparity_right),
            disparity_right=flip(self.disparity),
            visible=flip(self.visible_right),
            visible_right=flip(self.visible),
            slant=flip(self.slant_right) * sign,
            slant_right=flip(self.slant) * sign,
        )


@dataclass(frozen=True)
class Surface:
    """One surface of every sample of a batch; tensors are (b, 1, 1).

    ``d(x, y) = a + b u + c v + bend``, with u, v counted from (x0, y0).
    """

    shape: str
    curved: bool
    a: Tensor
    b: Tensor
    c: Tensor
    x0: Tensor
    y0: Tensor
    radius_x: Tensor
    radius_y: Tensor
    angle: Tensor
    bend: Tensor
    shape_numbers: Tensor  # (b, 12, 1, 1)

    def disparity(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """d, dd/dx and dd/dy at left-view coordinates."""
        u, v = x - self.x0, y - self.y0
        d = self.a + self.b * u + self.c * v
        if not self.curved:
            return d, self.b.expand_as(d), self.c.expand_as(d)
        ku, kv = 1.5 / self.radius_x, 1.5 / self.radius_y
        su, sv = (u * ku).sin(), (v * kv).sin()
        cu, cv = (u * ku).cos(), (v * kv).cos()
        return (
            d + self.bend * cu * cv,
            self.b - self.bend * ku * su * cv,
            self.c - self.bend * kv * cu * sv,
        )

    def inside(self, x: Tensor, y: Tensor) -> Tensor:
        if self.shape == "all":
            return torch.ones_like(x, dtype=torch.bool)
        u, v = x - self.x0, y - self.y0
        if self.shape == "below":
            return v > -self.radius_y
        cos, sin = self.angle.cos(), self.angle.sin()
        p, q = (cos * u + sin * v) / self.radius_x, (cos * v - sin * u) / self.radius_y
        n = self.shape_numbers
        if self.shape == "ellipse":
            return p.square() + q.square() < 1
        box = (p.abs() < 1) & (q.abs() < 1)
        if self.shape == "box":
            return box
        if self.shape == "frame":
            hole = ((p - (n[:, 0] - 0.5) * 0.4).abs() < 0.3 + 0.5 * n[:, 1]) & (q.abs() < 0.3 + 0.5 * n[:, 2])
            return box & ~hole
        if self.shape == "bars":
            count = 1 + (n[:, 0] * 8).floor()
            return box & ((p + 1) * 0.5 * count % 1 < 0.12 + 0.4 * n[:, 1])
        if self.shape == "blob":
            theta = torch.atan2(q, p)
            radius = 0.7 + sum(
                (n[:, k] - 0.5) * 0.4 * (theta * (k + 1) + n[:, k + 4] * math.tau).cos() for k in range(1, 5)
            )
            return p.square() + q.square() < radius.square()  # type: ignore[union-attr]
        far = torch.full_like(p, -1.0)
        for k in range(5):
            direction = (k + 0.6 * n[:, k]) * (math.tau / 5)
            far = torch.maximum(far, direction.cos() * p + direction.sin() * q - 0.4 - 0.5 * n[:, k + 5])
        return far < 0

    def left_of_right(self, x_right: Tensor, y: Tensor) -> Tensor:
        """The left-view column of what a right pixel would see of this surface."""
        x = x_right + self.a
        for _ in range(4 if self.curved else 1):
            d, slope, _ = self.disparity(x, y)
            x = x - (x - d - x_right) / (1 - slope)
        return x


def _surface(shape: str, curved: bool, columns: Tensor, config: SceneConfig) -> Surface:
    """From uniform numbers, (b, 32), to an object; ``columns[:, 0]`` is its disparity already."""
    r = columns[..., None, None]
    a = r[:, 0]
    # slopes, kept well below 1 pixel a pixel so that no surface turns its back on a view
    steep = (r[:, 1] * 2 - 1) ** 3 * 0.6
    tilt = (r[:, 2] * 2 - 1) ** 3 * 0.6
    scale = 0.04 + 0.36 * r[:, 3] ** 2
    thin = shape == "bars"
    aspect = torch.exp((r[:, 4] * 2 - 1) * (1.2 if thin else 0.8))
    radius_x = config.width * scale * aspect * 0.7
    radius_y = config.width * scale / aspect * 0.7
    # the disparity must stay in range over the whole object
    reach = (steep.abs() * radius_x + tilt.abs() * radius_y).clamp(min=1e-3)
    shrink = (torch.minimum(a * 0.7, 0.3 * config.max_disparity * torch.ones_like(a)) / reach).clamp(max=1)
    return Surface(
        shape=shape,
        curved=curved,
        a=a,
        b=steep * shrink,
        c=tilt * shrink,
        x0=r[:, 5] * (config.width + 60) - 10,
        y0=r[:, 6] * config.height,
        radius_x=radius_x,
        radius_y=radius_y,
        angle=torch.where(r[:, 7] < 0.4, 0.0, (r[:, 8] - 0.5) * math.pi),
        bend=torch.minimum(0.25 * radius_x, 0.3 * a) * (r[:, 9] * 2 - 0.7),
        shape_numbers=r[:, 16:28],
    )


def _background(r: Tensor, config: SceneConfig, far: Tensor, near: Tensor, road: bool) -> list[Surface]:
    r = r[..., None, None]
    far, near = far[:, None, None], near[:, None, None]
    zero = torch.zeros_like(far)
    whole = zero + config.width / 2
    wall = Surface(
        shape="all",
        curved=not road,
        a=far,
        b=(r[:, 0] - 0.5) * far / config.width,
        c=(r[:, 1] - 0.5) * far / config.height,
        x0=whole,
        y0=zero + config.height / 2,
        radius_x=config.width * (0.2 + r[:, 2]),
        radius_y=config.width * (0.2 + r[:, 3]),
        angle=zero,
        bend=0.15 * far * r[:, 4],
        shape_numbers=torch.zeros(len(r), 12, 1, 1, device=r.device),
    )
    horizon = config.height * (0.25 + 0.4 * r[:, 5])
    ground_height = config.height - horizon
    bottom = near * (0.5 + 0.5 * r[:, 6])
    slope = (bottom - far * 0.9) / ground_height
    ground = Surface(
        shape="below",
        curved=False,
        a=far * 0.9 + slope * ground_height / 2,
        b=(r[:, 7] - 0.5) * 0.04,
        c=slope,
        x0=whole,
        y0=horizon + ground_height / 2,
        radius_x=whole,
        radius_y=ground_height / 2,
        angle=zero,
        bend=zero,
        shape_numbers=wall.shape_numbers,
    )
    return [wall, ground]


def _draw_surfaces(seed: int, batch: int, config: SceneConfig) -> tuple[list[Surface], Tensor]:
    """The surfaces of a scene and uniform numbers for the appearance of each, (b, surfaces, 24)."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(8, generator=generator)
    road = bool(u[0] < config.road)
    least, most = config.surfaces
    count = least + int(u[1] * (most - least + 1))
    numbers = torch.rand(batch, count + 1, 32, generator=generator)
    kinds = torch.rand(count, 2, generator=generator)
    look = torch.rand(batch, count + 2, 24, generator=generator)

    first = numbers[:, 0]
    near = torch.exp(math.log(20) + first[:, 10] * (math.log(config.max_disparity * 0.9) - math.log(20)))
    if road:
        far = 0.5 + 6 * first[:, 11] ** 2
    else:
        far = near * (0.08 + 0.55 * first[:, 11])
    surfaces = _background(first, config, far, near, road)
    if not road and u[2] < 0.4:
        surfaces = surfaces[:1]
    for k in range(count):
        r = numbers[:, k + 1].clone()
        r[:, 0] = far + (near - far) * r[:, 0] ** (2.0 if road else 1.2)
        shape = SHAPES[int(kinds[k, 0] * len(SHAPES))]
        surfaces.append(_surface(shape, bool(kinds[k, 1] < 0.3), r, config))
    return surfaces, look[:, : len(surfaces)]


@dataclass(frozen=True)
class _View:
    disparity: Tensor
    x: Tensor  # left-view column of the surface point
    y: Tensor
    slope_x: Tensor
    slope_y: Tensor
    surface: Tensor


def _see(surfaces: list[Surface], x: Tensor, y: Tensor, *, right: bool) -> _View:
    """The nearest surface at every pixel; the first surface covers the view."""
    shape = torch.broadcast_shapes(x.shape, y.shape, surfaces[0].a.shape)
    x, y = x.expand(shape), y.expand(shape)
    best = torch.full(shape, -1.0, device=x.device)
    best_x, best_dx, best_dy = x.clone(), torch.zeros_like(best), torch.zeros_like(best)
    winner = torch.zeros(shape, dtype=torch.long, device=x.device)
    for number, surface in enumerate(surfaces):
        x_left = surface.left_of_right(x, y) if right else x
        d, dx, dy = surface.disparity(x_left, y)
        wins = surface.inside(x_left, y) & (d > best) & (d > 0.1)
        best = torch.where(wins, d, best)
        best_dx, best_dy = torch.where(wins, dx, best_dx), torch.where(wins, dy, best_dy)
        if right:
            best_x = torch.where(wins, x_left, best_x)
        winner.masked_fill_(wins, number)
    return _View(best, best_x, y, best_dx, best_dy, winner)


def _paint(view: _View, surfaces: list[Surface], look: Tensor, bank: TextureBank, config: SceneConfig) -> Tensor:
    """Texture, tint and shading of the surface points."""
    b, count, _ = look.shape
    texture = (look[..., 0] * len(bank)).long().clamp(max=len(bank) - 1)
    scale = torch.exp((look[..., 1] * 2 - 1) * 1.1) * 0.8  # texels a pixel at the surface's centre
    angle = look[..., 2] * math.tau
    # from full contrast down to almost none: walls and sky are smooth
    contrast = torch.where(look[..., 3] < config.smooth, 0.05 + 0.2 * look[..., 4], 0.5 + 0.7 * look[..., 4])
    bright = (look[..., 5] - 0.5) * 0.5
    columns = [
        texture.float(), scale * angle.cos(), scale * angle.sin(), scale,
        look[..., 6] * 512, look[..., 7] * 512, contrast, bright,
        *(0.8 + 0.4 * look[..., 8 + k] for k in range(3)),
        (look[..., 11] - 0.5) * 0.03, (look[..., 12] - 0.5) * 0.03, look[..., 13] * 6.3, 0.4 * look[..., 14] ** 2,
        *(torch.cat([getattr(s, name)[:, :, 0] for s in surfaces], dim=1) for name in ("a", "x0", "y0")),
    ]  # fmt: skip
    table = torch.stack(columns, -1).view(b * count, -1)
    row = view.surface + torch.arange(b, device=look.device).view(b, 1, 1) * count
    (index, cos, sin, size, u0, v0, gain, offset, r, g, bl, sx, sy, phase, shade, a, x0, y0) = table[row].unbind(-1)

    # x / d and y / d are coordinates on the surface itself, so slanted textures shrink with distance as they should
    zoom = (a / view.disparity.clamp(min=0.1)).clamp(0.1, 10)
    p, q = (view.x - x0) * zoom, (view.y - y0) * zoom
    level = (size * zoom * zoom.clamp(min=1)).clamp(min=1).log2().round().long()
    color = sample_bank(bank, index.long(), cos * p + sin * q + u0, cos * q - sin * p + v0, level)
    tint = torch.stack([r, g, bl], 1)
    light = 1 + shade * (sx * p + sy * q + phase).sin()
    return (((color - 0.5) * gain[:, None] + 0.5 + offset[:, None]) * tint * light[:, None]).clamp(0, 1)


def _visible(d: Tensor, d_other: Tensor, slope: Tensor, sign: int) -> Tensor:
    """Where the other view's nearest pixel shows the same point, to within what its rounding may change."""
    w = d.shape[2]
    column = torch.arange(w, device=d.device) + sign * d
    nearest = column.round().long()
    other = d_other.gather(2, nearest.clamp(0, w - 1))
    return ((other - d).abs() < 0.75 + slope.abs()) & (nearest >= 0) & (nearest < w)


@torch.no_grad()
def render(seed: int, batch: int, bank: TextureBank, config: SceneConfig) -> SceneBatch:
    """A batch of scenes, the same for the same seed, batch and config; on the bank's device."""
    device = bank.texels.device
    surfaces, look = _draw_surfaces(seed, batch, config)
    if device.type != "cpu":
        moved = lambda s: replace(s, **{k: v.to(device) for k, v in vars(s).items() if isinstance(v, Tensor)})  # noqa: E731
        surfaces, look = [moved(surface) for surface in surfaces], look.to(device)
    x = torch.arange(config.width, device=device, dtype=torch.float32)
    y = torch.arange(config.height, device=device, dtype=torch.float32)[:, None].expand(-1, config.width)

    left = _see(surfaces, x, y[None], right=False)
    generator = torch.Generator().manual_seed(seed + 1)
    coarse = (torch.rand(batch, 1, 3, 4, generator=generator) * 2 - 1).to(device) * config.vertical_offset
    amount = torch.rand(batch, 1, 1, 1, generator=generator).to(device) ** 2
    field = F.interpolate(coarse * amount, size=(config.height, config.width), mode="bicubic", align_corners=True)[:, 0]
    right = _see(surfaces, x, y + field, right=True)
    return SceneBatch(
        left=_paint(left, surfaces, look, bank, config),
        right=_paint(right, surfaces, look, bank, config),
        disparity=left.disparity[:, None],
        disparity_right=right.disparity[:, None],
        visible=_visible(left.disparity, right.disparity, left.slope_x, -1)[:, None],
        visible_right=_visible(right.disparity, left.disparity, right.slope_x, +1)[:, None],
        slant=torch.stack([left.slope_x, left.slope_y], 1),
        # along the right view's columns the same surface has another slope
        slant_right=torch.stack([right.slope_x / (1 - right.slope_x), right.slope_y / (1 - right.slope_x)], 1),
        seed=seed,
    )
