"""Every data set on a miniature of its tree, with numbers worked out by hand; real pairs where they are at hand."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from stereopsis.data.datasets import DATASETS, StereoDataset, StereoItem, collate, open_dataset, plain, sets

H, W = 3, 4
TABLES = sorted(set(DATASETS) - {"folder"})
KITTI_CALIB = (
    "P0: 700 0 600 0 0 700 180 0 0 0 1 0\nP1: 700 0 600 -378 0 700 180 0 0 0 1 0\n"
    "P2: 720 0 610 72 0 720 170 0 0 0 1 0\nP3: 720 0 610 -288 0 720 170 0 0 0 1 0\n"
)
MIDDLEBURY_CALIB = "cam0=[3000 0 2; 0 3000 1; 0 0 1]\ncam1=[3000 0 5; 0 3000 1; 0 0 1]\ndoffs=3\nbaseline=190\n"


def put(path: Path, content: np.ndarray | str) -> Path:
    """Writes text, a PFM (float32) or a picture (the rest), without the package's own writers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content)
    elif content.dtype == np.float32:
        header = f"Pf\n{content.shape[1]} {content.shape[0]}\n-1.0\n".encode()
        path.write_bytes(header + content[::-1].astype("<f4").tobytes())
    elif content.dtype == np.uint16:
        assert cv2.imwrite(str(path), content)
    else:
        Image.fromarray(content).save(path)
    return path


def view(value: int = 51, height: int = H, width: int = W) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def pair(*paths: Path) -> None:
    """Left views are 51 / 255 = 0.2, right views 0.4."""
    for path, value in zip(paths, (51, 102), strict=True):
        put(path, view(value))


def codes(dtype: type, *row: float) -> np.ndarray:
    """A map whose first row starts with ``row`` and which is 0 elsewhere."""
    array = np.zeros((H, W), dtype)
    array[0, : len(row)] = row
    return array


def row(values: torch.Tensor | None, count: int = W) -> list:
    assert values is not None
    assert values.shape == (1, H, W)
    return values[0, 0, :count].tolist()


def check(sample, *, height: int = H, width: int = W) -> None:
    """What every sample of a training split promises."""
    for image, value in ((sample.left, 0.2), (sample.right, 0.4)):
        assert image.shape == (3, height, width)
        assert image.dtype == torch.float32
        assert image.unique().tolist() == pytest.approx([value])
    for values, valid in ((sample.disparity, sample.valid), (sample.disparity_right, sample.valid_right)):
        if values is not None:
            assert values.dtype == torch.float32
            assert valid.dtype == torch.bool
            assert values.shape == valid.shape == (1, height, width)
            assert (values[~valid] == 0).all()
            assert (values[valid] > 0).all()
            assert values.isfinite().all()


# SceneFlow


@pytest.fixture
def sceneflow_root(tmp_path):
    clips = {
        "FlyingThings3D": ["TRAIN/A/0000/{}/0006", "TRAIN/A/0000/{}/0007", "TEST/C/0149/{}/0015"],
        "Driving": ["15mm_focallength/scene_forwards/fast/{}/0001"],
        "Monkaa": ["a_rain_of_stones_x2/{}/0000"],
    }
    for part, names in clips.items():
        for name in names:
            for side, sign in (("left", 1), ("right", -1)):
                place = tmp_path / part
                for render in ("finalpass", "cleanpass"):
                    value = {"left": 51, "right": 102}[side]
                    put(place / f"frames_{render}" / f"{name.format(side)}.png", view(value))
                truth = np.full((H, W), sign * 7.5, np.float32)
                put(place / "disparity" / f"{name.format(side)}.pfm", truth)
    return tmp_path


