"""ROS 1 and ROS 2 bags: topics, encodings, times and damage."""

import struct
from io import BytesIO

import numpy as np
import pytest
import torch
from bags import PERIOD, START, write_bag
from PIL import Image
from views import shifted_pair

from stereopsis.io import BagPair, is_bag
from stereopsis.io.bags import BagImage
from stereopsis.io.frames import open_depth_frames, open_frames

pytest.importorskip("rosbags", reason="rosbags is not installed; the extra is stereopsis[bags]")

TIMES = [START + number * PERIOD for number in range(3)]
VIEWS = [shifted_pair(5, 24, 32, seed) for seed in range(3)]


def _topics(side_names=("/left/image_raw", "/right/image_raw"), encoding="rgb8", delay=0):
    return {
        name: [(time + delay * side, encoding, views[side]) for time, views in zip(TIMES, VIEWS, strict=True)]
        for side, name in enumerate(side_names)
    }


@pytest.mark.parametrize("name", ["a.bag", "b", "c_mcap"])
@pytest.mark.parametrize("encoding", ["rgb8", "png"])
def test_the_pairs_of_a_bag(tmp_path, name, encoding):
    path = write_bag(tmp_path / name, _topics(encoding=encoding, delay=3_000_000))
    assert is_bag(path)
    frames = open_frames(path)
    assert (frames.count, frames.from_video) == (3, True)
    assert frames.fps == pytest.approx(10, rel=0.1)
    found = list(frames)
    assert [frame.name for frame in found] == [str(time) for time in TIMES]
    for frame, views in zip(found, VIEWS, strict=True):
        for read, view in zip(frame.read(), views, strict=True):
            assert torch.equal((read * 255).round().byte().permute(1, 2, 0), torch.from_numpy(view))
    assert [frame.name for frame in frames] == [frame.name for frame in found]  # it may be read again


def test_a_file_of_ros_2_alone(tmp_path):
    write_bag(tmp_path / "c_mcap", _topics())
    (path,) = (tmp_path / "c_mcap").glob("*.mcap")
    assert len(list(BagPair(path))) == 3


def test_messages_without_partner_are_left_out(tmp_path):
    topics = _topics()
    del topics["/right/image_raw"][1]
    frames = open_frames(write_bag(tmp_path / "a.bag", topics))
    with pytest.warns(UserWarning, match="1 messages of /left/image_raw and /right/image_raw have no partner"):
        assert [frame.name for frame in frames] == [str(TIMES[0]), str(TIMES[2])]
    apart = write_bag(tmp_path / "b.bag", _topics(delay=40_000_000))
    with pytest.raises(ValueError, match="has a partner in /right/image_raw within 10 ms; allow a larger tolerance"):
        list(open_frames(apart))
    assert len(list(open_frames(apart, tolerance=0.045))) == 3


def test_topics_are_found_or_asked_for(tmp_path):
    names = ("/a/infra1/image", "/a/infra2/image", "/a/left/image", "/b/other")
    pixels = [(TIMES[0], "mono8", VIEWS[0][0][..., 0])]
    path = write_bag(tmp_path / "a.bag", dict.fromkeys(names, pixels))
    assert BagPair(path).topics == names[:2]
    assert BagPair(path, (names[3], names[0])).topics == (names[3], names[0])
    with pytest.raises(ValueError, match=r"has no image topic /x; it has /a/infra1/image, /a/infra2/image"):
        BagPair(path, ("/x", names[0]))
    with pytest.raises(ValueError, match="twice"):
        BagPair(path, (names[0], names[0]))
    raw = write_bag(tmp_path / "r.bag", dict.fromkeys(("/cam0/image", "/cam1/image"), pixels))
    assert BagPair(raw).topics == ("/cam0/image", "/cam1/image")
    both = dict.fromkeys(("/l/left", "/l/right", "/m/left", "/m/right"), pixels)
    with pytest.raises(ValueError, match="has more than one pair of topics; choose with --topics LEFT RIGHT"):
        BagPair(write_bag(tmp_path / "two.bag", both))
    with pytest.raises(ValueError, match="has no two topics whose names tell"):
        BagPair(write_bag(tmp_path / "one.bag", {"/b/other": pixels}))


