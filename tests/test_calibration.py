from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stereopsis.calibration import RawCamera, StereoRig, read_calibration, read_rig, write_calibration
from stereopsis.geometry import disparity_to_depth
from stereopsis.io import find_pairs, read_image
from stereopsis.types import StereoCalibration

RIG = StereoCalibration(994.978, 990.1, 311.193, 254.877, 342.279, 0.193001, 64, 48, 70)

# One rig (f 700 px, cx 320.5, cy 240.25, B 0.12 m), written by hand as each format's own tools write it.
MIDDLEBURY = """cam0=[700 0 320.5; 0 700 240.25; 0 0 1]
cam1=[700 0 330.5; 0 700 240.25; 0 0 1]
doffs=10
baseline=120
width=640
height=480
ndisp=70
isint=0
vmin=3
vmax=62
dyavg=0
dymax=0
"""
KITTI = """P0: 700 0 320.5 0 0 700 240.25 0 0 0 1 0
P1: 700 0 320.5 -350 0 700 240.25 0 0 0 1 0
P2: 700 0 320.5 45.38 0 700 240.25 -0.1130887 0 0 1 3.779761e-03
P3: 700 0 330.5 -38.62 0 700 240.25 0.2 0 0 1 4.9e-03
Tr_velo_to_cam: 1 0 0 0 0 1 0 0 0 0 1 0
"""
KITTI_RAW = """calib_time: 09-Jan-2012 13:57:47
corner_dist: 9.950000e-02
S_02: 1392 512
S_rect_02: 6.400000e+02 4.800000e+02
P_rect_02: 700 0 320.5 45.38 0 700 240.25 0 0 0 1 0
P_rect_03: 700 0 330.5 -38.62 0 700 240.25 0 0 0 1 0
"""
OPENCV = """%YAML:1.0
---
P1: !!opencv-matrix
   rows: 3
   cols: 4
   dt: d
   data: [ 7.0e+02, 0., 3.2050000000000000e+02, 0., 0., 700., 240.25,
       0., 0., 0., 1., 0. ]
P2: !!opencv-matrix
   rows: 3
   cols: 4
   dt: d
   data: [ 700., 0., 330.5, -84., 0., 700., 240.25, 0., 0., 0., 1., 0. ]
"""
OPENCV_Q = """%YAML:1.0
---
Q: !!opencv-matrix
   rows: 4
   cols: 4
   dt: d
   data: [ 1., 0., 0., -320.5, 0., 1., 0., -240.25, 0., 0., 0., 700.,
       0., 0., 8.3333333333333339e+00, 83.333333333333329 ]
"""
ROS = """image_width: 640
image_height: 480
camera_name: {view}
camera_matrix:
  rows: 3
  cols: 3
  data: [720, 0, 310, 0, 721, 250, 0, 0, 1]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.1, 0.01, 0.0001, 0, 0]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1, 0, 0, 0, 1, 0, 0, 0, 1]
projection_matrix:
  rows: 3
  cols: 4
  data: [700, 0, {cx}, {shift}, 0, 700, 240.25, 0, 0, 0, 1, 0]
"""
K_TXT = "700.0 0.0 320.5 0.0 700.0 240.25 0.0 0.0 1.0 \n0.12\n"

FORMATS = {
    "middlebury": ({"calib.txt": MIDDLEBURY}, 10.0),
    "middlebury without cam1": ({"calib.txt": MIDDLEBURY.replace("cam1", "unused")}, 10.0),
    "middlebury without doffs": ({"calib.txt": MIDDLEBURY.replace("doffs", "unused")}, 10.0),
    "kitti colour": ({"000070.txt": KITTI}, 10.0),
    "kitti cam to cam": ({"calib_cam_to_cam.txt": KITTI_RAW}, 10.0),
    "opencv": ({"extrinsics.yml": OPENCV}, 10.0),
    "opencv Q": ({"q.yaml": OPENCV_Q}, 10.0),
    "ros": (
        {
            "left.yaml": ROS.format(view="left", cx=320.5, shift=0),
            "right.yaml": ROS.format(view="right", cx=330.5, shift=-84),
        },
        10.0,
    ),
    "k": ({"K.txt": K_TXT}, 0.0),
}


def _write(folder, files):
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder / next(iter(files))


def _same(a: StereoCalibration, b: StereoCalibration) -> None:
    for name in ("fx", "fy", "cx", "cy", "cx_right", "baseline"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-12, abs=1e-9), name


