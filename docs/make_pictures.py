"""Pictures of the documents: ``python docs/make_pictures.py [FOLDER OF THE DEMO]``.

Small copies of what the demo writes, guided upsampling of its pair's true disparity, and the other uses of DKN on
photos of the scikit-image wheel (astronaut, chelsea and coffee: public domain and CC0) and on procedural scenes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import stereopsis
from stereopsis.data.scenes import SceneConfig, render
from stereopsis.data.textures import make_bank
from stereopsis.geometry.resample import enlarge, fill_smooth, reduce
from stereopsis.types import Depth
from stereopsis.upsampling.restoration import denoise, remove_texture, restore, upsample_saliency
from stereopsis.upsampling.upsample import upsample
from stereopsis.visualization import colorize, side_by_side

DOCS = Path(__file__).resolve().parent
# File and width in pixels; all pictures together stay below 700 KB.
PICTURES = {"overview": 1506, "cloud": 741}

SCENES = 7_100_013, 7_100_018
SURFACE = 150, 130  # a pixel of the first one's salient object, column and row
PERSON = 20, 10, 380, 430  # left, top, width and height of a box around the astronaut

CROP = slice(130, 370), slice(180, 500)  # of the demo's pair: rows and columns


def upsampling(path: Path) -> None:
    """Image, map of an eighth of its size, bicubic, FDKN, and the truth."""
    from stereopsis.apps.demo.compute import load_pair

    pair, truth, known = load_pair()
    image, whole, known = (t[..., :496, :736][..., *CROP] for t in (pair.left, fill_smooth(truth, known), known))
    small = reduce(whole, 8)
    low = Depth(small, torch.ones_like(small, dtype=torch.bool))
    size = (whole.shape[-2], whole.shape[-1])
    with torch.inference_mode():
        found = upsample(stereopsis.load("fdkn_x8.scenes"), image, low).depth
    maps = [enlarge(low, size, "nearest").depth, enlarge(low, size).depth, found, torch.where(known, whole, torch.nan)]
    low_end, high_end = whole.min().item(), whole.max().item()
    row = side_by_side(image, *(colorize(m, vmin=low_end, vmax=high_end) for m in maps))
    Image.fromarray(row).save(path, quality=55, optimize=True)
    print(path)


def photo(name: str, rows: slice, columns: slice) -> torch.Tensor:
    """A crop of a photo, (1, 3, h, w) in [0, 1]."""
    from skimage import data

    crop = getattr(data, name)()[rows, columns]
    return torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 255


def noise(like: torch.Tensor, deviation: float) -> torch.Tensor:
    return deviation * torch.randn(like.shape, generator=torch.Generator().manual_seed(0))


def save(path: Path, rows: list[np.ndarray], quality: int) -> None:
    """Rows of pictures below each other."""
    gap = np.full((4, rows[0].shape[1], 3), 255, np.uint8)
    sheet = np.concatenate([part for row in rows for part in (row, gap)][:-1])
    Image.fromarray(sheet).save(path, quality=quality, optimize=True)
    print(path)


def scene(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A procedural scene with drawn textures alone, and its disparity in [0, 1]."""
    config = SceneConfig(220, 300, max_disparity=60, road=0.2, smooth=0.15)
    found = render(seed, 1, make_bank(0, photo_crops=0, drawn=64), config)
    low, high = found.disparity.min(), found.disparity.max()
    return found.left, (found.disparity - low) / (high - low)


def denoising(path: Path) -> None:
    """Scenes: image, map with the paper's noise, the map denoised, and the truth."""
    model, rows = stereopsis.load("fdkn.denoise"), []
    for seed in SCENES:
        image, truth = scene(seed)
        noisy = truth + noise(truth, 0.005**0.5)
        found = denoise(model, image, Depth(noisy, torch.ones_like(noisy, dtype=torch.bool))).depth
        rows.append(side_by_side(image, *(colorize(m, vmin=0, vmax=1) for m in (noisy, found, truth))))
    save(path, rows, 42)


