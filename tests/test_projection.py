"""Rectifications that OpenCV makes unusable, and what stands in their place."""

import json
import warnings

import cv2
import numpy as np
import pytest
import torch

from stereopsis.calibration import Board, RawCamera, StereoRig, read_rig
from stereopsis.calibration.boards import Corners
from stereopsis.calibration.calibrate import BoardPair, calibrate
from stereopsis.calibration.fisheye import solve_camera
from stereopsis.calibration.projection import reach
from stereopsis.calibration.rectification import CameraFile, rectify_with
from stereopsis.cli import main
from stereopsis.io import read_image, read_point_cloud


def _rig(k, d, model, size, turn=(0.003, -0.004, 0.002), place=(-0.1, 0.001, 0.0005)):
    cameras = [RawCamera(np.array(k, float), np.array(d), model) for _ in "lr"]
    return StereoRig(*cameras, cv2.Rodrigues(np.array(turn))[0], np.array(place), *size)


def _k(f, cx, cy):
    return [[f, 0, cx], [0, f, cy], [0, 0, 1]]


# Lenses whose corners lie beyond 90 degrees, beyond their image circle, or where their polynomial turns back.
WIDE = {
    "tracking camera": _rig(_k(286.0, 424.5, 400.2), [-0.0022, 0.038, -0.036, 0.0058], "fisheye", (848, 800)),
    "circle inside the image": _rig(_k(200.0, 640.0, 475.0), [0.01, -0.005, 0.002, -0.0003], "fisheye", (1280, 960)),
    "220 degrees": _rig(_k(330.0, 631.0, 492.6), [-0.0154, 0.0066, -0.0049, 0.0006], "fisheye", (1280, 960)),
    "polynomial that turns back": _rig(_k(250.0, 321.0, 239.0), [-0.15, 0.01, 0.0, 0.0], "fisheye", (640, 480)),
    "barrel": _rig(_k(300.0, 320.0, 240.0), [-0.5, 0.12, 0.0, 0.0, 0.0], "pinhole", (640, 480)),
    "barrel that turns back": _rig(_k(240.0, 322.0, 238.0), [-0.35, 0.03, 0.0, 0.0, 0.0], "pinhole", (640, 480)),
    "unmeasured corners": _rig(_k(420.0, 330.0, 240.0), [0.1, -0.8, 0.0, 0.0, -3.0], "pinhole", (640, 480)),
}


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_every_rectification_is_usable_or_refused(name, alpha):
    rig = WIDE[name]
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        rectification = rig.rectify(alpha)
        r1, _, p1, _ = rig.rectifying(alpha)
    c = rectification.calibration
    assert 0 <= c.cx < rig.width
    assert 0 <= c.cy < rig.height
    assert 0.25 <= c.fx / rig.left.K[0, 0] <= 2
    axis = p1[:, :3] @ r1[:, 2]
    np.testing.assert_allclose(axis[:2] / axis[2], rig.left.K[:2, 2], atol=0.25 * rig.width)
    valid = rectification.valid()[0][0].numpy()
    assert valid.mean() > 0.25
    for i, extent in enumerate((rig.width, rig.height)):
        assert np.ptp(rectification.left_map[..., i][valid]) > 0.4 * extent
    assert c.baseline == pytest.approx(rig.baseline, rel=1e-4)


@pytest.mark.parametrize("name", WIDE)
def test_points_lie_where_the_rectified_views_put_them(name):
    """Each valid rectified pixel looks up the raw pixel in which its ray was seen, also where OpenCV's map folds."""
    rig = WIDE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rectification = rig.rectify()
        r1, _, p1, _ = rig.rectifying()
    valid = rectification.valid()[0][0].numpy()
    rows, columns = np.nonzero(valid)
    chosen = np.random.default_rng(0).integers(0, len(rows), 200)
    pixels = np.stack([columns[chosen], rows[chosen], np.ones(200)])
    rays = (r1.T @ np.linalg.inv(p1[:, :3]) @ pixels).T
    zero = np.zeros(3)
    project = cv2.fisheye.projectPoints if rig.left.model == "fisheye" else cv2.projectPoints
    seen, _ = project(rays[:, None] / rays[:, None, 2:], zero, zero, rig.left.K, rig.left.distortion)
    looked_up = rectification.left_map[rows[chosen], columns[chosen]]
    np.testing.assert_allclose(looked_up, seen.reshape(-1, 2), atol=0.05)
    angles = np.arccos(rays[:, 2] / np.linalg.norm(rays, axis=1))
    assert angles.max() < reach(rig.left)