@pytest.mark.parametrize("name", FORMATS)
def test_depth_of_a_plane_is_right_through_every_format(tmp_path, name):
    files, doffs = FORMATS[name]
    calibration = read_calibration(_write(tmp_path, files))
    assert calibration.doffs == pytest.approx(doffs)
    # The slanted plane n.X = 1 seen by a pinhole at the principal point 320.5, 240.25 with f 700.
    normal = np.array([0.05, -0.08, 0.4])
    y, x = np.mgrid[0:480, 0:640].astype(np.float64)
    z = 1 / (normal[0] * (x - 320.5) / 700 + normal[1] * (y - 240.25) / 700 + normal[2])
    disparity = torch.from_numpy(700 * 0.12 / z - doffs).float()[None, None]
    depth = disparity_to_depth(disparity, calibration)
    assert depth.valid.all()
    np.testing.assert_allclose(depth.depth[0, 0].numpy(), z, rtol=1e-4)


def test_kitti_grey_pair_and_missing_pair(tmp_path):
    path = _write(tmp_path, {"calib.txt": KITTI})
    grey = read_calibration(path, cameras="grey")
    assert (grey.baseline, grey.doffs) == (0.5, 0.0)
    path.write_text("\n".join(KITTI.splitlines()[:2]))
    assert read_calibration(path).baseline == 0.5
    with pytest.raises(ValueError, match="lacks P2 and P3"):
        read_calibration(path, cameras="colour")


def test_sizes_come_from_the_formats_that_have_them(tmp_path):
    for name in ("middlebury", "kitti cam to cam", "ros"):
        calibration = read_calibration(_write(tmp_path, FORMATS[name][0]))
        assert (calibration.width, calibration.height) == (640, 480), name
    assert read_calibration(_write(tmp_path, {"calib.txt": MIDDLEBURY})).ndisp == 70


def test_real_kitti_file(shared_data):
    path = shared_data("data/stereo/kitti2012/calib/000070.txt")
    colour, grey = read_calibration(path), read_calibration(path, cameras="grey")
    assert colour.baseline == pytest.approx((45.38225 + 337.2877) / 718.856)
    assert grey.baseline == pytest.approx(386.1448 / 718.856)


def test_real_k_txt(shared_data):
    calibration = read_calibration(shared_data("data/pairs/foundationstereo/K.txt"))
    assert (calibration.baseline, calibration.fx) == (0.063, 754.6680908203125)


def test_opencv_documentation_intrinsics_are_a_raw_rig(shared_data):
    path = shared_data("data/calibration/opencv_doc/calibration/intrinsics.yml")
    for read in (read_calibration, read_rig):
        with pytest.raises(ValueError, match="lacks R, T"):
            read(path)


positive = st.floats(1e-2, 1e5)
point = st.floats(-1e4, 1e4)
sizes = st.integers(20, 10000)


@st.composite
def calibrations(draw, doffs=True):
    width, height = draw(sizes), draw(sizes)
    # Elsewhere the file would be suspected, and its size corrected.
    near = st.floats(0.4, 0.6)
    cx = draw(near) * width
    return StereoCalibration(
        draw(positive), draw(positive), cx, draw(near) * height, draw(point) if doffs else cx,
        draw(st.floats(1e-3, 10)), width, height, draw(sizes),
    )  # fmt: skip