@pytest.mark.parametrize(
    ("encoding", "stored"),
    [
        ("mono8", lambda image: image[..., 0]),
        ("bgr8", lambda image: image[..., ::-1]),
        ("rgba8", lambda image: np.concatenate([image, image[..., :1]], -1)),
        ("mono16", lambda image: image[..., 0].astype(np.uint16) * 257),
        ("mono16", lambda image: (image[..., 0].astype(np.uint16) * 257).astype(">u2")),
    ],
)
def test_encodings(tmp_path, encoding, stored):
    left = VIEWS[0][0]
    topics = {f"/{side}": [(TIMES[0], encoding, np.ascontiguousarray(stored(left)))] for side in ("left", "right")}
    ((_, message, _),) = BagPair(write_bag(tmp_path / "a.bag", topics))
    expected = left if "mono" not in encoding else np.repeat(left[..., :1], 3, 2)
    assert torch.allclose(message.image().permute(1, 2, 0) * 255, torch.from_numpy(expected).float(), atol=1e-3)


def test_a_mosaic_and_packed_colours():
    red = np.zeros((6, 8), np.uint8)
    red[::2, ::2] = 200
    picture = BagImage("m", "bayer_rggb8", red.tobytes(), (6, 8, 8)).image()
    assert picture[0].mean() > 0.7
    assert picture[1:].max() == 0
    grey = np.full((4, 8, 2), 128, np.uint8)
    assert BagImage("y", "yuv422_yuy2", grey.tobytes(), (4, 8, 16)).image().std() < 0.01
    with pytest.raises(ValueError, match="m has the encoding 'hsv8'"):
        BagImage("m", "hsv8", b"", (1, 1, 1)).image()
    with pytest.raises(ValueError, match="states 8x6 pixels of mono8 but holds 3 bytes"):
        BagImage("m", "mono8", b"abc", (6, 8, 8)).image()


@pytest.mark.parametrize(
    ("encoding", "pixels", "metres"),
    [
        ("16UC1", np.full((6, 8), 1500, np.uint16), 1.5),
        ("32FC1", np.full((6, 8), 2.25, np.float32), 2.25),
        ("16UC1; compressedDepth png", np.full((6, 8), 1500, np.uint16), 1.5),
    ],
)
def test_depth(tmp_path, encoding, pixels, metres):
    pixels[0, 0] = 0
    topics = {"/camera/color/image": [(TIMES[0], "rgb8", VIEWS[0][0])], "/camera/depth": [(TIMES[0], encoding, pixels)]}
    (frame,) = open_depth_frames(write_bag(tmp_path / "a.bag", topics))
    image, depth, valid = frame.read()
    assert image.shape == (3, 24, 32)
    assert not valid[0, 0, 0]
    assert int(valid.sum()) == 47
    assert torch.allclose(depth[valid], torch.tensor(metres))


def test_damage(tmp_path):
    path = write_bag(tmp_path / "a.bag", _topics())
    content = path.read_bytes()
    (tmp_path / "cut.bag").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.bag").write_text("no bag")
    for name in ("cut.bag", "text.bag"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as a bag"):
            open_frames(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"absent.bag does not exist; name an existing bag"):
        open_frames(tmp_path / "absent.bag")
    with pytest.raises(ValueError, match="is a bag, which holds both images of a pair"):
        open_frames(path, path)
    with pytest.raises(ValueError, match="--topics is for bags"):
        open_frames(tmp_path, topics=("/a", "/b"))


# --- compressed depth ---


def _rvl(values):
    """Wilson's run-length code of 16-bit depth, written from the paper: a test's own encoder."""
    nibbles = []

    def number(value):
        while True:
            group, value = value & 7, value >> 3
            nibbles.append(group | (8 if value else 0))
            if not value:
                return

    flat, at, last = values.ravel().astype(int), 0, 0
    while at < flat.size:
        start = at
        while at < flat.size and flat[at] == 0:
            at += 1
        number(at - start)
        start = at
        while at < flat.size and flat[at] != 0:
            at += 1
        number(at - start)
        for value in flat[start:at]:
            step = value - last
            number((step << 1) ^ (step >> 63))
            last = value
    nibbles += [0] * (-len(nibbles) % 8)
    words = np.array(nibbles, np.uint32).reshape(-1, 8) << np.arange(28, -1, -4, dtype=np.uint32)
    return words.sum(1, dtype=np.uint32).astype("<u4").tobytes()


@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (48, 64)])
@pytest.mark.parametrize("holes", [0.0, 0.4, 1.0])
def test_rvl(shape, holes):
    rng = np.random.default_rng(3)
    values = np.cumsum(rng.integers(-300, 300, shape[0] * shape[1])).reshape(shape) % 65535 + 1
    values = np.where(rng.random(shape) < holes, 0, values).astype(np.uint16)
    content = struct.pack("<iffii", 0, 0.0, 0.0, shape[1], shape[0]) + _rvl(values)
    image = BagImage("/depth", "16UC1; compressedDepth rvl", content, None)
    depth, valid = image.depth()
    np.testing.assert_allclose(depth[0].numpy(), values / 1000, rtol=1e-6)
    np.testing.assert_array_equal(valid[0].numpy(), values > 0)


