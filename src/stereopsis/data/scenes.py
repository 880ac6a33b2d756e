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

from stereopsis.data.finish import SurfacePoints, finish, finish_numbers
from stereopsis.data.shapes import HOLES, NUMBERS, OPEN, SOLID, THIN
from stereopsis.data.surfaces import Surface
from stereopsis.data.textures import TextureBank, sample_bank
from stereopsis.types import StereoCalibration

SURFACE_NUMBERS = 16 + NUMBERS + 4 * HOLES
LOOK_NUMBERS = 32


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
        open, thin, pierced: chances that an object is a grating, wheel, frame and the like; a pole or wire; has holes.
        glossy: chance that a surface shows a highlight that stands elsewhere in the right view.
        fog: chance that the air takes contrast from what is far.
        panels, reflections: chances that a surface other than the farthest is a panel of two flat colours, or reflects
            (:mod:`.finish`).
        boards: chance that an object is a calibration board.
    """

    height: int = 256
    width: int = 512
    max_disparity: float = 160.0
    surfaces: tuple[int, int] = (5, 14)
    vertical_offset: float = 0.5
    road: float = 0.4
    smooth: float = 0.3
    open: float = 0.35
    thin: float = 0.15
    pierced: float = 0.2
    glossy: float = 0.15
    fog: float = 0.1
    panels: float = 0.0
    reflections: float = 0.0
    boards: float = 0.0


@dataclass(frozen=True)
class SceneBatch:
    """Rendered pairs; what is not said of the left view is in its pixels.

    Attributes:
        left, right: images in [0, 1], before any camera effects.
        disparity, disparity_right: of the two views, everywhere known.
        visible, visible_right: where the other view sees the same point.
        slant: dx and dy of the left disparity.
        focal, baseline: of the rig, in pixels and metres, each (b,).
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
    focal: Float[Tensor, " b"]
    baseline: Float[Tensor, " b"]
    seed: int

    @property
    def depth(self) -> Float[Tensor, "b 1 h w"]:
        """Metres along the optical axis, of the left view."""
        return (self.focal * self.baseline).view(-1, 1, 1, 1) / self.disparity

    def calibration(self, sample: int) -> StereoCalibration:
        """The rig of one sample; its principal point is the view's centre."""
        height, width = self.left.shape[-2:]
        focal, cx = self.focal[sample].item(), (width - 1) / 2
        return StereoCalibration(
            focal, focal, cx, (height - 1) / 2, cx, self.baseline[sample].item(), width=width, height=height
        )

    def mirrored(self) -> SceneBatch:
        """The scene in a mirror: the flipped right view becomes the left one."""
        flip = lambda t: t.flip(-1)  # noqa: E731
        sign = torch.tensor([-1.0, 1.0], device=self.slant.device, dtype=torch.float32).view(1, 2, 1, 1)
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


def _surface(shape: str, curved: bool, pierced: bool, columns: Tensor, config: SceneConfig) -> Surface:
    """From uniform numbers, (b, SURFACE_NUMBERS), to an object; ``columns[:, 0]`` is its disparity already."""
    r = columns[..., None, None]
    a = r[:, 0]
    # slopes, kept well below 1 pixel a pixel so that no surface turns its back on a view
    steep = (r[:, 1] * 2 - 1) ** 3 * 0.6
    tilt = (r[:, 2] * 2 - 1) ** 3 * 0.6
    scale = 0.04 + 0.36 * r[:, 3] ** 2
    aspect = torch.exp((r[:, 4] * 2 - 1) * (0.3 if shape == "wheel" else 0.8))
    radius_x = config.width * scale * aspect * 0.7
    radius_y = config.width * scale / aspect * 0.7
    angle = torch.where(r[:, 7] < 0.4, 0.0, (r[:, 8] - 0.5) * math.pi)
    if shape in THIN:  # half as wide as 0.8 to 6 pixels, and long
        radius_x = config.width * (0.08 + 0.5 * r[:, 3])
        radius_y = 0.8 * torch.exp(r[:, 4] * 2)
        angle = torch.where(r[:, 7] < 0.4, math.pi / 2, r[:, 8] * math.pi)
    # the disparity must stay in range over the whole object
    reach = (steep.abs() * radius_x + tilt.abs() * radius_y).clamp(min=1e-3)
    shrink = (torch.minimum(a * 0.7, 0.3 * config.max_disparity * torch.ones_like(a)) / reach).clamp(max=1)
    return Surface(
        shape=shape,
        curved=curved,
        pierced=pierced,
        a=a,
        b=steep * shrink,
        c=tilt * shrink,
        x0=r[:, 5] * (config.width + 60) - 10,
        y0=r[:, 6] * config.height,
        radius_x=radius_x,
        radius_y=radius_y,
        angle=angle,
        bend=torch.minimum(0.25 * torch.minimum(radius_x, radius_y), 0.3 * a) * (r[:, 9] * 2 - 0.7),
        numbers=r[:, 16:],
    )


