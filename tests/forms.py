"""One rig as the files of many tools, for tests: the numbers are set here and written in each tool's own way."""

import json
from dataclasses import dataclass

import cv2
import numpy as np

from stereopsis.calibration import RawCamera, StereoRig

WIDTH, HEIGHT = 640, 480
ROTATION = cv2.Rodrigues(np.array([0.012, -0.02, 0.015]))[0]
TRANSLATION = np.array([-0.1, 0.002, -0.003])
COEFFICIENTS = {
    "radtan": [-0.21, 0.06, 0.0006, -0.0004],
    "five": [-0.21, 0.06, 0.0006, -0.0004, 0.01],
    "rational": [-0.21, 0.06, 0.0006, -0.0004, 0.01, 0.02, 0.003, 0.001],
    "fisheye": [-0.02, 0.004, -0.001, 0.0002],
    "none": [0.0, 0.0, 0.0, 0.0],
}


def make_rig(lens: str = "radtan") -> StereoRig:
    """A rig that is turned and distorted; ``none`` is neither."""
    model = "fisheye" if lens == "fisheye" else "pinhole"
    sides = ((420.0, 421.0, 316.5, 242.0), (424.0, 425.0, 323.0, 236.5))
    rotation, place = ROTATION, TRANSLATION
    if lens == "none":
        sides, rotation, place = (sides[0], sides[0]), np.eye(3), np.array([-0.1, 0.0, 0.0])
    cameras = [
        RawCamera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), np.array(COEFFICIENTS[lens]), model)
        for fx, fy, cx, cy in sides
    ]
    return StereoRig(*cameras, rotation, place, WIDTH, HEIGHT)


@dataclass(frozen=True)
class Written:
    """A calibration in one form: its files, the first of which is named, and which lenses the form has."""

    files: dict[str, str]
    kind: str = "raw"


def _flat(matrix) -> str:
    return ", ".join(repr(float(x)) for x in np.ravel(matrix))


def _opencv_yaml(rig, k="M{}", d="D{}", r="R", t="T", scale=1.0, size=("image_width", "image_height")):
    text = f"%YAML:1.0\n---\n{size[0]}: {rig.width}\n{size[1]}: {rig.height}\n"
    if rig.left.model == "fisheye":
        text += "distortion_model: fisheye\n"
    for i, camera in enumerate((rig.left, rig.right), 1):
        for name, value in ((k.format(i), camera.K), (d.format(i), camera.distortion[None])):
            text += _opencv_entry(name, value)
    return text + _opencv_entry(r, rig.R) + _opencv_entry(t, rig.T[:, None] / scale)


def _opencv_entry(name, value):
    rows, cols = value.shape
    return f"{name}: !!opencv-matrix\n   rows: {rows}\n   cols: {cols}\n   dt: d\n   data: [ {_flat(value)} ]\n"


def opencv(rig):
    return {"rig.yml": _opencv_yaml(rig)}


def opencv_k1(rig):
    return {"a.yaml": _opencv_yaml(rig, "K{}", "D{}")}


def opencv_camera_matrix(rig):
    return {"b.yaml": _opencv_yaml(rig, "cameraMatrix{}", "distCoeffs{}", size=("imageSize_width", "imageSize_height"))}


def opencv_xml(rig):
    def entry(name, value):
        rows, cols = value.shape
        data = " ".join(repr(float(x)) for x in value.ravel())
        return (
            f'<{name} type_id="opencv-matrix">\n  <rows>{rows}</rows>\n  <cols>{cols}</cols>\n  <dt>d</dt>\n  <data>\n'
            f"    {data}</data></{name}>\n"
        )

    text = f'<?xml version="1.0"?>\n<opencv_storage>\n<image_width>{rig.width}</image_width>\n'
    text += f"<image_height>{rig.height}</image_height>\n"
    text += f'<distortion_model>"{rig.left.model}"</distortion_model>\n'
    for i, camera in enumerate((rig.left, rig.right), 1):
        text += entry(f"K{i}", camera.K) + entry(f"D{i}", camera.distortion[None])
    return {"stereo.xml": text + entry("R", rig.R) + entry("T", rig.T[:, None]) + "</opencv_storage>\n"}


