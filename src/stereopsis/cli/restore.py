"""``stereopsis restore`` and ``stereopsis smooth``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from stereopsis.cli.loading import load_upsampler
from stereopsis.cli.options import check_suffix

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_DENOISER = "fdkn.denoise"


def restore(
    guide: Positional[Path],
    image: Positional[Path],
    out: Path,
    model: str = DEFAULT_DENOISER,
    weights: Path | None = None,
    device: str = "cpu",
) -> None:
    """A noisy image cleaned under the guidance of a clean one: a flash photo, near infrared.

    Args:
        guide: Clean image, registered to the noisy one and of its size; grey or colour.
        image: Noisy image; grey or colour.
        out: Image file.
        model: Model trained for noise, see `stereopsis models`.
        weights: Safetensors file in place of the shipped weights.
        device: Where to compute, e.g. cpu or cuda.
    """
    from stereopsis.upsampling.restoration import restore

    clean, noisy = _read(out, guide, image)
    _write(out, restore, load_upsampler(model, weights, device), clean.to(device), noisy.to(device))


def smooth(
    image: Positional[Path],
    out: Path,
    iterations: int = 4,
    model: str = DEFAULT_DENOISER,
    weights: Path | None = None,
    device: str = "cpu",
) -> None:
    """An image without its fine texture; options as of `restore`, and how often the filter is applied."""
    from stereopsis.upsampling.restoration import remove_texture

    (textured,) = _read(out, image)
    _write(out, remove_texture, load_upsampler(model, weights, device), textured.to(device), iterations)


def _read(out: Path, *paths: Path) -> list[Tensor]:
    from stereopsis.io import read_image
    from stereopsis.io.images import IMAGE_SUFFIXES

    check_suffix(out, IMAGE_SUFFIXES, "--out")
    images = [read_image(path, channels=None)[None] for path in paths]
    height, width = images[0].shape[-2:]
    for path, image in zip(paths, images, strict=True):
        if image.shape[-2:] != (height, width):
            raise ValueError(
                f"{paths[0]} is {width}x{height} and {path} is {image.shape[-1]}x{image.shape[-2]}; both must show the "
                "same at the same size."
            )
    return images


def _write(out: Path, work: Callable[..., Tensor], *arguments: object) -> None:
    import torch

    from stereopsis.io import write_image

    with torch.inference_mode():
        result = work(*arguments)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_image(out, result)
    print(out)
