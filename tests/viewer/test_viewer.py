"""Where the viewer's frames come from, what its page asks for, and what it refuses; without a browser."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from threading import Thread

import numpy as np
import pytest
import torch
from views import shifted_pair

import stereopsis
from stereopsis.apps.viewer import Extras, ViewServer, open_source
from stereopsis.apps.viewer.frames import MAX_POINTS, Frame, parts_of
from stereopsis.apps.viewer.pages import FrameCache
from stereopsis.cli import main
from stereopsis.io import write_depth, write_disparity, write_image, write_point_cloud
from stereopsis.types import Depth, PointCloud, StereoPair

CALIB = "cam0=[200 0 80; 0 200 48; 0 0 1]\ncam1=[200 0 80; 0 200 48; 0 0 1]\nbaseline=100\nwidth=160\nheight=96\n"


def source_of(target, right=None, **extras):
    return open_source(
        target, right, matcher=lambda: stereopsis.load("sgbm"), codec=stereopsis.load,
        extras=Extras(max_disparity=32, **extras),
    )  # fmt: skip


def meta_of(source, number=0):
    return json.loads(FrameCache(source)(number)["meta"])


def keys_of(meta):
    return [item["key"] for item in meta["pictures"]]


@pytest.fixture
def pair(tmp_path):
    """left.png and right.png, 11 px apart, with calib.txt and the true disparity, in a folder of their own."""
    folder = tmp_path / "pair"
    folder.mkdir()
    left, right = shifted_pair(11)
    write_image(folder / "left.png", left)
    write_image(folder / "right.png", right)
    (folder / "calib.txt").write_text(CALIB)
    write_disparity(tmp_path / "truth.pfm", np.full((96, 160), 11, np.float32))
    return folder


def test_live_pair(pair, tmp_path):
    source = source_of(pair / "left.png", str(pair / "right.png"), truth=tmp_path / "truth.pfm")
    parts = FrameCache(source)(0)
    meta = json.loads(parts["meta"])
    assert keys_of(meta) == ["left", "right", "disparity", "confidence", "error", "truth"]
    assert not meta["cloud"]["metric"]
    assert any(fact.startswith("EPE 0.") for fact in meta["facts"])
    assert [layer["key"] for layer in meta["layers"]] == ["disparity", "confidence", "truth"]
    values = np.frombuffer(parts["values"], np.float32).reshape(3, 96, 160)
    assert np.nanmedian(values[0]) == pytest.approx(11, abs=0.1)
    assert np.isnan(values[0]).any()  # sgbm has holes
    assert len(parts["cloud"]) == 15 * meta["cloud"]["points"]


def test_folder_of_a_pair_with_its_calibration(pair):
    parts = FrameCache(source_of(pair))(0)
    meta = json.loads(parts["meta"])
    assert keys_of(meta) == ["left", "right", "disparity", "confidence", "depth"]
    count = meta["cloud"]["points"]
    points = np.frombuffer(parts["cloud"], np.float32, 3 * count).reshape(-1, 3)
    assert meta["cloud"]["metric"]
    assert np.median(points[:, 2]) == pytest.approx(200 * 0.1 / 11, rel=0.02)


def test_what_match_writes(pair, tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()
    for number in range(2):
        write_disparity(
            maps.mkdir(exist_ok=True) or maps / f"{number}.pfm", np.full((96, 160), 5.0 + number, np.float32)
        )
        write_image(maps / f"{number}_confidence.png", np.full((96, 160), 102, np.uint8))
        write_image(maps / f"{number}_preview.png", np.zeros((96, 160, 3), np.uint8))
    source = source_of(maps, left=_folder_of_views(tmp_path), calibration=pair / "calib.txt")
    assert source.names == ["0", "1"]
    cache = FrameCache(source)
    for number in range(2):
        parts = cache(number)
        meta = json.loads(parts["meta"])
        assert keys_of(meta) == ["left", "disparity", "confidence", "depth"]
        values = np.frombuffer(parts["values"], np.float32).reshape(3, 96, 160)
        assert np.unique(values[0]) == 5 + number
        assert values[1] == pytest.approx(0.4)
        assert values[2] == pytest.approx(20 / (5 + number))
    # one scale of colours for the sequence
    assert meta["pictures"][1]["low"] == json.loads(cache(0)["meta"])["pictures"][1]["low"]


def _folder_of_views(tmp_path):
    folder = tmp_path / "views"
    folder.mkdir()
    for number in range(2):
        write_image(folder / f"{number}.png", shifted_pair(11)[0])
    return folder


def test_one_map(tmp_path):
    write_disparity(tmp_path / "d.png", np.full((40, 60), 9, np.float32))
    assert keys_of(meta_of(source_of(tmp_path / "d.png"))) == ["disparity"]
    write_depth(tmp_path / "upsampled.png", Depth(torch.full((1, 1, 40, 60), 2.0), torch.ones(1, 1, 40, 60).bool()))
    meta = meta_of(source_of(tmp_path / "upsampled.png"))
    assert keys_of(meta) == ["depth"]
    assert "cloud" not in meta


def test_what_depth_writes(pair, tmp_path):
    out = tmp_path / "depth"
    words = ["depth", str(pair / "left.png"), str(pair / "right.png"), "--calibration", str(pair / "calib.txt")]
    assert main([*words, "--out", str(out), "--model", "sgbm", "--max-disparity", "32"]) == 0
    source = source_of(out)
    frame = source.read(0)
    meta = meta_of(source)
    assert keys_of(meta) == ["left", "depth"]
    assert meta["cloud"]["metric"]
    left = torch.from_numpy(shifted_pair(11)[0]).permute(2, 0, 1).float() / 255
    assert (frame.left[0] - left).abs().max() < 0.01  # out of preview.png


def test_what_depth_writes_of_a_sequence(tmp_path):
    """A folder for each kind, with a file for each frame."""
    for kind in ("depth", "metres", "left", "cloud"):
        (tmp_path / kind).mkdir()
    for number in range(2):
        depth = Depth(torch.full((1, 1, 96, 160), 2.0 + number), torch.ones(1, 1, 96, 160).bool())
        write_depth(tmp_path / "metres" / f"{number}.npy", depth)
        write_depth(tmp_path / "depth" / f"{number}.png", depth)
        write_image(tmp_path / "left" / f"{number}.png", shifted_pair(11)[0])
        write_point_cloud(tmp_path / "cloud" / f"{number}.ply", PointCloud(torch.ones(5 + number, 3)))
    (tmp_path / "calib.txt").write_text(CALIB)
    source = source_of(tmp_path)
    assert source.names == ["0", "1"]
    parts = FrameCache(source)(1)
    meta = json.loads(parts["meta"])
    assert keys_of(meta) == ["left", "depth"]
    assert meta["cloud"] == {"points": 6, "all": 6, "metric": True}
    assert np.unique(np.frombuffer(parts["values"], np.float32)) == 3


def test_compressed_sequence(tmp_path):
    from stereopsis.compression.bitstream import pack
    from stereopsis.types import StereoCalibration

    codec = stereopsis.load("hyperprior.photos")
    rig = StereoCalibration(200, 200, 80, 48, 80, 0.1, 160, 96)
    views = [torch.from_numpy(view).permute(2, 0, 1)[None].float() / 255 for view in shifted_pair(11)]
    pair = StereoPair(*views, rig)
    content = pack(codec.header(pair), [codec.compress_record(pair, 8), codec.compress_record(pair, 2)])
    (tmp_path / "a.stz").write_bytes(content)
    for target in (tmp_path / "a.stz", tmp_path):
        source = source_of(target)
        assert len(source) == 2
        meta = meta_of(source, 0)
        assert keys_of(meta) == ["left", "right", "disparity", "confidence", "depth"]
        assert any("hyperprior.photos" in fact for fact in meta["facts"])
    (tmp_path / "a.stz").write_bytes(content[:-200])
    assert len(source_of(tmp_path / "a.stz")) == 1


def test_video_back_and_forth(tmp_path):
    from videos import write_frames

    write_frames(tmp_path / "both.avi", [np.concatenate(shifted_pair(shift), axis=1) for shift in (5, 9, 13)])
    source = source_of(tmp_path / "both.avi")
    assert len(source) == 3
    for number, shift in ((2, 13), (0, 5), (1, 9)):
        frame = source.read(number)
        assert frame.disparity.disparity[frame.disparity.valid].median() == pytest.approx(shift, abs=0.3)


def test_many_points_are_thinned():
    count = MAX_POINTS + 1000
    cloud = PointCloud(torch.ones(count, 3), torch.zeros(count, 3, dtype=torch.uint8))
    parts = parts_of(Frame("a", cloud=cloud))
    assert json.loads(parts["meta"])["cloud"] == {"points": MAX_POINTS, "all": count, "metric": True}
    assert len(parts["cloud"]) == 15 * MAX_POINTS


BAD = [
    ("absent", "absent does not exist"),
    ("empty", "empty holds neither maps"),
    ("left.png", "is neither a map nor a .stz file; name the right view too"),
    ("left.png absent.png", "absent.png does not exist"),
    ("left.png small.png", "left.png is 160x96 and small.png is 159x96"),
    ("text.stz", "the file is no .stz file"),
    ("text.pfm", "text.pfm"),
    ("left.png right.png --calibration absent.txt", "--calibration is absent.txt, which does not exist"),
    ("left.png right.png --truth absent.pfm", "--truth is absent.pfm, which does not exist"),
    ("left.png right.png --truth small.pfm", "shape"),
    ("left.png right.png --model hitnet.scene", "did you mean hitnet.scenes"),
    ("left.png right.png --max-disparity 0", "--max-disparity is 0"),
    ("left.png right.png --port 70000", "--port is 70000; it must lie between 0 and 65535"),
    ("left.png right.png --host 203.0.113.1 --model bm", "cannot be listened at"),
    ("small.pfm --left left.png", "left.png is 160x96 and the map is 50x40"),
    ("left.png right.png --out page.pdf", "must end in .html"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, line, message):
    monkeypatch.chdir(tmp_path)
    left, right = shifted_pair(11)
    write_image("left.png", left)
    write_image("right.png", right)
    write_image("small.png", right[:, :-1])
    write_disparity("small.pfm", np.ones((40, 50), np.float32))
    (tmp_path / "empty").mkdir()
    for name in ("text.stz", "text.pfm"):
        (tmp_path / name).write_text("nothing of use")
    model = [] if "--model" in line else ["--model", "bm"]
    assert main(["view", *line.split(), *model, "--no-browser"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("stereopsis: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_port_that_is_taken(pair, capsys):
    with ViewServer(FrameCache(source_of(pair))) as server:
        port = str(server.server_address[1])
        assert main(["view", str(pair), "--model", "bm", "--port", port, "--no-browser"]) == 2
    assert "choose another port, or 0" in capsys.readouterr().err


def test_requests(pair):
    with ViewServer(FrameCache(source_of(pair))) as server:
        Thread(target=server.serve_forever, daemon=True).start()

        def get(path, **headers):
            try:
                with urllib.request.urlopen(urllib.request.Request(server.url + path, headers=headers)) as answer:
                    return answer.status, answer.headers["Content-Type"], answer.read()
            except urllib.error.HTTPError as error:
                return error.code, "", b""

        assert get("")[1] == "text/html; charset=utf-8"
        assert json.loads(get("view")[2])["names"] == ["pair"]
        assert get("0/left")[1] == "image/webp"
        assert get("0/disparity")[1] == "image/png"
        assert get("colors/turbo")[1] == "image/png"
        for path in ("1/meta", "0/nothing", "../pair/left.png", "colors/viridis", "-1/meta"):
            assert get(path)[0] == 404
        # a name of another site that leads here
        assert get("view", Host="example.org")[0] == 403
        server.shutdown()


def test_page_asks_no_other_machine():
    from stereopsis.apps.viewer.pages import PAGE

    text = PAGE.read_text(encoding="utf-8")
    assert "http" not in text
    assert "//" not in text.replace("// ", "")


def test_the_command_stops_at_sigterm(pair):
    command = [sys.executable, "-m", "stereopsis", "view", str(pair), "--model", "bm", "--port", "0", "--no-browser"]
    running = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        lines = [running.stdout.readline() for _ in range(5)]
        told = json.loads("".join(lines))
        assert told["frames"] == 1
        with urllib.request.urlopen(told["url"] + "0/meta") as answer:
            assert json.loads(answer.read())["name"] == "pair"
        running.terminate()
        assert running.wait(20) == 0
    finally:
        running.kill()
        running.communicate()


def test_one_file(pair, tmp_path, capsys):
    out = tmp_path / "new" / "page.html"
    assert main(["view", str(pair), "--model", "bm", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "out": str(out),
        "bytes": out.stat().st_size,
        "frames": 1,
        "warnings": [],
    }