def opencv_json(rig):
    def entry(value):
        rows, cols = value.shape
        return {"type_id": "opencv-matrix", "rows": rows, "cols": cols, "dt": "d", "data": value.ravel().tolist()}

    values = {"image_width": rig.width, "image_height": rig.height, "distortion_model": rig.left.model}
    for i, camera in enumerate((rig.left, rig.right), 1):
        values |= {f"M{i}": entry(camera.K), f"D{i}": entry(camera.distortion[None])}
    return {"stereo.json": json.dumps(values | {"R": entry(rig.R), "T": entry(rig.T[:, None])})}


def kalibr(rig):
    model = "equidistant" if rig.left.model == "fisheye" else "radtan"
    text = ""
    for i, camera in enumerate((rig.left, rig.right)):
        text += f"cam{i}:\n"
        if i:
            rows = [*np.hstack([rig.R, rig.T[:, None]]), [0, 0, 0, 1]]
            text += "  T_cn_cnm1:\n" + "".join(f"  - [{_flat(row)}]\n" for row in rows)
        k = camera.K
        text += f"  cam_overlaps: [{1 - i}]\n  camera_model: pinhole\n"
        text += f"  distortion_coeffs: [{_flat(camera.distortion[:4])}]\n  distortion_model: {model}\n"
        text += f"  intrinsics: [{k[0, 0]}, {k[1, 1]}, {k[0, 2]}, {k[1, 2]}]\n"
        text += f"  resolution: [{rig.width}, {rig.height}]\n  rostopic: /cam{i}/image_raw\n"
    return {"camchain-data.yaml": text}


def euroc(rig):
    model = "equidistant" if rig.left.model == "fisheye" else "radial-tangential"
    # The body is neither camera: it is turned by a tenth and moved against the left one.
    body_left = np.eye(4)
    body_left[:3, :3], body_left[:3, 3] = cv2.Rodrigues(np.array([0.1, -0.2, 1.5]))[0], [0.02, -0.06, 0.01]
    right_left = np.eye(4)
    right_left[:3, :3], right_left[:3, 3] = rig.R, rig.T
    files = {}
    for i, (camera, body) in enumerate(((rig.left, body_left), (rig.right, body_left @ np.linalg.inv(right_left)))):
        k = camera.K
        files[f"cam{i}/sensor.yaml"] = (
            f"sensor_type: camera\nT_BS:\n  cols: 4\n  rows: 4\n  data: [{_flat(body)}]\nrate_hz: 20\n"
            f"resolution: [{rig.width}, {rig.height}]\ncamera_model: pinhole\n"
            f"intrinsics: [{k[0, 0]}, {k[1, 1]}, {k[0, 2]}, {k[1, 2]}]\ndistortion_model: {model}\n"
            f"distortion_coefficients: [{_flat(camera.distortion)}]\n"
        )
    return files


def _rectification(rig):
    if not rig.is_rectified:
        return rig.rectifying()
    return np.eye(3), np.eye(3), *rig.as_rectified().projections


def _ros(rig):
    r1, r2, p1, p2 = _rectification(rig)
    name = {"fisheye": "equidistant"}.get(
        rig.left.model, "plumb_bob" if rig.left.distortion.size < 8 else "rational_polynomial"
    )
    return [(camera, r, p, name) for camera, r, p in ((rig.left, r1, p1), (rig.right, r2, p2))]


