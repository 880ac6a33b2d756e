"""The one thread that computes: models, and what each request asks of them.

Files of a request lie in a folder of its own while they are read, under names of ours, and are gone with its answer.
"""

from __future__ import annotations

import asyncio
import io
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from stereopsis.apps.server.limits import LARGEST_DISPARITY, Limits, TooLarge, check_record
from stereopsis.apps.server.metrics import Metrics
from stereopsis.calibration import read_calibration, write_calibration
from stereopsis.calibration.rectification import CameraFile, rectify_with
from stereopsis.compression.bitstream import Reader, pack, pack_header
from stereopsis.compression.codec import PairCodec, SideView, calibration_of
from stereopsis.geometry.summary import describe
from stereopsis.io import read_depth, read_image, write_depth, write_disparity, write_image, write_point_cloud
from stereopsis.ops.images import check_views, is_gray
from stereopsis.ops.memory import is_out_of_memory, keep_large_blocks
from stereopsis.pipeline.depth import stereo_depth
from stereopsis.pipeline.sequence import SequenceMatcher
from stereopsis.types import Depth, StereoCalibration, StereoPair
from stereopsis.upsampling.upsample import only_positive, upsample
from stereopsis.visualization import colorize
from stereopsis.visualization.points import depth_picture
from stereopsis.zoo.entry import Family
from stereopsis.zoo.registry import check_is, load

MapFormat = Literal["png", "pfm", "npy", "npz", "preview"]
DepthFormat = Literal["png", "pfm", "npy", "npz", "ply", "preview"]
VERBS: dict[Family, str] = {"matching": "match views", "upsampling": "upsample", "compression": "compress"}
MEMORY = "There is not enough memory for images of this size; send smaller ones or a lower max_disparity."

T = TypeVar("T")


@dataclass(frozen=True)
class Upload:
    """A file that a client sent.

    Attributes:
        name: what answers call it, and its file while it is read.
        content: the bytes.
    """

    name: str
    content: bytes

    def written(self, folder: Path) -> Path:
        path = folder / self.name
        path.write_bytes(self.content)
        return path


@dataclass(frozen=True)
class Result:
    """An answer.

    Attributes:
        content: the file.
        suffix: of the file, e.g. ``.png``.
        summary: numbers about it, as JSON takes them.
    """

    content: bytes
    suffix: str
    summary: dict[str, Any]


