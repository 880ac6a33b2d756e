"""Files of earlier versions decode to the symbols that they were written from, on every machine."""

import json
import sys
from pathlib import Path

import pytest
import torch

import stereopsis
from stereopsis.compression.bitstream import Reader
from stereopsis.compression.hyperprior import Hyperprior
from stereopsis.compression.hyperprior2 import Hyperprior2
from stereopsis.types import StereoPair
from stereopsis.zoo import read_weights

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent / "compression"))
from tiny import NAME, NAME2, TINY, TINY2  # noqa: E402

EXPECTED = json.loads((FOLDER / "expected.json").read_text())
SECOND = json.loads((FOLDER / "expected2.json").read_text())
SHIPPED = json.loads((FOLDER / "shipped.json").read_text())


@pytest.fixture(scope="module")
def codec() -> Hyperprior:
    codec = Hyperprior(TINY, NAME).eval()
    codec.load_state_dict(read_weights(FOLDER / "weights.safetensors")[0])
    return codec


@pytest.fixture(scope="module")
def second() -> Hyperprior2:
    codec = Hyperprior2(TINY2, NAME2).eval()
    codec.load_state_dict(read_weights(FOLDER / "weights2.safetensors")[0])
    return codec


def _check(codec, name, expected):
    """Decoding compares the symbols with the checksum in the file; the pictures may differ by float noise."""
    content = (FOLDER / f"{name}.stz").read_bytes()
    assert len(Reader(content)) == len(expected)
    for number, known in enumerate(expected):
        decoded = codec.decompress(content, number)
        views = [decoded.left, decoded.right] if isinstance(decoded, StereoPair) else [decoded]
        assert [list(view.shape[1:]) for view in views] == known["shapes"]
        assert [view.mean().item() * 255 for view in views] == pytest.approx(known["means"], abs=0.1)


@pytest.mark.parametrize("name", EXPECTED)
def test_vector(codec, name):
    _check(codec, name, EXPECTED[name])


@pytest.mark.parametrize("layout", ["usual", "plain", "channels last"])
@pytest.mark.parametrize("name", SECOND)
def test_vector_of_the_second_codec(second, name, layout):
    """Also without oneDNN, and with weights in another order in memory."""
    second.to(memory_format=torch.channels_last if layout == "channels last" else torch.contiguous_format)
    with torch.backends.mkldnn.flags(enabled=layout != "plain"):
        _check(second, name, SECOND[name])


@pytest.mark.parametrize("name", SHIPPED)
def test_vector_of_a_shipped_codec(name):
    """A change of a shipped codec's weights makes its users' files unreadable; see make_vectors.py."""
    _check(stereopsis.load(name.rpartition("_q")[0]), name, SHIPPED[name])


def test_header_of_a_vector():
    header = Reader((FOLDER / "odd_q7.5.stz").read_bytes()).header
    assert header.model == NAME
    assert header.metadata["note"] == "odd size"
    assert header.metadata["calibration"]["baseline"] == 0.1
