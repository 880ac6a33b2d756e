"""Videos in and out, one frame at a time: two videos of a rig or one side by side, and previews."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from stereopsis.io.protect import check_target
from stereopsis.ops.images import check_sizes

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
# What a video is written as: the suffix chooses the codec, and every OpenCV has both.
VIDEO_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
UNKNOWN_RATE = 25.0  # frames a second of a file that states none
# These state how many frames they hold; of the others OpenCV guesses it from the duration.
COUNTED = (".mp4", ".avi", ".mov", ".m4v")


class EarlyEndError(ValueError):
    """A video stops before it should; the frames before were good."""


def is_video(path: str | Path) -> bool:
    """Whether a name is that of a video, by its suffix; the file need not exist."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES and not Path(path).is_dir()


class VideoReader:
    """The frames of a video as RGB in [0, 1], read when they are asked for; it may be iterated again.

    The last frame of a file that ends early is left out, because it may hold a part of a picture.

    Attributes:
        path: the file.
        width, height: of a frame, in pixels.
        fps: frames a second, 25 where the file states none.
        frames: how many the file states, None where it states none. Those of MKV, WebM and MPEG are a guess.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no video or holds no frame.
        EarlyEndError: while iterating, a file that holds fewer frames or bytes than it states.
    """

    def __init__(self, path: str | Path) -> None:
        import cv2

        self.path = Path(path)
        if self.path.is_dir():
            raise ValueError(f"{self.path} is a folder; name a video.")
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path} does not exist; name an existing video.")
        if self.path.stat().st_size == 0:
            raise ValueError(f"{self.path} is empty (0 bytes); write or copy it again.")
        capture = _open(self.path)
        try:
            fps, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
            found, frame = capture.read()
        finally:
            capture.release()
        if not found:
            raise ValueError(f"{self.path} holds no frame that can be read; record or copy it again.")
        self.height, self.width = frame.shape[:2]
        self.fps = float(fps) if 0 < fps < 1000 else UNKNOWN_RATE
        self.frames = int(frames) if 0 < frames < 2**31 else None

    def __iter__(self) -> Iterator[Float[Tensor, "3 h w"]]:
        capture = _open(self.path)
        held, number = None, 0
        try:
            while True:
                found, frame = capture.read()
                if not found:
                    break
                if held is not None:
                    yield _to_tensor(held)
                held, number = frame, number + 1
        finally:
            capture.release()
        if self._is_short(number):
            stated = f" of {self.frames}" if self.frames else ""
            raise EarlyEndError(
                f"{self.path} ends early, after {max(number - 1, 0)}{stated} whole frames; record or copy it again."
            )
        if held is not None:
            yield _to_tensor(held)

    def _is_short(self, number: int) -> bool:
        # An AVI that is cut inside its last frame still gives all of them.
        if self.path.stat().st_size < _stated_bytes(self.path):
            return True
        if self.frames is None:
            return False
        slack = 0 if self.path.suffix.lower() in COUNTED else 1 + self.frames // 50
        return number < self.frames - slack


@dataclass(frozen=True)
class VideoPair:
    """The pairs ``(left, right)`` of a recording, two tensors (3, H, W) a frame; it may be iterated again.

    Iterating raises :class:`EarlyEndError` after the last pair where a file ends early, or one video before the other.

    Attributes:
        left: the video of the left view, or of both views side by side.
        right: the video of the right view, None for side by side.
    """

    left: VideoReader
    right: VideoReader | None = None

    @property
    def width(self) -> int:
        """Of one view, in pixels."""
        return self.left.width if self.right else self.left.width // 2

    @property
    def height(self) -> int:
        """Of one view, in pixels."""
        return self.left.height

    @property
    def fps(self) -> float:
        """Frames a second, as the left video states them."""
        return self.left.fps

    @property
    def frames(self) -> int | None:
        """How many pairs the files state, None where one of them states none."""
        counts = [video.frames for video in (self.left, self.right) if video is not None]
        return None if None in counts else min(count for count in counts if count is not None)

    def __iter__(self) -> Iterator[tuple[Float[Tensor, "3 h w"], Float[Tensor, "3 h w"]]]:
        if self.right is None:
            for frame in self.left:
                yield frame[..., : self.width], frame[..., self.width :]
            return
        for number, (left, right) in enumerate(zip_longest(self.left, self.right)):
            if left is None or right is None:
                names = (self.left.path, self.right.path) if left is None else (self.right.path, self.left.path)
                raise EarlyEndError(
                    f"{names[0]} ends after {number} frames and {names[1]} goes on; cut both to one length."
                )
            yield left, right