def ros(rig):
    files = {}
    for view, (camera, r, p, name) in zip(("left", "right"), _ros(rig), strict=True):
        text = f"image_width: {rig.width}\nimage_height: {rig.height}\ncamera_name: {view}\ncamera_matrix:\n"
        text += f"  rows: 3\n  cols: 3\n  data: [{_flat(camera.K)}]\ndistortion_model: {name}\n"
        n = camera.distortion.size
        text += f"distortion_coefficients:\n  rows: 1\n  cols: {n}\n  data: [{_flat(camera.distortion)}]\n"
        text += f"rectification_matrix:\n  rows: 3\n  cols: 3\n  data: [{_flat(r)}]\n"
        files[f"{view}.yaml"] = text + f"projection_matrix:\n  rows: 3\n  cols: 4\n  data: [{_flat(p)}]\n"
    return files


def ost_pair(rig):
    return {f"{name.removesuffix('.yaml')}/ost.yaml": text for name, text in ros(rig).items()}


def ros_echo(rig):
    """``ros2 topic echo`` of both cameras, with three messages of each."""
    files = {}
    for view, (camera, r, p, name) in zip(("left", "right"), _ros(rig), strict=True):
        text = f"header:\n  stamp:\n    sec: 10\n    nanosec: 0\n  frame_id: {view}\nheight: {rig.height}\n"
        text += f"width: {rig.width}\ndistortion_model: {name}\n"
        for key, value in (("d", camera.distortion), ("k", camera.K), ("r", r), ("p", p)):
            text += f"{key}:\n" + "".join(f"- {float(x)!r}\n" for x in np.ravel(value))
        text += "binning_x: 0\nbinning_y: 0\nroi:\n  x_offset: 0\n  y_offset: 0\n  height: 0\n  width: 0\n"
        files[f"{view}.yaml"] = 3 * (text + "  do_rectify: false\n---\n")
    return files


def ros1_echo(rig):
    files = {}
    for view, (camera, r, p, name) in zip(("left", "right"), _ros(rig), strict=True):
        text = f'header: \n  seq: 5\n  stamp: \n    secs: 10\n    nsecs: 0\n  frame_id: "{view}"\n'
        text += f'height: {rig.height}\nwidth: {rig.width}\ndistortion_model: "{name}"\n'
        for key, value in (("D", camera.distortion), ("K", camera.K), ("R", r), ("P", p)):
            text += f"{key}: [{_flat(value)}]\n"
        files[f"{view}.txt"] = text + "binning_x: 0\nbinning_y: 0\nroi: \n  x_offset: 0\n  do_rectify: False\n---\n"
    return files


def ost_text(rig):
    text = f"# oST version 5.0 parameters\n\n\n[image]\n\nwidth\n{rig.width}\n\nheight\n{rig.height}\n"
    for view, (camera, r, p, _) in zip(("left", "right"), _ros(rig), strict=True):
        text += f"\n[narrow_stereo/{view}]\n"
        for title, value in (("camera matrix", camera.K), ("distortion", camera.distortion[None]),
                             ("rectification", r), ("projection", p)):  # fmt: skip
            rows = "\n".join(" ".join(repr(float(x)) for x in row) for row in value)
            text += f"\n{title}\n{rows}\n"
    return {"ost.txt": text}


def zed(rig):
    text = ""
    for size, factor in (("HD", 2.0), ("VGA", 1.05)):
        for side, camera in (("LEFT", rig.left), ("RIGHT", rig.right)):
            k = camera.K * factor
            d = np.pad(camera.distortion, (0, 5))[:5]
            text += f"[{side}_CAM_{size}]\n"
            for key, value in zip(("fx", "fy", "cx", "cy"), (k[0, 0], k[1, 1], k[0, 2], k[1, 2]), strict=True):
                text += f"{key}={float(value)!r}\n"
            text += "".join(
                f"{n}={float(d[i])!r}\n" for n, i in (("k1", 0), ("k2", 1), ("k3", 4), ("p1", 2), ("p2", 3))
            )
            text += "\n"
    rx, cv, rz = cv2.Rodrigues(rig.R)[0].ravel()
    b, ty, tz = -1000 * rig.T
    text += f"[STEREO]\nBaseline={float(b)!r}\nTY={float(ty)!r}\nTZ={float(tz)!r}\n"
    for size in ("HD", "VGA"):
        text += f"CV_{size}={float(cv)!r}\nRX_{size}={float(rx)!r}\nRZ_{size}={float(rz)!r}\n"
    return {"SN12345.conf": text}


