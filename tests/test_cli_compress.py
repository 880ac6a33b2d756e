"""``stereopsis compress``, ``decompress`` and ``info``."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stereopsis.calibration import read_calibration, write_calibration
from stereopsis.cli import main
from stereopsis.io import read_image, write_image
from stereopsis.types import StereoCalibration
from stereopsis.zoo import list_models, registry, save_weights
from stereopsis.zoo.weights import ModelCard

sys.path.insert(0, str(Path(__file__).parent / "compression"))
from tiny import NAME, TINY, photo, tiny

USE = ["--model", NAME, "--weights", "w.safetensors"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_weights(tmp_path_factory.mktemp("weights") / "w.safetensors", tiny(), ModelCard("hyperprior"))


@pytest.fixture
def folder(tmp_path, monkeypatch, weights):
    """A small codec under a name, a pair, a sequence of three and broken files; tests run inside it."""
    from stereopsis.compression.hyperprior import Hyperprior

    list_models()
    entry = registry.ModelEntry(NAME, "compression", "hyperprior", lambda: Hyperprior(TINY, NAME), "", TINY)
    monkeypatch.setitem(registry._entries, NAME, entry)
    monkeypatch.chdir(tmp_path)
    Path("w.safetensors").write_bytes(weights.read_bytes())
    write_image("left.png", photo(40, 60))
    write_image("right.png", photo(40, 60, 1.0))
    for view, phase in (("left", 0.0), ("right", 1.0)):
        Path("drive", view).mkdir(parents=True)
        for number in range(3):
            write_image(f"drive/{view}/{number}.png", photo(40, 60 + number, phase + number))
    write_calibration(StereoCalibration(50, 50, 30, 20, 30, 0.1, width=60, height=40), "calib.txt")
    Path("foreign.stz").write_bytes(b"GIF89a" + bytes(100))
    Path("empty.stz").write_bytes(b"")
    return tmp_path


def _json(capsys):
    return json.loads(capsys.readouterr().out)


def test_a_pair_there_and_back(folder, capsys):
    assert main(["compress", "left.png", "right.png", "--out", "new/pair.stz", "--quality", "6", *USE, "--json"]) == 0
    row = _json(capsys)["pairs"][0]
    size = Path("new/pair.stz").stat().st_size
    assert row["bytes"] == size
    assert row["bpp"] == pytest.approx(8 * size / (2 * 40 * 60))
    assert row["quality"] == 6
    assert main(["decompress", "new/pair.stz", "--out", "back", "--weights", "w.safetensors", "--json"]) == 0
    assert _json(capsys)["pairs"][0]["files"] == ["back/left.png", "back/right.png"]
    codec = tiny()
    expected = codec.decompress(Path("new/pair.stz").read_bytes())
    assert (read_image("back/left.png") - expected.left[0]).abs().max() < 2 / 255
    assert read_image("back/right.png").shape == (3, 40, 60)


def test_a_sequence_with_its_calibration(folder, capsys):
    arguments = ["compress", "drive/left", "drive/right", "--out", "drive.stz", "--calibration", "calib.txt"]
    assert main([*arguments, *USE]) == 0
    assert "drive.stz" in capsys.readouterr().out
    assert main(["info", "drive.stz", "--json"]) == 0
    facts = _json(capsys)
    assert [row["width"] for row in facts["pairs"]] == [60, 61, 62]
    assert facts["model"] == NAME
    assert facts["bytes"] == Path("drive.stz").stat().st_size
    assert main(["info", "drive.stz"]) == 0
    assert "61x40" in capsys.readouterr().out
    assert main(["decompress", "drive.stz", "--out", "back", "--weights", "w.safetensors"]) == 0
    assert sorted(str(p) for p in Path("back").rglob("*.png")) == [
        f"back/{view}/{number:06d}.png" for view in ("left", "right") for number in range(3)
    ]
    assert read_calibration("back").baseline == pytest.approx(0.1)
    capsys.readouterr()
    Path("back/right/000001.png").unlink()
    assert main(["decompress", "drive.stz", "--out", "back", "--weights", "w.safetensors", "--json"]) == 0
    again = _json(capsys)
    assert [row["index"] for row in again["pairs"]] == [1]
    assert again["skipped"] == 2
    assert main(["decompress", "drive.stz", "--out", "one", "--index", "2", "--weights", "w.safetensors"]) == 0
    assert np.array_equal(read_image("one/left.png"), read_image("back/left/000002.png"))


def test_appending(folder, capsys):
    assert main(["compress", "left.png", "right.png", "--out", "a.stz", *USE]) == 0
    assert main(["compress", "drive", "--out", "a.stz", "--append", *USE]) == 0
    capsys.readouterr()
    assert main(["info", "a.stz", "--json"]) == 0
    assert len(_json(capsys)["pairs"]) == 4


def test_a_cut_sequence_gives_its_whole_pairs(folder, capsys):
    assert main(["compress", "drive", "--out", "drive.stz", *USE]) == 0
    content = Path("drive.stz").read_bytes()
    Path("drive.stz").write_bytes(content[: len(content) * 9 // 10])
    assert main(["decompress", "drive.stz", "--out", "back", "--weights", "w.safetensors"]) == 0
    assert "cut short" in capsys.readouterr().err
    assert len(list(Path("back").rglob("*.png"))) == 4


def test_one_damaged_pair_does_not_hide_the_others(folder, capsys):
    from stereopsis.compression.bitstream import Reader

    assert main(["compress", "drive", "--out", "drive.stz", *USE]) == 0
    content = bytearray(Path("drive.stz").read_bytes())
    content[Reader(bytes(content)).offsets[1] + 60] ^= 255
    Path("drive.stz").write_bytes(content)
    assert main(["decompress", "drive.stz", "--out", "back", "--weights", "w.safetensors"]) == 1
    printed = capsys.readouterr().err
    assert "stereopsis: 000001: " in printed
    assert "1 of 3 pairs failed; the others are written." in printed
    assert len(list(Path("back").rglob("*.png"))) == 4


def test_grey_stays_grey(folder, capsys):
    for name in ("left", "right"):
        write_image(f"grey_{name}.png", photo(40, 60)[:, :1])
    assert main(["compress", "grey_left.png", "grey_right.png", "--out", "g.stz", *USE, "--json"]) == 0
    assert _json(capsys)["pairs"][0]["channels"] == 1
    assert main(["decompress", "g.stz", "--out", "back", "--weights", "w.safetensors"]) == 0
    assert read_image("back/left.png", channels=None).shape[0] == 1


def test_a_rate(folder, capsys):
    sizes = {}
    for quality in (1, 8):
        assert (
            main(
                ["compress", "left.png", "right.png", "--out", "p.stz", "--quality", str(quality), "--overwrite", *USE]
            )
            == 0
        )
        sizes[quality] = 8 * Path("p.stz").stat().st_size / (2 * 40 * 60)
    target = (sizes[1] + sizes[8]) / 2
    words = ["compress", "left.png", "right.png", "--out", "p.stz", "--target-bpp", str(target), *USE]
    before = Path("p.stz").read_bytes()
    assert main(words) == 2
    assert "p.stz exists already and would be replaced" in capsys.readouterr().err
    assert Path("p.stz").read_bytes() == before
    assert main([*words, "--overwrite"]) == 0
    assert sizes[1] <= 8 * Path("p.stz").stat().st_size / (2 * 40 * 60) <= target
    capsys.readouterr()
    assert main(["compress", "left.png", "right.png", "--out", "q.stz", "--target-bpp", "0.001", *USE]) == 2
    assert "too few, since quality 1 takes" in capsys.readouterr().err
    assert not Path("q.stz").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("compress left.png right.png --out p.jpg", "must end in .stz"),
        ("compress left.png right.png --out p.stz --quality 9", "quality is 9; it must lie in 1 to 8"),
        ("compress left.png right.png --out p.stz --quality 2 --target-bpp 1", "exclude each other"),
        ("compress left.png right.png --out p.stz --target-bpp 0", "must be above 0"),
        ("compress left.png missing.png --out p.stz", "missing.png"),
        ("compress left.png right.png --out p.stz --model sgbm", "sgbm does not compress; choose one of dsic"),
        ("compress left.png right.png --out p.stz --model hyperprior", "hyperprior has no shipped weights"),
        (
            f"compress left.png right.png --out p.stz --model {NAME} --weights w.safetensors --append",
            "there is no file",
        ),
        ("compress left.png right.png --out p.stz --append --calibration calib.txt", "leave one out"),
        ("decompress foreign.stz --out back", "foreign.stz: the file is no .stz file"),
        ("decompress empty.stz --out back", "empty.stz: the file is empty"),
        ("decompress missing.stz --out back", "there is no file missing.stz"),
        ("info foreign.stz", "foreign.stz: the file is no .stz file"),
        ("info missing.stz", "there is no file missing.stz"),
    ],
)
def test_bad_input_is_one_sentence(folder, capsys, arguments, message):
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("p.stz").exists()
    assert not Path("back").exists()


def test_wrong_weights_and_pairs_that_are_not_there(folder, capsys):
    assert main(["compress", "left.png", "right.png", "--out", "p.stz", *USE]) == 0
    codec = tiny()
    with torch.no_grad():
        codec.g_s[0].bias.add_(1)
    save_weights("other.safetensors", codec, ModelCard("hyperprior"))
    capsys.readouterr()
    assert main(["decompress", "p.stz", "--out", "back", "--weights", "other.safetensors"]) == 2
    assert "give the weights it was written with" in capsys.readouterr().err
    assert main(["decompress", "p.stz", "--out", "back", "--index", "3", "--weights", "w.safetensors"]) == 2
    assert "there is no pair 3; the file holds pairs 0 to 0" in capsys.readouterr().err
    assert (
        main(["compress", "drive", "--out", "p.stz", "--append", "--model", NAME, "--weights", "other.safetensors"])
        == 2
    )
    assert "give the weights it was written with" in capsys.readouterr().err


def test_the_shipped_codec(folder, capsys):
    assert main(["compress", "left.png", "right.png", "--out", "p.stz", "--quality", "4"]) == 0
    assert main(["decompress", "p.stz", "--out", "back"]) == 0
    error = (read_image("back/left.png") - read_image("left.png")).square().mean()
    assert -10 * error.log10() > 20