def test_sceneflow_joins_its_three_parts(sceneflow_root):
    data = sets.sceneflow(sceneflow_root)
    assert [item.id for item in data.items] == [
        "sceneflow/FlyingThings3D/frames_finalpass/TRAIN/A/0000/left/0006",
        "sceneflow/FlyingThings3D/frames_finalpass/TRAIN/A/0000/left/0007",
        "sceneflow/Driving/frames_finalpass/15mm_focallength/scene_forwards/fast/left/0001",
        "sceneflow/Monkaa/frames_finalpass/a_rain_of_stones_x2/left/0000",
    ]
    for index in range(len(data)):
        check(data[index])
        assert data[index].disparity.unique().tolist() == [7.5]
        assert data[index].disparity_right.unique().tolist() == [7.5]  # stored negative, as flow of the right view


def test_sceneflow_options(sceneflow_root):
    assert len(sets.sceneflow(sceneflow_root, "test")) == 1
    clean = sets.sceneflow(sceneflow_root, render="cleanpass", part="Driving")
    assert len(clean) == 1
    assert "Driving/frames_cleanpass" in clean.items[0].left.as_posix()
    with pytest.raises(ValueError, match="split is 'test'; sceneflow has train"):
        sets.sceneflow(sceneflow_root, "test", part="Monkaa")
    with pytest.raises(ValueError, match="render is 'final'; sceneflow has finalpass, cleanpass"):
        sets.sceneflow(sceneflow_root, render="final")


# KITTI


def test_kitti2015(tmp_path):
    for split in ("training", "testing"):
        for frame in ("000000_10", "000000_11", "000001_10"):
            pair(tmp_path / split / "image_2" / f"{frame}.png", tmp_path / split / "image_3" / f"{frame}.png")
        put(tmp_path / split / "calib_cam_to_cam/000000.txt", KITTI_CALIB)
    for frame in ("000000_10", "000001_10"):
        put(tmp_path / "training/disp_occ_0" / f"{frame}.png", codes(np.uint16, 256, 0, 640, 65534))
        put(tmp_path / "training/disp_noc_0" / f"{frame}.png", codes(np.uint16, 256, 0, 0, 65534))
        put(tmp_path / "training/obj_map" / f"{frame}.png", codes(np.uint8, 0, 3, 1))
    put(tmp_path / "training/image_2/._000000_10.png", view())  # what some systems leave beside a copied file

    data = sets.kitti2015(tmp_path)
    assert [item.id for item in data.items] == [
        "kitti2015/training/image_2/000000_10",
        "kitti2015/training/image_2/000001_10",
    ]
    sample = data[0]
    check(sample)
    assert row(sample.disparity) == [1.0, 0.0, 2.5, 65534 / 256]
    assert row(sample.valid) == [True, False, True, True]
    assert row(sample.noc) == [True, False, False, True]
    assert row(sample.foreground) == [False, True, True, False]
    assert sample.disparity_right is None
    assert sample.calibration.baseline == pytest.approx((72 + 288) / 720)
    assert data[1].calibration is None

    test = sets.kitti2015(tmp_path, "test")
    assert len(test) == 2
    assert test[0].disparity is test[0].valid is test[0].noc is None
    assert test[0].calibration.fx == 720


def test_kitti2012_colour_and_grey(tmp_path):
    folder = tmp_path / "training"
    pair(folder / "colored_0/000007_10.png", folder / "colored_1/000007_10.png")
    put(folder / "image_0/000007_10.png", np.full((H, W), 51, np.uint8))
    put(folder / "image_1/000007_10.png", np.full((H, W), 102, np.uint8))
    put(folder / "disp_occ/000007_10.png", codes(np.uint16, 128, 512))
    put(folder / "disp_noc/000007_10.png", codes(np.uint16, 0, 512))
    put(folder / "calib/000007.txt", KITTI_CALIB)
    for cameras, baseline in (("colour", 0.5), ("grey", 0.54)):
        sample = sets.kitti2012(tmp_path, cameras=cameras)[0]
        check(sample)
        assert row(sample.disparity, 3) == [0.5, 2.0, 0.0]
        assert row(sample.noc, 3) == [False, True, False]
        assert sample.calibration.baseline == pytest.approx(baseline)
    with pytest.raises(ValueError, match=r"no test images of kitti2012.*testing/colored_0"):
        sets.kitti2012(tmp_path, "test")


