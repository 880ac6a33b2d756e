"""Upsampled depth of the frames of a sequence."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stereopsis.geometry.resample import Reduction
from stereopsis.geometry.summary import describe
from stereopsis.io import write_depth
from stereopsis.io.frames import Frame
from stereopsis.io.maps import ARRAY_SUFFIXES, read_bytes, read_grey
from stereopsis.pipeline.runs.job import Job
from stereopsis.pipeline.runs.record import RunRecord
from stereopsis.types import Depth
from stereopsis.upsampling.upsample import only_positive, upsample

MASKS = (".png", ".npy", ".pgm")


@dataclass(eq=False)
class UpsampleJob(Job):
    """Upsamples the depth maps of a sequence.

    Attributes:
        load: returns the upsampler; it is called once in each process, so it must be picklable for a cluster.
        out: file of the result, or folder of the results.
        scale: ratio of the sizes, which is checked; None for any ratio.
        valid: mask of all depth maps, or folder of a mask for each, 0 where the depth may not be used.
        back_projections, reduction: as in :func:`~stereopsis.upsampling.upsample.upsample`.
        device: of the upsampler.
        format: suffix of the files of a sequence.
        many: whether results lie in a folder, under the names of the frames.
        record: of the run, for a sequence.
    """

    load: Callable[[], nn.Module]
    out: Path
    many: bool
    scale: float | None = None
    valid: Path | None = None
    back_projections: int | None = None
    reduction: Reduction | None = None
    device: str = "cpu"
    format: str = "png"
    record: RunRecord | None = None
    network: nn.Module | None = None

    def open(self) -> None:
        self.network = self.load()

    def is_done(self, frame: Frame) -> bool:
        return self.record is not None and self.record.is_done([self._target(frame)], {frame.left, frame.right})

    def read(self, frame: Frame) -> tuple[Tensor, Depth]:
        guide, values, known = (t[None] for t in frame.read())
        if self.valid is not None:
            known = known & _read_mask(self._mask(frame), known.shape[-2:])
        if not known.any():
            raise ValueError(f"{frame.right} has no valid depth; check the file, --unit and --valid.")
        _check_ratio(guide, values, self.scale)
        return guide, Depth(torch.where(known, values, 0.0), known)

    def compute(self, frame: Frame, images: tuple[Tensor, Depth]) -> tuple[Depth, dict[str, Any]]:
        assert self.network is not None
        guide, small = images
        start = time.perf_counter()
        with torch.inference_mode():
            found = upsample(
                self.network, guide.to(self.device), small.to(self.device), self.back_projections, self.reduction
            ).to("cpu")
        seconds = time.perf_counter() - start
        if self.record is not None:
            self.record.begin()
        height, width = found.depth.shape[-2:]
        row = {"width": width, "height": height, "scale": width / small.depth.shape[-1], "seconds": round(seconds, 4)}
        return only_positive(found), row

    def write(self, frame: Frame, found: tuple[Depth, dict[str, Any]]) -> dict[str, Any]:
        result, row = found
        target = self._target(frame)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_depth(target, result, overflow="drop")
        return {"name": frame.name} | row | {"depth": describe(result.depth, result.valid), "out": str(target)}

    def _target(self, frame: Frame) -> Path:
        return self.out / f"{frame.name}.{self.format}" if self.many else self.out

    def _mask(self, frame: Frame) -> Path:
        assert self.valid is not None
        if not self.valid.is_dir():
            return self.valid
        for suffix in MASKS:
            path = self.valid / f"{frame.right.stem}{suffix}"
            if path.is_file():
                return path
        raise FileNotFoundError(f"{self.valid} has no mask {frame.right.stem} ({', '.join(MASKS)}).")


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
