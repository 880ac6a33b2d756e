"""Depth as ROS's ``compressed_depth_image_transport`` packs it: PNG or RVL, whole millimetres or inverse metres.

A message is a header of 12 bytes (int32, float32 A, float32 B) and a PNG, or the header, width and height as int32, and
a stream of RVL. For ``32FC1`` a code q stands for ``A / (q - B)`` metres and 0 for none. RVL is the run-length code of
Wilson, "Fast Lossless Depth Image Compression", ISS 2017.
"""

from __future__ import annotations

import struct

import numpy as np
from jaxtyping import Float32, Int64, UInt16

HEADER = struct.Struct("<iff")
SIZE = struct.Struct("<ii")
MOST_PIXELS = 2**28


def is_rvl(format: str) -> bool:
    """Whether a message's ``format`` names RVL."""
    return "rvl" in format.lower()


def metres_of_codes(codes: UInt16[np.ndarray, "h w"], header: bytes, where: str) -> Float32[np.ndarray, "h w"]:
    """Metres of the codes of a ``32FC1`` message; 0 where there is none.

    Raises:
        ValueError: a header without the two numbers of the code.
    """
    if len(header) < HEADER.size:
        raise ValueError(f"{where} ends within its header; record it again.")
    _, a, b = HEADER.unpack_from(header)
    if not (np.isfinite(a) and np.isfinite(b) and a > 0):
        raise ValueError(f"{where} holds the depth code A = {a:g}, B = {b:g}; A must be above 0, so record it again.")
    divisor = codes.astype(np.float64) - b
    known = (codes > 0) & (divisor > 0)
    return np.where(known, a / np.where(known, divisor, 1), 0).astype(np.float32)


def decode_rvl(content: bytes, where: str) -> UInt16[np.ndarray, "h w"]:
    """The codes of an RVL message, its header included.

    Raises:
        ValueError: the message ends early, or states a size that no image has.
    """
    start = HEADER.size + SIZE.size
    if len(content) < start:
        raise ValueError(f"{where} ends within its header; record it again.")
    width, height = SIZE.unpack_from(content, HEADER.size)
    if not (width > 0 and height > 0 and width * height <= MOST_PIXELS):
        raise ValueError(f"{where} states {width}x{height} pixels of RVL; record it again.")
    values = _integers(content[start:])
    pixels: UInt16[np.ndarray, " n"] = np.zeros(width * height, np.int64)
    place, at, last = 0, 0, 0
    while place < pixels.size:
        if at + 1 >= values.size:
            raise ValueError(f"{where} ends after {place} of {pixels.size} pixels of RVL; record it again.")
        zeros, known = int(values[at]), int(values[at + 1])
        at, place = at + 2, place + zeros
        if place + known > pixels.size or at + known > values.size or zeros + known == 0:
            raise ValueError(f"{where} does not decode as RVL at pixel {place}; record it again.")
        steps = values[at : at + known]
        run = last + np.cumsum((steps >> 1) ^ -(steps & 1))
        pixels[place : place + known] = run
        last = int(run[-1]) if known else last
        at, place = at + known, place + known
    return pixels.astype(np.uint16).reshape(height, width)


def _integers(stream: bytes) -> Int64[np.ndarray, " n"]:
    """The whole numbers of the stream: groups of four bits, three of value and one that announces another group."""
    words = np.frombuffer(stream[: len(stream) // 4 * 4], "<u4")
    nibbles = ((words[:, None] >> np.arange(28, -1, -4, dtype=np.uint32)) & 15).ravel().astype(np.int64)
    ends = np.flatnonzero(nibbles < 8)
    if ends.size == 0:
        return np.zeros(0, np.int64)
    nibbles = nibbles[: ends[-1] + 1]
    starts = np.concatenate([[0], ends[:-1] + 1])
    position = np.arange(nibbles.size) - np.repeat(starts, ends - starts + 1)
    shifted = (nibbles & 7) << np.minimum(3 * position, 60)
    return np.add.reduceat(shifted, starts)