def test_kitti_takes_the_non_occluded_truth_where_it_is_the_only_one(tmp_path):
    pair(tmp_path / "training/image_2/000000_10.png", tmp_path / "training/image_3/000000_10.png")
    put(tmp_path / "training/disp_noc_0/000000_10.png", codes(np.uint16, 256))
    sample = sets.kitti2015(tmp_path)[0]
    assert row(sample.valid) == row(sample.noc) == [True, False, False, False]


# Middlebury and ETH3D


def test_middlebury2001_and_tsukuba(tmp_path):
    for scene, views, truth in (("venus", ("im2.ppm", "im6.ppm"), "26"), ("map", ("im0.pgm", "im1.pgm"), "01")):
        for name, value in zip(views, (51, 102), strict=True):
            put(tmp_path / scene / name, view(value) if name.endswith("ppm") else view(value)[..., 0])
        put(tmp_path / scene / f"disp{truth[0]}.pgm", codes(np.uint8, 8, 100, 0, 255))
        put(tmp_path / scene / f"disp{truth[1]}.pgm", codes(np.uint8, 16))
    pair(tmp_path / "tsukuba/scene1.row3.col3.ppm", tmp_path / "tsukuba/scene1.row3.col4.ppm")
    put(tmp_path / "tsukuba/truedisp.row3.col3.pgm", codes(np.uint8, 16, 224))

    data = sets.middlebury2001(tmp_path)
    assert [item.left.parent.name for item in data.items] == ["venus", "map"]
    for index in range(2):
        check(data[index])
        assert row(data[index].disparity) == [1.0, 12.5, 0.0, 31.875]
        assert row(data[index].disparity_right, 2) == [2.0, 0.0]
    tsukuba = sets.tsukuba(tmp_path)
    assert len(tsukuba) == 1
    assert row(tsukuba[0].disparity, 3) == [1.0, 14.0, 0.0]


@pytest.mark.parametrize(("size", "suffix", "expected"), [("quarter", "", 25), ("half", "H", 50), ("full", "F", 100)])
def test_middlebury2003_scale_depends_on_the_size(tmp_path, size, suffix, expected):
    picture, truth = ("png", "png") if size == "quarter" else ("ppm", "pgm")
    for scene in ("conesH", "teddyF"):  # other sizes beside it must not be taken
        pair(tmp_path / scene / "im2.ppm", tmp_path / scene / "im6.ppm")
        put(tmp_path / scene / "disp2.pgm", codes(np.uint8, 100))
    folder = tmp_path / f"cones{suffix}"
    pair(folder / f"im2.{picture}", folder / f"im6.{picture}")
    put(folder / f"disp2.{truth}", codes(np.uint8, 100))
    data = sets.middlebury2003(tmp_path, size=size)
    by_scene = {item.left.parent.name: index for index, item in enumerate(data.items)}
    assert all(scene.endswith(suffix) for scene in by_scene)
    assert ("conesH" in by_scene) == (size == "half")
    sample = data[by_scene[folder.name]]
    check(sample)
    assert row(sample.disparity, 2) == [expected, 0]


@pytest.mark.parametrize("name", ["middlebury2005", "middlebury2006"])
@pytest.mark.parametrize(("size", "expected"), [("third", 40), ("half", 60), ("full", 120)])
def test_middlebury_2005_and_2006_scale_depends_on_the_size(tmp_path, name, size, expected):
    folder = tmp_path / f"{size.capitalize()}Size" / "Aloe"
    pair(folder / "view1.png", folder / "view5.png")
    put(folder / "disp1.png", codes(np.uint8, 120))
    put(folder / "disp5.png", codes(np.uint8, 0, 120))
    data = open_dataset(name, tmp_path, size=size)
    assert len(data) == 1
    check(data[0])
    assert row(data[0].disparity, 2) == [expected, 0]
    assert row(data[0].disparity_right, 2) == [0, expected]
    with pytest.raises(ValueError, match="size is 'quarter'"):
        open_dataset(name, tmp_path, size="quarter")


