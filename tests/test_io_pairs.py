import pytest

from stereopsis.io import find_pairs


def _touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def _names(pairs, root):
    return [(p.name, str(p.left.relative_to(root)), str(p.right.relative_to(root))) for p in pairs]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["im0.png", "im1.png", "disp0.pfm", "calib.txt"], [("im0.png", "im1.png")]),
        (["view1.png", "view5.png", "disp1.png", "disp5.png"], [("view1.png", "view5.png")]),
        (["left.png", "right.jpg"], [("left.png", "right.jpg")]),
        (["a_L.png", "a_R.png", "b_L.png", "b_R.png"], [("a_L.png", "a_R.png"), ("b_L.png", "b_R.png")]),
        (
            ["left10.jpg", "right10.jpg", "left9.jpg", "right9.jpg"],
            [("left9.jpg", "right9.jpg"), ("left10.jpg", "right10.jpg")],
        ),
        (["imgL.png", "imgR.png"], [("imgL.png", "imgR.png")]),
        (
            ["x_left.png", "x_right.png", "x_disparity_left.png", "x_disparity_right.png"],
            [("x_left.png", "x_right.png")],
        ),
        (["left/1.png", "right/1.png"], [("left/1.png", "right/1.png")]),
        (
            ["image_2/1.png", "image_3/1.png", "image_2/2.png", "image_3/2.png"],
            [("image_2/1.png", "image_3/1.png"), ("image_2/2.png", "image_3/2.png")],
        ),
        (["rgb_left/1.png", "rgb_right/1.png"], [("rgb_left/1.png", "rgb_right/1.png")]),
        (
            ["A/view1.png", "A/view5.png", "B/view1.png", "B/view5.png"],
            [("A/view1.png", "A/view5.png"), ("B/view1.png", "B/view5.png")],
        ),
    ],
)
def test_known_layouts(tmp_path, files, expected):
    pairs = find_pairs(_touch(tmp_path, *files))
    assert [names[1:] for names in _names(pairs, tmp_path)] == expected
    assert len({pair.name for pair in pairs}) == len(pairs)


def test_scenes_give_their_names(tmp_path):
    pairs = find_pairs(_touch(tmp_path, "Aloe/view1.png", "Aloe/view5.png", "Baby/view1.png", "Baby/view5.png"))
    assert [pair.name for pair in pairs] == ["Aloe", "Baby"]


def test_two_files_folders_and_globs(tmp_path):
    _touch(tmp_path, "l/a2.png", "l/a10.png", "r/a2.png", "r/a10.png", "r/.a3.png", "r/notes.txt")
    expected = [("a2", "l/a2.png", "r/a2.png"), ("a10", "l/a10.png", "r/a10.png")]
    assert _names(find_pairs(tmp_path / "l", tmp_path / "r"), tmp_path) == expected
    assert _names(find_pairs(f"{tmp_path}/l/*.png", f"{tmp_path}/r/a*.png"), tmp_path) == expected
    assert _names(find_pairs(tmp_path / "l/a2.png", tmp_path / "r/a10.png"), tmp_path) == [
        ("a2", "l/a2.png", "r/a10.png")
    ]


def test_names_are_matched_before_order(tmp_path):
    # In order, b_left would meet a_right.
    _touch(tmp_path, "l/z_left.png", "l/b_left.png", "r/right_z.png", "r/right_b.png")
    assert [(p.left.stem, p.right.stem) for p in find_pairs(tmp_path / "l", tmp_path / "r")] == [
        ("b_left", "right_b"),
        ("z_left", "right_z"),
    ]
    _touch(tmp_path, "m/100.png", "m/200.png", "n/105.png", "n/205.png")
    with pytest.warns(UserWarning, match=r"paired by their order \(100\.png with 105\.png"):
        pairs = find_pairs(tmp_path / "m", tmp_path / "n")
    assert [(p.left.stem, p.right.stem) for p in pairs] == [("100", "105"), ("200", "205")]


