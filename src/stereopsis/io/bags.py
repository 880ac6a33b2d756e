"""Pairs of images in ROS 1 and ROS 2 bags, read one after the other."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stereopsis.io.compressed_depth import decode_rvl, is_rvl, metres_of_codes
from stereopsis.io.images import decode_image
from stereopsis.io.stamps import TOLERANCE, Pairing

BAG_SUFFIXES = (".bag", ".mcap", ".db3")
RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
# A part of a topic's name that says which view it is.
TOKENS = (
    ("left", "right"), ("infra1", "infra2"), ("cam0", "cam1"), ("cam_0", "cam_1"), ("camera0", "camera1"),
    ("camera_0", "camera_1"), ("image_0", "image_1"), ("cam1", "cam2"), ("camera1", "camera2"),
)  # fmt: skip
COLOURS = ("color", "colour", "rgb", "image")
DEPTH_UNITS = {"16UC1": 0.001, "mono16": 0.001, "32FC1": 1.0}  # REP 118
DEPTH_HEADER = 12  # bytes that the compressed_depth transport puts before its PNG
UNKNOWN_RATE = 10.0

Kind = Literal["views", "depth"]


def is_bag(path: str | Path) -> bool:
    """Whether a name is that of a bag: a file by its suffix, a folder by what is in it."""
    path = Path(path)
    if path.is_dir():
        return (path / "metadata.yaml").is_file() and any(path.glob(f"*{suffix}*") for suffix in BAG_SUFFIXES[1:])
    return path.suffix.lower() in BAG_SUFFIXES


@dataclass(frozen=True, eq=False)
class BagImage:
    """One message with an image.

    Attributes:
        where: topic and time, for error messages.
        encoding: of the pixels as ROS names it; for a compressed image its ``format``.
        content: the message's bytes: pixels, or a file.
        shape: height, width and bytes a row; None for a compressed image.
        big_endian: order of the bytes of a pixel.
    """

    where: str
    encoding: str
    content: bytes
    shape: tuple[int, int, int] | None
    big_endian: bool = False

    def image(self) -> Float[Tensor, "3 h w"]:
        """RGB in [0, 1]; grey is repeated.

        Raises:
            ValueError: an encoding that is not known, or too few bytes.
        """
        if self.shape is None:
            array = self._decoded()
        else:
            array = self._pixels()
            array = array.astype(np.float32) / (255 if array.dtype == np.uint8 else 65535)
        array = array[..., None] if array.ndim == 2 else array
        tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1), dtype=np.float32))
        return tensor.expand(3, -1, -1).contiguous() if tensor.shape[0] == 1 else tensor

    def depth(self, unit: float | None = None) -> tuple[Float[Tensor, "1 h w"], Bool[Tensor, "1 h w"]]:
        """Depth in metres, and where it is valid.

        Args:
            unit: metres per step; millimetres for whole numbers and metres for floats if not given.

        Raises:
            ValueError: no depth of a known kind, or too few bytes.
        """
        encoding = self.encoding.partition(";")[0].strip()
        if encoding not in DEPTH_UNITS:
            raise ValueError(f"{self.where} is {self.encoding!r}; depth must be 16UC1 or 32FC1, so convert it.")
        array: np.ndarray
        if self.shape is None:
            array = self._codes()
            if encoding == "32FC1":
                array = metres_of_codes(array, self.content[:DEPTH_HEADER], self.where)
        elif encoding == "32FC1":
            array = self._rows(np.dtype(np.float32), 1)[..., 0]
        else:
            array = self._pixels()
        values = (array.astype(np.float64) * (DEPTH_UNITS[encoding] if unit is None else unit)).astype(np.float32)
        valid = np.isfinite(values) & (values > 0)
        return torch.from_numpy(np.where(valid, values, np.float32(0)))[None], torch.from_numpy(valid)[None]

    def _codes(self) -> np.ndarray:
        """The 16-bit codes of compressed depth."""
        if is_rvl(self.encoding):
            return decode_rvl(self.content, self.where)
        if "compressedDepth" not in self.encoding and self.encoding.startswith("32FC1"):
            raise ValueError(f"{self.where} is {self.encoding!r}; depth as 32FC1 must be raw or compressedDepth.")
        codes = self._decoded()
        if codes.ndim != 2:
            raise ValueError(
                f"{self.where} is a picture in colour; compressed depth must be a 16-bit PNG of one channel."
            )
        return np.round(codes * 65535).astype(np.uint16)

    def _decoded(self) -> np.ndarray:
        if is_rvl(self.encoding):
            codes = decode_rvl(self.content, self.where)
            return codes.astype(np.float32) / np.float32(65535)
        content = self.content[DEPTH_HEADER:] if "compressedDepth" in self.encoding else self.content
        return decode_image(content, self.where)

    def _pixels(self) -> np.ndarray:
        import cv2

        encoding = self.encoding.lower()
        deep = np.dtype(np.uint16)
        if encoding in {"mono8", "8uc1"}:
            return self._rows(np.dtype(np.uint8), 1)[..., 0]
        if encoding in {"mono16", "16uc1"}:
            return self._rows(deep, 1)[..., 0]
        if encoding in {"rgb8", "rgba8", "8uc3", "rgb16", "bgr8", "bgra8", "bgr16"}:
            kind = deep if encoding.endswith("16") else np.dtype(np.uint8)
            array = self._rows(kind, 4 if "a" in encoding else 3)[..., :3]
            return array[..., ::-1] if encoding.startswith("bgr") or encoding == "8uc3" else array
        if encoding.startswith("bayer_") and encoding[6:10] in BAYER:
            kind = deep if encoding.endswith("16") else np.dtype(np.uint8)
            mosaic = np.ascontiguousarray(self._rows(kind, 1)[..., 0])
            return np.asarray(cv2.cvtColor(mosaic, getattr(cv2, f"COLOR_Bayer{BAYER[encoding[6:10]]}2RGB")))
        if encoding in YUV:
            packed = np.ascontiguousarray(self._rows(np.dtype(np.uint8), 2))
            return np.asarray(cv2.cvtColor(packed, getattr(cv2, f"COLOR_YUV2RGB_{YUV[encoding]}")))
        known = "mono, RGB, BGR, Bayer and YUV 4:2:2 of 8 or 16 bits"
        raise ValueError(f"{self.where} has the encoding {self.encoding!r}; {known} are known, so convert it.")

    def _rows(self, kind: np.dtype, channels: int) -> np.ndarray:
        """(H, W, channels) without what pads the rows."""
        assert self.shape is not None
        height, width, step = self.shape
        length = width * channels * kind.itemsize
        if min(height, width) < 1 or step < length or len(self.content) < height * step:
            raise ValueError(
                f"{self.where} states {width}x{height} pixels of {self.encoding} but holds {len(self.content)} bytes; "
                "record it again."
            )
        rows = np.frombuffer(self.content, np.uint8, height * step).reshape(height, step)[:, :length]
        array = np.ascontiguousarray(rows).view(kind.newbyteorder(">" if self.big_endian else "<"))
        return array.astype(kind).reshape(height, width, channels)


# OpenCV names a mosaic after its second row and column.
BAYER = {"rggb": "BG", "bggr": "RG", "gbrg": "GR", "grbg": "GB"}
YUV = {"yuv422": "UYVY", "uyvy": "UYVY", "yuv422_yuy2": "YUYV", "yuyv": "YUYV"}


class BagPair:
    """The pairs of two image topics, in order of time; it may be iterated again.

    Times are those of the messages' headers, of the recording where those are 0. What has no partner is left out, and a
    warning at the end says how many that were.

    Args:
        path: ``.bag``, ``.mcap`` or ``.db3``, or the folder of a ROS 2 bag.
        topics: of the left and the right view (or of image and depth); found by their names if not given.
        tolerance: how far two messages of a pair may be apart, in seconds.
        kind: what is looked for: two views, or an image and its depth.

    Attributes:
        topics: that are read.
        count: of pairs at most.
        fps: pairs a second.

    Raises:
        ModuleNotFoundError: the extra "bags" is not installed.
        FileNotFoundError: no such bag.
        ValueError: a file that is no bag or is damaged, or topics that are missing or not clear; while iterating, a bag
            that is damaged further on, or not a single pair.
    """

    def __init__(
        self,
        path: str | Path,
        topics: tuple[str, str] | None = None,
        tolerance: float = TOLERANCE,
        kind: Kind = "views",
    ) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path} does not exist; name an existing bag.")
        self.tolerance = tolerance
        Pairing(tolerance)
        with _opened(self.path) as reader:
            counts: dict[str, int] = {}
            for connection in reader.connections:
                if connection.msgtype in (RAW, COMPRESSED):
                    counts[connection.topic] = counts.get(connection.topic, 0) + connection.msgcount
            seconds = reader.duration / 1e9
        self.topics = _given(topics, counts, self.path) if topics else _found(counts, self.path, kind)
        self.count = min(counts[topic] for topic in self.topics)
        self.fps = (self.count - 1) / seconds if seconds > 0 and self.count > 1 else UNKNOWN_RATE

    def __iter__(self) -> Iterator[tuple[int, BagImage, BagImage]]:
        """Time of the left message in ns, and both messages, not decoded yet."""
        pairing: Pairing = Pairing(self.tolerance)
        found = 0
        with _opened(self.path) as reader:
            for pair in pairing(self._messages(reader)):
                found += 1
                yield pair
        if not found:
            raise ValueError(
                f"{self.path}: no message of {self.topics[0]} has a partner in {self.topics[1]} within "
                f"{1000 * self.tolerance:g} ms; allow a larger tolerance, or name other topics."
            )
        if pairing.unpaired:
            warnings.warn(
                f"{pairing.unpaired} messages of {' and '.join(self.topics)} have no partner within "
                f"{1000 * self.tolerance:g} ms and were left out.",
                stacklevel=2,
            )

    def _messages(self, reader: Any) -> Iterator[tuple[int, int, BagImage]]:
        wanted = [connection for connection in reader.connections if connection.topic in self.topics]
        for connection, recorded, data in reader.messages(wanted):
            side = self.topics.index(connection.topic)
            time = _stamp(data, reader.is2) or recorded
            yield side, time, _image(reader, connection, data, f"{self.path}: {connection.topic} at {time} ns")


def camera_infos(path: str | Path, topics: tuple[str, str] | None = None) -> tuple[Any, Any]:
    """The first ``sensor_msgs/CameraInfo`` of the left and the right camera of a bag.

    Args:
        path: as of :class:`BagPair`.
        topics: of the two messages, or of the images that they belong to; found by their names if not given.

    Returns:
        Two messages, whose matrices are ``K D R P`` in ROS 1 and ``k d r p`` in ROS 2.

    Raises:
        ModuleNotFoundError, FileNotFoundError: as of :class:`BagPair`.
        ValueError: no bag, or no messages of two cameras.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name an existing bag.")
    with _opened(path) as reader:
        connections = [connection for connection in reader.connections if connection.msgtype == CAMERA_INFO]
        counts = {connection.topic: connection.msgcount for connection in connections}
        if topics is not None:
            # camera_info stands beside the image topic, in the namespace of its camera
            names = [topic if topic in counts else f"{topic.rpartition('/')[0]}/camera_info" for topic in topics]
            topics = (names[0], names[1])
        pair = topics if topics is not None and set(topics) <= counts.keys() else _info_topics(counts, path)
        found: dict[str, Any] = {}
        for connection, _, data in reader.messages([c for c in connections if c.topic in pair]):
            if connection.topic not in found:
                try:
                    found[connection.topic] = reader.deserialize(data, connection.msgtype)
                except Exception as error:
                    raise ValueError(
                        f"{path}: {connection.topic} cannot be read ({type(error).__name__}); record it again."
                    ) from None
            if len(found) == 2:
                break
    missing = [topic for topic in pair if topic not in found]
    if missing:
        raise ValueError(f"{path} has no message of {' and '.join(missing)}; name a calibration file.")
    return found[pair[0]], found[pair[1]]