class Worker:
    """Runs the work of requests one after the other, in a thread of its own.

    Args:
        limits: of the server.
        metrics: where it counts.
        device: where models compute.
    """

    def __init__(self, limits: Limits, metrics: Metrics, device: str = "cpu") -> None:
        self.limits, self.metrics, self.device = limits, metrics, device
        self._thread = ThreadPoolExecutor(1, "stereopsis")
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        keep_large_blocks()

    async def run(self, path: str, work: Callable[[Path], T]) -> T:
        """The result of ``work``, which gets an empty folder.

        Raises:
            ValueError, IndexError, ImportError: what the request asks for cannot be done; one sentence.
            TooLarge: there is not enough memory for it.
        """

        def timed() -> T:
            start = perf_counter()
            try:
                with TemporaryDirectory(prefix="stereopsis-") as folder, torch.inference_mode():
                    try:
                        # one thread computes, so that no other one's warnings are caught
                        with warnings.catch_warnings(record=True) as caught:
                            warnings.simplefilter("always", UserWarning)
                            result = work(Path(folder))
                        return _with_warnings(result, caught, folder)
                    except (ValueError, OSError) as error:
                        if isinstance(error, OSError) and error.errno is not None:
                            raise  # the system's, as of a full disk
                        kind = TooLarge if isinstance(error, TooLarge) else ValueError
                        raise kind(str(error).replace(f"{folder}/", "")) from error
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                raise TooLarge(MEMORY) from None
            finally:
                self.metrics.work.labels(path).observe(perf_counter() - start)

        return await asyncio.get_running_loop().run_in_executor(self._thread, timed)

    def close(self) -> None:
        """Start nothing more; what is computed goes on to its end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def model(self, name: str, family: Family) -> nn.Module:
        """A model by name; the last few stay in memory.

        Raises:
            ValueError: unknown, of another family, or without weights of its own.
        """
        check_is(family, name)
        if name not in self._models:
            while len(self._models) >= self.limits.models:
                self._models.popitem(last=False)
            self._models[name] = load(name, device=self.device)
        self._models.move_to_end(name)
        self.metrics.models.set(len(self._models))
        return self._models[name]

    def codec(self, name: str) -> PairCodec:
        """A codec by name; errors as of :meth:`model`."""
        codec = self.model(name, "compression")
        assert isinstance(codec, PairCodec)
        return codec

    def match(
        self,
        folder: Path,
        left: Upload,
        right: Upload,
        model: str,
        max_disparity: int | None,
        check: float | None,
        fill: bool,
        format: MapFormat,
    ) -> Result:
        """Disparity of a rectified pair; errors as of :meth:`run`."""
        matcher = self.model(model, "matching")
        views = _views(folder, left, right)
        found = SequenceMatcher(matcher, max_disparity=max_disparity, check=check, fill=fill)(*views)
        disparity = found.disparity
        summary = {"model": model, **_summary("disparity", disparity.disparity, disparity.valid, found.seconds)}
        if format == "preview":
            write_image(folder / "preview.png", colorize(disparity.disparity, disparity.valid))
            return _file(folder / "preview.png", summary)
        write_disparity(folder / f"disparity.{format}", disparity)
        return _file(folder / f"disparity.{format}", summary)

    def depth(
        self,
        folder: Path,
        left: Upload,
        right: Upload,
        calibration: Upload,
        calibration_right: Upload | None,
        rectify: Literal["auto", "yes", "no"],
        reading: dict[str, Any],
        model: str,
        max_disparity: int | None,
        check: float | None,
        fill: bool,
        format: DepthFormat,
    ) -> Result:
        """Metric depth, or points; errors as of :meth:`run`."""
        matcher = self.model(model, "matching")
        views = _views(folder, left, right)
        second = None if calibration_right is None else calibration_right.written(folder)
        file = CameraFile(calibration.written(folder), second, **reading)
        pair = rectify_with(views[0], views[1], file, rectify=rectify)
        limit = max_disparity if max_disparity is not None else _stated_range(pair.calibration, calibration.name)
        found = stereo_depth(
            pair.left,
            pair.right,
            pair.calibration,
            model=matcher,
            shown=pair.valid,
            max_disparity=limit,
            check=check,
            fill=fill,
        )
        depth = found.depth
        summary = {
            "model": model,
            "rectified_here": pair.rectification is not None,
            "focal_length": pair.calibration.fx,
            "baseline": pair.calibration.baseline,
            "notes": list(pair.notes),
            **_summary("depth", depth.depth, depth.valid, found.seconds),
        }
        if format == "ply":
            write_point_cloud(folder / "cloud.ply", found.cloud())
            return _file(folder / "cloud.ply", summary)
        return _depth_file(folder, depth, format, summary)

    def upsample(
        self, folder: Path, image: Upload, depth: Upload, model: str, unit: float | None, format: MapFormat
    ) -> Result:
        """Depth at the size of an image; errors as of :meth:`run`."""
        upsampler = self.model(model, "upsampling")
        guide = read_image(image.written(folder))[None]
        values, valid = (part[None] for part in read_depth(depth.written(folder), unit))
        if not valid.any():
            raise ValueError(f"{depth.name} has no valid depth; check the file and unit.")
        start = perf_counter()
        found = upsample(upsampler, guide.to(self.device), Depth(values, valid).to(self.device)).to("cpu")
        seconds = perf_counter() - start
        result = only_positive(found)
        summary = {"model": model, **_summary("depth", result.depth, result.valid, seconds)}
        return _depth_file(folder, result, format, summary)

    def compress(
        self,
        folder: Path,
        left: Upload,
        right: Upload | None,
        calibration: Upload | None,
        reading: dict[str, Any],
        model: str,
        quality: float,
        target_bpp: float | None,
    ) -> Result:
        """A pair or an image as a ``.stz`` file; errors as of :meth:`run`."""
        codec = self.codec(model)
        rig = None if calibration is None else read_calibration(calibration.written(folder), **reading)
        if right is None and rig is not None:
            raise ValueError("calibration is that of a pair, and there is one image; send right too, or leave it out.")
        if right is None:
            views = [read_image(left.written(folder))[None]]
        else:
            views = list(_views(folder, left, right))
        if all(is_gray(view) for view in views):
            views = [view[:, :1] for view in views]
        pair = views[0] if len(views) == 1 else StereoPair(views[0], views[1], rig)
        start = perf_counter()
        header = codec.header(pair)
        if target_bpp is None:
            record = codec.compress_record(pair, quality)
        else:
            record = codec.record_of_rate(pair, target_bpp, len(pack_header(header)))
        content = pack(header, [record])
        pixels = record.views * record.width * record.height
        summary = {
            "model": model,
            "width": record.width,
            "height": record.height,
            "bytes": len(content),
            "bpp": 8 * len(content) / pixels,
            "seconds": round(perf_counter() - start, 4),
        }
        return Result(content, ".stz", summary)

    def decompress(
        self, folder: Path, file: Upload, index: int, view: Literal["left", "right"] | None, side: Upload | None,
        side_is: SideView,
    ) -> Result:  # fmt: skip
        """The views of a pair as PNG in a ZIP, or one of them; errors as of :meth:`run`."""
        try:
            reader = Reader(file.content)
            record = reader.record(index)
        except ValueError as error:
            raise ValueError(f"{file.name}: {error}") from None
        check_record(record.width, record.height, f"pair {index} of {file.name}", self.limits)
        codec = self.codec(reader.header.model)
        codec.check_header(reader.header)
        other = None if side is None else read_image(side.written(folder))[None]
        start = perf_counter()
        decoded = codec.decompress_record(record, reader.header, other, side_is)
        seconds = perf_counter() - start
        if isinstance(decoded, StereoPair):
            views = {"left": decoded.left, "right": decoded.right}
        else:
            views = {"image": decoded}
        for name, picture in views.items():
            write_image(folder / f"{name}.png", picture)
        summary = {
            "model": reader.header.model,
            "pairs": len(reader),
            "width": record.width,
            "height": record.height,
            "damage": reader.damage,
            "seconds": round(seconds, 4),
        }
        if view is not None:
            if view not in views:
                raise ValueError(f"view is {view}, but {file.name} holds one image; leave view out.")
            return _file(folder / f"{view}.png", summary)
        rig = calibration_of(reader.header)
        if rig is not None:
            write_calibration(rig, folder / "calib.txt")
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:  # PNG is compressed already
            for path in [*(folder / f"{name}.png" for name in views), *folder.glob("calib.txt")]:
                archive.write(path, path.name)
        return Result(packed.getvalue(), ".zip", summary)


def _with_warnings(result: T, caught: list[warnings.WarningMessage], folder: str) -> T:
    """A result whose summary holds what the command line prints as warnings."""
    said = [str(warning.message).replace(f"{folder}/", "") for warning in caught if warning.category is UserWarning]
    if not said or not isinstance(result, Result):
        return result
    return replace(result, summary=result.summary | {"warnings": list(dict.fromkeys(said))})


def _stated_range(calibration: StereoCalibration, name: str) -> int | None:
    """The largest disparity that a calibration states, within the limit of a request's own."""
    stated = calibration.ndisp
    if stated is not None and stated > LARGEST_DISPARITY:
        raise TooLarge(
            f"{name} states ndisp={stated} and the limit is {LARGEST_DISPARITY}; send max_disparity, which counts more."
        )
    return stated


def _views(folder: Path, left: Upload, right: Upload) -> tuple[Tensor, Tensor]:
    views = tuple(read_image(upload.written(folder))[None] for upload in (left, right))
    check_views(views[0], views[1])
    return views[0], views[1]


def _depth_file(folder: Path, depth: Depth, format: str, summary: dict[str, Any]) -> Result:
    if format == "preview":
        write_image(folder / "preview.png", depth_picture(depth))
        return _file(folder / "preview.png", summary)
    write_depth(folder / f"depth.{format}", depth, overflow="drop")
    return _file(folder / f"depth.{format}", summary)


def _file(path: Path, summary: dict[str, Any]) -> Result:
    return Result(path.read_bytes(), path.suffix, summary)


def _summary(key: str, values: Tensor, valid: Tensor, seconds: float) -> dict[str, Any]:
    height, width = values.shape[-2:]
    return {"width": width, "height": height, key: describe(values, valid), "seconds": round(seconds, 4)}
