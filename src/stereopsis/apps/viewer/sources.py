"""Where the viewer's frames come from: results, maps, a ``.stz`` file, or pairs that are matched when asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from stereopsis.apps.viewer.frames import Frame, points_of
from stereopsis.calibration.rectification import CameraFile, RectifiedPair, rectify_with
from stereopsis.compression.bitstream import Reader
from stereopsis.compression.codec import PairCodec, calibration_of
from stereopsis.geometry import disparity_to_depth
from stereopsis.io import (
    IMAGE_SUFFIXES,
    find_pairs,
    is_bag,
    is_video,
    read_depth,
    read_disparity,
    read_image,
    read_point_cloud,
)
from stereopsis.io.frames import Frame as PairFrame
from stereopsis.io.frames import open_frames
from stereopsis.io.maps import ARRAY_SUFFIXES
from stereopsis.pipeline import match as matching
from stereopsis.pipeline.depth import stereo_depth
from stereopsis.pipeline.sequence import ColorRange
from stereopsis.types import Depth, Disparity, StereoCalibration, StereoPair

FLOAT_MAPS = (".pfm", *ARRAY_SUFFIXES)
MAPS = (*FLOAT_MAPS, ".png")
# Of results, made by someone else.
PICTURES = ("confidence", "error", "truth")
# Written beside maps by `match --confidence` and `--preview`.
ENDINGS = ("_confidence", "_preview")
GAP = 4  # pixels between the halves of preview.png

Matcher = Callable[[], nn.Module]
CodecOf = Callable[[str], PairCodec]


def _rectified(left: Tensor, right: Tensor, file: Path) -> RectifiedPair:
    return rectify_with(left, right, CameraFile(file))


def _rig(file: Path, width: int, height: int) -> StereoCalibration:
    return CameraFile(file).calibration(width, height)


@dataclass(frozen=True)
class Extras:
    """What the user names beside the target.

    Attributes:
        left: the left view of maps, or a folder of them.
        confidence: picture of the confidence of maps, or a folder of them.
        truth: file of the true disparity, or a folder of them.
        calibration: file of the rig, in place of the one that lies beside the target.
        max_disparity: largest disparity searched, in pixels.
        check: match the right view too, and drop what differs by more than this many pixels.
        rectify: gives the rectified pair of views (1, 3, H, W) and a file of their rig.
        rig: gives the calibration of a file for maps of this width and height.
    """

    left: Path | None = None
    confidence: Path | None = None
    truth: Path | None = None
    calibration: Path | None = None
    max_disparity: int | None = None
    check: float | None = None
    rectify: Callable[[Tensor, Tensor, Path], RectifiedPair] = _rectified
    rig: Callable[[Path, int, int], StereoCalibration] = _rig


class Source(ABC):
    """Frames in order, each read (and matched) when it is asked for.

    Attributes:
        title: of the page.
        names: of the frames.
        scale: the ends of the colours of disparity, for all frames where there are many.
    """

    def __init__(self, title: str, names: Sequence[str]) -> None:
        self.title, self.names = title, list(names)
        self.scale = ColorRange() if len(self.names) > 1 else None

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def read(self, number: int) -> Frame:
        """A frame, from 0 on.

        Raises:
            ValueError, OSError: its files cannot be used.
        """


def open_source(
    target: str | Path,
    right: str | Path | None = None,
    *,
    matcher: Matcher,
    codec: CodecOf,
    extras: Extras | None = None,
) -> Source:
    """What a user wants to look at.

    Args:
        target: a folder that ``demo``, ``depth``, ``match`` or ``decompress`` wrote, a map, a ``.stz`` file, a folder
            of pairs, a video, a bag, or a left view.
        right: the right view, or a folder or video of them.
        matcher: gives the model that matches pairs; called when the first one is matched.
        codec: gives the codec of a name.
        extras: what belongs to the target and does not lie beside it.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: nothing in the target can be shown; or as :func:`~stereopsis.pipeline.sequence.open_frames`.
    """
    extras = extras or Extras()
    path = Path(target)
    if right is not None or is_video(target) or is_bag(target):
        return PairSource(target, right, matcher, extras)
    if path.is_file():
        if path.suffix.lower() == ".stz":
            return StzSource(path, matcher, codec, extras)
        if path.suffix.lower() in FLOAT_MAPS or _is_map(path):
            return MapSource([path], extras)
        raise ValueError(f"{path} is neither a map nor a .stz file; name the right view too, or a folder of results.")
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist; name a folder of results, a .stz file or a pair.")
    results = _results_in(path)
    if results:
        return ResultSource(path, results, extras)
    maps = _maps_in(path)
    if maps:
        return MapSource(maps, extras, path)
    try:
        find_pairs(path)
    except ValueError:
        files = sorted(path.glob("*.stz"))
        if len(files) == 1:
            return StzSource(files[0], matcher, codec, extras)
        known = "neither maps (.pfm, .npy, .npz, 16-bit .png) nor pairs nor one .stz file"
        raise ValueError(f"{path} holds {known}; name what `stereopsis match` or `depth` wrote.") from None
    if extras.calibration is None and (path / "calib.txt").is_file():
        extras = replace(extras, calibration=path / "calib.txt")
    return PairSource(path, None, matcher, extras)


class ResultSource(Source):
    """What ``demo``, ``depth`` and ``pipeline`` wrote: one frame, or folders of them by kind."""

    def __init__(self, folder: Path, frames: dict[str, dict[str, Path]], extras: Extras) -> None:
        super().__init__(folder.resolve().name, list(frames))
        self.folder, self.extras = folder, extras
        self._files = list(frames.values())
        stems = [Path(name) for name in frames]
        self._left = _Beside(extras.left, IMAGE_SUFFIXES, stems, "--left")
        self._truth = _Beside(extras.truth, MAPS, stems, "--truth")

    def read(self, number: int) -> Frame:
        files = self._files[number]
        disparity = _disparity(files["disparity"]) if "disparity" in files else None
        depth = _depth(files["depth"]) if "depth" in files else None
        size = (disparity.disparity if disparity is not None else depth.depth).shape[-2:]  # type: ignore[union-attr]
        calibration = self._calibration(size)
        left = self._left_view(number, size)
        right = _fitting(read_image(files["right"])[None], size, files["right"]) if "right" in files else None
        if depth is None and calibration is not None and disparity is not None:
            depth = disparity_to_depth(disparity, calibration)
        cloud, metric = points_of(depth, disparity, calibration, left)
        if "cloud" in files:
            cloud, metric = read_point_cloud(files["cloud"]), True
        truth = self._truth(number)
        return Frame(
            name=self.names[number],
            left=left,
            right=right,
            disparity=disparity,
            depth=depth,
            cloud=cloud,
            metric=metric,
            truth=None if truth is None else _truth(truth),
            pictures={key: read_image(files[key])[None] for key in PICTURES if key in files},
        )

    def _calibration(self, size: tuple[int, ...]) -> StereoCalibration | None:
        named = [self.extras.calibration] if self.extras.calibration is not None else []
        beside = [self.folder / name for name in ("rectified_calib.txt", "calib.txt")]
        for file in named + [file for file in beside if file.is_file()]:
            return self.extras.rig(file, size[1], size[0])
        return None

    def _left_view(self, number: int, size: tuple[int, ...]) -> Tensor | None:
        files = self._files[number]
        file = self._left(number) or files.get("left")
        if file is not None:
            return _fitting(read_image(file)[None], size, file)
        if "preview" not in files:
            return None
        # `depth` writes the view and the depth side by side, and no view of its own where it did not rectify.
        both = read_image(files["preview"])[None]
        height, width = size
        return both[..., :width] if tuple(both.shape[-2:]) == (height, 2 * width + GAP) else None


class MapSource(Source):
    """Disparity (or depth) maps, as ``match`` and ``upsample`` write them."""

    def __init__(self, maps: list[Path], extras: Extras, folder: Path | None = None) -> None:
        super().__init__(maps[0].name if folder is None else folder.name or str(folder), [path.stem for path in maps])
        self.maps, self.extras = maps, extras
        self._left = _Beside(extras.left, IMAGE_SUFFIXES, maps, "--left")
        self._confidence = _Beside(extras.confidence, IMAGE_SUFFIXES, maps, "--confidence", "_confidence")
        self._truth = _Beside(extras.truth, MAPS, maps, "--truth")

    def read(self, number: int) -> Frame:
        path = self.maps[number]
        disparity = depth = None
        if _holds_depth(path):
            depth = _depth(path)
        else:
            disparity = _disparity(path)
        size = (disparity.disparity if disparity is not None else depth.depth).shape[-2:]  # type: ignore[union-attr]
        confident = False
        picture = self._confidence(number) or _picture(path.parent, f"{path.stem}_confidence")
        if picture is not None and disparity is not None:
            confidence = _fitting(read_image(picture, channels=1)[None], size, picture)
            disparity, confident = Disparity(disparity.disparity, disparity.valid, confidence), True
        view = self._left(number)
        left = None if view is None else _fitting(read_image(view)[None], size, view)
        file = self.extras.calibration
        calibration = None if file is None else self.extras.rig(file, size[1], size[0])
        if depth is None and disparity is not None and calibration is not None:
            depth = disparity_to_depth(disparity, calibration)
        cloud, metric = points_of(depth, disparity, calibration, left)
        truth = self._truth(number)
        return Frame(
            name=self.names[number],
            left=left,
            disparity=disparity,
            confident=confident,
            depth=depth,
            cloud=cloud,
            metric=metric,
            truth=None if truth is None else _truth(truth),
        )


class _Matched(Source):
    """What pairs and compressed pairs share: they are matched when they are looked at."""

    def __init__(self, title: str, names: Sequence[str], matcher: Matcher, extras: Extras) -> None:
        super().__init__(title, names)
        self._matcher, self.extras = matcher, extras
        self._model: nn.Module | None = None
        self._truth = _Beside(extras.truth, MAPS, [Path(name) for name in self.names], "--truth")

    def matched(
        self, number: int, left: Tensor, right: Tensor, own: StereoCalibration | None = None, facts: Sequence[str] = ()
    ) -> Frame:
        """The frame of two views (1, 3, H, W); ``own`` is the calibration that came with them."""
        calibration, seen = own, None
        if self.extras.calibration is not None:
            pair = self.extras.rectify(left, right, self.extras.calibration)
            left, right, calibration, seen = pair.left, pair.right, pair.calibration, pair.valid
        if self._model is None:
            self._model = self._matcher()
        options: dict[str, Any] = {"model": self._model, "max_disparity": self.extras.max_disparity}
        options["check"] = self.extras.check
        depth = None
        if calibration is None:
            found = matching.match(left, right, **options).to("cpu")
        else:
            measured = stereo_depth(left, right, calibration, shown=seen, allow_empty=True, **options)
            found, depth = measured.disparity, measured.depth
        cloud, metric = points_of(depth, found, calibration, left)
        truth = self._truth(number)
        return Frame(
            name=self.names[number],
            left=left,
            right=right,
            disparity=found,
            confident=True,
            depth=depth,
            cloud=cloud,
            metric=metric,
            truth=None if truth is None else _truth(truth),
            facts=tuple(facts),
        )


class PairSource(_Matched):
    """Pairs of files, folders or videos."""

    def __init__(self, left: str | Path, right: str | Path | None, matcher: Matcher, extras: Extras) -> None:
        self.frames = open_frames(left, right)
        count = self.frames.count
        if count is None:
            raise ValueError(
                f"{left} does not state how many frames it holds; convert it to .mp4, or name its pictures."
            )
        if self.frames.from_video:
            names: list[str] = [f"{number:06d}" for number in range(count)]
        else:
            self._files = list(self.frames)
            names = [frame.name for frame in self._files]
        self._next = 0
        self._running: Iterator[PairFrame] = iter(())
        super().__init__(Path(left).name or str(left), names, matcher, extras)

    def read(self, number: int) -> Frame:
        frame = self._of_video(number) if self.frames.from_video else self._files[number]
        left, right = frame.read()
        return self.matched(number, left[None], right[None])

    def _of_video(self, number: int) -> PairFrame:
        """Videos are read forwards alone; a step back starts again."""
        if number < self._next or self._next == 0:
            self._next, self._running = 0, iter(self.frames)
        for frame in self._running:
            self._next += 1
            if self._next == number + 1:
                return frame
        self._next = 0
        raise ValueError(f"frame {number} cannot be read; the video ends before it.")


class StzSource(_Matched):
    """The pairs of a compressed file, decoded and matched; an image of one view is shown alone."""

    def __init__(self, path: Path, matcher: Matcher, codec: CodecOf, extras: Extras) -> None:
        self.path = path
        self._file = path.open("rb")
        try:
            self.reader = Reader(self._file)
        except ValueError as error:
            self._file.close()
            raise ValueError(f"{path}: {error}") from error
        self._codec_of = codec
        self._codec: PairCodec | None = None
        super().__init__(path.name, [f"{number:06d}" for number in range(len(self.reader))], matcher, extras)

    def read(self, number: int) -> Frame:
        if self._codec is None:
            self._codec = self._codec_of(self.reader.header.model)
            self._codec.check_header(self.reader.header)
        record = self.reader.record(number)
        decoded = self._codec.decompress_record(record, self.reader.header)
        rate = 8 * record.bytes / (record.views * record.width * record.height)
        facts = [f"{self.reader.header.model}, {record.bytes:,} bytes, {rate:.3f} bpp"]
        if not isinstance(decoded, StereoPair):
            size = f"{record.width} x {record.height} px"
            return Frame(self.names[number], left=decoded, facts=(size, *facts, "one view, so no disparity"))
        return self.matched(number, decoded.left, decoded.right, calibration_of(self.reader.header), facts)


class _Beside:
    """Files that belong to frames: one file for one frame, or a folder, by name or else by order.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: one file for many frames, or a folder whose files fit neither way.
    """

    def __init__(
        self, path: Path | None, suffixes: Sequence[str], frames: Sequence[Path], option: str, ending: str = ""
    ) -> None:
        self._files: list[Path] | None = None
        if path is None:
            return
        if path.is_file():
            if len(frames) > 1:
                raise ValueError(f"{option} is {path}, one file, but there are {len(frames)} frames; name a folder.")
            self._files = [path]
            return
        if not path.is_dir():
            raise FileNotFoundError(
                f"{option} is {path}, which does not exist; name a file, or a folder for a sequence."
            )
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes and file.name[0] != ".")
        by_name = {file.stem.removesuffix(ending): file for file in found}
        names = [frame.stem for frame in frames]
        if set(names) <= by_name.keys():
            self._files = [by_name[name] for name in names]
        elif len(found) == len(frames):
            self._files = found
        else:
            raise ValueError(
                f"{option} is {path} with {len(found)} files, and there are {len(frames)} frames of other names; give "
                "one file a frame, of the same name."
            )

    def __call__(self, number: int) -> Path | None:
        return None if self._files is None else self._files[number]


def _results_in(folder: Path) -> dict[str, dict[str, Path]]:
    """Name and files by kind of the results in a folder: of one pair, or of a sequence with a folder for each kind."""
    files = {}
    for name in ("disparity", "depth"):
        for suffix in MAPS:  # floats before pictures, which may be colours
            path = folder / f"{name}{suffix}"
            if path.is_file() and (suffix in FLOAT_MAPS or _is_map(path)):
                files[name] = path
                break
    if files:
        for kind in ("left", "right", "preview", *PICTURES):
            shown = _picture(folder, f"rectified_{kind}") or _picture(folder, kind)
            if shown is not None:
                files[kind] = shown
        if (folder / "cloud.ply").is_file():
            files["cloud"] = folder / "cloud.ply"
        return {folder.resolve().name: files}
    depths = next((folder / kind for kind in ("metres", "depth") if (folder / kind).is_dir()), None)
    if depths is None:
        return {}
    kinds = {kind: _by_name(folder / kind) for kind in ("left", "right", "preview", "disparity", "cloud", *PICTURES)}
    return {
        name: {"depth": path} | {kind: found[name] for kind, found in kinds.items() if name in found}
        for name, path in _by_name(depths).items()
        if path.suffix.lower() in MAPS
    }


def _by_name(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("[!.]*"))} if folder.is_dir() else {}


def _maps_in(folder: Path) -> list[Path]:
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in MAPS and path.name[0] != "." and not path.stem.endswith(ENDINGS)
    ]
    floats = sorted(path for path in found if path.suffix.lower() in FLOAT_MAPS)
    return floats or sorted(path for path in found if _is_map(path))


def _is_map(path: Path) -> bool:
    """Whether a picture has one channel of 16 bits, as maps are stored."""
    try:
        with Image.open(path) as image:
            return image.mode.startswith("I")
    except OSError:
        return False


def _holds_depth(path: Path) -> bool:
    from stereopsis.io.depth import UNIT_KEY

    if path.suffix.lower() == ".png":
        with Image.open(path) as image:
            return UNIT_KEY in image.info
    return path.stem.startswith("depth")


def _picture(folder: Path, stem: str) -> Path | None:
    for suffix in IMAGE_SUFFIXES:
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            return path
    return None


def _disparity(path: Path) -> Disparity:
    values, valid = (part[None] for part in read_disparity(path))
    return Disparity(values, valid, valid.float())


def _depth(path: Path) -> Depth:
    values, valid = (part[None] for part in read_depth(path))
    return Depth(values, valid)


def _truth(path: Path) -> tuple[Tensor, Tensor]:
    values, valid = read_disparity(path)
    return values[None], valid[None]


def _fitting(image: Tensor, size: tuple[int, ...], path: Any) -> Tensor:
    if tuple(image.shape[-2:]) != tuple(size):
        raise ValueError(
            f"{path} is {image.shape[-1]}x{image.shape[-2]} and the map is {size[1]}x{size[0]}; name the view that the "
            "map is of."
        )
    return image
