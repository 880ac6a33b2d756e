"""Sequences through every command: going on after an interruption, corrupt frames, EuRoC folders, bags."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from bags import PERIOD, START, write_bag
from test_cli_compress import USE, folder, weights  # noqa: F401  (fixtures)
from videos import stereo_frames, write_frames

from stereopsis.calibration import write_calibration
from stereopsis.cli import main
from stereopsis.io import VideoReader, read_depth, read_disparity, write_depth, write_image
from stereopsis.types import StereoCalibration

SGBM = ["--model", "sgbm", "--max-disparity", "16"]
SHIFTS = (3, 5, 4, 6, 7, 5)


@pytest.fixture
def recording(tmp_path, monkeypatch):
    """A folder of six pairs and the video of them; tests run beside them."""
    monkeypatch.chdir(tmp_path)
    pairs = [stereo_frames(1, shift)[0] for shift in SHIFTS]
    for number, views in enumerate(pairs):
        for side, view in zip(("left", "right"), views, strict=True):
            Path("scene", side).mkdir(parents=True, exist_ok=True)
            write_image(f"scene/{side}/{number}.png", view)
    write_frames(Path("both.avi"), [np.hstack(pair) for pair in pairs])
    write_calibration(StereoCalibration(50, 50, 31.5, 23.5, 31.5, 0.1, width=64, height=48), "calib.txt")
    return pairs


def _json(capsys):
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def interrupted(monkeypatch):
    """Runs a command that is interrupted in its n-th pair."""

    def run(words, count):
        from stereopsis.pipeline import match as matching

        calls, match = [], matching.match_images

        def counted(*views, **options):
            calls.append(views)
            if len(calls) > count:
                raise KeyboardInterrupt
            return match(*views, **options)

        with monkeypatch.context() as patch:
            patch.setattr("stereopsis.pipeline.match.match_images", counted)
            assert main(words) == 130

    return run


def test_a_second_run_does_what_the_first_has_left(recording, interrupted, capsys):
    words = ["match", "scene", "--out", "maps", "--confidence", "maps", *SGBM]
    interrupted(words, 3)
    first = {path: path.stat().st_mtime_ns for path in Path("maps").glob("*.pfm")}
    assert len(first) == 3
    Path("maps/1_confidence.png").unlink()  # a frame is done when all its files are
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert [row["name"] for row in found["pairs"]] == ["1", "3", "4", "5"]
    assert found["skipped"] == 2
    assert "2 of 6 were done by an earlier run and are left as they are; --overwrite does them again" in printed.err
    assert len(list(Path("maps").glob("*.pfm"))) == len(list(Path("maps").glob("*.png"))) == 6
    for name in ("0", "2"):
        assert Path(f"maps/{name}.pfm").stat().st_mtime_ns == first[Path(f"maps/{name}.pfm")]
    assert main([*words, "--overwrite", "--json"]) == 0
    assert len(_json(capsys)["pairs"]) == 6


def test_other_settings_are_refused(recording, capsys):
    words = ["match", "scene", "--out", "maps"]
    assert main([*words, *SGBM]) == 0
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main([*words, *SGBM[:-1], "32"]) == 2
    sentence = "maps holds results of --max-disparity 16 and not 32; name another --out, or start anew with --overwrite"
    assert capsys.readouterr().err == f"stereopsis: {sentence}.\n"
    assert main(["match", "scene/left/[01].png", "scene/right/[01].png", "--out", "maps", *SGBM]) == 2
    assert "maps holds results of sources" in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before
    assert main([*words, *SGBM[:-1], "32", "--overwrite"]) == 0


def test_a_changed_view_is_done_again(recording, capsys):
    words = ["match", "scene", "--out", "maps", *SGBM, "--json"]
    assert main(words) == 0
    later = time.time_ns() + 10**9
    os.utime("scene/right/2.png", ns=(later, later))
    capsys.readouterr()
    assert main(words) == 0
    assert [row["name"] for row in _json(capsys)["pairs"]] == ["2"]


def test_the_filter_goes_on_as_if_there_had_been_no_break(recording, interrupted):
    words = ["match", "both.avi", *SGBM, "--smooth", "0.8", "--out"]
    assert main([*words, "whole"]) == 0
    interrupted([*words, "parts"], 3)
    assert main([*words, "parts"]) == 0
    for number in range(6):
        a, b = (read_disparity(f"{out}/{number:06d}.pfm")[0] for out in ("whole", "parts"))
        assert torch.equal(a, b)


def test_the_preview_video_is_whole_after_a_second_run(recording, interrupted):
    words = ["match", "scene", *SGBM, "--preview", "colours.avi", "--out", "maps"]
    interrupted(words, 4)
    assert main(words) == 0
    frames = list(VideoReader("colours.avi"))
    assert len(frames) == 6
    assert main([*words[:-1], "again", "--overwrite"]) == 0
    for a, b in zip(frames, VideoReader("colours.avi"), strict=True):
        assert torch.equal(a, b)


def test_kill_9_and_a_second_run(tmp_path, capsys):
    for number in range(40):
        for side, view in zip(("left", "right"), stereo_frames(1, 5)[0], strict=True):
            (tmp_path / "scene" / side).mkdir(parents=True, exist_ok=True)
            write_image(tmp_path / "scene" / side / f"{number:02d}.png", view)
    out = tmp_path / "maps"
    words = ["match", str(tmp_path / "scene"), "--out", str(out), *SGBM]
    process = subprocess.Popen([sys.executable, "-m", "stereopsis", *words], stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while len(list(out.glob("*.pfm"))) < 5 and time.monotonic() < limit:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("*.pfm")}
    assert 5 <= len(done) < 40
    assert main([*words, "--json"]) == 0
    found = _json(capsys)
    assert found["skipped"] == len(done)
    assert sorted([row["name"] for row in found["pairs"]] + [Path(name).stem for name in done]) == [
        f"{number:02d}" for number in range(40)
    ]
    assert {name: (out / name).stat().st_mtime_ns for name in done} == done
    assert {path.suffix for path in out.iterdir()} == {".pfm", ".json"}


def test_depth_of_a_sequence(recording, capsys):
    Path("scene/left/2.png").write_bytes(b"no image")
    words = ["depth", "scene", "--calibration", "calib.txt", "--out", "out", *SGBM, "--fill"]
    assert main([*words, "--json"]) == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert "1 of 6 pairs failed" in printed.err
    assert [row["name"] for row in found["failed"]] == ["2"]
    for row, shift in zip(found["pairs"], [s for n, s in enumerate(SHIFTS) if n != 2], strict=True):
        assert row["depth"]["median"] == pytest.approx(50 * 0.1 / shift, rel=0.05)
    assert {path.name for path in Path("out").glob("[!.]*")} == {"depth", "metres", "cloud", "preview"}
    assert sorted(path.name for path in Path("out/depth").iterdir()) == [f"{n}.png" for n in (0, 1, 3, 4, 5)]
    write_image("scene/left/2.png", recording[2][0])
    assert main([*words, "--json"]) == 0
    found = _json(capsys)
    assert ([row["name"] for row in found["pairs"]], found["skipped"]) == (["2"], 5)
    assert main([*words[:-1], "--json"]) == 2
    assert "out holds results of --fill True and not False" in capsys.readouterr().err


def test_depth_of_a_video_and_chosen_files(recording, capsys):
    words = ["depth", "both.avi", "--calibration", "calib.txt", "--out", "out", *SGBM, "--files", "depth"]
    assert main(words) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert sorted(str(path) for path in Path("out").rglob("[!.]*.*")) == [f"out/depth/{n:06d}.png" for n in range(6)]


def test_a_raw_euroc_recording_in_one_command(shared_data, tmp_path, capsys):
    root = shared_data("data/sequences/euroc/MicroEuroc")
    camera = ["--calibration", str(root / "mav0/cam0/sensor.yaml"), "--out", str(tmp_path), "--files", "depth"]
    assert main(["depth", str(root), *camera, "--model", "bm", "--max-disparity", "64", "--json"]) == 0
    found = _json(capsys)
    assert found["rectified_here"]
    assert len(found["pairs"]) == 8
    assert all(0.5 < row["depth"]["median"] < 20 for row in found["pairs"])
    for kind in ("depth", "left", "right"):
        assert len(list((tmp_path / kind).iterdir())) == 8
    assert main(["doctor", *(str(next((tmp_path / side).iterdir())) for side in ("left", "right"))]) == 0


def test_upsampling_of_a_sequence(recording, capsys):
    for number in range(4):
        Path("low").mkdir(exist_ok=True)
        write_depth(f"low/{number}.png", torch.full((1, 12, 16), 1.0 + number))
    Path("low/1.png").write_bytes(b"no image")
    words = ["upsample", "scene/left/[0-3].png", "low", "--out", "up", "--model", "bicubic", "--format", "npy"]
    assert main([*words, "--json"]) == 1
    found = _json(capsys)
    assert [row["name"] for row in found["pairs"]] == ["0", "2", "3"]
    assert [row["name"] for row in found["failed"]] == ["1"]
    for number in (0, 2, 3):
        depth, valid = read_depth(f"up/{number}.npy")
        assert depth.shape == (1, 48, 64)
        assert torch.allclose(depth[valid], torch.tensor(1.0 + number), atol=1e-3)
    write_depth("low/1.png", torch.full((1, 12, 16), 2.0))
    assert main([*words, "--json"]) == 0
    assert (_json(capsys)["skipped"], len(list(Path("up").glob("*.npy")))) == (3, 4)
    write_frames(Path("left.avi"), [pair[0] for pair in recording])
    assert main(["upsample", "left.avi", "low", "--out", "video", "--model", "bicubic"]) == 0
    assert sorted(path.name for path in Path("video").glob("[!.]*")) == [f"{number}.png" for number in range(4)]
    assert main(["upsample", "left.avi", "low", "--out", "video.png"]) == 2
    assert "--out is video.png, a file, but there are 4 depth maps; name a folder" in capsys.readouterr().err


def test_bags_through_match_and_upsample(recording, capsys):
    pytest.importorskip("rosbags", reason="rosbags is not installed; the extra is stereopsis[bags]")
    times = [START + number * PERIOD for number in range(6)]
    topics = {
        f"/cam{side}/image_raw": [(time, "rgb8", views[side]) for time, views in zip(times, recording, strict=True)]
        for side in (0, 1)
    }
    low = np.full((12, 16), 1500, np.uint16)
    topics["/depth/image"] = [(time, "16UC1", low) for time in times]
    write_bag(Path("a.bag"), topics)
    assert main(["match", "a.bag", "--out", "maps", *SGBM]) == 0
    for time_, shift in zip(times, SHIFTS, strict=True):
        disparity, valid = read_disparity(f"maps/{time_}.pfm")
        assert disparity[valid].median() == pytest.approx(shift, abs=0.2)
    chosen = ["--topics", "/cam0/image_raw", "/depth/image"]
    assert main(["upsample", "a.bag", "--out", "up", "--model", "bicubic", *chosen]) == 0
    assert len(list(Path("up").glob("*.png"))) == 6
    capsys.readouterr()
    assert main(["upsample", "a.bag", "--out", "up2", "--model", "bicubic"]) == 2
    assert "more than one pair of topics; choose with --topics IMAGE DEPTH" in capsys.readouterr().err


def test_compression_goes_on_where_it_stopped(folder, capsys, monkeypatch):  # noqa: F811
    from stereopsis.compression.codec import PairCodec

    words = ["compress", "drive", *USE, "--json", "--out"]
    assert main([*words, "whole.stz"]) == 0
    compress, calls = PairCodec.compress_record, []

    def third(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compress(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PairCodec, "compress_record", third)
        assert main([*words, "parts.stz"]) == 130
    assert not Path("parts.stz").exists()
    capsys.readouterr()
    assert main([*words[:-1], "--quality", "6", "--out", "parts.stz"]) == 2
    assert "an earlier run on parts.stz was interrupted; it was of --quality 4.0 and not 6.0" in capsys.readouterr().err
    assert main([*words, "parts.stz"]) == 0
    found = _json(capsys)
    assert [row["name"] for row in found["pairs"]] == ["0", "1", "2"]
    assert found["skipped"] in (1, 2)  # the second may have been on its way into the file
    assert Path("parts.stz").read_bytes() == Path("whole.stz").read_bytes()
    assert not list(Path().glob(".parts*"))


def test_a_corrupt_pair_is_left_out_of_the_archive(folder, capsys):  # noqa: F811
    Path("drive/left/1.png").write_bytes(b"no image")
    assert main(["compress", "drive", *USE, "--json", "--out", "drive.stz"]) == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert ([row["name"] for row in found["pairs"]], [row["name"] for row in found["failed"]]) == (["0", "2"], ["1"])
    assert "1 of 3 pairs failed; the others are written" in printed.err
    for number in (0, 2):
        Path(f"drive/left/{number}.png").write_bytes(b"no image")
    assert main(["compress", "drive", *USE, "--out", "none.stz"]) == 2
    assert "No pair of 3 is compressed; the first fails: " in capsys.readouterr().err
    assert not list(Path().glob("*none*"))