def restoration(path: Path) -> None:
    """Guide, noisy image, result and the image without noise: a flash, and near infrared, both made from a photo."""
    model = stereopsis.load("fdkn.denoise")
    clean = photo("astronaut", slice(0, 220), slice(100, 400))
    h, w = clean.shape[-2:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    # the flash stands at the camera, is white and fades to the sides; the lamp stands on the left, dim and yellow
    flash = (clean.pow(0.8) * (1.1 - 0.35 * (x * x + y * y))).clamp(0, 1)
    lamp = clean.pow(1.2) * (0.65 - 0.2 * x) * torch.tensor([1.0, 0.8, 0.55]).view(1, 3, 1, 1)
    colour = photo("coffee", slice(80, 300), slice(160, 460))
    # what near infrared sees is close to red, and brighter where dyes are dark
    infrared = (0.8 * colour[:, :1] + 0.3 * colour[:, 1:2] - 0.2 * colour[:, 2:]).clamp(0, 1).pow(0.6)
    rows = []
    for guide, truth, deviation in ((flash, lamp, 0.06), (infrared, colour, 0.0707)):
        noisy = (truth + noise(truth, deviation)).clamp(0, 1)
        rows.append(side_by_side(guide, noisy, restore(model, guide, noisy), truth))
    save(path, rows, 55)


def texture(path: Path) -> None:
    """Images with texture, after one iteration and after four: cloth drawn over a photo, and the fur of a cat."""
    model = stereopsis.load("fdkn.denoise")
    cat, face = photo("chelsea", slice(40, 260), slice(80, 380)), photo("astronaut", slice(0, 220), slice(100, 400))
    y, x = torch.meshgrid(torch.arange(220.0), torch.arange(300.0), indexing="ij")
    cloth = 1 + 0.15 * torch.where((x // 8 + y // 8) % 2 > 0, (x * 1.57).sin(), (y * 1.57).sin())
    rows = [
        side_by_side(image, *(remove_texture(model, image, n) for n in (1, 4)))
        for image in ((face * cloth * 0.8).clamp(0, 1), cat)
    ]
    save(path, rows, 55)


def saliency(path: Path) -> None:
    """Image, saliency map of an eighth of its size, bicubic, FDKN, and the map before it was reduced.

    The maps are an object of a scene, and what OpenCV's GrabCut takes for the person in a photo.
    """
    import cv2

    image, disparity = scene(SCENES[0])
    surface = np.zeros((222, 302), np.uint8)
    cv2.floodFill(
        disparity[0, 0].numpy().copy(), surface, SURFACE, 0, 0.01, 0.01, cv2.FLOODFILL_MASK_ONLY | 4 | (1 << 8)
    )
    person = photo("astronaut", slice(0, 440), slice(40, 480))
    pixels = (person[0].permute(1, 2, 0) * 255).byte().contiguous().numpy()
    labels = np.zeros(pixels.shape[:2], np.uint8)
    cv2.setRNGSeed(0)
    cv2.grabCut(pixels, labels, PERSON, np.zeros((1, 65)), np.zeros((1, 65)), 6, cv2.GC_INIT_WITH_RECT)
    rows = []
    for guide, mask in ((image, surface[1:-1, 1:-1]), (person[..., :220, 60:360], labels[:220, 60:360] & 1)):
        guide, truth = guide[..., :216, :296], torch.from_numpy(mask)[None, None, :216, :296].float()
        small = reduce(truth, 8).clamp(0, 1)
        methods = ("nearest", "bicubic", "fdkn_x8.scenes")
        rows.append(
            side_by_side(guide, *(upsample_saliency(stereopsis.load(m), guide, small)[0] for m in methods), truth[0])
        )
    save(path, rows, 60)


@torch.inference_mode()
def main(source: Path, target: Path = DOCS / "pictures") -> None:
    target.mkdir(exist_ok=True)
    for name, width in PICTURES.items():
        with Image.open(source / f"{name}.png") as picture:
            height = round(picture.height * width / picture.width)
            small = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        small.save(target / f"{name}.jpg", quality=78, optimize=True)
        print(target / f"{name}.jpg")
    upsampling(target / "upsampling.jpg")
    for draw in (denoising, restoration, texture, saliency):
        draw(target / f"{draw.__name__}.jpg")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS.parent / "out" / "demo")
