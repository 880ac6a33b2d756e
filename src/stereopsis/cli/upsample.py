"""``stereopsis upsample``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from stereopsis.cli.batch import SEQUENCE, Sequence, identity_of, run_sequence, settings_of
from stereopsis.cli.console import show_json
from stereopsis.cli.matching import DType, check_folder, check_suffix, describe, load_of, range_text
from stereopsis.pipeline.runs.job import Job

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stereopsis.io.frames import Frame
    from stereopsis.pipeline.runs import RunRecord
    from stereopsis.types import Depth

# as in geometry.resample, which is not imported before it is needed
ReductionName = Literal["bicubic", "bilinear", "area", "cubic", "nearest", "every"]

DEFAULT_UPSAMPLER = "fdkn.any"
MASKS = (".png", ".npy", ".pgm")


def upsample(
    image: Positional[str],
    out: Path,
    depth: Positional[str | None] = None,
    scale: float | None = None,
    model: str = DEFAULT_UPSAMPLER,
    weights: Path | None = None,
    valid: Path | None = None,
    unit: float | None = None,
    back_projections: int | None = None,
    reduction: ReductionName | None = None,
    device: str = "cpu",
    dtype: DType = "float32",
    format: Literal["png", "npy", "npz", "pfm"] = "png",
    json: bool = False,
    sequence: Sequence = SEQUENCE,
) -> int:
    """Depth at the size of an image, with the edges of the image, of one map or of all of a sequence.

    Args:
        image: Image that the depth map is registered to, or a folder, quoted glob or video of them; alone, a folder of
            both (TUM, or image and depth) or a ROS bag.
        out: File (.png with 16 bits, .npy, .npz, .pfm); for a sequence a folder.
        depth: Depth map, of the image's size or smaller, in any ratio, or a folder or quoted glob of them; 0, negative
            and NaN are holes.
        scale: Ratio of the sizes, refused where the files have another one; theirs if not given.
        model: Upsampler, see `stereopsis models`.
        weights: Safetensors file in place of the shipped weights.
        valid: Mask of the depth map's size (picture or .npy), 0 where the depth may not be used; for a sequence also a
            folder of them, named as the depth maps.
        unit: Metres per step of the depth file, e.g. 0.0002 for TUM; what the file states or is usual if not given.
        back_projections: How often the result is pulled towards what the sensor measured. If not given, fdkn.any finds
            out whether to do so once, the others do not.
        reduction: How the depth map was made small, where you know it; what fits best if not given.
        device: Where to compute, e.g. cpu or cuda.
        dtype: Precision to compute in.
        format: Kind of the files of a sequence.
        json: Print JSON instead of text.
        sequence: How sequences are read and worked on.
    """
    from stereopsis.io import is_bag, is_video
    from stereopsis.io.depth import WRITE_SUFFIXES
    from stereopsis.io.frames import open_depth_frames
    from stereopsis.pipeline.runs import RunRecord

    if scale is not None and not scale >= 1:
        raise ValueError(f"--scale is {scale:g}; it must be at least 1, for example 8.")
    many = depth is None or is_bag(image) or is_video(image) or not (Path(image).is_file() and Path(depth).is_file())
    if not many:
        check_suffix(out, WRITE_SUFFIXES, "--out")
    tolerance = sequence.sync_ms / 1000
    frames = open_depth_frames(image, depth, unit=unit, topics=sequence.topics, tolerance=tolerance)
    if many:
        check_folder(out, "--out")
        if out.suffix.lower() in WRITE_SUFFIXES:
            raise ValueError(f"--out is {out}, a file, but there are {frames.count} depth maps; name a folder.")
    job = UpsampleJob(model, weights, scale, valid, unit, back_projections, reduction, device, dtype, format, out, many)
    if many:
        job.record = RunRecord(out, settings_of("upsample", (image, depth), job.settings()), sequence.overwrite)

    summary = run_sequence(frames, job, sequence, "upsampling", strict=lambda _: not many)
    if json:
        rows = {"pairs": summary.results, "failed": summary.failed, "skipped": summary.skipped}
        show_json({"model": model} | (rows if many else summary.results[0]))
    else:
        for row in summary.results:
            print(f"{row['out']}  {range_text(row['depth'], 'm')}, {row['seconds']:.2f} s")
    return summary.status("upsampled")


@dataclass(eq=False)
class UpsampleJob(Job):
    """Upsamples the depth of a sequence; most attributes are those of :func:`upsample`.

    Attributes:
        many: whether results lie in a folder, under the names of the frames.
        record: of the run, for a sequence.
    """

    model: str
    weights: Path | None
    scale: float | None
    valid: Path | None
    unit: float | None
    back_projections: int | None
    reduction: ReductionName | None
    device: str
    dtype: DType
    format: str
    out: Path
    many: bool
    record: RunRecord | None = None
    network: nn.Module | None = None

    def settings(self) -> dict[str, Any]:
        """What the maps depend on."""
        names = (
            "model", "weights", "scale", "valid", "unit", "back_projections", "reduction", "dtype", "format",
        )  # fmt: skip
        values = {name: getattr(self, name) for name in names}
        return values | {"checksum of the weights": identity_of(self.model, self.weights)}

    def open(self) -> None:
        self.network = load_upsampler(self.model, self.weights, self.device, self.dtype)

    def is_done(self, frame: Frame) -> bool:
        return self.record is not None and self.record.is_done([self._target(frame)], {frame.left, frame.right})

    def read(self, frame: Frame) -> tuple[Tensor, Depth]:
        import torch

        from stereopsis.types import Depth

        guide, values, known = (t[None] for t in frame.read())
        if self.valid is not None:
            known = known & _read_mask(self._mask(frame), known.shape[-2:])
        if not known.any():
            raise ValueError(f"{frame.right} has no valid depth; check the file, --unit and --valid.")
        _check_ratio(guide, values, self.scale)
        return guide, Depth(torch.where(known, values, 0.0), known)

    def compute(self, frame: Frame, images: tuple[Tensor, Depth]) -> tuple[Depth, dict[str, Any]]:
        import torch

        from stereopsis.types import Depth
        from stereopsis.upsampling.upsample import upsample

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
        # a correction can take depth beside a hole or a border below 0
        positive = found.valid & (found.depth > 0)
        height, width = found.depth.shape[-2:]
        row = {"width": width, "height": height, "scale": width / small.depth.shape[-1], "seconds": round(seconds, 4)}
        return Depth(torch.where(positive, found.depth, 0.0), positive), row

    def write(self, frame: Frame, found: tuple[Depth, dict[str, Any]]) -> dict[str, Any]:
        from stereopsis.io import write_depth

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
