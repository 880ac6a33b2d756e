"""Calibrations as tools write them: every form with every lens it can hold, what is doubtful, and what is refused."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from forms import (
    COEFFICIENTS,
    HEIGHT,
    RAW_FORMS,
    WIDTH,
    kalibr,
    make_rig,
    matlab,
    opencv,
    orbslam2_raw,
    ros,
    ros_echo,
    zed,
)

from stereopsis.calibration import (
    LensError,
    RawCamera,
    StereoRig,
    read_calibration,
    read_cameras,
    read_rig,
    write_calibration,
    write_rig,
)

# The unit of a reconstruction is arbitrary, and the file of a ZED holds several sizes.
GIVEN = {"colmap": {"unit": 1.0}, "zed": {"size": (1280, 720)}}
CASES = [(form, lens) for form, lenses in RAW_FORMS.items() for lens in lenses]


def _put(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / next(iter(files))


def _same_rig(rig, wanted):
    for camera, other in ((rig.left, wanted.left), (rig.right, wanted.right)):
        np.testing.assert_allclose(camera.K, other.K, rtol=1e-9, atol=1e-9)
        count = max(camera.distortion.size, other.distortion.size)
        padded = [np.pad(c.distortion, (0, count - c.distortion.size)) for c in (camera, other)]
        np.testing.assert_allclose(*padded, atol=1e-12)
        assert camera.model == other.model
    np.testing.assert_allclose(rig.R, wanted.R, atol=1e-7)
    np.testing.assert_allclose(rig.T, wanted.T, atol=1e-7)
    assert (rig.width, rig.height) == (wanted.width, wanted.height)


@pytest.mark.parametrize(("form", "lens"), CASES, ids=[f"{form.__name__}-{lens}" for form, lens in CASES])
def test_every_form_with_every_lens(tmp_path, form, lens):
    wanted = make_rig(lens)
    path = _put(tmp_path, form(wanted))
    if form is zed:
        wanted = replace(wanted, width=1280, height=720, **{
            side: replace(camera, K=np.diag([2.0, 2.0, 1.0]) @ camera.K)
            for side, camera in (("left", wanted.left), ("right", wanted.right))
        })  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rig = read_rig(path, **GIVEN.get(form.__name__, {}))
        _same_rig(rig, wanted)
        rig.rectify()
        cameras = read_cameras(path, **GIVEN.get(form.__name__, {}))
    assert (cameras.rig is None) == (lens == "none")
    assert cameras.problem is None
    if lens == "none":
        assert cameras.calibration.baseline == pytest.approx(0.1)
        assert (cameras.calibration.fx, cameras.calibration.cx) == pytest.approx(
            (wanted.left.K[0, 0], wanted.left.K[0, 2])
        )


RECTIFIED = {
    "cityscapes": {
        "camera.json": json.dumps(
            {"extrinsic": {"baseline": 0.12, "pitch": 0.03, "roll": 0.0, "x": 1.7, "y": 0.1, "yaw": -0.02, "z": 1.2},
             "intrinsic": {"fx": 700.0, "fy": 701.0, "u0": 320.5, "v0": 240.25}}
        )
    },
    "kitti-360": {
        "perspective.txt": "S_rect_00: 640 480\nR_rect_00: 1 0 0 0 1 0 0 0 1\n"
        "P_rect_00: 700 0 320.5 0 0 701 240.25 0 0 0 1 0\n"
        "S_rect_01: 640 480\nP_rect_01: 700 0 320.5 -84 0 701 240.25 0 0 0 1 0\n"
    },
    "drivingstereo": {
        "2018-07-11-14-48-52.txt": "calib_time: 2018\nS_101: 640 480\nT_103: -0.12 0 0\n"
        "P_rect_101: 700 0 320.5 0 0 701 240.25 0 0 0 1 0\nP_rect_103: 700 0 320.5 -84 0 701 240.25 0 0 0 1 0\n"
        "S_rect_101: 640 480\n"
    },
    "orb-slam2": {
        "KITTI00-02.yaml": "%YAML:1.0\n\n# Camera\nCamera.fx: 700.0\nCamera.fy: 701.0\n"
        "Camera.cx: 320.5\nCamera.cy: 240.25\n"
        "Camera.k1: 0.0\nCamera.width: 640\nCamera.height: 480\nCamera.bf: 84.0\nThDepth: 35\n"
    },
    "orb-slam3": {
        "KITTI.yaml": '%YAML:1.0\nFile.version: "1.0"\nCamera.type: "Rectified"\nCamera1.fx: 700.0\nCamera1.fy: 701.0\n'
        "Camera1.cx: 320.5\nCamera1.cy: 240.25\nCamera.width: 640\nCamera.height: 480\nStereo.b: 0.12\n"
    },
    "realsense with a baseline": {
        "d435.json": json.dumps(
            {"streams": [{"stream": f"infrared{i}", "intrinsics": {"width": 640, "height": 480,
             "ppx": 320.5, "ppy": 240.25, "fx": 700.0, "fy": 701.0, "model": "inverse_brown_conrady",
             "coeffs": [0, 0, 0, 0, 0]}} for i in (1, 2)],
             "baseline": 0.12}
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RECTIFIED)
def test_forms_of_rectified_views(tmp_path, name):
    path = _put(tmp_path, RECTIFIED[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_cameras(path)
    assert found.rig is None
    c = found.calibration
    assert (c.fx, c.fy, c.cx, c.cy, c.doffs) == pytest.approx((700, 701, 320.5, 240.25, 0)), name
    assert c.baseline == pytest.approx(0.12)
    if name != "cityscapes":
        assert (c.width, c.height) == (WIDTH, HEIGHT)


def test_half_size_files_of_drivingstereo_state_both_readings(tmp_path):
    files = {"half.txt": RECTIFIED["drivingstereo"]["2018-07-11-14-48-52.txt"].replace("-84", "-168")}
    with pytest.warns(UserWarning, match=r"0\.2400 m and T_103 0\.1200 m; that of T_103 is used"):
        assert read_calibration(_put(tmp_path, files)).baseline == pytest.approx(0.12)


def test_matlab_files_as_scipy_reads_them(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    wanted = make_rig("five")
    values = json.loads(matlab(wanted)["stereoParams.json"])
    plain = {key: np.array(value) if isinstance(value, list) else value for key, value in values.items()}
    savemat(tmp_path / "stereo.mat", {"stereoParams": plain})
    _same_rig(read_rig(tmp_path / "stereo.mat"), wanted)
    # From R2022b on, matrices are for columns.
    for i, camera in ((1, wanted.left), (2, wanted.right)):
        part = values[f"CameraParameters{i}"]
        del part["IntrinsicMatrix"]
        part["K"] = (camera.K + np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0]])).tolist()
    del values["RotationOfCamera2"], values["TranslationOfCamera2"]
    values["PoseCamera2"] = {"Dimensionality": 3, "R": wanted.R.tolist(), "Translation": (1000 * wanted.T).tolist()}
    (tmp_path / "new.json").write_text(json.dumps(values))
    _same_rig(read_rig(tmp_path / "new.json"), wanted)
    (tmp_path / "broken.mat").write_bytes((tmp_path / "stereo.mat").read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read as a MAT file"):
        read_rig(tmp_path / "broken.mat")


def test_numpy_archives(tmp_path):
    rig = make_rig("five")
    np.savez(tmp_path / "rig.npz", K1=rig.left.K, D1=rig.left.distortion, K2=rig.right.K, D2=rig.right.distortion,
             R=rig.R, T=rig.T, image_size=[WIDTH, HEIGHT])  # fmt: skip
    _same_rig(read_rig(tmp_path / "rig.npz"), rig)


@pytest.mark.parametrize("name", ["info.bag", "info", "info_mcap"])
def test_camera_info_of_a_bag(tmp_path, name):
    pytest.importorskip("rosbags")
    from bags import write_infos

    rig = make_rig("radtan")
    _same_rig(read_rig(write_infos(tmp_path / name, rig)), rig)
    empty = write_infos(tmp_path / f"one_{name}", rig, sides=("left",))
    with pytest.raises(ValueError, match="no camera_info of a left and a right camera"):
        read_cameras(empty)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.yaml": "K1: [1, 0, 0, 0, 1, 0, 0, 0, 1]\nD1: [0, 0, 0, 0]\n"
          "K2: [1, 0, 0, 0, 1, 0, 0, 0, 1]\nD2: [0, 0, 0, 0]\n"},
         "lacks R, T"),
        ({"a.yaml": "cam0:\n  intrinsics: [1, 1, 1, 1]\n  distortion_coeffs: [0, 0, 0, 0]\n"},
         "the nearest is Kalibr camchain YAML, which needs cam1, T_cn_cnm1"),
        ({"a.json": '{"cameraMatrix": 1, "CameraParameters1": {}}'}, "the nearest is MATLAB stereoParameters"),
        ({"a.yaml": "Camera.fx: 1\nCamera.fy: 1\nCamera.cx: 1\nCamera.cy: 1\n"}, "neither Camera.bf nor Stereo.b"),
        ({"a.xml": "<opencv_storage><R>1</R><T>2</T></opencv_storage>"}, "needs M1, D1, M2, D2 too"),
        ({"a.xml": "<opencv_storage><R>"}, "not valid XML"),
        ({"a.xml": '<!DOCTYPE a [<!ENTITY b "c">]><opencv_storage/>'}, "declares entities"),
        ({"a.json": '{"a": 1'}, "not valid JSON"),
        ({"SN1.conf": "[LEFT_CAM_HD]\nfx=1\n"}, "lacks the sections"),
        ({"a.txt": "baseline=1\ndoffs=1\n"}, "no line cam0="),
        ({"a.txt": "nothing of a camera\n"}, "in no known calibration format; known are ROS camera_info"),
        ({"a.json": '{"cameraData": [[1, {}], [2, {}]]}'}, "rotationMatrix|extrinsics"),
        ({"a.json": '{"cameraData": 5}'}, "is not what that form holds|no list"),
        ({"a.yaml": "cam0: {intrinsics: [1, 1, 1]}\ncam1: {intrinsics: 5, T_cn_cnm1: [1]}\n"},
         "T_cn_cnm1 holds 1 numbers"),
    ],
)  # fmt: skip
def test_unknown_and_broken_files_are_refused_in_one_sentence(tmp_path, files, words):
    path = _put(tmp_path, files)
    with pytest.raises(ValueError, match=words) as error:
        read_cameras(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", RAW_FORMS, ids=lambda form: form.__name__)
def test_damaged_files_raise_one_sentence(tmp_path, form):
    """Characters that are lost, added or cut: nothing but ValueError, in one line."""
    rng = np.random.default_rng(7)
    files = form(make_rig("radtan"))
    told = []
    for attempt in range(12):
        for name, text in files.items():
            letters = list(text)
            for place in rng.integers(0, len(letters), int(rng.choice([1, 3, 10]))):
                letters[place] = str(rng.choice(["", "x", "-", ":", "[", "]", "{", "9", "e", "\n", " ", "nan"]))
            damaged = "".join(letters)[: int(rng.integers(1, len(letters))) if attempt % 3 == 0 else None]
            (tmp_path / str(attempt) / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / str(attempt) / name).write_text(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_cameras(tmp_path / str(attempt) / next(iter(files)))
        except ValueError as error:
            told.append(str(error))
    assert told
    assert not any("\n" in sentence for sentence in told)


@pytest.mark.parametrize("name", ["ds", "eucm", "ucm", "fov", "omni"])
def test_lenses_that_are_not_supported_are_named(tmp_path, name):
    # The file holds raw cameras only, so there is nothing to fall back on.
    path = _put(
        tmp_path,
        {"a.yaml": kalibr(make_rig())["camchain-data.yaml"].replace("camera_model: pinhole", f"camera_model: {name}")},
    )
    with pytest.raises(LensError, match=f"{name}.* is not supported"):
        read_cameras(path)
    cam = {"camera_type": name, "intrinsics": {"fx": 1, "fy": 1, "cx": 1, "cy": 1, "xi": 0.1, "alpha": 0.5}}
    place = {"px": 0, "py": 0, "pz": 0, "qx": 0, "qy": 0, "qz": 0, "qw": 1}
    path = _put(tmp_path, {"a.json": json.dumps({"value0": {"T_imu_cam": [place] * 2, "intrinsics": [cam] * 2}})})
    with pytest.raises(LensError, match=f"{name}.* is not supported"):
        read_cameras(path)


@pytest.mark.parametrize(
    "change", [("plumb_bob", "my_lens"), ("plumb_bob", "thin_prism_fisheye"), ("[-0.21", "[1, 2, 3, -0.21")]
)
def test_raw_cameras_that_cannot_be_understood_are_never_passed_over(tmp_path, change):
    import torch

    from stereopsis.calibration.rectification import rectify_pair

    files = {name: text.replace(*change) for name, text in ros(make_rig()).items()}
    path = _put(tmp_path, files)
    cameras = read_cameras(path)
    assert cameras.calibration is not None
    assert cameras.problem is not None
    with pytest.raises(ValueError, match="cannot be understood"):
        read_rig(path)
    view = torch.zeros(1, HEIGHT, WIDTH)
    for choice in ("auto", "yes"):
        with pytest.raises(ValueError, match="cannot be understood"):
            rectify_pair(view, view, cameras, choice)
    assert rectify_pair(view, view, cameras, "no").calibration is cameras.calibration
    with pytest.warns(UserWarning, match="holds for rectified views only"):
        read_calibration(path)


def test_names_and_numbers_of_coefficients_that_mean_the_same(tmp_path):
    wanted = make_rig("five")
    text = ros(wanted)
    for i, change in enumerate((
        ("plumb_bob", "radtan"), ("plumb_bob", "Plumb-Bob"), ("distortion_model", "camera_model"),
        (", 0.01]", ", 0.01, 0.0, 0.0]"), ("distortion_coefficients", "distortion_coefficents"),
    )):  # fmt: skip
        files = {name: body.replace(*change) for name, body in text.items()}
        _same_rig(read_rig(_put(tmp_path / str(i), files)), wanted)
    nameless = {name: body.replace("distortion_model: plumb_bob\n", "") for name, body in text.items()}
    with pytest.warns(UserWarning, match="does not name the lens model"):
        _same_rig(read_rig(_put(tmp_path / "n", nameless)), wanted)
    fisheye = make_rig("fisheye")
    nameless = {name: body.replace("distortion_model: equidistant\n", "") for name, body in ros(fisheye).items()}
    assert read_rig(_put(tmp_path / "f", nameless), model="fisheye").left.model == "fisheye"


@pytest.mark.parametrize(
    ("baseline", "readings"),
    [(4.0, "4 m in metres.*0.04 m in centimetres or 0.004 m in millimetres"), (6.5, "0.065 m in centimetres"),
     (0.002, "0.002 m in metres.*state the unit")],
)  # fmt: skip
def test_a_rare_baseline_is_told_with_both_readings(tmp_path, baseline, readings):
    rig = make_rig()
    path = _put(tmp_path, opencv(replace(rig, T=rig.T / rig.baseline * baseline)))
    with pytest.warns(UserWarning, match=readings):
        read_rig(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_rig(path, unit="cm").baseline == pytest.approx(baseline / 100)
        assert read_rig(path, unit=0.03).baseline == pytest.approx(baseline * 0.03)


@pytest.mark.parametrize("form", [form for form in RAW_FORMS if form.__name__ != "zed"], ids=lambda form: form.__name__)
def test_every_form_takes_a_unit(tmp_path, form):
    path = _put(tmp_path, form(make_rig("radtan")))
    unit = {"depthai": 0.01, "matlab": 0.001}.get(form.__name__, 1.0)
    assert read_rig(path, unit=2 * unit).baseline == pytest.approx(2 * make_rig("radtan").baseline)
    for wrong in ("yards", 0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="unit is"):
            read_rig(path, unit=wrong)


def test_a_matrix_of_another_size_than_its_file_states(tmp_path):
    """A driver that sends half the size with the matrix of the whole."""
    rig = make_rig("none")
    halved = {name: text.replace("640", "320").replace("480", "240") for name, text in ros(rig).items()}
    with pytest.warns(UserWarning, match=r"the middle of 640x480 px, and the file states 320x240 px"):
        calibration = read_cameras(_put(tmp_path, halved)).calibration
    assert (calibration.width, calibration.height) == (640, 480)
    assert calibration.resize(320, 240).cx == pytest.approx((rig.left.K[0, 2] + 0.5) / 2 - 0.5)
    odd = {name: text.replace("640", "1000").replace("480", "300") for name, text in ros(rig).items()}
    with pytest.warns(UserWarning, match="far from the middle"):
        read_cameras(_put(tmp_path, odd))


def test_binning_and_regions_of_interest(tmp_path):
    rig = make_rig("none")
    files = {
        name: text.replace("binning_x: 0\nbinning_y: 0", "binning_x: 2\nbinning_y: 2")
        for name, text in ros_echo(rig).items()
    }
    calibration = read_calibration(_put(tmp_path / "a", files))
    assert (calibration.width, calibration.height) == (320, 240)
    assert calibration.fx == pytest.approx(rig.left.K[0, 0] / 2)
    cut = "x_offset: 100\n  y_offset: 40\n  height: 400\n  width: 440"
    whole = "x_offset: 0\n  y_offset: 0\n  height: 0\n  width: 0"
    calibration = read_calibration(
        _put(tmp_path / "b", {name: t.replace(whole, cut) for name, t in ros_echo(rig).items()})
    )
    assert (calibration.width, calibration.height) == (440, 400)
    assert calibration.cx == pytest.approx(rig.left.K[0, 2] - 100)


def test_two_documents_of_one_stream_are_two_cameras(tmp_path):
    rig = make_rig("radtan")
    files = ros_echo(rig)
    path = _put(tmp_path, {"both.yaml": files["right.yaml"] + files["left.yaml"]})
    _same_rig(read_rig(path), rig)
    with pytest.raises(ValueError, match="describes one camera"):
        read_rig(_put(tmp_path, {"alone.yaml": files["left.yaml"]}))


def test_grey_and_colour_cameras_of_kitti(tmp_path):
    text = "".join(
        f"P{i}: 240 0 199 {shift} 0 240 81 0 0 0 1 0\n" for i, shift in enumerate((0, -128.88, 14.4, -105.6))
    )
    path = _put(tmp_path, {"calib.txt": text})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_cameras(path, views=["s/image_0/0.png", "s/image_1/0.png"]).calibration.baseline == pytest.approx(
            0.537
        )
        assert read_cameras(path, views=["s/image_02/data/0.png"]).calibration.baseline == pytest.approx(0.5)
        assert read_cameras(path, cameras="grey").calibration.baseline == pytest.approx(0.537)
    with pytest.warns(UserWarning, match=r"0\.5370 m and colour cameras .* 0\.5000 m; the grey ones are used"):
        assert read_cameras(path, grey=True).calibration.baseline == pytest.approx(0.537)


@pytest.mark.parametrize("lens", ["none", "radtan", "rational", "fisheye"])
def test_rigs_own_their_arrays(lens):
    wide = {"none": np.zeros(4)}.get(lens, np.array(COEFFICIENTS[lens]))
    pose = np.asfortranarray(np.eye(4))
    pose[:3, 3] = [-0.1, 0.001, 0.0]
    big = np.zeros((6, 6), np.float32)
    big[::2, ::2] = [[200, 0, 320], [0, 200, 240], [0, 0, 1]]
    camera = RawCamera(big[::2, ::2], np.repeat(wide, 2)[::2], "fisheye" if lens == "fisheye" else "pinhole")
    rig = StereoRig(camera, camera, pose[:3, :3].T, pose[:3, 3], WIDTH, HEIGHT)
    pose[:] = 7
    big[:] = 7
    for array in (rig.R, rig.T, camera.K, camera.distortion):
        assert array.dtype == np.float64
        assert array.flags.c_contiguous
        assert array.flags.owndata or array.base.flags.owndata
    assert rig.baseline == pytest.approx(0.1, rel=1e-3)
    assert rig.rectify().calibration.baseline == pytest.approx(rig.baseline)


@pytest.mark.parametrize("format", ["opencv", "ros", "kalibr"])
@pytest.mark.parametrize("lens", ["radtan", "fisheye"])
def test_raw_rigs_come_back_as_they_were_written(tmp_path, format, lens):
    rig = make_rig(lens)
    path = tmp_path / "left.yaml" if format == "ros" else tmp_path / "rig.yaml"
    write_rig(rig, path, format)
    _same_rig(read_rig(path), rig)
    with pytest.raises(ValueError, match="format is 'middlebury'"):
        write_rig(rig, path, "middlebury")


def test_kalibr_has_no_third_radial_coefficient(tmp_path):
    with pytest.raises(ValueError, match="5 distortion coefficients and Kalibr's radtan model four"):
        write_rig(make_rig("five"), tmp_path / "a.yaml", "kalibr")
    calibration = read_cameras(_put(tmp_path, opencv(make_rig("none")))).calibration
    write_calibration(calibration, tmp_path / "rectified.yaml", "kalibr")
    assert read_calibration(tmp_path / "rectified.yaml") == calibration


def test_orbslam_describes_both_kinds(tmp_path):
    found = read_cameras(_put(tmp_path, orbslam2_raw(make_rig("five"))))
    assert found.calibration is not None
    assert found.rig is not None
    assert found.calibration.baseline == pytest.approx(found.rig.baseline)


# --- cases of users ---


@pytest.mark.parametrize("name", ["camchain.yaml", "opencv.xml", "k1_d1.yml", "cameraMatrix1.yml"])
def test_case_calibration_files(shared_data, name):
    calibration = read_calibration(shared_data(f"cases/calibration-files/{name}"))
    assert (calibration.fx, calibration.cx, calibration.cy, calibration.baseline) == (210, 158.5, 121, 0.12)


@pytest.mark.parametrize("name", ["camera-info-echo", "camera-info-echo-2"])
def test_case_camera_info(shared_data, name):
    calibration = read_calibration(shared_data(f"cases/{name}/left.yaml"))
    assert (calibration.fx, calibration.baseline) == pytest.approx((210, 0.12))


def test_case_units(shared_data):
    folder = shared_data("cases/baseline-unit")
    for name, unit in (("rig_m.yml", None), ("rig_mm.yml", "mm"), ("rig_squares.yml", 0.03)):
        assert read_calibration(folder / name, unit=unit).baseline == pytest.approx(0.12)


@pytest.mark.parametrize("name", ["plumb_bob", "radtan", "seven"])
def test_case_lens_models(shared_data, name):
    folder = shared_data("cases/lens-model-swallowed")
    _same_rig(read_rig(folder / name), read_rig(folder / "plumb_bob"))
