"""Random damage to compressed files, with and without checksums that were made to fit."""

import random
import re
import struct
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from tiny import photo

from stereopsis.compression.bitstream import Header, Reader, Record, Stream, pack, pack_header
from stereopsis.compression.single import HyperpriorCodec
from stereopsis.types import StereoPair


@dataclass
class Result:
    """What became of the changed files.

    Attributes:
        refused: with one sentence.
        harmless: decoded to the picture of the unchanged file (the change fell on metadata or behind the pairs).
        wrong: decoded to another picture.
        uncaught: raised something else than a sentence.
        slowest: seconds of the processor, which a busy machine does not stretch.
    """

    count: int = 0
    refused: int = 0
    harmless: int = 0
    wrong: list[str] = field(default_factory=list)
    uncaught: list[str] = field(default_factory=list)
    slowest: float = 0.0
    sentences: Counter = field(default_factory=Counter)

    def summary(self) -> dict[str, Any]:
        return {
            "mutations": self.count,
            "refused": self.refused,
            "harmless": self.harmless,
            "wrong": self.wrong,
            "uncaught": self.uncaught,
            "slowest_seconds": round(self.slowest, 3),
            "sentences": dict(self.sentences.most_common()),
        }


def fuzz(codec: HyperpriorCodec, count: int, generator: random.Random) -> Result:
    """Changes two files (a pair, a sequence) in this many ways and decodes what comes out."""
    pair = StereoPair(photo(37, 70), photo(37, 70, 1.0))
    header = codec.header(pair, {"note": "fuzz"})
    records = [codec.compress_record(pair, quality) for quality in (2.0, 7.0)]
    files = [pack(header, records[:1]), pack(header, records)]
    truth = [_decoded(codec, file) for file in files]
    kinds = [_flip, _overwrite, _cut, _insert, _remove, _swap]
    result = Result(count=count)
    for number in range(count):
        which = number % 2
        if number % 4 == 3:
            # the attacker who can compute checksums: only the symbols' own are left
            kind, content = "forged", _forge(header, records[0], generator)
        else:
            change = generator.choice(kinds)
            kind, content = change.__name__, change(files[which], generator)
        start = time.process_time()
        try:
            found = _decoded(codec, content)
        except (ValueError, IndexError) as error:
            result.refused += 1
            result.sentences[re.sub(r"\d+|[0-9a-f]{16}|hyper\S*", "_", str(error))] += 1
        except Exception as error:
            result.uncaught.append(f"{kind} {number}: {type(error).__name__}: {error}")
        else:
            same = len(found) <= len(truth[which]) and all(map(_equal, found, truth[which]))
            if same or (kind == "forged" and _equal(found[0], truth[0][0])):
                result.harmless += 1
            else:
                result.wrong.append(f"{kind} {number}")
        result.slowest = max(result.slowest, time.process_time() - start)
    return result


def _decoded(codec: HyperpriorCodec, content: bytes) -> list[StereoPair]:
    reader = Reader(content)
    codec.check_header(reader.header)
    return [codec.decompress_record(reader.record(number), reader.header) for number in range(len(reader))]


def _equal(a: StereoPair, b: StereoPair) -> bool:
    return a.left.shape == b.left.shape and torch.equal(a.left, b.left) and torch.equal(a.right, b.right)


def _flip(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(generator.choice([1, 1, 1, 2, 8])):
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def _overwrite(content: bytes, generator: random.Random) -> bytes:
    start = generator.randrange(len(content))
    return (
        content[:start]
        + generator.randbytes(min(generator.randint(1, 16), len(content) - start))
        + content[start + 16 :]
    )


def _cut(content: bytes, generator: random.Random) -> bytes:
    return content[: generator.randrange(len(content))]


def _insert(content: bytes, generator: random.Random) -> bytes:
    place = generator.randrange(len(content) + 1)
    return content[:place] + generator.randbytes(generator.randint(1, 40)) + content[place:]


def _remove(content: bytes, generator: random.Random) -> bytes:
    start = generator.randrange(len(content))
    return content[:start] + content[start + generator.randint(1, 40) :]


def _swap(content: bytes, generator: random.Random) -> bytes:
    a, b, c = sorted(generator.randrange(len(content) + 1) for _ in range(3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def _forge(header: Header, record: Record, generator: random.Random) -> bytes:
    """Changed payloads, sizes and qualities under right checksums."""
    streams = [Stream(_flip(s.payload, generator), s.check) for s in record.streams]
    width, height = record.width, record.height
    if generator.random() < 0.3:
        width, height = generator.randint(1, 300), generator.randint(1, 300)
    level = generator.choice([record.level, generator.randrange(256)])
    views, channels = generator.choice([(2, 3), (2, 3), (1, 3), (2, 1)])
    head = struct.pack("<cBBBHHB", b"P", views, channels, level, width, height, len(streams))
    head += b"".join(struct.pack("<II", len(s.payload), s.check) for s in streams)
    payload = b"".join(s.payload for s in streams)
    return b"".join(
        [
            pack_header(header),
            head,
            struct.pack("<I", zlib.crc32(head)),
            payload,
            struct.pack("<I", zlib.crc32(payload)),
        ]
    )