def depthai(rig):
    def camera(values, to, rotation, shift):
        return {
            "cameraType": 1 if values.model == "fisheye" else 0,
            "distortionCoeff": np.pad(values.distortion, (0, 14 - values.distortion.size)).tolist(),
            "extrinsics": {
                "rotationMatrix": np.asarray(rotation).tolist(),
                "specTranslation": {"x": 0.0, "y": 0.0, "z": 0.0},
                "toCameraSocket": to,
                "translation": dict(zip("xyz", (100 * np.asarray(shift)).tolist(), strict=True)),
            },
            "height": rig.height, "intrinsicMatrix": values.K.tolist(), "lensPosition": 0, "specHfovDeg": 71.0,
            "width": rig.width,
        }  # fmt: skip

    none = np.zeros((3, 3))
    data = [
        [2, camera(rig.right, 0, np.eye(3), [0.0375, 0, 0])],
        [1, camera(rig.left, 2, rig.R, rig.T)],
        [0, camera(rig.left, -1, none, [0, 0, 0])],
    ]
    stereo = {"leftCameraSocket": 1, "rightCameraSocket": 2, "rectifiedRotationLeft": [], "rectifiedRotationRight": []}
    return {
        "oak.json": json.dumps(
            {"boardName": "OAK-D", "cameraData": data, "stereoRectificationData": stereo, "version": 7}
        )
    }


def basalt(rig):
    # The body is the left camera turned by 90 degrees about its axis.
    half = np.sqrt(0.5)
    turn = cv2.Rodrigues(np.array([0, 0, np.pi / 2]))[0]
    right = np.eye(4)
    right[:3, :3], right[:3, 3] = turn @ rig.R.T, turn @ (-rig.R.T @ rig.T)
    vector = cv2.Rodrigues(right[:3, :3])[0].ravel()
    angle = np.linalg.norm(vector)
    q = np.sin(angle / 2) * vector / angle
    poses = [
        {"px": 0.0, "py": 0.0, "pz": 0.0, "qx": 0.0, "qy": 0.0, "qz": half, "qw": half},
        dict(zip(("px", "py", "pz", "qx", "qy", "qz", "qw"), [*right[:3, 3], *q, np.cos(angle / 2)], strict=True)),
    ]
    names = (
        ("k1", "k2", "k3", "k4") if rig.left.model == "fisheye" else ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
    )
    lenses = []
    for camera in (rig.left, rig.right):
        k = camera.K
        values = {"fx": k[0, 0], "fy": k[1, 1], "cx": k[0, 2], "cy": k[1, 2]}
        values |= dict(zip(names, camera.distortion.tolist(), strict=False))
        lenses.append({"camera_type": "kb4" if camera.model == "fisheye" else "pinhole-radtan8", "intrinsics": values})
    inner = {"T_imu_cam": poses, "intrinsics": lenses, "resolution": [[rig.width, rig.height]] * 2}
    return {"basalt.json": json.dumps({"value0": inner})}