@pytest.mark.parametrize("format", ["middlebury", "kitti", "kitti-cam-to-cam", "opencv", "ros", "k"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_round_trip(tmp_path_factory, format, data):
    calibration = data.draw(calibrations(doffs=format != "k"))
    folder = tmp_path_factory.mktemp("calibration")
    path = folder if format == "ros" else folder / ("c.yml" if format == "opencv" else "c.txt")
    write_calibration(calibration, path, format=format)
    # A unit is passed so that the plausibility of the drawn baseline is not what is tested here.
    read = read_calibration(path, unit=0.001 if format == "middlebury" else 1.0)
    _same(read, calibration)
    if format in {"middlebury", "opencv", "ros", "kitti-cam-to-cam"}:
        assert (read.width, read.height) == (calibration.width, calibration.height)
    assert {p.name[0] for p in folder.iterdir()} <= set("clr")


def test_opencv_reads_what_is_written(tmp_path):
    write_calibration(RIG, tmp_path / "c.yml", format="opencv")
    storage = cv2.FileStorage(str(tmp_path / "c.yml"), cv2.FILE_STORAGE_READ)
    np.testing.assert_array_equal(storage.getNode("Q").mat(), RIG.Q)
    np.testing.assert_array_equal(storage.getNode("P2").mat(), RIG.projections[1])


def test_reads_what_opencv_writes(tmp_path):
    storage = cv2.FileStorage(str(tmp_path / "c.yml"), cv2.FILE_STORAGE_WRITE)
    for name, value in zip(("P1", "P2"), RIG.projections, strict=True):
        storage.write(name, value)
    storage.release()
    _same(read_calibration(tmp_path / "c.yml"), RIG)


def test_format_follows_from_the_name(tmp_path):
    for name in ("calib.txt", "rig.yaml", ""):
        write_calibration(RIG, tmp_path / name)
        _same(read_calibration(tmp_path / name), RIG)
    assert (tmp_path / "rig.yaml").read_text().startswith("%YAML:1.0")
    assert (tmp_path / "right.yaml").is_file()


def test_two_opencv_files_are_one_rig(tmp_path):
    write_calibration(replace(RIG, width=640, height=480), tmp_path / "all.yml", format="opencv")
    # The matrices end up in two files, as OpenCV's stereo_calib sample splits them.
    blocks = (tmp_path / "all.yml").read_text().split("\nR:")
    (tmp_path / "intrinsics.yml").write_text(blocks[0] + "\n")
    (tmp_path / "extrinsics.yml").write_text("%YAML:1.0\n---\nR:" + blocks[1])
    (tmp_path / "all.yml").unlink()
    _same(read_calibration(tmp_path), RIG)
    with pytest.raises(ValueError, match="fisheye camera has 5"):
        read_rig(tmp_path, model="fisheye")
    rig = read_rig(tmp_path)
    np.testing.assert_allclose(rig.T, [-RIG.baseline, 0, 0])
    assert (rig.width, rig.height) == (640, 480)
    _same(rig.rectify(alpha=None).calibration, RIG)


def test_q_agrees_with_opencv():
    camera = np.array([[700.0, 0, 320], [0, 700, 240], [0, 0, 1]])
    shifted = np.array([[700.0, 0, 330], [0, 700, 240], [0, 0, 1]])
    zeros = np.zeros(5)
    translation = np.array([[-0.12], [0], [0]])
    *_, p1, p2, q, _, _ = cv2.stereoRectify(camera, zeros, shifted, zeros, (640, 480), np.eye(3), translation, flags=0)
    calibration = StereoCalibration.from_projections(p1, p2)
    np.testing.assert_allclose(calibration.Q, q, atol=1e-9)
    assert calibration.doffs != 0


def test_scale_maps_outer_edges_onto_each_other():
    # Centres are integers: the left edge of the image is at -0.5 before and after.
    half = replace(RIG, cx=-0.5, cy=-0.5, cx_right=63.5).scale(0.5)
    assert (half.cx, half.cy, half.cx_right) == (-0.5, -0.5, 31.5)
    assert (half.width, half.height, half.ndisp) == (32, 24, 35)
    assert half.baseline == RIG.baseline
    wide = RIG.scale(2, 1)
    assert (wide.fx, wide.fy, wide.doffs) == pytest.approx((2 * RIG.fx, RIG.fy, 2 * RIG.doffs))


@pytest.mark.parametrize("factor", [2, 4])
def test_scale_agrees_with_an_area_resize(factor):
    """A ramp that names its own column says where the resize put each column."""
    ramp = np.tile(np.arange(64, dtype=np.float32), (48, 1))
    small = cv2.resize(ramp, (64 // factor, 48 // factor), interpolation=cv2.INTER_AREA)[0]
    scaled = RIG.resize(64 // factor, 48 // factor)
    np.testing.assert_allclose((small - RIG.cx) / RIG.fx, (np.arange(small.size) - scaled.cx) / scaled.fx, rtol=1e-5)


def test_scaled_and_cropped_rigs_see_the_same_points():
    disparity = torch.full((1, 1, 48, 64), 20.0)
    whole = disparity_to_depth(disparity, RIG).depth[..., 0, 0]
    half = disparity_to_depth(torch.full((1, 1, 24, 32), 10.0), RIG.scale(0.5)).depth[..., 0, 0]
    part = disparity_to_depth(torch.full((1, 1, 8, 16), 20.0), RIG.crop(4, 8, 8, 16)).depth[..., 0, 0]
    torch.testing.assert_close(whole, half)
    torch.testing.assert_close(whole, part)
    assert RIG.crop(4, 8, 8, 16).cx == RIG.cx - 8
    assert RIG.crop(4, 8, 8, 16).doffs == pytest.approx(RIG.doffs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fx": 0}, "focal length fx is 0"),
        ({"fy": -1}, "focal length fy is -1"),
        ({"baseline": -0.1}, "baseline is -0.1 m.*swap"),
        ({"baseline": 0}, "baseline is 0 m"),
        ({"cx": float("nan")}, "cx is nan"),
        ({"width": 0}, "width is 0"),
        ({"height": 2.5}, "height is 2.5"),
    ],
)
def test_impossible_rigs_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(RIG, **change)


def test_impossible_changes_are_refused():
    with pytest.raises(ValueError, match="sx is 0"):
        RIG.scale(0)
    with pytest.raises(ValueError, match="inside the image"):
        RIG.crop(0, 60, 10, 10)
    with pytest.raises(ValueError, match="at least one pixel"):
        RIG.crop(0, 0, 0, 10)
    with pytest.raises(ValueError, match="image size"):
        replace(RIG, width=None).resize(10, 10)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("calib.txt", MIDDLEBURY.replace("doffs=10", "doffs=12"), "doffs is 12 px and cam1 - cam0 gives 10"),
        ("calib.txt", MIDDLEBURY.replace("baseline=120", "baseline=0.12"), "below 0.001 m; pass unit=1"),
        ("calib.txt", MIDDLEBURY.replace("baseline=120", "baseline=-120"), "baseline is -0.12 m"),
        ("calib.txt", MIDDLEBURY.replace("baseline=120", "baseline=wide"), "baseline is 'wide'"),
        ("calib.txt", MIDDLEBURY.replace("baseline", "length"), "no line baseline="),
        ("calib.txt", MIDDLEBURY.replace("cam1", "a").replace("doffs", "b"), "neither cam1 nor doffs"),
        ("calib.txt", MIDDLEBURY.replace("700 0 ", "0 0 "), "focal length is 0 x 700"),
        ("calib.txt", MIDDLEBURY.replace("cam1=[700 0", "cam1=[690 0"), "focal lengths of the views are 700 and 690"),
        ("calib.txt", MIDDLEBURY.replace("0 700 240.25; 0 0 1]\ncam1", "0 700 250; 0 0 1]\ncam1"), "rows 250 and"),
        ("calib.txt", KITTI.replace("-38.62", "138.62"), "baseline is -0.133"),
        ("calib.txt", KITTI.replace("P2: 700 0", "P2: 700"), "P2 holds 11 numbers; it must hold 12"),
        ("calib.txt", KITTI.replace("P2: 700", "P2: nan"), "not finite"),
        ("K.txt", K_TXT.replace("0.12", "120"), "above 10 m; pass unit=0.001"),
        ("K.txt", K_TXT.replace("0.12", ""), "holds 9 numbers; it must hold 10"),
        ("c.yml", OPENCV.replace("-84.", "84."), "baseline is -0.12 m.*swap"),
        ("c.yml", OPENCV.replace("-84., 0., 700., 240.25, 0.", "0., 0., 700., 240.25, -84."), "along y"),
        ("c.yml", OPENCV.replace("-84.,", ""), "P2 holds 11 numbers"),
        ("c.yml", "%YAML:1.0\n---\na: [1, 2\nb: 3\n", "not valid YAML"),
        ("c.yml", "%YAML:1.0\n---\na: 1\n", "no known calibration format"),
        ("calib.txt", "hello", "no known calibration format"),
        ("calib.txt", " \n", "is empty"),
        ("left.yaml", ROS.format(view="left", cx=320, shift=0), "describes one camera"),
    ],
)
def test_wrong_files_are_refused_in_one_sentence(tmp_path, name, text, words):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        read_calibration(path)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_unit_overrules_the_formats_own(tmp_path):
    (tmp_path / "K.txt").write_text(K_TXT.replace("0.12", "120"))
    assert read_calibration(tmp_path, unit=0.001).baseline == pytest.approx(0.12)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_calibration(tmp_path / "calib.txt")
    with pytest.raises(ValueError, match="is a folder"):
        read_calibration(tmp_path)
    (tmp_path / "calib.txt").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match="not a text file"):
        read_calibration(tmp_path / "calib.txt")


def test_formats_refuse_what_they_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match=r"doffs is 31.086 px and K.txt has no place"):
        write_calibration(RIG, tmp_path / "K.txt", format="k")
    with pytest.raises(ValueError, match="no image size"):
        write_calibration(replace(RIG, width=None), tmp_path, format="ros")
    with pytest.raises(ValueError, match="format is 'xml'"):
        write_calibration(RIG, tmp_path / "c.xml", format="xml")
    with pytest.raises(ValueError, match="which view"):
        write_calibration(RIG, tmp_path / "camera.yaml", format="ros")
    assert not list(tmp_path.iterdir())


