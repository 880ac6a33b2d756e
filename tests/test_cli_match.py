"""``stereopsis match`` on files, folders and globs."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from views import shifted_pair

import stereopsis
from stereopsis.cli import main
from stereopsis.io import read_disparity, write_image


@pytest.fixture
def pair(tmp_path):
    """Two files of a plane 11 px away, and a folder to write to."""
    for name, view in zip(("left", "right"), shifted_pair(11), strict=True):
        write_image(tmp_path / f"{name}.png", view)
    return [str(tmp_path / "left.png"), str(tmp_path / "right.png")]


@pytest.fixture
def folders(tmp_path):
    """Two folders of three pairs, 5, 8 and 11 px away."""
    for number, shift in enumerate((5, 8, 11)):
        for side, view in zip(("left", "right"), shifted_pair(shift, seed=number), strict=True):
            (tmp_path / side).mkdir(exist_ok=True)
            write_image(tmp_path / side / f"{number}.png", view)
    return [str(tmp_path / "left"), str(tmp_path / "right")]


@pytest.mark.parametrize("suffix", ["pfm", "png", "npy"])
def test_a_pair(pair, tmp_path, capsys, suffix):
    out = tmp_path / "new" / f"out.{suffix}"
    assert main(["match", *pair, "--out", str(out), "--model", "sgbm", "--max-disparity", "32"]) == 0
    disparity, valid = read_disparity(out)
    assert disparity[valid].median() == pytest.approx(11, abs=0.1)
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{out}  ")
    assert printed.err == ""


def test_json_and_the_other_files(pair, tmp_path, capsys):
    extra = ["--confidence", str(tmp_path / "c.png"), "--preview", str(tmp_path / "p" / "p.jpg")]
    arguments = ["match", *pair, "--out", str(tmp_path / "o.npy"), "--model", "bm", "--fill", "--json"]
    assert main([*arguments, "--max-disparity", "32", *extra]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["model"] == "bm"
    assert result["failed"] == []
    (row,) = result["pairs"]
    assert row["disparity"]["median"] == pytest.approx(11, abs=0.1)
    assert row["disparity"]["valid"] == 1
    assert (row["width"], row["height"], row["warnings"]) == (160, 96, [])
    with Image.open(tmp_path / "c.png") as picture:
        assert (picture.mode, picture.size) == ("L", (160, 96))
    with Image.open(tmp_path / "p" / "p.jpg") as picture:
        assert (picture.mode, picture.size) == ("RGB", (160, 96))


def test_the_network_and_its_precision(pair, tmp_path):
    maps = []
    for dtype in ("float32", "bfloat16"):
        out = tmp_path / f"{dtype}.npy"
        assert main(["match", *pair, "--out", str(out), "--dtype", dtype, "--max-disparity", "32"]) == 0
        maps.append(read_disparity(out)[0])
    expected = stereopsis.match(*pair, max_disparity=32, dtype=torch.float32).disparity[0]
    assert torch.allclose(maps[0], expected, atol=1e-4)
    assert not torch.equal(*maps)


def test_folders(folders, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["match", *folders, "--out", str(out), "--model", "sgbm", "--max-disparity", "32", "--format", "npy"]
    assert main([*arguments, "--preview", str(out), "--confidence", str(tmp_path / "c")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    for number, shift in enumerate((5, 8, 11)):
        disparity, valid = read_disparity(out / f"{number}.npy")
        assert disparity[valid].median() == pytest.approx(shift, abs=0.1)
    assert {path.name for path in out.glob("*.png")} == {f"{n}_preview.png" for n in range(3)}
    assert len(list((tmp_path / "c").iterdir())) == 3


def test_globs(folders, tmp_path):
    globs = [f"{folder}/[02].png" for folder in folders]
    assert main(["match", *globs, "--out", str(tmp_path / "out"), "--model", "bm", "--max-disparity", "32"]) == 0
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {"0.pfm", "2.pfm"}


def test_a_corrupt_pair_is_reported_and_the_rest_is_done(folders, tmp_path, capsys):
    path = tmp_path / "right" / "1.png"
    path.write_bytes(path.read_bytes()[:200])
    out = tmp_path / "out"
    assert main(["match", *folders, "--out", str(out), "--model", "bm", "--json"]) == 1
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert [row["name"] for row in result["pairs"]] == ["0", "2"]
    assert [row["name"] for row in result["failed"]] == ["1"]
    assert "cannot be read as an image" in result["failed"][0]["error"]
    assert f"1: {path} cannot be read" in printed.err
    assert "1 of 3 pairs failed" in printed.err
    assert {path.name for path in out.glob("[!.]*")} == {"0.pfm", "2.pfm"}


def test_swapped_views_are_a_warning(pair, tmp_path, capsys):
    arguments = ["match", *reversed(pair), "--out", str(tmp_path / "o.npy"), "--model", "bm", "--json"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "warning: right.png: The views are swapped" in printed.err
    assert "swapped" in json.loads(printed.out)["pairs"][0]["warnings"][0]


def test_views_that_are_not_rectified_are_a_warning(pair, tmp_path, capsys):
    with Image.open(pair[1]) as picture:
        write_image(tmp_path / "low.png", np.roll(np.asarray(picture), 6, axis=0))
    assert main(["match", pair[0], str(tmp_path / "low.png"), "--out", str(tmp_path / "o.npy"), "--model", "bm"]) == 0
    assert "warning: left.png: The views are not rectified" in capsys.readouterr().err


def test_what_does_not_fit_a_png_is_refused_whole(tmp_path, capsys):
    for name, view in zip(("left", "right"), shifted_pair(270, 96, 700), strict=True):
        write_image(tmp_path / f"{name}.png", view)
    pair = [str(tmp_path / "left.png"), str(tmp_path / "right.png")]
    out = ["--out", str(tmp_path / "o.png"), "--preview", str(tmp_path / "p.png")]
    assert main(["match", *pair, *out, "--model", "sgbm", "--max-disparity", "320"]) == 2
    assert "write .pfm or .npy instead" in capsys.readouterr().err
    assert not (tmp_path / "o.png").exists()
    assert not (tmp_path / "p.png").exists()


def test_imported_official_weights_on_a_real_pair(shared_data, tmp_path, capsys):
    checkpoint = shared_data("weights/hitnet/eth3d.pb")
    folder = shared_data("data/stereo/middlebury2003/cones")
    weights = tmp_path / "w" / "eth3d.safetensors"
    assert main(["import", str(checkpoint), "--architecture", "hitnet.eth3d", "--out", str(weights), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 655_723
    for name in ("left", "right"):
        with Image.open(folder / f"cones_{name}.png") as picture:
            picture.convert("L").save(tmp_path / f"{name}.png")
    out = tmp_path / "cones.pfm"
    pair = [str(tmp_path / "left.png"), str(tmp_path / "right.png")]
    assert main(["match", *pair, "--out", str(out), "--model", "hitnet.eth3d", "--weights", str(weights)]) == 0
    disparity, _ = read_disparity(out)
    truth, known = read_disparity(folder / "cones_disparity_left.png", divide_by=4)
    assert disparity.shape == (1, 375, 450)
    assert (disparity - truth)[known].abs().mean() < 1.0
