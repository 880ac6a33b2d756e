"""The container: what is written is read, and nothing else is."""

import io
import struct
import time
import tracemalloc
import zlib

import pytest

from stereopsis.compression.bitstream import (
    MAGIC,
    MAX_METADATA,
    Header,
    Reader,
    Record,
    Stream,
    Writer,
    pack,
    pack_header,
    pack_record,
)

HEADER = Header("hyperprior.test", bytes(range(8)), {"note": "a"})


def _record(number: int = 0) -> Record:
    streams = (Stream(bytes([number, 1, 2, 3]) * 5, 17 + number), Stream(b"", 3))
    return Record(2, 3, number, 640, 480 - number, streams)


def _sequence(count: int = 3) -> bytes:
    return pack(HEADER, [_record(number) for number in range(count)])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_what_is_written_is_read(count):
    reader = Reader(_sequence(count))
    assert reader.header == HEADER
    assert [reader.record(number) for number in range(len(reader))] == [_record(n) for n in range(count)]
    assert reader.damage == ""
    assert len(pack_record(_record())) == _record().bytes


def test_random_access_reads_one_record(tmp_path):
    path = tmp_path / "long.stz"
    path.write_bytes(_sequence(50))
    with path.open("rb") as file:
        reader = Reader(file)
        assert reader.record(49) == _record(49)
        with pytest.raises(IndexError, match="there is no pair 50; the file holds pairs 0 to 49"):
            reader.record(50)


def test_appending_gives_the_same_file(tmp_path):
    path = tmp_path / "grown.stz"
    path.write_bytes(_sequence(1))
    for number in (1, 2):
        with path.open("r+b") as file:
            writer = Writer(file, None)
            assert writer.header == HEADER
            writer.add(_record(number))
            writer.close()
    assert path.read_bytes() == _sequence(3)


def test_every_cut_leaves_the_whole_pairs():
    content = _sequence(3)
    ends = [len(pack_header(HEADER)) + sum(_record(k).bytes for k in range(n)) for n in range(4)]
    for cut in range(len(content)):
        whole = sum(cut >= end for end in ends[1:])
        if whole == 0:
            with pytest.raises(ValueError, match=r"cut short|empty|no pair|no \.stz file"):
                Reader(content[:cut])
            continue
        reader = Reader(content[:cut])
        assert [reader.record(number) for number in range(len(reader))] == [_record(n) for n in range(whole)]
        assert bool(reader.damage) == (cut not in ends)


def test_a_cut_file_can_go_on(tmp_path):
    path = tmp_path / "cut.stz"
    path.write_bytes(_sequence(3)[:-60])
    with path.open("r+b") as file:
        writer = Writer(file, None)
        writer.add(_record(2))
        writer.close()
    assert path.read_bytes() == _sequence(3)


def test_a_damaged_index_is_done_without():
    content = bytearray(_sequence(3))
    content[-20] ^= 1
    reader = Reader(bytes(content))
    assert len(reader) == 3
    assert "index is damaged" in reader.damage


def test_every_flipped_bit_of_a_pair_is_noticed():
    content, start = _sequence(1), len(pack_header(HEADER))
    for byte in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[byte] ^= 1 << bit
            with pytest.raises(ValueError):
                Reader(bytes(changed)).record(0)
    assert start < len(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), r"is no \.stz file"),
        (b"\x80\x04\x95", r"is no \.stz file"),
        (MAGIC, "cut short"),
        (MAGIC + b"\x02\x01a" + bytes(100), "version 2 of the format and this program reads version 1; update"),
        (MAGIC + b"\x01\x01a" + bytes(8) + b"\xff\xff\xff\xff", "4294967295 bytes of metadata"),
        (pack_header(HEADER), "holds no pair"),
        (pack_header(HEADER) + bytes(200), "no pair begins at byte"),
        (pack_header(HEADER)[:-1] + b"\x00" + bytes(9), "header does not match its checksum"),
    ],
)
def test_what_is_no_file(content, message):
    with pytest.raises(ValueError, match=message):
        Reader(content)


def _forged(head: bytes) -> bytes:
    """A file with one record of this head, whose checksum is right."""
    return pack_header(HEADER) + head + struct.pack("<I", zlib.crc32(head)) + bytes(64)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (struct.pack("<cBBBHHBII", b"P", 2, 3, 0, 65535, 65535, 1, 8, 0), "65535x65535 pixels; the format allows"),
        (struct.pack("<cBBBHHBII", b"P", 2, 3, 0, 16384, 16384, 1, 8, 0), "16384x16384 pixels"),
        (struct.pack("<cBBBHHBII", b"P", 2, 3, 0, 0, 5, 1, 8, 0), "0x5 pixels"),
        (struct.pack("<cBBBHHBII", b"P", 2, 3, 0, 64, 64, 1, 2**32 - 1, 0), "ends in the middle of a pair"),
        (struct.pack("<cBBBHHB", b"P", 2, 3, 0, 64, 64, 255), "no pair begins"),
        (struct.pack("<cBBBHHBII", b"P", 9, 3, 0, 64, 64, 1, 8, 0), "9 views of 3 channels"),
    ],
)
def test_forged_sizes_end_at_once_and_in_little_memory(head, message):
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(ValueError, match=message):
        Reader(_forged(head))
    assert time.process_time() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_forged_index_is_not_believed():
    content = pack_header(HEADER) + pack_record(_record())
    start = struct.pack("<cI", b"I", 2**31)
    forged = content + start + struct.pack("<II4s", zlib.crc32(start), 17, b"STZI")
    assert len(Reader(forged)) == 1


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (Header("", bytes(8)), "name has 0 bytes"),
        (Header("m" * 65, bytes(8)), "name has 65 bytes"),
        (Header("m", bytes(8), {"a": "x" * MAX_METADATA}), "shorten them"),
        (Header("m", bytes(8), {"a": float("nan")}), "cannot be written as JSON"),
        (Header("m", bytes(8), {"a": io}), "cannot be written as JSON"),
    ],
)
def test_headers_that_cannot_be_written(header, message):
    with pytest.raises(ValueError, match=message):
        pack_header(header)


def test_metadata_that_are_no_object():
    start = MAGIC + b"\x01\x01m" + bytes(8) + struct.pack("<I", 2) + b"[]"
    content = start + struct.pack("<I", zlib.crc32(start)) + pack_record(_record())
    with pytest.raises(ValueError, match="no JSON object"):
        Reader(content)