def _facade(r: Tensor, horizon: Tensor, far: Tensor, near: Tensor, sign: int, config: SceneConfig) -> Surface:
    """A wall along the road, on the right (+1) or left (-1) side."""
    r = r[..., None, None]
    zero = torch.zeros_like(far)
    x0 = config.width * (0.5 + 0.2 * (r[:, 0] - 0.5) + sign * 0.15 * r[:, 1])
    slope = ((near * (0.3 + 0.6 * r[:, 2]) - far) / (config.width * 0.5)).clamp(0.01, 0.5)
    return Surface(
        shape="side",
        curved=False,
        pierced=False,
        a=far,
        b=sign * slope,
        c=zero,
        x0=x0,
        y0=horizon,
        radius_x=zero + config.width,
        radius_y=0.2 + 2 * r[:, 3],  # its height over its distance from the vanishing point
        angle=zero,
        bend=zero,
        numbers=r[:, 16:],
    )


def _background(r: Tensor, config: SceneConfig, far: Tensor, near: Tensor, road: bool) -> list[Surface]:
    r = r[..., None, None]
    far, near = far[:, None, None], near[:, None, None]
    zero = torch.zeros_like(far)
    whole = zero + config.width / 2
    wall = Surface(
        shape="all",
        curved=not road,
        pierced=False,
        a=far,
        b=(r[:, 0] - 0.5) * far / config.width,
        c=(r[:, 1] - 0.5) * far / config.height,
        x0=whole,
        y0=zero + config.height / 2,
        radius_x=config.width * (0.2 + r[:, 2]),
        radius_y=config.width * (0.2 + r[:, 3]),
        angle=zero,
        bend=0.15 * far * r[:, 4],
        numbers=r[:, 16:],
    )
    horizon = config.height * (0.25 + 0.4 * r[:, 5])
    ground_height = config.height - horizon
    bottom = near * (0.5 + 0.5 * r[:, 6])
    slope = (bottom - far * 0.9) / ground_height
    ground = Surface(
        shape="below",
        curved=False,
        pierced=False,
        a=far * 0.9 + slope * ground_height / 2,
        b=(r[:, 7] - 0.5) * 0.04,
        c=slope,
        x0=whole,
        y0=horizon + ground_height / 2,
        radius_x=whole,
        radius_y=ground_height / 2,
        angle=zero,
        bend=zero,
        numbers=wall.numbers,
    )
    return [wall, ground]