def test_what_is_missing_is_named(tmp_path):
    _touch(tmp_path, "l/a.png", "l/b.png", "r/c.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds 2 images and .* holds 1, and no names agree"):
        find_pairs(tmp_path / "l", tmp_path / "r")
    with pytest.raises(ValueError, match=r"empty holds no image \(\.png"):
        find_pairs(tmp_path / "empty", tmp_path / "r")
    with pytest.raises(ValueError, match="empty holds no stereo pair in a known layout"):
        find_pairs(tmp_path / "empty")
    with pytest.raises(ValueError, match="No file matches"):
        find_pairs(f"{tmp_path}/*.bmp", f"{tmp_path}/*.bmp")
    for arguments in ((tmp_path / "none",), (tmp_path / "none", tmp_path / "r")):
        with pytest.raises(FileNotFoundError, match="none does not exist"):
            find_pairs(*arguments)
    with pytest.raises(ValueError, match="is a file; name the right view too"):
        find_pairs(tmp_path / "l/a.png")


# --- frames without a partner


def _stems(pairs):
    return [(pair.left.stem, pair.right.stem) for pair in pairs]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("{}", "{}"),
        ("left_{}", "right_{}"),
        ("frame{}_L", "frame{}_R"),
        ("L{}", "R{}"),
        ("{}_leftImg8bit", "{}_rightImg8bit"),
        ("cam0_{}", "cam1_{}"),
        ("alpha_{}", "beta_{}"),
        ("140363{}.763", "140363{}.764"),
    ],
)
def test_frames_that_one_camera_lost_are_left_out_and_named(tmp_path, left, right):
    """Pairs are made by name, whatever marks the view."""
    width = 4
    lefts = [left.format(f"{k:0{width}d}") for k in range(20) if k != 2]
    rights = [right.format(f"{k:0{width}d}") for k in range(20) if k != 17]
    _touch(tmp_path, *(f"left/{name}.png" for name in lefts), *(f"right/{name}.png" for name in rights))
    with pytest.warns(UserWarning, match="no partner") as warned:
        pairs = find_pairs(tmp_path / "left", tmp_path / "right")
    expected = [k for k in range(20) if k not in (2, 17)]
    assert _stems(pairs) == [(left.format(f"{k:04d}"), right.format(f"{k:04d}")) for k in expected]
    text = " ".join(str(warning.message) for warning in warned)
    assert left.format("0017") + ".png" in text
    assert right.format("0002") + ".png" in text


def test_time_stamps_within_the_tolerance_are_pairs(tmp_path):
    """Cameras that are triggered together differ by a few milliseconds."""
    start = 1_403_636_579_763_555_584
    lefts = [start + 50_000_000 * k for k in range(6)]
    rights = [time + 3_000_000 * (-1) ** k for k, time in enumerate(lefts) if k != 3]
    _touch(tmp_path, *(f"cam0/{time}.png" for time in lefts), *(f"cam1/{time}.png" for time in rights))
    with pytest.warns(UserWarning, match=f"1 image of .*cam0 had no partner and was left out: {lefts[3]}.png"):
        pairs = find_pairs(tmp_path)
    assert [int(pair.left.stem) - lefts[k] for pair, k in zip(pairs, (0, 1, 2, 4, 5), strict=True)] == [0] * 5
    with pytest.raises(ValueError, match="no names agree"):
        find_pairs(tmp_path / "cam0", tmp_path / "cam1", 0.001)


def test_many_unpaired_images_are_counted_and_three_are_named(tmp_path):
    _touch(tmp_path, "right/7.png", *(f"left/{k}.png" for k in range(10)))
    with pytest.warns(
        UserWarning, match=r"9 images of .*left had no partner and were left out: 0.png, 1.png, 2.png, \."
    ):
        assert _stems(find_pairs(tmp_path)) == [("7", "7")]


# --- what is a view