def test_ros_raw_rig_rectifies_as_its_file_says(tmp_path):
    files = FORMATS["ros"][0]
    rig = read_rig(_write(tmp_path, files))
    np.testing.assert_allclose(rig.T, [-0.12, 0, 0])
    stored = rig.rectify(alpha=None)
    assert stored.calibration.doffs == pytest.approx(10)
    fresh = rig.rectify(alpha=0)
    assert fresh.calibration.baseline == pytest.approx(0.12)
    with pytest.raises(ValueError, match="alpha is 2"):
        rig.rectify(alpha=2)


def test_ros_rectification_says_how_the_cameras_stand(tmp_path):
    camera = np.array([[720.0, 0, 310], [0, 721, 250], [0, 0, 1]])
    rotation, _ = cv2.Rodrigues(np.array([0.02, -0.03, 0.015]))
    translation = np.array([[-0.1], [0.004], [0.002]])
    zeros = np.zeros(5)
    r1, r2, p1, p2, *_ = cv2.stereoRectify(camera, zeros, camera, zeros, (640, 480), rotation, translation)
    identity = "data: [1, 0, 0, 0, 1, 0, 0, 0, 1]"
    for view, r, p in (("left", r1, p1), ("right", r2, p2)):
        text = ROS.format(view=view, cx=p[0, 2], shift=p[0, 3]).replace(identity, f"data: {r.ravel().tolist()}")
        (tmp_path / f"{view}.yaml").write_text(text.replace("[700, 0,", f"[{p[0, 0]}, 0,"))
    rig = read_rig(tmp_path)
    np.testing.assert_allclose(rig.R, rotation, atol=1e-9)
    np.testing.assert_allclose(rig.T, translation.ravel(), atol=1e-9)