def _draw_surfaces(seed: int, batch: int, config: SceneConfig) -> tuple[list[Surface], Tensor]:
    """The surfaces of a scene and uniform numbers for the appearance of each, (b, surfaces, LOOK_NUMBERS)."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(8, generator=generator, dtype=torch.float32).tolist()
    road = u[0] < config.road
    least, most = config.surfaces
    count = least + int(u[1] * (most - least + 1))
    numbers = torch.rand(batch, count + 3, SURFACE_NUMBERS, generator=generator, dtype=torch.float32)
    kinds = torch.rand(count, 4, generator=generator, dtype=torch.float32).tolist()
    look = torch.rand(batch, count + 4, LOOK_NUMBERS, generator=generator, dtype=torch.float32)

    first = numbers[:, 0]
    near = torch.exp(math.log(20) + first[:, 10] * (math.log(config.max_disparity * 0.9) - math.log(20)))
    if road:
        far = 0.5 + 6 * first[:, 11] ** 2
    else:
        far = near * (0.08 + 0.55 * first[:, 11])
    surfaces = _background(first, config, far, near, road)
    if road:
        horizon = surfaces[1].y0 - surfaces[1].radius_y
        for side, sign in enumerate((1, -1)):
            if u[3 + side] < 0.5:
                distance = far[:, None, None], near[:, None, None]
                surfaces.append(_facade(numbers[:, 1 + side], horizon, *distance, sign, config))
    elif u[2] < 0.4:
        surfaces = surfaces[:1]
    boards = torch.rand(count, generator=torch.Generator().manual_seed(seed + 4), dtype=torch.float32) < config.boards
    for k, (which, curve, pierce, kind) in enumerate(kinds):
        r = numbers[:, k + 3].clone()
        r[:, 0] = far + (near - far) * r[:, 0] ** (2.0 if road else 1.2)
        family = THIN if which < config.thin else OPEN if which < config.thin + config.open else SOLID
        shape = family[int(kind * len(family))]
        if boards[k]:
            surfaces.append(replace(_surface("box", False, False, r, config), board=True))
            continue
        pierced = family is SOLID and pierce < config.pierced / max(1 - config.thin - config.open, 1e-6)
        surfaces.append(_surface(shape, curve < 0.3 and family is not THIN, pierced, r, config))
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
    best = torch.full(shape, -1.0, device=x.device, dtype=torch.float32)
    best_x = x.clone() if right else x
    winner = torch.zeros(shape, dtype=torch.long, device=x.device)
    for number, surface in enumerate(surfaces):
        rows, columns = surface.window(*shape[1:], right=right)
        if rows.start == rows.stop or columns.start == columns.stop:
            continue
        part = (slice(None), rows, columns)
        x_left = surface.left_of_right(x[part], y[part]) if right else x[part]
        d = surface.disparity(x_left, y[part])
        wins = surface.inside(x_left, y[part]) & (d > best[part]) & (d > 0.1)
        best[part] = torch.where(wins, d, best[part])
        winner[part].masked_fill_(wins, number)
        if right:
            best_x[part] = torch.where(wins, x_left, best_x[part])
    return _View(best, best_x, y, *_slopes(surfaces, winner, best_x, y), winner)


def _gather(surfaces: list[Surface], winner: Tensor, *names: str) -> tuple[Tensor, ...]:
    """Numbers of the surface that each pixel shows."""
    table = torch.stack([torch.cat([getattr(s, name)[:, :, 0] for s in surfaces], dim=1) for name in names])
    row = winner + torch.arange(len(winner), device=winner.device).view(-1, 1, 1) * len(surfaces)
    return _columns(table.flatten(1), row)


def _columns(table: Tensor, number: Tensor) -> tuple[Tensor, ...]:
    """Every row of a table (k, n) at the numbers' columns; indexing takes twice as long as this."""
    return table.gather(1, number.view(1, -1).expand(len(table), -1)).view(-1, *number.shape).unbind(0)


def _slopes(surfaces: list[Surface], winner: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """dd/dx and dd/dy of the surfaces that the pixels show, at left-view coordinates."""
    if not any(surface.curved for surface in surfaces):
        b, c = _gather(surfaces, winner, "b", "c")
        return b, c
    flat = [surface if surface.curved else replace(surface, bend=torch.zeros_like(surface.a)) for surface in surfaces]
    b, c, x0, y0, radius_x, radius_y, bend = _gather(flat, winner, "b", "c", "x0", "y0", "radius_x", "radius_y", "bend")
    ku, kv = 1.5 / radius_x, 1.5 / radius_y
    u, v = (x - x0) * ku, (y - y0) * kv
    return b - bend * ku * u.sin() * v.cos(), c - bend * kv * v.sin() * u.cos()


def _paint(
    view: _View,
    surfaces: list[Surface],
    look: Tensor,
    finishes: Tensor | None,
    bank: TextureBank,
    config: SceneConfig,
    *,
    right: bool,
) -> Tensor:
    """Texture, tint, shading, a shadow and, on glossy surfaces, a highlight, which moves between the views."""
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
        (look[..., 15] - 0.5) * 0.2, (look[..., 16] - 0.5) * 0.2, (look[..., 17] - 0.5) * 6, 0.7 * look[..., 18] ** 2,
        (look[..., 19] < config.glossy) * look[..., 20],
        (look[..., 21] - 0.5) * 150 + (60 * (look[..., 22] - 0.5) if right else 0.0), (look[..., 23] - 0.5) * 150,
        0.01 + 0.06 * look[..., 24],
        *(torch.cat([getattr(s, name)[:, :, 0] for s in surfaces], dim=1) for name in ("a", "x0", "y0")),
    ]  # fmt: skip
    table = torch.stack(columns).view(len(columns), b * count)
    row = view.surface + torch.arange(b, device=look.device).view(b, 1, 1) * count
    (
        index, cos, sin, size, u0, v0, gain, offset, r, g, bl, sx, sy, phase, shade,
        cut_x, cut_y, cut, shadow, gloss, glow_x, glow_y, glow_size, a, x0, y0,
    ) = _columns(table, row)  # fmt: skip

    # x / d and y / d are coordinates on the surface itself, so slanted textures shrink with distance as they should
    zoom = (a / view.disparity.clamp(min=0.1)).clamp(0.1, 10)
    p, q = (view.x - x0) * zoom, (view.y - y0) * zoom
    level = (size * zoom * zoom.clamp(min=1)).clamp(min=1).log2().round().long()
    color = sample_bank(bank, index.long(), cos * p + sin * q + u0, cos * q - sin * p + v0, level)
    tint = torch.stack([r, g, bl], 1)
    light = 1 + shade * (sx * p + sy * q + phase).sin()
    light = light * (1 - shadow * (cut_x * p + cut_y * q + cut).sigmoid())
    color.mul_(gain[:, None]).add_((0.5 + offset - 0.5 * gain)[:, None])
    if finishes is not None:
        rx, ry, turn = _gather(surfaces, view.surface, "radius_x", "radius_y", "angle")
        points = SurfacePoints(view.surface, p, q, view.x, view.y, view.disparity, rx, ry, turn, right)
        color = finish(color, points, finishes, bank, config.panels, config.reflections)
    color.mul_(tint).mul_(light[:, None])
    if gloss.any():
        glow = gloss * torch.exp(-((p - glow_x) * glow_size).square() - ((q - glow_y) * glow_size).square())
        color.add_(glow[:, None])
    return _soften_edges(color.clamp_(0, 1), view.surface)