def new_middlebury(folder: Path) -> None:
    pair(folder / "im0.png", folder / "im1.png")
    put(folder / "calib.txt", MIDDLEBURY_CALIB)


def test_middlebury2014(tmp_path):
    for scene, value in (("Piano-perfect", 12.25), ("Piano-imperfect", 13.0)):
        new_middlebury(tmp_path / scene)
        put(tmp_path / scene / "disp0.pfm", codes(np.float32, value, np.inf))
        put(tmp_path / scene / "disp1.pfm", codes(np.float32, np.inf, 9.0))
    data = sets.middlebury2014(tmp_path)
    assert len(data) == 1
    sample = data[0]
    check(sample)
    assert row(sample.disparity, 2) == [12.25, 0.0]
    assert row(sample.valid, 2) == [True, False]
    assert row(sample.disparity_right, 2) == [0.0, 9.0]
    assert sample.noc is None
    assert sample.calibration.baseline == pytest.approx(0.19)
    assert sample.calibration.doffs == pytest.approx(3)
    assert row(sets.middlebury2014(tmp_path, rectification="imperfect")[0].disparity, 1) == [13.0]


def test_middlebury_v3(tmp_path):
    for size in "QH":
        for folder in (f"training{size}/Adirondack", f"test{size}/Plants"):
            new_middlebury(tmp_path / folder)
        put(tmp_path / f"training{size}/Adirondack/disp0GT.pfm", codes(np.float32, 5.5, 6.5, np.inf, np.inf))
        put(tmp_path / f"training{size}/Adirondack/mask0nocc.png", codes(np.uint8, 255, 128, 0, 255))
    put(tmp_path / "trainingH/Adirondack/disp1GT.pfm", codes(np.float32, 4.5))
    sample = sets.middlebury_v3(tmp_path)[0]
    check(sample)
    assert row(sample.disparity) == [5.5, 6.5, 0.0, 0.0]
    assert row(sample.valid) == [True, True, False, False]
    assert row(sample.noc) == [True, False, False, False]
    assert sample.disparity_right is None
    assert row(sets.middlebury_v3(tmp_path, size="half")[0].disparity_right, 1) == [4.5]
    test = sets.middlebury_v3(tmp_path, "test")
    assert [item.id for item in test.items] == ["middlebury_v3/testQ/Plants/im0"]
    assert test[0].disparity is None
    assert test[0].calibration.fx == 3000
    with pytest.raises(ValueError, match=r"trainingF/{scene}/im0\.png"):
        sets.middlebury_v3(tmp_path, size="full")


@pytest.mark.parametrize("below", ["", "data"])
def test_middlebury2021(tmp_path, below):
    folder = tmp_path / below / "artroom1"
    new_middlebury(folder)
    for name in ("disp0.pfm", "disp1.pfm"):
        put(folder / name, codes(np.float32, 64.0, np.inf))
    data = sets.middlebury2021(tmp_path)
    assert len(data) == 1
    check(data[0])
    assert row(data[0].disparity, 2) == row(data[0].disparity_right, 2) == [64.0, 0.0]


def test_eth3d(tmp_path):
    new_middlebury(tmp_path / "two_view_training/forest_1s")
    new_middlebury(tmp_path / "two_view_test/lakeside_1l")
    put(tmp_path / "two_view_training_gt/forest_1s/disp0GT.pfm", codes(np.float32, 2.5, 3.5, np.inf))
    put(tmp_path / "two_view_training_gt/forest_1s/mask0nocc.png", codes(np.uint8, 255, 128, 0))
    sample = sets.eth3d(tmp_path)[0]
    check(sample)
    assert row(sample.disparity, 3) == [2.5, 3.5, 0.0]
    assert row(sample.noc, 3) == [True, False, False]
    assert sample.calibration.cx_right == 5
    test = sets.eth3d(tmp_path, "test")
    assert test.items[0].left.parent.name == "lakeside_1l"
    assert test[0].valid is None


