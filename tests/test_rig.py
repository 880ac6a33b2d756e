"""From pictures of a board to metric depth of raw views: boards, calibration, rectification and their commands."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from boards import HEIGHT, WIDTH, Studio, board_studio, make_rig, poses
from PIL import Image
from views import texture

from stereopsis.calibration import (
    Board,
    StereoRig,
    calibrate_files,
    read_calibration,
    read_rig,
    write_calibration,
    write_rig,
)
from stereopsis.calibration.boards import shared_corners
from stereopsis.calibration.calibrate import calibrate, covered, observe
from stereopsis.calibration.coverage import coverage_picture
from stereopsis.calibration.diagnosis import examine, find_matches
from stereopsis.calibration.rectification import Cameras, read_cameras, rectify_pair
from stereopsis.cli import main
from stereopsis.io import find_pairs, read_depth, read_image, read_point_cloud, write_image
from stereopsis.types import StereoCalibration

BOARD = Board(9, 6, 0.025)
CHARUCO = Board(8, 6, 0.03, 0.022)
SIZE = (WIDTH, HEIGHT)
RIG = make_rig()


@pytest.fixture(scope="module")
def views():
    studio = board_studio(BOARD, RIG)
    return [studio.pair(*pose) for pose in poses()]


@pytest.fixture(scope="module")
def pairs(views):
    return [observe(str(i), *pair, BOARD) for i, pair in enumerate(views)]


@pytest.fixture(scope="module")
def result(pairs, views):
    """Of the good pairs, of one whose views are of two poses, and of one without a board."""
    mixed = observe("mixed", views[0][0], views[1][1], BOARD)
    bent = observe("bent", *(_bent(view) for view in views[2]), BOARD)
    return calibrate([*pairs, mixed, bent, observe("blank", *[np.full((HEIGHT, WIDTH), 90, np.uint8)] * 2, BOARD)],
                     BOARD, SIZE)  # fmt: skip


@pytest.fixture(scope="module")
def raw_folder(tmp_path_factory):
    """Two raw pairs of textured planes 1.5 m and 2 m away, and the file of their rig."""
    folder = tmp_path_factory.mktemp("raw")
    picture = cv2.cvtColor(texture(700, 900, 3), cv2.COLOR_RGB2GRAY)
    studio = Studio(RIG, picture, 0.003)
    (folder / "left").mkdir()
    (folder / "right").mkdir()
    for z in (1.5, 2.0):
        for name, view in zip(("left", "right"), studio.pair(np.eye(3), np.array([0.05, 0, z])), strict=True):
            write_image(folder / name / f"{z}.png", view)
    write_rig(RIG, folder / "rig.yaml")
    return folder


def _bent(view: np.ndarray) -> np.ndarray:
    """The view with a wave in it, which no flat board shows."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    return cv2.remap(view, x + 4 * np.sin(y / 25), y + 4 * np.sin(x / 25), cv2.INTER_LINEAR, borderValue=120)


def _is_near(found: StereoRig, rig: StereoRig, focal: float = 0.004) -> None:
    for camera, truth in ((found.left, rig.left), (found.right, rig.right)):
        assert camera.K[0, 0] == pytest.approx(truth.K[0, 0], rel=focal)
        assert camera.K[1, 1] == pytest.approx(truth.K[1, 1], rel=focal)
        assert camera.K[:2, 2] == pytest.approx(truth.K[:2, 2], abs=2.5)
    assert found.baseline == pytest.approx(rig.baseline, rel=0.005)
    turn, _ = cv2.Rodrigues(found.R @ rig.R.T)
    assert np.degrees(np.linalg.norm(turn)) < 0.2


def test_a_known_rig_is_recovered(result):
    _is_near(result.rig, RIG)
    assert result.rms < 0.15
    assert result.row_error < 0.06
    assert len(result.used) == 12
    assert result.tilt > 20
    assert all(0.3 < share <= 1 for share in result.coverage)
    for pair in result.used:
        assert max(pair.errors) < 0.3