def test_the_reach_of_a_lens():
    assert reach(RawCamera(np.eye(3), np.zeros(5))) > np.radians(89)
    assert reach(RawCamera(np.eye(3), np.zeros(4), "fisheye")) == pytest.approx(np.pi, abs=0.01)
    # r (1 - r^2 / 3) turns back at r = 1, which is 45 degrees.
    assert reach(RawCamera(np.eye(3), np.array([-1 / 3, 0, 0, 0]))) == pytest.approx(np.radians(45), abs=0.001)
    assert reach(RawCamera(np.eye(3), np.array([-1 / 3, 0, 0, 0]), "fisheye")) == pytest.approx(1, abs=0.002)


def test_a_stated_field_of_view():
    rig = WIDE["tracking camera"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fov in (40, 60, 90, 120):
            c = rig.rectify(fov=fov).calibration
            assert c.fx == pytest.approx(rig.width / 2 / np.tan(np.radians(fov / 2)))
    for wrong in (5, 175, -1):
        with pytest.raises(ValueError, match="field of view is"):
            rig.rectify(fov=wrong)
    narrow = WIDE["barrel that turns back"]
    with pytest.warns(UserWarning, match=r"rectification to 155 degrees is doubtful: \d+% of the pixels"):
        narrow.rectify(fov=155)


def test_a_usual_rig_is_rectified_as_opencv_does():
    rig = _rig(_k(420.0, 318.0, 241.0), [-0.21, 0.06, 0.0006, -0.0004, 0.0], "pinhole", (640, 480))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rig.rectifying()
    r1, r2, p1, p2, *_ = cv2.stereoRectify(
        rig.left.K, rig.left.distortion, rig.right.K, rig.right.distortion, (640, 480), rig.R, rig.T[:, None], alpha=0,
        flags=cv2.CALIB_ZERO_DISPARITY,
    )  # fmt: skip
    for matrix, wanted in zip(found, (r1, r2, p1, p2), strict=True):
        np.testing.assert_allclose(matrix, wanted, atol=1e-9)


def test_cameras_that_no_plane_shows_are_refused():
    # The cameras look 100 degrees apart.
    rig = _rig(_k(400.0, 320, 240), [0.0] * 4, "fisheye", (640, 480), turn=(0, 1.75, 0))
    with pytest.raises(ValueError, match="cannot be rectified to planes"):
        rig.rectify()


def test_a_stored_rectification_that_is_unusable_is_replaced(tmp_path):
    from stereopsis.calibration import write_rig

    rig = WIDE["220 degrees"]
    matrices = cv2.fisheye.stereoRectify(
        rig.left.K, rig.left.distortion, rig.right.K, rig.right.distortion, (1280, 960), rig.R, rig.T[:, None],
        flags=cv2.CALIB_ZERO_DISPARITY, balance=0.0,
    )[:4]  # fmt: skip
    bad = StereoRig(rig.left, rig.right, rig.R, rig.T, 1280, 960, matrices)
    with pytest.warns(UserWarning, match="that the file stores is doubtful"):
        bad.rectifying(None)
    write_rig(bad, tmp_path / "rig.yaml")
    view = torch.rand(3, 960, 1280)
    with pytest.warns(UserWarning, match="another one is computed"):
        pair = rectify_with(view, view, CameraFile(tmp_path / "rig.yaml"), rectify="yes")
    assert 0 <= pair.calibration.cy < 960


@pytest.mark.parametrize("name", ["rig.yml", "rig_b.yml"])
def test_case_fisheye_beyond_90_degrees(shared_data, name):
    rig = read_rig(shared_data(f"cases/fisheye-beyond-90-degrees/{name}"))
    with pytest.warns(UserWarning, match=r"field of view of 1\d\d degrees"):
        rectification = rig.rectify()
    c = rectification.calibration
    assert 0.25 <= c.fx / rig.left.K[0, 0] <= 2
    assert (c.cx, c.cy) == pytest.approx(tuple(rig.left.K[:2, 2]), abs=3)
    valid = rectification.valid()[0][0].numpy()
    for i, extent in enumerate((rig.width, rig.height)):
        assert np.ptp(rectification.left_map[..., i][valid]) > 0.5 * extent


@pytest.mark.parametrize(
    ("case", "file", "depth"),
    [("fisheye-beyond-90-degrees", "rig.yml", 1.2), ("euroc-fisheye-crash", "cam0/sensor.yaml", 2.0)],
)
def test_case_depth_of_fisheye_pairs(shared_data, tmp_path, capsys, case, file, depth):
    folder = shared_data(f"cases/{case}")
    words = ["depth", str(folder / "left.png"), str(folder / "right.png"), "--calibration", str(folder / file)]
    assert main([*words, "--model", "sgbm", "--max-disparity", "64", "--out", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rig = read_rig(folder / file)
    assert report["baseline"] == pytest.approx(rig.baseline, rel=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        turn = rig.rectifying()[0]
    z = (read_point_cloud(tmp_path / "cloud.ply").points.numpy() @ turn)[:, 2]
    assert np.median(z) == pytest.approx(depth, rel=0.03)
    # Towards the edges of a wide view the pixels are stretched, and SGBM is off by a fraction of one.
    assert np.mean(np.abs(z / depth - 1) < 0.05) > 0.7


# --- fisheye calibration ---


def _seen(rig, board, rng, count=20, share=0.7):
    """Partly seen boards near a fisheye rig, with a twentieth of a pixel of noise."""
    pairs = []
    zero = np.zeros(3)
    for i in range(count):
        distance = rng.uniform(0.15, 0.35)
        place = np.array([rng.uniform(-1, 1) * distance, rng.uniform(-0.7, 0.7) * distance, distance])
        turn = cv2.Rodrigues(rng.uniform(-0.6, 0.6, 3))[0]
        left = (board.points - board.points.mean(0)) @ turn.T + place
        pixels, inside = [], rng.random(len(left)) < share
        for points, camera in ((left, rig.left), (left @ rig.R.T + rig.T, rig.right)):
            seen, _ = cv2.fisheye.projectPoints(points[:, None], zero, zero, camera.K, camera.distortion)
            seen = seen[:, 0] + rng.normal(0, 0.05, (len(left), 2))
            inside &= (points[:, 2] > 0.02) & (seen > 0).all(1) & (seen < (rig.width, rig.height)).all(1)
            pixels.append(seen.astype(np.float32))
        ids = np.flatnonzero(inside)
        if len(ids) >= 8:
            pairs.append(BoardPair(str(i), None, *(Corners(ids, side[ids]) for side in pixels)))
    return pairs


@pytest.mark.parametrize("focal", [0.28, 0.36, 0.5])
@pytest.mark.parametrize("size", [(640, 480), (1280, 800)])
def test_fisheye_rigs_of_partly_seen_boards(focal, size):
    board = Board(9, 7, 0.03, 0.02)
    rig = _rig(_k(focal * size[0], size[0] / 2 + 5, size[1] / 2 - 3), [0.03, -0.01, 0.004, -0.001], "fisheye", size)
    pairs = _seen(rig, board, np.random.default_rng(5))
    assert len({len(pair.left) for pair in pairs}) > 5
    done = calibrate(pairs, board, size, lens="fisheye")
    assert done.rms < 0.09
    assert not done.rejected
    np.testing.assert_allclose(done.rig.T, rig.T, atol=2e-4)
    assert done.rig.left.K[0, 0] == pytest.approx(rig.left.K[0, 0], rel=2e-3)


def test_corners_that_determine_nothing():
    board = Board(9, 7, 0.03, 0.02)
    nowhere = np.full((8, 2), np.nan, np.float32)
    with pytest.raises(ValueError, match="No focal length fits"):
        solve_camera([board.points[:8]], [nowhere], (640, 480))
    rig = _rig(_k(250, 325, 237), [0.03, -0.01, 0.004, -0.001], "fisheye", (640, 480))
    one = _seen(rig, board, np.random.default_rng(5), count=1)
    done = calibrate(one * 6, board, (640, 480), lens="fisheye")
    assert "tilted by 0 degrees" in " ".join(done.advice)


def test_case_fisheye_charuco(shared_data):
    corners = np.load(shared_data("cases/fisheye-charuco/corners.npz"))
    pairs = [
        BoardPair(str(i), None, *(Corners(corners[f"ids_{i}"], corners[f"{side}_{i}"]) for side in ("left", "right")))
        for i in range(20)
    ]
    done = calibrate(pairs, Board(9, 7, 0.03, 0.02), (640, 480), lens="fisheye")
    assert done.rms < 0.08
    np.testing.assert_allclose(done.rig.T, [-0.1, 0.001, -0.002], atol=2e-4)


def test_case_lens_models_give_one_depth(shared_data, tmp_path, capsys):
    folder = shared_data("cases/lens-model-swallowed")
    medians = []
    for name in ("plumb_bob", "radtan", "seven"):
        words = ["depth", str(folder / "left.png"), str(folder / "right.png"), "--calibration", str(folder / name)]
        assert main([*words, "--model", "sgbm", "--max-disparity", "64", "--out", str(tmp_path / name), "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["rectified_here"] is True
        medians.append(report["depth"]["median"])
    assert medians[0] == medians[1] == medians[2]
    assert read_image(folder / "left.png").shape[0] == 3
