"""``stereopsis upsample``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from stereopsis.cli.console import show_json
from stereopsis.cli.matching import DType, check_suffix, describe, load_of, range_text

if TYPE_CHECKING:
    from torch import Tensor, nn

# as in upsampling.resample, which is not imported before it is needed
ReductionName = Literal["bicubic", "bilinear", "area", "cubic", "nearest", "every"]

DEFAULT_UPSAMPLER = "fdkn.any"


def upsample(
    image: Positional[Path],
    depth: Positional[Path],
    out: Path,
    scale: float | None = None,
    model: str = DEFAULT_UPSAMPLER,
    weights: Path | None = None,
    valid: Path | None = None,
    unit: float | None = None,
    back_projections: int | None = None,
    reduction: ReductionName | None = None,
    device: str = "cpu",
    dtype: DType = "float32",
    json: bool = False,
) -> None:
    """Depth at the size of an image, with the edges of the image.

    Args:
        image: Image that the depth map is registered to.
        depth: Depth map, of the image's size or smaller, in any ratio; 0, negative and NaN are holes.
        out: File (.png with 16 bits, .npy, .npz, .pfm).
        scale: Ratio of the sizes, refused where the files have another one; theirs if not given.
        model: Upsampler, see `stereopsis models`.
        weights: Safetensors file in place of the shipped weights.
        valid: Mask of the depth map's size (picture or .npy), 0 where the depth may not be used.
        unit: Metres per step of the depth file, e.g. 0.0002 for TUM; what the file states or is usual if not given.
        back_projections: How often the result is pulled towards what the sensor measured. If not given, fdkn.any finds
            out whether to do so once, the others do not.
        reduction: How the depth map was made small, where you know it; what fits best if not given.
        device: Where to compute, e.g. cpu or cuda.
        dtype: Precision to compute in.
        json: Print JSON instead of text.
    """
    import time

    import torch

    from stereopsis.io import read_depth, read_image, write_depth
    from stereopsis.io.depth import WRITE_SUFFIXES
    from stereopsis.types import Depth
    from stereopsis.upsampling.resample import upsample

    check_suffix(out, WRITE_SUFFIXES, "--out")
    if scale is not None and not scale >= 1:
        raise ValueError(f"--scale is {scale:g}; it must be at least 1, for example 8.")
    guide = read_image(image)[None]
    values, known = (t[None] for t in read_depth(depth, unit))
    if valid is not None:
        known = known & _read_mask(valid, known.shape[-2:])
    if not known.any():
        raise ValueError(f"{depth} has no valid depth; check the file, --unit and --valid.")
    _check_ratio(guide, values, scale)
    upsampler = load_upsampler(model, weights, device, dtype)
    small = Depth(torch.where(known, values, 0.0), known)
    start = time.perf_counter()
    with torch.inference_mode():
        found = upsample(upsampler, guide.to(device), small.to(device), back_projections, reduction).to("cpu")
    seconds = time.perf_counter() - start
    # a correction can take depth beside a hole or a border below 0
    positive = found.valid & (found.depth > 0)
    result = Depth(torch.where(positive, found.depth, 0.0), positive)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_depth(out, result, overflow="drop")

    numbers = describe(result.depth, result.valid)
    height, width = result.depth.shape[-2:]
    if json:
        show_json(
            {
                "model": model,
                "width": width,
                "height": height,
                "scale": width / values.shape[-1],
                "depth": numbers,
                "seconds": round(seconds, 4),
                "out": str(out),
            }
        )
        return
    print(f"{out}  {range_text(numbers, 'm')}, {seconds:.2f} s")


def load_upsampler(name: str, weights: Path | None = None, device: str = "cpu", dtype: DType = "float32") -> nn.Module:
    """An upsampling model by name; errors as of :func:`~stereopsis.cli.matching.load_of`."""
    return load_of("upsampling", "upsample", name, weights, device, dtype)


def _check_ratio(image: Tensor, depth: Tensor, scale: float | None) -> None:
    """Refuse a scale that the files do not have; a pixel of rounding in the small map is allowed."""
    if scale is None:
        return
    for large, small in zip(image.shape[-2:], depth.shape[-2:], strict=True):
        if abs(large / scale - small) > 1:
            raise ValueError(
                f"--scale is {scale:g}, but the image is {image.shape[-1]}x{image.shape[-2]} and the depth map is "
                f"{depth.shape[-1]}x{depth.shape[-2]}; leave --scale out or give the files that belong together."
            )


def _read_mask(path: Path, size: tuple[int, ...]) -> Tensor:
    import numpy as np
    import torch

    from stereopsis.io.maps import ARRAY_SUFFIXES, read_bytes, read_grey

    if path.suffix.lower() in ARRAY_SUFFIXES[:1]:
        read_bytes(path)
        try:
            stored = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path} cannot be read as an array ({error}); write or copy it again.") from error
    else:
        stored = read_grey(path)[0]
    if stored.shape != tuple(size):
        raise ValueError(
            f"{path} is {'x'.join(map(str, stored.shape[::-1]))} and the depth map is {size[1]}x{size[0]}; the mask "
            "must have the size of the depth map."
        )
    return torch.from_numpy(np.ascontiguousarray(stored != 0))[None, None]