def test_bad_pairs_are_rejected_with_a_reason(result):
    reasons = {pair.name: pair.reason for pair in result.rejected}
    assert set(reasons) == {"mixed", "bent", "blank"}
    assert re.match(r"Each view fits alone, together they are \d+\.\d+ px off, limit 0\.50 px", reasons["mixed"])
    assert re.match(r"The corners of the (left|right) view lie \d+\.\d+ px off a flat board", reasons["bent"])
    assert reasons["blank"] == "The board is not seen whole in either view."
    assert next(pair for pair in result.rejected if pair.name == "mixed").errors[1] > 5


def test_a_pair_that_the_first_look_dropped_comes_back(pairs, monkeypatch):
    from stereopsis.calibration import calibrate as module

    monkeypatch.setattr(module, "_consistent", lambda given, *_: [i != 3 for i in range(len(given))])
    assert len(module.calibrate(pairs, BOARD, SIZE).used) == 12


def test_charuco_boards_may_be_half_hidden():
    studio = board_studio(CHARUCO, RIG)
    found = []
    for i, pose in enumerate(poses(distance=0.5)):
        left, right = studio.pair(*pose)
        left[:, : 40 + 10 * (i % 4)] = 90
        found.append(observe(str(i), left, right, CHARUCO))
    counts = [len(pair.left) for pair in found if pair.left is not None]
    assert min(counts) < 35 == len(CHARUCO.points)
    done = calibrate(found, CHARUCO, SIZE)
    _is_near(done.rig, RIG, focal=0.008)
    assert done.rms < 0.2


def test_a_fisheye_rig_is_recovered(tmp_path):
    rig = make_rig("fisheye")
    studio = board_studio(BOARD, rig)
    found = [observe(str(i), *studio.pair(*pose), BOARD) for i, pose in enumerate(poses(14, 0.24))]
    done = calibrate(found, BOARD, SIZE, lens="fisheye")
    assert done.rig.left.model == "fisheye"
    _is_near(done.rig, rig, focal=0.01)
    assert done.rms < 0.2
    write_rig(done.rig, tmp_path / "rig.yaml")
    assert read_rig(tmp_path / "rig.yaml").left.model == "fisheye"


def test_the_rational_lens_has_eight_coefficients(pairs):
    done = calibrate(pairs, BOARD, SIZE, lens="rational")
    assert done.rig.left.distortion.size == 8
    assert done.rms < 0.15


@pytest.mark.parametrize("board", [Board(8, 6, 0.02), Board(6, 6, 0.02), BOARD])
def test_boards_that_look_alike_when_turned(board):
    """Both views number the corners alike, whichever way OpenCV began to count."""
    left = board.detect(board.picture(40))
    columns, rows = board.shape
    grid = left.pixels.reshape(rows, columns, 2)
    for turns in (1, 2, 3) if columns == rows else (2,):
        turned = type(left)(left.ids, np.rot90(grid, turns).reshape(-1, 2) + np.float32([7, 3]))
        _, right = shared_corners(board, left, turned)
        assert right.pixels - left.pixels == pytest.approx(np.tile([7, 3], (len(left), 1)), abs=1e-3)


def test_coverage(result):
    cells = covered(result.used, SIZE, 0)
    assert cells.shape == (6, 8)
    assert cells.mean() == result.coverage[0]
    picture = coverage_picture(result)
    assert picture.shape == (480, 2 * 640 + 8, 3)
    # Where the boards were there are dots, blue since the errors are small.
    row, column = (int(v) for v in result.used[0].left.pixels[0][::-1] * 640 / WIDTH)
    assert picture[row - 1 : row + 2, column - 1 : column + 2, 2].max() > 60


def test_advice_on_a_poor_set_of_pairs(pairs):
    done = calibrate(pairs[:5], BOARD, SIZE)
    text = " ".join(done.advice)
    assert "5 pairs count; take 15 to 30." in text
    assert "of the left image" in text


def test_exchanged_views_are_refused(pairs):
    swapped = [type(pair)(pair.name, None, pair.right, pair.left) for pair in pairs]
    with pytest.raises(ValueError, match=r"stands 0\.100 m to the left of the other; exchange the left and the right"):
        calibrate(swapped, BOARD, SIZE)