def _project(camera: RawCamera, points: np.ndarray) -> np.ndarray:
    zero = np.zeros(3)
    if camera.model == "fisheye":
        pixels, _ = cv2.fisheye.projectPoints(points[None], zero, zero, camera.K, camera.distortion)
    else:
        pixels, _ = cv2.projectPoints(points, zero, zero, camera.K, camera.distortion)
    return pixels.reshape(-1, 2)


@pytest.mark.parametrize("model", ["pinhole", "fisheye"])
def test_rectification_maps_agree_with_the_projection_of_known_points(model):
    """A rectified pixel must look up the raw pixel in which the same point of the scene was seen."""
    k = np.array([[150.0, 0, 158], [0, 151, 122], [0, 0, 1]])
    coefficients = [-0.2, 0.05, 0.001, -0.0005] if model == "pinhole" else [-0.02, 0.004, -0.001, 0.0002]
    rotation, _ = cv2.Rodrigues(np.array([0.02, -0.03, 0.015]))
    camera = RawCamera(k, np.array(coefficients), model)
    rig = StereoRig(camera, camera, rotation, np.array([-0.1, 0.004, 0.002]), 320, 240)
    rectification = rig.rectify()
    c = rectification.calibration
    assert c.baseline == pytest.approx(rig.baseline, rel=1e-6)
    generator = np.random.default_rng(0)
    points = generator.uniform([-0.8, -0.6, 2], [0.8, 0.6, 4], (60, 3))
    raw_left = _project(camera, points)
    raw_right = _project(camera, points @ rig.R.T + rig.T)

    def lookup(position, raw):
        """The rectified pixel whose source is nearest to the raw one, refined by the local slope of the map."""
        distance = np.linalg.norm(position[None] - raw[:, None, None], axis=-1).reshape(len(raw), -1)
        rows, columns = np.divmod(distance.argmin(1), position.shape[1])
        gy, gx = np.gradient(position, axis=(0, 1))
        jacobian = np.stack([gx[rows, columns], gy[rows, columns]], axis=-1)
        step = np.linalg.solve(jacobian, (raw - position[rows, columns])[..., None])[..., 0]
        return np.stack([columns, rows], axis=-1) + step

    left = lookup(rectification.left_map, raw_left)
    right = lookup(rectification.right_map, raw_right)
    inside = ((left > 2) & (left < [317, 237]) & (right > 2) & (right < [317, 237])).all(1)
    assert inside.sum() > 30
    np.testing.assert_allclose(left[inside, 1], right[inside, 1], atol=0.05)
    disparity = left[inside, 0] - right[inside, 0]
    depth = c.fx * c.baseline / (disparity + c.doffs)
    # The rectified camera is the raw one turned, so the distance to the point is what both agree on.
    x, y = (left[inside, 0] - c.cx) / c.fx, (left[inside, 1] - c.cy) / c.fy
    np.testing.assert_allclose(depth * np.sqrt(1 + x**2 + y**2), np.linalg.norm(points[inside], axis=1), rtol=5e-3)


