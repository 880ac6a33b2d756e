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
    assert [(p.left.stem, p.right.stem) for p in find_pairs(tmp_path / "m", tmp_path / "n")] == [
        ("100", "105"),
        ("200", "205"),
    ]


def test_what_is_missing_is_named(tmp_path):
    _touch(tmp_path, "l/1.png", "l/2.png", "r/1.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds 2 images and .* holds 1"):
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
        find_pairs(tmp_path / "l/1.png")


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