def open_pair(left: str | Path, right: str | Path | None = None) -> VideoPair:
    """The pairs of two videos, or of one that shows both views side by side, the left one on the left.

    Args:
        left: video of the left view, or of both.
        right: video of the right view.

    Raises:
        FileNotFoundError: a video does not exist.
        ValueError: a file that is no video or holds no frame, views of different size, or an odd width to be halved.
    """
    first = VideoReader(left)
    if right is None:
        if first.width % 2:
            raise ValueError(
                f"{left} is {first.width} px wide; a side-by-side video must have an even width, half of it for each "
                "view, so name the right video too or crop it."
            )
        return VideoPair(first)
    second = VideoReader(right)
    check_sizes((first.width, first.height), (second.width, second.height), (first.path, second.path))
    return VideoPair(first, second)


class VideoWriter:
    """Writes a video under a temporary name beside it, which becomes the name when the block ends.

    Also where the block ends with an error, so that what was written until then is kept and can be played. Without a
    frame nothing is written, and what stood under the name before stays.

    Args:
        path: .mp4 (MPEG-4) or .avi (Motion JPEG); both need even sides, so an odd last column or row is left out.
        fps: frames a second.

    Raises:
        ValueError: another suffix, a folder, or a rate that is not above 0.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        if suffix not in VIDEO_CODECS:
            raise ValueError(f"{self.path} has the suffix {suffix!r}; a video must end in {', '.join(VIDEO_CODECS)}.")
        if self.path.is_dir():
            raise ValueError(f"{self.path} is a folder; name a video to write.")
        if not 0 < fps < math.inf:
            raise ValueError(f"fps is {fps}; it must be above 0, for example 10.")
        self.fps = fps
        self._size: tuple[int, int] | None = None
        self._writer: Any = None
        self._temporary = self.path.with_name(f".{self.path.stem}.{secrets.token_hex(4)}.tmp{suffix}")

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        try:
            self._temporary.replace(self.path)
        except OSError:
            with suppress(OSError):
                self._temporary.unlink()
            raise

    def check_size(self, width: int, height: int) -> None:
        """Refuse a frame of another size than the first one.

        Raises:
            ValueError: width or height differs.
        """
        if self._size is not None and self._size != (width, height):
            before = f"{self._size[0]}x{self._size[1]}"
            raise ValueError(f"The frame is {width}x{height} and {self.path} is {before}; a video has one size.")

    def write(self, picture: Shaped[np.ndarray, "h w 3"]) -> None:
        """Append one frame.

        Args:
            picture: RGB, uint8, as :func:`stereopsis.visualization.colorize` returns.

        Raises:
            FileNotFoundError: the folder does not exist.
            ValueError: no RGB picture of uint8, or another size than the first one.
            OSError: the system or OpenCV refuses to write.
        """
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or picture.size == 0:
            raise ValueError(f"The frame is {picture.shape} of {picture.dtype}; it must be (H, W, 3) of uint8.")
        height, width = picture.shape[:2]
        self.check_size(width, height)
        if self._writer is None:
            self._writer = self._start(width, height)
            self._size = width, height
        self._writer.write(np.ascontiguousarray(picture[..., ::-1]))

    def _start(self, width: int, height: int) -> Any:
        import cv2

        if not self.path.parent.is_dir():
            folder = self.path.parent
            raise FileNotFoundError(f"The folder {folder} does not exist; create it before writing {self.path.name}.")
        check_target(self.path)
        codec = cv2.VideoWriter.fourcc(*VIDEO_CODECS[self.path.suffix.lower()])
        with _silence():
            writer = cv2.VideoWriter(str(self._temporary), codec, self.fps, (width, height))
        if not writer.isOpened():
            with suppress(OSError):
                self._temporary.unlink()
            raise OSError(f"{self.path} of {width}x{height} px cannot be written; name a folder of pictures instead.")
        return writer


def _open(path: Path) -> Any:
    """A capture that is open; FFmpeg alone, because the other readers of OpenCV take pictures and damaged headers."""
    import cv2

    with _silence():
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise ValueError(f"{path} cannot be read as a video; it is of an unknown kind or cut off, so copy it again.")
    return capture


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps OpenCV and FFmpeg from writing on stderr what our own sentences say, or what they have mended."""
    import cv2

    # FFmpeg asks for this once, when the first video of the process is opened.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _to_tensor(frame: np.ndarray) -> Float[Tensor, "3 h w"]:
    return torch.from_numpy(np.ascontiguousarray(frame[..., ::-1].transpose(2, 0, 1))).float() / 255


def _stated_bytes(path: Path) -> int:
    """The length that an AVI states, 0 for others."""
    with path.open("rb") as file:
        head = file.read(8)
    return 8 + int.from_bytes(head[4:], "little") if head.startswith(b"RIFF") else 0