def test_damaged_rvl():
    values = np.arange(1, 101, dtype=np.uint16).reshape(10, 10)
    whole = struct.pack("<iffii", 0, 0.0, 0.0, 10, 10) + _rvl(values)
    for content, words in (
        (whole[:15], "ends within its header"),
        (whole[:24], "does not decode as RVL|of 100 pixels"),
        (struct.pack("<iffii", 0, 0.0, 0.0, -1, 10) + whole[20:], "-1x10 pixels"),
        (struct.pack("<iffii", 0, 0.0, 0.0, 2**20, 2**20) + whole[20:], "pixels of RVL"),
        (whole[:20] + bytes(400), "does not decode as RVL"),
        (whole[:20] + b"\xff" * 400, "of 100 pixels|does not decode"),
    ):
        with pytest.raises(ValueError, match=words):
            BagImage("/depth", "16UC1; compressedDepth rvl", content, None).depth()


@pytest.mark.parametrize("codec", ["png", "rvl"])
def test_inverse_depth(codec):
    codes = np.array([[0, 1, 300], [500, 1000, 65535]], np.uint16)
    a, b = 1000.0, -10.0
    header = struct.pack("<iff", 0, a, b)
    if codec == "png":
        file = BytesIO()
        Image.fromarray(codes).save(file, format="PNG")
        content = header + file.getvalue()
    else:
        content = header + struct.pack("<ii", 3, 2) + _rvl(codes)
    depth, valid = BagImage("/depth", f"32FC1; compressedDepth {codec}", content, None).depth()
    np.testing.assert_array_equal(valid[0].numpy(), codes > 0)
    np.testing.assert_allclose(depth[0].numpy()[codes > 0], a / (codes[codes > 0] - b), rtol=1e-5)
    with pytest.raises(ValueError, match="A must be above 0"):
        BagImage(
            "/depth", f"32FC1; compressedDepth {codec}", struct.pack("<iff", 0, -1.0, b) + content[12:], None
        ).depth()


@pytest.mark.parametrize("name", ["png", "rvl"])
def test_case_compressed_depth(shared_data, name):
    folder = shared_data("cases/bag-compressed-depth")
    ((_, _, message),) = BagPair(folder / f"{name}.bag", kind="depth")
    np.testing.assert_allclose(message.depth()[0][0].numpy() * 1000, np.load(folder / "depth_true_mm.npy"), atol=1e-3)


def test_case_inverse_depth(shared_data):
    folder = shared_data("cases/bag-compressed-depth-32f")
    ((_, _, message),) = BagPair(folder / "inverse_depth.bag", kind="depth")
    depth, valid = message.depth()
    true = np.load(folder / "depth_true.npy")
    np.testing.assert_array_equal(valid[0].numpy(), true > 0)
    # A code is a step of inverse depth: Z^2 / 1000 metres.
    assert np.abs(depth[0].numpy() - true)[true > 0].max() < 3.0**2 / 1000
