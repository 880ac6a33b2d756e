"""``stereopsis convert``, and the options of every command that reads a calibration."""

import json

import numpy as np
import pytest
from forms import RAW_FORMS, depthai, kalibr, make_rig, opencv
from PIL import Image

from stereopsis.calibration import read_calibration, read_cameras, read_rig
from stereopsis.calibration.forms import FORMS
from stereopsis.cli import main


def _put(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / next(iter(files))


@pytest.mark.parametrize("name", ["rig.yaml", "left.yaml", "folder", "camchain-mine.yaml"])
def test_raw_cameras_stay_raw(tmp_path, capsys, name):
    rig = make_rig("radtan")
    path = _put(tmp_path / "in", depthai(rig))
    out = tmp_path / "out" / name
    assert main(["convert", str(path), "--out", str(out)]) == 0
    assert "raw cameras, focal length 420.0 px, baseline 0.1001 m" in capsys.readouterr().out
    found = read_rig(out)
    np.testing.assert_allclose(found.R, rig.R, atol=1e-7)
    np.testing.assert_allclose(found.T, rig.T, atol=1e-7)
    np.testing.assert_allclose(found.left.K, rig.left.K)


@pytest.mark.parametrize(
    "words", [["K.txt"], ["calib.txt"], ["c.txt", "--format", "kitti"], ["camchain.yaml"], ["left.yaml"]]
)
def test_rectified_views(tmp_path, capsys, words):
    path = _put(tmp_path / "in", kalibr(make_rig("none")))
    out = tmp_path / words[0]
    assert main(["convert", str(path), "--out", str(out), *words[1:], "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["describes"] == "rectified views"
    assert report["baseline"] == pytest.approx(0.1)
    assert read_calibration(out).baseline == pytest.approx(0.1)


def test_what_convert_refuses(tmp_path, capsys):
    path = _put(tmp_path, kalibr(make_rig("radtan")))
    before = path.read_bytes()
    assert main(["convert", str(path), "--out", str(tmp_path / "calib.txt")]) == 2
    assert "describes raw cameras and the format middlebury holds rectified views only" in capsys.readouterr().err
    assert main(["convert", str(path), "--out", str(path)]) == 2
    assert "--out" in (told := capsys.readouterr().err) or "replace" in told
    assert path.read_bytes() == before
    rig = _put(tmp_path / "b", opencv(make_rig("five")))
    assert main(["convert", str(rig), "--out", str(tmp_path / "camchain.yaml")]) == 2
    assert "Kalibr's radtan model four" in capsys.readouterr().err


@pytest.mark.parametrize("unit", ["mm", "0.001"])
def test_every_command_takes_a_unit(tmp_path, capsys, unit):
    """A file in millimetres, and the baseline in the answer of each command."""
    text = opencv(make_rig("none"))["rig.yml"].replace("data: [ -0.1, 0.0, 0.0 ]", "data: [ -100.0, 0.0, 0.0 ]")
    file = _put(tmp_path, {"rig.yml": text})
    picture = np.random.default_rng(0).integers(0, 255, (480, 660, 3), np.uint8)
    Image.fromarray(picture[:, 20:]).save(tmp_path / "l.png")
    Image.fromarray(picture[:, :640]).save(tmp_path / "r.png")
    pair = [str(tmp_path / "l.png"), str(tmp_path / "r.png")]
    shared = ["--calibration", str(file), "--json"]
    for command in (
        ["depth", *pair, "--model", "bm", "--out", str(tmp_path / "d"), "--files", "depth"],
        ["doctor", *pair],
        ["rectify", *pair, "--out", str(tmp_path / "r")],
    ):
        assert main([*command, *shared]) == 2
        assert "would be 100 m" in capsys.readouterr().err
        assert main([*command, *shared, "--unit", unit]) in (0, 1)
        assert json.loads(capsys.readouterr().out)["baseline"] == pytest.approx(0.1), command
    assert main(["convert", str(file), "--out", str(tmp_path / "c.yaml"), "--unit", unit]) == 0
    assert read_cameras(tmp_path / "c.yaml").calibration.baseline == pytest.approx(0.1)
    assert main(["doctor", *pair, "--calibration", str(file), "--unit", "yards"]) == 2
    assert "unit is 'yards'" in capsys.readouterr().err


def test_case_grey_cameras(shared_data, tmp_path, capsys):
    folder = shared_data("cases/kitti-grey-baseline")
    pair = [str(folder / f"image_{i}" / "000000.png") for i in (0, 1)]
    words = ["depth", *pair, "--calibration", str(folder), "--model", "sgbm", "--max-disparity", "64", "--json"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    assert json.loads(capsys.readouterr().out)["baseline"] == pytest.approx(0.537)
    assert main([*words, "--out", str(tmp_path / "b"), "--cameras", "colour"]) == 0
    assert json.loads(capsys.readouterr().out)["baseline"] == pytest.approx(0.5)
    # Under other names only the colour of the views decides, and it is told.
    for i, side in enumerate(("left", "right")):
        (tmp_path / f"{side}.png").write_bytes((folder / f"image_{i}" / "000000.png").read_bytes())
    words[1:3] = [str(tmp_path / "left.png"), str(tmp_path / "right.png")]
    assert main([*words, "--out", str(tmp_path / "c")]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["baseline"] == pytest.approx(0.537)
    assert "the grey ones are used, because the views are grey" in printed.err


def test_the_page_lists_every_form():
    from pathlib import Path

    page = (Path(__file__).parents[1] / "docs/formats.md").read_text(encoding="utf-8")
    for form in FORMS:
        assert f"| `{form.name}` |" in page, form.name
    assert len({form.name for form in FORMS}) == len(FORMS)
    assert len(RAW_FORMS) > 20


def test_the_report_of_a_pipeline_holds_what_is_doubtful(tmp_path, capsys):
    """A baseline of 4 m: on stderr, in the JSON, in report.json and on the page."""
    text = opencv(make_rig("none"))["rig.yml"].replace("data: [ -0.1, 0.0, 0.0 ]", "data: [ -4.0, 0.0, 0.0 ]")
    file = _put(tmp_path, {"rig.yml": text})
    picture = np.random.default_rng(0).integers(0, 255, (480, 660, 3), np.uint8)
    for name, view in (("l", picture[:, 20:]), ("r", picture[:, :640])):
        Image.fromarray(view).save(tmp_path / f"{name}.png")
    words = ["pipeline", str(tmp_path / "l.png"), str(tmp_path / "r.png"), "--calibration", str(file), "--model", "bm"]
    assert main([*words, "--quality", "1", "--out", str(tmp_path / "out"), "--json"]) == 0
    printed = capsys.readouterr()
    assert "4 m in metres" in printed.err
    for report in (json.loads(printed.out), json.loads((tmp_path / "out/report.json").read_text())):
        assert any("4 m in metres" in sentence for sentence in report["warnings"])
    assert "4 m in metres" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