def orbslam3(rig):
    fisheye = rig.left.model == "fisheye"
    text = f'%YAML:1.0\n\nFile.version: "1.0"\nCamera.type: "{"KannalaBrandt8" if fisheye else "PinHole"}"\n'
    names = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2", "k3")
    for i, camera in enumerate((rig.left, rig.right), 1):
        k = camera.K
        for name, value in zip(("fx", "fy", "cx", "cy"), (k[0, 0], k[1, 1], k[0, 2], k[1, 2]), strict=True):
            text += f"Camera{i}.{name}: {float(value)!r}\n"
        for name, value in zip(names, camera.distortion, strict=False):
            text += f"Camera{i}.{name}: {float(value)!r}\n"
    back = np.eye(4)
    back[:3, :3], back[:3, 3] = rig.R.T, -rig.R.T @ rig.T
    text += f"Camera.width: {rig.width}\nCamera.height: {rig.height}\nCamera.fps: 20\n"
    return {"euroc.yaml": text + _opencv_entry("Stereo.T_c1_c2", back) + "Stereo.ThDepth: 60.0\n"}


def orbslam2_raw(rig):
    r1, r2, p1, p2 = _rectification(rig)
    text = "%YAML:1.0\n"
    values = {"fx": p1[0, 0], "fy": p1[1, 1], "cx": p1[0, 2], "cy": p1[1, 2], "bf": -p2[0, 3]}
    text += "".join(f"Camera.{key}: {float(value)!r}\n" for key, value in values.items())
    text += f"Camera.width: {rig.width}\nCamera.height: {rig.height}\n"
    for side, camera, r, p in (("LEFT", rig.left, r1, p1), ("RIGHT", rig.right, r2, p2)):
        text += f"{side}.height: {rig.height}\n{side}.width: {rig.width}\n"
        text += _opencv_entry(f"{side}.D", camera.distortion[None]) + _opencv_entry(f"{side}.K", camera.K)
        text += _opencv_entry(f"{side}.R", r) + _opencv_entry(f"{side}.P", p)
    return {"EuRoC.yaml": text}


def colmap(rig):
    cameras = "# Camera list with one line of data per camera:\n#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n"
    model = (
        "OPENCV_FISHEYE"
        if rig.left.model == "fisheye"
        else "OPENCV"
        if rig.left.distortion.size == 4
        else "FULL_OPENCV"
    )
    for i, camera in enumerate((rig.left, rig.right), 1):
        k, d = camera.K, camera.distortion
        d = np.pad(d, (0, 8 - d.size)) if model == "FULL_OPENCV" else d
        numbers = " ".join(repr(float(x)) for x in (k[0, 0], k[1, 1], k[0, 2] + 0.5, k[1, 2] + 0.5, *d))
        cameras += f"{i} {model} {rig.width} {rig.height} {numbers}\n"
    images = (
        "# Image list with two lines of data per image:\n#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n"
    )
    left = np.eye(4)
    left[:3, :3], left[:3, 3] = cv2.Rodrigues(np.array([0.3, -0.2, 0.1]))[0], [1.0, 2.0, 3.0]
    right = np.eye(4)
    right[:3, :3], right[:3, 3] = rig.R, rig.T
    for i, (pose, name) in enumerate(((left, "left.png"), (right @ left, "right.png")), 1):
        vector = cv2.Rodrigues(pose[:3, :3])[0].ravel()
        angle = np.linalg.norm(vector)
        q = np.concatenate([[np.cos(angle / 2)], np.sin(angle / 2) * vector / angle])
        images += f"{i} {' '.join(repr(float(x)) for x in (*q, *pose[:3, 3]))} {i} {name}\n100.5 200.5 -1\n"
    return {"cameras.txt": cameras, "images.txt": images}


def matlab(rig):
    def camera(values):
        d = np.pad(values.distortion, (0, 5))[:5]
        k = values.K.copy()
        k[:2, 2] += 1
        return {
            "RadialDistortion": [d[0], d[1], d[4]], "TangentialDistortion": [d[2], d[3]],
            "ImageSize": [rig.height, rig.width], "WorldUnits": "millimeters", "EstimateSkew": False,
            "IntrinsicMatrix": k.T.tolist(), "Version": {"Major": 9},
        }  # fmt: skip

    values = {
        "CameraParameters1": camera(rig.left), "CameraParameters2": camera(rig.right),
        "RotationOfCamera2": rig.R.T.tolist(), "TranslationOfCamera2": (1000 * rig.T).tolist(), "Version": {"Major": 9},
    }  # fmt: skip
    return {"stereoParams.json": json.dumps(values)}