def _soften_edges(color: Tensor, surface: Tensor) -> Tensor:
    """Mixes the colours of pixels on both sides of an outline, as a pixel that covers both would."""
    edge = torch.zeros_like(surface, dtype=torch.bool)
    across = surface[:, :, 1:] != surface[:, :, :-1]
    down = surface[:, 1:] != surface[:, :-1]
    edge[:, :, 1:] |= across
    edge[:, :, :-1] |= across
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    padded = F.pad(color, (1, 1, 1, 1), mode="replicate")
    row = 0.25 * (padded[..., :-2] + padded[..., 2:]) + 0.5 * padded[..., 1:-1]
    mixed = 0.25 * (row[..., :-2, :] + row[..., 2:, :]) + 0.5 * row[..., 1:-1, :]
    return torch.where(edge[:, None], mixed, color)


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
    coarse = (torch.rand(batch, 1, 3, 4, generator=generator, dtype=torch.float32) * 2 - 1).to(
        device
    ) * config.vertical_offset
    amount = torch.rand(batch, 1, 1, 1, generator=generator, dtype=torch.float32).to(device) ** 2
    field = F.interpolate(coarse * amount, size=(config.height, config.width), mode="bicubic", align_corners=True)[:, 0]
    right = _see(surfaces, x, y + field, right=True)
    finishes = None
    if config.panels or config.reflections or config.boards:
        boards = [surface.board for surface in surfaces]
        finishes = finish_numbers(seed + 3, batch, boards).to(device)
    # of the rig and the air; drawn last, so that it does not change what stands in the scene
    focal, baseline, foggy, thick, grey = torch.rand(
        5, batch, generator=torch.Generator().manual_seed(seed + 2), dtype=torch.float32
    )
    air = (foggy < config.fog) * (0.5 + 4 * thick.square())
    color = (0.5 + 0.5 * grey).view(-1, 1, 1, 1).to(device)

    def picture(view: _View, *, right: bool) -> Tensor:
        painted = _paint(view, surfaces, look, finishes, bank, config, right=right)
        if not air.any():
            return painted
        clear = torch.exp(-air.view(-1, 1, 1, 1).to(device) / view.disparity[:, None].clamp(min=0.1))
        return color + (painted - color) * clear

    return SceneBatch(
        left=picture(left, right=False),
        right=picture(right, right=True),
        disparity=left.disparity[:, None],
        disparity_right=right.disparity[:, None],
        visible=_visible(left.disparity, right.disparity, left.slope_x, -1)[:, None],
        visible_right=_visible(right.disparity, left.disparity, right.slope_x, +1)[:, None],
        slant=torch.stack([left.slope_x, left.slope_y], 1),
        # along the right view's columns the same surface has another slope
        slant_right=torch.stack([right.slope_x / (1 - right.slope_x), right.slope_y / (1 - right.slope_x)], 1),
        focal=(config.width * (0.6 + focal)).to(device),
        baseline=(0.05 * torch.exp(2.5 * baseline)).to(device),
        seed=seed,
    )
