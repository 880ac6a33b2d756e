"""Metric depth and points of the pairs of a sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stereopsis.calibration import Rectification, write_calibration
from stereopsis.calibration.diagnosis import geometry_warnings
from stereopsis.calibration.rectification import CameraFile, Choice, rectify_with
from stereopsis.geometry.summary import describe
from stereopsis.io import write_depth, write_image, write_point_cloud
from stereopsis.io.frames import Frame, Frames
from stereopsis.pipeline.depth import stereo_depth
from stereopsis.pipeline.runs.job import Job
from stereopsis.pipeline.runs.record import RunRecord
from stereopsis.types import StereoCalibration
from stereopsis.visualization import depth_picture, side_by_side

# Names for one pair; of a sequence each kind has a folder, with a file for each frame.
NAMES: dict[str, str] = {
    "depth": "depth.png",
    "metres": "depth.npy",
    "cloud": "cloud.ply",
    "preview": "preview.png",
    "left": "rectified_left.png",
    "right": "rectified_right.png",
}
ALL: tuple[str, ...] = ("depth", "metres", "cloud", "preview")


@dataclass(eq=False)
class DepthJob(Job):
    """Measures the depth of the pairs of a sequence.

    Attributes:
        load: returns the matcher; it is called once in each process, so it must be picklable for a cluster.
        out: folder of the results.
        files: kinds of results to write, of :data:`ALL`.
        max_disparity, check, fill, tile: as in :func:`~stereopsis.pipeline.depth.stereo_depth`.
        many: whether results lie in folders, under the names of the frames.
        record: of the run, for a sequence.
        device: of the model.
        rig: of the views as they are matched.
        rectification: what makes raw views such; None where they are rectified.
    """

    load: Callable[[], nn.Module]
    out: Path
    many: bool
    files: tuple[str, ...] = ALL
    max_disparity: int | None = None
    check: float | None = None
    fill: bool = False
    tile: int | None = None
    device: str = "cpu"
    record: RunRecord | None = None
    rig: StereoCalibration | None = None
    rectification: Rectification | None = None
    valid: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    network: nn.Module | None = None

    def set_cameras(self, frames: Frames, file: CameraFile, rectify: Choice) -> tuple[str, ...]:
        """Decide by the first pair that can be read what the views of all are; return the notes on that pair.

        Raises:
            ValueError: no pair can be read, or as of :func:`~stereopsis.calibration.rectification.rectify_with`.
        """
        first: Exception | None = None
        for frame in frames:
            try:
                left, right = frame.read()
            except (ValueError, OSError) as error:
                if not self.many:
                    raise
                first = first or error
                continue
            pair = rectify_with(left, right, file, rectify=rectify, views=(frame.left, frame.right))
            self.rig, self.rectification, self.valid = pair.calibration, pair.rectification, pair.valid
            self.size = (left.shape[-2], left.shape[-1])
            return pair.notes
        raise ValueError(f"No pair can be read, the first for this: {first}")

    def open(self) -> None:
        self.network = self.load()

    def is_done(self, frame: Frame) -> bool:
        targets = self._targets(frame).values()
        return self.record is not None and self.record.is_done(targets, {frame.left, frame.right})

    def read(self, frame: Frame) -> tuple[Tensor, Tensor, list[str]]:
        left, right = frame.read()
        height, width = left.shape[-2:]
        if (height, width) != self.size:
            raise ValueError(
                f"{frame.left} is {width}x{height} and the first pair {self.size[1]}x{self.size[0]}; a rig has one "
                "size, so measure them apart."
            )
        if self.rectification is not None:
            left, right = self.rectification(left, right)
        # All pairs are from one rig, so that one look is enough.
        return left, right, geometry_warnings(left, right) if frame.index == 0 else []

    def compute(self, frame: Frame, images: tuple[Tensor, Tensor, list[str]]) -> dict[str, Any]:
        assert self.network is not None
        assert self.rig is not None
        left, right, warnings = images
        found = stereo_depth(
            left,
            right,
            self.rig,
            model=self.network,
            shown=self.valid,
            max_disparity=self.max_disparity,
            check=self.check,
            fill=self.fill,
            tile=self.tile,
        )
        if self.record is not None:
            self.record.begin()
        return {"left": left, "right": right, "found": found, "warnings": warnings}

    def write(self, frame: Frame, found: dict[str, Any]) -> dict[str, Any]:
        assert self.rig is not None
        left, result = found["left"], found["found"].depth
        cloud = found["found"].cloud()
        targets = self._targets(frame)
        for path in targets.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        if "depth" in targets:
            write_depth(targets["depth"], result, overflow="drop")
        if "metres" in targets:
            write_depth(targets["metres"], result)
        if "cloud" in targets:
            write_point_cloud(targets["cloud"], cloud)
        if "preview" in targets:
            write_image(targets["preview"], side_by_side(left, depth_picture(result)))
        files = [str(path) for path in targets.values()]
        if self.rectification is not None:
            write_image(targets["left"], left)
            write_image(targets["right"], found["right"])
            text = self.out / ("calib.txt" if self.many else "rectified_calib.txt")
            if not (self.many and text.is_file()):
                write_calibration(self.rig, text)
            files += [] if self.many else [str(text)]
        height, width = left.shape[-2:]
        return {
            "name": frame.name,
            "width": width,
            "height": height,
            "depth": describe(result.depth, result.valid),
            "points": len(cloud),
            "seconds": round(found["found"].seconds, 4),
            "files": files,
            "warnings": found["warnings"],
        }

    def _targets(self, frame: Frame) -> dict[str, Path]:
        kinds = [*self.files, *(("left", "right") if self.rectification is not None else ())]
        if not self.many:
            return {kind: self.out / NAMES[kind] for kind in kinds}
        return {kind: self.out / kind / f"{frame.name}{Path(NAMES[kind]).suffix}" for kind in kinds}
