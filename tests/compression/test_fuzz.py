"""The short form of ``benchmarks/fuzz_bitstream.py``."""

import random

from fuzzing import fuzz
from tiny import tiny2


def _check(codec):
    result = fuzz(codec, 300, random.Random(1))
    assert not result.uncaught
    assert not result.wrong
    assert result.refused + result.harmless == 300
    assert result.refused > 200
    assert result.slowest < 1
    assert all("\n" not in sentence and sentence.endswith(".") for sentence in result.sentences)


def test_damage_is_refused_in_one_sentence_or_harmless(codec):
    _check(codec)


def test_damage_is_refused_by_the_second_codec_too():
    _check(tiny2())
