"""The container ``.stz``: what stands in a file, byte by byte in ``docs/bitstream.md``.

A file is a header, records (a pair or an image each) that state their own length, and an index where there is more
than one record. Without the index, or with a damaged one, the records are found by walking from one to the next, so
that a file that was cut short still gives every whole record. Nothing in a file is ever executed, and no size is
believed before it was checked against a limit and against the bytes that are there.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

MAGIC = b"\x8aSTZ"
VERSION = 1
RECORD, INDEX = b"P", b"I"
INDEX_MAGIC = b"STZI"
MAX_SIDE = 16384  # pixels
MAX_PIXELS = 2**25  # of a view: 8K fits
MAX_STREAMS = 8
MAX_METADATA = 2**20  # bytes
MAX_NAME = 64  # bytes
FINGERPRINT = 8  # bytes

_START = struct.Struct("<4sBB")
_LENGTH = struct.Struct("<I")
_RECORD = struct.Struct("<cBBBHHB")
_STREAM = struct.Struct("<II")
_INDEX = struct.Struct("<cI")
_INDEX_END = struct.Struct("<II4s")


@dataclass(frozen=True)
class Header:
    """What holds for a whole file.

    Attributes:
        model: registry name of the codec.
        fingerprint: of its weights, 8 bytes.
        metadata: anything that JSON holds; ``"calibration"`` is the rig's where it is known.
    """

    model: str
    fingerprint: bytes
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stream:
    """A stretch of entropy-coded bytes.

    Attributes:
        payload: the bytes.
        check: CRC-32 of the symbols that they decode to; in a file, XOR that of the record's sizes and quality.
    """

    payload: bytes
    check: int


@dataclass(frozen=True)
class Record:
    """A pair or an image.

    Attributes:
        views: 2 or 1.
        channels: 3, or 1 for grey.
        level: the quality's number (:func:`stereopsis.compression.codec.level_of`).
        width, height: of a view, in pixels.
        streams: as many as the codec writes for its views.
    """

    views: int
    channels: int
    level: int
    width: int
    height: int
    streams: tuple[Stream, ...]

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return _record_head_size(len(self.streams)) + sum(len(s.payload) for s in self.streams) + _LENGTH.size


# --- writing


class Writer:
    """Writes a file from its start, or goes on with one.

    Args:
        file: to write to, at its start; with ``header=None`` a file of records, opened for reading and writing.
        header: of a new file.

    Attributes:
        header: of the file.

    Raises:
        ValueError: the header cannot be written, or the file to go on with is damaged.
    """

    def __init__(self, file: BinaryIO, header: Header | None) -> None:
        self._file = file
        self._offsets: list[int] = []
        if header is not None:
            self.header = header
            file.write(pack_header(header))
            return
        reader = Reader(file)
        self.header, self._offsets = reader.header, list(reader.offsets)
        file.seek(reader.end)
        file.truncate()

    def add(self, record: Record) -> None:
        """Append a record."""
        self._offsets.append(self._file.tell())
        self._file.write(pack_record(record))

    def close(self) -> None:
        """Write the index, which a single record does not need."""
        if len(self._offsets) < 2:
            return
        count = len(self._offsets)
        start = _INDEX.pack(INDEX, count) + struct.pack(f"<{count}Q", *self._offsets)
        length = len(start) + _INDEX_END.size
        self._file.write(start + _INDEX_END.pack(zlib.crc32(start), length, INDEX_MAGIC))


def pack(header: Header, records: list[Record]) -> bytes:
    """A whole file."""
    file = io.BytesIO()
    writer = Writer(file, header)
    for record in records:
        writer.add(record)
    writer.close()
    return file.getvalue()


def pack_header(header: Header) -> bytes:
    """
    Raises:
        ValueError: a name or metadata that are too long, or metadata that are no JSON.
    """
    name = header.model.encode()
    try:
        text = json.dumps(header.metadata, allow_nan=False, separators=(",", ":")).encode() if header.metadata else b""
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the metadata cannot be written as JSON ({error}); give text, finite numbers and lists."
        ) from None
    if not 0 < len(name) <= MAX_NAME or len(text) > MAX_METADATA:
        raise ValueError(
            f"the model's name has {len(name)} bytes and the metadata {len(text)}; at most {MAX_NAME} and "
            f"{MAX_METADATA} are possible, so shorten them."
        )
    start = _START.pack(MAGIC, VERSION, len(name)) + name + header.fingerprint + _LENGTH.pack(len(text)) + text
    return start + _LENGTH.pack(zlib.crc32(start))


def pack_record(record: Record) -> bytes:
    """
    Raises:
        ValueError: a size beyond the limits.
    """
    check_size(record.width, record.height)
    head = _RECORD.pack(
        RECORD, record.views, record.channels, record.level, record.width, record.height, len(record.streams)
    )
    head += b"".join(_STREAM.pack(len(stream.payload), stream.check) for stream in record.streams)
    payload = b"".join(stream.payload for stream in record.streams)
    return head + _LENGTH.pack(zlib.crc32(head)) + payload + _LENGTH.pack(zlib.crc32(payload))


def check_size(width: int, height: int) -> None:
    """
    Raises:
        ValueError: beyond the limits of the format.
    """
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise ValueError(
            f"a view has {width}x{height} pixels; the format allows 1 to {MAX_SIDE} a side and {MAX_PIXELS} in all, so "
            "cut it into parts."
        )


# --- reading


class Reader:
    """Reads a file: its header at once, its records when they are asked for.

    Args:
        file: opened for reading in binary, or the bytes.

    Attributes:
        header: of the file.
        offsets: where the whole records begin.
        end: where the last of them ends.
        damage: a sentence where bytes behind the last whole record were given up, else empty.

    Raises:
        ValueError: not such a file, of a later version, with a damaged header, or without a whole record.
    """

    def __init__(self, file: BinaryIO | bytes) -> None:
        self._file = io.BytesIO(file) if isinstance(file, bytes) else file
        self._size = self._file.seek(0, io.SEEK_END)
        self.damage = ""
        self.header, first = self._read_header()
        indexed = self._read_index(first)
        if indexed is not None:
            self.offsets, self.end = indexed
            return
        self.offsets, self.end = self._walk(first)
        if not self.offsets:
            raise ValueError(self.damage or "the file holds no pair; it was cut short, copy or encode it again.")

    def __len__(self) -> int:
        return len(self.offsets)

    def record(self, number: int) -> Record:
        """A record, from 0 on.

        Raises:
            IndexError: there are not as many.
            ValueError: it is damaged.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"there is no pair {number}; the file holds pairs 0 to {len(self) - 1}.")
        head, lengths, start = self._head(self.offsets[number])
        self._file.seek(start)
        payload = self._file.read(sum(lengths))
        (check,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if zlib.crc32(payload) != check:
            raise ValueError(f"the data of pair {number} do not match their checksum; copy or encode the file again.")
        streams, position = [], 0
        for length, stream in zip(lengths, head.streams, strict=True):
            streams.append(Stream(payload[position : position + length], stream.check))
            position += length
        return Record(head.views, head.channels, head.level, head.width, head.height, tuple(streams))

    def _read_header(self) -> tuple[Header, int]:
        self._file.seek(0)
        start = self._file.read(_START.size)
        if not start:
            raise ValueError("the file is empty; copy or encode it again.")
        if start[: len(MAGIC)] != MAGIC:
            raise ValueError("the file is no .stz file, because it does not start as one; check which file it is.")
        if len(start) < _START.size:
            raise ValueError(CUT_SHORT)
        _, version, length = _START.unpack(start)
        if version != VERSION:
            raise ValueError(
                f"the file has version {version} of the format and this program reads version {VERSION}; update "
                "stereopsis."
            )
        rest = self._exactly(length + FINGERPRINT + _LENGTH.size)
        (metadata_length,) = _LENGTH.unpack(rest[-_LENGTH.size :])
        if metadata_length > MAX_METADATA:
            raise ValueError(
                f"the header states {metadata_length} bytes of metadata, more than {MAX_METADATA}; {DAMAGED}"
            )
        text = self._exactly(metadata_length)
        (check,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if zlib.crc32(start + rest + text) != check:
            raise ValueError(f"the header does not match its checksum; {DAMAGED}")
        try:
            name = rest[:length].decode()
            metadata = json.loads(text) if text else {}
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the header cannot be read ({type(error).__name__}); {DAMAGED}") from None
        if not isinstance(metadata, dict):
            raise ValueError(f"the metadata are no JSON object; {DAMAGED}")
        return Header(name, rest[length : length + FINGERPRINT], metadata), self._file.tell()

    def _read_index(self, first: int) -> tuple[list[int], int] | None:
        """Offsets and the end of the records, None where there is no index that can be trusted."""
        if self._size - first < _INDEX_END.size:
            return None
        self._file.seek(self._size - _INDEX_END.size)
        check, length, magic = _INDEX_END.unpack(self._file.read(_INDEX_END.size))
        if magic != INDEX_MAGIC or not _INDEX.size + _INDEX_END.size <= length <= self._size - first:
            return None
        self._file.seek(self._size - length)
        content = self._file.read(length - _INDEX_END.size)
        tag, count = _INDEX.unpack_from(content)
        if zlib.crc32(content) != check or tag != INDEX or len(content) != _INDEX.size + 8 * count:
            return None
        offsets = list(struct.unpack_from(f"<{count}Q", content, _INDEX.size))
        if count < 1 or any(not first <= offset < self._size - length for offset in offsets):
            return None
        return offsets, self._size - length

    def _walk(self, position: int) -> tuple[list[int], int]:
        offsets: list[int] = []
        while position < self._size:
            self._file.seek(position)
            if offsets and self._file.read(1) == INDEX:
                self.damage = "the index is damaged; the pairs were found without it."
                break
            try:
                _, lengths, start = self._head(position)
            except ValueError as error:
                self.damage = str(error)
                break
            offsets.append(position)
            position = start + sum(lengths) + _LENGTH.size
        return offsets, position

    def _head(self, position: int) -> tuple[Record, list[int], int]:
        """A record without its payloads, their lengths, and where they start; the whole record is there."""
        self._file.seek(position)
        head = self._exactly(_RECORD.size)
        tag, views, channels, level, width, height, count = _RECORD.unpack(head)
        if tag != RECORD or not 1 <= count <= MAX_STREAMS:
            raise ValueError(f"no pair begins at byte {position}; {DAMAGED}")
        head += self._exactly(count * _STREAM.size)
        (check,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if zlib.crc32(head) != check:
            raise ValueError(f"the sizes of the pair at byte {position} do not match their checksum; {DAMAGED}")
        check_size(width, height)
        if views not in (1, 2) or channels not in (1, 3):
            raise ValueError(f"the pair at byte {position} has {views} views of {channels} channels; {DAMAGED}")
        streams = [_STREAM.unpack_from(head, _RECORD.size + number * _STREAM.size) for number in range(count)]
        lengths = [length for length, _ in streams]
        start = self._file.tell()
        if start + sum(lengths) + _LENGTH.size > self._size:
            raise ValueError(CUT_SHORT)
        empty = tuple(Stream(b"", stream_check) for _, stream_check in streams)
        return Record(views, channels, level, width, height, empty), lengths, start

    def _exactly(self, count: int) -> bytes:
        content = self._file.read(count)
        if len(content) < count:
            raise ValueError(CUT_SHORT)
        return content


DAMAGED = "the file is damaged, copy or encode it again."
CUT_SHORT = "the file ends in the middle of a pair; it was cut short, copy or encode it again."


def _record_head_size(streams: int) -> int:
    return _RECORD.size + streams * _STREAM.size + _LENGTH.size