def _info_topics(counts: dict[str, int], path: Path) -> tuple[str, str]:
    pairs = _views(counts)
    if len(pairs) == 1:
        return pairs[0]
    names = ", ".join(sorted(counts)) or "none"
    state = "camera_info of more than one pair of cameras" if pairs else "no camera_info of a left and a right camera"
    raise ValueError(f"{path} has {state} ({names}); name a calibration file.")


def _image(reader: Any, connection: Any, data: bytes, where: str) -> BagImage:
    """A message that cannot be read becomes an image that cannot be decoded, so that the others are read on."""
    try:
        message = reader.deserialize(data, connection.msgtype)
    except Exception as error:
        return BagImage(where, f"damaged ({type(error).__name__})", b"", (0, 0, 0))
    if connection.msgtype == COMPRESSED:
        return BagImage(where, str(message.format), message.data.tobytes(), None)
    shape = int(message.height), int(message.width), int(message.step)
    return BagImage(where, str(message.encoding), message.data.tobytes(), shape, bool(message.is_bigendian))


def _stamp(data: bytes, is_ros2: bool) -> int:
    """Nanoseconds of the header that both kinds of message start with; 0 where it says nothing."""
    # ROS 2: four bytes of which the second names the byte order; ROS 1: a sequence number.
    order = ">" if is_ros2 and data[1] == 0 else "<"
    if len(data) < 12:
        return 0
    seconds, rest = struct.unpack_from(f"{order}II", data, 4)
    return int(seconds) * 10**9 + int(rest)


