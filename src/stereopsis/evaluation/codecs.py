"""Codecs to compare: each takes a pair as 8-bit RGB and gives the bytes it needs and what comes back."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stereopsis.compression.bitstream import Reader
from stereopsis.compression.codec import PairCodec, SideViewCodec
from stereopsis.ops.images import to_bytes
from stereopsis.types import StereoPair

Views = Sequence[UInt8[np.ndarray, "h w 3"]]
TIMEOUT = 600  # seconds for one call of ffmpeg
CHROMA = "4:4:4 (RGB)"  # of learned codecs
WITHOUT_SIDE = "-without-side"  # behind the name of a codec whose decoder is denied the other view


@dataclass(frozen=True)
class CodedPair:
    """What one pair became.

    Attributes:
        size: bytes of both views and all headers.
        views: as decoded.
        encode_seconds, decode_seconds: wall time, of programs with their start.
        parts: bytes of each view, without headers they share; empty where they cannot be told apart.
    """

    size: int
    views: Views
    encode_seconds: float
    decode_seconds: float
    parts: tuple[int, ...] = ()


Code = Callable[[Views, float], CodedPair]


@dataclass(frozen=True)
class Coder:
    """A codec at several settings.

    Attributes:
        name: as in ``--anchors``.
        chroma: how colour is sampled; 4:2:0 halves it both ways, which caps the PSNR of saturated colours.
        unit: what a setting is: "quality", "distance" or "qp".
        settings: from few bits to many.
        code: encodes and decodes a pair, or a view alone, at a setting.
        main: codes the left view of a pair alone, for which the right one may be side information.
    """

    name: str
    chroma: str
    unit: str
    settings: tuple[float, ...]
    code: Code
    main: bool = False


def codec_coder(codec: PairCodec, qualities: Sequence[float]) -> Coder:
    """A learned codec; its size is that of a file of one pair, or of one view."""

    def code(views: Views, quality: float) -> CodedPair:
        given = [_tensor(view) for view in views]
        return _clocked(codec, StereoPair(given[0], given[1]) if len(given) == 2 else given[0], quality)

    return Coder(codec.name, CHROMA, "quality", tuple(qualities), code)


def main_view_coder(codec: SideViewCodec, qualities: Sequence[float], side: bool = True) -> Coder:
    """A codec for left views whose decoder has the right view as the camera gave it, or has none.

    Args:
        side: whether it has; without, the name ends in ``-without-side``.
    """

    def code(views: Views, quality: float) -> CodedPair:
        left, right = map(_tensor, views)
        return _clocked(codec, left, quality, right if side else None)

    name = codec.name if side else codec.name + WITHOUT_SIDE
    return Coder(name, CHROMA, "quality", tuple(qualities), code, main=True)


def _clocked(codec: PairCodec, views: StereoPair | Tensor, quality: float, side: Tensor | None = None) -> CodedPair:
    start = time.perf_counter()
    content = codec.compress(views, quality)
    middle = time.perf_counter()
    decoded = codec.decompress(content, side=side)
    end = time.perf_counter()
    shown = [decoded.left, decoded.right] if isinstance(decoded, StereoPair) else [decoded]
    back = [to_bytes(view) for view in shown]
    parts = tuple(len(stream.payload) for stream in Reader(content).record(0).streams)
    return CodedPair(len(content), back, middle - start, end - middle, parts)


def _tensor(view: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "1 3 h w"]:
    return torch.from_numpy(view).permute(2, 0, 1)[None].float() / 255


def _each(encode: Callable[[np.ndarray, float], bytes], decode: Callable[[bytes], np.ndarray]) -> Code:
    """Views coded one by one."""

    def code(views: Views, setting: float) -> CodedPair:
        start = time.perf_counter()
        files = [encode(np.ascontiguousarray(view), setting) for view in views]
        middle = time.perf_counter()
        decoded = [decode(file) for file in files]
        end, parts = time.perf_counter(), tuple(map(len, files))
        return CodedPair(sum(parts), decoded, middle - start, end - middle, parts)

    return code


def _pillow(format: str, **options: object) -> Code:
    from PIL import Image

    def encode(view: np.ndarray, quality: float) -> bytes:
        file = BytesIO()
        Image.fromarray(view).save(file, format=format, quality=int(quality), **options)
        return file.getvalue()

    def decode(content: bytes) -> np.ndarray:
        with Image.open(BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))

    return _each(encode, decode)


def _jxl() -> Code:
    try:
        import imagecodecs
    except ImportError as error:
        raise ImportError(EXTRA.format("jxl", "imagecodecs")) from error
    return _each(
        lambda view, distance: bytes(imagecodecs.jpegxl_encode(view, distance=distance, effort=7)),
        imagecodecs.jpegxl_decode,
    )


X265 = "info=0:aud=0:bframes=0:rd=6:psy-rd=0:psy-rdoq=0:aq-mode=0:range=full:ipratio=1.0:scenecut=0:log-level=none"
TO_YUV = "scale=in_range=full:out_range=full:out_color_matrix=bt709:flags=lanczos+accurate_rnd+full_chroma_int"
TO_RGB = "scale=in_range=full:out_range=full:in_color_matrix=bt709:flags=lanczos+accurate_rnd+full_chroma_int"


def _hevc(parameters: str) -> Code:
    return _video(
        "hevc", lambda qp: ["-c:v", "libx265", "-preset", "veryslow", "-x265-params", f"qp={qp:g}:{X265}:{parameters}"]
    )


def _vvc() -> Code:
    return _video("vvc", lambda qp: ["-c:v", "libvvenc", "-preset", "fast", "-qp", f"{qp:g}", "-qpa", "0", "-g", "1"])


def _video(format: str, encoder: Callable[[float], list[str]]) -> Code:
    """The views as frames of one stream of 10 bits, 4:2:0."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ImportError(EXTRA.format(format, "imageio-ffmpeg")) from error
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error"]

    def code(views: Views, setting: float) -> CodedPair:
        height, width = views[0].shape[:2]
        even = [np.pad(view, ((0, height % 2), (0, width % 2), (0, 0)), "edge") for view in views]
        rows, columns = even[0].shape[:2]
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
        start = time.perf_counter()
        source = [*raw, "-s", f"{columns}x{rows}", "-i", "-", "-vf", TO_YUV, "-pix_fmt", "yuv420p10le"]
        frames = b"".join(view.tobytes() for view in even)
        content = _run([*program, *source, *encoder(setting), "-f", format, "-"], frames)
        middle = time.perf_counter()
        decoded = _run([*program, "-f", format, "-i", "-", "-vf", TO_RGB, *raw, "-"], content)
        end = time.perf_counter()
        if len(decoded) != len(even) * rows * columns * 3:
            raise ValueError(
                f"ffmpeg gave {len(decoded)} bytes for {len(even)} views of {columns}x{rows}; check its version."
            )
        back = np.frombuffer(decoded, np.uint8).reshape(-1, rows, columns, 3)[:, :height, :width]
        return CodedPair(len(content), list(back), middle - start, end - middle)

    return code