def realsense(rig):
    def camera(values):
        k = values.K
        model = "kannala_brandt4" if values.model == "fisheye" else "brown_conrady"
        return {
            "width": rig.width, "height": rig.height, "ppx": k[0, 2], "ppy": k[1, 2], "fx": k[0, 0], "fy": k[1, 1],
            "model": f"distortion.{model}", "coeffs": np.pad(values.distortion, (0, 5))[:5].tolist(),
        }  # fmt: skip

    extrinsics = {"rotation": rig.R.T.ravel().tolist(), "translation": rig.T.tolist()}
    return {"rs.json": json.dumps({"infrared 1": camera(rig.left), "infrared 2": camera(rig.right),
                                   "depth": camera(rig.left), "extrinsics": extrinsics})}  # fmt: skip


def rs_enumerate(rig):
    text = "Device info: \n    Name : Intel RealSense D435\n\nIntrinsic Parameters:\n\n"
    for i, camera in enumerate((rig.left, rig.right), 1):
        k = camera.K
        d = "\t".join(repr(float(x)) for x in np.pad(camera.distortion, (0, 5))[:5])
        text += f' Intrinsic of "Infrared {i}" / {rig.width}x{rig.height} / {{Y8}}\n  Width:      \t{rig.width}\n'
        text += (
            f"  Height:     \t{rig.height}\n  PPX:        \t{float(k[0, 2])!r}\n  PPY:        \t{float(k[1, 2])!r}\n"
        )
        text += (
            f"  Fx:         \t{float(k[0, 0])!r}\n  Fy:         \t{float(k[1, 1])!r}\n  Distortion: \tBrown Conrady\n"
        )
        text += f"  Coeffs:     \t{d}\n  FOV (deg):  \t89.69 x 58.43\n\n"
    rows = "\n".join("   " + "   ".join(repr(float(x)) for x in row) for row in rig.R)
    shift = "  ".join(repr(float(x)) for x in rig.T)
    text += (
        f'Extrinsic Parameters:\n\nExtrinsic from "Infrared 1"\t  To\t  "Infrared 2" :\n Rotation Matrix:\n{rows}\n\n'
    )
    return {"camera.txt": text + f" Translation Vector: {shift}\n"}


# What each form can hold: the lenses of the raw rigs above.
PINHOLES = ("none", "radtan", "five", "rational")
RAW_FORMS = {
    opencv: (*PINHOLES, "fisheye"), opencv_k1: (*PINHOLES, "fisheye"), opencv_camera_matrix: (*PINHOLES, "fisheye"),
    opencv_xml: (*PINHOLES, "fisheye"), opencv_json: (*PINHOLES, "fisheye"), kalibr: ("none", "radtan", "fisheye"),
    euroc: (*PINHOLES, "fisheye"), ros: (*PINHOLES, "fisheye"), ost_pair: (*PINHOLES, "fisheye"),
    ros_echo: (*PINHOLES, "fisheye"), ros1_echo: (*PINHOLES, "fisheye"), ost_text: ("none", "radtan", "five"),
    zed: ("none", "radtan", "five"), depthai: (*PINHOLES, "fisheye"), basalt: (*PINHOLES, "fisheye"),
    orbslam3: ("none", "radtan", "five", "fisheye"), orbslam2_raw: PINHOLES,
    colmap: ("none", "radtan", "five", "rational", "fisheye"), matlab: ("none", "radtan", "five"),
    realsense: ("none", "radtan", "five", "fisheye"), rs_enumerate: ("none", "radtan", "five"),
}  # fmt: skip