@pytest.mark.parametrize(
    ("board", "words"),
    [
        ((2, 6, 0.02), "2x6 inner corners; at least 3x3"),
        ((3, 6, 0.02, 0.01), "3x6 squares; at least 4x4"),
        ((9, 6, 25), "squares are 25 m wide.*0.025 for 25 mm"),
        ((9, 6, 0.02, 0.02), "markers are 0.02 m wide and the squares 0.02 m"),
        ((12, 9, 0.02, 0.01), "needs 54 markers and the dictionary 4x4_50 holds 50; choose a larger one"),
        ((9, 6, 0.02, 0.01, "4x4"), "dictionary is '4x4'; it must be one of 4x4_100"),
    ],
)
def test_impossible_boards(board, words):
    with pytest.raises(ValueError, match=words):
        Board(*board)


def test_too_few_pairs(pairs):
    blank = observe("blank", *[np.full((HEIGHT, WIDTH), 90, np.uint8)] * 2, BOARD)
    with pytest.raises(ValueError, match=r"2 of 3 pairs show the board .* 15 to 30 are good.* 9x6 inner corners"):
        calibrate([*pairs[:2], blank], BOARD, SIZE)
    with pytest.raises(ValueError, match="lens is 'wide'"):
        calibrate(pairs, BOARD, SIZE, lens="wide")


def test_a_rig_keeps_its_numbers_in_its_file(tmp_path):
    write_rig(RIG, tmp_path / "rig.yaml")
    back = read_rig(tmp_path)
    for name in ("R", "T", "width", "height"):
        np.testing.assert_array_equal(getattr(back, name), getattr(RIG, name))
    np.testing.assert_array_equal(back.left.K, RIG.left.K)
    np.testing.assert_array_equal(back.right.distortion, RIG.right.distortion)
    storage = cv2.FileStorage(str(tmp_path / "rig.yaml"), cv2.FILE_STORAGE_READ)
    np.testing.assert_array_equal(storage.getNode("M2").mat(), RIG.right.K)
    with pytest.raises(ValueError, match=r"must end in \.yaml"):
        write_rig(RIG, tmp_path / "rig.xml")