# The others


@pytest.mark.parametrize("binary", [True, False])
def test_sintel(tmp_path, binary):
    for render in ("final", "clean"):
        pair(tmp_path / f"training/{render}_left/alley_1/frame_0001.png",
             tmp_path / f"training/{render}_right/alley_1/frame_0001.png")  # fmt: skip
    packed = np.zeros((H, W, 3), np.uint8)
    packed[0] = [(1, 0, 0), (2, 33, 0), (0, 64, 128), (0, 0, 0)]
    put(tmp_path / "training/disparities/alley_1/frame_0001.png", packed)
    for name, first in (("occlusions", (0, 255, 0, 0)), ("outofframe", (255, 0, 0, 0))):
        mask = codes(np.uint8, *first)
        put(tmp_path / f"training/{name}/alley_1/frame_0001.png", mask > 0 if binary else mask)
    for render in ("final", "clean"):
        sample = sets.sintel(tmp_path, render=render)[0]
        check(sample)
        assert row(sample.disparity) == [4.0, 8 + 33 / 64, 1 + 128 / 16384, 0.0]
        assert row(sample.valid) == [True, True, True, False]
        assert row(sample.noc) == [False, False, True, False]


def test_vkitti2(tmp_path):
    for variation in ("clone", "fog"):
        folder = tmp_path / "Scene01" / variation / "frames"
        for camera, value in ((0, 51), (1, 102)):
            put(folder / f"rgb/Camera_{camera}/rgb_00000.jpg", view(value))
            put(folder / f"depth/Camera_{camera}/depth_00000.png", codes(np.uint16, 1000, 65535, 65534))
    indices = Image.fromarray(codes(np.uint8, 0, 2, 1), mode="P")
    indices.putpalette([255, 255, 255] * 3)  # the indices count, not the colours
    mask = tmp_path / "Scene01/clone/frames/instanceSegmentation/Camera_0/instancegt_00000.png"
    mask.parent.mkdir(parents=True)
    indices.save(mask)
    assert len(sets.vkitti2(tmp_path)) == 2
    data = sets.vkitti2(tmp_path, variation="clone")
    assert len(data) == 1
    sample = data[0]
    check(sample)
    # 725.0087 * 0.532725 = 386.2302597... px m; at 10 m, in the sky, and at 655.34 m.
    assert row(sample.disparity) == pytest.approx([38.62303, 0.0, 0.5893586, 0.0], rel=1e-6)
    assert row(sample.valid) == [True, False, True, False]
    assert row(sample.disparity_right, 1) == pytest.approx([38.62303], rel=1e-6)
    assert row(sample.foreground) == [False, True, True, False]
    assert sample.calibration.fx * sample.calibration.baseline / sample.disparity[0, 0, 0] == pytest.approx(10)
    with pytest.raises(ValueError, match="no train images of vkitti2"):
        sets.vkitti2(tmp_path, variation="snow")


def test_instereo2k(tmp_path):
    for place in ("train/000012", "train/part2/010001", "test/000003"):
        pair(tmp_path / place / "left.png", tmp_path / place / "right.png")
        put(tmp_path / place / "left_disp.png", codes(np.uint16, 100, 0, 12345))
        put(tmp_path / place / "right_disp.png", codes(np.uint16, 0, 250))
    data = sets.instereo2k(tmp_path)
    assert [item.left.parent.name for item in data.items] == ["000012", "010001"]
    for index in range(2):
        check(data[index])
        assert row(data[index].disparity, 3) == pytest.approx([1.0, 0.0, 123.45])
        assert row(data[index].disparity_right, 2) == [0.0, 2.5]
    assert len(sets.instereo2k(tmp_path, "test")) == 1


