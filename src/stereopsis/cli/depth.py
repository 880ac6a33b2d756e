"""``stereopsis depth``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from stereopsis.cli.batch import SEQUENCE, Sequence, identity_of, run_sequence, settings_of
from stereopsis.cli.console import show_json, warn
from stereopsis.cli.matching import (
    DEFAULT_MODEL,
    DType,
    check_folder,
    check_max_disparity,
    check_tile,
    describe,
    load_matcher,
    matched,
    range_text,
)
from stereopsis.cli.rigs import RIG, Rig, RigOptions, rectified, rig_json, rig_text
from stereopsis.pipeline.runs.job import Job

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stereopsis.calibration import Rectification
    from stereopsis.io.frames import Frame, Frames
    from stereopsis.pipeline.runs import RunRecord
    from stereopsis.types import StereoCalibration

File = Literal["depth", "metres", "cloud", "preview"]
# Names for one pair; of a sequence each kind has a folder, with a file for each frame.
NAMES: dict[str, str] = {
    "depth": "depth.png",
    "metres": "depth.npy",
    "cloud": "cloud.ply",
    "preview": "preview.png",
    "left": "rectified_left.png",
    "right": "rectified_right.png",
}
ALL: tuple[File, ...] = ("depth", "metres", "cloud", "preview")


def depth(
    left: Positional[str],
    calibration: Path,
    out: Path,
    right: Positional[str | None] = None,
    calibration_right: Path | None = None,
    rectify: Literal["auto", "yes", "no"] = "auto",
    model: str = DEFAULT_MODEL,
    weights: Path | None = None,
    max_disparity: int | None = None,
    device: str = "cpu",
    dtype: DType = "auto",
    check: float | None = None,
    fill: bool = False,
    upsample: str | None = None,
    reduce: float | None = None,
    tile: int | None = None,
    files: tuple[File, ...] = ALL,
    json: bool = False,
    rig: Rig = RIG,
    sequence: Sequence = SEQUENCE,
) -> int:
    """Metric depth and a point cloud of a pair or of each pair of a sequence, rectified first where it is raw.

    Writes depth.png (16 bits, millimetres, 0 where not known), depth.npy (metres, NaN where not known), cloud.ply and
    preview.png; of raw views also rectified_left.png, rectified_right.png and rectified_calib.txt, to which the depth
    belongs. Of a sequence these are folders depth, metres, cloud, preview, left and right, and the file calib.txt.

    Args:
        left: Left view, or a folder, quoted glob or video of them; alone, a folder of pairs, a side-by-side video or a
            ROS bag.
        calibration: File of the rig, folder that holds it, or ROS bag: OpenCV, ROS, Kalibr, KITTI, Middlebury, ZED, OAK
            and others (docs/formats.md), or of `stereopsis calibrate`.
        out: Folder for the results.
        right: Right view, or a folder, quoted glob or video of them.
        calibration_right: Second file of a calibration in two files, where its name does not tell.
        rectify: Whether the views are raw; auto asks the file, and the views where it describes raw and rectified ones.
        model: Matcher, see `stereopsis models`.
        weights: Safetensors file in place of the shipped weights.
        max_disparity: Largest disparity searched, in pixels; the calibration's or the model's own if not given.
        device: Where to compute, e.g. cpu or cuda.
        dtype: Precision to compute in; auto is bfloat16 for HITNet on a CPU that has it, else float32.
        check: Match the right view too, and leave out what differs by more than this many pixels.
        fill: Fill holes of the disparity from the neighbours in the row.
        upsample: Match smaller views and bring the disparity to full size by this upsampler, e.g. fdkn_x4.scenes.
        reduce: How much smaller, with --upsample; the upsampler's own scale, or 4, if not given.
        tile: Side in pixels of the tiles that a pair is matched in, 0 for none; above 4 megapixels chosen if not given.
        files: What to write; a cloud takes 15 bytes a pixel.
        json: Print JSON instead of text.
        rig: How the calibration is read.
        sequence: How sequences are read and worked on.
    """
    from stereopsis.io import VideoPair
    from stereopsis.io.frames import open_frames
    from stereopsis.pipeline.runs import RunRecord

    check_max_disparity(max_disparity)
    check_tile(tile)
    check_folder(out, "--out")
    if not files:
        raise ValueError(f"--files is empty; name at least one of {', '.join(ALL)}.")
    if reduce is not None and upsample is None:
        raise ValueError(f"--reduce is {reduce:g}, but nothing brings the map back; name an upsampler with --upsample.")
    frames = open_frames(left, right, topics=sequence.topics, tolerance=sequence.sync_ms / 1000)
    many = right is None or not (Path(left).is_file() and Path(right).is_file()) or frames.from_video
    job = DepthJob(
        model, weights, max_disparity, device, dtype, check, fill, upsample, reduce, tile, tuple(files), out, many
    )
    if many:
        cameras = {"calibration": calibration, "calibration_right": calibration_right, "rectify": rectify}
        cameras |= rig.settings()
        settings = settings_of("depth", (left, right), job.settings() | cameras)
        job.record = RunRecord(out, settings, sequence.overwrite)
    job.set_cameras(frames, rig, calibration, calibration_right, rectify)
    assert job.rig is not None

    def told(row: dict[str, Any]) -> dict[str, Any]:
        for sentence in row["warnings"]:
            warn(sentence)
        return row

    summary = run_sequence(
        frames,
        job,
        sequence,
        "measuring",
        strict=lambda s: not many or (isinstance(frames.source, VideoPair) and not s.results and not s.skipped),
        keep=told,
    )
    common: dict[str, Any] = {"model": model, "upsample": upsample, "rectified_here": job.rectification is not None}
    common |= rig_json(job.rig)
    if json:
        rows = {"pairs": summary.results, "failed": summary.failed, "skipped": summary.skipped}
        show_json(common | rows if many else common | summary.results[0])
        return summary.status("measured")
    for row in summary.results:
        numbers, start = row["depth"], f"{row['name']}  " if many else ""
        line = f"depth {range_text(numbers, 'm')}, median {numbers['median']:.4g} m, {rig_text(job.rig)}"
        print(f"{start}{line}, {row['seconds']:.2f} s")
        if not many:
            print("\n".join(row["files"]))
    return summary.status("measured")


@dataclass(eq=False)
class DepthJob(Job):
    """Measures the pairs of a sequence; most attributes are those of :func:`depth`.

    Attributes:
        many: whether results lie in folders, under the names of the frames.
        record: of the run, for a sequence.
        rig: of the views as they are matched.
        rectification: what makes raw views such; None where they are rectified.
    """

    model: str
    weights: Path | None
    max_disparity: int | None
    device: str
    dtype: DType
    check: float | None
    fill: bool
    upsample: str | None
    reduce: float | None
    tile: int | None
    files: tuple[str, ...]
    out: Path
    many: bool
    record: RunRecord | None = None
    rig: StereoCalibration | None = None
    rectification: Rectification | None = None
    valid: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    network: nn.Module | None = None

    def settings(self) -> dict[str, Any]:
        """What the results depend on, beside the cameras."""
        names = ("model", "weights", "max_disparity", "dtype", "check", "fill", "upsample", "reduce", "tile")
        values = {name: getattr(self, name) for name in names}
        return values | {"checksum of the weights": identity_of(self.model, self.weights)}

    def set_cameras(
        self,
        frames: Frames,
        options: RigOptions,
        calibration: Path,
        calibration_right: Path | None,
        rectify: Literal["auto", "yes", "no"],
    ) -> None:
        """Decide by the first pair that can be read what the views of all are.

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
            file = options.file(calibration, calibration_right)
            pair = rectified(left, right, file, rectify, (frame.left, frame.right))
            self.rig, self.rectification, self.valid = pair.calibration, pair.rectification, pair.valid
            self.size = (left.shape[-2], left.shape[-1])
            return
        raise ValueError(f"No pair can be read, the first for this: {first}")

    def open(self) -> None:
        from stereopsis.cli.upsample import load_upsampler
        from stereopsis.pipeline.match import ReducedMatcher

        self.network = load_matcher(self.model, self.weights, self.device, self.dtype)
        if self.upsample is not None:
            upsampler = load_upsampler(self.upsample, None, self.device, self.dtype)
            own = getattr(getattr(upsampler, "config", None), "scale", None)
            self.network = ReducedMatcher(self.network, upsampler, self.reduce or own or 4)

    def is_done(self, frame: Frame) -> bool:
        targets = self._targets(frame).values()
        return self.record is not None and self.record.is_done(targets, {frame.left, frame.right})

    def read(self, frame: Frame) -> tuple[Tensor, Tensor, list[str]]:
        from stereopsis.calibration.diagnosis import geometry_warnings

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
        from stereopsis.geometry import disparity_to_depth

        assert self.network is not None
        assert self.rig is not None
        left, right, warnings = images
        limit = self.max_disparity if self.max_disparity is not None else self.rig.ndisp
        disparity, seconds = matched(self.network, left, right, limit, check=self.check, fill=self.fill, tile=self.tile)
        valid = disparity.valid if self.valid is None else disparity.valid & self.valid
        result = disparity_to_depth(disparity, self.rig, valid)
        if not result.valid.any():
            raise ValueError(f"No pixel has a depth with an offset of {self.rig.doffs:g} px; check the calibration.")
        if self.record is not None:
            self.record.begin()
        return {"left": left, "right": right, "depth": result, "seconds": seconds, "warnings": warnings}

    def write(self, frame: Frame, found: dict[str, Any]) -> dict[str, Any]:
        from stereopsis.calibration import write_calibration
        from stereopsis.geometry import unproject
        from stereopsis.io import write_depth, write_image, write_point_cloud
        from stereopsis.visualization import side_by_side
        from stereopsis.visualization.points import depth_picture

        assert self.rig is not None
        result, left = found["depth"], found["left"]
        cloud = unproject(result, self.rig, left)
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
            "seconds": round(found["seconds"], 4),
            "files": files,
            "warnings": found["warnings"],
        }

    def _targets(self, frame: Frame) -> dict[str, Path]:
        kinds = [*self.files, *(("left", "right") if self.rectification is not None else ())]
        if not self.many:
            return {kind: self.out / NAMES[kind] for kind in kinds}
        return {kind: self.out / kind / f"{frame.name}{Path(NAMES[kind]).suffix}" for kind in kinds}
