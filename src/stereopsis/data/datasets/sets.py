"""The data sets: each function draws its tree in the docstring and lists the same tree as templates in its body."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from stereopsis.calibration import read_calibration
from stereopsis.data.datasets.coding import (
    VKITTI2_RIG,
    Coding,
    cityscapes_camera,
    cityscapes_disparity,
    divided_by,
    sintel_disparity,
    vkitti2_disparity,
)
from stereopsis.data.datasets.items import Files, StereoDataset, find_stereo, one_of

PARTS = ("FlyingThings3D", "Driving", "Monkaa")
SIZES = {"full": "F", "half": "H", "quarter": "Q"}
# Eight bits hold no larger disparity, so each size of a set has its own scale.
DIVISORS_2003 = {"quarter": 4, "half": 2, "full": 1}
DIVISORS_2006 = {"third": 3, "half": 2, "full": 1}


def sceneflow(
    root: str | Path,
    split: str = "train",
    *,
    render: Literal["finalpass", "cleanpass"] = "finalpass",
    part: Literal["FlyingThings3D", "Driving", "Monkaa"] | None = None,
) -> StereoDataset:
    """SceneFlow (Mayer et al., CVPR 2016): synthetic, dense truth of both views in PFM, 960 x 540.

    ::

        root/
          FlyingThings3D/
            frames_finalpass/{TRAIN,TEST}/{A,B,C}/0000/{left,right}/0006.png      (or frames_cleanpass)
            disparity/{TRAIN,TEST}/{A,B,C}/0000/{left,right}/0006.pfm
          Driving/
            frames_finalpass/{15mm,35mm}_focallength/scene_{forwards,backwards}/{fast,slow}/{left,right}/0001.png
            disparity/{15mm,35mm}_focallength/.../0001.pfm
          Monkaa/
            frames_finalpass/SCENE/{left,right}/0000.png
            disparity/SCENE/{left,right}/0000.pfm

    Args:
        split: ``train``, or ``test``, which FlyingThings3D alone has.
        render: with motion blur, defocus and fog (``finalpass``), or without.
        part: one of the three alone; by default all that are there.

    Raises:
        FileNotFoundError: no such folder, or a pair whose right view or truth is missing.
        ValueError: nothing in this layout below ``root``, or an unknown option.
    """
    one_of("render", render, ("finalpass", "cleanpass"), "sceneflow")
    one_of("part", part or PARTS[0], PARTS, "sceneflow")

    def files(name: str, clip: str) -> Files:
        return Files(
            name,
            left=f"frames_{render}/{clip}/left/{{frame}}.png",
            right=f"frames_{render}/{clip}/right/{{frame}}.png",
            disparity=(f"disparity/{clip}/left/{{frame}}.pfm",),
            disparity_right=f"disparity/{clip}/right/{{frame}}.pfm",
        )

    things = {key: files("FlyingThings3D", f"{key.upper()}/{{letter}}/{{clip}}") for key in ("train", "test")}
    others = [files("Driving", "{lens}/{direction}/{speed}"), files("Monkaa", "{scene}")]
    splits = {"train": [things["train"], *others], "test": [things["test"]]}
    chosen = {key: [f for f in rows if part in (None, f.folder)] for key, rows in splits.items()}
    return find_stereo("sceneflow", root, split, {key: rows for key, rows in chosen.items() if rows})


def kitti2012(
    root: str | Path, split: str = "train", *, cameras: Literal["colour", "grey"] = "colour"
) -> StereoDataset:
    """KITTI 2012 (Geiger et al., CVPR 2012): streets, sparse LiDAR truth in PNG16 (value / 256, 0 = unknown).

    ::

        root/
          training/
            colored_0/000000_10.png     left  (grey: image_0)
            colored_1/000000_10.png     right (grey: image_1)
            disp_occ/000000_10.png      every point of the left view
            disp_noc/000000_10.png      those that the right view sees too, the mask noc
            calib/000000.txt
          testing/                      the same without disp_occ and disp_noc

    Frames ``_11`` are left out, as they have no truth.

    Args:
        split: ``train`` or ``test``.
        cameras: the pair of cameras; its calibration comes with it.

    Raises: as :func:`sceneflow`.
    """
    one_of("cameras", cameras, ("colour", "grey"), "kitti2012")
    image = {"colour": "colored", "grey": "image"}[cameras]
    test = Files(
        "testing",
        left=f"{image}_0/{{frame}}_10.png",
        right=f"{image}_1/{{frame}}_10.png",
        calibration="calib/{frame}.txt",
    )
    truth = ("disp_occ/{frame}_10.png", "disp_noc/{frame}_10.png")
    train = replace(test, folder="training", disparity=truth, noc=truth[1:])
    coding = Coding(noc=None, calibration=partial(read_calibration, cameras=cameras))
    return find_stereo("kitti2012", root, split, {"train": [train], "test": [test]}, coding)


def kitti2015(root: str | Path, split: str = "train") -> StereoDataset:
    """KITTI 2015 (Menze and Geiger, CVPR 2015): streets, sparse truth in PNG16 (value / 256, 0 = unknown).

    ::

        root/
          training/
            image_2/000000_10.png               left
            image_3/000000_10.png               right
            disp_occ_0/000000_10.png            every point of the left view
            disp_noc_0/000000_10.png            those that the right view sees too, the mask noc
            obj_map/000000_10.png               0 = background, else the number of a car: the mask foreground
            calib_cam_to_cam/000000.txt
          testing/                              the same without disp_* and obj_map

    Frames ``_11`` are left out, as they have no truth of their own.

    Args:
        split: ``train`` or ``test``.

    Raises: as :func:`sceneflow`.
    """
    test = Files(
        "testing",
        left="image_2/{frame}_10.png",
        right="image_3/{frame}_10.png",
        calibration="calib_cam_to_cam/{frame}.txt",
    )
    truth = ("disp_occ_0/{frame}_10.png", "disp_noc_0/{frame}_10.png")
    train = replace(test, folder="training", disparity=truth, noc=truth[1:], foreground="obj_map/{frame}_10.png")
    coding = Coding(noc=None, calibration=partial(read_calibration, cameras="colour"))
    return find_stereo("kitti2015", root, split, {"train": [train], "test": [test]}, coding)


def middlebury2001(root: str | Path, split: str = "train") -> StereoDataset:
    """Middlebury 2001 (Scharstein and Szeliski, IJCV 2002): planar scenes, 8 bit, value / 8; 0 = unknown.

    ::

        root/
          {barn1,barn2,bull,poster,sawtooth,venus}/     im2.ppm  im6.ppm  disp2.pgm  disp6.pgm
          map/                                          im0.pgm  im1.pgm  disp0.pgm  disp1.pgm

    ``tsukuba`` has its own names and scale: open it with :func:`tsukuba`.

    Raises: as :func:`sceneflow`.
    """
    planes = Files("{scene}", "im2.ppm", "im6.ppm", ("disp2.pgm",), "disp6.pgm")
    map_ = Files("map", "im0.pgm", "im1.pgm", ("disp0.pgm",), "disp1.pgm")
    return find_stereo("middlebury2001", root, split, {"train": [planes, map_]}, divided_by(8))


def tsukuba(root: str | Path, split: str = "train") -> StereoDataset:
    """Tsukuba, the head and lamp of Middlebury 2001: 8 bit, value / 16; 0 = unknown, a border of 18 px.

    ::

        root/
          tsukuba/      scene1.row3.col3.ppm (left)  scene1.row3.col4.ppm (right)  truedisp.row3.col3.pgm

    Raises: as :func:`sceneflow`.
    """
    files = Files("tsukuba", "scene1.row3.col3.ppm", "scene1.row3.col4.ppm", ("truedisp.row3.col3.pgm",))
    return find_stereo("tsukuba", root, split, {"train": [files]}, divided_by(16))


def middlebury2003(
    root: str | Path, split: str = "train", *, size: Literal["quarter", "half", "full"] = "quarter"
) -> StereoDataset:
    """Middlebury 2003 (Scharstein and Szeliski, CVPR 2003): cones and teddy, 8 bit; 0 = unknown.

    ::

        root/
          {cones,teddy}/            im2.png  im6.png  disp2.png  disp6.png      quarter size, value / 4
          {cones,teddy}H/           im2.ppm  im6.ppm  disp2.pgm  disp6.pgm      half size, value / 2
          {cones,teddy}F/           the same                                    full size, value / 1

    Raises: as :func:`sceneflow`.
    """
    one_of("size", size, tuple(DIVISORS_2003), "middlebury2003")
    if size == "quarter":
        files = Files("{scene}", "im2.png", "im6.png", ("disp2.png",), "disp6.png")
    else:
        files = Files(f"{{scene}}{SIZES[size]}", "im2.ppm", "im6.ppm", ("disp2.pgm",), "disp6.pgm")
    return find_stereo("middlebury2003", root, split, {"train": [files]}, divided_by(DIVISORS_2003[size]))


def middlebury2005(
    root: str | Path, split: str = "train", *, size: Literal["third", "half", "full"] = "third"
) -> StereoDataset:
    """Middlebury 2005 (Scharstein and Pal, CVPR 2007): Art, Books, Dolls ...; layout as :func:`middlebury2006`."""
    return _two_views("middlebury2005", root, split, size)


def middlebury2006(
    root: str | Path, split: str = "train", *, size: Literal["third", "half", "full"] = "third"
) -> StereoDataset:
    """Middlebury 2006 (Hirschmüller and Scharstein, CVPR 2007): two views of each scene, 8 bit; 0 = unknown.

    ::

        root/
          ThirdSize/Aloe/       view1.png  view5.png  disp1.png  disp5.png      value / 3
          HalfSize/Aloe/        the same                                        value / 2
          FullSize/Aloe/        the same                                        value / 1

    The archives ``zip-2views`` of all sizes unpack to ``Aloe/``, so unpack each into the folder of its size, named as
    on the server: the folder is what tells the scale.

    Raises: as :func:`sceneflow`.
    """
    return _two_views("middlebury2006", root, split, size)


def middlebury2014(
    root: str | Path, split: str = "train", *, rectification: Literal["perfect", "imperfect"] = "perfect"
) -> StereoDataset:
    """Middlebury 2014 (Scharstein et al., GCPR 2014): about 6 megapixels, PFM of both views, +inf = unknown.

    ::

        root/
          Motorcycle-perfect/           im0.png  im1.png  disp0.pfm  disp1.pfm  calib.txt
          Motorcycle-imperfect/         the same

    The right views under other exposure and light (``im1E.png``, ``im1L.png``) are left out.

    Raises: as :func:`sceneflow`.
    """
    one_of("rectification", rectification, ("perfect", "imperfect"), "middlebury2014")
    return find_stereo("middlebury2014", root, split, {"train": [_scene(f"{{scene}}-{rectification}")]})


def middlebury_v3(
    root: str | Path, split: str = "train", *, size: Literal["quarter", "half", "full"] = "quarter"
) -> StereoDataset:
    """Middlebury v3, the benchmark (MiddEval3): PFM, +inf = unknown; a mask of what both views see.

    ::

        root/
          trainingQ/Adirondack/         im0.png  im1.png  calib.txt         (trainingH, trainingF: half and full size)
                                        disp0GT.pfm  mask0nocc.png          MiddEval3-GT0: 255 = seen by both,
                                                                            128 = occluded, 0 = unknown
                                        disp1GT.pfm                         MiddEval3-GT1, optional
          testQ/Australia/              im0.png  im1.png  calib.txt

    Args:
        split: ``train`` or ``test``.

    Raises: as :func:`sceneflow`.
    """
    one_of("size", size, tuple(SIZES), "middlebury_v3")
    test = _scene(f"test{SIZES[size]}/{{scene}}", truth=False)
    train = replace(
        test,
        folder=f"training{SIZES[size]}/{{scene}}",
        disparity=("disp0GT.pfm",),
        disparity_right="disp1GT.pfm",
        noc=("mask0nocc.png",),
    )
    return find_stereo("middlebury_v3", root, split, {"train": [train], "test": [test]})


def middlebury2021(root: str | Path, split: str = "train") -> StereoDataset:
    """Middlebury 2021, mobile: 24 scenes of 1920 x 1080, PFM of both views, +inf = unknown.

    ::

        root/                           or root/data/, as the archive unpacks
          artroom1/                     im0.png  im1.png  disp0.pfm  disp1.pfm  calib.txt

    Raises: as :func:`sceneflow`.
    """
    return find_stereo("middlebury2021", root, split, {"train": [_scene("{scene}"), _scene("data/{scene}")]})


def eth3d(root: str | Path, split: str = "train") -> StereoDataset:
    """ETH3D two-view (Schöps et al., CVPR 2017): grey pairs, laser truth in PFM, +inf = unknown.

    ::

        root/
          two_view_training/delivery_area_1l/       im0.png  im1.png  calib.txt
          two_view_training_gt/delivery_area_1l/    disp0GT.pfm  mask0nocc.png (255 = seen by both views)
          two_view_test/lakeside_1l/                im0.png  im1.png  calib.txt

    Args:
        split: ``train`` or ``test``.

    Raises: as :func:`sceneflow`.
    """
    test = _scene("two_view_test/{scene}", truth=False)
    train = Files(
        "",
        left="two_view_training/{scene}/im0.png",
        right="two_view_training/{scene}/im1.png",
        disparity=("two_view_training_gt/{scene}/disp0GT.pfm",),
        noc=("two_view_training_gt/{scene}/mask0nocc.png",),
        calibration="two_view_training/{scene}/calib.txt",
    )
    return find_stereo("eth3d", root, split, {"train": [train], "test": [test]})


def sintel(root: str | Path, split: str = "train", *, render: Literal["final", "clean"] = "final") -> StereoDataset:
    """MPI Sintel stereo (Butler et al., ECCV 2012): an animated film, dense truth, 1024 x 436.

    ::

        root/
          training/
            final_left/alley_1/frame_0001.png       final_right/...     (or clean_left, clean_right)
            disparities/alley_1/frame_0001.png      R * 4 + G / 2^6 + B / 2^14 px; 0, infinitely far, is not valid
            occlusions/alley_1/frame_0001.png       0 = not occluded    } where both are 0,
            outofframe/alley_1/frame_0001.png       0 = in the frame    } both views see the point

    Raises: as :func:`sceneflow`.
    """
    one_of("render", render, ("final", "clean"), "sintel")
    frame = "{scene}/{frame}.png"
    files = Files(
        "training",
        left=f"{render}_left/{frame}",
        right=f"{render}_right/{frame}",
        disparity=(f"disparities/{frame}",),
        noc=(f"occlusions/{frame}", f"outofframe/{frame}"),
    )
    return find_stereo("sintel", root, split, {"train": [files]}, Coding(disparity=sintel_disparity, noc=0))


def vkitti2(root: str | Path, split: str = "train", *, variation: str | None = None) -> StereoDataset:
    """Virtual KITTI 2 (Cabon et al., 2020): five streets of KITTI rendered in ten variations, 1242 x 375.

    ::

        root/
          Scene01/clone/frames/
            rgb/Camera_0/rgb_00000.jpg                                  left; Camera_1 right
            depth/Camera_0/depth_00000.png                              16 bit, cm; 65535 = sky, not valid
            instanceSegmentation/Camera_0/instancegt_00000.png          0 = no vehicle: the mask foreground; optional

    Disparity is 725.0087 px * 0.532725 m / depth, of both views.

    Args:
        variation: ``clone``, ``fog``, ``morning``, ``15-deg-left`` ...; by default all.

    Raises: as :func:`sceneflow`.
    """
    files = Files(
        f"{{scene}}/{variation or '{variation}'}/frames",
        left="rgb/Camera_0/rgb_{frame}.jpg",
        right="rgb/Camera_1/rgb_{frame}.jpg",
        disparity=("depth/Camera_0/depth_{frame}.png",),
        disparity_right="depth/Camera_1/depth_{frame}.png",
        foreground="instanceSegmentation/Camera_0/instancegt_{frame}.png",
        calibration=VKITTI2_RIG,
    )
    return find_stereo("vkitti2", root, split, {"train": [files]}, Coding(disparity=vkitti2_disparity))


def instereo2k(root: str | Path, split: str = "train") -> StereoDataset:
    """InStereo2K (Bao et al., 2020): rooms, structured-light truth of both views in PNG16 (value / 100, 0 = unknown).

    ::

        root/
          train/000000/         left.png  right.png  left_disp.png  right_disp.png      (or train/part1/000000/)
          test/000000/          the same

    Args:
        split: ``train`` or ``test``.

    Raises: as :func:`sceneflow`.
    """
    names = ("left.png", "right.png", ("left_disp.png",), "right_disp.png")
    folders = {key: (f"{key}/{{scene}}", f"{key}/{{part}}/{{scene}}") for key in ("train", "test")}
    splits = {key: [Files(folder, *names) for folder in pair] for key, pair in folders.items()}
    return find_stereo("instereo2k", root, split, splits, divided_by(100))


def cityscapes(root: str | Path, split: str = "train") -> StereoDataset:
    """Cityscapes (Cordts et al., CVPR 2016): streets, SGM disparity in PNG16, (value - 1) / 256, 0 = unknown.

    ::

        root/
          leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png
          rightImg8bit/train/aachen/aachen_000000_000019_rightImg8bit.png
          disparity/train/aachen/aachen_000000_000019_disparity.png
          camera/train/aachen/aachen_000000_000019_camera.json              optional

    The disparity is computed, so it serves as a hint and not as a truth.

    Args:
        split: ``train``, ``val``, ``test`` or ``train_extra``.

    Raises: as :func:`sceneflow`.
    """
    splits = {}
    for key in ("train", "val", "test", "train_extra"):
        frame = f"{key}/{{city}}/{{frame}}"
        splits[key] = [
            Files(
                "",
                left=f"leftImg8bit/{frame}_leftImg8bit.png",
                right=f"rightImg8bit/{frame}_rightImg8bit.png",
                disparity=(f"disparity/{frame}_disparity.png",),
                calibration=f"camera/{frame}_camera.json",
            )
        ]
    coding = Coding(disparity=cityscapes_disparity, calibration=cityscapes_camera)
    return find_stereo("cityscapes", root, split, splits, coding)


def _scene(folder: str, truth: bool = True) -> Files:
    """The names that Middlebury uses since 2014."""
    files = Files(folder, "im0.png", "im1.png", calibration="calib.txt")
    return replace(files, disparity=("disp0.pfm",), disparity_right="disp1.pfm") if truth else files


def _two_views(name: str, root: str | Path, split: str, size: str) -> StereoDataset:
    one_of("size", size, tuple(DIVISORS_2006), name)
    files = Files(f"{size.title()}Size/{{scene}}", "view1.png", "view5.png", ("disp1.png",), "disp5.png")
    return find_stereo(name, root, split, {"train": [files]}, divided_by(DIVISORS_2006[size]))