def test_cityscapes(tmp_path):
    camera = {
        "extrinsic": {"baseline": 0.209313},
        "intrinsic": {"fx": 2262.52, "fy": 2265.3, "u0": 1096.98, "v0": 513.1},
    }
    for split, city in (("train", "aachen"), ("val", "frankfurt")):
        frame = f"{split}/{city}/{city}_000000_000019"
        pair(tmp_path / f"leftImg8bit/{frame}_leftImg8bit.png", tmp_path / f"rightImg8bit/{frame}_rightImg8bit.png")
        put(tmp_path / f"disparity/{frame}_disparity.png", codes(np.uint16, 257, 0, 1, 2561))
        put(tmp_path / f"camera/{frame}_camera.json", json.dumps(camera))
    sample = sets.cityscapes(tmp_path)[0]
    check(sample)
    assert sample.id == "cityscapes/leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit"
    assert row(sample.disparity) == [1.0, 0.0, 0.0, 10.0]
    assert row(sample.valid) == [True, False, False, True]
    assert sample.calibration.baseline == 0.209313
    assert sample.calibration.fy == 2265.3
    assert sample.calibration.doffs == 0
    assert sets.cityscapes(tmp_path, "val").items[0].left.parent.name == "frankfurt"

    put(tmp_path / "camera/train/aachen/aachen_000000_000019_camera.json", '{"intrinsic": {}}')
    with pytest.raises(ValueError, match=r"camera.json is no camera file of Cityscapes"):
        sets.cityscapes(tmp_path)[0]


def test_nyu_v2(tmp_path):
    for split, names in (("train", ("0001.png", "0002.jpg")), ("test", ("1001.png",))):
        for name in names:
            put(tmp_path / split / "rgb" / name, view())
            put(tmp_path / split / "depth" / f"{Path(name).stem}.png", codes(np.uint16, 2500, 0, 9999))
    data = plain.nyu_v2(tmp_path)
    assert [item.id for item in data.items] == ["nyu_v2/train/rgb/0001", "nyu_v2/train/rgb/0002"]
    for index in range(2):
        sample = data[index]
        assert sample.image.unique().tolist() == pytest.approx([0.2])
        assert row(sample.depth, 3) == pytest.approx([2.5, 0.0, 9.999])
        assert row(sample.valid, 3) == [True, False, True]
    assert len(plain.nyu_v2(tmp_path, "test")) == 1
    batch = next(iter(DataLoader(data, batch_size=2, collate_fn=collate)))
    assert batch["depth"].shape == (2, 1, H, W)
    (tmp_path / "train/depth/0002.png").unlink()
    with pytest.raises(FileNotFoundError, match="the depth of"):
        plain.nyu_v2(tmp_path)


# Folders of one's own


def test_folder_of_two_views(tmp_path):
    for number in (1, 2, 10):
        pair(tmp_path / "train/left" / f"{number}.png", tmp_path / "train/right" / f"{number}.png")
    put(tmp_path / "train/disparity/2.pfm", codes(np.float32, 3.25, np.inf))
    put(tmp_path / "train/calib.txt", MIDDLEBURY_CALIB)
    data = plain.folder(tmp_path, "train")
    assert [item.id for item in data.items] == ["folder/1", "folder/2", "folder/10"]
    assert data[0].disparity is None
    check(data[1])
    assert row(data[1].disparity, 2) == [3.25, 0.0]
    assert data[2].calibration.fx == 3000
    assert len(open_dataset("folder", tmp_path / "train")) == 3


def test_folder_of_scenes(tmp_path):
    for scene in ("desk", "shelf"):
        pair(tmp_path / scene / "im0.png", tmp_path / scene / "im1.png")
    put(tmp_path / "desk/disparity.png", codes(np.uint8, 12))
    put(tmp_path / "disparity/shelf.png", codes(np.uint8, 24))
    put(tmp_path / "shelf/K.txt", "500 0 2 0 500 1 0 0 1\n0.12\n")
    data = plain.folder(tmp_path, divide_by=4)
    assert [row(data[index].disparity, 1) for index in range(2)] == [[3.0], [6.0]]
    assert data[0].calibration is None
    assert data[1].calibration.baseline == 0.12
    with pytest.raises(ValueError, match="divide_by"):
        plain.folder(tmp_path)[0]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        plain.folder(tmp_path, "absent")


