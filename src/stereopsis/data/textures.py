"""Surfaces for procedural scenes: photos under free licences and drawn textures, in one bank with mip levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import util
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from stereopsis.data.photos import Photo, read_photos

SIZE = 512  # texels along the finest level's side
LEVELS = 5

# Photos that the installed wheels carry under CC0, public domain or CC BY; the model card credits them.
# The wheel's stereo pair is not among them: it is a benchmark scene.
PHOTOS = {
    "skimage": (
        "data/astronaut.png", "data/brick.png", "data/camera.png", "data/chelsea.png", "data/coffee.png",
        "data/grass.png", "data/gravel.png", "data/hubble_deep_field.jpg", "data/ihc.png", "data/retina.jpg",
        "data/rocket.jpg",
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}  # fmt: skip


@dataclass(frozen=True)
class TextureBank:
    """Textures with their mip levels, packed.

    Attributes:
        texels: RGB in the low three bytes; a row a texture, level after level.
        sources: where each photo came from; for the model card.
    """

    texels: Tensor
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return self.texels.shape[0]

    def to(self, device: torch.device | str) -> TextureBank:
        return TextureBank(self.texels.to(device), self.sources)


def installed_photos() -> list[Path]:
    """The photos of :data:`PHOTOS` that this environment has."""
    found = []
    for package, names in PHOTOS.items():
        spec = util.find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            found += [Path(root) / name for name in names if (Path(root) / name).is_file()]
    return found


def make_bank(seed: int = 0, photo_crops: int = 8, drawn: int = 96) -> TextureBank:
    """Crops of every installed photo at several scales, drawn textures, and crops of the photo bank.

    Args:
        seed: of crops and drawings.
        photo_crops: textures a photo; a photo of the bank gives one per megapixel, at least two, at most this number.
        drawn: textures without a photo.
    """
    rng = np.random.default_rng(seed)
    photos = installed_photos() if photo_crops else []
    textures = [_photo_crop(path, rng) for path in photos for _ in range(photo_crops)]
    generator = torch.Generator().manual_seed(seed)
    textures += [_draw(generator) for _ in range(drawn)]
    gathered = read_photos(split="train") if photo_crops else []
    for photo in gathered:
        count = min(max(round(photo.megapixels), 2), photo_crops)
        textures += [_part(photo, rng) for _ in range(count)]
    names = [path.name for path in photos] + [Path(photo.source.path).name for photo in gathered]
    return TextureBank(torch.stack([_pack(texture) for texture in textures]), tuple(names))


def _photo_crop(path: Path, rng: np.random.Generator) -> Tensor:
    with Image.open(path) as file:
        image = file.convert("RGB")
        scale = SIZE / min(image.size)
        # from the whole photo to a part a third of its size
        scale = max(scale, scale * float(rng.uniform(1.0, 2.0)), 0.5)
        image = image.resize(
            (math.ceil(image.width * scale), math.ceil(image.height * scale)), Image.Resampling.LANCZOS
        )
        x = int(rng.integers(0, image.width - SIZE + 1))
        y = int(rng.integers(0, image.height - SIZE + 1))
        pixels = np.asarray(image.crop((x, y, x + SIZE, y + SIZE)), np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _part(photo: Photo, rng: np.random.Generator) -> Tensor:
    """A square of a photo of the bank, from its whole height or width down to SIZE pixels."""
    whole = min(photo.width, photo.height)
    side = round(whole * (min(SIZE / whole, 1.0) ** float(rng.uniform())))
    x, y = (int(rng.integers(0, length - side + 1)) for length in (photo.width, photo.height))
    square = Image.fromarray(np.ascontiguousarray(photo.pixels()[y : y + side, x : x + side]))
    pixels = np.asarray(square.resize((SIZE, SIZE), Image.Resampling.LANCZOS), np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _noise(generator: torch.Generator, channels: int, roughness: float) -> Tensor:
    """Multi-octave noise in about [-1, 1]; a roughness near 1 keeps the fine octaves as strong as the coarse ones."""
    total = torch.zeros(1, channels, SIZE, SIZE, dtype=torch.float32)
    weight, norm = 1.0, 0.0
    for octave in range(2, 10):
        grid = torch.rand(1, channels, 2**octave, 2**octave, generator=generator, dtype=torch.float32) * 2 - 1
        total += weight * F.interpolate(grid, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
        norm += weight
        weight *= roughness
    return total[0] / norm * 2


def _draw(generator: torch.Generator) -> Tensor:
    """Noise, stripes, checks, dots, cells or glyph-like marks between two or three colours."""
    u = torch.rand(16, generator=generator, dtype=torch.float32).tolist()
    colors = torch.rand(3, 3, 1, 1, generator=generator, dtype=torch.float32)
    noise = _noise(generator, 3, 0.45 + 0.5 * u[0])
    y, x = torch.meshgrid(*[torch.arange(SIZE, dtype=torch.float32) / SIZE] * 2, indexing="ij")
    warp = _noise(generator, 2, 0.5) * 0.03 * u[1]
    x, y = x + warp[0], y + warp[1]
    count = 4 + int(60 * u[2] ** 2)
    kind = int(u[3] * 6)
    if kind == 0:
        mask = (noise[:1] * (1 + 4 * u[4])).sigmoid()
    elif kind == 1:
        mask = ((x * count * math.tau).sin() * (1 + 6 * u[4])).sigmoid()[None]
    elif kind == 2:
        mask = (((x * count * math.pi).sin() * (y * count * math.pi).sin()) * 12).sigmoid()[None]
    elif kind == 3:
        gx, gy = (x * count) % 1 - 0.5, (y * count) % 1 - 0.5
        mask = ((0.3 - gx.hypot(gy)) * 30).sigmoid()[None]
    elif kind == 4:
        points = torch.rand(64 + int(256 * u[5]), 2, generator=generator, dtype=torch.float32)
        distance = torch.cdist(torch.stack([x, y], -1).view(-1, 2), points)
        two = distance.topk(2, largest=False)
        shade = torch.rand(len(points), generator=generator, dtype=torch.float32)[two.indices[:, 0]]
        edge = ((two.values[:, 1] - two.values[:, 0]) * 80).clamp(max=1)
        mask = (shade * edge).view(1, SIZE, SIZE)
    else:
        cells = torch.rand(1, 1, 16 + count, 3 * (16 + count), generator=generator, dtype=torch.float32)
        marks = (F.interpolate(cells, size=(SIZE, SIZE), mode="nearest")[0] > 0.6).float()
        lines = ((y * (16 + count) / 2) % 1 > 0.35).float()[None]
        mask = marks * lines
    texture = colors[0] * mask + colors[1] * (1 - mask) + (colors[2] - 0.5) * 0.2
    return (texture + noise * 0.25 * u[6]).clamp(0, 1)


def _pack(texture: Tensor) -> Tensor:
    levels = []
    for _ in range(LEVELS):
        r, g, b = (texture * 255).round().int().unbind(0)
        levels.append((r | (g << 8) | (b << 16)).flatten())
        texture = F.avg_pool2d(texture, 2)
    return torch.cat(levels)


def sample_bank(bank: TextureBank, index: Tensor, u: Tensor, v: Tensor, level: Tensor) -> Tensor:
    """Bilinear look-up with repetition beyond the texture's sides.

    Args:
        index, u, v: texture and texel coordinates of the finest level, all (b, h, w).
        level: mip level, integer, same shape.

    Returns:
        RGB, (b, 3, h, w).
    """
    level = level.clamp(0, LEVELS - 1)
    side = SIZE >> level
    # where a level begins: 0, S^2, S^2 + S^2 / 4, …
    starts = torch.tensor(
        [0, *np.cumsum([(SIZE >> n) ** 2 for n in range(LEVELS - 1)])], device=u.device, dtype=torch.int64
    )
    base = index * bank.texels.shape[1] + starts[level]
    shrink = torch.exp2(-level.float())
    u, v = u * shrink - 0.5, v * shrink - 0.5
    u0, v0 = u.floor(), v.floor()
    fu, fv = (u - u0)[:, None], (v - v0)[:, None]
    mask = side - 1
    iu, iv = u0.long(), v0.long()
    columns = [(iu + du) & mask for du in (0, 1)]
    rows = [base + ((iv + dv) & mask) * side for dv in (0, 1)]
    texels = bank.texels.view(-1)

    def texel(du: int, dv: int) -> Tensor:
        packed = texels[rows[dv] + columns[du]]
        return torch.stack([packed & 255, (packed >> 8) & 255, (packed >> 16) & 255], 1).float()

    top = torch.lerp(texel(0, 0), texel(1, 0), fu)
    bottom = torch.lerp(texel(0, 1), texel(1, 1), fu)
    return torch.lerp(top, bottom, fv) / 255