def test_a_resized_rig_sees_the_same_rays():
    half = RIG.resize(WIDTH // 2, HEIGHT // 2)
    pixels = np.array([[[100.0, 80.0]]])
    shrunken = (pixels + 0.5) / 2 - 0.5
    before, after = (
        cv2.undistortPoints(p, rig.left.K, rig.left.distortion) for p, rig in ((pixels, RIG), (shrunken, half))
    )
    np.testing.assert_allclose(after, before, atol=1e-9)
    whole, small = RIG.rectify(), half.rectify()
    assert small.calibration.fx == pytest.approx(whole.calibration.fx / 2, rel=0.01)
    assert small.calibration.baseline == pytest.approx(whole.calibration.baseline)
    with pytest.raises(ValueError, match="must be at least 1"):
        RIG.resize(0, 10)


def test_what_a_file_describes(tmp_path):
    write_rig(RIG, tmp_path / "rig.yaml")
    raw = read_cameras(tmp_path / "rig.yaml")
    assert raw.calibration is None
    assert raw.rig is not None
    rectification = RIG.rectify()
    for format in ("middlebury", "opencv", "ros"):
        path = tmp_path / {"middlebury": "calib.txt", "opencv": "c.yml", "ros": "left.yaml"}[format]
        write_calibration(rectification.calibration, path, format)
        cameras = read_cameras(path)
        assert cameras.rig is None, format
        assert cameras.calibration.baseline == pytest.approx(RIG.baseline)
    write_rig(StereoRig(RIG.left, RIG.right, RIG.R, RIG.T, *SIZE, RIG.rectifying()), tmp_path / "both.yml")
    both = read_cameras(tmp_path / "both.yml")
    assert both.calibration is not None
    assert both.rig is not None


def test_views_decide_where_a_file_describes_both(raw_folder, tmp_path):
    write_rig(StereoRig(RIG.left, RIG.right, RIG.R, RIG.T, *SIZE, RIG.rectifying()), tmp_path / "both.yml")
    cameras = read_cameras(tmp_path / "both.yml")
    raw = [read_image(raw_folder / side / "1.5.png", 1) for side in ("left", "right")]
    straight = rectify_pair(*raw, cameras)
    assert straight.rectification is not None
    assert straight.valid.float().mean() > 0.99
    again = rectify_pair(straight.left, straight.right, cameras)
    assert again.rectification is None
    assert again.left is straight.left
    assert rectify_pair(*raw, cameras, "no").rectification is None
    blank = torch.zeros(1, HEIGHT, WIDTH)
    assert rectify_pair(blank, blank, cameras).rectification is None
    assert rectify_pair(blank, blank, cameras, "yes").rectification is not None


def test_rectification_that_is_not_possible():
    view = torch.zeros(1, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="describes raw cameras alone"):
        rectify_pair(view, view, Cameras(None, RIG), "no")
    calibration = StereoCalibration(400, 400, 240, 180, 240, 0.1)
    with pytest.raises(ValueError, match="holds no raw rig"):
        rectify_pair(view, view, Cameras(calibration, None), "yes")


def test_rows_before_and_after(raw_folder):
    raw = [read_image(raw_folder / side / "2.0.png", 1) for side in ("left", "right")]
    before = examine(*raw)
    assert before.rectified is False
    assert "turned against each other" in before.problems[0]
    after = examine(*RIG.rectify()(*raw))
    assert after.rectified
    assert abs(after.vertical_bias) < 0.1
    assert abs(after.roll) < 0.1
    assert after.zoom == pytest.approx(1, abs=0.003)


def test_the_pattern_of_the_rows():
    picture = texture(300, 440)
    view = torch.from_numpy(picture[:, 20:420].copy()).permute(2, 0, 1).float() / 255
    for angle, scale in ((2, 1), (0, 1.02)):
        turn = cv2.getRotationMatrix2D((219.5, 149.5), angle, scale)
        right = cv2.warpAffine(picture, turn, (440, 300))[:, 31:431]
        found = examine(view, torch.from_numpy(right.copy()).permute(2, 0, 1).float() / 255)
        # OpenCV turns counter-clockwise, so that the left view is turned clockwise against it.
        assert found.roll == pytest.approx(angle, abs=0.15)
        assert found.zoom == pytest.approx(1 / scale, abs=0.003)
        words = "turned against each other by 2.0 degrees" if angle else "of scales that differ by 2.0%"
        assert words in found.problems[0]


def test_depth_error_and_advice():
    calibration = StereoCalibration(500, 500, 160, 100, 160, 0.12)
    scene = torch.from_numpy(texture(200, 360)).permute(2, 0, 1).float() / 255
    left, right = scene[:, :, :320], scene[:, :, 23:343]
    found = examine(left, right, calibration=calibration, disparity_error=0.5, distances=(2, 20), max_disparity=256)
    assert found.depth_error == pytest.approx({2.0: 4 * 0.5 / 60, 20.0: 400 * 0.5 / 60})
    assert found.ok
    assert "From 20 m on the expected error of depth is above 10%" in found.advice[-1]
    assert "a max_disparity of 48 is enough" in found.advice[0]
    lower = cv2.warpAffine(right.permute(1, 2, 0).numpy(), np.float32([[1, 0, 0], [0, 1, 0.6]]), (320, 200))
    shifted = examine(left, torch.from_numpy(lower).permute(2, 0, 1))
    assert shifted.vertical_bias == pytest.approx(-0.6, abs=0.05)
    assert re.match(r"All rows of the left view lie 0\.[56]\d px above those of the right", shifted.advice[0])
    for words in ({"disparity_error": 0}, {"distances": (1, -2)}):
        with pytest.raises(ValueError, match="above 0"):
            examine(left, right, **words)


# --- commands ---


@pytest.fixture(scope="module")
def board_folder(views, tmp_path_factory):
    folder = tmp_path_factory.mktemp("boards")
    for number, pair in enumerate(views):
        for name, view in zip(("left", "right"), pair, strict=True):
            write_image(folder / f"{name}{number:02d}.png", view)
    write_image(folder / "left90.png", views[0][0])
    write_image(folder / "right90.png", views[3][1])
    write_image(folder / "left91.png", views[0][0][:-2])
    write_image(folder / "right91.png", views[0][1][:-2])
    (folder / "left92.png").write_bytes((folder / "left00.png").read_bytes()[:999])
    shutil.copy(folder / "right00.png", folder / "right92.png")
    return folder


def test_calibrate(board_folder, tmp_path, capsys):
    out = tmp_path / "new" / "rig.yaml"
    words = ["calibrate", str(board_folder), "--board", "9x6", "--square", "0.025", "--out", str(out)]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["used"] == 12
    assert report["rms"] < 0.15
    rejected = {row["name"]: row["rejected"] for row in report["pairs"] if row["rejected"]}
    assert set(rejected) == {"90", "91", "92"}
    assert "of two pairs" in rejected["90"]
    assert rejected["91"] == "The views are 480x358 px and most are 480x360."
    assert "left92.png cannot be read" in rejected["92"]
    _is_near(read_rig(out), RIG)
    assert (tmp_path / "new" / "rig_coverage.png").is_file()

    assert main(words) == 0
    text = capsys.readouterr().out
    assert re.search(r"12 of 15 pairs, reprojection error 0\.\d+ px", text)
    assert "rejected 90: Each view fits alone" in text
    assert re.search(r"baseline (99|100)\.\d+ mm", text)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--board", "9by6"], "--board is '9by6'"),
        (["--square", "25"], "so give metres"),
        (["--out", "rig.xml"], "its name must end in .yaml, .yml"),
    ],
)
def test_calibrate_refuses(board_folder, tmp_path, capsys, monkeypatch, words, complaint):
    monkeypatch.chdir(tmp_path)
    options = {"--board": "9x6", "--square": "0.025", "--out": "rig.yaml"} | dict([words])
    assert main(["calibrate", str(board_folder), *(word for option in options.items() for word in option)]) == 2
    assert complaint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_calibrate_without_a_board(tmp_path, capsys):
    for name in ("left1", "right1", "left2", "right2"):
        write_image(tmp_path / f"{name}.png", texture(90, 120))
    words = ["calibrate", str(tmp_path), "--board", "9x6", "--square", "0.025", "--out", str(tmp_path / "rig.yaml")]
    assert main(words) == 2
    assert "0 of 2 pairs show the board in both views" in capsys.readouterr().err
    for path in tmp_path.iterdir():
        path.write_text("no picture")
    assert main(words) == 2
    assert "No pair of 2 can be used" in capsys.readouterr().err