def test_folder_looks_at_nothing_above_itself(tmp_path):
    pair(tmp_path / "mine/a_L.png", tmp_path / "mine/a_R.png")
    put(tmp_path / "calib.txt", MIDDLEBURY_CALIB)
    put(tmp_path / "disparity/a_L.pfm", codes(np.float32, 1.0))
    item = plain.folder(tmp_path / "mine").items[0]
    assert item.calibration is None
    assert item.disparity is None
    put(tmp_path / "mine/disparity/a_L.pfm", codes(np.float32, 2.0))
    assert row(plain.folder(tmp_path / "mine")[0].disparity, 1) == [2.0]


# What all share


@pytest.mark.parametrize("name", TABLES)
def test_wrong_and_empty_roots_name_the_layout(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=rf"absent is no folder; name the one of {name} that holds .+\.$"):
        open_dataset(name, tmp_path / "absent")
    with pytest.raises(ValueError, match=rf"holds no train images of {name}; they must be at .+ below it\.$"):
        open_dataset(name, tmp_path)
    with pytest.raises(ValueError, match=rf"split is 'nothing'; {name} has train"):
        open_dataset(name, tmp_path, "nothing")


@pytest.mark.parametrize("name", DATASETS)
def test_every_set_draws_its_tree(name):
    text = DATASETS[name].__doc__
    assert "root/" in text or "layout as" in text


def test_unknown_names_and_options(tmp_path):
    with pytest.raises(ValueError, match="name is 'kitti'; it must be one of sceneflow, kitti2012"):
        open_dataset("kitti", tmp_path)
    with pytest.raises(TypeError, match="size"):
        open_dataset("kitti2015", tmp_path, size="half")


@pytest.mark.parametrize(("lost", "kind"), [("im1.png", "right view"), ("disp0.pfm", "disparity")])
def test_a_pair_with_a_missing_file_is_refused(tmp_path, lost, kind):
    new_middlebury(tmp_path / "Piano-perfect")
    put(tmp_path / "Piano-perfect/disp0.pfm", codes(np.float32, 1.0))
    (tmp_path / "Piano-perfect" / lost).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{lost}, the {kind} of .+ does not exist; unpack all of"):
        sets.middlebury2014(tmp_path)


def test_a_truth_of_another_size_is_refused(tmp_path):
    new_middlebury(tmp_path / "Piano-perfect")
    put(tmp_path / "Piano-perfect/disp0.pfm", np.ones((2 * H, 2 * W), np.float32))
    with pytest.raises(ValueError, match=r"disp0.pfm is 8x6 and .+im0.png is 4x3; they must have one size"):
        sets.middlebury2014(tmp_path)[0]


def test_batches_leave_out_what_a_sample_lacks(tmp_path):
    for scene in ("desk", "shelf"):
        pair(tmp_path / scene / "im0.png", tmp_path / scene / "im1.png")
        put(tmp_path / scene / "disparity.pfm", codes(np.float32, 2.0))
    put(tmp_path / "desk/K.txt", "500 0 2 0 500 1 0 0 1\n0.12\n")
    data = pickle.loads(pickle.dumps(plain.folder(tmp_path)))  # as it travels to workers
    loader = DataLoader(data, batch_size=2, collate_fn=collate)
    batch = next(iter(loader))
    assert set(batch) == {"id", "left", "right", "disparity", "valid"}
    assert batch["id"] == ["folder/desk", "folder/shelf"]
    assert batch["left"].shape == (2, 3, H, W)
    assert batch["valid"].dtype == torch.bool


def test_items_of_ones_own(tmp_path):
    pair(tmp_path / "a.png", tmp_path / "b.png")
    data = StereoDataset([StereoItem("mine", tmp_path / "a.png", tmp_path / "b.png")])
    check(data[0])
    with pytest.raises(IndexError):
        data[1]


# Real pairs, linked into the layout of their release