def _run(command: list[str], content: bytes) -> bytes:
    done = subprocess.run(command, input=content, capture_output=True, timeout=TIMEOUT, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
        raise ValueError(f"ffmpeg failed ({reason[0]}); check that this build has the encoder.")
    return done.stdout


EXTRA = "the anchor {} needs {}; run `pip install 'stereopsis[codecs]'`."
QPS = (47.0, 42.0, 37.0, 32.0, 27.0, 22.0)
QUALITIES = (5.0, 10.0, 20.0, 35.0, 50.0, 70.0, 85.0)

# What each anchor is; built when it is asked for, since some need an extra.
ANCHORS: dict[str, Callable[[], Coder]] = {
    "jpeg": lambda: Coder("jpeg", "4:2:0", "quality", QUALITIES, _pillow("JPEG", subsampling="4:2:0", optimize=True)),
    "webp": lambda: Coder("webp", "4:2:0", "quality", (0.0, *QUALITIES), _pillow("WEBP", method=6)),
    "avif": lambda: Coder(
        "avif", "4:4:4", "quality", (10.0, *QUALITIES[2:]), _pillow("AVIF", subsampling="4:4:4", speed=4)
    ),
    "jxl": lambda: Coder("jxl", "4:4:4 (XYB)", "distance", (15.0, 10.0, 7.0, 5.0, 3.0, 2.0, 1.0), _jxl()),
    "hevc-intra": lambda: Coder("hevc-intra", "4:2:0", "qp", QPS, _hevc("keyint=1")),
    "hevc-stereo": lambda: Coder(
        "hevc-stereo", "4:2:0", "qp", QPS, _hevc("keyint=-1:min-keyint=2:ref=1:me=3:merange=256:subme=7")
    ),
    "vvc-intra": lambda: Coder("vvc-intra", "4:2:0", "qp", QPS, _vvc()),
}
