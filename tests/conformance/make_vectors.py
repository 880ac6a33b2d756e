"""Writes the conformance vectors of this folder: ``python tests/conformance/make_vectors.py [shipped | second]``.

The vectors fix the format. A later version must decode them as they are, so run this only to add files for a new
version of the format, never to make a failing test pass. ``weights.safetensors`` holds the small codec whose symbols
they are. With ``shipped`` it writes instead those of the codecs whose weights come with the package, which a codec that
is trained again needs anew, and its users as well: that is a change for the CHANGELOG. With ``second`` it writes those
of a small codec of the second kind, ``weights2.safetensors``.
"""

import json
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent / "compression"))

from tiny import NAME, NAME2, TINY, TINY2, photo, tiny, tiny2  # noqa: E402

from stereopsis import load  # noqa: E402
from stereopsis.compression.bitstream import Reader, pack  # noqa: E402
from stereopsis.compression.codec import PairCodec  # noqa: E402
from stereopsis.compression.hyperprior import Hyperprior  # noqa: E402
from stereopsis.compression.hyperprior2 import Hyperprior2  # noqa: E402
from stereopsis.types import StereoCalibration, StereoPair  # noqa: E402
from stereopsis.zoo import ModelCard, read_weights, save_weights  # noqa: E402

SHIPPED = ("hyperprior.photos", "dsic.scenes", "ffca.scenes", "ffca.depth")


def _facts(decoded: StereoPair | torch.Tensor) -> dict[str, list]:
    views = [decoded.left, decoded.right] if isinstance(decoded, StereoPair) else [decoded]
    return {"shapes": [list(view.shape[1:]) for view in views], "means": [view.mean().item() * 255 for view in views]}


def shipped() -> None:
    """A pair of odd size by every codec of the package, at a low and a high quality."""
    left = photo(85, 122)
    right = torch.cat([left[..., 9:], photo(85, 9, 2.0)], -1)
    expected = {}
    for name in SHIPPED:
        codec = load(name)
        for quality in (2, 6.5):
            content = codec.compress(StereoPair(left, right), quality)
            vector = f"{name}_q{quality}"
            (FOLDER / f"{vector}.stz").write_bytes(content)
            expected[vector] = [_facts(codec.decompress(content))]
    (FOLDER / "shipped.json").write_text(json.dumps(expected, indent=1) + "\n")


def second() -> None:
    """An odd pair, gray and dark images of 16 bits, and one with escapes by the second hyperprior codec."""
    weights = FOLDER / "weights2.safetensors"
    save_weights(weights, tiny2(), ModelCard("hyperprior2", model=NAME2, data="none, random numbers"))
    codec = Hyperprior2(TINY2, NAME2).eval()
    codec.load_state_dict(read_weights(weights)[0])

    odd = StereoPair(photo(37, 51), photo(37, 51, 1.0))
    dark = (photo(48, 64) * 4095).round() / 65535
    files = {
        "second_odd_q2": codec.compress(odd, 2),
        "second_odd_q7.5": codec.compress(odd, 7.5),
        "second_grey_q4": codec.compress(photo(48, 64)[:, :1], 4),
        "second_dark_q5": codec.compress(StereoPair(dark[:, :1], dark[:, 1:2]), 5),
        "second_escapes_q8": codec.compress(1 - photo(48, 64).round(), 8),
    }
    _write(files, codec, "expected2.json")


def main() -> None:
    weights = FOLDER / "weights.safetensors"
    save_weights(weights, tiny(), ModelCard("hyperprior", model=NAME, data="none, random numbers"))
    codec = Hyperprior(TINY, NAME).eval()
    codec.load_state_dict(read_weights(weights)[0])

    even = StereoPair(photo(48, 64), photo(48, 64, 1.0))
    odd = StereoPair(photo(37, 51), photo(37, 51, 1.0), StereoCalibration(60, 60, 25, 18, 25, 0.1, width=51, height=37))
    grey = StereoPair(photo(48, 64)[:, :1], photo(48, 64, 1.0)[:, :1])
    extreme = StereoPair(1 - even.left.round(), even.right.round())
    files = {
        "pair_q2": codec.compress(even, 2),
        "pair_q7.5": codec.compress(even, 7.5),
        "odd_q2": codec.compress(odd, 2),
        "odd_q7.5": codec.compress(odd, 7.5, metadata={"note": "odd size"}),
        "grey_q4": codec.compress(grey, 4),
        "image_q4": codec.compress(even.left, 4),
        "escapes_q8": codec.compress(extreme, 8),
        "sequence": pack(codec.header(even), [codec.compress_record(pair, 3) for pair in (even, odd, grey)]),
    }
    _write(files, codec, "expected.json")


def _write(files: dict[str, bytes], codec: PairCodec, facts: str) -> None:
    expected = {}
    for name, content in files.items():
        (FOLDER / f"{name}.stz").write_bytes(content)
        expected[name] = [_facts(codec.decompress(content, number)) for number in range(len(Reader(content)))]
    (FOLDER / facts).write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"shipped": shipped, "second": second}.get("".join(sys.argv[1:]), main)()