def _given(topics: tuple[str, str], counts: dict[str, int], path: Path) -> tuple[str, str]:
    for topic in topics:
        if topic not in counts:
            raise ValueError(f"{path} has no image topic {topic}; it has {', '.join(sorted(counts)) or 'none'}.")
    if topics[0] == topics[1]:
        raise ValueError(f"--topics names {topics[0]} twice; name two topics.")
    return topics


def _found(counts: dict[str, int], path: Path, kind: Kind) -> tuple[str, str]:
    pairs = _views(counts) if kind == "views" else _image_and_depth(counts)
    # The same camera is often recorded raw and compressed; raw has lost nothing.
    whole = [pair for pair in pairs if not any("compressed" in topic for topic in pair)]
    pairs = whole if len(whole) == 1 else pairs
    if len(pairs) == 1:
        return pairs[0]
    names = ", ".join(sorted(counts)) or "none"
    what = "LEFT RIGHT" if kind == "views" else "IMAGE DEPTH"
    state = "more than one pair of topics" if pairs else "no two topics whose names tell that they belong together"
    raise ValueError(f"{path} has {state}; choose with --topics {what} from its image topics: {names}.")


def _views(counts: dict[str, int]) -> list[tuple[str, str]]:
    for left, right in TOKENS:
        pairs = [(topic, topic.replace(left, right)) for topic in sorted(counts) if left in topic]
        pairs = [pair for pair in pairs if pair[1] in counts]
        if pairs:
            return pairs
    return []


def _image_and_depth(counts: dict[str, int]) -> list[tuple[str, str]]:
    depths = [topic for topic in sorted(counts) if "depth" in topic.lower()]
    images = [topic for topic in sorted(counts) if topic not in depths and any(c in topic.lower() for c in COLOURS)]
    return [(image, depth) for image in images for depth in depths]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} is a bag, which needs {error.name}; install it with: pip install 'stereopsis[bags]'",
            name=error.name,
        ) from None
    try:
        with AnyReader([path], default_typestore=get_typestore(Stores.LATEST)) as reader:
            yield reader
    except Exception as error:  # of the parsers underneath, each of which has its own
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        told = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{path} cannot be read as a bag ({told}); copy it again, or reindex it with ROS.") from error
