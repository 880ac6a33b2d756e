"""What every codec for pairs offers, whatever it does inside: pairs in, bytes out, and back."""

from __future__ import annotations

import functools
import hashlib
import struct
import zlib
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stereopsis.compression.bitstream import FINGERPRINT, Header, Reader, Record, Stream, check_size, pack
from stereopsis.compression.effort import check_effort
from stereopsis.types import StereoCalibration, StereoPair

QUALITIES = 8
STEPS = 16  # levels from one whole quality to the next
LEVELS = (QUALITIES - 1) * STEPS + 1

T = TypeVar("T")
SideView = Literal["right", "left"]


def level_of(quality: float) -> int:
    """The number of the nearest quality that a file can state, from 0 on in sixteenths.

    Raises:
        ValueError: not from 1 to 8.
    """
    if not 1 <= quality <= QUALITIES:
        raise ValueError(f"quality is {quality:g}; it must lie in 1 to {QUALITIES}, for example 4.")
    return round((quality - 1) * STEPS)


def quality_of(level: int) -> float:
    """The quality that a level stands for."""
    return 1 + level / STEPS


def _exactly(method: Callable[..., T]) -> Callable[..., T]:
    """Runs a codec's method in inference mode and without the caller's autocast, which would change its numbers."""

    @functools.wraps(method)
    def run(self: PairCodec, *arguments: Any, **options: Any) -> T:
        device = next(self.parameters()).device.type
        with torch.inference_mode(), torch.autocast(device, enabled=False):
            return method(self, *arguments, **options)

    return run