@pytest.mark.parametrize(
    "name", ["flowerpots", "soccer", "confocal", "conference", "occupied", "displays", "masked", "overflow"]
)
def test_words_that_only_contain_a_map_are_views(tmp_path, name):
    _touch(tmp_path, f"{name}_left.png", f"{name}_right.png", "x_left.png", "x_right.png")
    assert len(find_pairs(tmp_path)) == 2


@pytest.mark.parametrize(
    "name", ["disp_{}", "{}_disparity", "depth_{}", "x_{}_flow", "occ-{}", "x_conf_{}", "x_mask_{}", "dispmap_{}"]
)
def test_maps_are_no_views_and_are_named(tmp_path, name):
    maps = [f"{name.format(side)}.png" for side in ("left", "right")]
    _touch(tmp_path, "x_left.png", "x_right.png", *maps)
    with pytest.warns(UserWarning, match="2 images of .* are not views by their names and were left out"):
        assert _stems(find_pairs(tmp_path)) == [("x_left", "x_right")]


def test_a_view_without_partner_in_one_folder_is_named(tmp_path):
    _touch(tmp_path, "a_left.png", "a_right.png", "alone_left.png")
    with pytest.warns(UserWarning, match=r"1 image of .* had no partner and was left out: alone_left\.png"):
        assert _stems(find_pairs(tmp_path)) == [("a_left", "a_right")]


@pytest.mark.parametrize(
    "names",
    [
        [f"frame_{k}" for k in range(6)],
        ["frame_0", "frame_1"],
        ["img_0", "img_1"],
        [f"{k:06d}" for k in range(4)],
        ["000000_10", "000000_11"],
        [f"{k:06d}_{j}" for k in range(3) for j in (10, 11)],
    ],
)
def test_frames_of_one_camera_are_no_pair(tmp_path, names):
    _touch(tmp_path, *(f"{name}.png" for name in names))
    with pytest.raises(ValueError, match="no stereo pair in a known layout"):
        find_pairs(tmp_path)


def test_numbered_views_of_several_scenes_are_pairs(tmp_path):
    _touch(tmp_path, *(f"{scene}_{view}.png" for scene in ("a", "b") for view in (0, 1)))
    assert _stems(find_pairs(tmp_path)) == [("a_0", "a_1"), ("b_0", "b_1")]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("cam0", "cam1"), ("cam0/data", "cam1/data"), ("image_0", "image_1"), ("infra1", "infra2"), ("L", "R"),
        ("left_raw", "right_raw"), ("rgb_left", "rgb_right"), ("camera_cam0", "camera_cam1"), ("stereo_L", "stereo_R"),
    ],
)  # fmt: skip
def test_folders_of_two_cameras(tmp_path, left, right):
    _touch(tmp_path, *(f"{side}/{k}.png" for side in (left, right) for k in range(3)))
    assert _stems(find_pairs(tmp_path)) == [(str(k), str(k)) for k in range(3)]


@pytest.mark.parametrize(("case", "expected"), [("pairs-by-order", ["000001", "000004", "000005"])])
def test_reported_recordings(shared_data, case, expected):
    with pytest.warns(UserWarning, match="no partner"):
        pairs = find_pairs(shared_data(f"cases/{case}"))
    assert _stems(pairs) == [(stem, stem) for stem in expected]
    with pytest.raises(ValueError, match="no stereo pair"):
        find_pairs(shared_data("cases/one-camera-folder"))


@pytest.mark.parametrize(
    ("folder", "count"),
    [
        ("stereo/kitti2015", 12),
        ("stereo/middlebury2006", 14),
        ("stereo/middlebury2003", 2),
        ("pairs/libelas", 4),
        ("pairs/netdef", 2),
        ("calibration/opencv_doc/calibration", 13),
        ("calibration/checkerboard_sourishg/2", 28),
        ("sequences/kitti_raw", 5),
        ("sequences/euroc/MicroEuroc", 8),
    ],
)
def test_real_folders(shared_data, folder, count):
    assert len(find_pairs(shared_data(f"data/{folder}"))) == count
