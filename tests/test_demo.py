"""The demo, run once on its real pair."""

import json

import pytest
import torch
from PIL import Image

from stereopsis.calibration import read_calibration
from stereopsis.cli import main
from stereopsis.io import read_depth, read_disparity, read_point_cloud

pytest.importorskip("skimage")

FILES = (
    "report.html", "overview.png", "left.png", "right.png", "disparity.png", "disparity.pfm", "confidence.png",
    "depth.png", "depth_color.png", "truth.png", "error.png", "disparity_sgbm.png", "error_sgbm.png", "cloud.ply",
    "cloud.png", "calib.txt",
)  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder the demo wrote, and the JSON it printed."""
    import contextlib
    import io

    out = tmp_path_factory.mktemp("demo") / "new" / "out"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["demo", "--out", str(out), "--json"]) == 0
    return out, json.loads(printed.getvalue())


def test_every_file_is_there_and_no_other(demo):
    out, result = demo
    assert {path.name for path in out.iterdir()} == set(FILES)
    assert {str(out / name) for name in FILES} == set(result["files"])


def test_numbers(demo):
    _, result = demo
    network, baseline = result["methods"]
    assert (network["model"], baseline["model"]) == ("hitnet.scenes", "sgbm, holes filled")
    assert network["density"] == baseline["density"] == network["found"] == 1
    assert 0.5 < baseline["found"] < 1
    # What OpenCV reaches is known; wider bounds than its versions differ by.
    assert 0.8 < baseline["epe"] < 2
    assert 1.5 < result["depth"]["near"] < result["depth"]["median"] < result["depth"]["far"] < 8
    assert result["points"] > 200_000


def test_the_maps_can_be_read_and_agree(demo):
    out, _ = demo
    disparity, valid = read_disparity(out / "disparity.pfm")
    depth, depth_valid = read_depth(out / "depth.png")
    rig = read_calibration(out / "calib.txt")
    assert disparity.shape == (1, 500, 741)
    expected = rig.fx * rig.baseline / (disparity + rig.doffs)
    both = valid & depth_valid
    assert both.float().mean() > 0.9
    assert torch.allclose(depth[both], expected[both], atol=6e-4)
    cloud = read_point_cloud(out / "cloud.ply")
    assert cloud.colors is not None
    assert 1 < cloud.points[:, 2].median() < 8


def test_pictures(demo):
    out, _ = demo
    for name in ("left", "right", "disparity", "confidence", "truth", "error", "cloud", "depth_color"):
        with Image.open(out / f"{name}.png") as picture:
            assert picture.size == (741, 500), name
    with Image.open(out / "overview.png") as picture:
        assert picture.width > 1400


def test_the_report_stands_alone_and_names_both_methods(demo):
    out, _ = demo
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "hitnet.scenes" in page
    assert "sgbm, holes filled" in page
    assert page.count("<img") == page.count("src='data:image/") == 12
    assert "http" not in page
    assert "$" not in page  # a placeholder that was not filled


def test_the_calibration_is_that_of_the_small_images(demo):
    out, _ = demo
    rig = read_calibration(out / "calib.txt")
    assert (rig.width, rig.height, rig.ndisp) == (741, 500, 70)
    assert rig.fx == pytest.approx(994.978, abs=1e-3)
    assert rig.doffs == pytest.approx(31.086, abs=1e-3)


def test_without_scikit_image(monkeypatch, tmp_path, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "skimage.data", None)
    assert main(["demo", "--out", str(tmp_path / "out")]) == 2
    assert "pip install scikit-image" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_folder(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert main(["demo", "--out", str(tmp_path / "out")]) == 2
    assert "name a folder" in capsys.readouterr().err
