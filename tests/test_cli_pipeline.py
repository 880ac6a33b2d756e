"""``stereopsis pipeline``: a pair the whole way, and what is said where it cannot be."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from views import shifted_pair

from stereopsis.calibration import read_calibration, write_calibration
from stereopsis.cli import main
from stereopsis.io import read_depth, read_disparity, read_image, read_point_cloud, write_disparity, write_image
from stereopsis.io.folders import atomic_folder
from stereopsis.types import StereoCalibration

HEIGHT, WIDTH, SHIFT = 90, 150, 11
RIG = StereoCalibration(fx=200, fy=200, cx=75, cy=45, cx_right=79, baseline=0.1, width=WIDTH, height=HEIGHT, ndisp=32)
Z = 200 * 0.1 / (SHIFT + 4)
FILES = {
    *("pair.stz", "left.png", "right.png", "disparity.pfm", "depth.png", "depth.npy", "cloud.ply", "calib.txt"),
    *("report.html", "report.json"),
}


@pytest.fixture
def pair(tmp_path):
    """Two files of a plane and the file of their rig, in no multiple of anything: LEFT RIGHT --calibration FILE."""
    for name, view in zip(("left", "right"), shifted_pair(SHIFT, HEIGHT, WIDTH), strict=True):
        write_image(tmp_path / f"{name}.png", view)
    write_calibration(RIG, tmp_path / "calib.txt")
    return [str(tmp_path / "left.png"), str(tmp_path / "right.png"), "--calibration", str(tmp_path / "calib.txt")]


def run(*words: str) -> int:
    return main(["pipeline", *words, "--model", "sgbm", "--fill"])


def test_everything_of_a_pair(pair, tmp_path, capsys):
    truth = np.full((HEIGHT, WIDTH), SHIFT, np.float32)
    truth[:10] = np.inf
    write_disparity(tmp_path / "truth.pfm", truth)
    out = tmp_path / "new" / "out"
    options = ["--truth", str(tmp_path / "truth.pfm"), "--quality", "7", "--out", str(out)]
    assert run(*pair, *options, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert {path.name for path in out.iterdir()} == FILES == set(report["files"])
    stored = json.loads((out / "report.json").read_text())
    assert stored == {key: value for key, value in report.items() if key != "out"}
    rate = report["rate"]
    assert rate["bytes"] == (out / "pair.stz").stat().st_size
    assert rate["bpp"] == pytest.approx(8 * rate["bytes"] / (2 * HEIGHT * WIDTH))
    assert rate["quality"] == 7
    assert rate["ms_ssim"] is None  # too small for it
    views = [
        torch.stack([read_image(folder / f"{name}.png") for name in ("left", "right")]) for folder in (tmp_path, out)
    ]
    assert rate["psnr"] == pytest.approx(-10 * (views[0] - views[1]).square().mean().log10().item(), abs=0.01)
    assert list(report["seconds"]) == [
        *("read", "load models", "compress", "decompress", "match", "match the original", "depth", "cloud", "write")
    ]
    disparity, valid = read_disparity(out / "disparity.pfm")
    assert report["error"]["decoded"]["epe"] == pytest.approx((disparity - SHIFT).abs()[:, 10:].mean().item(), abs=1e-4)
    assert report["error"]["decoded"].keys() == report["change"].keys()
    assert report["error"]["original"]["bad2"] <= 5
    metres, _ = read_depth(out / "depth.npy")
    assert metres.median() == pytest.approx(Z, rel=0.02)
    assert report["depth"]["median"] == pytest.approx(metres.median().item())
    assert len(read_point_cloud(out / "cloud.ply")) == report["points"] == int(valid.sum())
    assert read_calibration(out / "calib.txt") == RIG
    page = (out / "report.html").read_text()
    assert page.count("<img") == 11
    assert f"{rate['psnr']:.2f} dB" in page
    assert "against the truth" in page
    assert "$" not in page


def test_the_file_decodes_to_the_views(pair, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(*pair, "--out", str(out), "--target-bpp", "0.8") == 0
    shown = capsys.readouterr().out
    assert "match the original" in shown
    assert "error" not in shown
    assert json.loads((out / "report.json").read_text())["rate"]["bpp"] <= 0.8
    assert main(["decompress", str(out / "pair.stz"), "--out", str(tmp_path / "again")]) == 0
    for name in ("left", "right"):
        assert torch.equal(read_image(out / f"{name}.png"), read_image(tmp_path / "again" / f"{name}.png"))
    assert read_calibration(tmp_path / "again" / "calib.txt").fx == 200


def test_matched_small_and_upsampled(pair, tmp_path, capsys):
    words = ["--upsample", "joint-bilateral", "--reduce", "2", "--out", str(tmp_path / "out"), "--json"]
    assert run(*pair, *words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["matched_size"] == [WIDTH / 2, HEIGHT / 2]
    assert "upsample" in report["seconds"]
    assert report["depth"]["median"] == pytest.approx(Z, rel=0.05)
    assert "upsampled with joint-bilateral" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("format", ["kitti", "opencv", "ros"])
def test_other_calibrations_and_grey_views(pair, tmp_path, capsys, format):
    for name in ("left", "right"):
        write_image(tmp_path / f"{name}.png", read_image(tmp_path / f"{name}.png", channels=1))
    rig = tmp_path / {"kitti": "rig.txt", "opencv": "rig.yaml", "ros": "rig"}[format]
    if format == "ros":
        rig.mkdir()
    write_calibration(RIG, rig, format)
    assert run(*pair[:2], "--calibration", str(rig), "--out", str(tmp_path / "out"), "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["depth"]["median"] == pytest.approx(Z, rel=0.05)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--quality", "9"], "quality is 9; it must lie in 1 to 8"),
        (["--quality", "3", "--target-bpp", "1"], "exclude each other"),
        (["--target-bpp", "0.000001"], "bpp are too few"),
        (["--codec", "sgbm"], "sgbm does not compress"),
        (["--reduce", "2"], "nothing brings the map back"),
        (["--upsample", "nearest", "--reduce", "1"], "scale is 1; it must be above 1"),
        (["--truth", "left.png"], "left.png"),
        (["--truth", "small.pfm"], "the truth is 5x4 and the views are 150x90"),
        (["--truth-divide-by", "4"], "there is no --truth"),
        (["--calibration", "absent.yaml"], "absent.yaml"),
    ],
)
def test_bad_input_leaves_nothing(pair, tmp_path, monkeypatch, capsys, words, complaint):
    monkeypatch.chdir(tmp_path)
    write_disparity("small.pfm", np.ones((4, 5), np.float32))
    before = set(tmp_path.iterdir())
    assert run(*pair, *words, "--out", "new/out") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert complaint in said
    assert said.endswith(".")
    assert set(tmp_path.iterdir()) == before


def test_views_of_two_sizes(pair, tmp_path, capsys):
    write_image(tmp_path / "right.png", np.zeros((10, 10, 3), np.uint8))
    assert run(*pair, "--out", str(tmp_path / "out")) == 2
    assert "right.png is 10x10; the two views of a rectified pair must have the same size" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_offset_that_leaves_no_depth(pair, tmp_path, capsys):
    write_calibration(StereoCalibration(200, 200, 75, 45, -300, 0.1, WIDTH, HEIGHT), tmp_path / "calib.txt")
    assert run(*pair, "--out", str(tmp_path / "out")) == 2
    assert "check the calibration" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a" / "b"

    def write(*names: str, fail: bool = False) -> None:
        with atomic_folder(target) as folder:
            for name in names:
                (folder / name).write_text(name)
            if fail:
                raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write("x", fail=True)
    assert not list(tmp_path.iterdir())
    write("x")
    (target / "mine").write_text("kept")
    (target / "x").write_text("old")
    with pytest.raises(OSError, match="full"):
        write("x", "y", fail=True)
    assert (target / "x").read_text() == "old"
    write("x", "y")
    assert {path.name: path.read_text() for path in target.iterdir()} == {"x": "x", "y": "y", "mine": "kept"}
    assert [path.name for path in target.parent.iterdir()] == ["b"]
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; name a folder"), atomic_folder(tmp_path / "file"):
        pass


def test_results_replace_older_ones(pair, tmp_path):
    out = tmp_path / "out"
    assert run(*pair, "--out", str(out), "--quality", "1") == 0
    small = (out / "pair.stz").stat().st_size
    assert run(*pair, "--out", str(out), "--quality", "8") == 0
    assert (out / "pair.stz").stat().st_size > small
    assert {Path(path).name for path in out.iterdir()} == FILES