class PairCodec(nn.Module):
    """A codec whose files decode to the symbols that were encoded, on every machine.

    A codec implements :meth:`encode` and :meth:`decode`; what decides a probability in them must be computed exactly
    (:mod:`stereopsis.compression.integer`).

    Args:
        name: what files say they were written by.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._memory: dict[str, Any] = {}

    @abstractmethod
    def encode(self, views: list[Float[Tensor, "1 3 h w"]], level: int, effort: int = 0) -> list[Stream]:
        """The streams of one or two views.

        Args:
            effort: 0 to 3; see :meth:`compress`.

        Raises:
            ValueError: an effort that the codec does not offer.
        """

    @abstractmethod
    def decode(self, streams: list[Stream], size: tuple[int, int], level: int) -> list[Float[Tensor, "1 3 h w"]]:
        """The views of these streams, of this height and width; neither clamped nor rounded to 8 bits.

        Raises:
            ValueError: the streams do not decode to what was encoded.
        """

    @abstractmethod
    def finalize(self) -> None:
        """Store the whole numbers that decoding needs; call it after training, before the weights are saved."""

    def compress(
        self,
        pair: StereoPair | Float[Tensor, "1 c h w"],
        quality: float = 4.0,
        *,
        effort: int = 0,
        metadata: Mapping[str, Any] | None = None,
    ) -> bytes:
        """A file of one pair, or of one image.

        Args:
            pair: of any size, RGB or grey; its calibration is written too.
            quality: 1 (small) to 8 (good), in sixteenths.
            effort: 0 (fast) to 3 (small files): how long the encoder looks for better latents; decoding stays as it is.
            metadata: anything else that JSON holds, to be kept in the file.

        Raises:
            ValueError: more than one pair, values that are not finite, or a size, quality or effort beyond the limits.
        """
        return pack(self.header(pair, metadata), [self.compress_record(pair, quality, effort)])

    def decompress(
        self, content: bytes, index: int = 0, *, side: Tensor | None = None, side_is: SideView = "right"
    ) -> StereoPair | Float[Tensor, "1 c h w"]:
        """A pair of a file, or an image where a file holds images.

        Args:
            content: the file.
            index: which pair of a sequence, from 0 on.
            side: the other view (1, 3 or 1, H, W) in [0, 1] of an image, for a :class:`SideViewCodec`.
            side_is: which view of the rig the side view is.

        Raises:
            ValueError: not such a file, damaged, or written with other weights; or a side view that does not fit.
            IndexError: there are not as many pairs.
        """
        reader = Reader(content)
        self.check_header(reader.header)
        return self.decompress_record(reader.record(index), reader.header, side, side_is)

    @_exactly
    def compress_record(
        self, pair: StereoPair | Float[Tensor, "1 c h w"], quality: float = 4.0, effort: int = 0
    ) -> Record:
        """A pair as one record of a file; arguments and errors as of :meth:`compress`."""
        level = level_of(quality)
        check_effort(effort)
        views = [pair.left, pair.right] if isinstance(pair, StereoPair) else [pair]
        batch, channels, height, width = views[0].shape
        if batch != 1 or channels not in (1, 3):
            raise ValueError(f"a view has the shape {tuple(views[0].shape)}; it must be (1, 3, H, W) or (1, 1, H, W).")
        check_size(width, height)
        if not all(bool(view.isfinite().all()) for view in views):
            raise ValueError("the image holds values that are not finite; replace them first.")
        device = next(self.parameters()).device
        ready = [view.to(device, torch.float32).clamp(0, 1).expand(-1, 3, -1, -1) for view in views]
        record = Record(len(views), channels, level, width, height, tuple(self.encode(ready, level, effort)))
        return _bound(record)

    def record_of_rate(
        self, pair: StereoPair | Float[Tensor, "1 c h w"], bpp: float, extra: int = 0, effort: int = 0
    ) -> Record:
        """A pair in the best quality that does not exceed a rate.

        Args:
            pair: as for :meth:`compress`.
            bpp: bits of the record, and of the extra bytes, a pixel of all views.
            extra: bytes that are counted too, as those of the file's header.
            effort: as for :meth:`compress`, of each of about seven qualities that are tried.

        Raises:
            ValueError: even quality 1 exceeds it; or as :meth:`compress`.
        """
        best, low, high = None, 0, LEVELS - 1
        while low <= high:
            level = (low + high) // 2
            record = self.compress_record(pair, quality_of(level), effort)
            rate = 8 * (record.bytes + extra) / (record.views * record.width * record.height)
            if rate <= bpp:
                best, low = record, level + 1
            elif level == 0:
                raise ValueError(f"{bpp:g} bpp are too few, since quality 1 takes {rate:.4f}; allow as many.")
            else:
                high = level - 1
        assert best is not None
        return best

    @_exactly
    def decompress_record(
        self, record: Record, header: Header, side: Tensor | None = None, side_is: SideView = "right"
    ) -> StereoPair | Float[Tensor, "1 c h w"]:
        """The pair of a record, in [0, 1] and in steps of 1/255; a side view is as for :meth:`decompress`.

        Raises:
            ValueError: damaged, or written with other weights; or a side view that does not fit.
        """
        if record.level >= LEVELS:
            raise ValueError(f"the file states quality {quality_of(record.level):g}, above {QUALITIES}; it is damaged.")
        streams, size = list(_bound(record).streams), (record.height, record.width)
        if side is None:
            views = self.decode(streams, size, record.level)
        else:
            views = self.decode_beside(streams, size, record.level, self._checked_side(side, record), side_is)
        if len(views) != record.views:
            raise ValueError(f"the file states {record.views} views but holds {len(views)}; it is damaged.")
        if record.channels == 1:
            views = [view.mean(1, keepdim=True) for view in views]
        views = [view.cpu() for view in self.in_steps(views, streams)]
        return views[0] if record.views == 1 else StereoPair(views[0], views[1], calibration_of(header))

    def in_steps(self, views: list[Float[Tensor, "1 c h w"]], streams: list[Stream]) -> list[Float[Tensor, "1 c h w"]]:
        """Decoded views in [0, 1] and in the steps of the images that were encoded: of 1/255."""
        return [(view.clamp(0, 1) * 255).round() / 255 for view in views]

    def decode_beside(
        self,
        streams: list[Stream],
        size: tuple[int, int],
        level: int,
        side: Float[Tensor, "1 3 h w"] | None,
        side_is: SideView,
    ) -> list[Float[Tensor, "1 3 h w"]]:
        """:meth:`decode` of an image whose other view the decoder has; for a :class:`SideViewCodec` alone."""
        raise ValueError(f"{self.name} decodes without a side view; leave it out.")

    def _checked_side(self, side: Tensor, record: Record) -> Float[Tensor, "1 3 h w"]:
        """
        Raises:
            ValueError: it does not belong to an image of this record's size.
        """
        if record.views == 2:
            raise ValueError("the file holds both views, which decode together; leave the side view out.")
        if side.ndim != 4 or side.shape[:1] != (1,) or side.shape[1] not in (1, 3):
            raise ValueError(
                f"the side view has the shape {tuple(side.shape)}; it must be (1, 3, H, W) or (1, 1, H, W)."
            )
        height, width = side.shape[-2:]
        if (height, width) != (record.height, record.width):
            raise ValueError(
                f"the side view is {width}x{height} and the main view {record.width}x{record.height}; give the other "
                "view of the same rectified pair."
            )
        if not bool(side.isfinite().all()):
            raise ValueError("the side view holds values that are not finite; replace them first.")
        return side.to(next(self.parameters()).device, torch.float32).clamp(0, 1).expand(-1, 3, -1, -1)

    def header(self, pair: StereoPair | Tensor, metadata: Mapping[str, Any] | None = None) -> Header:
        """Of a file that starts with this pair, and holds its calibration for all of them."""
        content = dict(metadata or {})
        if isinstance(pair, StereoPair) and pair.calibration is not None:
            known = {key: value for key, value in asdict(pair.calibration).items() if value is not None}
            content["calibration"] = known
        return Header(self.name, self.fingerprint(), content)

    def check_header(self, header: Header) -> None:
        """
        Raises:
            ValueError: the file was written with other weights.
        """
        if header.fingerprint != self.fingerprint():
            raise ValueError(
                f"the file was written by {header.model} with weights {header.fingerprint.hex()}, but these weights of "
                f"{self.name} are {self.fingerprint().hex()}; give the weights it was written with."
            )

    def fingerprint(self) -> bytes:
        """Of the weights: the start of the SHA-256 of all tensors in the precision of weights files."""

        def compute() -> bytes:
            digest = hashlib.sha256()
            for name, tensor in sorted(self.state_dict().items()):
                stored = tensor.half() if tensor.is_floating_point() else tensor
                digest.update(name.encode() + stored.cpu().contiguous().numpy().tobytes())
            return digest.digest()[:FINGERPRINT]

        return self.remember("fingerprint", compute)

    def remember(self, key: str, compute: Callable[[], T]) -> T:
        """What was computed of the weights, until they change (:meth:`forget`)."""
        if key not in self._memory:
            self._memory[key] = compute()
        return self._memory[key]

    def forget(self) -> None:
        """Forget what was computed of the weights."""
        self._memory.clear()

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles take along: not what can be computed again, of which some cannot be copied."""
        return self.__dict__ | {"_memory": {}}

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        self.forget()
        return super().load_state_dict(*arguments, **options)