def link(target: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def matches(sample) -> float:
    """Mean absolute difference of the left view and the right view moved by the truth, over the known pixels."""
    height, width = sample.left.shape[-2:]
    columns = (torch.arange(width).expand(height, width) - sample.disparity[0]).round().long()
    inside = sample.valid[0] & (columns >= 0)
    moved = sample.right.gather(2, columns.clamp(0, width - 1).expand(3, -1, -1))
    return (moved - sample.left).abs().mean(0)[inside].mean().item()


def test_real_kitti2015(tmp_path, shared_data):
    link(shared_data("data/stereo/kitti2015"), tmp_path / "training")
    data = sets.kitti2015(tmp_path)
    assert len(data) == 12
    sample = data[0]
    assert sample.left.shape == (3, 375, 1242)
    assert sample.valid.float().mean().item() == pytest.approx(0.228, abs=1e-3)
    assert sample.disparity.max().item() == pytest.approx(78.5, abs=0.1)
    assert torch.equal(sample.noc, sample.valid)
    assert matches(sample) < 0.06


def test_real_kitti2012(tmp_path, shared_data):
    link(shared_data("data/stereo/kitti2012"), tmp_path / "training")
    sample = sets.kitti2012(tmp_path)[0]
    assert sample.calibration.baseline == pytest.approx((45.38225 + 337.2877) / 718.856)
    assert 0 < sample.noc.sum() < sample.valid.sum()
    assert sets.kitti2012(tmp_path, cameras="grey")[0].calibration.baseline == pytest.approx(386.1448 / 718.856)


@pytest.mark.parametrize(
    ("name", "source", "place"),
    [
        ("middlebury2001", "middlebury2001", "."),
        ("tsukuba", "tsukuba", "tsukuba"),
        ("middlebury2005", "middlebury2005", "ThirdSize"),
        ("middlebury2006", "middlebury2006", "ThirdSize"),
    ],
)
def test_real_middlebury(tmp_path, shared_data, name, source, place):
    link(shared_data(f"data/stereo/{source}"), tmp_path / "root" / place if place != "." else tmp_path / "root")
    data = open_dataset(name, tmp_path / "root")
    assert len(data) == {"middlebury2001": 6, "tsukuba": 1, "middlebury2005": 3, "middlebury2006": 14}[name]
    sample = data[0]
    wrong = sample.disparity * 1.25
    assert sample.valid.float().mean() > 0.7
    # Only the true scale brings the views together.
    right_scale = matches(sample)
    assert right_scale < 0.05
    assert right_scale < 0.75 * matches(type(sample)(sample.id, sample.left, sample.right, wrong, sample.valid))


def test_real_middlebury2003(tmp_path, shared_data):
    for scene in ("cones", "teddy"):
        source = shared_data(f"data/stereo/middlebury2003/{scene}")
        for ours, theirs in (
            ("im2", "left"),
            ("im6", "right"),
            ("disp2", "disparity_left"),
            ("disp6", "disparity_right"),
        ):
            link(source / f"{scene}_{theirs}.png", tmp_path / scene / f"{ours}.png")
    data = sets.middlebury2003(tmp_path)
    assert len(data) == 2
    assert data[0].disparity.max().item() == 55.0
    assert data[0].disparity_right.max() > 40
    assert matches(data[0]) < 0.05


def test_real_sceneflow(tmp_path, shared_data):
    source = shared_data("data/stereo/sceneflow_sample")
    for side in ("left", "right"):
        folder = tmp_path / "FlyingThings3D"
        name = f"TEST/A/0032/{side}/0006"
        link(source / f"RGB_cleanpass/{side}/A-0032-0006.png", folder / "frames_cleanpass" / f"{name}.png")
        link(source / f"disparity/{side}/A-0032-0006.pfm", folder / "disparity" / f"{name}.pfm")
    sample = sets.sceneflow(tmp_path, "test", render="cleanpass")[0]
    assert sample.left.shape == (3, 540, 960)
    assert sample.valid.all()
    assert sample.valid_right.all()
    assert (sample.disparity_right > 0).all()