def test_large_views_are_measured_in_their_own_pixels():
    picture = BOARD.picture(150)
    assert picture.shape == (1350, 1800)
    assert BOARD.detect(picture).pixels[:2] == pytest.approx(np.array([[299.5, 299.5], [449.5, 299.5]]), abs=0.1)


def test_board(tmp_path, capsys):
    assert main(["board", "9x6", "--square", "0.025", "--out", str(tmp_path / "b.png"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["width_mm"], report["height_mm"]) == (12 * 25, 9 * 25)
    with Image.open(tmp_path / "b.png") as image:
        dots = image.info["dpi"][0]
        assert image.size[0] / dots * 25.4 == pytest.approx(300, rel=1e-3)
        picture = np.array(image)
    small = cv2.resize(picture, None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA)
    assert len(BOARD.detect(small)) == 54
    words = ["board", "9x7", "--square", "0.022", "--marker", "0.016", "--out", str(tmp_path / "b.pdf")]
    assert main(words) == 0
    assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")
    assert "242 x 198 mm" in capsys.readouterr().out
    assert main(["board", "9x6", "--square", "0.025", "--out", str(tmp_path / "b.jpg")]) == 2


def test_rectify(raw_folder, tmp_path, capsys):
    words = ["rectify", str(raw_folder / "left"), str(raw_folder / "right"), "--calibration", str(raw_folder)]
    assert main([*words, "--out", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["offsets"]["before"] > 3
    assert report["offsets"]["after"] < 0.2
    assert abs(report["offsets"]["bias"]) < 0.1
    assert [row["name"] for row in report["pairs"]] == ["1.5", "2.0"]
    assert report["failed"] == []
    calibration = read_calibration(tmp_path)
    assert calibration.baseline == pytest.approx(RIG.baseline)
    left, right = (read_image(tmp_path / side / "2.0.png", 1) for side in ("left", "right"))
    disparity = np.median(find_matches(left, right).disparity)
    # The plane is square to the raw left camera, so that its depth varies a little in the rectified one.
    assert calibration.fx * calibration.baseline / (disparity + calibration.doffs) == pytest.approx(2, rel=0.02)
    straight = [str(tmp_path / side / "2.0.png") for side in ("left", "right")]
    assert main(["doctor", *straight, "--calibration", str(tmp_path)]) == 0
    assert "raw views" not in capsys.readouterr().out


def test_rectify_skips_what_cannot_be_read(raw_folder, tmp_path, capsys):
    shutil.copytree(raw_folder, tmp_path / "raw")
    (tmp_path / "raw/left/1.5.png").write_text("no picture")
    words = ["rectify", str(tmp_path / "raw"), "--calibration", str(raw_folder), "--format", "ros"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert "1 of 2 pairs failed; the others are written." in printed.err
    assert "1 pairs in" in printed.out
    names = {"left", "right", "left.yaml", "right.yaml", ".stereopsis.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    (tmp_path / "out/right/2.0.png").unlink()
    assert main([*words, "--out", str(tmp_path / "out"), "--json"]) == 1
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["pairs"]] == ["2.0"]
    assert main([*words, "--out", str(tmp_path / "out"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["skipped"] == 1
    assert main([*words, "--alpha", "1", "--out", str(tmp_path / "out")]) == 2
    assert "holds results of --alpha 0.0 and not 1.0" in capsys.readouterr().err
    assert main([*words, "--alpha", "1", "--out", str(tmp_path / "out"), "--overwrite"]) == 1
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "raw")]) == 2
    assert "is an input and would replace it" in capsys.readouterr().err
    (tmp_path / "raw/right/2.0.png").write_text("no picture")
    assert main([*words, "--out", str(tmp_path / "none")]) == 2
    assert "No pair of 2 can be read" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--alpha", "2"], "--alpha is 2; it must lie in [0, 1]"),
        (["--stored"], "stores no rectification"),
        (["--calibration", "calib.txt"], "holds no raw rig"),
    ],
)
def test_rectify_refuses(raw_folder, tmp_path, capsys, words, complaint):
    write_calibration(StereoCalibration(400, 400, 240, 180, 240, 0.1), tmp_path / "calib.txt")
    words = [str(tmp_path / word) if word == "calib.txt" else word for word in words]
    given = ["rectify", str(raw_folder), "--out", str(tmp_path / "out")]
    if "--calibration" not in words:
        given += ["--calibration", str(raw_folder)]
    assert main([*given, *words]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_depth_of_raw_views(raw_folder, tmp_path, capsys):
    pair = [str(raw_folder / side / "1.5.png") for side in ("left", "right")]
    words = ["depth", *pair, "--calibration", str(raw_folder / "rig.yaml"), "--model", "sgbm", "--max-disparity", "64"]
    assert main([*words, "--out", str(tmp_path / "o"), "--json"]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report["rectified_here"] is True
    assert "the views are raw and were rectified" in printed.err
    assert "warning" not in printed.err
    assert report["depth"]["median"] == pytest.approx(1.5, rel=0.02)
    cloud = read_point_cloud(tmp_path / "o" / "cloud.ply")
    # In the frame of the raw left camera the plane is at 1.5 m throughout.
    plane = cloud.points.numpy() @ RIG.rectifying()[0]
    assert np.median(plane[:, 2]) == pytest.approx(1.5, rel=0.01)
    assert np.percentile(np.abs(plane[:, 2] - 1.5), 90) < 0.03
    again = [str(tmp_path / "o" / f"rectified_{side}.png") for side in ("left", "right")]
    words = ["depth", *again, "--calibration", str(tmp_path / "o/rectified_calib.txt"), "--model", "sgbm"]
    assert main([*words, "--max-disparity", "64", "--out", str(tmp_path / "p"), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["rectified_here"] is False
    a, b = (read_depth(tmp_path / folder / "depth.npy")[0] for folder in "op")
    assert (a - b).abs().median() < 0.01


def test_depth_of_smaller_raw_views(raw_folder, tmp_path, capsys):
    for side in ("left", "right"):
        view = read_image(raw_folder / side / "1.5.png", 1)
        write_image(
            tmp_path / f"{side}.png", torch.nn.functional.interpolate(view[None], scale_factor=0.5, mode="area")
        )
    words = ["depth", *(str(tmp_path / f"{side}.png") for side in ("left", "right")), "--calibration", str(raw_folder)]
    assert main([*words, "--model", "sgbm", "--max-disparity", "32", "--out", str(tmp_path / "o"), "--json"]) == 0
    printed = capsys.readouterr()
    assert "is for 480x360 px and is scaled to 240x180" in printed.err
    assert json.loads(printed.out)["depth"]["median"] == pytest.approx(1.5, rel=0.03)


def test_doctor_on_raw_views(raw_folder, capsys):
    pair = [str(raw_folder / side / "2.0.png") for side in ("left", "right")]
    assert main(["doctor", *pair]) == 1
    assert "they are turned against each other" in capsys.readouterr().out
    words = ["doctor", *pair, "--calibration", str(raw_folder / "rig.yaml")]
    assert main([*words, "--disparity-error", "0.5", "--distances", "2", "4"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^raw views +rows differ by \d", text, re.MULTILINE)
    assert re.search(r"^rectified +yes, rows differ by 0\.\d\d px", text, re.MULTILINE)
    assert re.search(
        r"^depth error +4\d\.\d mm at 2 m, 0\.\d+ m at 4 m, where disparity is 0\.5 px", text, re.MULTILINE
    )
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["raw"]["vertical_median"] > 3
    assert found["vertical_median"] < 0.2
    assert set(found["depth_error"]) == {"1", "5", "10"}
    assert main([*words, "--rectify", "no"]) == 2
    assert "raw cameras alone" in capsys.readouterr().err


# --- real pictures ---


@pytest.mark.parametrize(
    ("folder", "count", "rms", "baseline"),
    [("opencv_doc/calibration", 13, 0.25, 0.083), ("checkerboard_sourishg/2", 28, 0.25, 0.097)],
)
def test_real_boards(shared_data, folder, count, rms, baseline):
    done = calibrate_files(find_pairs(shared_data(f"data/calibration/{folder}")), BOARD)
    assert len(done.pairs) == count
    assert len(done.used) >= count - 2
    assert done.rms < rms
    assert done.row_error < 0.2
    assert done.rig.baseline == pytest.approx(baseline, abs=0.001)


def test_real_raw_pair_in_one_command(shared_data, tmp_path, capsys):
    folder = shared_data("data/sequences/euroc/MicroEuroc/mav0")
    name = sorted((folder / "cam0/data").glob("*.png"))[0].name
    words = [str(folder / camera / "data" / name) for camera in ("cam0", "cam1")]
    words += ["--calibration", str(folder / "cam0/sensor.yaml")]
    assert main(["depth", *words, "--model", "sgbm", "--out", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rectified_here"] is True
    assert report["points"] > 200_000
    assert 1 < report["depth"]["median"] < 10
    assert main(["doctor", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["raw"]["vertical_median"] > 12
    assert abs(found["vertical_bias"]) < 0.1
    assert found["vertical_median"] < 0.2


def test_the_python_of_the_page(raw_folder, tmp_path, monkeypatch):
    page = Path(__file__).parents[1] / "docs" / "rigs.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for side in ("left", "right"):
        shutil.copy(raw_folder / side / "2.0.png", tmp_path / f"{side}.png")
    shutil.copy(raw_folder / "rig.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(compile(block, "rigs.md", "exec"), found)
    assert found["depth"].depth[found["depth"].valid].median() == pytest.approx(2, rel=0.02)