class SideViewCodec(PairCodec):
    """A codec that codes each view apart, and decodes an image better where the other view is at hand."""

    def decode(self, streams: list[Stream], size: tuple[int, int], level: int) -> list[Float[Tensor, "1 3 h w"]]:
        return self.decode_beside(streams, size, level, None, "right")

    @abstractmethod
    def decode_beside(
        self,
        streams: list[Stream],
        size: tuple[int, int],
        level: int,
        side: Float[Tensor, "1 3 h w"] | None,
        side_is: SideView,
    ) -> list[Float[Tensor, "1 3 h w"]]:
        """The views of these streams; of an image, with the help of the other view where it is given.

        Args:
            side: of the same size, in [0, 1].
            side_is: which view of the rig it is.
        """


def _bound(record: Record) -> Record:
    """With the symbols' checksums tied to what else decides the picture, or freed from it again."""
    facts = struct.pack("<BBBHH", record.views, record.channels, record.level, record.width, record.height)
    streams = [Stream(stream.payload, stream.check ^ zlib.crc32(facts)) for stream in record.streams]
    return replace(record, streams=tuple(streams))


def calibration_of(header: Header) -> StereoCalibration | None:
    """The rig that a file holds, None where it holds none.

    Raises:
        ValueError: what it holds is no calibration.
    """
    stored = header.metadata.get("calibration")
    if stored is None:
        return None
    try:
        return StereoCalibration(**stored)
    except TypeError:
        raise ValueError("the calibration in the file is not one of a rectified rig; encode it again.") from None
