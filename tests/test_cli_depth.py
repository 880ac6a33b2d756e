"""``stereopsis depth`` and ``stereopsis doctor``: what needs a calibration."""

import json
import re

import numpy as np
import pytest
import torch
from views import shifted_pair

from stereopsis.calibration import write_calibration
from stereopsis.calibration.fitting import fit_calibration
from stereopsis.cli import main
from stereopsis.io import read_depth, read_point_cloud, write_image
from stereopsis.types import StereoCalibration

RIG = StereoCalibration(fx=200, fy=200, cx=80, cy=48, cx_right=84, baseline=0.1, width=160, height=96, ndisp=32)
Z = 200 * 0.1 / (11 + 4)


@pytest.fixture
def pair(tmp_path):
    """Two files of a plane 11 px away and the file of their rig: LEFT RIGHT --calibration FILE."""
    for name, view in zip(("left", "right"), shifted_pair(11), strict=True):
        write_image(tmp_path / f"{name}.png", view)
    write_calibration(RIG, tmp_path / "calib.txt")
    return [str(tmp_path / "left.png"), str(tmp_path / "right.png"), "--calibration", str(tmp_path / "calib.txt")]


def test_files(pair, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert main(["depth", *pair, "--out", str(out), "--model", "sgbm", "--fill", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {path.name for path in out.iterdir()} == {"depth.png", "depth.npy", "cloud.ply", "preview.png"}
    assert result["depth"]["median"] == pytest.approx(Z, rel=0.01)
    assert result["points"] == 160 * 96
    metres, valid = read_depth(out / "depth.npy")
    rounded, _ = read_depth(out / "depth.png")
    assert valid.all()
    assert metres.median() == pytest.approx(Z, rel=0.01)
    assert torch.allclose(rounded, metres, atol=6e-4)
    cloud = read_point_cloud(out / "cloud.ply")
    assert torch.allclose(cloud.points[:, 2], metres.flatten(), atol=1e-5)
    assert cloud.colors.shape == (160 * 96, 3)


def test_matching_small_views_and_upsampling(pair, tmp_path, capsys):
    words = ["depth", *pair, "--out", str(tmp_path), "--model", "sgbm", "--fill", "--upsample", "joint-bilateral"]
    assert main([*words, "--reduce", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["upsample"] == "joint-bilateral"
    assert (result["width"], result["height"]) == (160, 96)
    assert result["depth"]["median"] == pytest.approx(Z, rel=0.03)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--reduce", "2"], "--reduce is 2, but nothing brings the map back"),
        (["--upsample", "sgbm"], "sgbm does not upsample"),
        (["--upsample", "nearest", "--reduce", "0.5"], "scale is 0.5; it must be above 1"),
    ],
)
def test_upsampling_that_makes_no_sense(pair, tmp_path, capsys, words, complaint):
    out = tmp_path / "out"
    assert main(["depth", *pair, "--out", str(out), "--model", "sgbm", *words]) == 2
    assert complaint in capsys.readouterr().err
    assert not out.exists()


def test_text(pair, tmp_path, capsys):
    assert main(["depth", *pair, "--out", str(tmp_path / "out"), "--model", "sgbm"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("depth ")
    assert str(tmp_path / "out" / "cloud.ply") in printed.out
    assert printed.err == ""


def test_a_calibration_of_the_full_size_is_scaled(pair, tmp_path, capsys):
    write_calibration(RIG.scale(4, 4), tmp_path / "calib.txt")
    assert main(["depth", *pair, "--out", str(tmp_path / "out"), "--model", "sgbm", "--fill", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["depth"]["median"] == pytest.approx(Z, rel=0.01)
    assert "640x384 px and is scaled to 160x96" in printed.err


def test_points_beyond_the_png_are_a_warning(pair, tmp_path, capsys):
    write_calibration(StereoCalibration(20000, 20000, 80, 48, 80, 0.1, 160, 96), tmp_path / "calib.txt")
    assert main(["depth", *pair, "--out", str(tmp_path / "out"), "--model", "sgbm"]) == 0
    assert "warning: " in capsys.readouterr().err
    metres, valid = read_depth(tmp_path / "out" / "depth.npy")
    assert metres[valid].median() == pytest.approx(20000 * 0.1 / 11, rel=0.01)


def test_two_files_of_a_calibration(pair, tmp_path):
    (tmp_path / "a").mkdir()
    write_calibration(RIG, tmp_path / "a", "ros")
    (tmp_path / "a" / "right.yaml").rename(tmp_path / "second.yaml")
    arguments = ["depth", *pair[:2], "--calibration", str(tmp_path / "a" / "left.yaml"), "--model", "sgbm"]
    assert main([*arguments, "--out", str(tmp_path / "x")]) == 2
    right = ["--calibration-right", str(tmp_path / "second.yaml")]
    assert main([*arguments, *right, "--out", str(tmp_path / "y")]) == 0
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("rig", "size", "message"),
    [
        (RIG, (320, 160), "for 160x96 px and the images are 320x160, another shape"),
        (StereoCalibration(200, 200, 80, 48, 80, 0.1), (70, 60), r"principal point \(80.0, 48.0\) lies outside"),
    ],
)
def test_a_calibration_of_other_images(rig, size, message):
    with pytest.raises(ValueError, match=message):
        fit_calibration(rig, *size)


def test_a_size_that_was_rounded():
    third = StereoCalibration(1240, 1240, 620, 555, 620, 0.16, 1240, 1110)
    assert fit_calibration(third, 413, 370).width == 413
    assert fit_calibration(RIG, 160, 96) is RIG


def test_an_offset_that_leaves_no_depth(pair, tmp_path, capsys):
    write_calibration(StereoCalibration(200, 200, 80, 48, -300, 0.1, 160, 96), tmp_path / "calib.txt")
    assert main(["depth", *pair, "--out", str(tmp_path / "out"), "--model", "sgbm"]) == 2
    assert "check the calibration" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_doctor_says_yes(pair, capsys):
    assert main(["doctor", *pair]) == 0
    text = capsys.readouterr().out
    assert "This pair is fit for matching." in text
    assert "max disparity 32 px, enough: yes" in text
    assert re.search(r"depth +1\.3\d m to 1\.3\d m at matched points", text)
    assert "50.0 mm at 1 m, 1.25 m at 5 m, 5.00 m at 10 m" in text


def test_doctor_says_no(pair, capsys):
    assert main(["doctor", pair[1], pair[0], "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["swapped"]
    assert not found["ok"]
    assert found["max_disparity"] == 256
    assert main(["doctor", *pair, "--max-disparity", "4"]) == 1
    assert "raise it to 16" in capsys.readouterr().out


def test_doctor_in_json_knows_no_infinity(pair, tmp_path, capsys):
    write_calibration(StereoCalibration(200, 200, 80, 48, -300, 0.1, 160, 96), tmp_path / "calib.txt")
    assert main(["doctor", *pair, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["nearest_depth"] is None


def test_doctor_on_blank_views(tmp_path, capsys):
    write_image(tmp_path / "blank.png", np.zeros((64, 64, 3), np.uint8))
    assert main(["doctor", *[str(tmp_path / "blank.png")] * 2]) == 1
    assert "Only 0 points match" in capsys.readouterr().out