def test_rectification_keeps_shapes_and_refuses_other_sizes():
    camera = RawCamera(np.diag([50.0, 50, 1]) + np.array([[0, 0, 32], [0, 0, 24], [0, 0, 0]]), np.zeros(4))
    rectification = StereoRig(camera, camera, np.eye(3), np.array([-0.1, 0, 0]), 64, 48).rectify()
    image = torch.rand(2, 3, 48, 64)
    left, right = rectification(image, image[0, :1])
    assert left.shape == image.shape
    assert right.shape == (1, 48, 64)
    torch.testing.assert_close(left, image, atol=1e-2, rtol=0)
    assert all(mask.shape == (1, 48, 64) for mask in rectification.valid())
    with pytest.raises(ValueError, match="calibrated at 64 x 48"):
        rectification(image[..., :-1], image)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"R": 2 * np.eye(3)}, "deviates from a rotation"),
        ({"T": np.zeros(3)}, "not 0"),
        ({"right": RawCamera(np.eye(3), np.zeros(4), "fisheye")}, "one model"),
    ],
)
def test_impossible_raw_rigs_are_refused(change, words):
    camera = RawCamera(np.eye(3), np.zeros(4))
    with pytest.raises(ValueError, match=words):
        replace(StereoRig(camera, camera, np.eye(3), np.array([-0.1, 0, 0])), **change)


def test_raw_rig_needs_size_stored_maps_and_the_right_order():
    camera = RawCamera(np.diag([50.0, 50, 1]) + np.array([[0, 0, 32], [0, 0, 24], [0, 0, 0]]), np.zeros(4))
    rig = StereoRig(camera, camera, np.eye(3), np.array([-0.1, 0, 0]))
    with pytest.raises(ValueError, match=r"pass size="):
        rig.rectify()
    with pytest.raises(ValueError, match="stores no rectification"):
        rig.rectify(None, size=(64, 48))
    assert rig.rectify(size=(64, 48)).calibration.width == 64
    with pytest.raises(ValueError, match="was calibrated at 32 x 24"):
        replace(rig, width=32, height=24).rectify(size=(64, 48))
    with pytest.raises(ValueError, match="swap"):
        replace(rig, T=-rig.T).rectify(size=(64, 48))
    with pytest.raises(ValueError, match="3 distortion coefficients"):
        RawCamera(camera.K, np.zeros(3))


def _vertical_offset(left: torch.Tensor, right: torch.Tensor) -> float:
    """Median absolute difference of rows of matched corners, in pixels."""
    detector = cv2.ORB_create(1500)
    (kp_left, d_left), (kp_right, d_right) = (
        detector.detectAndCompute((view[0].numpy() * 255).astype(np.uint8), None) for view in (left, right)
    )
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(d_left, d_right)
    good = [m for m in matches if m.distance < 40]
    assert len(good) > 200
    return float(np.median([abs(kp_left[m.queryIdx].pt[1] - kp_right[m.trainIdx].pt[1]) for m in good]))


def test_real_raw_pairs_line_up_after_rectification(shared_data):
    folder = shared_data("data/sequences/euroc/MicroEuroc/mav0")
    with pytest.raises(ValueError, match=r"read_rig\(\)"):
        read_calibration(folder)
    rig = read_rig(folder)
    assert rig.baseline == pytest.approx(0.110, abs=1e-3)
    rectification = rig.rectify()
    for pair in find_pairs(folder)[::4]:
        left, right = read_image(pair.left, 1), read_image(pair.right, 1)
        assert _vertical_offset(left, right) > 8
        assert _vertical_offset(*rectification(left, right)) < 0.5
